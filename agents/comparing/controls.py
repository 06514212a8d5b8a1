"""Controls: what a policy owes to its eyes, its actions and the environment's parts.

Each is a policy around the one under test, or a change of the environment, at evaluation; the policy itself
is not trained again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check
from autotrain_env.policies.protocol import EpisodeCounter, Policy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.observations import METRICS

EARLIER, PROGRESS = "earlier states", "progress"

OBSERVATION_GROUPS: dict[str, tuple[str, ...]] = {
    "minibatches": ("log_loss_ratio", "batch_accuracy"),
    "learning rate": ("learning_rate",),
    "holdout": ("holdout_score", "generalization_gap"),
    PROGRESS: ("budget_used", "lineage_updates"),
    "flags": ("diverged", "exists"),
}
"""Metrics of the observation that are blanked together; `"earlier states"` are rows 1 … H − 1."""


def _factors(env: AutoTrainVectorEnv, decisions: Decisions) -> np.ndarray:
    return decisions.learning_rate / env.core.lanes.learning_rate


def _nothing(count: int) -> np.ndarray:
    return np.zeros(count, bool)


CHANGES: dict[str, Callable[[AutoTrainVectorEnv, Decisions], Decisions]] = {
    "no rewind": lambda env, d: dataclasses.replace(d, rewind=np.zeros_like(d.rewind)),
    "no re-init": lambda env, d: dataclasses.replace(d, reinit=_nothing(env.num_envs)),
    "no stop": lambda env, d: dataclasses.replace(d, stop=_nothing(env.num_envs)),
    "no change of rate": lambda env, d: dataclasses.replace(
        d, learning_rate=env.core.lanes.learning_rate.copy()
    ),
    "half rate after rewinds": lambda env, d: dataclasses.replace(
        d, learning_rate=np.where(d.rewind > 0, 0.5, 1.0) * d.learning_rate
    ),
}
"""Changes of decisions, by the name of the control."""

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "same minibatches after rewinds": {"rewind_minibatches": "same"},
    "noise 0.03 after rewinds": {"rewind_noise": 0.03},
    "noise 0.3 after rewinds": {"rewind_noise": 0.3},
    "unguarded holdout": {"thresholdout": False},
    "trained on train + holdout": {"train_on_holdout": True},
}
"""Changes of the environment, by the name of the control."""

OPEN_LOOP = "another episode's actions"
DRAWN = "drawn actions"
BLANKED = "without "


@dataclass(frozen=True)
class Changed:
    """A policy whose decisions are changed.

    Args:
        policy: The policy.
        change: From the environment and a decision to another one.
    """

    policy: Policy
    change: Callable[[AutoTrainVectorEnv, Decisions], Decisions]

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """As the policy does."""
        self.policy.reset(env, lanes)

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """As the policy does, changed."""
        return self.change(env, self.policy.decide(env, observation))


@dataclass
class Recorder:
    """Follows a policy, and records what it saw and did, for the two controls that need it.

    Args:
        policy: The policy.
        episodes: How many `evaluate_policy` plays.

    After an evaluation, `factors`, `rewind`, `reinit` and `stop` hold the decisions, shape (episodes, env
    steps), and `mean_observation` the mean of what was seen at each env step, shape (env steps, H, K, M).
    """

    policy: Policy
    episodes: int
    counter: EpisodeCounter = field(default_factory=EpisodeCounter)
    rows: list[list[tuple[float, int, bool, bool]]] = field(default_factory=list)
    _sums: list[np.ndarray] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Begin new rows."""
        if not self.rows:
            self.rows = [[] for _ in range(self.episodes)]
        self.counter.reset(env, lanes)
        self.policy.reset(env, lanes)

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """As the policy does."""
        decisions = self.policy.decide(env, observation)
        factors, state = _factors(env, decisions), env.core.lanes
        stacked = env.core.metrics.rows
        for lane in np.flatnonzero(state.running & (self.counter.episode < self.episodes)).tolist():
            step = int(state.steps[lane])
            while len(self._sums) <= step:
                self._sums.append(np.zeros(stacked.shape[1:]))
                self._counts.append(0)
            self._sums[step] += stacked[lane]
            self._counts[step] += 1
            self.rows[self.counter.episode[lane]].append(
                (factors[lane], decisions.rewind[lane], decisions.reinit[lane], decisions.stop[lane])
            )
        return decisions

    @property
    def mean_observation(self) -> np.ndarray:
        """Means over the episodes that made each env step, float32, shape (env steps, H, K, M)."""
        pairs = zip(self._sums, self._counts, strict=True)
        return np.stack([total / count for total, count in pairs]).astype(np.float32)


@dataclass
class OpenLoop:
    """Does in episode k what a policy did in episode k + 1, whatever it sees.

    Args:
        rows: Decisions of each episode, as `Recorder` keeps them.
    """

    rows: list[list[tuple[float, int, bool, bool]]]
    counter: EpisodeCounter = field(default_factory=EpisodeCounter)

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes."""
        self.counter.reset(env, lanes)

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """The recorded decision; where the record has ended, train on at the same rate."""
        state = env.core.lanes
        decisions = Decisions.train(state.learning_rate.copy())
        reinit, stop = _nothing(env.num_envs), _nothing(env.num_envs)
        for lane in np.flatnonzero(state.running).tolist():
            row = self.rows[(self.counter.episode[lane] + 1) % len(self.rows)]
            if state.steps[lane] < len(row):
                factor, decisions.rewind[lane], reinit[lane], stop[lane] = row[state.steps[lane]]
                decisions.learning_rate[lane] *= factor
        return dataclasses.replace(decisions, reinit=reinit, stop=stop)


@dataclass
class Blanked:
    """A policy that sees the mean of other episodes in place of some part of its observation.

    It is the mean at the same env step, but for `"progress"`, which would be seen as it is, since it is
    alike in all episodes: of that, the mean over all env steps.

    Args:
        policy: The policy.
        group: One of `OBSERVATION_GROUPS`, or `"earlier states"`.
        mean_observation: By env step; see `Recorder`.
    """

    policy: Policy
    group: str
    mean_observation: np.ndarray

    def __post_init__(self) -> None:
        """Check the group."""
        known = (*OBSERVATION_GROUPS, EARLIER)
        check(self.group in known, "group", self.group, f"one of {', '.join(known)}")

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """As the policy does."""
        self.policy.reset(env, lanes)

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """As the policy does, of what it is shown."""
        step = np.minimum(env.core.lanes.steps, len(self.mean_observation) - 1)
        shape = (env.num_envs, *self.mean_observation.shape[1:])
        shown = observation.reshape(shape).copy()
        mean = self.mean_observation[step]
        if self.group == EARLIER:
            shown[:, 1:] = mean[:, 1:]
        else:
            if self.group == PROGRESS:
                mean = np.broadcast_to(self.mean_observation.mean(0), mean.shape)
            at = [list(METRICS).index(name) for name in OBSERVATION_GROUPS[self.group]]
            shown[..., at] = mean[..., at]
        return self.policy.decide(env, shown.reshape(observation.shape))


def control_names() -> list[str]:
    """All controls at evaluation."""
    blanked = [BLANKED + group for group in (*OBSERVATION_GROUPS, EARLIER)]
    return [DRAWN, OPEN_LOOP, *CHANGES, *blanked, *ENVIRONMENTS]


def changed_env(name: str) -> Mapping[str, Any]:
    """Arguments of the environment that a control changes."""
    return ENVIRONMENTS.get(name, {})


def make_control(name: str, policy: Policy, recorder: Callable[[], Recorder]) -> Policy:
    """The policy of a control.

    Args:
        name: One of `control_names()`.
        policy: The policy under test; for `DRAWN`, loaded so that it draws its actions.
        recorder: Gives what was recorded of an evaluation on the same episodes; asked only where needed.
    """
    if name == DRAWN or name in ENVIRONMENTS:
        return policy
    if name in CHANGES:
        return Changed(policy, CHANGES[name])
    if name == OPEN_LOOP:
        return OpenLoop(recorder().rows)
    return Blanked(policy, name.removeprefix(BLANKED), recorder().mean_observation)
