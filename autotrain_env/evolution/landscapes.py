"""Functions to try searches on. All are minimised, take points of shape (..., d), and give shape (...)."""

import torch
from torch import Tensor


def sphere(points: Tensor) -> Tensor:
    """Returns the sum of squares, which is 0 at the origin."""
    return points.square().sum(-1)


def rosenbrock(points: Tensor) -> Tensor:
    """Returns the height of a curved valley, 0 where all coordinates are 1 (Rosenbrock, 1960)."""
    first, second = points[..., :-1], points[..., 1:]
    return (100 * (second - first**2) ** 2 + (1 - first) ** 2).sum(-1)


def rastrigin(points: Tensor) -> Tensor:
    """Returns the height of a bowl full of dents, 0 at the origin (Rastrigin, 1974)."""
    return (points**2 - 10 * torch.cos(2 * torch.pi * points) + 10).sum(-1)


def himmelblau(points: Tensor) -> Tensor:
    """Returns the height of a bowl with four minima, each 0 (Himmelblau, 1972); points have d = 2.

    They are (3, 2), and about (-2.805, 3.131), (-3.779, -3.283) and (3.584, -1.848).
    """
    first, second = points[..., 0], points[..., 1]
    return (first**2 + second - 11) ** 2 + (first + second**2 - 7) ** 2


def walled_well(points: Tensor) -> Tensor:
    """Returns the height of a one-dimensional bowl with two plateaus, and a narrow well behind walls.

    The plateaus, one on either side and 0.49 high, reach from 0.7 to 1.3. The well at 0 is the global
    minimum, -0.7; its walls stand at ±0.28. Gradient descent stops on a plateau, or at a wall.

    Args:
        points: Numbers, of any shape.

    Returns:
        The function of every number, in the same shape.
    """
    distance = points.abs()
    bowl = torch.where(distance < 1.3, distance.clamp(max=0.7), distance - 0.6) ** 2
    return bowl + 0.8 * _bump(distance - 0.28, 0.12) - 0.7 * _bump(distance, 0.16)


def _bump(offset: Tensor, width: float) -> Tensor:
    """Returns 1 in the middle, 0 from the width on, and what is smooth in between."""
    inside = (1 - (offset / width) ** 2).clamp(min=1e-6)
    return torch.where(inside > 1e-6, torch.exp(1 - 1 / inside), torch.zeros_like(offset))
