"""Networks of all lanes that share an architecture and a kind of optimiser, with their snapshots."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import warn
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.engine import Evaluation, Trained, make_engine
from autotrain_env.training.optimizers import Optimizer
from autotrain_env.training.snapshots import SnapshotRing, put_rows, take_rows


def relative_distance(now: np.ndarray, before: np.ndarray) -> float:
    """Returns the Euclidean norm of a difference over that of where it ends; 0 where both are 0."""
    size = float(np.square(now, dtype=np.float64).sum())
    moved = float(np.square(np.subtract(now, before, dtype=np.float64)).sum())
    return math.sqrt(moved / size) if size > 0 else float(moved > 0)


class LaneStack:
    """Networks of one architecture, trained side by side by one kind of optimiser.

    A slot is a lane's place in the stack. It holds the lane's state as a row: parameters, the optimiser's
    accumulators, its count of updates (where it keeps one), and the network's buffers. Rows are what
    snapshots copy.

    Args:
        architecture: The network's shape.
        optimizer: The update rule; lanes may differ in its `lane_values`.
        num_snapshots: Number of rows kept per lane (H).
        backend: How the networks are computed, one of `BACKENDS`; see `make_engine`.
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
        self.backend = backend
        self.engine = make_engine(architecture, optimizer, backend, dtype, device)
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engine out: it holds nothing of the networks, and may be another one elsewhere."""
        return {name: value for name, value in vars(self).items() if name != "engine"} | {
            "computed_by": self.engine.backend
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Choose the engine anew, and say so where it is another one than before."""
        before = state.pop("computed_by")
        vars(self).update(state)
        self.engine = make_engine(
            self.architecture, self.optimizer, self.backend, self.state.dtype, self.device
        )
        if self.engine.backend != before:
            warn(
                f"these networks were computed by the backend {before!r} and go on by "
                f"{self.engine.backend!r}, which rounds differently: results will not be those of an "
                "undisturbed run"
            )

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
        self.state[self.index(slots)] = state

    def weights(self, slots: np.ndarray, *, best: bool) -> tuple[Tensor, Tensor]:
        """Returns current, or best-on-holdout, parameters, shape (n, P), and buffers, shape (n, Q)."""
        rows = (self.best if best else self.state)[self.index(slots)]
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

    def movement(self, slots: np.ndarray) -> np.ndarray:
        """Returns how far parameters lie from those of the newest snapshot, over their own norm.

        Args:
            slots: Places of the lanes, int64, shape (n,).

        Returns:
            Shares, float64, shape (n,).
        """
        found = np.empty(len(slots))
        for at, slot in enumerate(slots.tolist()):  # one lane at a time: a norm must not depend on N
            now = self.state[slot, : self.num_parameters].cpu().numpy()
            before = self.ring.rows[slot, self.ring.head[slot], : self.num_parameters].cpu().numpy()
            found[at] = relative_distance(now, before)
        return found

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

    def next_coefficients(self, slots: np.ndarray, inner_steps: int) -> np.ndarray | None:
        """Count T updates of each lane, and return what their rule makes of the counts before.

        Args:
            slots: Places of the lanes, int64, shape (n,).
            inner_steps: Number of updates to come (T).

        Returns:
            What `Optimizer.coefficients` returns, float64, shape (T, factors, n, 1), or `None`.
        """
        updates_done = np.zeros(len(slots))
        if self.optimizer.counts_updates:
            index, column = self.index(slots), self.buffers_start - 1
            updates_done = self.state[index, column].double().cpu().numpy().copy()
            self.state[index, column] += inner_steps
        return self.optimizer.coefficients(updates_done, self.lane_values[slots], inner_steps)

    # --- training ---

    def train(
        self,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> Trained:
        """Make T updates of each of n lanes.

        Args:
            pool: Images, shape (total, features).
            slots: Places of the lanes, int64, shape (n,).
            learning_rates: Learning rates of the lanes, float64, shape (n,).
            indices: Positions in the pool, int32, shape (n, T, B).
            labels: Labels, int32, shape (n, T, B).
        """
        return self.engine.train(self, pool, slots, learning_rates, indices, labels)

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
        return self.engine.evaluate(self, pool, slots, indices, labels, losses=losses, best=best)

    def _rows(self, slots: np.ndarray) -> Tensor:
        """Returns the states of lanes, shape (n, width): a view where they are adjacent, or a copy."""
        index = self.index(slots)
        return self.state[index] if isinstance(index, slice) else take_rows(self.state, (slots,))

    def index(self, slots: np.ndarray) -> Tensor | slice:
        """Returns an index of slots that takes a view of them where they are adjacent."""
        if len(slots) == 1 or (len(slots) and bool((slots[1:] - slots[:-1] == 1).all())):
            return slice(int(slots[0]), int(slots[-1]) + 1)
        return torch.from_numpy(slots).to(self.device)
