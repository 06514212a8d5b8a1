"""From fitness to utility."""

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from autotrain_env.evolution.fitness import Shaping, as_shaping, check_fitness, ranks

SHAPINGS = [Shaping("ranks"), Shaping("z_score"), Shaping("raw"), Shaping("top_k", 2)]
everywhere = pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda shaping: shaping.name)
NAN, WORST = math.nan, -math.inf


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ranks_by_hand():
    assert ranks(tensor(3, 1, 2, 1)).tolist() == [3, 0.5, 2, 0.5]
    assert Shaping("ranks")(tensor(3, 1, 2, 1)).tolist() == pytest.approx([0.5, -1 / 3, 1 / 6, -1 / 3])
    assert ranks(tensor(NAN, 1, WORST, 2)).tolist() == [0.5, 2, 0.5, 3]


def test_other_shapings_by_hand():
    fitness = tensor(4, 0, 2, NAN, 2, WORST)  # the last and NaN count as 0
    assert Shaping("raw")(fitness).tolist() == pytest.approx([x - 4 / 3 for x in (4, 0, 2, 0, 2, 0)])
    root = ((16 + 4 + 4) / 6 - (4 / 3) ** 2) ** 0.5
    assert Shaping("z_score")(fitness).tolist() == pytest.approx(
        [(x - 4 / 3) / root for x in (4, 0, 2, 0, 2, 0)]
    )
    chosen = [x - 1 / 3 for x in (1, 0, 0.5, 0, 0.5, 0)]  # the two in second place share it
    assert Shaping("top_k", 2)(fitness).tolist() == pytest.approx(chosen)
    assert Shaping("top_k")(tensor(*range(8))).tolist() == [-0.25] * 6 + [0.75] * 2


@everywhere
@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, -7.3])
def test_constant_fitness_gives_no_utility(shaping: Shaping, value: float):
    for dtype in (torch.float32, torch.float64):
        assert not shaping(torch.full((7,), value, dtype=dtype)).any()


@everywhere
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=3, max_size=20))
def test_better_members_never_weigh_less_and_utilities_sum_to_zero(shaping: Shaping, values: list[float]):
    fitness = tensor(*values)
    utility = shaping(fitness)
    assert utility.isfinite().all()
    assert float(utility.sum()) == pytest.approx(0, abs=1e-9 * max(1, float(utility.abs().max())) * 20)
    order = fitness.argsort()
    assert (utility[order].diff() >= -1e-9).all()
    for first in range(len(values)):  # ties are equal
        assert torch.unique(utility[fitness == fitness[first]]).numel() == 1


@given(
    st.lists(st.integers(-1000, 1000), min_size=3, max_size=20),
    st.sampled_from([0.5, 2.0, 1024.0]),
    st.integers(-1000, 1000),
)
def test_ranks_do_not_change_when_fitness_is_scaled_or_shifted(values: list[int], scale: float, shift: int):
    fitness = tensor(*map(float, values))
    assert torch.equal(Shaping("ranks")(fitness * scale + shift), Shaping("ranks")(fitness))


def test_z_scores_of_huge_and_tiny_fitness():
    for scale in (1e-300, 1e300):
        assert Shaping("z_score")(tensor(-1, 0, 1) * scale).tolist() == pytest.approx(
            [-(1.5**0.5), 0, 1.5**0.5]
        )


@pytest.mark.parametrize(
    ("fitness", "error", "message"),
    [
        ([1, 2], ValueError, r"shape \(2,\).*shape \(3,\)"),
        ([[1, 2, 3]], ValueError, r"shape \(1, 3\)"),
        ([1, math.inf, 2], ValueError, r"plus infinity for members \[1\]"),
        (["a", "b", "c"], TypeError, "must be numbers"),
        (None, TypeError, "must be numbers"),
        ([True, False, True], TypeError, "real numbers"),
        ([1j, 2, 3], TypeError, "real numbers"),
    ],
)
def test_fitness_that_is_none(fitness: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        check_fitness(fitness, 3)


@pytest.mark.parametrize(
    "as_given",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        lambda values: [torch.tensor(value, dtype=torch.float64) for value in values],
        lambda values: [np.float64(value) for value in values],
        lambda values: [round(value * 2**21) for value in values],
        lambda values: np.array(values)[::-1][::-1],
    ],
)
def test_fitness_loses_no_difference_on_its_way(as_given: Any):
    values = [1e9 - 2**-21, 1e9, 1e9 + 2**-21]
    given = torch.tensor(values, dtype=torch.float64) if as_given is torch.tensor else as_given(values)
    checked = check_fitness(given, 3)
    assert checked.dtype == torch.float64 and checked[0] < checked[1] < checked[2]
    for shaping in ("ranks", "z_score", "raw", Shaping("top_k", 1)):
        utility = as_shaping(shaping)(checked, torch.float32)
        assert utility.dtype == torch.float32 and utility[0] <= utility[1] < utility[2]


def test_shapings_that_are_none():
    with pytest.raises(ValueError, match="shaping='rank'.*nearest known one is 'ranks'"):
        as_shaping("rank")
    with pytest.raises(TypeError, match="shaping=None"):
        as_shaping(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k=3.*top_k"):
        Shaping("ranks", 3)
    with pytest.raises(ValueError, match="k=3.*below the number of members, 3"):
        Shaping("top_k", 3)(tensor(1, 2, 3))
