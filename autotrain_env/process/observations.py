"""What the agent sees: the metrics of the last H states along the lineage of the current weights."""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

METRICS: dict[str, tuple[float, float]] = {  # name: bounds to which it is clipped
    "log_loss_ratio": (-8.0, 8.0),  # log(mean minibatch loss / log C)
    "batch_accuracy": (0.0, 1.0),
    "learning_rate": (-1.0, 1.0),  # log10, mapped from its bounds
    "holdout_score": (0.0, 1.0),  # Thresholdout's answer
    "generalization_gap": (-1.0, 1.0),  # train score minus the same answer
    "budget_used": (0.0, 1.0),
    "lineage_updates": (0.0, 1.0),  # updates since the lineage's untrained network, over budget
    "diverged": (0.0, 1.0),
    "exists": (0.0, 1.0),
}
NUM_METRICS = len(METRICS)

_LOW, _HIGH = (np.array(bounds, dtype=np.float32) for bounds in zip(*METRICS.values(), strict=True))
_DIVERGED, _EXISTS = list(METRICS).index("diverged"), list(METRICS).index("exists")


def observation_space(num_snapshots: int, history_length: int, layout: str) -> spaces.Box:
    """The space of one lane's observation.

    Args:
        num_snapshots: Rows (H).
        history_length: Samples per row (K).
        layout: `"stacked"` for shape (H, K, M), `"flat"` for (H * K * M,).
    """
    shape = (num_snapshots, history_length, NUM_METRICS)
    low, high = np.broadcast_to(_LOW, shape), np.broadcast_to(_HIGH, shape)
    if layout == "flat":
        low, high = low.reshape(-1), high.reshape(-1)
    return spaces.Box(low.copy(), high.copy(), dtype=np.float32)


@dataclass(frozen=True)
class Measurement:
    """Metrics of n lanes after an env step, or of untrained networks.

    Args:
        losses: Mean minibatch log loss of each window [nats], float64, shape (n, K).
        accuracies: Mean minibatch accuracy of each window, float64, shape (n, K).
        learning_rates: Float64, shape (n,).
        holdout_scores: Guarded answers, float64, shape (n,).
        train_scores: Scores on the train subset, float64, shape (n,).
        updates: Updates of the budget used at the end of each window, float64, shape (n, K).
        lineage_updates: Updates in the lineage at the end of each window, float64, shape (n, K).
        diverged: Bool, shape (n,).
    """

    losses: np.ndarray
    accuracies: np.ndarray
    learning_rates: np.ndarray
    holdout_scores: np.ndarray
    train_scores: np.ndarray
    updates: np.ndarray
    lineage_updates: np.ndarray
    diverged: np.ndarray


def make_rows(
    measured: Measurement,
    num_classes: np.ndarray,
    budget: np.ndarray,
    lr_bounds: tuple[float, float],
) -> np.ndarray:
    """Turn measurements into rows of an observation.

    Args:
        measured: Metrics of n lanes.
        num_classes: C of each lane, shape (n,).
        budget: Updates per episode of each lane, shape (n,).
        lr_bounds: Smallest and largest learning rate.

    Returns:
        Float32, shape (n, K, M), finite and within the bounds of `METRICS`.
    """
    low, high = np.log10(lr_bounds)
    rows = np.empty((*measured.losses.shape, NUM_METRICS))
    with np.errstate(divide="ignore"):
        rows[..., 0] = np.log(measured.losses / np.log(num_classes)[:, None])
    rows[..., 1] = measured.accuracies
    rows[..., 2] = (2 * (np.log10(measured.learning_rates) - low) / (high - low) - 1)[:, None]
    rows[..., 3] = measured.holdout_scores[:, None]
    rows[..., 4] = (measured.train_scores - measured.holdout_scores)[:, None]
    rows[..., 5] = measured.updates / budget[:, None]
    rows[..., 6] = measured.lineage_updates / budget[:, None]
    rows[..., _DIVERGED] = measured.diverged[:, None]
    rows[..., _EXISTS] = 1
    return np.clip(rows, _LOW, _HIGH).astype(np.float32)


class MetricHistory:
    """Rows of N lanes, the current state's first.

    Row i is the state i env steps back along the lineage of the current weights; beside the metrics it
    holds the updates in that lineage. Missing rows are zero.

    Args:
        num_envs: Lanes (N).
        num_snapshots: Rows (H).
        history_length: Samples per row (K).
    """

    def __init__(self, num_envs: int, num_snapshots: int, history_length: int) -> None:
        self.rows = np.zeros((num_envs, num_snapshots, history_length, NUM_METRICS), np.float32)
        self.lineage_updates = np.zeros((num_envs, num_snapshots), np.int64)

    def exists(self) -> np.ndarray:
        """Which rows exist, bool, shape (N, H)."""
        return self.rows[:, :, 0, _EXISTS] > 0

    def rewindable(self) -> np.ndarray:
        """Which rows a lane can rewind to: those that exist and are finite, bool, shape (N, H)."""
        return self.exists() & ~(self.rows[:, :, 0, _DIVERGED] > 0)

    def clear(self, lanes: np.ndarray) -> None:
        """Make every row of the given lanes (int64, shape (n,)) missing."""
        self.rows[lanes] = 0
        self.lineage_updates[lanes] = 0

    def push(self, lanes: np.ndarray, rows: np.ndarray, lineage_updates: np.ndarray) -> None:
        """Move rows down by one and put a new row 0 in.

        Args:
            lanes: Int64, shape (n,).
            rows: Shape (n, K, M).
            lineage_updates: Int64, shape (n,).
        """
        self.rows[lanes, 1:] = self.rows[lanes, :-1]
        self.lineage_updates[lanes, 1:] = self.lineage_updates[lanes, :-1]
        self.replace(lanes, rows, lineage_updates)

    def replace(self, lanes: np.ndarray, rows: np.ndarray, lineage_updates: np.ndarray) -> None:
        """Put a new row 0 in the old one's place; shapes as in `push`."""
        self.rows[lanes, 0] = rows
        self.lineage_updates[lanes, 0] = lineage_updates

    def rewind(self, lanes: np.ndarray, distance: np.ndarray) -> None:
        """Move rows up, so that row `distance` becomes row 0; the emptied ones are missing.

        Args:
            lanes: Int64, shape (n,).
            distance: How far back [env steps], int64, shape (n,).
        """
        num_snapshots = self.rows.shape[1]
        source = np.arange(num_snapshots) + distance[:, None]  # (n, H)
        emptied = source >= num_snapshots
        source = np.minimum(source, num_snapshots - 1)
        rows = self.rows[lanes[:, None], source]
        updates = self.lineage_updates[lanes[:, None], source]
        rows[emptied] = 0
        updates[emptied] = 0
        self.rows[lanes] = rows
        self.lineage_updates[lanes] = updates

    def observation(self, layout: str) -> np.ndarray:
        """A copy of all rows: shape (N, H, K, M), or (N, H * K * M) where `layout` is `"flat"`."""
        rows = self.rows.copy()
        return rows.reshape(len(rows), -1) if layout == "flat" else rows
