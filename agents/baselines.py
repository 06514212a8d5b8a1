"""Schedules to compare agents with, and how their rate is tuned."""

from typing import Any

import gymnasium
import numpy as np

from agents.progress import Report, portion
from agents.seeds import TUNING_SEED
from autotrain_env.evaluation import evaluate_policy
from autotrain_env.schedules import Schedule

GRID = np.geomspace(1e-3, 10, 8)
"""Learning rates, over the range that tasks of the default preset start from."""


def tune(
    env: gymnasium.vector.VectorEnv[Any, Any, Any],
    schedule: Schedule,
    episodes: int,
    report: Report,
) -> float:
    """The rate of the grid that is best for all tasks on average, by the validation score at the end.

    Args:
        env: In autoreset mode `DISABLED`.
        schedule: What to tune.
        episodes: Episodes for each rate, on tuning seeds.
        report: Told how far it is.
    """
    scores = []
    for i, rate in enumerate(GRID):
        tried = schedule.with_learning_rate(float(rate))
        results = evaluate_policy(
            env, tried, episodes, TUNING_SEED, progress=portion(report, i, 1, len(GRID))
        )
        scores.append(results["score"].mean())
    return float(GRID[int(np.argmax(scores))])
