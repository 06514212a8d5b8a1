"""Members of a generation by compiled code: what torch computes, and bits that nothing else moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import (
    ClassifierProblem,
    EvolutionStrategy,
    LowRankPopulation,
    Novelty,
    ask,
    init,
)
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.training.native.build import BuildError
from autotrain_env.training.native.library import best_library, instructions_here, load
from autotrain_env.training.native.members import MemberEngine, Perturbed
from tests.helpers import tiny_data

pytestmark = pytest.mark.skipif(
    isinstance(best_library(), BuildError), reason=f"no compiled engine: {best_library()}"
)

STRATEGIES: list[dict[str, Any]] = [
    {},
    {"rank": 3},
    {"rank": 2, "mirrored": False},
    {"scaling": "fan_in", "learned_std": "tensor"},
    {"novelty": Novelty()},
    {"rank": None},
]


def problem(classifier: str, **more: Any) -> ClassifierProblem:
    data = "digits" if classifier == "cnn" else tiny_data()
    sizes = {"batch_size": 70, "train_size": 100, "validation_size": 20, "block_size": 4}
    return ClassifierProblem(data, classifier, **{**sizes, **more})


def begun(task: ClassifierProblem, dtype: torch.dtype = torch.float32, **more: Any) -> EvolutionState:
    arguments = {"population_size": 22, "rank": 1, "perturbation_std": 0.5, **more}
    start = {name: tensor.to(dtype) for name, tensor in task.initial_parameters().items()}
    state = init(EvolutionStrategy(**arguments), start, 1)
    assert isinstance(state, EvolutionState)
    return state


@pytest.mark.parametrize("more", STRATEGIES, ids=str)
@pytest.mark.parametrize("classifier", ["linear", "mlp-7", "mlp-9-7-6-5", "mlp-130-50", "cnn"])
@pytest.mark.parametrize("fitness", ["log_loss", "accuracy"])
def test_fitness_is_that_of_torch(classifier: str, more: dict[str, Any], fitness: str):
    ours = problem(classifier, fitness=fitness)
    theirs = problem(classifier, fitness=fitness, dtype=torch.float64, backend="stacked")
    assert ours.backend == "native" and theirs.backend == "stacked"
    population, state = ask(begun(ours, **more))
    doubled, _ = ask(begun(theirs, torch.float64, **more))
    found, expected = ours.fitness(population, 3), theirs.fitness(doubled, 3)
    assert found.dtype == torch.float32 and found.shape == (state.population_size,)
    tolerance = 1e-4 if fitness == "log_loss" else 1.01 / 70  # a tie may fall either way
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert len(set(found.tolist())) > 3


def perturbed(task: ClassifierProblem, count: int = 21, mirrored: bool = True, rank: int = 2) -> Perturbed:
    """A network of a problem with noise for so many rows."""
    generator = torch.Generator().manual_seed(5)
    members = 2 * count if mirrored else count
    population, _ = ask(begun(task, rank=rank, mirrored=mirrored, population_size=members))
    assert isinstance(population, LowRankPopulation)
    std = torch.rand((len(task.layout.entries) // 2, 2), generator=generator)
    return Perturbed(population.around, population.numbers, std, rank, mirrored)


def assert_equal(found: Any, expected: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("classifier", ["mlp-33-17", "linear", "cnn"])
def test_bits_depend_neither_on_other_members_nor_on_threads_nor_on_vectors(classifier: str):
    task = problem(classifier)
    images, labels, _ = task.minibatch(0)
    members = perturbed(task)
    one = MemberEngine(task.architecture, 1)
    expected = one.measure(members, images, labels)
    assert_equal(MemberEngine(task.architecture, 3).measure(members, images, labels), expected)
    for name in instructions_here():
        assert_equal(
            MemberEngine(task.architecture, 1, load(name)).measure(members, images, labels), expected
        )
    for first, stop in ((0, 1), (5, 18), (20, 21)):
        some = Perturbed(members.centre, members.numbers[first:stop], members.std, 2, True)
        parts = [of[2 * first : 2 * stop] for of in expected]
        assert_equal(one.measure(some, images, labels), parts)


def test_sizes_of_minibatches_and_what_is_not_finite():
    task = problem("mlp-7-5")
    engine = MemberEngine(task.architecture)
    all_images, all_labels, _ = task.minibatch(0)
    members = perturbed(task, 3)
    dense = torch.randn((4, task.layout.size), generator=torch.Generator().manual_seed(1))
    dense[1, 0], dense[2, -1] = torch.nan, torch.inf
    for size in (1, 15, 16, 63, 64, 65, 70):
        images, labels = all_images[:size], all_labels[:size]
        losses, _ = engine.measure(members, images, labels)
        assert losses.shape == (6,) and np.isfinite(losses).all()
        alone = [engine.measure(members, images[i : i + 1], labels[i : i + 1])[0] for i in range(size)]
        np.testing.assert_allclose(losses, np.mean(alone, 0), rtol=1e-12)
        losses, _ = engine.measure(dense, images, labels)
        assert np.isfinite(losses).tolist() == [True, False, False, True]
    assert [len(part) for part in engine.measure(dense[:0], all_images, all_labels)] == [0, 0]


def test_what_native_cannot_do_is_refused():
    def own(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.mean((1, 2))

    for arguments, why in (
        ({"fitness": own}, "no function"),
        ({"dtype": torch.float64}, "float32"),
    ):
        with pytest.raises(InvalidValueError, match=f"backend='native' cannot be used: .*{why}"):
            problem("mlp-7", backend="native", **arguments)
        assert problem("mlp-7", **arguments).backend == "stacked"
    with pytest.raises(InvalidValueError, match="backend='fast'"):
        problem("mlp-7", backend="fast")
    with pytest.raises(InvalidValueError, match="engine_threads=0"):
        problem("mlp-7", engine_threads=0)
