"""What rules make of a parent, whoever measures."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, InvalidValueError
from autotrain_env.evolution.mutation_rules import (
    DEFAULT_SCALES,
    Mutation,
    MutationRule,
    Parent,
    as_mutation_rule,
    evolve,
)

PARENT = Parent(torch.tensor([3.0, -4.0, 0.0, 0.5, 0.5, 0.5]), (3, 3), torch.full((6,), 0.1))
everywhere = pytest.mark.parametrize("kind", DEFAULT_SCALES)


def run(
    rule: MutationRule, measure: Any, before: float = 1.0, **more: Any
) -> tuple[Tensor | None, Mutation]:
    return evolve(
        rule, PARENT, measure, before=before, **{"seed": 3, "generation": 0, "block_size": 4, **more}
    )


def distance(target: Tensor) -> Any:
    return lambda offspring: [float((row - target).norm()) for row in offspring]


def offspring_of(rule: MutationRule) -> Tensor:
    """All offspring that a rule makes, as they are measured."""
    seen: list[Tensor] = []
    run(rule, lambda rows: seen.extend(rows) or [1.0] * len(rows))
    return torch.stack(seen)


@pytest.mark.parametrize("kind", ["best", "es"])
def test_noise_follows_the_size_of_each_tensor(kind: str):
    rule = MutationRule(kind, offspring=4000, scale=0.1)
    moved = offspring_of(rule) - PARENT.parameters
    std = 1 if kind == "best" else 3**-0.5
    assert moved[:, :3].std() == pytest.approx(0.1 * std * (25 / 3) ** 0.5, rel=0.03)
    assert moved[:, 3:].std() == pytest.approx(0.1 * std * 0.5, rel=0.03)
    assert moved.mean(0).abs().max() < 0.02
    if kind == "es":
        assert moved[:, 3:].abs().max() <= 0.05


def test_the_best_offspring_takes_over_if_it_is_better():
    rule = MutationRule(offspring=9, scale=0.1)
    offspring = offspring_of(rule)
    found, mutation = run(rule, distance(offspring[6]))
    assert found is not None and torch.equal(found, offspring[6])
    assert mutation.after == 0 and mutation.taken == 1 and len(mutation.offspring) == 9
    found, mutation = run(rule, distance(offspring[6]), before=0.0)  # a tie keeps the parent
    assert found is None and mutation == Mutation(0.0, mutation.offspring, 0.0, 0)
    score = MutationRule(offspring=9, scale=0.1, higher_is_better=True)
    found, _ = run(score, lambda rows: [-value for value in distance(offspring[2])(rows)], before=-1.0)
    assert found is not None and torch.equal(found, offspring[2])


@pytest.mark.parametrize("kind", ["best", "random_gradients", "es"])
def test_a_constant_measure_moves_nothing(kind: str):
    found, mutation = run(MutationRule(kind, offspring=6), lambda rows: [1.0] * len(rows))
    assert found is None and mutation.taken == 0 and mutation.after == 1.0


def test_unselected_noise_is_the_first_offspring_and_measures_nothing():
    found, mutation = run(MutationRule("noise"), None, before=math.nan)
    assert found is not None and torch.equal(found, offspring_of(MutationRule("best"))[0])
    assert mutation.taken == 1 and math.isnan(mutation.before) and not mutation.offspring


def test_the_step_of_es_is_what_its_formula_says():
    rule = MutationRule("es", offspring=8, scale=0.2, rate=3.0)
    target = PARENT.parameters + 1
    offspring = offspring_of(rule)
    found, mutation = run(rule, distance(target))
    scores = -torch.tensor(distance(target)(offspring))
    scores = (scores - scores.mean()) / scores.std(unbiased=False)
    expected = PARENT.parameters + 3.0 / 8 * scores @ (offspring - PARENT.parameters)
    assert found is not None and torch.allclose(found, expected, atol=1e-6)
    assert mutation.after == pytest.approx(distance(target)([found])[0])
    blocks = [run(rule, distance(target), block_size=size)[0] for size in (1, 3, 8)]
    assert all(block is not None and torch.equal(block, found) for block in blocks)


def test_es_follows_the_gradient_of_a_linear_function():
    slope = torch.tensor([1.0, -2.0, 0.5])
    parent = Parent(torch.ones(3), (3,))
    rule = MutationRule("es", offspring=20_000, scale=0.01)
    found, _ = evolve(
        rule, parent, lambda rows: (rows @ slope).tolist(), before=0.0, seed=0, generation=0, block_size=500
    )
    assert found is not None
    step = found - parent.parameters
    assert torch.cosine_similarity(step, -slope, 0) > 0.999


def test_random_gradients_goes_on_from_what_it_took():
    rule = MutationRule("random_gradients", offspring=5, scale=2.0)
    target = PARENT.parameters - 10
    measured, points = distance(target), [PARENT.parameters]

    def watching(rows: Tensor) -> list[float]:
        points.append(rows[0])
        return measured(rows)

    start = measured([PARENT.parameters])[0]
    found, mutation = run(rule, watching, before=start)
    assert found is not None and torch.equal(found, points[-1]) and mutation.taken == 5
    for number, (before, after) in enumerate(zip(points, points[1:], strict=False)):
        noise = rule.noise(3, 0, range(number, number + 1), 6)[0]
        assert noise.min() > 0 and noise.max() < 1
        temperature = measured([before])[0]  # the loss itself: smaller the better
        assert torch.allclose(after, before - 2.0 * temperature * 0.1 * noise, atol=1e-5)


def test_temperatures():
    rule = MutationRule("random_gradients")
    assert (rule.temperature_at(0.4), rule.temperature_at(-1.0)) == (0.4, 0.0)
    score = MutationRule("random_gradients", higher_is_better=True)
    assert (score.temperature_at(0.75), score.temperature_at(2.0)) == (0.25, 0.0)
    assert MutationRule("random_gradients", temperature=lambda loss: 7 * loss).temperature_at(2.0) == 14


@pytest.mark.parametrize("kind", ["best", "random_gradients", "es"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_where_nothing_is_finite_the_parent_stays_and_that_is_said(kind: str, value: float):
    for higher in (False, True):
        with pytest.warns(UserWarning, match="of any of 3 offspring: the parent stays"):
            found, mutation = run(
                MutationRule(kind, offspring=3, higher_is_better=higher), lambda rows: [value] * len(rows)
            )
        assert found is None and mutation.taken == 0 and mutation.after == 1.0


@pytest.mark.parametrize("kind", ["best", "random_gradients", "es"])
def test_finite_offspring_take_over_from_a_parent_that_is_not(kind: str):
    values = iter([math.nan, 5.0, math.inf, 4.0, 4.5])
    found, mutation = run(
        MutationRule(kind, offspring=4), lambda rows: [next(values) for _ in rows], before=math.nan
    )
    assert found is not None and bool(found.isfinite().all()) and math.isfinite(mutation.after)


def test_an_es_step_to_where_nothing_is_finite_is_not_taken():
    values = iter([1.0, 2.0, math.nan])
    with pytest.warns(UserWarning, match="not taken"):
        found, _ = run(MutationRule("es", offspring=2), lambda rows: [next(values) for _ in rows])
    assert found is None


@everywhere
def test_noise_depends_on_seed_and_generation_alone(kind: str):
    rule = MutationRule(kind, offspring=6)
    target = PARENT.parameters * 0.9
    first = run(rule, distance(target), before=9.0)[0]
    torch.manual_seed(1)
    assert torch.equal(first, run(rule, distance(target), before=9.0, block_size=2)[0])
    assert not torch.equal(first, run(rule, distance(target), before=9.0, seed=4)[0])
    assert not torch.equal(first, run(rule, distance(target), before=9.0, generation=1)[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "bset"}, "nearest known one is 'best'"),
        ({"offspring": 0}, "offspring=0"),
        ({"offspring": 2.5}, "offspring=2.5"),
        ({"kind": "es", "offspring": 1}, "offspring=1"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": math.inf}, "scale=inf"),
        ({"rate": -1.0}, "rate=-1.0"),
        ({"optimizer_state": "rest"}, "optimizer_state='rest'"),
        ({"higher_is_better": 1}, "higher_is_better=1"),
        ({"back_off": "yes"}, "back_off='yes'"),
        ({"kind": "noise", "back_off": True}, "back_off=True"),
        ({"temperature": abs}, "temperature="),
    ],
)
def test_bad_rules(given: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        MutationRule(**given)


def test_bad_kinds_of_things():
    with pytest.raises(InvalidTypeError, match="temperature"):
        MutationRule("random_gradients", temperature=lambda: 1.0)  # type: ignore[misc, arg-type]
    with pytest.raises(InvalidTypeError, match="a name or a MutationRule"):
        as_mutation_rule(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="nearest known one is 'noise'"):
        as_mutation_rule("noises")
    assert as_mutation_rule("es").kind == "es"
