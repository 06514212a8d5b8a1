"""A population of parents that exchange along a sparse graph (Adjodah and others, arXiv:1902.06740)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.evolution.fitness import Shaping, as_shaping, check_fitness
from autotrain_env.evolution.noise import Distribution, as_noise_distribution, check_seed, draw_noise
from autotrain_env.evolution.strategy import check_members, describe_fitness
from autotrain_env.evolution.updates import PerGeneration, Updated, as_update, value_at
from autotrain_env.evolution.vectors import SCALINGS, as_vector, perturbation_scale
from autotrain_env.training.optimizers import Optimizer

TOPOLOGIES = ("full", "ring", "erdos-renyi")


@dataclass(frozen=True)
class SparseEvolutionStrategy:
    """Parents with parameters of their own, each of which follows what its neighbours found.

    Parent i moves along the mean, over the members of its neighbours j (itself among them), of utility
    times (member - parent i), over the variance of the perturbation.

    Args:
        population_size: Number of members of a generation; with `mirrored` two for each parent, else one.
        perturbation_std: Standard deviation of the perturbation; a number, or a function of the generation.
        distribution: Distribution of the noise, as in `EvolutionStrategy`.
        mirrored: Whether a parent has two members, with noise ε and -ε.
        shaping: How fitness becomes utility, as in `EvolutionStrategy`.
        optimizer: Update rule of each parent, as in `EvolutionStrategy`.
        learning_rate: Learning rate of the update rule; a number, or a function of the generation.
        scaling: What perturbations and updates are multiplied by, as in `EvolutionStrategy`.
        topology: `"full"`, `"ring"` (two neighbours), or `"erdos-renyi"` (every pair of parents is joined
            with probability `density`).
        density: Density of an Erdős-Rényi graph, in (0, 1].
        broadcast_every: Every so many generations all parents take the parameters of the best one. `None`:
            never.
    """

    population_size: int = 64
    perturbation_std: PerGeneration = 0.1
    distribution: str | Distribution = "normal"
    mirrored: bool = True
    shaping: str | Shaping = "ranks"
    optimizer: str | Optimizer = "adam"
    learning_rate: PerGeneration = 0.05
    scaling: str = "none"
    topology: str = "erdos-renyi"
    density: float = 0.5
    broadcast_every: int | None = 10

    def __post_init__(self) -> None:
        """Check everything, and look names up."""
        least = 4 if self.mirrored else 2
        check_whole("population_size", self.population_size, least)
        check(
            not self.mirrored or self.population_size % 2 == 0,
            "population_size",
            self.population_size,
            "even, as members are mirrored",
        )
        object.__setattr__(self, "distribution", as_noise_distribution(self.distribution))
        object.__setattr__(self, "shaping", as_shaping(self.shaping))
        object.__setattr__(self, "optimizer", as_update(self.optimizer))
        for name in ("perturbation_std", "learning_rate"):
            value_at(getattr(self, name), 0, name)
        if self.scaling not in SCALINGS:
            raise unknown_name("scaling", self.scaling, SCALINGS)
        if self.topology not in TOPOLOGIES:
            raise unknown_name("topology", self.topology, TOPOLOGIES)
        check(0 < self.density <= 1, "density", self.density, "in (0, 1]")
        if self.broadcast_every is not None:
            check_whole("broadcast_every", self.broadcast_every, 1)

    @property
    def num_parents(self) -> int:
        """Returns the number of parents (P)."""
        return self.population_size // 2 if self.mirrored else self.population_size

    def graph(self, seed: int) -> np.ndarray:
        """Returns which parents are neighbours, each of itself too: bool, symmetric, shape (P, P).

        Raises:
            InvalidValueError: If some parents cannot be reached from others.
        """
        count = self.num_parents
        joined = np.eye(count, dtype=bool)
        if self.topology == "full":
            joined[:] = True
        elif self.topology == "ring":
            joined |= np.roll(joined, 1, 0) | np.roll(joined, -1, 0)
        else:
            drawn = np.triu(np.random.default_rng(seed).random((count, count)) < self.density, 1)
            joined |= drawn | drawn.T
        parts = connected_components(joined, directed=False)[0]
        check(
            parts == 1,
            "density",
            self.density,
            f"higher: the graph of {count} parents falls into {parts} parts (random graphs are mostly "
            f"connected well above log(P) / P = {math.log(count) / count:.2f})",
        )
        return joined

    def init(self, parameters: Tensor | Mapping[str, Tensor], seed: int) -> "SparseState":
        """Returns the state at the beginning, where all parents begin with the same parameters.

        Args:
            parameters: Named tensors, or one vector of shape (d,); floats.
            seed: Seed of all noise and of the graph.

        Raises:
            InvalidTypeError: If the parameters are no floats.
            InvalidValueError: If the graph is not connected.
        """
        check_seed(seed)
        layout, start = as_vector(parameters)
        scale = perturbation_scale(layout, self.scaling, {}).to(start)
        values = (start / scale).repeat(self.num_parents, 1)
        graph = torch.from_numpy(self.graph(seed)).to(values)
        return SparseState(self, seed, graph, scale, Updated.start(values, as_update(self.optimizer)))


@dataclass(frozen=True)
class SparseState:
    """Where the parents have come to; nothing is changed in place.

    Args:
        strategy: The strategy that is followed.
        seed: Seed of all noise.
        graph: Neighbours as ones, shape (P, P).
        scale: Scale of the parameters, shape (d,).
        parents: Parameters of the parents over the scale, shape (P, d), with the optimiser's memory.
        generation: How many generations were told.
        best_parent: The parent whose members were best on average in the last generation.
        is_asked: Whether a generation is being evaluated.
        report: Figures of the last generation, as in `EvolutionState`; `cosine` is not there, `spread` is
            the mean distance of the parents from their mean.
    """

    strategy: SparseEvolutionStrategy
    seed: int
    graph: Tensor
    scale: Tensor
    parents: Updated
    generation: int = 0
    best_parent: int = 0
    is_asked: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> Tensor:
        """Returns the parameters of the best parent, shape (d,)."""
        return self.parents.values[self.best_parent] * self.scale

    @property
    def population_size(self) -> int:
        """Returns how many members `ask` gives and `tell` wants the fitness of."""
        return self.strategy.population_size

    def _std(self) -> float:
        return value_at(self.strategy.perturbation_std, self.generation, "perturbation_std")

    def _noise(self, parents: range) -> Tensor:
        distribution = as_noise_distribution(self.strategy.distribution)
        size = self.parents.values.shape[1]
        return draw_noise(distribution, self.seed, self.generation, parents, size).to(self.graph)

    def members(self, members: range) -> Tensor:
        """Make some members of the generation, as `ask` gives them, from the state alone.

        Args:
            members: Numbers of the members.

        Returns:
            Parameters, shape (len(members), d).
        """
        check_members(members, self.population_size)
        each = 2 if self.strategy.mirrored else 1
        rows = range(members.start // each, -(-members.stop // each))
        parents = self.parents.values[rows.start : rows.stop]
        steps = self._noise(rows) * self._std()
        drawn = torch.stack((parents + steps, parents - steps)[:each], 1).flatten(0, 1)
        return drawn[members.start - rows.start * each :][: len(members)] * self.scale

    def ask(self) -> tuple[Tensor, "SparseState"]:
        """Make the members of the next generation.

        Returns:
            Their parameters, shape (population_size, d), and the state that awaits their fitness.

        Raises:
            InvalidValueError: If a generation is being evaluated already.
        """
        check(not self.is_asked, "ask()", "called twice", "followed by tell()")
        return self.members(range(self.population_size)), replace(self, is_asked=True)

    def tell(self, fitness: Any, behaviors: Any = None) -> "SparseState":
        """Learn from the members' fitness.

        Args:
            fitness: Fitness of each member that `ask` gave; higher is better, NaN and minus infinity are
                worst.
            behaviors: Must be `None`.

        Raises:
            InvalidTypeError: If fitness is no numbers.
            InvalidValueError: If there is no generation to tell of, a shape does not fit, or a fitness is
                plus infinity.
        """
        if not self.is_asked:
            raise InvalidValueError("tell() was called without ask(): there is no generation to tell of")
        check(behaviors is None, "behaviors", behaviors, "None without novelty")
        values = check_fitness(fitness, self.population_size)
        after = replace(self, is_asked=False, generation=self.generation + 1)
        report = describe_fitness(values)
        if not values.isfinite().any():
            return replace(after, report={**report, "skipped": True})
        utility = as_shaping(self.strategy.shaping)(values, self.graph.dtype).to(self.graph)
        utility = utility.view(self.strategy.num_parents, -1)
        rate = value_at(self.strategy.learning_rate, self.generation, "learning_rate")
        moved = self.parents.ascend(as_update(self.strategy.optimizer), self._uphill(utility), rate)
        report["update_norm"] = float((moved.values - self.parents.values).norm(dim=1).mean())
        best = int(utility.mean(1).argmax())
        every = self.strategy.broadcast_every
        report["broadcast"] = every is not None and (self.generation + 1) % every == 0
        if report["broadcast"]:
            moved = replace(moved, values=moved.values[best].repeat(len(moved.values), 1))
        report["spread"] = float((moved.values - moved.values.mean(0)).norm(dim=1).mean())
        report["std"] = self._std()
        return replace(after, parents=moved, best_parent=best, report=report)

    def _uphill(self, utility: Tensor) -> Tensor:
        """Returns where each parent is to move, shape (P, d), given utilities of shape (P, 1 or 2)."""
        std, parents = self._std(), self.parents.values
        odd = utility[:, :1] - utility[:, 1:] if self.strategy.mirrored else utility
        weight = utility.sum(1, keepdim=True)
        noise = self._noise(range(self.strategy.num_parents))
        along_noise = self.graph @ (odd * as_noise_distribution(self.strategy.distribution).score(noise))
        towards = self.graph @ (weight * parents) - (self.graph @ weight) * parents
        members = self.graph.sum(1, keepdim=True) * utility.shape[1]
        return (along_noise / std + towards / std**2) / members
