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
        put_rows(self.rows, (lanes, head), rows)

    def rewind(self, lanes: np.ndarray, distance: np.ndarray) -> Tensor:
        """Drop the newest rows, so that row `distance` becomes the newest, and return it.

        Args:
            lanes: Which lanes, int64, shape (n,).
            distance: How far back [env steps], int64, shape (n,); the depth of a row that was pushed.

        Returns:
            The restored rows, shape (n, width), a copy.
        """
        if ((distance < 0) | (distance >= self.num_snapshots)).any():
            raise InvalidValueError(
                f"distance={distance} must be in [0, num_snapshots={self.num_snapshots})"
            )
        head = (self.head[lanes] - distance) % self.num_snapshots
        self.head[lanes] = head
        return take_rows(self.rows, (lanes, head))


def take_rows(tensor: Tensor, index: tuple[np.ndarray, ...]) -> Tensor:
    """Returns `tensor[index]`, a copy.

    On a CPU by NumPy, which copies whole rows three times as fast as torch's indexing does.

    Args:
        tensor: Rows of numbers, the last dimension being one row.
        index: Which rows, int64, an array of shape (n,) for each of the other dimensions.
    """
    if tensor.device.type == "cpu":
        return torch.from_numpy(tensor.numpy()[index])
    return tensor[tuple(torch.from_numpy(values).to(tensor.device) for values in index)]


def put_rows(tensor: Tensor, index: tuple[np.ndarray, ...], rows: Tensor) -> None:
    """Do `tensor[index] = rows`; see `take_rows`."""
    if tensor.device.type == "cpu":
        tensor.numpy()[index] = rows.numpy()
    else:
        tensor[tuple(torch.from_numpy(values).to(tensor.device) for values in index)] = rows
