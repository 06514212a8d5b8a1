"""Quadratic bowls, and what theory says of descents on them.

In a bowl ½ xᵀ A x a descent moves along every axis by itself. With rate a and momentum b the coordinate
with curvature c goes from x to (1 + b - a c) x - b x_before: it shrinks by the larger root of a quadratic
equation, and the slowest coordinate decides (Polyak, USSR Computational Mathematics and Mathematical
Physics 4, 1964).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, check_flag, check_number, check_whole, in_brief


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The bowl ½ xᵀ A x, which is 0 at the origin, with known curvatures along known axes.

    Args:
        curvatures: Eigenvalues of A, above 0, shape (d,), or (N, d) for a bowl of its own in each of N
            lanes.
        axes: Orthogonal matrix whose columns are the axes, shape (d, d); `None`: those of the coordinates.
    """

    curvatures: Tensor
    axes: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not isinstance(self.curvatures, Tensor) or not self.curvatures.is_floating_point():
            raise InvalidTypeError(f"curvatures={in_brief(self.curvatures)} must be a tensor of floats")
        fits = 1 <= self.curvatures.ndim <= 2 and self.curvatures.numel() > 0
        check(fits, "curvatures", f"of shape {tuple(self.curvatures.shape)}", "of shape (d,) or (N, d)")
        good = bool((self.curvatures > 0).all() and self.curvatures.isfinite().all())
        check(good, "curvatures", self.curvatures, "finite, above 0")
        if self.axes is not None:
            size = self.dimensions
            orthogonal = isinstance(self.axes, Tensor) and self.axes.shape == (size, size)
            if orthogonal:
                unit = torch.eye(size, dtype=self.axes.dtype)
                orthogonal = torch.allclose(self.axes.T @ self.axes, unit, atol=1e-5)
            check(orthogonal, "axes", self.axes, f"orthogonal, of shape ({size}, {size})")

    @classmethod
    def conditioned(
        cls, condition_number: float, dimensions: int = 2, *, rotated: bool = False, seed: int = 0
    ) -> "Quadratic":
        """Returns a bowl whose curvatures go from 1/κ to 1 in equal ratios, in float64.

        Args:
            condition_number: Largest curvature over the smallest (κ), at least 1.
            dimensions: Number of coordinates (d), at least 2.
            rotated: Whether its axes are those of a random rotation instead of the coordinates'.
            seed: Seed of the rotation.
        """
        _check_condition(condition_number)
        check_whole("dimensions", dimensions, 2)
        check_flag("rotated", rotated)
        check_whole("seed", seed, 0)
        curvatures = torch.from_numpy(np.geomspace(1 / condition_number, 1.0, dimensions))
        if not rotated:
            return cls(curvatures)
        normal = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
        basis, triangle = np.linalg.qr(normal)
        return cls(curvatures, torch.from_numpy(basis * np.sign(np.diag(triangle))))

    @property
    def dimensions(self) -> int:
        """Returns the number of coordinates (d)."""
        return self.curvatures.shape[-1]

    def __call__(self, points: Tensor) -> Tensor:
        """Returns the height at points of shape (..., d), or (N, d) where lanes have bowls of their own."""
        along = points if self.axes is None else points @ self.axes
        return 0.5 * (self.curvatures * along**2).sum(-1)


@dataclass(frozen=True)
class Settings:
    """Best rate and momentum for a bowl, and what they make of it.

    Args:
        learning_rate: The rate.
        momentum: The momentum.
        contraction: Factor by which the distance to the minimum shrinks with every update in the end
            (ρ).
    """

    learning_rate: float
    momentum: float
    contraction: float

    def shares(self, steps: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Compute what is left of the coordinates with the smallest and the largest curvature.

        Without momentum that is ρᵗ and (-ρ)ᵗ after t updates. With it both are double roots: the flat
        coordinate has (1 + (1 - ρ) t) ρᵗ left, the steep one (1 + (1 + ρ) t) (-ρ)ᵗ, which grows at first.

        Args:
            steps: Numbers of updates (t), at least 0, any shape.

        Returns:
            Shares of where they began, float64, both in the shape of the steps.
        """
        count = _numbers("steps", steps)
        check(bool((count >= 0).all()), "steps", steps, "at least 0")
        flat, steep = (np.power(base, count) for base in (self.contraction, -self.contraction))
        if self.momentum == 0:
            return flat, steep
        return (1 + (1 - self.contraction) * count) * flat, (1 + (1 + self.contraction) * count) * steep

    def steps(self, factor: float) -> int:
        """Returns after how many updates no coordinate is farther than its start over a factor above 1."""
        check_number("factor", factor, lambda number: 1 < number < math.inf, "finite, above 1")
        if self.contraction == 0:
            return 1
        # From ρᵗ alone on, t grows until the polynomial before ρᵗ is made up for, too.
        steps = needed = math.log(factor) / -math.log(self.contraction)
        for _ in range(100):
            added = math.log1p((1 + self.contraction) * steps) if self.momentum > 0 else 0.0
            steps = needed + added / -math.log(self.contraction)
        return math.ceil(steps - 1e-9)


def best_gradient_descent(condition_number: float, largest: float = 1.0) -> Settings:
    """Returns the best rate without momentum: 2 / (sum of both extreme curvatures).

    The distance shrinks by (κ - 1) / (κ + 1) then: dividing it by e takes about κ / 2 updates.

    Args:
        condition_number: Largest curvature over the smallest (κ), at least 1.
        largest: The largest curvature, above 0.
    """
    _check_condition(condition_number)
    _check_above_0("largest", largest)
    rate = 2 / (largest + largest / condition_number)
    return Settings(rate, 0.0, (condition_number - 1) / (condition_number + 1))


def best_momentum(condition_number: float, largest: float = 1.0) -> Settings:
    """Returns the best rate and momentum together.

    Momentum ((√κ - 1) / (√κ + 1))² and rate (2 / (√smallest + √largest))² make all coordinates equally
    slow: the distance shrinks by (√κ - 1) / (√κ + 1), and dividing it by e takes about √κ / 2 updates.

    Args:
        condition_number: Largest curvature over the smallest (κ), at least 1.
        largest: The largest curvature, above 0.
    """
    _check_condition(condition_number)
    _check_above_0("largest", largest)
    root = math.sqrt(condition_number)
    contraction = (root - 1) / (root + 1)
    rate = 4 / (math.sqrt(largest) * (1 + 1 / root)) ** 2
    return Settings(rate, contraction**2, contraction)


def contraction(
    curvatures: npt.ArrayLike, learning_rates: npt.ArrayLike, momenta: npt.ArrayLike = 0.0
) -> npt.NDArray[np.float64]:
    """Compute by what factor each update shrinks the distance in the end: 1 or more does not converge.

    Args:
        curvatures: Curvatures of the bowl, shape (d,).
        learning_rates: Rates, any shape.
        momenta: Momenta, of a shape that broadcasts with that of the rates.

    Returns:
        The largest root, in absolute value, over the curvatures: float64, in the shape of the rates.
    """
    curves, rates = _numbers("curvatures", curvatures), _numbers("learning_rates", learning_rates)
    decay = _numbers("momenta", momenta)
    check(
        curves.ndim == 1 and curves.size > 0 and bool((curves > 0).all()), "curvatures", curves, "above 0"
    )
    check(bool((rates >= 0).all()), "learning_rates", rates, "at least 0")
    check(bool(((decay >= 0) & (decay < 1)).all()), "momenta", decay, "in [0, 1)")
    trace = 1 + decay[..., None] - rates[..., None] * curves
    root = np.sqrt(trace.astype(complex) ** 2 - 4 * decay[..., None])
    return np.maximum(np.abs(trace + root), np.abs(trace - root)).max(-1) / 2


def _numbers(argument: str, values: Any) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{argument}={in_brief(values)} must be numbers") from error
    check(bool(np.isfinite(array).all()), argument, values, "finite")
    return array


def _check_condition(condition_number: float) -> None:
    allowed = "finite, at least 1"
    check_number("condition_number", condition_number, lambda number: 1 <= number < math.inf, allowed)


def _check_above_0(argument: str, value: float) -> None:
    check_number(argument, value, lambda number: 0 < number < math.inf, "finite, above 0")
