"""Random search, asked and told like our own strategies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.evolution.fitness import check_fitness, fill_not_finite
from autotrain_env.evolution.noise import NormalNoise, check_seed, draw_noise
from autotrain_env.evolution.strategy import describe_fitness
from autotrain_env.evolution.vectors import SCALINGS, as_vector, perturbation_scale


@dataclass(frozen=True)
class RandomSearch:
    """Random initialisations, of which the best is kept.

    Args:
        population_size: Number of members of a generation, at least 1.
        perturbation_std: Standard deviation of normal noise around the first parameters.
        scaling: `"fan_in"`: noise of a weight is divided by the root of its layer's inputs.
    """

    population_size: int = 64
    perturbation_std: float = 1.0
    scaling: str = "none"

    def __post_init__(self) -> None:
        """Check the values."""
        check_whole("population_size", self.population_size, 1)
        check(0 < self.perturbation_std < math.inf, "perturbation_std", self.perturbation_std, "above 0")
        if self.scaling not in SCALINGS:
            raise unknown_name("scaling", self.scaling, SCALINGS)

    def init(self, parameters: Tensor | Mapping[str, Tensor], seed: int) -> "RandomState":
        """Returns the state at the beginning.

        Args:
            parameters: What members are drawn around: named tensors, or one vector of shape (d,); floats.
            seed: Seed of all noise.
        """
        check_seed(seed)
        layout, start = as_vector(parameters)
        std = perturbation_scale(layout, self.scaling, {}).to(start) * self.perturbation_std
        return RandomState(self, seed, start, std, start)


@dataclass(frozen=True)
class RandomState:
    """The best member so far.

    Args:
        strategy: The strategy that is followed.
        seed: Seed of all noise.
        start: What members are drawn around, shape (d,).
        std: Standard deviation of the noise, shape (d,).
        parameters: Parameters of the best member so far, or `start`, shape (d,).
        best: Fitness of the best member.
        generation: How many generations were told.
        asked: The members that are being evaluated.
        report: Figures of the last generation, see `EvolutionState`.
    """

    strategy: RandomSearch
    seed: int
    start: Tensor
    std: Tensor
    parameters: Tensor
    best: float = -math.inf
    generation: int = 0
    asked: Tensor | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def population_size(self) -> int:
        """Returns how many members `ask` gives and `tell` wants the fitness of."""
        return self.strategy.population_size

    def ask(self) -> tuple[Tensor, "RandomState"]:
        """Make the members of the next generation.

        Returns:
            Their parameters, shape (population_size, d), and the state that awaits their fitness.

        Raises:
            InvalidValueError: If a generation is being evaluated already.
        """
        check(self.asked is None, "ask()", "called twice", "followed by tell()")
        rows = range(self.population_size)
        noise = draw_noise(NormalNoise(), self.seed, self.generation, rows, len(self.start)).to(self.start)
        asked = self.start + self.std * noise
        return asked, replace(self, asked=asked)

    def tell(self, fitness: Any, behaviors: Any = None) -> "RandomState":
        """Keep the best member; see `EvolutionState.tell`."""
        if self.asked is None:
            raise InvalidValueError("tell() was called without ask(): there is no generation to tell of")
        check(behaviors is None, "behaviors", behaviors, "None without novelty")
        values = check_fitness(fitness, self.population_size)
        after = replace(self, asked=None, generation=self.generation + 1)
        report = describe_fitness(values)
        report["skipped"] = not values.isfinite().any()
        after = replace(after, report=report)
        if report["best"] > self.best:
            member = self.asked[int(fill_not_finite(values).argmax())].clone()
            after = replace(after, parameters=member, best=report["best"])
        return after
