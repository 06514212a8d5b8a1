"""What computes the updates and evaluations of a stack's networks: the interface, and the choice of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import InvalidValueError, unknown_name
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.optimizers import Optimizer

if TYPE_CHECKING:
    from autotrain_env.training.stack import LaneStack

BACKENDS = ("auto", "native", "stacked", "looped")
"""Ways to compute networks side by side; `make_engine` says what each is."""


class Trained(NamedTuple):
    """What T updates of n networks gave.

    Args:
        losses: Mean log loss of every minibatch [nats], float64, shape (n, T).
        accuracies: Share of right answers on every minibatch, float64, shape (n, T).
        finite: Whether all numbers of a lane's state are finite then, bool, shape (n,).
    """

    losses: np.ndarray
    accuracies: np.ndarray
    finite: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What n networks make of E images each.

    Args:
        correct: Whether each image is classified rightly, bool, shape (n, E).
        losses: Log loss of each image [nats], shape (n, E); `None` where it was not asked for.
        finite: Whether the largest logit of each image is finite, bool, shape (n, E).
    """

    correct: np.ndarray
    losses: np.ndarray | None
    finite: np.ndarray


class Engine(ABC):
    """Computes the networks of a stack; it holds no state of theirs."""

    backend: str
    """The name in `BACKENDS` by which the engine can be asked for."""

    @abstractmethod
    def train(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> Trained:
        """Make T updates of each of n lanes; shapes as in `LaneStack.train`."""

    @abstractmethod
    def evaluate(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        losses: bool,
        best: bool,
    ) -> Evaluation:
        """Evaluate n lanes on E images each; shapes as in `LaneStack.evaluate`."""


def make_engine(
    architecture: Architecture, optimizer: Optimizer, backend: str, dtype: torch.dtype, device: torch.device
) -> Engine:
    """Choose how n networks are computed.

    Args:
        architecture: What they have in common.
        optimizer: Their update rule.
        backend: `"native"`: compiled code of this package, for multilayer perceptrons and the package's
            `CNN` in float32 on a CPU; `"stacked"`: torch, all lanes at once; `"looped"`: torch, one lane
            after another; `"auto"`: native where it can be had, else stacked for multilayer perceptrons
            everywhere and for all networks on an accelerator, and looped for other networks on a CPU.
        dtype: Dtype of the weights.
        device: Device that holds the weights.

    Raises:
        InvalidValueError: If the backend is unknown, or `"native"` and this cannot be computed by it.
    """
    from autotrain_env.training.native.engine import NativeEngine, why_not_native
    from autotrain_env.training.torch_engine import TorchEngine

    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend in ("auto", "native"):
        reason = why_not_native(architecture, optimizer, dtype, device)
        if reason is None:
            return NativeEngine(architecture, optimizer)
        if backend == "native":
            raise InvalidValueError(f"backend='native' cannot be used: {reason}")
    return TorchEngine(architecture, optimizer, backend, dtype, device)
