"""What is said of methods that met the same tasks.

Results of a method are an array of shape (training seeds, tasks); of one that is not trained, (1, tasks).
Intervals come from a two-level bootstrap: training seeds are drawn, then tasks within each group, and both
methods of a difference see the same draw. scipy's bootstrap has one level only; that of rliable draws the
runs of each task by themselves, which loses what makes a training seed good or bad on all tasks.
"""

from dataclasses import dataclass

import numpy as np

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
        """Returns `"better"`, `"not worse"`, `"worse"`, or `"undecided"`."""
        if self.difference.low > 0:
            return "better"
        if self.difference.low >= NOT_WORSE:
            return "not worse"
        return "worse" if self.difference.high < NOT_WORSE else "undecided"


def compare(
    method: np.ndarray, other: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0
) -> Comparison:
    """Compare two methods on the same tasks.

    With as many training seeds on both sides, seed i is held against seed i, and both are drawn together;
    otherwise every seed is held against every other, and each side's are drawn by themselves.

    Args:
        method: Results, shape (seeds, tasks).
        other: Results, shape (other seeds, tasks).
        groups: The group of each task, shape (tasks,); `None` for one group.
        seed: Seed of the bootstrap.

    Raises:
        InvalidValueError: If the shapes do not fit.
    """
    method, other = _results("method", method), _results("other", other)
    check(other.shape[1] == method.shape[1], "other", other.shape, f"of {method.shape[1]} tasks")
    generator = np.random.default_rng(seed)
    mine, others = len(method), len(other)
    if mine == others:
        left = right = np.arange(mine)
        weights = _draw(generator, mine)
    else:
        left, right = np.repeat(np.arange(mine), others), np.tile(np.arange(others), mine)
        weights = _draw(generator, mine)[:, left] * _draw(generator, others)[:, right]
    tasks = _draw_tasks(generator, method.shape[1], groups)
    difference = method[left] - other[right]
    better = (difference > 0) + 0.5 * (difference == 0)
    return Comparison(_interval(difference, weights, tasks), _interval(better, weights, tasks))


def bootstrap(results: np.ndarray, groups: np.ndarray | None = None, *, seed: int = 0) -> Interval:
    """Returns the mean of all results with its percentile interval.

    Args:
        results: Results, shape (seeds, tasks).
        groups: The group of each task, shape (tasks,); `None` for one group.
        seed: Seed of the draws.
    """
    results = _results("results", results)
    generator = np.random.default_rng(seed)
    weights = _draw(generator, len(results))
    return _interval(results, weights, _draw_tasks(generator, results.shape[1], groups))


def _draw(generator: np.random.Generator, count: int) -> np.ndarray:
    """Returns how often each of `count` things is drawn, as shares: (RESAMPLES, count)."""
    return generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count


def _draw_tasks(generator: np.random.Generator, count: int, groups: np.ndarray | None) -> np.ndarray:
    """Returns shares of tasks, drawn within each group, (RESAMPLES, tasks)."""
    groups = np.zeros(count, np.int64) if groups is None else np.asarray(groups)
    check(groups.shape == (count,), "groups", groups.shape, f"of shape ({count},)")
    shares = np.empty((RESAMPLES, count))
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        shares[:, members] = _draw(generator, len(members)) * (len(members) / count)
    return shares


def _interval(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Interval:
    """Returns the mean of values (n, tasks), and its interval over resamples: shares of both axes."""
    drawn = np.einsum("rt,rt->r", rows @ values, columns)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def interquartile_mean(values: np.ndarray) -> float:
    """Returns the mean of the middle half."""
    from scipy import stats  # takes a second to import

    return float(stats.trim_mean(values, 0.25, axis=None))


def worst_share(values: np.ndarray, share: float = 0.05) -> float:
    """Returns the mean of the lowest 5% (or another share) of values, of one value at least."""
    values = np.sort(values, axis=None)
    return float(values[: max(1, round(share * len(values)))].mean())


def normalized(results: np.ndarray, chance: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns results with 0 = chance and 1 = a reference method.

    Args:
        results: Results, shape (seeds, tasks).
        chance: Accuracy of guessing on each task, shape (tasks,).
        reference: Mean result of the reference method on each task's configuration, shape (tasks,).
    """
    return (results - chance) / (reference - chance)


def _results(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    check(values.ndim == 2 and values.size > 0, name, values.shape, "of shape (seeds, tasks)")
    check(bool(np.isfinite(values).all()), name, values, "finite")
    return values
