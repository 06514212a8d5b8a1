"""Reward: named terms, weighted and summed.

A new term is an entry of `REWARD_TERMS`, a new preset one of `REWARD_PRESETS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotrain_env.errors import (
    InvalidTypeError,
    as_number,
    check,
    check_at_least_0,
    check_callable,
    check_name,
    check_number,
    in_brief,
    unknown_name,
)
from autotrain_env.process.tasks import Task

Curve = tuple[Any, Any]
"""A recorded run: updates used (rising) and score, two sequences of equal length."""

Baseline = Curve | Mapping[Task, Curve] | Callable[[Task], Curve]
"""A recorded curve to be measured against, or where one is found for each task."""


@dataclass(frozen=True)
class Transition:
    """What the reward of one env step of n lanes depends on.

    Args:
        score_before: Score before the step, float64, shape (n,).
        score: Score after it (in the end, of the weights that `terminal_state` names).
        updates: Number of updates made or skipped in this step, int64, shape (n,).
        updates_used: Number of updates since the episode began, this step's included, int64, shape (n,).
        terminated: Whether the episode ends with it, bool, shape (n,).
        newly_diverged: Whether the lane diverged in it, bool, shape (n,).
        baseline_before: The recorded run's score at the updates used before, float64, shape (n,).
        baseline: The recorded run's score at the updates used now; in the end, at the whole budget;
            float64, shape (n,).
    """

    score_before: np.ndarray
    score: np.ndarray
    updates: np.ndarray
    updates_used: np.ndarray
    terminated: np.ndarray
    newly_diverged: np.ndarray
    baseline_before: np.ndarray
    baseline: np.ndarray


LARGEST, LARGEST_SCORE = 1e20, 1e6
"""Largest weight of a term, and score of a recorded run: so rewards are finite in float32, too."""

TermWeights = dict[str, float | None]
"""Weights of terms by name; `None` stands for 1 / budget."""

REWARD_TERMS: dict[str, Callable[[Transition], np.ndarray]] = {
    "improvement": lambda step: step.score - step.score_before,
    "improvement_sign": lambda step: np.sign(step.score - step.score_before),
    "time_cost": lambda step: -step.updates.astype(float),
    "elapsed_cost": lambda step: -step.updates_used.astype(float),
    "terminal_score": lambda step: np.where(step.terminated, step.score, 0.0),
    "divergence": lambda step: -step.newly_diverged.astype(float),
    "baseline_improvement": lambda step: (
        step.score - step.score_before - (step.baseline - step.baseline_before)
    ),
}
"""Terms of the reward by name: from n lanes' transitions to float64, shape (n,), before any weight."""

REWARD_PRESETS: dict[str, Callable[["RewardSettings"], TermWeights]] = {
    "delta": lambda settings: {"improvement": 1.0},
    "sign": lambda settings: {
        "improvement_sign": settings.inter_reward,
        "terminal_score": settings.final_reward_scale,
    },
    "risa": lambda settings: {"improvement_sign": 1.0, "elapsed_cost": settings.step_cost},
    "terminal": lambda settings: {"terminal_score": settings.final_reward_scale},
    "baseline": lambda settings: {"baseline_improvement": 1.0},
}
"""Weights that the presets give to terms, by name."""


@dataclass(frozen=True)
class RewardSettings:
    """What decides the reward; its fields are arguments of the environment, where they are described.

    Args:
        reward: A preset, or weights of named terms.
        inter_reward: Size of the `sign` preset's reward in each step.
        final_reward_scale: Weight of the score in the end (presets `sign`, `terminal`).
        step_cost: The `risa` preset's cost per update; `None` for 1 / budget.
        divergence_penalty: Cost of each divergence, in every preset.
        time_cost: Cost per update, in every preset.
        baseline: What the `baseline` preset measures against; `None` for nothing.

    Raises:
        InvalidValueError: If a value is not allowed.
    """

    reward: str | Mapping[str, float]
    inter_reward: float
    final_reward_scale: float
    step_cost: float | None
    divergence_penalty: float
    time_cost: float
    baseline: Baseline | None

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("inter_reward", "final_reward_scale", "divergence_penalty", "time_cost"):
            check_at_least_0(name, getattr(self, name), LARGEST)
        if self.step_cost is not None:
            check_at_least_0("step_cost", self.step_cost, LARGEST)
        if isinstance(self.reward, str):
            check_name("reward", self.reward, REWARD_PRESETS)
        elif not isinstance(self.reward, Mapping):
            raise InvalidTypeError(
                f"reward={in_brief(self.reward)} must be a preset's name, or a mapping from names of terms "
                f"to weights"
            )
        else:
            for name, weight in self.reward.items():
                if name not in REWARD_TERMS:
                    raise unknown_name("reward", name, REWARD_TERMS)
                check_number(f"reward[{name!r}]", weight, math.isfinite, "finite")
                check(abs(weight) <= LARGEST, f"reward[{name!r}]", weight, f"at most {LARGEST:g} in size")
        self._check_baseline()

    def _check_baseline(self) -> None:
        """Check what the reward is measured against, as far as that can be without a task."""
        given = self.baseline
        if isinstance(given, (tuple, list)):
            check_curve(given)
        elif callable(given):
            check_callable("baseline", given, 1)
        elif not (given is None or isinstance(given, Mapping)):
            raise InvalidTypeError(
                f"baseline={in_brief(given)} must be (updates, scores), a mapping from tasks to such "
                f"curves, or a function from a task to one"
            )
        check(
            "baseline_improvement" not in self.weights() or self.baseline is not None,
            "baseline",
            self.baseline,
            f"a recorded curve where reward={self.reward!r}",
        )

    def weights(self) -> TermWeights:
        """Returns the weight of every term that counts."""
        if isinstance(self.reward, str):
            weights = REWARD_PRESETS[self.reward](self)
        else:
            weights = dict(self.reward)
        if self.divergence_penalty:
            weights["divergence"] = self.divergence_penalty
        if self.time_cost:
            weights["time_cost"] = self.time_cost
        return {name: _as_float(weights[name]) for name in REWARD_TERMS if name in weights}


def _as_float(weight: float | None) -> float | None:
    return None if weight is None else float(weight)


def reward_terms(transition: Transition, weights: TermWeights, budget: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every term, weight included; the reward is their sum.

    Args:
        transition: What happened.
        weights: What `RewardSettings.weights` returned.
        budget: Updates per episode, shape (n,).

    Returns:
        Float64 arrays of shape (n,) by name.
    """
    return {
        name: REWARD_TERMS[name](transition) * (1 / budget if weight is None else weight)
        for name, weight in weights.items()
    }


def check_curve(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Check a recorded run.

    Args:
        curve: Updates used (rising) and score, two sequences of equal length.

    Returns:
        Both as float64 arrays.

    Raises:
        InvalidValueError: If lengths differ, updates do not rise or something is not finite.
    """
    allowed = "(updates, scores): equal lengths, finite, updates rising"
    check(isinstance(curve, (tuple, list)) and len(curve) == 2, "baseline", curve, allowed)
    updates, scores = (_as_column(part) for part in curve)
    good = (
        updates.ndim == 1
        and updates.shape == scores.shape
        and len(updates) > 0
        and bool((updates[1:] > updates[:-1]).all())
        and bool(np.isfinite(updates).all() and np.isfinite(scores).all())
    )
    check(good, "baseline", curve, allowed)
    check(
        bool((np.abs(scores) <= LARGEST_SCORE).all()),
        "baseline",
        curve,
        f"of scores of at most {LARGEST_SCORE:g} in size",
    )
    return updates, scores


def _as_column(values: Any) -> np.ndarray:
    """Returns numbers as float64; one NaN where they are something else."""
    if isinstance(values, (tuple, list)) and any(as_number(value) is None for value in values):
        return np.array([math.nan])
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return np.array([math.nan])


def baseline_curve(source: Baseline | None, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the recorded run for a task, or `None` where no baseline is given.

    Args:
        source: A curve, or where one is found for each task.
        task: The task.

    Raises:
        InvalidValueError: If there is no curve for this task, or it is not one.
    """
    if source is None:
        return None
    if callable(source):
        return check_curve(source(task))
    if isinstance(source, (tuple, list)):
        return check_curve(source)
    check(task in source, "baseline", f"a mapping without {task}", "a mapping with every task met")
    return check_curve(source[task])


def baseline_at(curve: tuple[np.ndarray, np.ndarray] | None, updates: float) -> float:
    """Returns the score of a recorded run after so many updates, interpolated linearly.

    Args:
        curve: What `baseline_curve` returned; `None` gives 0.
        updates: Updates used; beyond the run's ends its first and last score are held.
    """
    return 0.0 if curve is None else float(np.interp(updates, *curve))
