"""Stacks of networks to train, and what their lanes are given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import as_classifier
from autotrain_env.training.engine import Evaluation, Trained
from autotrain_env.training.optimizers import OPTIMIZERS, Optimizer
from autotrain_env.training.stack import LaneStack

T, B, E = 6, 7, 37  # updates, images in a minibatch, images in an evaluation
CPU = torch.device("cpu")
NUM_IMAGES = 300


@dataclass(frozen=True)
class Sizes:
    """How large everything is that lanes are given."""

    image_shape: tuple[int, ...] = (1, 8, 8)
    num_classes: int = 10
    num_updates: int = T
    batch_size: int = B
    num_images: int = E

    def pool(self) -> Tensor:
        """Images to train and evaluate on, float64, shape (300, features)."""
        generator = np.random.default_rng(0)
        return torch.from_numpy(generator.standard_normal((NUM_IMAGES, math.prod(self.image_shape))))


class Lane:
    """What one lane is given: everything follows from its number."""

    def __init__(self, architecture: Architecture, number: int, sizes: Sizes) -> None:
        generator = np.random.default_rng(number)
        self.row = architecture.initial_row("kaiming_normal", generator)
        self.rate = 0.01 * (1 + number % 7)
        self.mean, self.std = torch.tensor([0.1 * number]), torch.tensor([1.0 + 0.2 * number])
        shape = (sizes.num_updates, sizes.batch_size)
        self.indices = generator.integers(0, NUM_IMAGES, shape)
        self.labels = generator.integers(0, sizes.num_classes, shape)
        self.test_indices = generator.integers(0, NUM_IMAGES, sizes.num_images)
        self.test_labels = generator.integers(0, sizes.num_classes, sizes.num_images)


class Setup:
    """A stack with some lanes in some of its slots, and what they are given."""

    def __init__(
        self,
        classifier: Any = "mlp-9",
        optimizer: str | Optimizer = "adam",
        *,
        lanes: list[int],
        slots: list[int] | None = None,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
        num_snapshots: int = 2,
        sizes: Sizes = Sizes(),  # noqa: B008 (it cannot change)
    ) -> None:
        self.architecture = Architecture(as_classifier(classifier), sizes.image_shape, sizes.num_classes)
        rule = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
        self.stack = LaneStack(self.architecture, rule, num_snapshots, backend, dtype, CPU)
        self.slots = np.array([*range(len(lanes))] if slots is None else slots)
        for _ in range(max(self.slots) + 1):
            self.stack.acquire()
        self.pool = sizes.pool().to(dtype)
        self.lanes = [Lane(self.architecture, number, sizes) for number in lanes]
        for slot, lane in zip(self.slots.tolist(), self.lanes, strict=True):
            self.stack.set_normalization(slot, lane.mean, lane.std)
            self.stack.set_lane_values(slot, rule)
        self.stack.set_network(self.slots, np.stack([lane.row for lane in self.lanes]))

    def train(self, times: int = 1) -> Trained:
        for _ in range(times):
            trained = self.stack.train(
                self.pool,
                self.slots,
                np.array([lane.rate for lane in self.lanes]),
                np.stack([lane.indices for lane in self.lanes]),
                np.stack([lane.labels for lane in self.lanes]),
            )
        return trained

    def evaluate(self, *, losses: bool = True, best: bool = False) -> Evaluation:
        return self.stack.evaluate(
            self.pool,
            self.slots,
            np.stack([lane.test_indices for lane in self.lanes]),
            np.stack([lane.test_labels for lane in self.lanes]),
            losses=losses,
            best=best,
        )

    def rows(self) -> Tensor:
        return self.stack.state[torch.from_numpy(self.slots)].clone()

    def everything(self) -> list[np.ndarray]:
        """All results of training twice and evaluating, one entry per lane."""
        first, second = self.train(), self.train()
        evaluation = self.evaluate()
        assert evaluation.losses is not None
        results = [*first, *second, evaluation.correct, evaluation.losses, evaluation.finite]
        return [*results, self.rows().numpy()]


def assert_same_bits(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def of_lanes(results: list[np.ndarray], lanes: list[int]) -> list[np.ndarray]:
    return [result[lanes] for result in results]
