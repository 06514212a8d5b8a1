"""Controls: what a policy owes to its eyes, its actions and the environment's parts.

Each is a policy around the one under test, or a change of the environment, at evaluation; the policy itself
is not trained again.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotrain_env.errors import check
from autotrain_env.policies.protocol import EpisodeCounter, Policy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.observations import METRICS
from autotrain_env.process.situation import Situation

EARLIER, PROGRESS = "earlier states", "progress"

OBSERVATION_GROUPS: dict[str, tuple[str, ...]] = {
    "minibatches": ("log_loss_ratio", "batch_accuracy"),
    "learning rate": ("learning_rate",),
    "holdout": ("holdout_answer", "generalization_gap"),
    PROGRESS: ("budget_used", "lineage_updates"),
    "flags": ("diverged", "exists"),
}
"""Metrics of the observation that are blanked together; `"earlier states"` are rows 1 … H − 1."""


def _half_after_rewinds(decisions: Decisions) -> Decisions:
    half = np.where(decisions.rewind > 0, 0.5, 1.0)
    rate = None if decisions.learning_rate is None else half * decisions.learning_rate
    return dataclasses.replace(decisions, lr_factor=half * decisions.lr_factor, learning_rate=rate)


CHANGES: dict[str, Callable[[Decisions], Decisions]] = {
    "no rewind": lambda d: dataclasses.replace(d, rewind=np.zeros_like(d.rewind)),
    "no re-init": lambda d: dataclasses.replace(d, reinit=np.zeros_like(d.reinit)),
    "no stop": lambda d: dataclasses.replace(d, stop=np.zeros_like(d.stop)),
    "no change of rate": lambda d: dataclasses.replace(
        d, lr_factor=np.ones_like(d.lr_factor), learning_rate=None
    ),
    "half rate after rewinds": _half_after_rewinds,
}
"""Changes of decisions, by the name of the control."""

CHANGED_ENVIRONMENTS: dict[str, dict[str, Any]] = {
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
        change: Function from decisions to others.
    """

    policy: Policy
    change: Callable[[Decisions], Decisions]

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new episodes as the policy does."""
        self.policy.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        """Decide as the policy does, changed."""
        return self.change(self.policy.decide(situation))


@dataclass(frozen=True)
class Step:
    """What a policy decided for one env step of one lane.

    Args:
        lr_factor: What the learning rate is multiplied by.
        rewind: How far to rewind [env steps].
        reinit: Whether to draw new networks.
        stop: Whether to end the episode.
        learning_rate: The rate in place of the factor; NaN where the factor counts.
    """

    lr_factor: float
    rewind: int
    reinit: bool
    stop: bool
    learning_rate: float

    @classmethod
    def of(cls, decisions: Decisions, lane: int) -> "Step":
        """Returns what was decided for one lane."""
        rates = decisions.learning_rate
        return cls(
            lr_factor=float(decisions.lr_factor[lane]),
            rewind=int(decisions.rewind[lane]),
            reinit=bool(decisions.reinit[lane]),
            stop=bool(decisions.stop[lane]),
            learning_rate=math.nan if rates is None else float(rates[lane]),
        )


@dataclass
class Recorder:
    """Follows a policy, and records what it saw and did, for the two controls that need it.

    Args:
        policy: The policy.
        episodes: How many `evaluate_policy` plays.

    After an evaluation, `steps` holds the decisions of each episode, and `mean_observation` the mean of
    what was seen at each env step, shape (env steps, H, K, M).
    """

    policy: Policy
    episodes: int
    counter: EpisodeCounter = field(default_factory=EpisodeCounter)
    steps: list[list[Step]] = field(default_factory=list)
    _sums: list[np.ndarray] = field(default_factory=list)
    _counts: list[int] = field(default_factory=list)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new rows."""
        if not self.steps:
            self.steps = [[] for _ in range(self.episodes)]
        self.counter.reset(situation, lanes)
        self.policy.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        """Decide as the policy does, and take note of it."""
        decisions = self.policy.decide(situation)
        counted = situation.running & (self.counter.episode < self.episodes)
        for lane in np.flatnonzero(counted).tolist():
            step = int(situation.steps[lane])
            while len(self._sums) <= step:
                self._sums.append(np.zeros(situation.rows.shape[1:]))
                self._counts.append(0)
            self._sums[step] += situation.rows[lane]
            self._counts[step] += 1
            self.steps[self.counter.episode[lane]].append(Step.of(decisions, lane))
        return decisions

    @property
    def mean_observation(self) -> np.ndarray:
        """Returns means over the episodes that made each env step, float32, shape (env steps, H, K, M)."""
        pairs = zip(self._sums, self._counts, strict=True)
        return np.stack([total / count for total, count in pairs]).astype(np.float32)


@dataclass
class OpenLoop:
    """Does in episode k what a policy did in episode k + 1, whatever it sees.

    Args:
        steps: Decisions of each episode, as `Recorder` keeps them.
    """

    steps: list[list[Step]]
    counter: EpisodeCounter = field(default_factory=EpisodeCounter)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes."""
        self.counter.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        """Returns what was recorded; where the record has ended, training goes on at the same rate."""
        has_rates = not math.isnan(self.steps[0][0].learning_rate)
        decisions = Decisions.scale(np.ones(situation.num_envs))
        if has_rates:
            decisions = Decisions.set_rate(situation.learning_rate.copy())
        for lane in np.flatnonzero(situation.running).tolist():
            recorded = self.steps[(self.counter.episode[lane] + 1) % len(self.steps)]
            if situation.steps[lane] < len(recorded):
                step = recorded[situation.steps[lane]]
                for name in ("lr_factor", "rewind", "reinit", "stop", *["learning_rate"] * has_rates):
                    getattr(decisions, name)[lane] = getattr(step, name)
        return decisions


@dataclass
class Blanked:
    """A policy that sees the mean of other episodes in place of some part of its observation.

    It is the mean at the same env step, but for `"progress"`, which would be seen as it is, since it is
    alike in all episodes: of that, the mean over all env steps.

    Args:
        policy: The policy.
        group: One of `OBSERVATION_GROUPS`, or `"earlier states"`.
        mean_observation: Mean observation by env step; see `Recorder`.
    """

    policy: Policy
    group: str
    mean_observation: np.ndarray

    def __post_init__(self) -> None:
        """Check the group."""
        known = (*OBSERVATION_GROUPS, EARLIER)
        check(self.group in known, "group", self.group, f"one of {', '.join(known)}")

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new episodes as the policy does."""
        self.policy.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        """Decide as the policy does, of what it is shown."""
        step = np.minimum(situation.steps, len(self.mean_observation) - 1)
        shown, mean = situation.rows.copy(), self.mean_observation[step]
        if self.group == EARLIER:
            shown[:, 1:] = mean[:, 1:]
        else:
            if self.group == PROGRESS:
                mean = np.broadcast_to(self.mean_observation.mean(0), mean.shape)
            at = [list(METRICS).index(name) for name in OBSERVATION_GROUPS[self.group]]
            shown[..., at] = mean[..., at]
        return self.policy.decide(dataclasses.replace(situation, rows=shown))


def control_names() -> list[str]:
    """Returns the names of all controls at evaluation."""
    blanked = [BLANKED + group for group in (*OBSERVATION_GROUPS, EARLIER)]
    return [DRAWN, OPEN_LOOP, *CHANGES, *blanked, *CHANGED_ENVIRONMENTS]


def changed_env(name: str) -> Mapping[str, Any]:
    """Returns the arguments of the environment that a control changes."""
    return CHANGED_ENVIRONMENTS.get(name, {})


def make_control(name: str, policy: Policy, recorder: Callable[[], Recorder]) -> Policy:
    """Returns the policy of a control.

    Args:
        name: One of `control_names()`.
        policy: The policy under test; for `DRAWN`, loaded so that it draws its actions.
        recorder: Gives what was recorded of an evaluation on the same episodes; asked only where needed.
    """
    if name == DRAWN or name in CHANGED_ENVIRONMENTS:
        return policy
    if name in CHANGES:
        return Changed(policy, CHANGES[name])
    if name == OPEN_LOOP:
        return OpenLoop(recorder().steps)
    return Blanked(policy, name.removeprefix(BLANKED), recorder().mean_observation)
