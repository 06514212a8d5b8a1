"""What a policy is."""

from typing import Protocol

import numpy as np

from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation


class Policy(Protocol):
    """Something that decides in all lanes at once: an agent or a schedule.

    It sees a situation and no environment, so that it serves wherever somebody makes updates. One that
    chooses actions returns `situation.decode(actions)`. A policy serves one set of lanes at a time.
    """

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Forget what was kept of lanes in which a new episode has just begun.

        Args:
            situation: What is known of all lanes, at the beginning of the new episodes.
            lanes: Which lanes, bool, shape (N,).
        """

    def decide(self, situation: Situation) -> Decisions:
        """Decide for one env step; this is called once per env step.

        Args:
            situation: What is known of all lanes.

        Returns:
            Decisions for all lanes, arrays of shape (N,); lanes that have ended ignore theirs.
        """


class EpisodeCounter:
    """Knows which episode of `evaluate_policy` each lane plays, for policies that must know it."""

    def __init__(self) -> None:
        self.episode = np.empty(0, np.int64)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes (bool, shape (N,))."""
        if len(self.episode) != situation.num_envs:
            self.episode = np.arange(situation.num_envs) - situation.num_envs
        self.episode[lanes] += situation.num_envs
