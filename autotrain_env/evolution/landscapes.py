"""Functions to try searches on. All are minimised, take points of shape (..., d), and give shape (...)."""

import torch
from torch import Tensor


def sphere(points: Tensor) -> Tensor:
    """Sum of squares; 0 at the origin."""
    return points.square().sum(-1)


def rosenbrock(points: Tensor) -> Tensor:
    """A curved valley; 0 where all coordinates are 1 (Rosenbrock, 1960)."""
    first, second = points[..., :-1], points[..., 1:]
    return (100 * (second - first**2) ** 2 + (1 - first) ** 2).sum(-1)


def rastrigin(points: Tensor) -> Tensor:
    """A bowl full of dents; 0 at the origin (Rastrigin, 1974)."""
    return (points**2 - 10 * torch.cos(2 * torch.pi * points) + 10).sum(-1)
