"""Actions of the agent, and the decisions that they decode to."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from autotrain_env.errors import InvalidTypeError, InvalidValueError
from autotrain_env.process.config import AutoTrainConfig

REINIT_THRESHOLD = 0.9  # of a continuous action
STOP_THRESHOLD = 0.95
REWIND_SHARPNESS = 10.0  # factor of a continuous action's rewind logits


@dataclass(frozen=True)
class Decisions:
    """What to do in each lane in one env step; the core takes nothing else.

    Args:
        learning_rate: Rate of the coming updates, float64, shape (N,); the core clips it to its bounds.
        rewind: How far to rewind first [env steps], int64, shape (N,); 0 for not at all.
        reinit: Whether to draw new networks first, bool, shape (N,); then `rewind` is ignored.
        stop: Whether to end the episode before any update, bool, shape (N,).
    """

    learning_rate: np.ndarray
    rewind: np.ndarray
    reinit: np.ndarray
    stop: np.ndarray

    @classmethod
    def train(cls, learning_rate: np.ndarray) -> "Decisions":
        """Go on training at these rates, float64, shape (N,)."""
        count = len(learning_rate)
        nothing = np.zeros(count, dtype=bool)
        return cls(np.asarray(learning_rate, float), np.zeros(count, np.int64), nothing, nothing)


class ActionType(ABC):
    """A space of actions, next to the code that decodes it.

    Args:
        config: The environment's arguments.
    """

    def __init__(self, config: AutoTrainConfig) -> None:
        assert config.num_rewinds is not None
        self.config = config
        self.lr_factors = np.array(config.lr_factors)
        self.num_rewinds = config.num_rewinds

    @abstractmethod
    def space(self) -> spaces.Space[Any]:
        """The space of one lane's action."""

    @abstractmethod
    def decode(
        self,
        actions: np.ndarray,
        learning_rates: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
    ) -> Decisions:
        """Turn actions into decisions.

        Args:
            actions: One action per lane, shape (N, …).
            learning_rates: Current rates, float64, shape (N,).
            rewindable: Which rows exist, bool, shape (N, H).
            generators: The lanes' streams for drawing actions.
        """

    def masks(self, rewindable: np.ndarray) -> np.ndarray:
        """Which discrete actions are possible now, bool, shape (N, number of actions).

        Args:
            rewindable: Which rows exist, bool, shape (N, H).

        Raises:
            TypeError: If the actions are continuous.
        """
        raise InvalidTypeError(f"action_masks: action_type={self.config.action_type!r} has no masks")

    def _rewind_masks(self, rewindable: np.ndarray) -> np.ndarray:
        masks = rewindable[:, : self.num_rewinds].copy()
        masks[:, 0] = True  # not rewinding is always possible
        return masks


class DiscreteActions(ActionType):
    """`Discrete(len(lr_factors) * num_rewinds + 2)`: index = rewind * len(lr_factors) + factor.

    The last two are re-init and stop, as far as they are switched on.
    """

    @property
    def num_actions(self) -> int:
        """Size of the table."""
        config = self.config
        return len(self.lr_factors) * self.num_rewinds + config.reinit + config.stop

    def space(self) -> spaces.Space[Any]:
        """The space of one lane's action."""
        return spaces.Discrete(self.num_actions)

    def decode(
        self,
        actions: np.ndarray,
        learning_rates: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
    ) -> Decisions:
        """Turn actions into decisions."""
        table_size = len(self.lr_factors) * self.num_rewinds
        in_table = actions < table_size
        entry = np.where(in_table, actions, 0)
        factors = np.where(in_table, self.lr_factors[entry % len(self.lr_factors)], 1.0)
        return Decisions(
            learning_rate=learning_rates * factors,
            rewind=np.where(in_table, entry // len(self.lr_factors), 0),
            reinit=(actions == table_size) & self.config.reinit,
            stop=(actions == table_size + self.config.reinit) & self.config.stop,
        )

    def masks(self, rewindable: np.ndarray) -> np.ndarray:
        """Which actions are possible now."""
        table = np.repeat(self._rewind_masks(rewindable), len(self.lr_factors), axis=1)
        always = np.ones((len(table), self.num_actions - table.shape[1]), dtype=bool)
        return np.concatenate((table, always), axis=1)


class MultiDiscreteActions(ActionType):
    """`MultiDiscrete`: which factor, which rewind, and one of go on, re-init and stop."""

    def _verbs(self) -> list[str]:
        return ["go on"] + ["reinit"] * self.config.reinit + ["stop"] * self.config.stop

    def space(self) -> spaces.Space[Any]:
        """The space of one lane's action."""
        return spaces.MultiDiscrete([len(self.lr_factors), self.num_rewinds, len(self._verbs())])

    def decode(
        self,
        actions: np.ndarray,
        learning_rates: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
    ) -> Decisions:
        """Turn actions into decisions."""
        verbs = np.array(self._verbs())[actions[:, 2]]
        return Decisions(
            learning_rate=learning_rates * self.lr_factors[actions[:, 0]],
            rewind=actions[:, 1].astype(np.int64),
            reinit=verbs == "reinit",
            stop=verbs == "stop",
        )

    def masks(self, rewindable: np.ndarray) -> np.ndarray:
        """Masks of the three parts, one after another."""
        rewinds = self._rewind_masks(rewindable)
        before = np.ones((len(rewinds), len(self.lr_factors)), dtype=bool)
        after = np.ones((len(rewinds), len(self._verbs())), dtype=bool)
        return np.concatenate((before, rewinds, after), axis=1)


class ContinuousActions(ActionType):
    """`Box(-1, 1, (num_rewinds + 3,))`: factor, rewind logits, re-init, stop.

    The factor is `max_lr_factor ** a`. The rewind follows softmax(10 * logits) over the rows that exist.
    """

    def space(self) -> spaces.Space[Any]:
        """The space of one lane's action."""
        return spaces.Box(-1.0, 1.0, (self.num_rewinds + 3,), np.float32)

    def decode(
        self,
        actions: np.ndarray,
        learning_rates: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
    ) -> Decisions:
        """Turn actions into decisions."""
        config = self.config
        actions = actions.astype(np.float64)
        logits = np.where(self._rewind_masks(rewindable), REWIND_SHARPNESS * actions[:, 1:-2], -np.inf)
        stop = (actions[:, -1] > STOP_THRESHOLD) & config.stop
        return Decisions(
            learning_rate=learning_rates * config.max_lr_factor ** actions[:, 0],
            rewind=self._choose(logits, generators),
            reinit=(actions[:, -2] > REINIT_THRESHOLD) & ~stop & config.reinit,
            stop=stop,
        )

    def _choose(self, logits: np.ndarray, generators: list[np.random.Generator]) -> np.ndarray:
        if self.config.rewind_sampling == "argmax":
            return logits.argmax(1)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        cumulative = weights.cumsum(1)
        drawn = np.array([generator.random() for generator in generators])[:, None]
        return (drawn * cumulative[:, -1:] >= cumulative).sum(1)


class LearningRateActions(ActionType):
    """`Box(-1, 1, (1,))`: the learning rate itself, on a log scale between its bounds."""

    def space(self) -> spaces.Space[Any]:
        """The space of one lane's action."""
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def decode(
        self,
        actions: np.ndarray,
        learning_rates: np.ndarray,
        rewindable: np.ndarray,
        generators: list[np.random.Generator],
    ) -> Decisions:
        """Turn actions into decisions."""
        low, high = np.log(self.config.lr_bounds)
        share = (actions[:, 0].astype(np.float64) + 1) / 2
        return Decisions.train(np.exp(low + share * (high - low)))


_ACTION_TYPES: dict[str, type[ActionType]] = {
    "discrete": DiscreteActions,
    "multi_discrete": MultiDiscreteActions,
    "continuous": ContinuousActions,
    "learning_rate": LearningRateActions,
}


def make_action_type(config: AutoTrainConfig) -> ActionType:
    """The action type that a configuration asks for."""
    return _ACTION_TYPES[config.action_type](config)


def check_actions(space: spaces.Space[Any], actions: Any) -> np.ndarray:
    """Check a batch of actions against the batched space.

    Args:
        space: The batched action space.
        actions: What the user gave, shape (N, …).

    Returns:
        The actions as an array of the space's dtype.

    Raises:
        TypeError: If they are of the wrong kind.
        ValueError: If shape or range are wrong.
    """
    try:
        given = np.asarray(actions)
    except ValueError as error:
        raise InvalidValueError(f"action={actions!r} is not an array of shape {space.shape}") from error
    dtype = space.dtype
    assert dtype is not None
    if given.dtype == object or not np.can_cast(given.dtype, dtype, casting="same_kind"):
        raise InvalidTypeError(
            f"action={actions!r} has dtype {given.dtype}; the action space needs {dtype}"
        )
    if given.shape != space.shape:
        raise InvalidValueError(f"action={actions!r} has shape {given.shape}; it must be {space.shape}")
    converted = given.astype(dtype)
    if not space.contains(converted):
        raise InvalidValueError(f"action={actions!r} is outside the action space {space}")
    return converted


def in_words(
    before: np.ndarray,
    after: np.ndarray,
    distance: np.ndarray,
    reinit: np.ndarray,
    stop: np.ndarray,
) -> np.ndarray:
    """Say what was done.

    Args:
        before: Learning rates before, float64, shape (N,).
        after: Learning rates after, float64, shape (N,).
        distance: How far each lane rewound [env steps], int64, shape (N,).
        reinit: Which lanes drew new networks, bool, shape (N,).
        stop: Which lanes stopped, bool, shape (N,).

    Returns:
        Strings (object), shape (N,), such as `"rewind 2, lr x0.8"`.
    """
    words = np.empty(len(before), dtype=object)
    for lane in range(len(before)):
        if stop[lane]:
            words[lane] = "stop"
            continue
        parts = ["reinit"] if reinit[lane] else []
        parts += [f"rewind {distance[lane]}"] if distance[lane] else []
        factor = after[lane] / before[lane]
        words[lane] = ", ".join([*parts, "lr kept" if factor == 1 else f"lr x{factor:.3g}"])
    return words
