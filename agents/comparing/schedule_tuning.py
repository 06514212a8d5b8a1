"""Schedules with the rate and the parameters that were best, chosen by validation."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from agents.runs.progress import Reporter, portion
from agents.runs.seeds import TUNING_SEED
from autotrain_env.errors import check
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.schedules import Schedule, as_schedule

GRID = np.geomspace(1e-3, 10, 8)
"""Learning rates, over the range that tasks of the default preset start from."""


def _combinations(**values: Sequence[float]) -> tuple[dict[str, float], ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))


VARIANTS: dict[str, tuple[dict[str, float], ...]] = {
    "constant": (),
    "step": _combinations(factor=(0.1, 0.3), every=(0.2, 1 / 3, 0.5)),
    "exponential": _combinations(final_factor=(0.1, 0.01, 0.001)),
    "cosine": _combinations(final_factor=(0.0, 0.01, 0.1)),
    "one_cycle": _combinations(rise=(0.1, 0.3, 0.5)),
    "warmup_cosine": _combinations(warmup=(0.05, 0.1, 0.2)),
    "reduce_on_plateau": _combinations(factor=(0.1, 0.3), patience=(1, 3, 5)),
    "early_stopping": _combinations(patience=(3, 5, 10)),
}
"""A schedule's own parameters that are tried beside its default ones."""
Results = dict[str, np.ndarray]
Environment = gymnasium.vector.VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class Tuned:
    """A schedule with the parameters that were best.

    Args:
        schedule: The schedule with these parameters.
        learning_rate: Peak rate of the schedule.
        parameters: Own parameters of the schedule, where others than the default ones were tried.
        updates: Updates that all trials took.
    """

    schedule: Schedule
    learning_rate: float
    parameters: Mapping[str, float]
    updates: int


def tune(
    env: Environment,
    name: str,
    episodes: int,
    report: Reporter,
    variants: Sequence[Mapping[str, float]] = (),
    grid: np.ndarray = GRID,
) -> Tuned:
    """Tune a schedule on seeds of its own: the rate, then the own parameters at it and the two beside it.

    Args:
        env: Vector environment in autoreset mode `DISABLED`.
        name: Name of the schedule.
        episodes: Episodes of each trial, on tuning seeds.
        report: Told how far it is.
        variants: Own parameters to try; none for the default ones alone.
        grid: Rates to try, rising, float64, shape (8,).
    """
    plain = as_schedule(name)
    check(isinstance(plain, Schedule), "schedule", name, "one that has a learning rate")
    assert isinstance(plain, Schedule)
    total = len(grid) + 3 * len(variants)
    trials: dict[tuple[int, int], float] = {}
    updates = 0

    def candidate(rate: int, variant: int) -> Schedule:
        own = variants[variant] if variant >= 0 else {}
        return dataclasses.replace(plain, **own).with_learning_rate(float(grid[rate]))  # type: ignore[type-var]

    def attempt(rate: int, variant: int) -> None:
        nonlocal updates
        part = portion(report, len(trials), 1, total)
        results = evaluate_policy(env, candidate(rate, variant), episodes, TUNING_SEED, progress=part)
        trials[rate, variant] = float(results["score"].mean())
        updates += int(results["updates"].sum())

    for rate in range(len(grid)):
        attempt(rate, -1)
    best_rate = max(trials, key=lambda key: trials[key])[0]
    for rate in range(max(best_rate - 1, 0), min(best_rate + 2, len(grid))):
        for variant in range(len(variants)):
            attempt(rate, variant)
    rate, variant = max(trials, key=lambda key: trials[key])
    own = variants[variant] if variant >= 0 else {}
    return Tuned(candidate(rate, variant), float(grid[rate]), own, updates)


def best_of_rates(
    env: Environment,
    schedule: Schedule,
    episodes: int,
    seed: int,
    report: Reporter,
    grid: np.ndarray = GRID,
) -> Results:
    """Run each very episode at the 8 rates of the grid, and keep the run that is best on validation.

    Args:
        env: Vector environment in autoreset mode `DISABLED`.
        schedule: Schedule to follow.
        episodes: Number of episodes.
        seed: Seed of the first episode.
        report: Told how far it is.
        grid: Rates to try, float64, shape (8,).
    """
    runs = []
    for i, rate in enumerate(grid):
        part = portion(report, i, 1, len(grid))
        tried = schedule.with_learning_rate(float(rate))
        runs.append(evaluate_policy(env, tried, episodes, seed, history=True, progress=part))
    return best_run({name: np.stack([run[name] for run in runs], axis=1) for name in runs[0]})


def best_run(results: Results) -> Results:
    """Returns each episode's run with the best validation score, with the updates of all its runs."""
    chosen = results["score"].argmax(axis=1)
    best = {name: values[np.arange(len(values)), chosen] for name, values in results.items()}
    return best | {"updates": results["updates"].sum(axis=1)}
