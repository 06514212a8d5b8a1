"""The network of a policy, layer by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.policies.spec import ACTIVATIONS, RECURRENT, PolicySpec
from autotrain_env.process.observations import NUM_METRICS

MAX_NORMALIZED = 10.0
"""Normalised observations are cut off there, on either side of 0."""
LEAST_VARIANCE = 1e-2


class Normalize(nn.Module):
    """Observations less their mean, over their deviation, as a normaliser found them before.

    Args:
        size: How many numbers an observation holds.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise observations of shape (n, size), and cut them off at `MAX_NORMALIZED`."""
        normalized = (observation - self.mean) / self.deviation
        return normalized.clamp(-MAX_NORMALIZED, MAX_NORMALIZED)


class Familiarity(nn.Module):
    """How far normalised observations lie from those that a policy was trained on.

    It is Mahalanobis' distance by one covariance, as a root mean square over the numbers of an observation.
    The root mean square of that over the observations of training is at most 1; it is less by the numbers
    that follow from others.

    Args:
        size: How many numbers an observation holds.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> "Familiarity":
        """Returns the distance by the moments of normalised observations.

        Args:
            mean: Their mean, shape (size,).
            covariance: Their covariance, shape (size, size); a small variance is added to each number's, so
                that those that never differ count, too.
        """
        made = cls(len(mean))
        steadied = covariance.double() + LEAST_VARIANCE * torch.eye(len(mean), dtype=torch.float64)
        made.mean = mean.float()
        made.whitening = torch.linalg.cholesky(torch.linalg.inv(steadied)).float()
        return made

    def forward(self, normalized: Tensor) -> Tensor:
        """Returns the distance of observations of shape (n, size), shape (n,)."""
        return ((normalized - self.mean) @ self.whitening).square().mean(1).sqrt()


class StateAttention(nn.Module):
    """One layer of self-attention over the H states of an observation, each of which is a token.

    From (n, H * K * M) or (n, H, K, M) to (n, H * width).

    Args:
        rows: Number of states (H).
        windows: Number of samples of each metric (K).
        width: How many numbers stand for a state.
        heads: Number of heads of the attention.
        metrics: Number of metrics (M).
    """

    def __init__(
        self, rows: int, windows: int, width: int = 32, heads: int = 4, metrics: int = NUM_METRICS
    ) -> None:
        super().__init__()
        self.rows, self.windows, self.width, self.heads, self.metrics = rows, windows, width, heads, metrics
        self.embed = nn.Linear(windows * metrics, width)
        self.position = nn.Parameter(torch.zeros(rows, width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, observation: Tensor) -> Tensor:
        """Describe each state beside the others: (n, H * K * M) or (n, H, K, M) to (n, H * width)."""
        states = observation.reshape(len(observation), self.rows, -1)
        tokens = torch.tanh(self.embed(states) + self.position)
        # Not need_weights=False, whose fused kernel has no second derivative, which TRPO takes.
        return (tokens + self.attend(tokens, tokens, tokens)[0]).flatten(1)


class PolicyNetwork(nn.Module):
    """The layers of a policy, in order.

    Args:
        spec: Description of the policy.
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_make_layer(layer) for layer in spec.layers)
        if spec.head == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(spec.num_actions))
        if spec.abstention is not None:
            self.familiarity = Familiarity(int(np.prod(spec.observation_space.shape)))

    def forward(
        self, observation: Tensor, state: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Apply all layers, one after another.

        Args:
            observation: Observations, float32, shape (n, …).
            state: State of the recurrent layer, one tensor of shape (n, hidden) for each of its parts;
                `None` where there is no such layer.

        Returns:
            Numbers for the head, shape (n, …), and the recurrent layer's next state.
        """
        values = observation
        for layer in self.layers:
            if isinstance(layer, (nn.LSTM, nn.GRU)):
                assert state is not None
                before = tuple(part.unsqueeze(0).contiguous() for part in state)
                values, after = layer(values.unsqueeze(0), before if len(before) > 1 else before[0])
                after = after if isinstance(after, tuple) else (after,)
                values, state = values.squeeze(0), tuple(part.squeeze(0) for part in after)
            else:
                values = layer(values)
        return values, state

    def distances(self, observation: Tensor) -> Tensor:
        """Returns how far observations (n, …) lie from those of training, shape (n,); see `Familiarity`."""
        values = observation
        for layer in self.layers:
            values = layer(values)
            if isinstance(layer, Normalize):
                break
        distances: Tensor = self.familiarity(values)
        return distances


def _make_layer(layer: Mapping[str, Any]) -> nn.Module:
    if layer["type"] == "linear":
        return nn.Linear(layer["in"], layer["out"])
    if layer["type"] in RECURRENT:
        kind = nn.LSTM if layer["type"] == "lstm" else nn.GRU
        return kind(layer["in"], layer["hidden"])
    if layer["type"] == "normalize":
        return Normalize(layer["size"])
    if layer["type"] == "state_attention":
        return StateAttention(**{name: value for name, value in layer.items() if name != "type"})
    return ACTIVATIONS[layer["type"]]()
