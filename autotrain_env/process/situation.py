"""What a policy decides on, whoever makes the updates."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from autotrain_env.process.actions import ActionType, Decisions
from autotrain_env.process.observations import observation_space


@dataclass(frozen=True)
class Situation:
    """Where N training runs have come to: a copy, which later steps leave as it is.

    Args:
        rows: Metrics of the last states, float32, shape (N, H, K, M); see `METRICS`.
        exists: Which of these rows exist, bool, shape (N, H).
        rewindable: Which of them a lane can rewind to, bool, shape (N, H).
        can_reinit: In which lanes other networks can be drawn, bool, shape (N,).
        learning_rate: Learning rate of the last updates, float64, shape (N,).
        initial_learning_rate: Learning rate that the episodes began with, float64, shape (N,).
        updates: Updates of the budget used, int64, shape (N,).
        budget: Updates per episode, int64, shape (N,).
        steps: Env steps since the episodes began, int64, shape (N,).
        holdout_answer: Thresholdout's last answer, 0 to 1, float64, shape (N,).
        running: Which lanes are to be decided on; what is decided in others is ignored; bool, shape (N,).
        episode_seed: Numbers that, with the tasks, name the episodes, int64, shape (N,).
        inner_steps: Updates per env step (T), int64, shape (N,).
        lr_bounds: Smallest and largest learning rate; rates beyond them are held to them.
        action_type: What actions there are, for policies that choose among them.
        observation_layout: `"stacked"` or `"flat"`.
        metrics: Which metrics rows have, one of `METRIC_SETS`.
        generators: The lanes' streams, from which actions are drawn where decoding draws.
    """

    rows: np.ndarray
    exists: np.ndarray
    rewindable: np.ndarray
    can_reinit: np.ndarray
    learning_rate: np.ndarray
    initial_learning_rate: np.ndarray
    updates: np.ndarray
    budget: np.ndarray
    steps: np.ndarray
    holdout_answer: np.ndarray
    running: np.ndarray
    episode_seed: np.ndarray
    inner_steps: np.ndarray
    lr_bounds: tuple[float, float]
    action_type: ActionType
    observation_layout: str
    metrics: str
    generators: list[np.random.Generator]

    @property
    def num_envs(self) -> int:
        """Returns the number of lanes (N)."""
        return len(self.rows)

    @property
    def steps_left(self) -> np.ndarray:
        """Returns the env steps until the budgets are spent, int64, shape (N,)."""
        return (self.budget - self.updates) // self.inner_steps

    @property
    def observation(self) -> np.ndarray:
        """Returns the rows as agents see them, shape (N, H, K, M), or (N, H * K * M) where flat."""
        return self.rows.reshape(self.num_envs, -1) if self.observation_layout == "flat" else self.rows

    @property
    def observation_space(self) -> spaces.Box:
        """Returns the space of one lane's observation."""
        num_snapshots, history_length = self.rows.shape[1:3]
        return observation_space(num_snapshots, history_length, self.observation_layout, self.metrics)

    @property
    def action_masks(self) -> np.ndarray | None:
        """Returns which discrete actions are possible, bool, (N, actions); `None` for continuous ones."""
        if not self.action_type.has_masks:
            return None
        return self.action_type.masks(self.rewindable, self.can_reinit)

    def of_lanes(self, lanes: np.ndarray) -> "Situation":
        """Returns what is known of some lanes alone.

        Args:
            lanes: Which lanes, int64, shape (n,).
        """
        parts: dict[str, Any] = {
            name: value[lanes] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **parts, generators=[self.generators[lane] for lane in lanes.tolist()])

    def decode(self, actions: np.ndarray) -> Decisions:
        """Returns the decisions that actions of all lanes, shape (N, …), stand for."""
        return self.action_type.decide(actions, self.rewindable, self.generators, self.steps_left)
