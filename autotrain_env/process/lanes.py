"""What the core keeps of every lane, and what passes between its parts."""

from dataclasses import dataclass
from typing import Any

import numpy as np

GROUPS = ("stack", "training", "evaluation", "test")  # for which lanes can be computed together or not


class Lanes:
    """Numbers of every lane, each an array of shape (N,) unless stated.

    Args:
        num_envs: Lanes (N).
        history_length: Windows per env step (K).
    """

    def __init__(self, num_envs: int, history_length: int) -> None:
        self.slot = np.zeros(num_envs, np.int64)  # place in its stack
        self.groups = np.zeros((num_envs, len(GROUPS)), np.int64)  # equal where lanes go together
        self.num_classes = np.full(num_envs, 2)
        self.budget = np.zeros(num_envs, np.int64)  # [updates]
        self.updates = np.zeros(num_envs, np.int64)  # of the budget used
        self.steps = np.zeros(num_envs, np.int64)  # env steps
        self.learning_rate = np.ones(num_envs)
        self.loss = np.zeros((num_envs, history_length))  # of minibatches [nats]
        self.batch_accuracy = np.zeros((num_envs, history_length))
        self.score = np.zeros(num_envs)  # on the reward's split
        self.train_score = np.zeros(num_envs)  # in [0, 1], as is the next
        self.holdout_score = np.zeros(num_envs)  # Thresholdout's answer
        self.best_holdout_score = np.zeros(num_envs)
        self.best_score = np.zeros(num_envs)  # of the best-on-holdout weights, on the reward's split
        self.diverged = np.zeros(num_envs, bool)
        self.running = np.zeros(num_envs, bool)
        self.terminated = np.zeros(num_envs, bool)
        self.truncated = np.zeros(num_envs, bool)

    def copy_lane(self, source: int, target: int) -> None:
        """Copy every number but the slot."""
        for name, array in vars(self).items():
            if name != "slot":
                array[target] = array[source]


@dataclass(frozen=True)
class Scores:
    """Evaluation of n lanes; scores are what is maximised (see `AutoTrainConfig.score`).

    Args:
        train: On the train subset, float64, shape (n,).
        holdout: Unguarded, float64, shape (n,).
        validation: Float64, shape (n,).
        train_loss: Log loss on the train subset [nats]; 0 where it was not asked for.
        train_accuracy: On the train subset.
        finite: Whether all logits of train subset and holdout were finite, bool, shape (n,).
    """

    train: np.ndarray
    holdout: np.ndarray
    validation: np.ndarray
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    finite: np.ndarray

    def take(self, which: np.ndarray) -> "Scores":
        """Those of some lanes, given as a bool array of shape (n,)."""
        return Scores(**{name: array[which] for name, array in vars(self).items()})


@dataclass(frozen=True)
class StepResult:
    """What one env step brought; arrays over all N lanes.

    Args:
        reward: Float64; 0 in lanes that did not run.
        terminated: Bool; kept in lanes that have ended.
        truncated: Bool; likewise.
        ran: Which lanes took part, bool.
        info: Arrays by name, true of the lanes that ran; `reward_terms` is a dictionary of arrays.
        final: Arrays by name for the lanes that ended in this step, true of those alone.
    """

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ran: np.ndarray
    info: dict[str, Any]
    final: dict[str, np.ndarray]


@dataclass(frozen=True)
class Done:
    """What was really done, arrays over all N lanes.

    Args:
        rewind: Distance rewound [env steps], int64.
        rewind_impossible: Whether another distance was asked for, bool.
        reinit: Bool.
        stop: Bool.
    """

    rewind: np.ndarray
    rewind_impossible: np.ndarray
    reinit: np.ndarray
    stop: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> "Done":
        """Nothing in any of `count` lanes."""
        flags = np.zeros((3, count), bool)
        return cls(np.zeros(count, np.int64), *flags)
