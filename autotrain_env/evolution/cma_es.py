"""CMA-ES by the library pycma, asked and told like our own strategies."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import InvalidValueError, MissingPackageError, check, check_whole
from autotrain_env.evolution.fitness import check_fitness, fill_not_finite
from autotrain_env.evolution.noise import NormalNoise, check_seed, draw_noise
from autotrain_env.evolution.strategy import describe_fitness
from autotrain_env.evolution.vectors import as_vector


@dataclass(frozen=True)
class CMAES:
    """CMA-ES by the library `pycma` (Hansen, arXiv:1604.00772).

    Args:
        population_size: Number of members of a generation, at least 2.
        perturbation_std: Initial standard deviation, the same for all parameters.
        separable: Whether only variances are adapted (sep-CMA-ES: Ros and Hansen, 2008), for many
            parameters.
    """

    population_size: int = 64
    perturbation_std: float = 0.1
    separable: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_whole("population_size", self.population_size, 2)
        check(0 < self.perturbation_std < math.inf, "perturbation_std", self.perturbation_std, "above 0")

    def init(self, parameters: Tensor, seed: int) -> "CMAState":
        """Returns the state at the beginning.

        Args:
            parameters: The initial mean, floats, shape (d,) with d at least 2.
            seed: Seed of all noise.

        Raises:
            MissingPackageError: If `pycma` is not installed.
        """
        check_seed(seed)
        try:
            import cma
        except ImportError as error:
            raise MissingPackageError("CMA-ES needs pycma: pip install 'autotrain-env[agents]'") from error
        as_vector(parameters)  # checks it
        vector = isinstance(parameters, Tensor) and parameters.ndim == 1 and len(parameters) > 1
        check(vector, "parameters", parameters, "of shape (d,), d > 1")
        options = {
            "popsize": self.population_size,
            "CMA_diagonal": self.separable,
            "verbose": -9,
            "seed": math.nan,  # leave NumPy's global stream alone: numbers come from `randn`
            "randn": _Normals(seed),
        }
        start = parameters.detach().double().cpu().numpy()
        library = cma.CMAEvolutionStrategy(start, self.perturbation_std, options)
        return CMAState(self, parameters.detach().clone(), seed, library)


class _Normals:
    """Standard normal numbers of shape (rows, size), as pycma draws them; each call is a generation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.calls = 0

    def __call__(self, rows: int, size: int) -> np.ndarray:
        self.calls += 1
        return draw_noise(NormalNoise(), self.seed, self.calls, range(rows), size).double().numpy()


@dataclass(frozen=True)
class CMAState:
    """Where CMA-ES has come to.

    Args:
        strategy: The strategy that is followed.
        start: The initial mean.
        seed: Seed of all noise.
        library: Pycma's own state, which is copied before it changes.
        generation: How many generations were told.
        asked: The members that are being evaluated, float64, shape (n, d).
        report: Figures of the last generation, see `EvolutionState`.
        told: Fitness of the members of every generation, float64, each of shape (population_size,): what a
            copy elsewhere is made of, since all else follows from it.
    """

    strategy: CMAES
    start: Tensor
    seed: int
    library: Any
    generation: int = 0
    asked: np.ndarray | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    told: tuple[np.ndarray, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Returns how others make this state: not of the library's own, but by telling it the same."""
        return replayed, (self.strategy, self.start, self.seed, self.told, self.asked is not None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "CMAState":
        """Returns the state itself, of which nothing changes."""
        return self

    @property
    def parameters(self) -> Tensor:
        """Returns the mean of the search distribution, shape (d,)."""
        return torch.from_numpy(np.array(self.library.mean)).to(self.start)

    @property
    def population_size(self) -> int:
        """Returns how many members `ask` gives and `tell` wants the fitness of."""
        return self.strategy.population_size

    def ask(self) -> tuple[Tensor, "CMAState"]:
        """Make the members of the next generation.

        Returns:
            Their parameters, shape (population_size, d), and the state that awaits their fitness.

        Raises:
            InvalidValueError: If a generation is being evaluated already.
        """
        check(self.asked is None, "ask()", "called twice", "followed by tell()")
        library = copy.deepcopy(self.library)
        asked = np.array(library.ask())
        return torch.from_numpy(asked).to(self.start), replace(self, library=library, asked=asked)

    def tell(self, fitness: Any, behaviors: Any = None) -> "CMAState":
        """Learn from the members' fitness; see `EvolutionState.tell`."""
        if self.asked is None:
            raise InvalidValueError("tell() was called without ask(): there is no generation to tell of")
        check(behaviors is None, "behaviors", behaviors, "None without novelty")
        values = check_fitness(fitness, self.population_size)
        told = (*self.told, values.numpy().copy())
        after = replace(self, asked=None, generation=self.generation + 1, told=told)
        report = describe_fitness(values)
        if not values.isfinite().any():
            return replace(after, report={**report, "skipped": True})
        library = copy.deepcopy(self.library)
        library.tell(list(self.asked), (-fill_not_finite(values)).tolist())
        report["std"] = float(library.sigma)
        report["update_norm"] = float(np.linalg.norm(library.mean - self.library.mean))
        return replace(after, library=library, report=report)


def replayed(
    strategy: CMAES, start: Tensor, seed: int, told: tuple[np.ndarray, ...], is_asked: bool
) -> CMAState:
    """Returns the state that a search is in after some generations.

    Args:
        strategy: The strategy that is followed.
        start: The initial mean.
        seed: Seed of all noise.
        told: Fitness of the members of every generation.
        is_asked: Whether the next generation is being evaluated.
    """
    state = strategy.init(start, seed)
    for fitness in told:
        state = state.ask()[1].tell(fitness)
    return state.ask()[1] if is_asked else state
