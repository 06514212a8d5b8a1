"""Lanes that play the same tasks side by side, so that what a task gives is told from what an action gives.

How hard a task is moves returns far more than any one decision does, and a critic has to guess it. Lanes of
a group begin every episode with the same seed: task, split, first weights and minibatches are the same, and
their actions alone differ. What the group's advantages have in common is then no merit of an action.
"""

from typing import Any

import numpy as np
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from autotrain_env import AutoTrainConfig
from autotrain_env.errors import check, check_whole

GROUPED = ("ppo", "maskable_ppo")
"""Algorithms whose advantages can be compared within groups."""


def check_groups(algorithm: str, group_size: int, num_envs: int, config: AutoTrainConfig) -> None:
    """Check that lanes can be put in groups.

    Args:
        algorithm: Name of the algorithm.
        group_size: Lanes in a group; 1 for none.
        num_envs: Lanes in all.
        config: The environment's arguments.

    Raises:
        InvalidValueError: If they cannot: the algorithm knows none, the lanes make no whole groups, or an
            agent can stop, after which lanes are no longer at the same env step.
    """
    check_whole("group_size", group_size, 1)
    if group_size == 1:
        return
    check(algorithm in GROUPED, "group_size", group_size, f"1 but for {', '.join(GROUPED)}")
    check(num_envs % group_size == 0, "group_size", group_size, f"a divisor of num_envs={num_envs}")
    check(not config.stop, "group_size", group_size, "1 unless env.stop=False: lanes end together")


def less_common(advantages: np.ndarray, group_size: int) -> np.ndarray:
    """Returns advantages less the mean of those at the same env step of their group.

    Args:
        advantages: One for each env step and lane, lanes of a group side by side, float32, shape (T, N).
        group_size: Lanes in a group, a divisor of N.
    """
    grouped = advantages.reshape(len(advantages), -1, group_size)
    return (grouped - grouped.mean(2, keepdims=True)).reshape(advantages.shape)


class _Grouped(RolloutBuffer):
    """A rollout whose advantages are compared within groups of lanes."""

    def __init__(self, *args: Any, group_size: int, **kwargs: Any) -> None:
        self.group_size = group_size
        super().__init__(*args, **kwargs)

    def compute_returns_and_advantage(self, *args: Any, **kwargs: Any) -> None:
        super().compute_returns_and_advantage(*args, **kwargs)
        self.advantages = less_common(self.advantages, self.group_size)


class GroupedRolloutBuffer(_Grouped):
    """`RolloutBuffer` for `group_size` lanes in a group; targets of the critic stay as they are."""


class GroupedMaskableRolloutBuffer(_Grouped, MaskableRolloutBuffer):
    """`MaskableRolloutBuffer` for `group_size` lanes in a group; see `GroupedRolloutBuffer`."""


def buffer_arguments(algorithm: str, group_size: int) -> dict[str, Any]:
    """Returns the arguments of Stable-Baselines3 that an algorithm compares within groups by."""
    if group_size == 1:
        return {}
    masked = algorithm == "maskable_ppo"
    return {
        "rollout_buffer_class": GroupedMaskableRolloutBuffer if masked else GroupedRolloutBuffer,
        "rollout_buffer_kwargs": {"group_size": group_size},
    }
