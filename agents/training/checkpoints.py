"""Checkpoints of models of Stable-Baselines3, which training goes on from bit for bit."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor

from agents.runs.folder import RunConfig
from agents.training.algorithms import find_algorithm
from autotrain_env.envs.sb3 import AutoTrainVecEnv
from autotrain_env.errors import InvalidValueError

MONITORED = ("episode_returns", "episode_lengths", "episode_count")


def environments_of(model: BaseAlgorithm) -> tuple[VecMonitor, AutoTrainVecEnv]:
    """Returns the monitor of a model's environment, and the environment inside it."""
    monitor = model.get_env()
    assert isinstance(monitor, VecMonitor) and isinstance(monitor.venv, AutoTrainVecEnv)
    return monitor, monitor.venv


def random_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Returns the state of every random stream that training draws from, by name."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def load_checkpoint(
    checkpoint: Path, state: dict[str, Any], config: RunConfig, env: VecMonitor
) -> BaseAlgorithm:
    """Returns a checkpoint's model, its environment and all random streams as they were.

    Args:
        checkpoint: Folder of the checkpoint.
        state: What `read_state` found there.
        config: Configuration of the run.
        env: Environment where the model goes on.

    Raises:
        InvalidValueError: If a file is missing or damaged.
    """
    model = _load_model(checkpoint, config, env)
    if isinstance(model, ARS):  # loading draws new weights, and then only replaces the policy's
        vars(model)["weights"] = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    if state["lstm_states"] is not None:
        model._last_lstm_states = state["lstm_states"]  # type: ignore[attr-defined]
    monitor, vec_env = environments_of(model)
    vec_env._reset_seeds()  # loading has seeded it once more
    vec_env.env.load_state_dict(state["env"])
    vars(monitor).update(state["monitor"])
    drawn = state["random"]
    random.setstate(drawn["python"])
    np.random.set_state(drawn["numpy"])
    torch.set_rng_state(drawn["torch"])
    model.action_space.np_random.bit_generator.state = drawn["action_space"]
    return model


def _load_model(checkpoint: Path, config: RunConfig, env: VecMonitor) -> BaseAlgorithm:
    """Returns a checkpoint's model, with its replay buffer where it has one.

    Raises:
        InvalidValueError: If a file is missing or damaged.
    """
    model_class = find_algorithm(config.algorithm).model_class
    path = checkpoint / "model.zip"
    try:
        with path.open("rb") as file:
            model: BaseAlgorithm = model_class.load(file, env, device="cpu", force_reset=False)
        if isinstance(model, OffPolicyAlgorithm):
            path = checkpoint / "replay_buffer.pkl"
            with path.open("rb") as file:
                model.load_replay_buffer(file)
    except Exception as error:  # what a damaged file raises may be anything
        raise InvalidValueError(f"{path} is damaged: {error!r}") from error
    return model
