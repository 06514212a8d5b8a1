"""The engine that computes networks by torch: in any dtype, on any device, for any module."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.engine import Engine, Evaluation, Trained
from autotrain_env.training.networks import StackedMLP, log_loss, make_network
from autotrain_env.training.optimizers import Optimizer

if TYPE_CHECKING:
    from autotrain_env.training.stack import LaneStack

# Images evaluated at once: of a lane (whatever N is, for bits must not depend on it) and, on a CPU, of all.
_CHUNK_BYTES, _EVALUATION_BYTES = 2 * 2**20, 4 * 2**20

# What is left of the momentum of dead units; taken for zero after every env step, since it would decay to
# denormal numbers, which slow a CPU down by half. Not by the processor's own switch: that belongs to single
# threads, so that a lane's bits would depend on the thread that computes it.
_NEGLIGIBLE = 1e-30


class TorchEngine(Engine):
    """Networks computed by torch.

    Args:
        architecture: What they have in common.
        optimizer: Their update rule.
        backend: `"auto"`, `"stacked"` or `"looped"`; see `make_network`.
        dtype: Dtype of the weights.
        device: Device that holds the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        optimizer: Optimizer,
        backend: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.optimizer = optimizer
        self.network = make_network(architecture, backend, dtype, device)
        self.backend = self.network.backend
        self.device = device
        self.num_parameters = architecture.parameter_layout.size
        self._room = torch.empty(0, dtype=dtype, device=device)  # for a minibatch of images

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only room to work in."""
        return vars(self) | {"_room": self._room.new_empty(0)}

    def train(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> Trained:
        """Make the updates, as many lanes at a time as the caches hold."""
        lanes_per_block = self.network.lanes_per_block(indices.shape[2], self.device)
        results = [
            self._train_block(stack, pool, slots[at], learning_rates[at], indices[at], labels[at])
            for at in _even_blocks(len(slots), lanes_per_block)
        ]
        return Trained(*(np.concatenate(parts) for parts in zip(*results, strict=True)))

    def _train_block(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        coefficients = self._coefficients(stack, slots, indices.shape[1])
        index = stack.index(slots)
        rows = stack.state[index]
        with self._whole_products(len(slots)):
            losses, accuracies = self._update(
                rows,
                rows[:, stack.buffers_start :],
                self._batches(pool, stack, index, indices, labels),
                self._tensor(-learning_rates[:, None]).to(rows.dtype),
                coefficients,
            )
        if not isinstance(index, slice):
            stack.state[index] = rows
        extremes = torch.stack((rows.amax(1), rows.amin(1)))  # NaN where any is; faster than aminmax
        return losses, accuracies, torch.isfinite(extremes).all(0).cpu().numpy()

    def _batches(
        self,
        pool: Tensor,
        stack: LaneStack,
        index: Tensor | slice,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> _Batches:
        shape = (indices.shape[0] * indices.shape[2], *pool.shape[1:])
        needed = math.prod(shape)
        if len(self._room) < needed:  # kept, since memory that is new each time costs page faults
            self._room = self._room.new_empty(needed)
        return _Batches(
            pool,
            stack.shift[index],
            stack.scale[index],
            self._tensor(indices),
            self._tensor(labels).long(),
            self._room[:needed].view(shape),
        )

    def _update(
        self,
        rows: Tensor,
        buffers: Tensor,
        batches: _Batches,
        negative_rates: Tensor,
        coefficients: Tensor | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Update rows (n, width) in place."""
        size, optimizer = self.num_parameters, self.optimizer
        parameters = rows[:, :size]
        accumulators = [rows[:, size * (i + 1) : size * (i + 2)] for i in range(optimizer.num_accumulators)]
        fused = optimizer.gradient_accumulator
        gradients = torch.empty_like(parameters) if fused is None else accumulators[fused]
        decay = None if fused is None or coefficients is None else coefficients[0, 0]
        bound = self.network.bind(parameters, buffers, gradients)
        losses, correct = [], []
        for t in range(batches.count):
            images, labels = batches.get(t)
            batch_losses, batch_correct = self.network.backward(bound, images, labels, decay)
            optimizer.clip(gradients)
            optimizer.update(
                parameters,
                gradients,
                accumulators,
                negative_rates,
                None if coefficients is None else coefficients[t],
            )
            losses.append(batch_losses)
            correct.append(batch_correct)
        for accumulator in accumulators:
            torch.hardshrink(accumulator, _NEGLIGIBLE, out=accumulator)
        return (
            torch.stack(losses, 1).mean(2).double().cpu().numpy(),
            torch.stack(correct, 1).double().mean(2).cpu().numpy(),
        )

    def _coefficients(self, stack: LaneStack, slots: np.ndarray, inner_steps: int) -> Tensor | None:
        coefficients = stack.next_coefficients(slots, inner_steps)
        return None if coefficients is None else self._tensor(coefficients).to(stack.state.dtype)

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
        """Evaluate the lanes, as many at a time as the caches hold."""
        image_bytes = pool[0].numel() * pool.element_size()
        chunk = min(max(1, _CHUNK_BYTES // image_bytes), indices.shape[1])
        lanes_per_block = 256
        if self.device.type == "cpu":
            lanes_per_block = max(1, _EVALUATION_BYTES // (chunk * image_bytes))
        blocks = []
        for at in _even_blocks(len(slots), lanes_per_block):
            parts = [
                self._evaluate_block(stack, pool, slots[at], indices[at, i], labels[at, i], losses, best)
                for i in _blocks(indices.shape[1], chunk)
            ]
            blocks.append(_join(parts, axis=1))
        return _join(blocks, axis=0)

    def _evaluate_block(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        losses: bool,
        best: bool,
    ) -> Evaluation:
        parameters, buffers = stack.weights(slots, best=best)
        index = stack.index(slots)
        images, targets = self._batches(pool, stack, index, indices[:, None], labels[:, None]).get(0)
        with torch.no_grad(), self._whole_products(len(slots)):
            logits = self.network.logits(parameters, buffers, images)
        largest, predicted = logits.max(1)
        correct = (predicted == targets).cpu().numpy()
        finite = np.isfinite(largest.cpu().numpy())  # the largest is NaN where any is
        values = log_loss(torch.log_softmax(logits, 1), targets).cpu().numpy() if losses else None
        return Evaluation(correct, values, finite)

    @contextmanager
    def _whole_products(self, count: int) -> Iterator[None]:
        """Use no more threads than lanes where lanes are computed in one batched product.

        With more, a lane's product is split among threads, and its bits depend on N.
        """
        threads = torch.get_num_threads()
        if count >= threads or self.device.type != "cpu" or not isinstance(self.network, StackedMLP):
            yield
            return
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


@dataclass(frozen=True)
class _Batches:
    """Minibatches of n lanes, gathered from the pool and normalised one update at a time.

    Args:
        pool: Images, shape (total, features).
        shift: What is added to scaled images, shape (n, 1, features).
        scale: Factor of images, shape (n, 1, features).
        indices: Positions in the pool, int32, shape (n, T, B).
        labels: Labels, int64, shape (n, T, B).
        room: Room for a minibatch, shape (n * B, features).
    """

    pool: Tensor
    shift: Tensor
    scale: Tensor
    indices: Tensor
    labels: Tensor
    room: Tensor

    @property
    def count(self) -> int:
        """Returns the number of updates T."""
        return self.indices.shape[1]

    def get(self, t: int) -> tuple[Tensor, Tensor]:
        """Returns images (n, B, features), good until the next call, and labels (n, B) of update t."""
        at = self.indices[:, t]
        torch.index_select(self.pool, 0, at.flatten(), out=self.room)
        images = self.room.view(*at.shape, *self.pool.shape[1:])
        return images.mul_(self.scale).add_(self.shift), self.labels[:, t]


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _even_blocks(count: int, size: int) -> Iterator[slice]:
    """Yields blocks of about equal size, at most `size`."""
    number = math.ceil(count / size)
    return _blocks(count, math.ceil(count / number))


def _join(parts: list[Evaluation], axis: int) -> Evaluation:
    if len(parts) == 1:
        return parts[0]
    correct = np.concatenate([part.correct for part in parts], axis)
    losses = None
    if parts[0].losses is not None:
        losses = np.concatenate([part.losses for part in parts if part.losses is not None], axis)
    return Evaluation(correct, losses, np.concatenate([part.finite for part in parts], axis))
