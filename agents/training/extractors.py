"""Feature extractors for Stable-Baselines3."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from autotrain_env.policies.layers import Normalize, StateAttention

EXTRACTORS = ("flat", "attention")
"""How a network takes its observation: `flat` as it is, `attention` with a `StateAttention` before it."""


class AttentionExtractor(BaseFeaturesExtractor):
    """`StateAttention` as Stable-Baselines3 takes it.

    Args:
        observation_space: Flat or of shape (H, K, M).
        rows: States (H).
        windows: Samples of each metric (K).
        width: Numbers that stand for a state.
    """

    def __init__(self, observation_space: spaces.Box, rows: int, windows: int, width: int = 32) -> None:
        super().__init__(observation_space, rows * width)
        metrics = int(np.prod(observation_space.shape)) // (rows * windows)
        self.attention = StateAttention(rows, windows, width, metrics=metrics)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns features, shape (n, H * width)."""
        return self.attention(observations)


class NormalizeExtractor(BaseFeaturesExtractor):
    """`Normalize` as Stable-Baselines3 takes it; its moments are those of another policy and stay so.

    Args:
        observation_space: Flat or of shape (H, K, M).
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        size = int(np.prod(observation_space.shape))
        super().__init__(observation_space, size)
        self.normalize = Normalize(size)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns features, shape (n, H * K * M)."""
        return self.normalize(observations.flatten(1))
