"""PPO (Stable-Baselines3) on AutoTrain, with what it needs to learn at all."""

from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from autotrain_env import AutoTrainConfig, AutoTrainVectorEnv, Curriculum, Decisions

REWARD = {"improvement": 5.0}  # the default reward, scaled so that value targets are of order 1

# An untrained policy that stops or re-initialises at random never sees the end of an episode.
REWIND_BIAS, REINIT_BIAS, STOP_BIAS = -1.5, -3.0, -4.0

HYPERPARAMETERS: dict[str, Any] = {
    "n_steps": 30,  # a whole episode of the default task
    "batch_size": 480,
    "n_epochs": 6,
    "learning_rate": 7e-4,
    "gamma": 1.0,
    "gae_lambda": 1.0,  # credit over the whole episode: less makes the agent decay its rate too soon
    "ent_coef": 0.003,
}


def make_ppo(env: VecEnv, config: AutoTrainConfig, seed: int = 0, **hyperparameters: Any) -> PPO:
    """Make an untrained PPO agent for discrete actions.

    Args:
        env: Where it is trained.
        config: The arguments that the environment was made with.
        seed: Of the policy's weights, its exploration and the environment's tasks.
        hyperparameters: Replace those of `HYPERPARAMETERS`.
    """
    model = PPO(
        "MlpPolicy",
        env,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": [64, 64]},
        **(HYPERPARAMETERS | hyperparameters),
    )
    last_layer = model.policy.action_net
    assert isinstance(last_layer, torch.nn.Linear)
    with torch.no_grad():
        last_layer.bias.copy_(torch.from_numpy(action_bias(config)))
    return model


def action_bias(config: AutoTrainConfig) -> np.ndarray:
    """Initial logits of the discrete actions, float32, shape (number of actions,)."""
    assert config.num_rewinds is not None
    rewinds = np.full(config.num_rewinds, REWIND_BIAS)
    rewinds[0] = 0.0
    verbs = [REINIT_BIAS] * config.reinit + [STOP_BIAS] * config.stop
    return np.concatenate((np.repeat(rewinds, len(config.lr_factors)), verbs)).astype(np.float32)


class AgentPolicy:
    """A Stable-Baselines3 model as a policy of `autotrain_env.evaluation`.

    Args:
        model: The trained agent.
        deterministic: Whether it takes its likeliest action, or draws.
    """

    def __init__(self, model: BaseAlgorithm, deterministic: bool = True) -> None:
        self.model = model
        self.deterministic = deterministic

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Nothing to forget: the observation holds what the agent remembers."""

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """Decide for one env step."""
        actions, _ = self.model.predict(observation, deterministic=self.deterministic)
        return env.core.decode(actions)


class CurriculumCallback(BaseCallback):
    """Moves the curriculum's level by the agent's success while it trains.

    Args:
        curriculum: The levels.
        success_score: Final score from which an episode counts as a success.
        window: Episodes between two decisions.
    """

    def __init__(self, curriculum: Curriculum, success_score: float, window: int = 100) -> None:
        super().__init__()
        self.curriculum = curriculum
        self.success_score = success_score
        self.window = window
        self.level = 0
        self._successes: list[bool] = []

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._successes.append(info["score"] >= self.success_score)
        if len(self._successes) >= self.window:
            self.level = self.curriculum.next_level(self.level, self._successes)
            self.training_env.env_method("set_task_level", self.level)
            self._successes.clear()
        return True
