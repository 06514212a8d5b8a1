"""Checkpoints of models of Stable-Baselines3, which training goes on from bit for bit.

They are plain data (see `agents.runs.plain`): a model is made anew from the run's configuration, and takes
the weights, the optimisers' states, counters and arrays of the old one. Stable-Baselines3's own files,
which are pickles inside, are neither written nor read.
"""

import collections
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor, nn

from agents.runs.folder import RunConfig
from agents.training.models import make_model
from autotrain_env.envs.sb3 import AutoTrainVecEnv
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.trained import JSON_NAME, load_policy

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


def model_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Returns what training has changed of a model, as plain data.

    What is left out (spaces, schedules, the kinds of networks) is made from the run's configuration.
    """
    _, variables = model._get_torch_save_params()
    left_out = {"policy", "env", "logger", "replay_buffer", "rollout_buffer", *variables}
    attributes = {
        name: value for name, value in vars(model).items() if name not in left_out and _is_plain(value)
    }
    state = {
        "attributes": attributes,
        "parameters": model.get_parameters(),
        "variables": {name: getattr(model, name).detach() for name in variables},
        "lstm_states": _as_tuples(getattr(model, "_last_lstm_states", None)),
    }
    if isinstance(model, OffPolicyAlgorithm):
        state["replay_buffer"] = _of_buffer(model)
    return state


def _of_buffer(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """Returns the arrays and counters of a replay buffer."""
    kept = (np.ndarray, int, bool)
    return {name: value for name, value in vars(model.replay_buffer).items() if isinstance(value, kept)}


def _is_plain(value: Any) -> bool:
    """Returns whether a value is a number, a text, an array, or made of such."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(_is_plain(entry) for entry in (*value, *value.values()))
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value) in (list, tuple, collections.deque) and all(map(_is_plain, value))
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    plain = (type(None), bool, int, float, str)
    return type(value) in plain or isinstance(value, (np.generic, np.ndarray))


def _as_tuples(states: Any) -> Any:
    """Returns states of a recurrent layer as plain tuples of tensors; `None` where there are none."""
    return None if states is None else tuple(tuple(part) for part in states)


def load_checkpoint(
    checkpoint: Path, state: dict[str, Any], config: RunConfig, env: VecMonitor
) -> BaseAlgorithm:
    """Returns a checkpoint's model, its environment and all random streams as they were.

    Args:
        checkpoint: Folder of the checkpoint.
        state: What `read_plain` found there.
        config: Configuration of the run.
        env: Environment where the model goes on.

    Raises:
        InvalidValueError: If a file is missing or damaged.
    """
    start_from = load_policy(checkpoint) if (checkpoint / JSON_NAME).exists() else None
    model = make_model(config.algorithm, env, config.hyperparameters, config.seed, start_from)
    try:
        _restore(model, state)
    except Exception as error:  # what does not fit may raise anything
        raise InvalidValueError(f"{checkpoint} is damaged: {error!r}") from error
    return model


def _restore(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Give a model, its environment and all random streams the state that they had."""
    of_model = state["model"]
    unknown = [name for name in of_model["attributes"] if not hasattr(model, name)]
    assert not unknown, f"unknown attributes {unknown}"
    vars(model).update(of_model["attributes"])
    model.set_parameters(of_model["parameters"], exact_match=True, device="cpu")
    for name, value in of_model["variables"].items():
        getattr(model, name).data.copy_(value)
    if isinstance(model, ARS):  # what it moves is a copy of the policy's parameters
        vars(model)["weights"] = nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    if of_model["lstm_states"] is not None:
        kind = type(model._last_lstm_states)  # type: ignore[attr-defined]
        model._last_lstm_states = kind(*of_model["lstm_states"])  # type: ignore[attr-defined]
    if isinstance(model, OffPolicyAlgorithm):
        _restore_buffer(model, of_model["replay_buffer"])
    monitor, vec_env = environments_of(model)
    vec_env._reset_seeds()  # making the model has seeded it once more
    vec_env.env.load_state_dict(state["env"])
    vars(monitor).update({name: state["monitor"][name] for name in MONITORED})
    drawn = state["random"]
    random.setstate(drawn["python"])
    np.random.set_state(drawn["numpy"])
    torch.set_rng_state(drawn["torch"])
    model.action_space.np_random.bit_generator.state = drawn["action_space"]


def _restore_buffer(model: OffPolicyAlgorithm, kept: dict[str, Any]) -> None:
    for name, value in kept.items():
        there = getattr(model.replay_buffer, name)
        assert type(there) is type(value), f"replay buffer: {name}"
        assert np.shape(there) == np.shape(value), f"replay buffer: {name}"
        setattr(model.replay_buffer, name, value)
