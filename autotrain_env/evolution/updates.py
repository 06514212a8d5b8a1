"""How an estimate of the gradient moves parameters: `autotrain_env.training.optimizers`, and ClipUp."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import check, check_whole, look_up
from autotrain_env.training.optimizers import OPTIMIZERS, Optimizer


@dataclass(frozen=True)
class ClipUp(Optimizer):
    """Normalised gradients with momentum and a limit on speed (Toklu and others, arXiv:2008.02387).

    The learning rate is the length of the step that a single gradient brings.

    Args:
        momentum: Decay of the velocity.
        max_speed: Largest length of the velocity, in learning rates.
    """

    momentum: float = 0.9
    max_speed: float = 2.0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        check(0 < self.max_speed < math.inf, "max_speed", self.max_speed, "finite, above 0")

    @property
    def num_accumulators(self) -> int:
        """Returns one, for the velocity."""
        return 1

    def _step(
        self, gradients: Tensor, accumulators: list[Tensor], rates: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        velocity = accumulators[0]
        velocity.mul_(self.momentum).addcmul_(_normalized(gradients), rates)
        speed = torch.linalg.vector_norm(velocity, dim=1, keepdim=True)
        limit = -rates * self.max_speed
        velocity.mul_(torch.where(speed > limit, limit / speed, 1.0))
        return velocity, torch.ones_like(rates)


def _normalized(gradients: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    return gradients / torch.where(norm > 0, norm, 1.0)


UPDATES: dict[str, Optimizer] = {**OPTIMIZERS, "clipup": ClipUp()}
"""Update rules of evolution strategies by name."""


def as_update(optimizer: str | Optimizer) -> Optimizer:
    """Look an update rule up by name.

    Args:
        optimizer: One of `UPDATES`, or an `Optimizer`, which is returned as it is.

    Raises:
        InvalidTypeError: If it is neither.
        InvalidValueError: If the name is unknown.
    """
    allowed = "a name or an autotrain_env.Optimizer"
    return look_up("optimizer", optimizer, Optimizer, UPDATES, allowed)


PerGeneration = float | Callable[[int], float]
"""A number, or a function of the generation, from 0 on."""


@dataclass(frozen=True)
class Decay:
    """A number that falls by a constant factor each generation, to a floor.

    Args:
        start: The number in generation 0, above 0.
        half_life: Generations in which it halves, above 0.
        floor: What it does not fall below, at least 0.
    """

    start: float
    half_life: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check(0 < self.start < math.inf, "start", self.start, "finite, above 0")
        check(0 < self.half_life < math.inf, "half_life", self.half_life, "finite, above 0")
        check(0 <= self.floor <= self.start, "floor", self.floor, f"between 0 and start={self.start}")

    def __call__(self, generation: int) -> float:
        """Returns the number that holds in a generation."""
        return max(self.start * 0.5 ** (generation / self.half_life), self.floor)


@dataclass(frozen=True)
class Cosine:
    """A number that falls by half a cosine (Loshchilov and Hutter, arXiv:1608.03983).

    Args:
        start: The number in generation 0, above 0.
        generations: Generation from which on it is `floor`, at least 1.
        floor: What it falls to, above 0.
    """

    start: float
    generations: int
    floor: float

    def __post_init__(self) -> None:
        """Check the values."""
        check(0 < self.start < math.inf, "start", self.start, "finite, above 0")
        check_whole("generations", self.generations, 1)
        check(0 < self.floor <= self.start, "floor", self.floor, f"above 0, at most start={self.start}")

    def __call__(self, generation: int) -> float:
        """Returns the number that holds in a generation."""
        share = min(generation / self.generations, 1.0)
        return self.floor + (self.start - self.floor) * (1 + math.cos(math.pi * share)) / 2


def value_at(value: PerGeneration, generation: int, name: str) -> float:
    """Returns the number that holds in a generation.

    Args:
        value: A number, or a function of the generation.
        generation: Which generation, from 0 on.
        name: The argument's name, for the error.

    Raises:
        InvalidValueError: If it is not finite and above 0.
    """
    number = float(value(generation) if callable(value) else value)
    check(0 < number < math.inf, name, number, f"finite, above 0 (generation {generation})")
    return number


@dataclass(frozen=True)
class Updated:
    """Parameters, and what an optimiser remembers of them.

    Args:
        values: Parameters, shape (lanes, size).
        accumulators: The optimiser's accumulators, each of the same shape.
        count: How many updates were made.
    """

    values: Tensor
    accumulators: tuple[Tensor, ...]
    count: int = 0

    @classmethod
    def start(cls, values: Tensor, optimizer: Optimizer) -> "Updated":
        """Returns values of shape (lanes, size), of which an optimiser remembers nothing yet."""
        return cls(values, tuple(torch.zeros_like(values) for _ in range(optimizer.num_accumulators)))

    def ascend(self, optimizer: Optimizer, gradients: Tensor, rate: float) -> "Updated":
        """Returns what one update up the gradients makes; nothing is changed in place.

        Args:
            optimizer: The update rule, which descends.
            gradients: Gradients, shape (lanes, size).
            rate: The learning rate.
        """
        values = self.values.clone()
        accumulators = [accumulator.clone() for accumulator in self.accumulators]
        optimizer.apply(values, -gradients, accumulators, np.full(len(values), float(rate)), self.count)
        return replace(self, values=values, accumulators=tuple(accumulators), count=self.count + 1)
