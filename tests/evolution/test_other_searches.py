"""CMA-ES by pycma, and random search, behind the same `ask` and `tell`."""

import math
import pickle
import sys
from typing import Any

import pytest
import torch

from autotrain_env.evolution import CMAES, RandomSearch, ask, init, tell
from autotrain_env.evolution.landscapes import rosenbrock, sphere

STRATEGIES = [CMAES(16, 0.5), CMAES(16, 0.5, separable=True), RandomSearch(16, 0.5)]
everywhere = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
BEGIN = torch.full((6,), 1.0)


def run(state: Any, generations: int, function: Any = sphere) -> Any:
    for _ in range(generations):
        population, state = ask(state)
        state = tell(state, -function(population))
    return state


def test_cma_es_finds_the_end_of_a_curved_valley():
    found = run(init(CMAES(16, 0.3), torch.zeros(4, dtype=torch.float64), 0), 250, rosenbrock)
    assert float(rosenbrock(found.parameters)) < 1e-6
    assert found.report["std"] < 0.1 and found.report["not_finite"] == 0


def test_random_search_keeps_the_best():
    state = init(RandomSearch(20), BEGIN, 0)
    best = math.inf
    for _ in range(5):
        population, state = ask(state)
        state = tell(state, -sphere(population))
        best = min(best, float(sphere(population).min()))
        assert float(sphere(state.parameters)) == best
    assert population.std() == pytest.approx(1.0, abs=0.3)


@everywhere
def test_searches_repeat_themselves_and_change_nothing_in_place(strategy: Any):
    first = run(init(strategy, BEGIN, 3), 3)
    kept = pickle.loads(pickle.dumps(first))
    later = run(first, 4).parameters
    assert torch.equal(later, run(init(strategy, BEGIN, 3), 7).parameters)
    assert torch.equal(later, run(kept, 4).parameters) and later.dtype == torch.float32
    assert torch.equal(first.parameters, kept.parameters) and first.generation == 3
    torch.manual_seed(1)  # no global stream is used
    assert torch.equal(later, run(first, 4).parameters)
    assert not torch.equal(later, run(init(strategy, BEGIN, 4), 7).parameters)


@everywhere
def test_fitness_without_numbers(strategy: Any):
    state = run(init(strategy, BEGIN, 0), 2)
    _, asked = ask(state)
    skipped = tell(asked, [math.nan] * 16)
    assert skipped.report["skipped"] and skipped.generation == 3
    assert torch.equal(skipped.parameters, state.parameters)
    fitness = [math.nan, -math.inf, *map(float, range(-14, 0))]
    assert tell(asked, fitness).report["not_finite"] == 2
    run(tell(asked, fitness), 2)


@everywhere
def test_mistakes_are_named(strategy: Any):
    state = init(strategy, BEGIN, 0)
    with pytest.raises(ValueError, match=r"without ask\(\)"):
        tell(state, [0.0] * 16)
    with pytest.raises(ValueError, match="called twice"):
        ask(ask(state)[1])
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        tell(ask(state)[1], [0.0] * 3)
    with pytest.raises(ValueError, match="behaviors"):
        tell(ask(state)[1], [0.0] * 16, [[0.0]] * 16)
    with pytest.raises(ValueError, match="population_size=0"):
        type(strategy)(0)
    with pytest.raises(ValueError, match="perturbation_std=-1"):
        type(strategy)(16, -1.0)
    with pytest.raises(ValueError, match="seed=-1"):
        init(strategy, BEGIN, -1)


def test_cma_es_without_pycma_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(ImportError, match=r"autotrain-env\[agents\]"):
        init(CMAES(), BEGIN, 0)
    with pytest.raises(ValueError, match="parameters"):
        monkeypatch.undo()
        init(CMAES(), torch.zeros(1), 0)
