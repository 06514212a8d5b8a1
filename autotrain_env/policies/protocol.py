"""What a policy is."""

from typing import Protocol

import numpy as np

from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.process.actions import Decisions


class Policy(Protocol):
    """Something that decides in all lanes at once: an agent or a schedule.

    An agent that chooses actions returns `env.core.decode(actions)`. A policy serves one environment at a
    time.
    """

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Forget what was kept of lanes in which a new episode has just begun.

        Args:
            env: The environment, already reset.
            lanes: Which lanes, bool, shape (N,).
        """

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """Decide for one env step. Called once per env step.

        Args:
            env: The environment.
            observation: Observations of all lanes, shape (N, …).

        Returns:
            Decisions for all lanes; lanes that have ended ignore theirs.
        """


class EpisodeCounter:
    """Knows which episode of `evaluate_policy` each lane plays, for policies that must know it."""

    def __init__(self) -> None:
        self.episode = np.empty(0, np.int64)

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes (bool, shape (N,))."""
        if len(self.episode) != env.num_envs:
            self.episode = np.arange(env.num_envs) - env.num_envs
        self.episode[lanes] += env.num_envs
