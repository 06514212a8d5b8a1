"""The states that a lane can rewind to: a ring of rows for every lane."""

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import InvalidValueError


class SnapshotRing:
    """Per-lane rings of the last `num_snapshots` states, the current one included.

    A state is one row of numbers: weights, optimiser state and normalisation buffers. Depth 0 is the
    newest row, depth i the one i env steps back along the lane's lineage. Whoever keeps the lineage knows
    which of these rows exist; the ring does not.

    Args:
        capacity: Number of lanes.
        num_snapshots: Number of rows kept per lane (H).
        width: How many numbers make a row.
        dtype: Dtype of the rows.
        device: Device that holds the rows.
    """

    def __init__(
        self,
        capacity: int,
        num_snapshots: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.rows = torch.zeros(capacity, num_snapshots, width, dtype=dtype, device=device)
        self.head = np.zeros(capacity, dtype=np.int64)

    @property
    def num_snapshots(self) -> int:
        """Returns how many rows are kept per lane (H)."""
        return self.rows.shape[1]

    def grow(self, capacity: int) -> None:
        """Make room for more lanes; those that are there keep their rows."""
        more = capacity - len(self.head)
        self.rows = torch.cat((self.rows, self.rows.new_zeros(more, *self.rows.shape[1:])))
        self.head = np.concatenate((self.head, np.zeros(more, dtype=np.int64)))

    def push(self, lanes: np.ndarray, rows: Tensor) -> None:
        """Add a newest row; the oldest one goes where the ring is full.

        Args:
            lanes: Which lanes, int64, shape (n,).
            rows: States, shape (n, width).
        """
        head = (self.head[lanes] + 1) % self.num_snapshots
        self.head[lanes] = head
        self.rows[self._index(lanes), self._index(head)] = rows

    def rewind(self, lanes: np.ndarray, distance: np.ndarray) -> Tensor:
        """Drop the newest rows, so that row `distance` becomes the newest, and return it.

        Args:
            lanes: Which lanes, int64, shape (n,).
            distance: How far back [env steps], int64, shape (n,); the depth of a row that was pushed.

        Returns:
            The restored rows, shape (n, width), a copy.
        """
        if np.any(distance < 0) or np.any(distance >= self.num_snapshots):
            raise InvalidValueError(
                f"distance={distance} must be in [0, num_snapshots={self.num_snapshots})"
            )
        self.head[lanes] = (self.head[lanes] - distance) % self.num_snapshots
        return self.rows[self._index(lanes), self._index(self.head[lanes])]

    def _index(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.rows.device)
