"""Learning-rate schedules as policies: what an agent is compared with.

A schedule decides once per env step, from the lane's own budget, and never rewinds or re-initialises.
Its length is the budget of the lane's task: `budget / inner_steps` env steps.
"""

import dataclasses
import math
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from autotrain_env.errors import InvalidTypeError, check, check_whole, unknown_name
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation


class Schedule(ABC):
    """A policy that sets the learning rate; see `Policy` for the arguments of its methods."""

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Forget what was kept of lanes in which a new episode has just begun; here nothing is."""
        return

    def decide(self, situation: Situation) -> Decisions:
        """Go on training at this env step's rates, held to the bounds."""
        return Decisions.set_rate(np.clip(self.learning_rates(situation), *situation.lr_bounds))

    @abstractmethod
    def learning_rates(self, situation: Situation) -> np.ndarray:
        """Returns the rates of the coming env step before they are held to bounds, float64, shape (N,)."""

    @abstractmethod
    def with_learning_rate(self, learning_rate: float | None) -> "Schedule":
        """Returns the same schedule with another peak rate; `None` for each task's own initial rate."""


@dataclass(frozen=True)
class BudgetSchedule(Schedule):
    """A schedule whose rate depends on the env step and the budget alone.

    Args:
        learning_rate: Peak rate; `None` for the initial rate of each lane's task.
    """

    learning_rate: float | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_rate(self.learning_rate)

    def learning_rates(self, situation: Situation) -> np.ndarray:
        """Returns peak rates times the factors of the coming env step, float64, shape (N,)."""
        num_steps = np.maximum(situation.budget // situation.inner_steps, 1)
        step = np.minimum(situation.steps, num_steps - 1)  # lanes that have ended have no next step
        return _peak_rates(situation, self.learning_rate) * self.factors(step, num_steps)

    def with_learning_rate(self, learning_rate: float | None) -> "BudgetSchedule":
        """Returns the same schedule with another peak rate."""
        return dataclasses.replace(self, learning_rate=learning_rate)

    @abstractmethod
    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns rates as shares of the peak rate.

        Args:
            step: Env steps made so far, int64, shape (N,).
            num_steps: Env steps in the budget, int64, shape (N,).

        Returns:
            Float64, shape (N,).
        """


@dataclass(frozen=True)
class Constant(BudgetSchedule):
    """The same rate from beginning to end.

    Args:
        learning_rate: The rate; `None` for the initial rate of each lane's task, here as in the others.
    """

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns 1 for every lane."""
        return np.ones(len(step))


@dataclass(frozen=True)
class StepDecay(BudgetSchedule):
    """Multiply the rate by a factor at regular times (`torch.optim.lr_scheduler.StepLR`).

    Args:
        learning_rate: Rate at the start.
        factor: Factor of each drop, in (0, 1].
        every: Share of the budget between drops, in (0, 1]; rounded to env steps, at least one.
    """

    factor: float = 0.1
    every: float = 1 / 3

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        _check_share("factor", self.factor)
        _check_share("every", self.every)

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns `factor` to the power of the drops so far."""
        step_size = np.maximum(np.rint(self.every * num_steps), 1)
        return self.factor ** (step // step_size)


@dataclass(frozen=True)
class Exponential(BudgetSchedule):
    """Multiply the rate by the same factor at every env step (`ExponentialLR`).

    Args:
        learning_rate: Rate at the start.
        final_factor: Share of it that is left when the budget is spent, in (0, 1].
    """

    final_factor: float = 0.01

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        _check_share("final_factor", self.final_factor)

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns terms of a geometric sequence."""
        return self.final_factor ** (step / num_steps)


@dataclass(frozen=True)
class Cosine(BudgetSchedule):
    """Half a cosine from the peak down (Loshchilov and Hutter, arXiv:1608.03983; `CosineAnnealingLR`).

    Args:
        learning_rate: Rate at the start.
        final_factor: Share of it that is reached when the budget is spent, in [0, 1].
    """

    final_factor: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        _check_share("final_factor", self.final_factor, zero=True)

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns shares that fall from 1 towards `final_factor`."""
        return _cosine(1.0, self.final_factor, step / num_steps)


@dataclass(frozen=True)
class OneCycle(BudgetSchedule):
    """Up to the peak and far down, both along cosines (Smith and Topin, arXiv:1708.07120; `OneCycleLR`).

    Momentum is left as it is.

    Args:
        learning_rate: Rate at the peak.
        rise: Share of the budget spent on the way up, in (0, 1).
        initial_factor: Share of the peak rate at the start, in (0, 1].
        final_factor: Share of the peak rate in the last env step, in (0, 1].
    """

    rise: float = 0.3
    initial_factor: float = 1 / 25
    final_factor: float = 4e-6

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        _check_share("rise", self.rise)
        check(self.rise < 1, "rise", self.rise, "below 1")
        _check_share("initial_factor", self.initial_factor)
        _check_share("final_factor", self.final_factor)

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns shares that go from `initial_factor` to 1 and on to `final_factor`."""
        top, end = self.rise * num_steps - 1, num_steps - 1
        up = _cosine(self.initial_factor, 1.0, step / np.where(top > 0, top, 1))
        down = _cosine(1.0, self.final_factor, (step - top) / (end - top))
        return np.where((step <= top) & (top > 0), up, down)


@dataclass(frozen=True)
class WarmupCosine(BudgetSchedule):
    """A linear rise to the peak, then half a cosine (`LinearLR` followed by `CosineAnnealingLR`).

    Args:
        learning_rate: Rate at the peak.
        warmup: Share of the budget spent on the rise, in [0, 1); rounded to env steps.
        initial_factor: Share of the peak rate at the start, in (0, 1].
        final_factor: Share of the peak rate that is reached when the budget is spent, in [0, 1].
    """

    warmup: float = 0.1
    initial_factor: float = 0.1
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        _check_share("warmup", self.warmup, zero=True)
        check(self.warmup < 1, "warmup", self.warmup, "below 1")
        _check_share("initial_factor", self.initial_factor)
        _check_share("final_factor", self.final_factor, zero=True)

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        """Returns shares that go from `initial_factor` to 1 and on towards `final_factor`."""
        rise = np.minimum(np.rint(self.warmup * num_steps), num_steps - 1)
        linear = self.initial_factor + (1 - self.initial_factor) * step / np.maximum(rise, 1)
        cosine = _cosine(1.0, self.final_factor, (step - rise) / (num_steps - rise))
        return np.where(step < rise, linear, cosine)


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Lower the rate when the guarded holdout answer has stopped rising (`ReduceLROnPlateau`, mode `max`).

    It reads that score alone, once after each env step.

    Args:
        learning_rate: Rate at the start; `None` for the initial rate of each lane's task.
        factor: Factor of each reduction, in (0, 1).
        patience: Env steps without improvement that are let pass; the rate falls after one more.
        threshold: By how much a score must exceed the best one to count as an improvement [score].
        cooldown: Env steps after a reduction in which none is counted.
    """

    learning_rate: float | None = None
    factor: float = 0.3
    patience: int = 3
    threshold: float = 0.0
    cooldown: int = 0
    _state: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the parameters."""
        _check_rate(self.learning_rate)
        _check_share("factor", self.factor)
        check(self.factor < 1, "factor", self.factor, "below 1")
        check_whole("patience", self.patience, 0)
        _check_threshold("threshold", self.threshold)
        check_whole("cooldown", self.cooldown, 0)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Start anew in the given lanes (bool, shape (N,))."""
        _restart(self._state, lanes, best=-np.inf, stale=0, cooldown=0, reductions=0)

    def learning_rates(self, situation: Situation) -> np.ndarray:
        """Returns the first rates times `factor` to the power of the reductions so far."""
        self._look(situation)
        return _peak_rates(situation, self.learning_rate) * self.factor ** self._state["reductions"]

    def _look(self, situation: Situation) -> None:
        state = self._state
        seen = _count_stale(state, situation, self.threshold)
        cooling = seen & (state["cooldown"] > 0)
        state["cooldown"][cooling] -= 1
        state["stale"][cooling] = 0
        reduce = seen & (state["stale"] > self.patience)
        state["reductions"][reduce] += 1
        state["cooldown"][reduce] = self.cooldown
        state["stale"][reduce] = 0

    def with_learning_rate(self, learning_rate: float | None) -> "ReduceOnPlateau":
        """Returns the same schedule with another rate at the start; `None` for each task's own."""
        return dataclasses.replace(self, learning_rate=learning_rate)


@dataclass(frozen=True)
class EarlyStopping(Schedule):
    """Follow another schedule, and stop when the guarded holdout answer has not risen for some time.

    It reads that score alone, once after each env step. The weights are those of the last env step; the
    results of the best are reported beside them (`best_holdout_test_accuracy`).

    Args:
        schedule: The schedule to follow, or its name.
        patience: Env steps without improvement after which it stops, at least 1.
        threshold: By how much a score must exceed the best one to count as an improvement [score].
    """

    schedule: "Schedule | str" = "constant"
    patience: int = 5
    threshold: float = 0.0
    _state: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Look the schedule up and check the parameters."""
        schedule = as_schedule(self.schedule)
        if not isinstance(schedule, Schedule):
            raise InvalidTypeError(f"schedule={self.schedule!r} must be a Schedule or the name of one")
        # A copy: what it keeps of lanes must not be shared with others that follow the same one.
        object.__setattr__(self, "schedule", dataclasses.replace(schedule))  # type: ignore[type-var]
        check_whole("patience", self.patience, 1)
        _check_threshold("threshold", self.threshold)

    @property
    def followed(self) -> Schedule:
        """Returns the schedule that is followed."""
        assert isinstance(self.schedule, Schedule)
        return self.schedule

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Start anew in the given lanes (bool, shape (N,))."""
        self.followed.reset(situation, lanes)
        _restart(self._state, lanes, best=-np.inf, stale=0)

    def decide(self, situation: Situation) -> Decisions:
        """Stop where the answer has not risen for some time, or else do what the schedule does."""
        _count_stale(self._state, situation, self.threshold)
        decisions = self.followed.decide(situation)
        return dataclasses.replace(decisions, stop=self._state["stale"] >= self.patience)

    def learning_rates(self, situation: Situation) -> np.ndarray:
        """Returns the rates of the schedule that is followed."""
        return self.followed.learning_rates(situation)

    def with_learning_rate(self, learning_rate: float | None) -> "EarlyStopping":
        """Returns the same, following the schedule with another peak rate."""
        return dataclasses.replace(self, schedule=self.followed.with_learning_rate(learning_rate))


SCHEDULES: dict[str, type[Schedule] | type[RandomAgent]] = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": Exponential,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "warmup_cosine": WarmupCosine,
    "reduce_on_plateau": ReduceOnPlateau,
    "early_stopping": EarlyStopping,
    "random": RandomAgent,
}


def as_schedule(schedule: str | Policy) -> Policy:
    """Look a schedule up by name.

    Args:
        schedule: One of `SCHEDULES`, which is made with its default parameters, or a policy, which is
            returned as it is.

    Raises:
        InvalidValueError: If the name is unknown.
        InvalidTypeError: If it is neither a name nor a policy.
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise unknown_name("schedule", schedule, SCHEDULES)
        return SCHEDULES[schedule]()
    methods = (getattr(schedule, name, None) for name in ("reset", "decide"))
    if isinstance(schedule, type) or not all(callable(method) for method in methods):
        raise InvalidTypeError(f"schedule={schedule!r} must be a name, or an object with reset and decide")
    return schedule


def _peak_rates(situation: Situation, learning_rate: float | None) -> np.ndarray:
    """Returns the given rate, or what each lane's episode began with, float64, shape (N,)."""
    if learning_rate is None:
        return situation.initial_learning_rate
    return np.full(situation.num_envs, float(learning_rate))


def _cosine(start: float, end: float, share: np.ndarray) -> np.ndarray:
    """Returns half a cosine from `start` at share 0 to `end` at share 1."""
    return end + (start - end) * (1 + np.cos(np.pi * share)) / 2


def _restart(state: dict[str, np.ndarray], lanes: np.ndarray, **initial: float) -> None:
    """Give the lanes' entries their initial values, and all of them where N has changed."""
    for name, value in initial.items():
        if name not in state or len(state[name]) != len(lanes):
            state[name] = np.full(len(lanes), value)
        state[name][lanes] = value


def _count_stale(state: dict[str, np.ndarray], situation: Situation, threshold: float) -> np.ndarray:
    """Count env steps since the guarded holdout answer last rose above its best.

    Args:
        state: Arrays with the best score and the count of each lane.
        situation: What is known of all lanes.
        threshold: By how much a score must exceed the best.

    Returns:
        Which lanes have trained since they were reset and go on, bool, shape (N,).
    """
    answer = situation.holdout_answer
    seen = situation.running & (situation.steps > 0)
    better = seen & (answer > state["best"] + threshold)
    state["best"][better] = answer[better]
    state["stale"][seen] += 1
    state["stale"][better] = 0
    return seen


def _check_number(name: str, value: object, allowed: str) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    check(number and math.isfinite(value), name, value, allowed)  # type: ignore[arg-type]


def _check_rate(learning_rate: float | None) -> None:
    if learning_rate is not None:
        allowed = "finite and above 0, or None for the task's own"
        _check_number("learning_rate", learning_rate, allowed)
        check(learning_rate > 0, "learning_rate", learning_rate, allowed)


def _check_share(name: str, value: float, zero: bool = False) -> None:
    allowed = f"in {'[' if zero else '('}0, 1]"
    _check_number(name, value, allowed)
    check(0 < value <= 1 or (zero and value == 0), name, value, allowed)


def _check_threshold(name: str, value: float) -> None:
    _check_number(name, value, "finite, at least 0")
    check(value >= 0, name, value, "finite, at least 0")
