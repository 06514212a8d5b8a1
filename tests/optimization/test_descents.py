"""Descents with rates, momenta and starts as lanes: against torch.optim, and one lane against many."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotrain_env.evolution.landscapes import himmelblau, rosenbrock, sphere
from autotrain_env.optimization import BACKWARD_PASSES, Counted, Path, descend, steps_needed
from autotrain_env.training.optimizers import SGD, Adam

START = torch.tensor([-1.2, 1.0], dtype=torch.float64)
TORCH: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
}


def by_torch(optimizer: torch.optim.Optimizer, leaf: Tensor, function: Any, steps: int) -> np.ndarray:
    way = [leaf.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        function(leaf).backward()
        optimizer.step()
        way.append(leaf.detach().clone())
    return torch.stack(way).numpy()


@pytest.mark.parametrize("name", TORCH)
def test_ways_are_those_of_torch(name: str):
    leaf = START.clone().requires_grad_()
    theirs = by_torch(TORCH[name]([leaf]), leaf, rosenbrock, 50)
    path = descend(rosenbrock, START, name, learning_rates=1e-3, steps=50)
    np.testing.assert_allclose(path.points[:, 0], theirs, rtol=1e-10)
    np.testing.assert_allclose(path.heights[:, 0], rosenbrock(torch.from_numpy(theirs)), rtol=1e-10)


def test_momenta_are_lanes_and_lanes_are_apart():
    rates, momenta = [1e-3, 5e-4, 1e-3], [0.0, 0.5, 0.95]
    starts = torch.stack((START, -START, START + 1))
    together = descend(rosenbrock, starts, learning_rates=rates, momenta=momenta, steps=40)
    for lane, (rate, momentum) in enumerate(zip(rates, momenta, strict=True)):
        leaf = starts[lane].clone().requires_grad_()
        optimizer = torch.optim.SGD([leaf], lr=rate, momentum=momentum)
        theirs = by_torch(optimizer, leaf, rosenbrock, 40)
        np.testing.assert_allclose(together.points[:, lane], theirs, rtol=1e-10)


def test_one_start_goes_with_many_momenta_and_many_starts_with_one_rate():
    path = descend(sphere, START, SGD(momentum=0.9), learning_rates=0.1, momenta=[0, 0.5], steps=3)
    assert path.points.shape == (4, 2, 2) and not np.allclose(path.points[-1, 0], path.points[-1, 1])
    path = descend(sphere, START.expand(5, -1), Adam(), learning_rates=0.1, steps=3)
    assert path.points.shape == (4, 5, 2)
    nesterov = descend(sphere, START, "nesterov", learning_rates=0.1, momenta=[0.5, 0.9], steps=3)
    assert nesterov.heights.shape == (4, 2)


def test_normalized_steps_all_have_the_length_of_the_rate():
    path = descend(rosenbrock, START, learning_rates=[0.01, 0.1], steps=20, normalized=True)
    lengths = np.linalg.norm(np.diff(path.points, axis=0), axis=2)
    np.testing.assert_allclose(lengths, np.tile([0.01, 0.1], (20, 1)), rtol=1e-9)
    still = descend(sphere, torch.zeros(2), learning_rates=0.1, steps=2, normalized=True)
    assert (still.points == 0).all()


def test_looks_are_where_they_were_asked_for():
    whole = descend(rosenbrock, START, learning_rates=1e-3, steps=7)
    some = descend(rosenbrock, START, learning_rates=1e-3, steps=7, every=3)
    assert some.steps.tolist() == [0, 3, 6, 7]
    np.testing.assert_array_equal(some.points, whole.points[[0, 3, 6, 7]])
    assert whole.passes.tolist() == [1 + step * (1 + BACKWARD_PASSES) for step in range(8)]
    assert some.passes.tolist() == whole.passes[[0, 3, 6, 7]].tolist()


def test_the_cost_is_what_the_function_was_asked_for():
    """Counted once more, where nothing of the package counts: each pass forward, and each gradient."""
    forward, backward = [], []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, points: Tensor) -> Tensor:
            forward.append(len(points))
            context.save_for_backward(points)
            return sphere(points)

        @staticmethod
        def backward(context: Any, slopes: Tensor) -> Tensor:
            (points,) = context.saved_tensors
            backward.append(len(points))
            return 2 * points * slopes[:, None]

    path = descend(Watched.apply, START.expand(3, -1), learning_rates=0.1, steps=5)
    assert path.passes[-1] * 3 == sum(forward) + BACKWARD_PASSES * sum(backward)
    assert (sum(forward), sum(backward)) == (3 * 6, 3 * 5)
    counted = Counted(sphere)
    with torch.no_grad():
        counted(torch.zeros(4, 2))
    counted(torch.zeros(2, 2, requires_grad=True)).sum().backward()
    assert (counted.forward, counted.backward, counted.passes) == (6, 2, 6 + 2 * BACKWARD_PASSES)


def test_a_lane_that_diverges_leaves_the_others_alone():
    path = descend(himmelblau, START, learning_rates=[1e-3, 10.0], steps=200)
    alone = descend(himmelblau, START, learning_rates=1e-3, steps=200)
    assert not np.isfinite(path.heights[-1, 1])
    np.testing.assert_allclose(path.points[:, 0], alone.points[:, 0], rtol=1e-12)
    assert path.best_lane == 0
    assert path.lane(1).heights.shape == (201, 1) and not np.isfinite(path.lane(1).heights[-1, 0])


def test_steps_needed_are_those_after_which_a_path_is_low_enough():
    rates = [0.01, 0.1, 0.3, 1.5]
    found = steps_needed(sphere, START, learning_rates=rates, targets=1e-3, max_steps=300)
    path = descend(sphere, START, learning_rates=rates, steps=300)
    for lane in range(3):
        assert found[lane] == (path.heights[:, lane] <= 1e-3).argmax() > 0
    assert found[3] == math.inf  # diverges
    given_up = steps_needed(sphere, START, learning_rates=[0.1, 0.01], targets=[1e-3, 9], max_steps=5)
    assert given_up.tolist() == [math.inf, 0]


def test_himmelblau_has_four_minima():
    minima = [(3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)]
    points = torch.tensor(minima, dtype=torch.float64)
    assert himmelblau(points).abs().max() < 1e-10
    path = descend(himmelblau, points + 0.2, learning_rates=0.01, steps=200)
    np.testing.assert_allclose(path.points[-1], minima, atol=1e-5)


def call(**changed: Any) -> Path:
    arguments: dict[str, Any] = {"function": sphere, "starts": START, "learning_rates": 0.1, "steps": 2}
    return descend(**{**arguments, **changed})


def needed(**changed: Any) -> Any:
    arguments: dict[str, Any] = {"learning_rates": 0.1, "targets": 0.1, "max_steps": 2}
    return steps_needed(sphere, START, **{**arguments, **changed})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: call(function=3), "function=3 must be a function"),
        (lambda: call(function=lambda points: points), r"function='gives shape \(1, 2\)'.*of shape \(1,\)"),
        (lambda: call(function=lambda points: 1.0), "function=.*float"),
        (
            lambda: call(function=lambda points: points.detach().sum(1)),
            "function: gives heights that do not",
        ),
        (lambda: call(starts=[1.0, 2.0]), "starts=.*tensor of floats"),
        (lambda: call(starts=torch.tensor([1, 2])), "starts=.*tensor of floats"),
        (lambda: call(starts=torch.ones(2, 2, 2)), "starts="),
        (lambda: call(starts=torch.tensor([math.nan, 1])), "starts=.*finite"),
        (lambda: call(optimizer="sdg"), "optimizer='sdg'.*nearest known one is 'sgd'"),
        (lambda: call(optimizer=3), "optimizer=3"),
        (lambda: call(learning_rates=-1), "learning_rates=-1.*at least 0"),
        (lambda: call(learning_rates="fast"), "learning_rates='fast' must be numbers"),
        (lambda: call(learning_rates=[[0.1]]), "learning_rates="),
        (lambda: call(learning_rates=[]), "learning_rates="),
        (lambda: call(starts=torch.ones(3, 2), learning_rates=[1, 2]), "learning_rates=.*each of 3"),
        (lambda: call(momenta=1.0), r"momenta=1.0.*\[0, 1\)"),
        (lambda: call(momenta=[0.1, 0.2], learning_rates=[1, 2, 3]), "momenta=.*each of 3"),
        (lambda: call(momenta=0.9, optimizer="adam"), "momenta=.*no momentum"),
        (lambda: call(steps=0), "steps=0"),
        (lambda: call(every=0), "every=0"),
        (lambda: call(normalized=1), "normalized=1"),
        (lambda: call().lane(1), "number=1.*at most 0"),
        (lambda: needed(targets=[1, 2]), "targets="),
        (lambda: needed(targets=math.nan), "targets=nan"),
        (lambda: needed(max_steps=0), "max_steps=0"),
    ],
)
def test_mistakes_are_named(make: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
