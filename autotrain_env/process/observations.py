"""What the agent sees: the metrics of the last H states along the lineage of the current weights.

A new metric is an entry of `METRICS` and a column of `make_rows`; what it needs beyond a `Measurement` is
to be measured by `Lineage`. It changes what agents see, and so means a new version of the environment.
"""

import functools
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

METRICS: dict[str, tuple[float, float]] = {  # name: bounds to which it is clipped
    "log_loss_ratio": (-8.0, 8.0),  # log(mean minibatch loss / log C)
    "batch_accuracy": (0.0, 1.0),
    "learning_rate": (-1.0, 1.0),  # log10, mapped from its bounds
    "holdout_answer": (0.0, 1.0),  # Thresholdout's, to the question for the holdout score
    "generalization_gap": (-1.0, 1.0),  # train score minus the same answer
    "budget_used": (0.0, 1.0),
    "lineage_updates": (0.0, 1.0),  # updates since the lineage's untrained network, over budget
    "diverged": (0.0, 1.0),
    "exists": (0.0, 1.0),
}
_EXTENDED = METRICS | {
    "holdout_missing": (0.0, 1.0),  # whether the train score stands in for the holdout's
    "train_missing": (0.0, 1.0),  # whether the last minibatches stand in for the train score
}
_MOVEMENT = _EXTENDED | {"movement": (-1.0, 1.0)}  # log10, mapped from 1e-6 to 100
METRIC_SETS: dict[str, dict[str, tuple[float, float]]] = {
    "basic": METRICS,
    "extended": _EXTENDED,
    "movement": _MOVEMENT,
    "epochs": _MOVEMENT
    | {
        "epochs": (-1.0, 1.0),  # of the whole budget, log10, mapped from 1e-4 to 10,000; 0 where unknown
        "epochs_missing": (0.0, 1.0),
    },
}
"""Metrics by the names that users write; each begins with those of `"basic"`."""
NUM_METRICS = len(METRICS)

OBSERVATION_LAYOUTS = ("stacked", "flat")

_BOUNDS = {
    name: tuple(np.array(bounds, dtype=np.float32) for bounds in zip(*metrics.values(), strict=True))
    for name, metrics in METRIC_SETS.items()
}

_ONE = np.ones((1, 1))
_TINY = 1e-300


def observation_space(
    num_snapshots: int, history_length: int, layout: str, metrics: str = "basic"
) -> spaces.Box:
    """Returns the space of one lane's observation.

    Args:
        num_snapshots: Number of rows (H).
        history_length: Number of samples per row (K).
        layout: `"stacked"` for shape (H, K, M), `"flat"` for (H * K * M,).
        metrics: Which metrics, one of `METRIC_SETS`.
    """
    shape = (num_snapshots, history_length, len(METRIC_SETS[metrics]))
    low, high = (np.broadcast_to(bounds, shape) for bounds in _BOUNDS[metrics])
    if layout == "flat":
        low, high = low.reshape(-1), high.reshape(-1)
    return spaces.Box(low.copy(), high.copy(), dtype=np.float32)


@dataclass(frozen=True)
class Measurement:
    """Metrics of n lanes after an env step, or of untrained networks.

    Args:
        losses: Mean minibatch log loss of each window [nats], float64, shape (n, K).
        accuracies: Mean minibatch accuracy of each window, float64, shape (n, K).
        learning_rates: Learning rate of the last updates, float64, shape (n,).
        holdout_answers: Thresholdout's answers, float64, shape (n,).
        train_scores: Scores on the train subset, float64, shape (n,).
        updates: Updates of the budget used at the end of each window, float64, shape (n, K).
        lineage_updates: Updates in the lineage at the end of each window, float64, shape (n, K).
        diverged: Whether the network has diverged, bool, shape (n,).
        holdout_missing: Whether there is no holdout, bool, shape (n,).
        train_missing: Whether there is no train score, bool, shape (n,).
        movements: How far parameters have moved in the env step, as a share of their own size: Euclidean
            norms over all of them, float64, shape (n,); 0 for untrained networks.
        epochs: How often the budget goes through the train part, float64, shape (n,); NaN where unknown.
    """

    losses: np.ndarray
    accuracies: np.ndarray
    learning_rates: np.ndarray
    holdout_answers: np.ndarray
    train_scores: np.ndarray
    updates: np.ndarray
    lineage_updates: np.ndarray
    diverged: np.ndarray
    holdout_missing: np.ndarray
    train_missing: np.ndarray
    movements: np.ndarray
    epochs: np.ndarray


def make_rows(
    measured: Measurement,
    num_classes: np.ndarray,
    budget: np.ndarray,
    lr_bounds: tuple[float, float],
    metrics: str = "basic",
) -> np.ndarray:
    """Turn measurements into rows of an observation.

    Args:
        measured: Metrics of n lanes.
        num_classes: Number of classes (C) of each lane, shape (n,).
        budget: Updates per episode of each lane, shape (n,).
        lr_bounds: Smallest and largest learning rate.
        metrics: Which metrics, one of `METRIC_SETS`.

    Returns:
        Float32, shape (n, K, M), finite and within the bounds of the metrics.
    """
    lowest, highest = _log_bounds(lr_bounds)
    unknown = np.isnan(measured.epochs)
    losses = np.maximum(measured.losses, _TINY)  # whose logarithm is beyond the bounds, as that of 0 is
    log_loss_ratio = np.log(losses / np.log(num_classes)[:, None])
    columns = {  # (n, K), or (n, 1) where all windows have the same
        "log_loss_ratio": log_loss_ratio,
        "batch_accuracy": measured.accuracies,
        "learning_rate": (2 * (np.log10(measured.learning_rates) - lowest) / (highest - lowest) - 1)[
            :, None
        ],
        "holdout_answer": measured.holdout_answers[:, None],
        "generalization_gap": (measured.train_scores - measured.holdout_answers)[:, None],
        "budget_used": measured.updates / budget[:, None],
        "lineage_updates": measured.lineage_updates / budget[:, None],
        "diverged": measured.diverged[:, None],
        "exists": _ONE,
        "holdout_missing": measured.holdout_missing[:, None],
        "train_missing": measured.train_missing[:, None],
        "movement": ((np.log10(np.maximum(measured.movements, _TINY)) + 2) / 4)[:, None],
        "epochs": (np.log10(np.where(unknown, 1, measured.epochs)) / 4)[:, None],
        "epochs_missing": unknown[:, None],
    }
    rows = np.empty((*measured.losses.shape, len(METRIC_SETS[metrics])), np.float32)
    for number, name in enumerate(METRIC_SETS[metrics]):
        rows[..., number] = columns[name]
    low, high = _BOUNDS[metrics]
    np.maximum(rows, low, out=rows)
    return np.minimum(rows, high, out=rows)


@functools.cache
def _log_bounds(lr_bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = np.log10(lr_bounds).tolist()
    return low, high
