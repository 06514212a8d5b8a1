"""What `train` and `tune` have in common: the environment that an agent is trained in."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium

import autotrain_env
from agents.commands.arguments import EnvArguments
from agents.training.algorithms import REWARD, Algorithm, check_action_space
from autotrain_env import AutoTrainEnv
from autotrain_env.errors import unknown_name


@dataclass
class AgentArguments:
    """Arguments that say what an agent is trained in."""

    id: str | None = None
    """Id of the environment; by default AutoTrain-v0, or AutoTrainContinuous-v0 for sac and td3."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment."""

    num_envs: int | None = None
    """Networks trained side by side; by default what the hyperparameters say."""

    def environment(self, algorithm: Algorithm) -> tuple[str, dict[str, Any], AutoTrainEnv]:
        """Returns the environment's id and keyword arguments, checked, and one of them.

        Args:
            algorithm: What is to act in it.

        Raises:
            InvalidValueError: If something is not allowed.
        """
        env_id = self.id or algorithm.env_id
        if env_id not in autotrain_env.ENVIRONMENTS:
            raise unknown_name("id", env_id, autotrain_env.ENVIRONMENTS)
        kwargs: dict[str, Any] = {"observation_layout": "flat", **self.env.given()}
        if "reward" not in {**autotrain_env.ENVIRONMENTS[env_id], **kwargs}:
            kwargs["reward"] = REWARD
        probe = gymnasium.make(env_id, **kwargs)
        check_action_space(algorithm, probe.action_space, env_id)
        assert isinstance(probe.unwrapped, AutoTrainEnv)
        return env_id, kwargs, probe.unwrapped
