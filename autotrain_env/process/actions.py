"""Actions of the agent, and the decisions that they decode to.

A new type of actions is a class here and an entry of `ACTION_TYPES`; its fields are arguments of the
environment (`AutoTrainConfig`). Something new to decide on is a field of `Decisions` and of `Executed`,
which `AutoTrainCore` carries out, and has a column in `autotrain_env.process.record`.
"""

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from autotrain_env.errors import (
    InvalidTypeError,
    InvalidValueError,
    check,
    check_name,
    check_number,
    in_brief,
)

REINIT_THRESHOLD = 0.9  # of a continuous action
STOP_THRESHOLD = 0.95
REWIND_SHARPNESS = 10.0  # factor of a continuous action's rewind logits
REWIND_SAMPLINGS = ("sample", "argmax")
ANNEALINGS = ("none", "linear")
"""What a learning rate does by itself between two env steps: nothing, or fall on a straight line to 0."""


@dataclass(frozen=True)
class Decisions:
    """What to do in each lane in one env step; the core takes nothing else.

    Args:
        lr_factor: What the learning rate is multiplied by, float64, shape (N,).
        rewind: How far to rewind first [env steps], int64, shape (N,); 0 for not at all.
        reinit: Whether to draw new networks first, bool, shape (N,); then `rewind` is ignored.
        stop: Whether to end the episode before any update, bool, shape (N,).
        learning_rate: The rate itself, which then takes the place of the factor, float64, shape (N,);
            `None` where the factor counts in every lane.
        scaled: In which lanes the factor counts although there are rates, bool, shape (N,); `None` for
            none.
    """

    lr_factor: np.ndarray
    rewind: np.ndarray
    reinit: np.ndarray
    stop: np.ndarray
    learning_rate: np.ndarray | None = None
    scaled: np.ndarray | None = None

    @classmethod
    def scale(cls, lr_factor: np.ndarray) -> "Decisions":
        """Returns decisions to go on training with the learning rates scaled.

        Args:
            lr_factor: What each lane's rate is multiplied by, above 0, shape (N,).
        """
        count = len(lr_factor)
        nothing = np.zeros(count, bool)
        return cls(np.asarray(lr_factor, float), np.zeros(count, np.int64), nothing, nothing.copy())

    @classmethod
    def set_rate(cls, learning_rate: np.ndarray) -> "Decisions":
        """Returns decisions to go on training at given learning rates.

        Args:
            learning_rate: Each lane's rate, above 0, shape (N,); it will be held to the bounds.
        """
        count = len(learning_rate)
        nothing = np.zeros(count, bool)
        rates = np.asarray(learning_rate, float)
        return cls(np.ones(count), np.zeros(count, np.int64), nothing, nothing.copy(), rates)

    def annealed(self, steps_left: np.ndarray) -> "Decisions":
        """Returns the same decisions, with rates that fall linearly to 0 over what is left.

        A factor of 1 in every env step that is left makes a straight line to 0 from the present rate,
        wherever it begins: the rate in the middle of each env step is on it.

        Args:
            steps_left: Env steps until the budget is spent, the next one included, at least 1, shape (N,).
        """
        left = np.maximum(steps_left, 1)
        return replace(self, lr_factor=self.lr_factor * (left - 0.5) / (left + 0.5))

    def check(self, lanes: np.ndarray) -> None:
        """Check that the decisions can be carried out.

        Args:
            lanes: Which lanes are to carry theirs out, bool, shape (N,).

        Raises:
            InvalidValueError: If an array has another shape, a factor or rate is not above 0, or a distance
                is below 0.
        """
        for name, value in vars(self).items():
            if value is not None and value.shape != lanes.shape:
                check(False, f"decisions.{name}", value, f"of shape {lanes.shape}")
        factors, rewind = self.lr_factor[lanes], self.rewind[lanes]
        check(bool((factors > 0).all()), "decisions.lr_factor", factors, "above 0")
        check(bool((rewind >= 0).all()), "decisions.rewind", rewind, "at least 0")
        if self.learning_rate is not None:
            rates = self.learning_rate[lanes if self.scaled is None else lanes & ~self.scaled]
            check(bool((rates > 0).all()), "decisions.learning_rate", rates, "above 0")


class ActionType(ABC):
    """A space of actions, next to the code that decodes it; its fields are arguments of the environment."""

    name: ClassVar[str]
    """Name by which users choose it."""

    has_masks: ClassVar[bool] = True
    """Whether actions are discrete, so that impossible ones can be masked out."""

    meaning: ClassVar[tuple[str, ...]]
    """Fields that decide what an action means, and need not show in the space."""

    annealing: str = "none"
    """Whether rates fall by themselves, so that factors are departures from that; one of `ANNEALINGS`."""

    @abstractmethod
    def space(self) -> spaces.Space[Any]:
        """Returns the space of one lane's action."""

    @abstractmethod
    def decode(
        self, actions: np.ndarray, rewindable: np.ndarray, generators: list[np.random.Generator]
    ) -> Decisions:
        """Turn actions into decisions, without annealing.

        Args:
            actions: One action per lane, shape (N, …).
            rewindable: Which rows a lane can rewind to, bool, shape (N, H).
            generators: The lanes' streams for drawing actions.

        Returns:
            Decisions, arrays of shape (N,).
        """

    def decide(
        self,
        actions: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
        steps_left: np.ndarray,
    ) -> Decisions:
        """Turn actions into decisions, with annealing where there is any.

        Args:
            actions: One action per lane, shape (N, …).
            rewindable: Which rows a lane can rewind to, bool, shape (N, H).
            generators: The lanes' streams for drawing actions.
            steps_left: Env steps until the budget is spent, the next one included, int64, shape (N,).

        Returns:
            Decisions, arrays of shape (N,).
        """
        decisions = self.decode(actions, rewindable, generators)
        return decisions if self.annealing == "none" else decisions.annealed(steps_left)

    def masks(self, rewindable: np.ndarray, can_reinit: np.ndarray | None = None) -> np.ndarray:
        """Tell which discrete actions are possible now.

        Args:
            rewindable: Which rows a lane can rewind to, bool, shape (N, H).
            can_reinit: In which lanes other networks can be drawn, bool, shape (N,); `None` for all.

        Returns:
            Whether each is possible, bool, shape (N, number of actions).

        Raises:
            InvalidTypeError: If the actions are continuous.
        """
        raise InvalidTypeError(f"action_masks: action_type={self.name!r} has no masks")


def _check_positive(argument: str, values: tuple[float, ...]) -> None:
    positive = len(values) > 0 and all(math.isfinite(value) and value > 0 for value in values)
    check(positive, argument, values, "finite numbers above 0")


def _rewind_masks(rewindable: np.ndarray, num_rewinds: int) -> np.ndarray:
    masks = rewindable[:, :num_rewinds].copy()
    masks[:, 0] = True  # not rewinding is always possible
    return masks


@dataclass(frozen=True)
class _ChoiceActions(ActionType):
    """Choices among factors, rewinds and verbs.

    Args:
        lr_factors: Factors of the learning rate to choose from.
        num_rewinds: Rewind distances to choose from, 0 (none) included.
        reinit: Whether the agent may re-initialise.
        stop: Whether the agent may stop.
        annealing: Whether rates fall by themselves; see `ANNEALINGS`.
    """

    lr_factors: tuple[float, ...]
    num_rewinds: int
    reinit: bool
    stop: bool
    annealing: str = "none"

    meaning = ("lr_factors", "num_rewinds", "reinit", "stop", "annealing")

    def __post_init__(self) -> None:
        """Check the factors."""
        _check_positive("lr_factors", self.lr_factors)


class DiscreteActions(_ChoiceActions):
    """`Discrete(len(lr_factors) * num_rewinds + 2)`: index = rewind * len(lr_factors) + factor.

    The last two are re-init and stop, as far as they are switched on.
    """

    name = "discrete"

    @property
    def num_actions(self) -> int:
        """Returns the number of actions."""
        return len(self.lr_factors) * self.num_rewinds + self.reinit + self.stop

    def space(self) -> spaces.Space[Any]:
        """Returns the space of one lane's action."""
        return spaces.Discrete(self.num_actions)

    def decode(
        self, actions: np.ndarray, rewindable: np.ndarray, generators: list[np.random.Generator]
    ) -> Decisions:
        """Turn actions into decisions; see `ActionType.decode`."""
        every = self.every_decision
        return Decisions(
            every.lr_factor[actions], every.rewind[actions], every.reinit[actions], every.stop[actions]
        )

    @functools.cached_property
    def every_decision(self) -> Decisions:
        """What each action stands for, arrays of shape (number of actions,)."""
        num_factors = len(self.lr_factors)
        table_size = num_factors * self.num_rewinds
        actions = np.arange(self.num_actions)
        in_table = actions < table_size
        factors = np.array([*self.lr_factors] * self.num_rewinds + [1.0] * (self.num_actions - table_size))
        return Decisions(
            lr_factor=factors,
            rewind=np.where(in_table, actions // num_factors, 0),
            reinit=(actions == table_size) & self.reinit,
            stop=(actions == table_size + self.reinit) & self.stop,
        )

    def masks(self, rewindable: np.ndarray, can_reinit: np.ndarray | None = None) -> np.ndarray:
        """Tell which actions are possible now; see `ActionType.masks`."""
        table = np.repeat(_rewind_masks(rewindable, self.num_rewinds), len(self.lr_factors), axis=1)
        others = np.ones((len(table), self.num_actions - table.shape[1]), dtype=bool)
        if self.reinit and can_reinit is not None:
            others[:, 0] = can_reinit
        return np.concatenate((table, others), axis=1)


class MultiDiscreteActions(_ChoiceActions):
    """`MultiDiscrete`: which factor, which rewind, and one of go on, re-init and stop."""

    name = "multi_discrete"

    def _verbs(self) -> list[str]:
        return ["go on"] + ["reinit"] * self.reinit + ["stop"] * self.stop

    def space(self) -> spaces.Space[Any]:
        """Returns the space of one lane's action."""
        return spaces.MultiDiscrete([len(self.lr_factors), self.num_rewinds, len(self._verbs())])

    def decode(
        self, actions: np.ndarray, rewindable: np.ndarray, generators: list[np.random.Generator]
    ) -> Decisions:
        """Turn actions into decisions; see `ActionType.decode`."""
        verbs = np.array(self._verbs())[actions[:, 2]]
        return Decisions(
            lr_factor=np.array(self.lr_factors)[actions[:, 0]],
            rewind=actions[:, 1].astype(np.int64),
            reinit=verbs == "reinit",
            stop=verbs == "stop",
        )

    def masks(self, rewindable: np.ndarray, can_reinit: np.ndarray | None = None) -> np.ndarray:
        """Returns masks of the three parts, one after another; see `ActionType.masks`."""
        rewinds = _rewind_masks(rewindable, self.num_rewinds)
        before = np.ones((len(rewinds), len(self.lr_factors)), dtype=bool)
        after = np.ones((len(rewinds), len(self._verbs())), dtype=bool)
        if self.reinit and can_reinit is not None:
            after[:, 1] = can_reinit
        return np.concatenate((before, rewinds, after), axis=1)


@dataclass(frozen=True)
class ContinuousActions(ActionType):
    """`Box(-1, 1, (num_rewinds + 3,))`: factor, rewind logits, re-init, stop.

    The factor is `max_lr_factor ** a`. The rewind follows softmax(10 * logits) over the rows that exist.

    Args:
        num_rewinds: Rewind distances to choose from, 0 (none) included.
        max_lr_factor: Largest factor of the learning rate.
        rewind_sampling: Whether the rewind is drawn (`"sample"`) or the likeliest (`"argmax"`).
        reinit: Whether the agent may re-initialise.
        stop: Whether the agent may stop.
        annealing: Whether rates fall by themselves; see `ANNEALINGS`.
    """

    num_rewinds: int
    max_lr_factor: float
    rewind_sampling: str
    reinit: bool
    stop: bool
    annealing: str = "none"

    name = "continuous"
    has_masks = False
    meaning = ("max_lr_factor", "annealing")

    def __post_init__(self) -> None:
        """Check the factor and the way of sampling."""
        factor = self.max_lr_factor
        check_number("max_lr_factor", factor, lambda number: 1 < number < math.inf, "finite and above 1")
        object.__setattr__(self, "max_lr_factor", float(factor))
        check_name("rewind_sampling", self.rewind_sampling, REWIND_SAMPLINGS)

    def space(self) -> spaces.Space[Any]:
        """Returns the space of one lane's action."""
        return spaces.Box(-1.0, 1.0, (self.num_rewinds + 3,), np.float32)

    def decode(
        self, actions: np.ndarray, rewindable: np.ndarray, generators: list[np.random.Generator]
    ) -> Decisions:
        """Turn actions into decisions; see `ActionType.decode`."""
        actions = actions.astype(np.float64)
        possible = _rewind_masks(rewindable, self.num_rewinds)
        logits = np.where(possible, REWIND_SHARPNESS * actions[:, 1:-2], -np.inf)
        stop = (actions[:, -1] > STOP_THRESHOLD) & self.stop
        return Decisions(
            lr_factor=self.max_lr_factor ** actions[:, 0],
            rewind=self._choose(logits, generators),
            reinit=(actions[:, -2] > REINIT_THRESHOLD) & ~stop & self.reinit,
            stop=stop,
        )

    def _choose(self, logits: np.ndarray, generators: list[np.random.Generator]) -> np.ndarray:
        if self.rewind_sampling == "argmax":
            return logits.argmax(1)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        cumulative = weights.cumsum(1)
        drawn = np.array([generator.random() for generator in generators])[:, None]
        return (drawn * cumulative[:, -1:] >= cumulative).sum(1)


@dataclass(frozen=True)
class LearningRateActions(ActionType):
    """`Box(-1, 1, (1,))`: the learning rate itself, on a log scale between its bounds.

    Args:
        lr_bounds: Smallest and largest learning rate.
    """

    lr_bounds: tuple[float, float]

    name = "learning_rate"
    has_masks = False
    meaning = ("lr_bounds",)

    def __post_init__(self) -> None:
        """Check the bounds."""
        _check_positive("lr_bounds", self.lr_bounds)
        check(
            len(self.lr_bounds) == 2 and self.lr_bounds[0] < self.lr_bounds[1],
            "lr_bounds",
            self.lr_bounds,
            "(lowest, highest) with lowest < highest",
        )

    def space(self) -> spaces.Space[Any]:
        """Returns the space of one lane's action."""
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def decode(
        self, actions: np.ndarray, rewindable: np.ndarray, generators: list[np.random.Generator]
    ) -> Decisions:
        """Turn actions into decisions; see `ActionType.decode`."""
        low, high = np.log(self.lr_bounds)
        share = (actions[:, 0].astype(np.float64) + 1) / 2
        # Rounding may leave the bounds, and beyond those of floats there is nothing.
        with np.errstate(over="ignore", under="ignore"):
            return Decisions.set_rate(np.exp(low + share * (high - low)).clip(*self.lr_bounds))


ACTION_TYPES: dict[str, type[ActionType]] = {
    kind.name: kind
    for kind in (DiscreteActions, MultiDiscreteActions, ContinuousActions, LearningRateActions)
}
"""Action types by the names that users write."""


def check_actions(space: spaces.Space[Any], actions: Any) -> np.ndarray:
    """Check a batch of actions against the batched space.

    Args:
        space: The batched action space.
        actions: What the user gave, shape (N, …).

    Returns:
        The actions as an array of the space's dtype.

    Raises:
        InvalidTypeError: If they are of another dtype, which the space's cannot hold.
        InvalidValueError: If they have the wrong shape or lie outside the space.
    """
    try:
        given = np.asarray(actions)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidValueError(
            f"action={in_brief(actions)} is not an array of shape {space.shape}"
        ) from error
    dtype = space.dtype
    assert dtype is not None
    if given.dtype == object or not np.can_cast(given.dtype, dtype, casting="same_kind"):
        raise InvalidTypeError(
            f"action={in_brief(actions)} has dtype {given.dtype}; the action space needs {dtype}"
        )
    if given.shape != space.shape:
        raise InvalidValueError(
            f"action={in_brief(actions)} has shape {given.shape}; it must be {space.shape}"
        )
    with np.errstate(over="ignore"):  # what is infinite then is outside
        converted = given.astype(dtype)
    if not space.contains(converted):
        raise InvalidValueError(f"action={in_brief(actions)} is outside the action space {space}")
    return converted


ACTION_NUMBERS = {"reset": -1, "train": 0, "rewind": 1, "reinit": 2, "stop": 3}
"""What was done in a step, as a number, whatever the type of actions; `train` is neither of the others."""


@dataclass(frozen=True)
class Executed:
    """What was really done, arrays over all N lanes.

    Args:
        lr_factor: What the learning rate changed by, float64: the decision's own factor, or, where a bound
            held the rate or a rate was set, the new rate over the old one.
        rewind: Distance rewound [env steps], int64.
        rewind_impossible: Whether another distance was asked for, bool.
        reinit: Whether new networks were drawn, bool.
        stop: Whether the episode was ended, bool.
    """

    lr_factor: np.ndarray
    rewind: np.ndarray
    rewind_impossible: np.ndarray
    reinit: np.ndarray
    stop: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> "Executed":
        """Returns what was done where nothing was, in each of `count` lanes."""
        flags = np.zeros((3, count), bool)
        return cls(np.ones(count), np.zeros(count, np.int64), *flags)

    def numbers(self) -> np.ndarray:
        """Returns what was done by `ACTION_NUMBERS`, int64, shape (N,)."""
        done = np.where(self.rewind > 0, ACTION_NUMBERS["rewind"], ACTION_NUMBERS["train"])
        done[self.reinit] = ACTION_NUMBERS["reinit"]
        done[self.stop] = ACTION_NUMBERS["stop"]
        return done

    def in_words(self) -> np.ndarray:
        """Returns strings (object), shape (N,), such as `"rewind 2, lr x0.8"`."""
        columns = (self.lr_factor, self.rewind, self.reinit, self.stop)
        return np.array([*map(_in_words, *(column.tolist() for column in columns))], dtype=object)


@functools.lru_cache(1024)
def _in_words(lr_factor: float, rewind: int, reinit: bool, stop: bool) -> str:
    if stop:
        return "stop"
    parts = ["reinit"] if reinit else []
    parts += [f"rewind {rewind}"] if rewind else []
    return ", ".join([*parts, "lr kept" if lr_factor == 1 else f"lr x{lr_factor:.3g}"])
