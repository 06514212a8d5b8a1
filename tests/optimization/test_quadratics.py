"""Bowls, and theory held against eigenvalues and against descents."""

import math

import numpy as np
import pytest
import torch

from autotrain_env.optimization import (
    Quadratic,
    Settings,
    best_gradient_descent,
    best_momentum,
    contraction,
    descend,
    steps_needed,
)

START = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize("rotated", [False, True])
def test_a_bowl_has_the_curvatures_that_it_was_given(rotated: bool):
    bowl = Quadratic.conditioned(50, 6, rotated=rotated, seed=3)
    hessian = torch.autograd.functional.hessian(bowl, torch.zeros(6, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvalsh(hessian)
    torch.testing.assert_close(eigenvalues, bowl.curvatures, rtol=1e-10, atol=0)
    assert (eigenvalues[-1] / eigenvalues[0]).item() == pytest.approx(50)
    assert (hessian.diag().diag() - hessian).abs().max().item() > 0.01 or not rotated
    points = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direct = 0.5 * torch.einsum("ni,ij,nj->n", points, hessian, points)
    torch.testing.assert_close(bowl(points), direct, rtol=1e-10, atol=1e-12)


def test_lanes_may_have_bowls_of_their_own():
    curvatures = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert Quadratic(curvatures)(torch.tensor([[1.0, 1.0], [1.0, 2.0]])).tolist() == [1.5, 9.5]


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("rate", [0.01, 0.5, 1.9, 3.5, 5.0])
def test_the_contraction_is_the_largest_eigenvalue_of_an_update(rate: float, momentum: float):
    curves = [0.02, 0.3, 1.0]
    sizes = [
        np.abs(np.linalg.eigvals([[1 + momentum - rate * c, -momentum], [1.0, 0.0]])).max() for c in curves
    ]
    assert contraction(curves, rate, momentum) == pytest.approx(max(sizes), rel=1e-9)


@pytest.mark.parametrize("condition_number", [1, 2, 25, 1e4])
@pytest.mark.parametrize("best", [best_gradient_descent, best_momentum])
def test_nothing_near_is_better_than_the_best(best, condition_number: float):
    curves = np.geomspace(3 / condition_number, 3, 5)
    found: Settings = best(condition_number, largest=3.0)
    # a double root scatters with the square root of the rounding error
    reached = contraction(curves, found.learning_rate, found.momentum)
    assert reached == pytest.approx(found.contraction, abs=1e-7)
    rates = found.learning_rate * np.array([0.9, 0.99, 1, 1.01, 1.1])
    momenta = [0.0]
    if best is best_momentum:
        momenta = (found.momentum + np.array([-0.05, -0.01, 0, 0.01, 0.05])).clip(0, 0.9999)
    others = contraction(curves, rates[:, None], np.array(momenta)[None])
    assert others.min() >= found.contraction - 1e-7


@pytest.mark.parametrize("condition_number", [1, 4, 100])
@pytest.mark.parametrize("best", [best_gradient_descent, best_momentum])
def test_descents_go_as_theory_says_step_by_step(best, condition_number: float):
    found = best(condition_number)
    path = descend(
        Quadratic.conditioned(condition_number),
        START,
        "momentum",
        learning_rates=found.learning_rate,
        momenta=found.momentum,
        steps=60,
    )
    flat, steep = found.shares(np.arange(61))
    np.testing.assert_allclose(path.points[:, 0], np.stack((flat, steep), 1), rtol=1e-7, atol=1e-9)


def test_updates_grow_with_the_condition_number_and_with_its_root():
    numbers = np.array([100.0, 1000.0])
    bowls = Quadratic(torch.from_numpy(np.stack((1 / numbers, np.ones(2)), 1)))
    starts = START.expand(2, 2)
    needed = {}
    for best in (best_gradient_descent, best_momentum):
        settings = [best(number) for number in numbers]
        counted = steps_needed(
            bowls,
            starts,
            "momentum",
            learning_rates=[one.learning_rate for one in settings],
            momenta=[one.momentum for one in settings],
            targets=bowls(starts / 10).numpy(),
            max_steps=3000,
        )
        expected = [one.steps(10) for one in settings]
        assert np.abs(counted - expected).max() <= 0.03 * max(expected) + 1
        needed[best] = counted
    assert needed[best_gradient_descent][1] / needed[best_gradient_descent][0] == pytest.approx(
        10, rel=0.05
    )
    assert needed[best_momentum][1] / needed[best_momentum][0] == pytest.approx(10**0.5, rel=0.3)


@pytest.mark.parametrize("best", [best_gradient_descent, best_momentum])
@pytest.mark.parametrize("factor", [2, 10, 1e6])
def test_steps_are_enough_and_none_too_many(best, factor: float):
    found = best(400)
    number = found.steps(factor)
    for at, enough in ((number, True), (number - 1, False)):
        farthest = max(abs(share) for share in map(float, found.shares(at)))
        assert (farthest <= 1 / factor) is enough
    assert best(1).steps(factor) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic([1.0, 2.0]), "curvatures=.*tensor of floats"),
        (lambda: Quadratic(torch.tensor([1, 2])), "curvatures=.*tensor of floats"),
        (lambda: Quadratic(torch.ones(1, 2, 3)), r"curvatures=.*shape \(d,\)"),
        (lambda: Quadratic(torch.tensor([1.0, 0.0])), "curvatures=.*above 0"),
        (lambda: Quadratic(torch.tensor([1.0, math.inf])), "curvatures=.*finite"),
        (lambda: Quadratic(torch.ones(2), torch.ones(2, 2)), "(?s)axes=.*orthogonal"),
        (lambda: Quadratic(torch.ones(2), torch.eye(3)), "(?s)axes=.*orthogonal"),
        (lambda: Quadratic(torch.ones(2), "x"), "(?s)axes=.*orthogonal"),
        (lambda: Quadratic.conditioned(0.5), "condition_number=0.5.*at least 1"),
        (lambda: Quadratic.conditioned(math.inf), "condition_number=inf"),
        (lambda: Quadratic.conditioned(2, 1), "dimensions=1.*at least 2"),
        (lambda: Quadratic.conditioned(2, rotated=1), "rotated=1"),
        (lambda: Quadratic.conditioned(2, seed=-1), "seed=-1"),
        (lambda: best_gradient_descent(0), "condition_number=0"),
        (lambda: best_gradient_descent(2, largest=0), "largest=0"),
        (lambda: best_momentum("x"), "condition_number='x'"),
        (lambda: best_momentum(2, largest=-1), "largest=-1"),
        (lambda: best_momentum(9).steps(1), "factor=1.*above 1"),
        (lambda: best_momentum(9).shares(-1), "steps=-1"),
        (lambda: contraction([], 1.0), "curvatures="),
        (lambda: contraction([[1.0]], 1.0), "curvatures="),
        (lambda: contraction([-1.0], 1.0), "curvatures="),
        (lambda: contraction(["x"], 1.0), "curvatures=.*numbers"),
        (lambda: contraction([1.0], -1.0), "learning_rates=.*at least 0"),
        (lambda: contraction([1.0], math.nan), "learning_rates=nan.*finite"),
        (lambda: contraction([1.0], 1.0, 1.0), r"momenta=.*\[0, 1\)"),
    ],
)
def test_mistakes_are_named(make, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make()
