"""Reward: named terms, weighted and summed."""

from dataclasses import dataclass

import numpy as np

from autotrain_env.errors import check
from autotrain_env.process.config import REWARD_TERMS, AutoTrainConfig, Curve
from autotrain_env.process.tasks import Task


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


def reward_weights(config: AutoTrainConfig) -> dict[str, float | None]:
    """Weight of every term that counts; `None` stands for 1 / budget.

    Args:
        config: The environment's arguments.
    """
    if not isinstance(config.reward, str):
        weights: dict[str, float | None] = dict(config.reward)
    else:
        presets: dict[str, dict[str, float | None]] = {
            "delta": {"improvement": 1.0},
            "sign": {
                "improvement_sign": config.inter_reward,
                "terminal_score": config.final_reward_scale,
            },
            "risa": {"improvement_sign": 1.0, "elapsed_cost": config.step_cost},
            "terminal": {"terminal_score": config.final_reward_scale},
            "baseline": {"baseline_improvement": 1.0},
        }
        weights = presets[config.reward]
    if config.divergence_penalty:
        weights["divergence"] = config.divergence_penalty
    if config.time_cost:
        weights["time_cost"] = config.time_cost
    return {name: weights[name] for name in REWARD_TERMS if name in weights}


def reward_terms(
    transition: Transition, weights: dict[str, float | None], budget: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute every term, weight included; the reward is their sum.

    Args:
        transition: What happened.
        weights: What `reward_weights` returned.
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
        ValueError: If lengths differ, updates do not rise or something is not finite.
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


def baseline_curve(config: AutoTrainConfig, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
    """The recorded run for a task, or `None` where no baseline is given.

    Raises:
        ValueError: If there is no curve for this task, or it is not one.
    """
    source = config.baseline
    if source is None:
        return None
    if callable(source):
        return check_curve(source(task))
    if isinstance(source, (tuple, list)):
        return check_curve(source)
    check(task in source, "baseline", f"a mapping without {task}", "a mapping with every task met")
    return check_curve(source[task])


def baseline_at(curve: tuple[np.ndarray, np.ndarray] | None, updates: float) -> float:
    """Score of a recorded run after so many updates; held after its end, 0 without a curve."""
    return 0.0 if curve is None else float(np.interp(updates, *curve))
