"""From fitness to utility: what members weigh in the estimate of a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, check_whole, unknown_name


@dataclass(frozen=True)
class Shaping:
    """How fitness becomes utility.

    | name | utility |
    |---|---|
    | `"ranks"` | ranks, spread evenly from -0.5 (worst) to 0.5 (best) |
    | `"z_score"` | fitness less its mean, over its standard deviation |
    | `"raw"` | fitness less its mean |
    | `"top_k"` | 1 for the k best members, else 0, less the mean |

    Members of equal fitness have equal utility: ties share a rank, and share the last places among the k
    best. Fitness that is NaN or minus infinity ranks worst; where there are no ranks, it takes the worst
    finite value of the generation.

    Args:
        name: One of the names above.
        k: How many are the best, for `"top_k"`; by default a quarter of the members.
    """

    name: str = "ranks"
    k: int | None = None

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in _SHAPINGS:
            raise unknown_name("shaping", self.name, _SHAPINGS)
        if self.k is not None:
            check(self.name == "top_k", "k", self.k, "None but for shaping='top_k'")
            check_whole("k", self.k, 1)

    def __call__(self, fitness: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Compute utilities, which sum to 0 but for rounding.

        Args:
            fitness: Fitness, of which higher is better, shape (n,), at least one of them finite.
            dtype: Dtype of the utilities; that of the fitness if `None`. Differences are taken before it is
                rounded to, so that a small dtype loses none.

        Returns:
            Utilities, shape (n,).
        """
        dtype = dtype or fitness.dtype
        if self.name == "top_k":
            k = max(1, len(fitness) // 4) if self.k is None else self.k
            check(k < len(fitness), "k", k, f"below the number of members, {len(fitness)}")
            return _top_k(fitness, k).to(dtype)
        if self.name == "ranks":
            return ranks(fitness).to(dtype) / (len(fitness) - 1) - 0.5
        return _SHAPINGS[self.name](fitness).to(dtype)


def check_fitness(fitness: object, count: int) -> Tensor:
    """Check the members' fitness.

    Args:
        fitness: Numbers, as a tensor, array or sequence.
        count: How many there must be.

    Returns:
        The fitness, float64, on the CPU: parameters of a smaller dtype must not round it.

    Raises:
        InvalidTypeError: If they are no numbers.
        InvalidValueError: If there are more or fewer, or one is plus infinity.
    """
    try:
        values = fitness if isinstance(fitness, Tensor) else torch.as_tensor(_as_array(fitness))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(
            f"fitness={fitness!r} must be numbers, one for each member: {error}"
        ) from error
    if values.is_complex() or values.dtype == torch.bool:
        raise InvalidTypeError(f"fitness is of dtype {values.dtype}: it must be real numbers")
    check(values.shape == (count,), "fitness", f"of shape {tuple(values.shape)}", f"of shape ({count},)")
    values = values.detach().to("cpu", torch.float64)
    infinite = torch.isposinf(values).nonzero().flatten().tolist()
    check(not infinite, "fitness", f"plus infinity for members {infinite[:5]}", "below infinity, or NaN")
    return values


def _as_array(fitness: Any) -> Any:
    """Returns a sequence as an array, in which Python's floats are float64, as they are not in a tensor."""
    if isinstance(fitness, (list, tuple)):
        fitness = [value.item() if isinstance(value, Tensor) else value for value in fitness]
    array = np.asarray(fitness)
    return np.ascontiguousarray(array) if array.dtype.kind in "iufb" else fitness


def fill_not_finite(fitness: Tensor) -> Tensor:
    """Returns fitness with the worst finite value in place of NaN and minus infinity."""
    finite = fitness.isfinite()
    return torch.where(finite, fitness, fitness[finite].min())


def less_mean(values: Tensor) -> Tensor:
    """Returns values of shape (n,) less their mean, which is exactly 0 where all of them are equal."""
    differences = values - values[0]
    return differences - differences.mean()


def ranks(fitness: Tensor) -> Tensor:
    """Compute ranks from 0 (worst) on: ties share their mean, and NaN and minus infinity tie as the worst.

    Args:
        fitness: Fitness of the members, shape (n,).

    Returns:
        Ranks, shape (n,), of the fitness' dtype.
    """
    ordered = torch.where(fitness.isfinite(), fitness, -torch.inf)
    _, tie, counts = ordered.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0) - 1
    return (last - (counts - 1) / 2).to(fitness.dtype)[tie]


def _z_score(fitness: Tensor) -> Tensor:
    values = fill_not_finite(fitness)
    # halves, so that the difference of the largest floats is no infinity; the factor cancels
    centred = less_mean(values / 2)
    largest = centred.abs().max()
    if largest == 0:
        return centred
    centred = centred / largest  # so that squares neither vanish nor overflow
    return centred / centred.square().mean().sqrt()


def _raw(fitness: Tensor) -> Tensor:
    return less_mean(fill_not_finite(fitness))


def _top_k(fitness: Tensor, k: int) -> Tensor:
    values = fill_not_finite(fitness)
    border = values.sort(descending=True).values[k - 1]
    above, tied = values > border, values == border
    left = k - above.sum()
    return less_mean(above.to(values.dtype) + tied * (left / tied.sum()).to(values.dtype))


_SHAPINGS: dict[str, Callable[..., Tensor]] = {
    "ranks": ranks,
    "z_score": _z_score,
    "raw": _raw,
    "top_k": _top_k,
}


def as_shaping(shaping: str | Shaping) -> Shaping:
    """Look a shaping up by name; a `Shaping` is returned as it is.

    Raises:
        InvalidTypeError: If it is neither a name nor a shaping.
        InvalidValueError: If the name is unknown.
    """
    if not isinstance(shaping, (str, Shaping)):
        raise InvalidTypeError(f"shaping={shaping!r} must be a name or a Shaping")
    return Shaping(shaping) if isinstance(shaping, str) else shaping
