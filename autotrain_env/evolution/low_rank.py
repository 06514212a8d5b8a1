"""Low-rank noise: what few numbers perturb a network's weights by (Sarkar and others, arXiv:2511.16652).

The noise of a weight of shape (out, in) is A B^T / √r, with A of shape (out, r), B of shape (in, r) and
standard normal numbers in both; a convolution's weight counts as (out, in * k * k). Tensors of fewer than
two dimensions have full noise. Every number of the noise has mean 0 and variance 1, and any two are
uncorrelated, so that E[f(θ + s ε) ε] / s is a gradient as with full noise: that of f where f is quadratic.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check, check_whole
from autotrain_env.training.layout import Entry, Layout


class Factors(NamedTuple):
    """The factors of one weight's noise.

    Args:
        left: A, shape (m, r, out).
        right: B / √r, shape (m, r, in).
    """

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class LowRank:
    """Where the numbers lie that low-rank noise is made of.

    Args:
        layout: Layout of the parameters.
        rank: Rank of the noise of weights (r).
    """

    layout: Layout
    rank: int

    def check(self) -> None:
        """Check that the noise of every weight can have the rank.

        Raises:
            InvalidValueError: If no tensor has two dimensions, or the rank exceeds a weight's smaller side.
        """
        weights = [entry for entry in self.layout.entries if _is_weight(entry)]
        if not weights:
            raise InvalidValueError(
                f"rank={self.rank!r} needs parameters with shapes, as named tensors, one of them with two "
                f"dimensions or more: a vector has no low-rank noise"
            )
        for entry in weights:
            smaller = min(_sides(entry))
            allowed = f"at most {smaller}, the smaller side of {entry.name!r} of shape {entry.shape}"
            check(self.rank <= smaller, "rank", self.rank, allowed)

    @property
    def size(self) -> int:
        """Returns how many numbers the noise of one member or pair is made of."""
        return sum(self._counts())

    def _counts(self) -> Iterator[int]:
        for entry in self.layout.entries:
            yield self.rank * sum(_sides(entry)) if _is_weight(entry) else entry.stop - entry.start

    def split(self, numbers: Tensor) -> dict[str, Factors | Tensor]:
        """Returns what each tensor's noise is made of, by name.

        Args:
            numbers: Numbers of m members or pairs, shape (m, size).

        Returns:
            Factors of weights, and the noise itself of other tensors, shape (m, *shape).
        """
        found: dict[str, Factors | Tensor] = {}
        for entry, part in zip(self.layout.entries, numbers.split(list(self._counts()), 1), strict=True):
            if _is_weight(entry):
                out, _ = _sides(entry)
                left, right = part.unflatten(1, (self.rank, -1)).split((out, sum(_sides(entry)) - out), 2)
                found[entry.name] = Factors(left, right if self.rank == 1 else right / math.sqrt(self.rank))
            else:
                found[entry.name] = part.unflatten(1, entry.shape) if entry.shape else part[:, 0]
        return found

    def dense(self, numbers: Tensor) -> Tensor:
        """Returns the noise of every parameter, shape (m, d), of numbers of shape (m, size)."""
        parts = [
            torch.einsum("mro,mri->moi", *part) if isinstance(part, Factors) else part
            for part in self.split(numbers).values()
        ]
        return torch.cat([part.reshape(len(numbers), -1) for part in parts], 1)

    def weighted_sum(self, weights: Tensor, numbers: Tensor) -> Tensor:
        """Sum the noise of all rows, each with its weight, without making it: A^T diag(weights) B.

        Args:
            weights: Weights, shape (m,).
            numbers: Numbers, shape (m, size).

        Returns:
            The sum, shape (d,).
        """
        parts = []
        for part in self.split(numbers).values():
            if isinstance(part, Factors):
                left = (part.left * weights[:, None, None]).flatten(0, 1)
                parts.append(left.T @ part.right.flatten(0, 1))
            else:
                parts.append(weights @ part.flatten(1) if part.ndim > 1 else (weights @ part)[None])
        return torch.cat([part.flatten() for part in parts])

    def scale_scores(self, numbers: Tensor) -> Tensor:
        """Compute what fitness is multiplied by to estimate gradients in logarithms of deviations.

        A deviation of a weight's noise is one of A, and just as well one of B: both have their score, the
        sum of a² - 1. Their mean is taken in which each counts as much as its variance is small.

        Args:
            numbers: Numbers, shape (m, size).

        Returns:
            Scores of each tensor's deviation, shape (m, tensors).
        """
        scores = []
        for part in self.split(numbers).values():
            if isinstance(part, Factors):
                out, inputs = part.left.shape[2], part.right.shape[2]
                of_left = (part.left**2 - 1).sum((1, 2))
                of_right = (part.right**2 * self.rank - 1).sum((1, 2))
                scores.append((of_left * inputs + of_right * out) / (out + inputs))
            else:
                scores.append((part**2 - 1).reshape(len(part), -1).sum(1))
        return torch.stack(scores, 1)


@dataclass(frozen=True)
class LowRankPopulation:
    """Members of a generation as a centre and factors of their noise.

    Args:
        noise: Where the numbers lie.
        numbers: Numbers, a row for each member, or mirrored pair, shape (m, size).
        std: Standard deviation of each parameter's perturbation, the same within a tensor, shape (d,).
        around: What members are drawn around, shape (d,).
        mirrored: Whether a row makes two members, side by side.
        with_centre: Whether the centre is one more member, the last.
    """

    noise: LowRank
    numbers: Tensor
    std: Tensor
    around: Tensor
    mirrored: bool
    with_centre: bool = False

    def __len__(self) -> int:
        """Returns the number of members."""
        return len(self.numbers) * len(self.signs) + self.with_centre

    @property
    def signs(self) -> tuple[int, ...]:
        """Returns the signs with which a row of noise occurs."""
        return (1, -1) if self.mirrored else (1,)

    def tensor_std(self) -> dict[str, Tensor]:
        """Returns the standard deviation of each tensor's perturbation, shape (), by name."""
        return {
            entry.name: self.std[entry.start]
            for entry in self.noise.layout.entries
            if entry.stop > entry.start
        }

    def dense(self) -> Tensor:
        """Returns the members' parameters, shape (len(self), d)."""
        members = around_centre(self.around, self.noise.dense(self.numbers), self.std, self.signs)
        return torch.cat((members, self.around[None])) if self.with_centre else members

    def __getitem__(self, members: int | slice) -> Tensor:
        """Returns parameters of a member, shape (d,), or of a slice of them, shape (n, d).

        Raises:
            IndexError: If there is no such member.
            InvalidTypeError: If something else is asked for.
        """
        if isinstance(members, slice):
            numbers = range(len(self))[members]
            chosen = [self[number] for number in numbers]
            return torch.stack(chosen) if chosen else self.around.new_empty((0, len(self.around)))
        if not isinstance(members, int):
            raise InvalidTypeError(f"members={members!r} must be a number or a slice")
        number = range(len(self))[members]
        row, sign = divmod(number, len(self.signs))
        if row == len(self.numbers):
            return self.around
        dense = self.noise.dense(self.numbers[row : row + 1])
        return around_centre(self.around, dense, self.std, (self.signs[sign],))[0]


Population = Tensor | LowRankPopulation
"""Members of a generation: their parameters, shape (n, d), or what these can be had from."""


def around_centre(around: Tensor, noise: Tensor, std: Tensor, signs: tuple[int, ...]) -> Tensor:
    """Returns members, for each row of noise one of each sign, side by side, shape (m * signs, d)."""
    members = noise.new_empty((len(noise), len(signs), len(around)))
    for number, sign in enumerate(signs):
        torch.addcmul(around, noise, std, value=sign, out=members[:, number])
    return members.flatten(0, 1)


def check_rank(rank: int | None) -> None:
    """Raise an `InvalidValueError` unless a rank is `None` or a whole number of at least 1."""
    if rank is not None:
        check_whole("rank", rank, 1)


def _is_weight(entry: Entry) -> bool:
    return len(entry.shape) >= 2


def _sides(entry: Entry) -> tuple[int, int]:
    return entry.shape[0], math.prod(entry.shape[1:])
