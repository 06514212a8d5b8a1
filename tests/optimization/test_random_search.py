"""Random steps: what is kept, what it costs, and what a step brings."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotrain_env.evolution.landscapes import rastrigin, sphere
from autotrain_env.optimization import random_search, step_effects

START = torch.full((20,), 1.0, dtype=torch.float64)


def slanted(points: Tensor) -> Tensor:
    return points @ torch.arange(1.0, 21, dtype=torch.float64)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("function", [sphere, rastrigin])
def test_it_never_gets_worse_where_only_better_steps_are_kept(function: Any, normalized: bool):
    starts, scales = START + 0.3, [0.01, 0.1, 1, 10]
    path = random_search(function, starts, scales=scales, steps=300, normalized=normalized)
    assert (np.diff(path.heights, axis=0) <= 0).all()
    assert (path.heights[-1, :2] < path.heights[0, :2]).all()
    for lane in range(4):  # what is kept is where the lane is
        found = function(torch.from_numpy(path.points[:, lane]))
        np.testing.assert_allclose(path.heights[:, lane], found, rtol=1e-12)
    moved = (np.diff(path.points, axis=0) != 0).any(2)
    np.testing.assert_array_equal(moved, np.diff(path.heights, axis=0) < 0)


def test_all_steps_are_kept_where_that_is_asked_for():
    path = random_search(sphere, START, scales=0.1, steps=400, keep="all")
    assert path.heights[-1, 0] > path.heights[0, 0] and (np.diff(path.heights[:, 0]) < 0).any()
    steps = np.diff(path.points[:, 0], axis=0)
    assert steps.std() == pytest.approx(0.1, rel=0.02)
    path = random_search(sphere, START, scales=0.1, steps=10, keep="all", normalized=True)
    lengths = np.linalg.norm(np.diff(path.points[:, 0], axis=0), axis=1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-6)


def test_a_step_costs_a_forward_pass_and_no_gradient():
    asked = []

    def watched(points: Tensor) -> Tensor:
        asked.append(len(points))
        assert not points.requires_grad and not torch.is_grad_enabled()
        return sphere(points)

    path = random_search(watched, START, scales=[0.1, 0.2], steps=7, every=3)
    assert path.steps.tolist() == [0, 3, 6, 7] and path.passes.tolist() == [1, 4, 7, 8]
    assert sum(asked) == 2 * 8


def test_noise_depends_on_seed_step_and_lane_alone():
    together = random_search(sphere, START, scales=[0.1, 0.1], steps=20, seed=3)
    alone = random_search(sphere, START, scales=0.1, steps=20, seed=3)
    np.testing.assert_array_equal(together.points[:, 0], alone.points[:, 0])
    assert not np.array_equal(together.points[:, 0], together.points[:, 1])
    other = random_search(sphere, START, scales=0.1, steps=20, seed=4)
    assert not np.array_equal(other.points, alone.points)


def test_a_height_that_is_not_finite_is_never_kept():
    def broken(points: Tensor) -> Tensor:
        return torch.where(points[:, 0] > 1, torch.nan, sphere(points))

    path = random_search(broken, START, scales=0.5, steps=50)
    assert np.isfinite(path.heights).all() and path.points[:, :, 0].max() <= 1


def test_effects_on_a_slope_are_exact():
    length = 0.3
    found = step_effects(slanted, START, length=length, directions=4000)
    slope = float(torch.arange(1.0, 21).norm())
    assert found.slope == pytest.approx(slope)
    assert found.gradient == pytest.approx(-slope * length)
    assert found.expected_std == pytest.approx(slope * length / 20**0.5)
    assert found.random.shape == (4000,) and found.dimensions == 20
    assert found.random.std() == pytest.approx(found.expected_std, rel=0.05)
    assert abs(found.random.mean()) < 4 * found.expected_std / 4000**0.5
    assert np.abs(found.random).max() < slope * length  # none is as good as the gradient


def search(**changed: Any) -> Any:
    return random_search(**{"function": sphere, "starts": START, "scales": 0.1, "steps": 2, **changed})


def effects(**changed: Any) -> Any:
    return step_effects(**{"function": sphere, "point": START, "length": 0.1, **changed})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search(function=None), "function=None"),
        (lambda: search(starts=None), "starts=None"),
        (lambda: search(scales=-0.1), "scales=-0.1"),
        (lambda: search(scales="wide"), "scales='wide'"),
        (lambda: search(steps=0), "steps=0"),
        (lambda: search(keep="best"), "keep='best'.*'better'"),
        (lambda: search(keep=1), "keep=1"),
        (lambda: search(normalized=0), "normalized=0"),
        (lambda: search(every=-1), "every=-1"),
        (lambda: search(seed=-1), "seed=-1"),
        (lambda: effects(point=[1.0]), "point=.*tensor of floats"),
        (lambda: effects(point=torch.ones(2, 20)), "point=.*of shape"),
        (lambda: effects(length=0), "length=0.*above 0"),
        (lambda: effects(directions=0), "directions=0"),
        (lambda: effects(seed=0.5), "seed=0.5"),
    ],
)
def test_mistakes_are_named(make: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
