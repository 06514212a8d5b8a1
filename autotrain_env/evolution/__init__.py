"""Evolution strategies as pure functions on explicit state; they know nothing of environments.

    state = init(EvolutionStrategy(population_size=64), parameters, seed=0)
    for _ in range(100):
        population, state = ask(state)  # (64, d)
        state = tell(state, fitness(population))  # higher is better
    state.parameters

| module | what |
|---|---|
| `noise` | search distributions; noise that a member's number brings back |
| `fitness` | from fitness to utility |
| `estimates` | gradients, second derivatives, gradients of standard deviations |
| `updates` | how an estimate moves parameters |
| `low_rank` | noise of few numbers for networks' weights |
| `classifiers` | fitness of classifiers on shared minibatches: `ClassifierProblem` |
| `curves` | how good a classifier becomes meanwhile: `train_classifier` |
| `first_attempt` | an attempt at a classifier that gets stuck, and what mends it |
| `vectors` | a network's tensors as one vector, and how far each number is perturbed |
| `novelty` | reward for new behaviour |
| `strategy` | all of that together: `EvolutionStrategy` |
| `sparse` | parents on a graph: `SparseEvolutionStrategy` |
| `cma_es`, `random_search` | `CMAES`, `RandomSearch` |
| `landscapes` | functions to try them on |
"""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.evolution.cma_es import CMAES
from autotrain_env.evolution.fitness import Shaping
from autotrain_env.evolution.low_rank import LowRankPopulation, Population
from autotrain_env.evolution.noise import (
    Distribution,
    LaplaceNoise,
    NormalNoise,
    StudentTNoise,
    UniformNoise,
)
from autotrain_env.evolution.novelty import Novelty
from autotrain_env.evolution.random_search import RandomSearch
from autotrain_env.evolution.sparse import SparseEvolutionStrategy
from autotrain_env.evolution.strategy import EvolutionStrategy
from autotrain_env.evolution.updates import ClipUp, Cosine, Decay

__all__ = [
    "CMAES",
    "ClassifierProblem",
    "ClipUp",
    "Cosine",
    "Decay",
    "Distribution",
    "EvolutionStrategy",
    "LaplaceNoise",
    "LowRankPopulation",
    "NormalNoise",
    "Novelty",
    "RandomSearch",
    "SearchState",
    "SearchStrategy",
    "Shaping",
    "SparseEvolutionStrategy",
    "StudentTNoise",
    "UniformNoise",
    "ask",
    "init",
    "tell",
]


class SearchState(Protocol):
    """Where a search has come to; never changed in place."""

    @property
    def parameters(self) -> Tensor:
        """Returns what the search has found, shape (d,)."""

    @property
    def population_size(self) -> int:
        """Returns the number of members of the next generation."""

    @property
    def generation(self) -> int:
        """Returns how many generations were told so far."""

    @property
    def report(self) -> Mapping[str, Any]:
        """Returns figures of the last generation: `best`, `mean` and `worst` fitness, and others."""

    def ask(self) -> tuple[Population, "SearchState"]:
        """Ask for the members of the next generation; see `ask`."""

    def tell(self, fitness: Any, behaviors: Any = None) -> "SearchState":
        """Tell how fit the members were; see `tell`."""


class SearchStrategy(Protocol):
    """What a search does: `EvolutionStrategy`, `SparseEvolutionStrategy`, `CMAES` or `RandomSearch`."""

    def init(self, parameters: Tensor, seed: int) -> Any:
        """Begin a search; see `init`."""


def init(strategy: SearchStrategy, parameters: Tensor | Mapping[str, Tensor], seed: int) -> SearchState:
    """Begin a search.

    Args:
        strategy: What is to be done.
        parameters: Parameters it begins at: one vector of floats, shape (d,), on any device, or, for
            evolution strategies, named tensors of a network, whose layout `scaling` and `learned_std` refer
            to.
        seed: Seed of all noise, at least 0.
    """
    return strategy.init(parameters, seed)  # type: ignore[arg-type]


def ask(state: SearchState) -> tuple[Population, SearchState]:
    """Ask for the members of the next generation.

    Args:
        state: State of the search.

    Returns:
        Their parameters, shape (population_size, d), or with low-rank noise a `LowRankPopulation`, and the
        state that awaits their fitness.

    Raises:
        InvalidValueError: If the last generation was not told of.
    """
    return state.ask()


def tell(state: SearchState, fitness: Any, behaviors: Any = None) -> SearchState:
    """Tell how fit the members were.

    Args:
        state: The state that `ask` returned.
        fitness: Fitness of each member, numbers, shape (population_size,); higher is better. NaN and minus
            infinity are worst.
        behaviors: What the members did, for novelty, numbers, shape (population_size, b).

    Returns:
        The state after it; a generation without any finite fitness changes nothing but its number, and
        its `report` says so.

    Raises:
        InvalidTypeError: If fitness is no numbers.
        InvalidValueError: If `ask` was not called before, the number of members is another, or a fitness is
            plus infinity.
    """
    return state.tell(fitness, behaviors)
