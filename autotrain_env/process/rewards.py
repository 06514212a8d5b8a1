"""Reward: named terms, weighted and summed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotrain_env.errors import check, unknown_name
from autotrain_env.process.tasks import Task

REWARD_TERMS = (
    "improvement",
    "improvement_sign",
    "time_cost",
    "elapsed_cost",
    "terminal_score",
    "divergence",
    "baseline_improvement",
)

REWARD_PRESETS = ("delta", "sign", "risa", "terminal", "baseline")

Curve = tuple[Any, Any]
"""Updates used and score, two sequences of equal length."""

Baseline = Curve | Mapping[Task, Curve] | Callable[[Task], Curve]
"""A recorded curve to be measured against, or where one is found for each task."""


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
            check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "finite, at least 0")
        if self.step_cost is not None:
            check(0 <= self.step_cost < math.inf, "step_cost", self.step_cost, "finite, at least 0")
        if isinstance(self.reward, str):
            if self.reward not in REWARD_PRESETS:
                raise unknown_name("reward", self.reward, REWARD_PRESETS)
        else:
            for name, weight in self.reward.items():
                if name not in REWARD_TERMS:
                    raise unknown_name("reward", name, REWARD_TERMS)
                check(math.isfinite(weight), f"reward[{name!r}]", weight, "finite")
        check(
            "baseline_improvement" not in self.weights() or self.baseline is not None,
            "baseline",
            self.baseline,
            f"a recorded curve where reward={self.reward!r}",
        )

    def weights(self) -> dict[str, float | None]:
        """Returns the weight of every term that counts; `None` stands for 1 / budget."""
        weights = self._preset() if isinstance(self.reward, str) else dict(self.reward)
        if self.divergence_penalty:
            weights["divergence"] = self.divergence_penalty
        if self.time_cost:
            weights["time_cost"] = self.time_cost
        return {name: weights[name] for name in REWARD_TERMS if name in weights}

    def _preset(self) -> dict[str, float | None]:
        presets: dict[str, dict[str, float | None]] = {
            "delta": {"improvement": 1.0},
            "sign": {"improvement_sign": self.inter_reward, "terminal_score": self.final_reward_scale},
            "risa": {"improvement_sign": 1.0, "elapsed_cost": self.step_cost},
            "terminal": {"terminal_score": self.final_reward_scale},
            "baseline": {"baseline_improvement": 1.0},
        }
        return presets[str(self.reward)]


@dataclass(frozen=True)
class Transition:
    """What the reward of one env step of n lanes depends on.

    Args:
        score_before: Score before the step, float64, shape (n,).
        score: Score after it (in the end, of the weights that `terminal_state` names).
        updates: Updates made or skipped in this step, int64, shape (n,).
        updates_used: Updates since the episode began, this step's included.
        terminated: Whether the episode ends with it, bool, shape (n,).
        newly_diverged: Whether the lane diverged in it, bool, shape (n,).
        baseline_before: The recorded run's score at the updates used before.
        baseline: The recorded run's score at the updates used now; in the end, at the whole budget.
    """

    score_before: np.ndarray
    score: np.ndarray
    updates: np.ndarray
    updates_used: np.ndarray
    terminated: np.ndarray
    newly_diverged: np.ndarray
    baseline_before: np.ndarray
    baseline: np.ndarray


def reward_terms(
    transition: Transition, weights: dict[str, float | None], budget: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute every term, weight included; the reward is their sum.

    Args:
        transition: What happened.
        weights: What `RewardSettings.weights` returned.
        budget: Updates per episode, shape (n,).

    Returns:
        Float64 arrays of shape (n,) by name.
    """
    step = transition
    improvement = step.score - step.score_before
    bare = {
        "improvement": improvement,
        "improvement_sign": np.sign(improvement),
        "time_cost": -step.updates.astype(float),
        "elapsed_cost": -step.updates_used.astype(float),
        "terminal_score": np.where(step.terminated, step.score, 0.0),
        "divergence": -step.newly_diverged.astype(float),
        "baseline_improvement": improvement - (step.baseline - step.baseline_before),
    }
    return {
        name: bare[name] * (1 / budget if weight is None else weight) for name, weight in weights.items()
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
    updates, scores = (np.asarray(part, dtype=float) for part in curve)
    good = (
        updates.ndim == 1
        and updates.shape == scores.shape
        and len(updates) > 0
        and bool(np.all(np.diff(updates) > 0))
        and bool(np.isfinite(updates).all() and np.isfinite(scores).all())
    )
    check(good, "baseline", curve, "(updates, scores): equal lengths, finite, updates rising")
    return updates, scores


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
    """Returns the score of a recorded run after so many updates; held after its end, 0 without a curve."""
    return 0.0 if curve is None else float(np.interp(updates, *curve))
