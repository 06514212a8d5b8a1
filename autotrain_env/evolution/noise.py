"""Search distributions, and noise that a member's number brings back.

Noise is independent in every coordinate and has unit variance in all distributions, so that a
perturbation's standard deviation means the same in each. With p the density of a coordinate, its score is
-p'/p, and its curvature p''/p.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import (
    InvalidValueError,
    check,
    check_whole,
    look_up,
)


@dataclass(frozen=True)
class Distribution(ABC):
    """The distribution of one coordinate of the noise: symmetric, with mean 0 and variance 1."""

    words: ClassVar[int] = 1
    """Random 32-bit words that a number is made of."""
    has_score: ClassVar[bool] = True
    """Whether the density can be differentiated, so that a standard deviation can be learned."""

    @abstractmethod
    def from_words(self, words: Tensor) -> Tensor:
        """Turn random words into numbers of this distribution.

        Args:
            words: Random words, int32, shape (..., words * n).

        Returns:
            Numbers, float32, shape (..., n).
        """

    @abstractmethod
    def score(self, noise: Tensor) -> Tensor:
        """Returns what fitness is multiplied by to estimate a gradient: the score -p'/p at each number."""

    @abstractmethod
    def curvature(self, noise: Tensor) -> Tensor:
        """Returns what fitness is multiplied by to estimate a second derivative: p''/p at each number."""

    @property
    @abstractmethod
    def location_information(self) -> float:
        """Returns the Fisher information of a shift, the mean of score^2."""

    @property
    @abstractmethod
    def scale_information(self) -> float:
        """Returns the Fisher information of the scale's logarithm, the mean of (noise * score - 1)^2."""


@dataclass(frozen=True)
class NormalNoise(Distribution):
    """The normal distribution."""

    def from_words(self, words: Tensor) -> Tensor:
        """Apply the inverse of the distribution function."""
        return _centred(words).erfinv_().mul_(math.sqrt(2))

    def score(self, noise: Tensor) -> Tensor:
        """Returns ε."""
        return noise

    def curvature(self, noise: Tensor) -> Tensor:
        """Returns ε² - 1."""
        return noise**2 - 1

    @property
    def location_information(self) -> float:
        """Returns 1."""
        return 1.0

    @property
    def scale_information(self) -> float:
        """Returns 2."""
        return 2.0


@dataclass(frozen=True)
class LaplaceNoise(Distribution):
    """The Laplace distribution with scale 1/√2: heavier tails than the normal one, and a kink at 0."""

    def from_words(self, words: Tensor) -> Tensor:
        """Apply the inverse of the distribution function."""
        centred = _centred(words)
        return centred.sign() * (1 - centred.abs()).log_().mul_(-math.sqrt(0.5))

    def score(self, noise: Tensor) -> Tensor:
        """Returns √2 times the sign of ε."""
        return noise.sign() * math.sqrt(2)

    def curvature(self, noise: Tensor) -> Tensor:
        """Returns 2, which holds away from the kink; what the kink adds, -2 f, is left to the estimate."""
        return torch.full_like(noise, 2.0)

    @property
    def location_information(self) -> float:
        """Returns 2."""
        return 2.0

    @property
    def scale_information(self) -> float:
        """Returns 1."""
        return 1.0


@dataclass(frozen=True)
class StudentTNoise(Distribution):
    """Student's t distribution over its standard deviation: the heaviest tails.

    Args:
        degrees: Degrees of freedom (ν), above 2, since there is no variance below.
    """

    degrees: float = 8.0

    words: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """Check the degrees."""
        check(2 < self.degrees < math.inf, "degrees", self.degrees, "finite, above 2")

    def from_words(self, words: Tensor) -> Tensor:
        """Apply the polar method of Bailey (Mathematics of Computation 62, 1994)."""
        of_radius, of_angle = words.double().chunk(2, -1)
        uniform = of_radius.add_(2**31 + 0.5).mul_(2.0**-32)
        radius = uniform.pow_(-2 / self.degrees).sub_(1).mul_(self.degrees - 2).sqrt_()
        return (radius * of_angle.mul_(math.pi / 2**31).cos_()).float()

    def score(self, noise: Tensor) -> Tensor:
        """Returns (ν + 1) ε / (ν - 2 + ε²)."""
        return (self.degrees + 1) * noise / (self.degrees - 2 + noise**2)

    def curvature(self, noise: Tensor) -> Tensor:
        """Returns the squared score less the score's derivative."""
        rest = self.degrees - 2 + noise**2
        slope = (self.degrees + 1) * (self.degrees - 2 - noise**2) / rest**2
        return self.score(noise) ** 2 - slope

    @property
    def location_information(self) -> float:
        """Returns ν (ν + 1) / ((ν - 2) (ν + 3))."""
        return self.degrees * (self.degrees + 1) / ((self.degrees - 2) * (self.degrees + 3))

    @property
    def scale_information(self) -> float:
        """Returns 2ν / (ν + 3)."""
        return 2 * self.degrees / (self.degrees + 3)


@dataclass(frozen=True)
class UniformNoise(Distribution):
    """The uniform distribution on (-√3, √3), which has no score.

    What takes the score's place is the noise itself. Component j of (1/s) E[f(θ + s ε) ε] is then the
    derivative along j, not of f smoothed by the noise, but of f smoothed by an Epanechnikov kernel of
    half-width √3 s in coordinate j and by the uniform distribution in the others: each component is the
    derivative of another function. A standard deviation cannot be learned.
    """

    has_score: ClassVar[bool] = False

    def from_words(self, words: Tensor) -> Tensor:
        """Scale the words."""
        return _centred(words).mul_(math.sqrt(3))

    def score(self, noise: Tensor) -> Tensor:
        """Returns ε, in place of the score."""
        return noise

    def curvature(self, noise: Tensor) -> Tensor:
        """Refuse, since there is none.

        Raises:
            InvalidValueError: Always.
        """
        raise InvalidValueError(
            "distribution='uniform' has no score: second derivatives cannot be estimated"
        )

    @property
    def location_information(self) -> float:
        """Refuse, since there is none.

        Raises:
            InvalidValueError: Always.
        """
        raise InvalidValueError("distribution='uniform' has no score, and so no natural gradient")

    @property
    def scale_information(self) -> float:
        """Refuse as `location_information` does."""
        return self.location_information


def _centred(words: Tensor) -> Tensor:
    """Returns float32 numbers, uniform in (-1, 1), from the upper 24 bits of int32 words; never 0 or ±1."""
    return (words >> 8).float().add_(0.5).mul_(2.0**-23)


DISTRIBUTIONS: dict[str, Distribution] = {
    "normal": NormalNoise(),
    "laplace": LaplaceNoise(),
    "student_t": StudentTNoise(),
    "uniform": UniformNoise(),
}


def as_noise_distribution(distribution: str | Distribution) -> Distribution:
    """Look a distribution up by name.

    Args:
        distribution: One of `DISTRIBUTIONS`, or a `Distribution`, which is returned as it is.

    Raises:
        InvalidTypeError: If it is neither a name nor a distribution.
        InvalidValueError: If the name is unknown.
    """
    return look_up("distribution", distribution, Distribution, DISTRIBUTIONS, "a name or a Distribution")


MAX_SEED = 2**63 - 1
CACHED_WORDS = 2**18  # of 4 bytes


def draw_noise(
    distribution: Distribution, seed: int, generation: int, rows: range, size: int, stream: int = 0
) -> Tensor:
    """Draw noise that depends on nothing but the seed, the generation, a row's number and the size.

    The rows are stretches of the sequence of a counter-based generator (Philox 4x64-10: Salmon and others,
    "Parallel random numbers: as easy as 1, 2, 3", 2011), one after another.

    Args:
        distribution: Distribution of every number.
        seed: The seed, at least 0.
        generation: The generation, at least 0.
        rows: Numbers of consecutive rows, from 0 on.
        size: How many numbers make a row.
        stream: Number of a stream: noise for another purpose, independent of that of other streams.

    Returns:
        Noise, float32, on the CPU, shape (len(rows), size).
    """
    needed = distribution.words * size
    counts = -(-needed // 8)  # of the counter, in a row; each gives 8 words
    few = max(1, CACHED_WORDS // max(needed, 1))  # rows at once: all passes over them stay in the cache
    noise = torch.empty(len(rows), size)
    generator = np.random.Philox(key=seed, counter=(rows.start * counts, 0, generation, stream))
    for some in noise.split(few):
        words = generator.random_raw(4 * counts * len(some)).view(np.int32).reshape(len(some), 8 * counts)
        some.copy_(distribution.from_words(torch.from_numpy(words[:, :needed])))
    return noise


def check_seed(seed: int) -> None:
    """Raise an `InvalidValueError` unless noise can be drawn with a seed."""
    check_whole("seed", seed, 0)
    check(seed <= MAX_SEED, "seed", seed, f"at most {MAX_SEED}")
