"""What the core keeps of every lane beside its lineage, and what it gives back of a step."""

from dataclasses import dataclass
from typing import Any

import numpy as np


class Lanes:
    """How far each lane's episode is, and what its reward looks at; arrays of shape (N,).

    Args:
        num_envs: Number of lanes (N).
    """

    def __init__(self, num_envs: int) -> None:
        self.begun = np.zeros(num_envs, bool)  # whether it was ever reset
        self.episode_seed = np.zeros(num_envs, np.int64)
        self.steps = np.zeros(num_envs, np.int64)  # env steps
        self.can_reinit = np.ones(num_envs, bool)
        self.running = np.zeros(num_envs, bool)
        self.terminated = np.zeros(num_envs, bool)
        self.truncated = np.zeros(num_envs, bool)
        self.score = np.zeros(num_envs)  # on the reward's split
        self.best_holdout_answer = np.zeros(num_envs)
        self.best_score = np.zeros(num_envs)  # of the best-on-holdout weights, on the reward's split

    def begin(self, lanes: np.ndarray, episode_seeds: list[int], can_reinit: list[bool]) -> None:
        """Begin new episodes.

        Args:
            lanes: Which lanes, int64, shape (n,).
            episode_seeds: The numbers drawn for them.
            can_reinit: Whether other networks can be drawn in each of them.
        """
        self.begun[lanes] = True
        self.can_reinit[lanes] = can_reinit
        self.episode_seed[lanes] = episode_seeds
        self.steps[lanes] = 0
        self.running[lanes] = True
        self.terminated[lanes] = self.truncated[lanes] = False
        self.best_holdout_answer[lanes] = self.best_score[lanes] = -np.inf

    def copy_lane(self, source: int, target: int) -> None:
        """Copy everything of lane `source` to lane `target`."""
        for array in vars(self).values():
            array[target] = array[source]


@dataclass(frozen=True)
class StepResult:
    """What one env step brought; arrays over all N lanes.

    Args:
        reward: Reward of the step, float64; 0 in lanes that did not run.
        terminated: Whether the episode has ended by stop or budget, bool; kept in lanes that have ended.
        truncated: Whether it was cut short, bool; kept likewise.
        ran: Which lanes took part, bool.
        info: Arrays by name, true of the lanes that ran; `reward_terms` is a dictionary of arrays.
        final: Arrays by name for the lanes that ended in this step, true of those alone.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ran: np.ndarray
    info: dict[str, Any]
    final: dict[str, np.ndarray]
