"""What a step was: one schema, from which `info`, histories, logs and pictures are made.

To show something more of a step, add a column here and fill it in `AutoTrainCore`.
"""

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

INFO, HISTORY, LOG = "info", "history", "log"
EVERYWHERE = (INFO, HISTORY, LOG)


@dataclass(frozen=True)
class Column:
    """One thing that is said of every step.

    Args:
        name: Name by which users find it.
        dtype: NumPy's type of one value.
        meaning: What it is, with its unit.
        places: Places that show it: in `info`, in histories, in the MDP log.
        per_window: Whether there is a value for each of the K windows; the log shows the last one's.

    What `info` shows is numbers alone: clients stack them over steps and lanes.
    """

    name: str
    dtype: type
    meaning: str
    places: tuple[str, ...] = EVERYWHERE
    per_window: bool = False


COLUMNS = (
    Column("episode_seed", np.int64, "number that, with the task, names the episode", (LOG,)),
    Column("lane", np.int64, "lane that played it", (LOG,)),
    Column("step", np.int64, "env steps since the episode began, from 1", (LOG,)),
    Column("action", object, "what was done, in words", (HISTORY, LOG)),
    Column("action_number", np.int64, "what was done, by `ACTION_NUMBERS`", (INFO,)),
    Column("learning_rate", np.float64, "rate of this step's updates"),
    Column("lr_factor", np.float64, "what the rate changed by in this step"),
    Column("rewind", np.int64, "distance really rewound [env steps]"),
    Column("rewind_impossible", bool, "whether another distance was asked for", (INFO,)),
    Column("reinit", bool, "whether new networks were drawn"),
    Column("stop", bool, "whether the agent stopped"),
    Column("updates", np.int64, "updates of the budget used"),
    Column("loss", np.float64, "mean minibatch log loss [nats]", (HISTORY, LOG), per_window=True),
    Column("batch_accuracy", np.float64, "mean minibatch accuracy", (HISTORY,), per_window=True),
    Column("train_score", np.float64, "score on the train subset, 0 to 1"),
    Column("holdout_answer", np.float64, "Thresholdout's answer, 0 to 1"),
    Column("holdout_queries", np.int64, "questions to the holdout so far", (INFO, LOG)),
    Column("holdout_exhausted", bool, "whether Thresholdout's budget is spent", (INFO,)),
    Column("score", np.float64, "score on the reward's split"),
    Column("reward", np.float64, "sum of the reward terms", (HISTORY, LOG)),
    Column("diverged", bool, "whether the network has diverged"),
    Column("terminated", bool, "whether the episode has ended, by stop or budget", (LOG,)),
    Column("truncated", bool, "whether it was cut short by `truncate_after`", (LOG,)),
)
"""All columns, in the order of the MDP log's; each reward term has one more, in `info` and in the log."""

FINAL_COLUMNS = {
    "test_accuracy": "of the last weights",
    "test_balanced_accuracy": "of the last weights: mean over the classes of the share classified rightly",
    "test_loss": "of the last weights [nats]",
    "best_holdout_test_accuracy": "of the weights with the best guarded holdout answer",
    "best_holdout_test_balanced_accuracy": "of those",
    "best_holdout_test_loss": "of those [nats]",
}
"""What is said at the end of an episode alone; the log has the first."""


def columns_of(place: str) -> list[Column]:
    """Returns the columns that are shown in a place: `INFO`, `HISTORY` or `LOG`."""
    return [column for column in COLUMNS if place in column.places]


def info_name(column: Column) -> str:
    """Returns the name of a column in `info`, which has no room for words beside numbers."""
    return column.name.removesuffix("_number")


_INFO_NAMES = tuple((column.name, info_name(column)) for column in columns_of(INFO))


def log_columns(reward_terms: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the MDP log's columns, those of the reward terms last."""
    names = [column.name for column in columns_of(LOG)]
    return (*names, "test_accuracy", *(f"reward_{name}" for name in reward_terms))


@dataclass(frozen=True)
class StepRecord:
    """What a step was, in every lane; made anew for every step, and used before the next one.

    Args:
        values: An array of shape (N,), or (N, K) where there is a value per window, for every column.
        reward_terms: Each term of the reward, float64, shape (N,).
    """

    values: Mapping[str, np.ndarray]
    reward_terms: Mapping[str, np.ndarray]

    def info(self) -> dict[str, Any]:
        """Returns information by name: fresh arrays of shape (N,), and a dictionary of reward terms.

        There, `action` is the action's number.
        """
        shown: dict[str, Any] = {shown_as: self.values[name].copy() for name, shown_as in _INFO_NAMES}
        return shown | {"reward_terms": dict(self.reward_terms)}

    def log_rows(self, lanes: np.ndarray, final: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns a row of the MDP log for each of some lanes.

        Args:
            lanes: Which lanes, int64, shape (n,).
            final: What is said at the end, arrays of shape (N,), true of lanes that have ended.
        """
        ended = self.values["terminated"] | self.values["truncated"]
        rows = []
        for lane in lanes.tolist():
            row = {
                column.name: self.values[column.name][lane, -1]
                if column.per_window
                else self.values[column.name][lane]
                for column in columns_of(LOG)
            }
            row["test_accuracy"] = final["test_accuracy"][lane] if ended[lane] else None
            rows.append(row | {f"reward_{name}": term[lane] for name, term in self.reward_terms.items()})
        return rows


class History(UserDict[str, np.ndarray]):
    """Columns of one episode by name, each of shape (rows, …); see `EpisodeHistory`.

    Not a `dict`: Gymnasium's vector environments would stack its columns over lanes, whose episodes differ
    in length.
    """

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        """Returns whether the other one has the same columns, NaN where this one has."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(
            np.array_equal(column, other[name], equal_nan=column.dtype.kind == "f")
            for name, column in self.items()
        )


class EpisodeHistory:
    """One row per decision of the current episode of every lane, the state at reset first.

    Args:
        num_envs: Number of lanes (N).
        history_length: Number of windows per env step (K).
    """

    def __init__(self, num_envs: int, history_length: int) -> None:
        self.capacity = 0
        self.length = np.zeros(num_envs, np.int64)
        # Row r of lane i is at i * capacity + r: one index costs much less than two.
        self.columns: dict[str, np.ndarray] = {
            column.name: np.zeros((0, history_length) if column.per_window else 0, column.dtype)
            for column in columns_of(HISTORY)
        }

    def clear(self, lanes: np.ndarray) -> None:
        """Begin new episodes in the given lanes, int64, shape (n,)."""
        self.length[lanes] = 0

    def append(self, lanes: np.ndarray, record: StepRecord) -> None:
        """Add a row to each of the given lanes.

        Args:
            lanes: Which lanes, int64, shape (n,).
            record: What the step was.
        """
        length = self.length[lanes]
        if (length >= self.capacity).any():
            self._grow()
        at = lanes * self.capacity + length
        for name, column in self.columns.items():
            column[at] = record.values[name][lanes]
        self.length[lanes] = length + 1

    def _grow(self) -> None:
        num_envs, old = len(self.length), self.capacity
        self.capacity = max(32, 2 * old)
        for name, column in self.columns.items():
            grown = np.zeros((num_envs, self.capacity, *column.shape[1:]), column.dtype)
            grown[:, :old] = column.reshape(num_envs, old, *column.shape[1:])
            self.columns[name] = grown.reshape(-1, *column.shape[1:])

    def _rows(self, lane: int) -> slice:
        start = lane * self.capacity
        return slice(start, start + int(self.length[lane]))

    def of(self, lane: int) -> History:
        """Returns the columns of one lane's episode so far, copies, each of shape (rows, …)."""
        rows = self._rows(lane)
        return History({name: column[rows].copy() for name, column in self.columns.items()})

    def copy_lane(self, source: int, target: int) -> None:
        """Copy the episode of lane `source` to lane `target`."""
        self.length[target] = self.length[source]
        for column in self.columns.values():
            column[self._rows(target)] = column[self._rows(source)]
