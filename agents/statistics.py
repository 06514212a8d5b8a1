"""What is said of methods that met the same tasks.

Results of a method are an array of shape (training seeds, tasks); of one that is not trained, (1, tasks).
Intervals come from a two-level bootstrap: training seeds are drawn, then tasks within each group, and both
methods of a difference see the same draw. scipy's bootstrap has one level only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from autotrain_env.errors import check

RESAMPLES = 5000
NOT_WORSE = -0.005
"""Lower end of a difference of accuracies from which on a method counts as not worse."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One method against another, on the same tasks.

    Args:
        difference: Mean paired difference, the other's subtracted.
        probability: Share of tasks on which it is better; ties count half.
    """

    difference: Interval
    probability: Interval

    @property
    def verdict(self) -> str:
        """`"better"`, `"not worse"`, `"worse"`, or `"undecided"`."""
        if self.difference.low > 0:
            return "better"
        if self.difference.low >= NOT_WORSE:
            return "not worse"
        return "worse" if self.difference.high < NOT_WORSE else "undecided"


def compare(
    method: np.ndarray, other: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0
) -> Comparison:
    """Compare two methods.

    Args:
        method: Results, shape (seeds, tasks).
        other: Results, shape (seeds, tasks): as many seeds, or one of the two has one.
        groups: The group of each task, shape (tasks,); `None` for one group.
        seed: Of the bootstrap.

    Raises:
        ValueError: If the shapes do not fit.
    """
    method, other = _results("method", method), _results("other", other)
    seeds_fit = len(other) == len(method) or 1 in (len(other), len(method))
    check(
        seeds_fit and other.shape[1] == method.shape[1],
        "other",
        other.shape,
        f"of {method.shape[1]} tasks, with one training seed or {len(method)}",
    )
    difference = method - other
    better = (difference > 0) + 0.5 * (difference == 0)
    return Comparison(
        bootstrap(difference, np.mean, groups, seed=seed), bootstrap(better, np.mean, groups, seed=seed)
    )


def bootstrap(
    results: np.ndarray,
    statistic: Callable[[np.ndarray], float | np.floating],
    groups: np.ndarray | None = None,
    *,
    seed: int = 0,
) -> Interval:
    """A statistic of all results with its percentile interval.

    Args:
        results: Shape (seeds, tasks).
        statistic: From a flat array to a number.
        groups: The group of each task, shape (tasks,); `None` for one group.
        seed: Of the draws.
    """
    results = _results("results", results)
    num_seeds, num_tasks = results.shape
    groups = np.zeros(num_tasks, np.int64) if groups is None else np.asarray(groups)
    check(groups.shape == (num_tasks,), "groups", groups.shape, f"of shape ({num_tasks},)")
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    generator = np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        seeds = generator.integers(num_seeds, size=num_seeds)
        tasks = np.concatenate([generator.choice(group, len(group)) for group in members])
        drawn[i] = statistic(results[np.ix_(seeds, tasks)].ravel())
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(statistic(results.ravel())), float(low), float(high))


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half."""
    return float(scipy.stats.trim_mean(values, 0.25, axis=None))


def worst_share(values: np.ndarray, share: float = 0.05) -> float:
    """Mean of the lowest 5% (or another share) of values, of one value at least."""
    values = np.sort(values, axis=None)
    return float(values[: max(1, round(share * len(values)))].mean())


def normalized(results: np.ndarray, chance: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Results with 0 = chance and 1 = a reference method.

    Args:
        results: Shape (seeds, tasks).
        chance: Of each task, shape (tasks,).
        reference: Mean result of the reference method on each task's configuration, shape (tasks,).
    """
    return (results - chance) / (reference - chance)


def _results(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check(values.ndim == 2 and values.size > 0, name, values.shape, "of shape (seeds, tasks)")
    check(bool(np.isfinite(values).all()), name, values, "finite")
    return values
