"""What happened in the current episode of every lane, for plotting."""

from collections import UserDict

import numpy as np


class History(UserDict[str, np.ndarray]):
    """Columns of one episode by name; see `EpisodeHistory`.

    Not a `dict`: Gymnasium's vector environments would stack its columns over lanes, whose episodes differ
    in length.
    """


class EpisodeHistory:
    """One row per decision of the current episode, the state at reset first.

    | column | dtype | shape of a row |
    |---|---|---|
    | `updates` updates of the budget used | int64 | () |
    | `learning_rate` of the updates just made | float64 | () |
    | `score` on the reward's split | float64 | () |
    | `train_score` on the train subset | float64 | () |
    | `holdout_score` Thresholdout's answer, 0 to 1 | float64 | () |
    | `loss` mean minibatch log loss of each window [nats] | float64 | (K,) |
    | `batch_accuracy` mean minibatch accuracy of each window | float64 | (K,) |
    | `rewind` distance rewound [env steps] | int64 | () |
    | `reinit`, `stop`, `diverged` | bool | () |
    | `reward` | float64 | () |
    | `action` in words | object | () |

    Args:
        num_envs: Lanes (N).
        history_length: Windows per env step (K).
    """

    def __init__(self, num_envs: int, history_length: int) -> None:
        self.length = np.zeros(num_envs, np.int64)
        self.columns: dict[str, np.ndarray] = {
            "updates": np.zeros((num_envs, 0), np.int64),
            "learning_rate": np.zeros((num_envs, 0)),
            "score": np.zeros((num_envs, 0)),
            "train_score": np.zeros((num_envs, 0)),
            "holdout_score": np.zeros((num_envs, 0)),
            "loss": np.zeros((num_envs, 0, history_length)),
            "batch_accuracy": np.zeros((num_envs, 0, history_length)),
            "rewind": np.zeros((num_envs, 0), np.int64),
            "reinit": np.zeros((num_envs, 0), bool),
            "stop": np.zeros((num_envs, 0), bool),
            "diverged": np.zeros((num_envs, 0), bool),
            "reward": np.zeros((num_envs, 0)),
            "action": np.zeros((num_envs, 0), object),
        }

    def clear(self, lanes: np.ndarray) -> None:
        """Begin new episodes in the given lanes, int64, shape (n,)."""
        self.length[lanes] = 0

    def append(self, lanes: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Add a row to each of the given lanes.

        Args:
            lanes: Int64, shape (n,).
            values: For every column, an array of shape (n, …).
        """
        at = self.length[lanes]
        if len(lanes) and at.max() >= self.columns["updates"].shape[1]:
            self._grow()
        for name, column in self.columns.items():
            column[lanes, at] = values[name]
        self.length[lanes] += 1

    def _grow(self) -> None:
        for name, column in self.columns.items():
            more = np.zeros((len(column), max(32, column.shape[1]), *column.shape[2:]), column.dtype)
            self.columns[name] = np.concatenate((column, more), axis=1)

    def of(self, lane: int) -> History:
        """Columns of one lane's episode so far, copies, each of shape (rows, …)."""
        length = self.length[lane]
        return History({name: column[lane, :length].copy() for name, column in self.columns.items()})

    def copy_lane(self, source: int, target: int) -> None:
        """Copy one lane's episode to another."""
        self.length[target] = self.length[source]
        for column in self.columns.values():
            column[target] = column[source]
