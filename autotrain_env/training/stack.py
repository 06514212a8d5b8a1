"""Inner updates and evaluation of all lanes that share an architecture and a kind of optimiser."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.networks import StackedMLP, log_loss, make_network
from autotrain_env.training.optimizers import Optimizer
from autotrain_env.training.snapshots import SnapshotRing, put_rows, take_rows

# Images evaluated at once: of a lane (whatever N is, for bits must not depend on it) and, on a CPU, of all.
_CHUNK_BYTES, _EVALUATION_BYTES = 2 * 2**20, 4 * 2**20

# What is left of the momentum of dead units; taken for zero after every env step, since it would decay to
# denormal numbers, which slow a CPU down by half. Not by the processor's own switch: that belongs to single
# threads, so that a lane's bits would depend on the thread that computes it.
_NEGLIGIBLE = 1e-30


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


class LaneStack:
    """Networks of one architecture, trained side by side by one kind of optimiser.

    A slot is a lane's place in the stack. It holds the lane's state as a row: parameters, the optimiser's
    accumulators, its count of updates (where it keeps one), and the network's buffers. Rows are what
    snapshots copy.

    Args:
        architecture: The network's shape.
        optimizer: The update rule; lanes may differ in its `lane_values`.
        num_snapshots: Number of rows kept per lane (H).
        backend: `"auto"`, `"stacked"` or `"looped"`.
        dtype: Dtype of the weights.
        device: Device that holds the weights.
    """

    def __init__(
        self,
        architecture: Architecture,
        optimizer: Optimizer,
        num_snapshots: int,
        backend: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.architecture = architecture
        self.optimizer = optimizer
        self.network = make_network(architecture, backend, dtype, device)
        self.num_parameters = architecture.parameter_layout.size
        self.num_buffers = architecture.buffer_layout.size
        self.buffers_start = (
            self.num_parameters * (1 + optimizer.num_accumulators) + optimizer.counts_updates
        )
        self.width = self.buffers_start + self.num_buffers
        self.state = torch.zeros(0, self.width, dtype=dtype, device=device)
        self.best = torch.zeros(0, self.num_parameters + self.num_buffers, dtype=dtype, device=device)
        self.shift = torch.zeros(0, 1, architecture.num_features, dtype=dtype, device=device)
        self.scale = torch.zeros(0, 1, architecture.num_features, dtype=dtype, device=device)
        self.lane_values = np.zeros((0, len(optimizer.lane_values)))
        self.ring = SnapshotRing(0, num_snapshots, self.width, dtype, device)
        self.free: list[int] = []
        self._room = torch.empty(0, dtype=dtype, device=device)  # for a minibatch of images

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only room to work in."""
        return vars(self) | {"_room": self._room.new_empty(0)}

    @property
    def device(self) -> torch.device:
        """Returns where the weights lie."""
        return self.state.device

    # --- slots ---

    def acquire(self, at_least: int = 1) -> int:
        """Give out the lowest free slot, after making `at_least` new ones where none is free."""
        if not self.free:
            old = len(self.state)
            new = max(at_least, old, 1)
            for name in ("state", "best", "shift", "scale"):
                tensor = getattr(self, name)
                setattr(self, name, torch.cat((tensor, tensor.new_zeros(new, *tensor.shape[1:]))))
            self.lane_values = np.pad(self.lane_values, ((0, new), (0, 0)))
            self.ring.grow(old + new)
            self.free = list(range(old + new - 1, old - 1, -1))
            for slot in self.free:
                self.set_lane_values(slot, self.optimizer)
        return self.free.pop()

    def release(self, slot: int) -> None:
        """Take a slot back."""
        self.free.append(slot)
        self.free.sort(reverse=True)

    def set_normalization(self, slot: int, mean: Tensor, std: Tensor) -> None:
        """Set how a lane's images are normalised; one value per channel, or per feature, each."""
        scale = 1 / std.double().flatten()  # rounded once, to the dtype of the weights
        shift = -mean.double().flatten() * scale
        pixels = self.architecture.num_features // len(scale)
        self.scale[slot] = scale.repeat_interleave(pixels).to(self.scale)
        self.shift[slot] = shift.repeat_interleave(pixels).to(self.shift)

    def set_lane_values(self, slot: int, optimizer: Optimizer) -> None:
        """Set in what a lane's optimiser differs from those of others."""
        self.lane_values[slot] = [getattr(optimizer, name) for name in optimizer.lane_values]

    def set_network(self, slots: np.ndarray, rows: np.ndarray) -> None:
        """Put new networks in; the optimiser's state starts at zero.

        Args:
            slots: Places of the lanes, int64, shape (n,).
            rows: Parameters and buffers, float32, shape (n, P + Q).
        """
        drawn = torch.from_numpy(rows).to(self.state)
        state = self.state.new_zeros(len(slots), self.width)
        state[:, : self.num_parameters] = drawn[:, : self.num_parameters]
        state[:, self.buffers_start :] = drawn[:, self.num_parameters :]
        self.state[self._index(slots)] = state

    def weights(self, slots: np.ndarray, *, best: bool) -> tuple[Tensor, Tensor]:
        """Returns current, or best-on-holdout, parameters, shape (n, P), and buffers, shape (n, Q)."""
        rows = (self.best if best else self.state)[self._index(slots)]
        buffers_start = self.num_parameters if best else self.buffers_start
        return rows[:, : self.num_parameters], rows[:, buffers_start:]

    def keep_best(self, slots: np.ndarray) -> None:
        """Remember the current weights and buffers as a lane's best."""
        size, rows = self.num_parameters, self._rows(slots)
        kept = rows[:, :size]
        if self.num_buffers:
            kept = torch.cat((kept, rows[:, self.buffers_start :]), 1)
        put_rows(self.best, (slots,), kept)

    def snapshot(self, slots: np.ndarray) -> None:
        """Push the current states into the ring."""
        self.ring.push(slots, self._rows(slots))

    def rewind(self, slots: np.ndarray, distance: np.ndarray) -> None:
        """Restore states from the ring; shapes as in `SnapshotRing.rewind`."""
        put_rows(self.state, (slots,), self.ring.rewind(slots, distance))

    def add_noise(self, slot: int, scale: float, generator: np.random.Generator) -> None:
        """Add normal noise to a lane's parameters.

        Args:
            slot: The lane's place.
            scale: Standard deviation over the root mean square of each tensor.
            generator: Generator of the noise.
        """
        row = self.state[slot]
        for entry in self.architecture.parameter_layout.entries:
            tensor = row[entry.start : entry.stop]
            noise = torch.from_numpy(generator.standard_normal(len(tensor))).to(tensor)
            tensor += scale * tensor.square().mean().sqrt() * noise

    def copy_slot(self, source: int, target: int) -> None:
        """Copy everything of one slot to another."""
        for tensor in (self.state, self.best, self.shift, self.scale, self.ring.rows):
            tensor[target] = tensor[source]
        self.lane_values[target] = self.lane_values[source]
        self.ring.head[target] = self.ring.head[source]

    def finite(self, slots: np.ndarray) -> np.ndarray:
        """Returns whether all numbers of a lane's state are finite, bool, shape (n,)."""
        rows = self._rows(slots)
        if self.device.type == "cpu":
            return np.isfinite(rows.numpy()).all(1)
        extremes = torch.stack((rows.amax(1), rows.amin(1)))  # NaN where any is; faster than aminmax
        return torch.isfinite(extremes).all(0).cpu().numpy()

    # --- training ---

    def train(
        self,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make T updates of each of n lanes.

        Args:
            pool: Images, shape (total, features).
            slots: Places of the lanes, int64, shape (n,).
            learning_rates: Learning rates of the lanes, float64, shape (n,).
            indices: Positions in the pool, int32, shape (n, T, B).
            labels: Labels, int32, shape (n, T, B).

        Returns:
            Mean log loss [nats] and share of right answers of every minibatch, float64, both (n, T).
        """
        lanes_per_block = self.network.lanes_per_block(indices.shape[2], self.device)
        results = [
            self._train_block(pool, slots[at], learning_rates[at], indices[at], labels[at])
            for at in _even_blocks(len(slots), lanes_per_block)
        ]
        losses, correct = zip(*results, strict=True)
        return np.concatenate(losses), np.concatenate(correct)

    def _train_block(
        self,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        index = self._index(slots)
        rows = self.state[index]
        with self._whole_products(len(slots)):
            results = self._update(
                rows,
                self._batches(pool, index, indices, labels),
                self._tensor(-learning_rates[:, None]).to(rows.dtype),
                self._coefficients(rows, self.lane_values[slots], indices.shape[1]),
            )
        if not isinstance(index, slice):
            self.state[index] = rows
        return results

    def _batches(
        self, pool: Tensor, index: Tensor | slice, indices: np.ndarray, labels: np.ndarray
    ) -> "_Batches":
        shape = (indices.shape[0] * indices.shape[2], *pool.shape[1:])
        needed = math.prod(shape)
        if len(self._room) < needed:  # kept, since memory that is new each time costs page faults
            self._room = self._room.new_empty(needed)
        return _Batches(
            pool,
            self.shift[index],
            self.scale[index],
            self._tensor(indices),
            self._tensor(labels).long(),
            self._room[:needed].view(shape),
        )

    def _update(
        self, rows: Tensor, batches: "_Batches", negative_rates: Tensor, coefficients: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Update rows (n, width) in place."""
        size, optimizer = self.num_parameters, self.optimizer
        parameters = rows[:, :size]
        accumulators = [rows[:, size * (i + 1) : size * (i + 2)] for i in range(optimizer.num_accumulators)]
        fused = optimizer.gradient_accumulator
        gradients = torch.empty_like(parameters) if fused is None else accumulators[fused]
        decay = None if fused is None or coefficients is None else coefficients[0, 0]
        bound = self.network.bind(parameters, rows[:, self.buffers_start :], gradients)
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

    def _coefficients(self, rows: Tensor, lane_values: np.ndarray, inner_steps: int) -> Tensor | None:
        updates_done = np.zeros(len(rows))
        if self.optimizer.counts_updates:
            counter = rows[:, self.buffers_start - 1]
            updates_done = counter.double().cpu().numpy().copy()
            counter += inner_steps
        coefficients = self.optimizer.coefficients(updates_done, lane_values, inner_steps)
        return None if coefficients is None else self._tensor(coefficients).to(rows.dtype)

    # --- evaluation ---

    def evaluate(
        self,
        pool: Tensor,
        slots: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        losses: bool,
        best: bool = False,
    ) -> Evaluation:
        """Evaluate n lanes on E images each, in evaluation mode.

        Args:
            pool: Images, shape (total, features).
            slots: Places of the lanes, int64, shape (n,).
            indices: Positions in the pool, int32, shape (n, E).
            labels: Labels, int32, shape (n, E).
            losses: Whether log losses are wanted.
            best: Whether to evaluate the best-on-holdout weights instead of the current ones.
        """
        image_bytes = pool[0].numel() * pool.element_size()
        chunk = min(max(1, _CHUNK_BYTES // image_bytes), indices.shape[1])
        lanes_per_block = 256
        if self.device.type == "cpu":
            lanes_per_block = max(torch.get_num_threads(), _EVALUATION_BYTES // (chunk * image_bytes))
        blocks = []
        for at in _even_blocks(len(slots), lanes_per_block):
            parts = [
                self._evaluate_block(pool, slots[at], indices[at, i], labels[at, i], losses, best)
                for i in _blocks(indices.shape[1], chunk)
            ]
            blocks.append(_join(parts, axis=1))
        return _join(blocks, axis=0)

    def _evaluate_block(
        self,
        pool: Tensor,
        slots: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        losses: bool,
        best: bool,
    ) -> Evaluation:
        index = self._index(slots)
        parameters, buffers = self.weights(slots, best=best)
        images, targets = self._batches(pool, index, indices[:, None], labels[:, None]).get(0)
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

    def _rows(self, slots: np.ndarray) -> Tensor:
        """Returns the states of lanes, shape (n, width): a view where they are adjacent, or a copy."""
        index = self._index(slots)
        return self.state[index] if isinstance(index, slice) else take_rows(self.state, (slots,))

    def _index(self, slots: np.ndarray) -> Tensor | slice:
        """Returns an index of slots that takes a view of them where they are adjacent."""
        if len(slots) == 1 or (len(slots) and bool((slots[1:] - slots[:-1] == 1).all())):
            return slice(int(slots[0]), int(slots[-1]) + 1)
        return torch.from_numpy(slots).to(self.device)

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
    """Yields blocks of about equal size, at most `size`; whole multiples of the threads where possible."""
    threads = torch.get_num_threads()
    if size > threads:
        size -= size % threads
    number = math.ceil(count / size)
    even = math.ceil(count / number)
    return _blocks(count, min(size, math.ceil(even / threads) * threads))


def _join(parts: list[Evaluation], axis: int) -> Evaluation:
    if len(parts) == 1:
        return parts[0]
    correct = np.concatenate([part.correct for part in parts], axis)
    losses = None
    if parts[0].losses is not None:
        losses = np.concatenate([part.losses for part in parts if part.losses is not None], axis)
    return Evaluation(correct, losses, np.concatenate([part.finite for part in parts], axis))
