"""The states that a run can go back to, row by row, and the best weights of it."""

import math
from typing import Any

import torch

from autotrain_env.control.snapshots import Snapshot, Snapshots, Tree, copy_tree, num_bytes

_CPU = torch.device("cpu")


class Rows:
    """Snapshots of the rows that a lineage has, the newest first.

    Row 0 has none while it is the model as it is; it gets one before the model goes on.

    Args:
        snapshots: What makes copies.
        most: Number of rows (H).
    """

    def __init__(self, snapshots: Snapshots, most: int) -> None:
        self.snapshots, self.most = snapshots, most
        self.best: Tree = None
        self.best_answer = -math.inf
        self.peak_bytes = 0  # of all copies in memory
        self._rows: list[Snapshot | None] = []

    def push(self) -> None:
        """Let the model as it is be row 0; the oldest row goes where there is no more room."""
        self._rows.insert(0, None)
        for row in self._rows[self.most :]:
            self._drop(row)
        del self._rows[self.most :]

    def keep(self) -> None:
        """Copy row 0, if that is the model as it is, before the model goes on."""
        if self.most > 1 and self._rows and self._rows[0] is None:
            self._rows[0] = self.snapshots.take()

    def newest(self) -> Tree:
        """Returns the model's state in row 0, or `None` where that has no copy."""
        row = self._rows[0] if self._rows else None
        return None if row is None else row.state()[0]

    def forget_newest(self) -> None:
        """Drop what row 0 has: its state cannot be gone back to."""
        if self._rows:
            self._drop(self._rows[0])
            self._rows[0] = None

    def rewind(self, distance: int) -> None:
        """Put row `distance` back, which becomes row 0; younger rows are dropped."""
        for row in self._rows[:distance]:
            self._drop(row)
        del self._rows[:distance]
        found = self._rows[0]
        assert found is not None, "a row without a state"
        self.snapshots.restore(found)

    def clear(self) -> None:
        """Drop all rows."""
        for row in self._rows:
            self._drop(row)
        self._rows = []

    def close(self) -> None:
        """Give all memory back but that of the best weights."""
        self.clear()
        self.snapshots.clear()

    def keep_best(self, model: torch.nn.Module) -> None:
        """Copy the model's weights as the best ones, into the computer's own memory."""
        self.best = copy_tree(model.state_dict(), _CPU, self.best)

    def count_bytes(self, more: Tree = None) -> int:
        """Returns the bytes of all copies in memory and of another tree, and remembers the most of them."""
        trees = [row.tree for row in self._rows if row is not None]
        found = num_bytes(trees, self.best, more) + self.snapshots.room_bytes
        self.peak_bytes = max(self.peak_bytes, found)
        return found

    def _drop(self, row: Snapshot | None) -> None:
        if row is not None:
            self.snapshots.drop(row)

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of all rows and of the best weights."""
        return {
            "rows": [None if row is None else copy_tree(row.state()) for row in self._rows],
            "best": copy_tree(self.best),
            "best_answer": self.best_answer,
            "peak_bytes": self.peak_bytes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.clear()
        self._rows = [
            None if row is None else self.snapshots.keep(copy_tree(row, self.snapshots.device))
            for row in state["rows"]
        ]
        self.best = copy_tree(state["best"])
        self.best_answer, self.peak_bytes = state["best_answer"], state["peak_bytes"]
