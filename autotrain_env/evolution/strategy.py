"""Evolution strategies: a centre, noise around it, and steps up an estimate of the gradient."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.evolution.estimates import (
    Estimate,
    cosine,
    even_weights,
    gradient,
    gradient_weights,
    log_std_gradient,
    second_derivatives,
)
from autotrain_env.evolution.fitness import Shaping, as_shaping, check_fitness, fill_not_finite
from autotrain_env.evolution.low_rank import (
    LowRank,
    LowRankPopulation,
    Population,
    around_centre,
    check_rank,
)
from autotrain_env.evolution.noise import (
    Distribution,
    LaplaceNoise,
    NormalNoise,
    as_noise_distribution,
    check_seed,
    draw_noise,
)
from autotrain_env.evolution.novelty import Archive, Novelty, check_behaviors
from autotrain_env.evolution.updates import PerGeneration, Updated, as_update, value_at
from autotrain_env.evolution.vectors import SCALINGS, as_vector, perturbation_scale
from autotrain_env.training.layout import Layout
from autotrain_env.training.optimizers import Optimizer

LEARNED = ("fixed", "global", "tensor", "parameter")


@dataclass(frozen=True)
class EvolutionStrategy:
    """What an evolution strategy does; fitness is maximised.

    A member is the centre plus noise times a standard deviation; an optimiser follows the estimated
    gradient of the mean fitness of such members (Salimans and others, arXiv:1703.03864; Wierstra and
    others, arXiv:1106.4487).

    Args:
        population_size: Number of members of a generation (n), at least 2; even if mirrored.
        perturbation_std: Standard deviation of the perturbation where `scaling` is 1; a number, or, unless
            it is learned, a function of the generation.
        distribution: Distribution of the noise; a name (`"normal"`, `"laplace"`, `"student_t"`,
            `"uniform"`), or a `Distribution`.
        rank: Rank of the noise of weights, see `autotrain_env.evolution.low_rank`: a member is then made of
            few numbers, and `ask` returns a `LowRankPopulation`. `None`: full noise.
        mirrored: Whether members come in pairs with noise ε and -ε.
        shaping: How fitness becomes utility; a name (`"ranks"`, `"z_score"`, `"raw"`, `"top_k"`), or a
            `Shaping`.
        optimizer: Update rule; a name in `UPDATES`, or an `Optimizer`, whose weight decay and gradient
            clipping apply.
        learning_rate: Learning rate of the update rule; a number, or a function of the generation.
        scaling: What perturbations and updates of a parameter are multiplied by: `"none"`: 1; `"fan_in"`: 1
            over the root of its layer's inputs. The search runs in parameters over their scale.
        tensor_scales: Further such factors, by the tensor's name.
        learned_std: Variational optimisation (Staines and Barber, arXiv:1212.4507): what has a standard
            deviation of its own that follows the gradient as well: nothing (`"fixed"`), all parameters
            together (`"global"`), each `"tensor"`, or each `"parameter"`.
        std_learning_rate: Learning rate of the logarithms of learned standard deviations.
        std_optimizer: Update rule of these logarithms.
        std_floor: Learned standard deviations fall no further.
        natural: Whether gradients are natural ones: divided by the Fisher information.
        look_ahead: Members are drawn around the centre moved on by this multiple of its last movement.
        jump_every: Every so many generations the centre jumps to the best member instead of following the
            gradient. `None`: never.
        novelty: Reward for behaving unlike before; see `Novelty`. `None`: fitness alone.
        second_derivatives: Whether to estimate them, with standard errors, in `EvolutionState.report`.
    """

    population_size: int = 64
    perturbation_std: PerGeneration = 0.1
    distribution: str | Distribution = "normal"
    rank: int | None = None
    mirrored: bool = True
    shaping: str | Shaping = "ranks"
    optimizer: str | Optimizer = "adam"
    learning_rate: PerGeneration = 0.05
    scaling: str = "none"
    tensor_scales: Mapping[str, float] = field(default_factory=dict)
    learned_std: str = "fixed"
    std_learning_rate: PerGeneration = 0.1
    std_optimizer: str | Optimizer = "sgd"
    std_floor: float = 1e-6
    natural: bool = False
    look_ahead: float = 0.0
    jump_every: int | None = None
    novelty: Novelty | None = None
    second_derivatives: bool = False

    def __post_init__(self) -> None:
        """Check everything, and look names up."""
        check_whole("population_size", self.population_size, 2)
        check(
            not self.mirrored or self.population_size % 2 == 0,
            "population_size",
            self.population_size,
            "even, as members are mirrored",
        )
        for name, lookup in (
            ("distribution", as_noise_distribution),
            ("shaping", as_shaping),
            ("optimizer", as_update),
            ("std_optimizer", as_update),
        ):
            object.__setattr__(self, name, lookup(getattr(self, name)))
        for name, known in (("learned_std", LEARNED), ("scaling", SCALINGS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name in ("perturbation_std", "learning_rate", "std_learning_rate"):
            value_at(getattr(self, name), 0, name)
        check(0 < self.std_floor < math.inf, "std_floor", self.std_floor, "finite, above 0")
        check(0 <= self.look_ahead < math.inf, "look_ahead", self.look_ahead, "finite, at least 0")
        if self.jump_every is not None:
            check_whole("jump_every", self.jump_every, 1)
        self._check_even_estimates()
        self._check_low_rank()

    def _check_low_rank(self) -> None:
        check_rank(self.rank)
        if self.rank is None:
            return
        normal = isinstance(self.noise, NormalNoise)
        check(
            normal, "distribution", self.noise, "normal for low-rank noise, which is made of such numbers"
        )
        per_tensor = self.learned_std != "parameter"
        check(
            per_tensor, "learned_std", self.learned_std, "at most one for each tensor with low-rank noise"
        )
        for name in ("natural", "second_derivatives"):
            value = getattr(self, name)
            check(not value, name, value, "False with low-rank noise, which has no density")

    def _check_even_estimates(self) -> None:
        wants_even = self.learned_std != "fixed" or self.second_derivatives
        check(
            not wants_even or self.noise.has_score,
            "distribution",
            self.noise,
            "one with a score, since standard deviations are learned or second derivatives estimated",
        )
        check(
            not self.natural or self.noise.has_score,
            "distribution",
            self.noise,
            "one with a score, for a natural gradient",
        )
        check(
            not wants_even or self.num_rows >= 2,
            "population_size",
            self.population_size,
            "at least 4 in mirrored pairs, where standard deviations are learned or second derivatives "
            "estimated",
        )
        check(
            self.learned_std == "fixed" or not callable(self.perturbation_std),
            "perturbation_std",
            self.perturbation_std,
            "a number, since it is learned",
        )

    @property
    def noise(self) -> Distribution:
        """Returns the distribution of the noise."""
        return as_noise_distribution(self.distribution)

    @property
    def num_rows(self) -> int:
        """Returns the rows of noise in a generation: one for each member, or pair of them."""
        return self.population_size // 2 if self.mirrored else self.population_size

    @property
    def evaluates_centre(self) -> bool:
        """Returns whether a generation has one more member, the last: the centre."""
        return self.novelty is not None or self.second_derivatives

    def init(self, parameters: Tensor | Mapping[str, Tensor], seed: int) -> "EvolutionState":
        """Returns the state at the beginning.

        Args:
            parameters: Parameters of the centre: named tensors, or one vector of shape (d,); floats.
            seed: Seed of all noise, at least 0.

        Raises:
            InvalidTypeError: If the parameters are no floats.
            InvalidValueError: If they are not finite, or something does not fit them.
        """
        check_seed(seed)
        layout, centre = as_vector(parameters)
        check(
            not (self.second_derivatives and isinstance(self.noise, LaplaceNoise)) or layout.size == 1,
            "second_derivatives",
            True,
            "False with Laplace noise in more than one dimension, where the fitness at the kink of every "
            "coordinate would have to be known",
        )
        perturbation_scale(layout, self.scaling, self.tensor_scales)  # checks it
        if self.rank is not None:
            LowRank(layout, self.rank).check()
        count = {"fixed": 0, "global": 1, "tensor": len(layout.entries), "parameter": layout.size}[
            self.learned_std
        ]
        start = math.log(value_at(self.perturbation_std, 0, "perturbation_std"))
        return EvolutionState(
            strategy=self,
            layout=layout,
            seed=seed,
            centre=Updated.start(centre[None], as_update(self.optimizer)),
            log_std=Updated.start(centre.new_full((1, count), start), as_update(self.std_optimizer)),
            movement=torch.zeros_like(centre),
            novelty=None if self.novelty is None else self.novelty.start(),
        )


class Asked(NamedTuple):
    """What `tell` needs of a generation that was asked for.

    Args:
        noise: Noise, a row for each member, or mirrored pair, shape (m, d); of low-rank noise the numbers
            that it is made of.
        std: Standard deviation of each parameter's perturbation, shape (d,).
        around: What members were drawn around, shape (d,).
    """

    noise: Tensor
    std: Tensor
    around: Tensor


@dataclass(frozen=True)
class EvolutionState:
    """Where a strategy has come to; nothing is changed in place.

    Args:
        strategy: The strategy that is followed.
        layout: Layout of the parameters.
        seed: Seed of all noise.
        centre: The centre, shape (1, d), with the optimiser's memory.
        log_std: Logarithms of learned standard deviations, shape (1, 0, 1, tensors or d).
        movement: Last movement of the centre, shape (d,).
        generation: How many generations were told.
        novelty: Archive of behaviours and weight of fitness.
        asked: The members that are being evaluated, `None` between `tell` and `ask`.
        report: Figures of the last generation: `best`, `mean` and `worst` of the finite fitness,
            `not_finite` (members without), `skipped` (no member had a finite fitness), `std` (mean of the
            perturbations' standard deviations where `scaling` is 1), `update_norm`, `cosine` (between the
            last two movements), `jumped`, `novelty` and `fitness_weight` (with novelty),
            `second_derivatives` (an `Estimate`, of the raw fitness).
    """

    strategy: EvolutionStrategy
    layout: Layout
    seed: int
    centre: Updated
    log_std: Updated
    movement: Tensor
    generation: int = 0
    novelty: Archive | None = None
    asked: Asked | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> Tensor:
        """Returns the centre, shape (d,)."""
        return self.centre.values[0]

    @property
    def population_size(self) -> int:
        """Returns how many members `ask` gives and `tell` wants the fitness of, maybe with the centre."""
        return self.strategy.population_size + self.strategy.evaluates_centre

    def std(self) -> Tensor:
        """Returns the standard deviation of each parameter's perturbation, shape (d,)."""
        return self._scale() * self._unscaled_std()

    def _scale(self) -> Tensor:
        scaling, tensor_scales = self.strategy.scaling, self.strategy.tensor_scales
        return perturbation_scale(self.layout, scaling, tensor_scales).to(self.parameters)

    def _unscaled_std(self) -> Tensor:
        learned = self.log_std.values[0].exp()
        if self.strategy.learned_std == "fixed":
            std = value_at(self.strategy.perturbation_std, self.generation, "perturbation_std")
            return self.parameters.new_tensor(std)
        if self.strategy.learned_std == "tensor":
            return learned[self.layout.groups().to(learned.device)]
        return learned

    @property
    def low_rank(self) -> LowRank | None:
        """Returns where the numbers of low-rank noise lie; `None` where noise is full."""
        rank = self.strategy.rank
        return None if rank is None else LowRank(self.layout, rank)

    def noise(self, rows: range) -> Tensor:
        """Draw noise of this generation, which needs nothing but the seed; what `ask` drew is kept.

        Args:
            rows: Numbers of members, or of mirrored pairs.

        Returns:
            Noise, shape (len(rows), d); of low-rank noise the numbers that it is made of.
        """
        if self.asked is not None:
            return self.asked.noise[rows.start : rows.stop]
        size = self.layout.size if self.low_rank is None else self.low_rank.size
        return draw_noise(self.strategy.noise, self.seed, self.generation, rows, size).to(self.parameters)

    def around(self) -> Tensor:
        """Returns what members are drawn around, shape (d,)."""
        if not self.strategy.look_ahead:
            return self.parameters
        return self.parameters + self.strategy.look_ahead * self.movement

    def members(self, members: range) -> Tensor:
        """Make some members of the generation, as `ask` gives them, from the state alone.

        Args:
            members: Numbers of the members.

        Returns:
            Parameters, shape (len(members), d).
        """
        check_members(members, self.population_size)
        per_row = len(self._signs)
        end = min(members.stop, self.strategy.population_size)
        rows = range(members.start // per_row, max(-(-end // per_row), members.start // per_row))
        noise, around = self.noise(rows), self.around()
        dense = noise if self.low_rank is None else self.low_rank.dense(noise)
        population = around_centre(around, dense, self.std(), self._signs)
        drawn = population[members.start - rows.start * per_row :][: max(end - members.start, 0)]
        missing = len(members) - len(drawn)  # the centre
        return torch.cat((drawn, around.expand(missing, -1))) if missing else drawn

    @property
    def _signs(self) -> tuple[int, ...]:
        return (1, -1) if self.strategy.mirrored else (1,)

    def population(self, members: range) -> Population:
        """Make some members as `ask` gives all: from the state alone, and with low rank of few numbers.

        Args:
            members: Numbers of the members; with low-rank noise in mirrored pairs, whole pairs.

        Returns:
            Parameters, shape (len(members), d), or a `LowRankPopulation`.

        Raises:
            InvalidValueError: If there are no such members, or a pair would be torn.
        """
        low_rank = self.low_rank
        if low_rank is None:
            return self.members(members)
        check_members(members, self.population_size)
        per_row, end = len(self._signs), min(members.stop, self.strategy.population_size)
        whole = members.start % per_row == 0 and end % per_row == 0
        check(whole, "members", members, "whole mirrored pairs")
        rows = range(members.start // per_row, end // per_row)
        with_centre = members.stop > end
        return LowRankPopulation(
            low_rank, self.noise(rows), self.std(), self.around(), self.strategy.mirrored, with_centre
        )

    def ask(self) -> tuple[Population, "EvolutionState"]:
        """Make the members of the next generation.

        Mirrored pairs lie side by side; where the centre is a member, it is the last.

        Returns:
            Their parameters, shape (population_size, d), or with low-rank noise a `LowRankPopulation`, and
            the state that awaits their fitness.

        Raises:
            InvalidValueError: If a generation is being evaluated already.
        """
        check(self.asked is None, "ask()", "called twice", "followed by tell()")
        asked = Asked(self.noise(range(self.strategy.num_rows)), self.std(), self.around())
        state = replace(self, asked=asked)
        with_centre = self.strategy.evaluates_centre
        if self.low_rank is not None:
            population = LowRankPopulation(self.low_rank, *asked, self.strategy.mirrored, with_centre)
            return population, state
        members = around_centre(asked.around, asked.noise, asked.std, self._signs)
        return torch.cat((members, asked.around[None])) if with_centre else members, state

    def tell(self, fitness: Any, behaviors: Any = None) -> "EvolutionState":
        """Learn from the members' fitness.

        A generation of which no member has a finite fitness moves nothing; the next one has other noise.

        Args:
            fitness: Fitness of each member that `ask` gave; higher is better, NaN and minus infinity are
                worst.
            behaviors: What each member did, for novelty, as numbers, shape (members, b).

        Returns:
            The state after it, with a report.

        Raises:
            InvalidTypeError: If fitness or behaviours are no numbers.
            InvalidValueError: If there is no generation to tell of, a shape does not fit, or a fitness is
                plus infinity.
        """
        if self.asked is None:
            raise InvalidValueError("tell() was called without ask(): there is no generation to tell of")
        parameters = self.parameters
        values = check_fitness(fitness, self.population_size)
        done = check_behaviors(behaviors, self.population_size, self.strategy.novelty is not None)
        after = replace(self, asked=None, generation=self.generation + 1)
        report = describe_fitness(values)
        members = values[: self.strategy.population_size]
        if not members.isfinite().any():
            return replace(after, report={**report, "skipped": True})
        utility, novelty = self._utility(members, values, done, report)
        if self.strategy.second_derivatives:
            report["second_derivatives"] = self._second_derivatives(values)
        centre, log_std = self._moved(members, utility, report)
        movement = centre.values[0] - parameters
        report["update_norm"] = float(movement.norm())
        report["cosine"] = cosine(movement, self.movement)
        return replace(
            after, centre=centre, log_std=log_std, movement=movement, novelty=novelty, report=report
        )

    def _utility(
        self, members: Tensor, values: Tensor, behaviors: Tensor | None, report: dict[str, Any]
    ) -> tuple[Tensor, Archive | None]:
        shaping = as_shaping(self.strategy.shaping)
        dtype = self.parameters.dtype
        utility = shaping(members, dtype).to(self.parameters)
        if self.novelty is None or behaviors is None:
            return utility, None
        novelty, archive = self.novelty.add(behaviors, float(values[-1]))
        novelty = novelty.to(members)
        report["novelty"] = float(novelty.mean())
        report["fitness_weight"] = self.novelty.weight
        weight = self.novelty.weight
        return weight * utility + (1 - weight) * shaping(novelty, dtype).to(self.parameters), archive

    def _second_derivatives(self, values: Tensor) -> Estimate | None:
        assert self.asked is not None
        if not values.isfinite().all():
            return None
        noise, std, _ = self.asked
        mirrored = self.strategy.mirrored
        return second_derivatives(values[:-1], noise, std, self.strategy.noise, mirrored, values[-1])

    def _moved(self, members: Tensor, utility: Tensor, report: dict[str, Any]) -> tuple[Updated, Updated]:
        assert self.asked is not None
        strategy, jump = self.strategy, self.strategy.jump_every
        report["jumped"] = jump is not None and (self.generation + 1) % jump == 0
        if report["jumped"]:
            best = int(fill_not_finite(members).argmax())
            centre = replace(self.centre, values=self.members(range(best, best + 1)))
        else:
            rate = value_at(strategy.learning_rate, self.generation, "learning_rate")
            scale = self._scale()
            scaled = replace(self.centre, values=self.centre.values / scale)
            scaled = scaled.ascend(as_update(strategy.optimizer), self._gradient(utility)[None], rate)
            centre = replace(scaled, values=scaled.values * scale)
        log_std = self.log_std
        if strategy.learned_std != "fixed":
            rate = value_at(strategy.std_learning_rate, self.generation, "std_learning_rate")
            uphill = self._log_std_gradient(utility)[None]
            log_std = log_std.ascend(as_update(strategy.std_optimizer), uphill, rate)
            log_std = replace(log_std, values=log_std.values.clamp(min=math.log(strategy.std_floor)))
        report["std"] = float(self._unscaled_std().mean())
        return centre, log_std

    def _gradient(self, utility: Tensor) -> Tensor:
        """Returns the gradient in parameters over their scale, which the update rule moves, shape (d,)."""
        assert self.asked is not None
        noise, std, distribution = self.asked.noise, self._unscaled_std(), self.strategy.noise
        if self.low_rank is not None:
            weights = gradient_weights(utility, len(noise), self.strategy.mirrored)
            return self.low_rank.weighted_sum(weights, noise) / std
        uphill = gradient(utility, noise, std, distribution, self.strategy.mirrored)
        return uphill * std**2 / distribution.location_information if self.strategy.natural else uphill

    def _log_std_gradient(self, utility: Tensor) -> Tensor:
        """Returns the gradient in learned standard deviations' logarithms, shape (1, tensors or d,)."""
        assert self.asked is not None
        distribution = self.strategy.noise
        if self.low_rank is not None:
            scores = self.low_rank.scale_scores(self.asked.noise)
            uphill = even_weights(utility, self.strategy.mirrored) @ scores
            return uphill.sum()[None] if self.strategy.learned_std == "global" else uphill
        uphill = log_std_gradient(utility, self.asked.noise, distribution, self.strategy.mirrored)
        sizes = uphill.new_ones(len(uphill))
        if self.strategy.learned_std != "parameter":
            groups = self.layout.groups().to(uphill.device)
            if self.strategy.learned_std == "global":
                groups = torch.zeros_like(groups)
            count = self.log_std.values.shape[1]
            uphill, sizes = (part.new_zeros(count).index_add(0, groups, part) for part in (uphill, sizes))
        return uphill / (distribution.scale_information * sizes) if self.strategy.natural else uphill


def check_members(members: range, population_size: int) -> None:
    """Raise an `InvalidValueError` unless members are consecutive ones of a generation."""
    within = members.start >= 0 and members.stop <= population_size and members.step == 1
    check(within, "members", members, f"a range of step 1 within 0 and {population_size}")


def describe_fitness(fitness: Tensor) -> dict[str, Any]:
    """Returns `best`, `mean` and `worst` of the finite fitness (NaN if there is none) and `not_finite`."""
    finite = fitness[fitness.isfinite()]
    described: dict[str, Callable[[Tensor], Tensor]] = {
        "best": torch.max,
        "mean": torch.mean,
        "worst": torch.min,
    }
    return {
        **{name: float(of(finite)) if len(finite) else math.nan for name, of in described.items()},
        "not_finite": len(fitness) - len(finite),
        "skipped": False,
    }
