"""Where tasks come from: samplers, distributions, mixtures and curricula."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from autotrain_env.errors import InvalidTypeError, as_number, check, in_brief
from autotrain_env.process.tasks import Task
from autotrain_env.training.classifiers import Classifier, as_classifier


@runtime_checkable
class Sampler(Protocol):
    """Something that a field of a `TaskDistribution` is drawn from."""

    def sample(self, generator: np.random.Generator) -> Any:
        """Draw one value.

        Args:
            generator: The stream to draw from.

        Returns:
            A value that the field may have.
        """


def _check_bounds(low: object, high: object, allowed: str) -> None:
    for name, value in (("low", low), ("high", high)):
        check(as_number(value) is not None, name, value, "a number")
    finite = math.isfinite(low) and math.isfinite(high)  # type: ignore[arg-type]
    check(finite and low <= high, "(low, high)", (low, high), allowed)  # type: ignore[operator]


def _as_tuple(argument: str, values: Any, allowed: str) -> tuple[Any, ...]:
    """Returns values as a tuple.

    Raises:
        InvalidTypeError: If there is no list of them.
        InvalidValueError: If there is none.
    """
    try:
        found = None if isinstance(values, (str, bytes)) else tuple(values)
    except TypeError:
        found = None
    if found is None:
        raise InvalidTypeError(f"{argument}={in_brief(values)} must be a list with {allowed}")
    check(len(found) > 0, argument, found, allowed)
    return found


@dataclass(frozen=True)
class LogUniform:
    """A number whose logarithm is uniform.

    Args:
        low: Smallest value, above 0.
        high: Largest value.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the bounds."""
        _check_bounds(self.low, self.high, "0 < low <= high")
        check(self.low > 0, "(low, high)", (self.low, self.high), "0 < low <= high")

    def sample(self, generator: np.random.Generator) -> float:
        """Draw one value."""
        return float(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))


@dataclass(frozen=True)
class Uniform:
    """A uniform number.

    Args:
        low: Smallest value.
        high: Largest value.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        """Check the bounds."""
        _check_bounds(self.low, self.high, "low <= high")
        check(self.high - self.low < math.inf, "(low, high)", (self.low, self.high), "not so far apart")

    def sample(self, generator: np.random.Generator) -> float:
        """Draw one value."""
        return float(generator.uniform(self.low, self.high))


@dataclass(frozen=True)
class Choice:
    """One of several values, each as likely as the others.

    Args:
        values: What to choose from; where a sampler is chosen, the value is drawn from it.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        """Check that there is something to choose."""
        object.__setattr__(self, "values", _as_tuple("values", self.values, "at least one value"))

    def sample(self, generator: np.random.Generator) -> Any:
        """Draw one value."""
        value = self.values[int(generator.integers(len(self.values)))]
        return value.sample(generator) if hasattr(value, "sample") else value


@dataclass(frozen=True)
class RandomSeed:
    """A seed, uniform below 2**31."""

    def sample(self, generator: np.random.Generator) -> int:
        """Draw one value."""
        return int(generator.integers(2**31))


@dataclass(frozen=True)
class TaskDistribution:
    """Where tasks come from: every field is one value for all tasks, or a sampler.

    Fields are those of `Task`. They are drawn in the order in which they stand here, from the lane's
    task stream, so that an episode's seed alone decides its task.
    """

    dataset: Any = "digits"
    split_seed: Any = field(default_factory=RandomSeed)
    train_size: Any = None
    holdout_size: Any = None
    validation_size: Any = None
    label_noise: Any = None
    classifier: Any = "mlp"
    optimizer: Any = "momentum"
    batch_size: Any = None
    initial_learning_rate: Any = field(default_factory=lambda: LogUniform(1e-3, 10.0))
    initialization: Any = "kaiming_uniform"
    budget: Any = 600
    inner_steps: Any = None
    measured: Any = "train_and_holdout"
    can_reinit: Any = True
    epochs_known: Any = True

    @property
    def levels(self) -> tuple["TaskDistribution", ...]:
        """Returns itself, as the only level."""
        return (self,)

    @property
    def parts(self) -> tuple["TaskDistribution", ...]:
        """Returns itself, as the only part."""
        return (self,)

    def __post_init__(self) -> None:
        """Check every value by making the tasks that hold it."""
        object.__setattr__(self, "classifier", as_classifiers(self.classifier))
        for name, value in self._fields().items():
            for candidate in possible_values(value):
                Task(**{name: candidate})

    def _fields(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def possible(self, name: str) -> list[Any]:
        """Returns the values that a field can take, as far as they can be listed (a range's bounds)."""
        return possible_values(getattr(self, name))

    def sample(self, generator: np.random.Generator, level: int = 0) -> Task:
        """Draw a task.

        Args:
            generator: The stream to draw from.
            level: Level of the task; ignored, since there is only one.

        Returns:
            The task, checked.

        Raises:
            InvalidValueError: If a value that is drawn is not allowed.
        """
        drawn = {  # isinstance(value, Sampler) says the same of protocols, at fifty times the cost
            name: value.sample(generator) if hasattr(value, "sample") else value
            for name, value in self._fields().items()
        }
        return Task(**drawn)

    def replace(self, **fields: Any) -> "TaskDistribution":
        """Returns a distribution with some fields replaced."""
        return dataclasses.replace(self, **fields)


def as_classifiers(value: Any) -> Any:
    """Returns what a field `classifier` was given, functions that make networks as classifiers."""
    if isinstance(value, Choice):
        return Choice(tuple(map(as_classifiers, value.values)))
    if callable(value) and not isinstance(value, (Sampler, Classifier, str)):
        return as_classifier(value)
    return value


def possible_values(value: Any) -> list[Any]:
    """Returns the values that a field of a distribution can take, as far as they can be listed."""
    if isinstance(value, Choice):
        return [possible for entry in value.values for possible in possible_values(entry)]
    if isinstance(value, (LogUniform, Uniform)):
        return [value.low, value.high]
    return [] if isinstance(value, Sampler) else [value]


@dataclass(frozen=True)
class Mixture:
    """Several distributions: one of them is drawn, and of it the task.

    So fields can depend on each other, such as the range of initial rates on the optimiser.

    Args:
        parts: The distributions; a mixture among them stands for its own parts.
        weights: How likely each of them is, up to a factor; `None` for all alike.
    """

    parts: tuple[TaskDistribution, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Check parts and weights, and put the parts of mixtures in their place."""
        given = _as_tuple("parts", self.parts, "at least one TaskDistribution or Mixture")
        for part in given:
            if not isinstance(part, (TaskDistribution, Mixture)):
                raise InvalidTypeError(f"parts={in_brief(given)} must be TaskDistributions or Mixtures")
        weights = [1.0] * len(given)
        if self.weights is not None:
            weights = self._check_weights(len(given))
        total = sum(weights)
        parts = [part for distribution in given for part in distribution.parts]
        shares = [
            weight / total * share
            for distribution, weight in zip(given, weights, strict=True)
            for share in (distribution.shares if isinstance(distribution, Mixture) else (1.0,))
        ]
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "weights", tuple(shares))

    def _check_weights(self, count: int) -> list[float]:
        allowed = f"{count} numbers above 0, one for each part"
        found = [as_number(weight) for weight in _as_tuple("weights", self.weights, allowed)]
        weights = [number for number in found if number is not None and 0 < number < math.inf]
        check(len(weights) == len(found) == count, "weights", self.weights, allowed)
        return weights

    @property
    def levels(self) -> tuple["Mixture", ...]:
        """Returns itself, as the only level."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """Returns the probability of each part."""
        assert self.weights is not None
        return self.weights

    def sample(self, generator: np.random.Generator, level: int = 0) -> Task:
        """Draw a task.

        Args:
            generator: The stream to draw from.
            level: Level of the task; ignored, since there is only one.

        Returns:
            The task, checked.
        """
        drawn = np.searchsorted(np.cumsum(self.shares), generator.random(), side="right")
        return self.parts[min(int(drawn), len(self.parts) - 1)].sample(generator)

    def replace(self, **fields: Any) -> "Mixture":
        """Returns a mixture with some fields replaced in every part."""
        return Mixture(tuple(part.replace(**fields) for part in self.parts), self.weights)


Distribution: TypeAlias = TaskDistribution | Mixture
"""What the tasks of one level are drawn from."""


@dataclass(frozen=True)
class Curriculum:
    """Distributions from easy to hard.

    The level is set from outside (`set_task_level`), by training only.

    Args:
        levels: One distribution per level, or mixture, the easiest first.
        promote_at: Share of successful episodes from which `next_level` goes one level up.
        demote_at: Share of successful episodes below which it goes one level down.
    """

    levels: tuple[Distribution, ...]
    promote_at: float = 0.8
    demote_at: float = 0.2

    def __post_init__(self) -> None:
        """Check the levels and shares."""
        object.__setattr__(
            self, "levels", _as_tuple("levels", self.levels, "at least one TaskDistribution")
        )
        for level in self.levels:
            if not isinstance(level, (TaskDistribution, Mixture)):
                raise InvalidTypeError(
                    f"levels={in_brief(self.levels)} must be TaskDistributions or Mixtures"
                )
        for name in ("demote_at", "promote_at"):
            check(as_number(getattr(self, name)) is not None, name, getattr(self, name), "a number")
        check(
            0 <= self.demote_at < self.promote_at <= 1,
            "(demote_at, promote_at)",
            (self.demote_at, self.promote_at),
            "0 <= demote_at < promote_at <= 1",
        )

    def sample(self, generator: np.random.Generator, level: int = 0) -> Task:
        """Draw a task of a level.

        Args:
            generator: The stream to draw from.
            level: Level of the task, from 0, the easiest.

        Returns:
            The task, checked.
        """
        return self.levels[level].sample(generator)

    def replace(self, **fields: Any) -> "Curriculum":
        """Returns a curriculum with some fields replaced in every level."""
        levels = tuple(level.replace(**fields) for level in self.levels)
        return dataclasses.replace(self, levels=levels)

    def next_level(self, level: int, successes: Sequence[bool]) -> int:
        """Returns the level to go on with.

        Args:
            level: Level of the recent episodes.
            successes: Whether each of them was a success; without any, the level stays.
        """
        share = float(np.mean(successes)) if len(successes) else 0.5
        step = int(share >= self.promote_at) - int(share < self.demote_at)
        return min(max(level + step, 0), len(self.levels) - 1)
