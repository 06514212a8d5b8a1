"""What several test modules share: a small problem, lanes of vector infos, exact comparison."""

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

import autotrain_env
from autotrain_env import AutoTrainVectorEnv, Dataset, synthetic

# An episode of this, six env steps, takes milliseconds.
TINY: dict[str, Any] = {
    "inner_steps": 4,
    "history_length": 2,
    "num_snapshots": 3,
    "train_size": 48,
    "holdout_size": 40,
    "validation_size": 40,
    "batch_size": 8,
    "classifier": "mlp-6",
    "budget": 24,
}
IDS = tuple(autotrain_env.ENVIRONMENTS)
ACTION_TYPES = ("discrete", "multi_discrete", "continuous", "learning_rate")


def tiny(**kwargs: Any) -> dict[str, Any]:
    """Arguments of a small environment, some of them replaced."""
    return TINY | {"dataset": tiny_data()} | kwargs


def tiny_data(**kwargs: Any) -> Dataset:
    """A learnable synthetic set: 320 vectors of 8 features, 4 classes."""
    arguments: dict[str, Any] = {"num_classes": 4, "num_features": 8, "size": 400, "difficulty": 0.2}
    return synthetic(**(arguments | kwargs))


def user_arrays(
    size: int = 60, shape: tuple[int, ...] = (3,), num_classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels as a user has them: noise, in classes as equally large as can be."""
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((size, *shape)).astype(np.float32)
    return images, generator.permutation(np.arange(size) % num_classes)


def rows(images: torch.Tensor) -> set[bytes]:
    """The bytes of every image."""
    return {image.numpy().tobytes() for image in images}


def lane_of(info: dict[str, Any], lane: int) -> dict[str, Any]:
    """What a vector environment's information says of one lane, as a scalar environment would say it."""
    found = {}
    for key, values in info.items():
        if key.startswith("_") or not info[f"_{key}"][lane]:
            continue
        if isinstance(values, dict):
            found[key] = lane_of(values, lane)
        else:
            value = values[lane]
            found[key] = value.item() if isinstance(value, np.generic) else value
    return found


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Compare nested data bit for bit, types included (NaN is equal to NaN only in equal bits)."""
    assert type(left) is type(right), (path, type(left), type(right))
    if isinstance(left, Mapping):
        assert left.keys() == right.keys(), (path, set(left) ^ set(right))
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), path
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{path}[{i}]")
    elif isinstance(left, np.ndarray):
        assert left.shape == right.shape and left.dtype == right.dtype, (path, left, right)
        if left.dtype == object:
            assert_same(left.tolist(), right.tolist(), path)
        else:
            assert left.tobytes() == right.tobytes(), (path, left, right)
    elif isinstance(left, torch.Tensor):
        assert_same(left.numpy(), right.numpy(), path)
    else:
        assert left == right, (path, left, right)


def leaves(data: Any) -> list[Any]:
    """All values in nested dictionaries, lists, tuples and object arrays."""
    if isinstance(data, Mapping):
        return [leaf for value in data.values() for leaf in leaves(value)]
    if isinstance(data, (list, tuple)) or (isinstance(data, np.ndarray) and data.dtype == object):
        return [leaf for value in list(data) for leaf in leaves(value)]
    return [data]


def weights(env: gymnasium.Env[Any, Any] | Any, lane: int = 0) -> dict[str, np.ndarray]:
    """Copies of one lane's parameters and buffers."""
    named = env.unwrapped.core.stacks.weights_of(lane)
    return {name: tensor.numpy() for name, tensor in named.items()}


class Actions:
    """Draws random actions for one lane, from a stream of its own.

    Args:
        env: Scalar or vector environment.
        seed: Seed of the stream.
        stop: Whether actions may stop the episode.
    """

    def __init__(self, env: Any, seed: int, stop: bool = True) -> None:
        self.space = copy.deepcopy(getattr(env, "single_action_space", env.action_space))
        self.space.seed(seed)
        config = env.unwrapped.config
        self.never_stop = config.stop and not stop and config.action_type != "learning_rate"

    def __call__(self) -> Any:
        action = self.space.sample()
        if self.never_stop and isinstance(self.space, spaces.Discrete):
            return action if action < self.space.n - 1 else self.space.np_random.integers(self.space.n - 1)
        if self.never_stop and isinstance(self.space, spaces.MultiDiscrete):
            action[2] = min(action[2], self.space.nvec[2] - 2)
        elif self.never_stop:
            action[-1] = min(action[-1], 0.9)
        return action


def spaces_of(env: AutoTrainVectorEnv) -> tuple[Any, Any]:
    """Observation and action space of one lane."""
    return env.single_observation_space, env.single_action_space
