"""Rules of mutation: how offspring are made of a parent, and what takes over from it.

Everything here is about one vector of parameters and a function that measures offspring: `mutations`
applies it to anyone's model, `lane_mutations` to networks that are trained side by side.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autotrain_env.errors import (
    check,
    check_at_least_0,
    check_callable,
    check_flag,
    check_name,
    check_number,
    check_whole,
    look_up,
    warn,
)
from autotrain_env.evolution.fitness import Shaping
from autotrain_env.evolution.noise import Distribution, NormalNoise, UniformNoise, draw_noise

DEFAULT_SCALES = {"best": 0.01, "random_gradients": 1.0, "es": 0.01, "noise": 0.01}
"""Scale of each rule where none is given."""
OPTIMIZER_STATES = ("keep", "reset")

Measure = Callable[[Tensor], Sequence[float]]
"""A function of offspring, shape (k, P), that returns what is measured of each."""


@dataclass(frozen=True)
class MutationRule:
    """How a parent is mutated, and what takes over from it.

    | kind | offspring | what takes over |
    |---|---|---|
    | `"best"` | parent + scale · (root mean square of each tensor) · normal noise | the best one, if it is better than the parent |
    | `"random_gradients"` | parent − scale · temperature · learning rate · gradient · uniform noise from (0, 1) | each one at once, if it is better than the parent before it |
    | `"es"` | parent + scale · (root mean square of each tensor) · uniform noise from (−1, 1) | parent + rate · mean of (normalised score · perturbation), whether better or not |
    | `"noise"` | as those of `"best"` | the first, unmeasured: what noise does without selection |

    Noise follows the size of a tensor, so that one scale fits all layers; tensors that are zero stay so.
    Ties keep the parent. Offspring of which the measure is not finite never take over; with `"es"` they have
    the worst finite score.

    Args:
        kind: One of the kinds above.
        offspring: How many are made in one evolution (K), at least 1; for `"es"` at least 2.
        scale: Size of the perturbation, above 0; `None` for that of `DEFAULT_SCALES`.
        rate: Length of the step of `"es"`. With `scale` σ and a learning rate α of Salimans and others
            (arXiv:1703.03864), it is α / σ².
        higher_is_better: Whether the measure is a score, such as accuracy, and not a loss.
        temperature: For `"random_gradients"`, a factor of the step: a function of the parent's measure. By
            default the loss itself, or 1 − score, and never below 0: the better the parent, the smaller.
        optimizer_state: What becomes of momentum and the like when the parameters are replaced: `"keep"`
            leaves them as they are, `"reset"` lets the optimiser begin anew.
        back_off: Whether descent is undone, parameters and optimiser's state, where it made the measure
            worse since the last evolution (arXiv:1810.06773).

    Raises:
        InvalidValueError: If a value is not allowed.
        InvalidTypeError: If the temperature is no function of one number.
    """  # noqa: E501

    kind: str = "best"
    offspring: int = 40
    scale: float | None = None
    rate: float = 1.0
    higher_is_better: bool = False
    temperature: Callable[[float], float] | None = None
    optimizer_state: str = "keep"
    back_off: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        check_name("kind", self.kind, DEFAULT_SCALES)
        check_whole("offspring", self.offspring, 2 if self.kind == "es" else 1)
        if self.scale is None:
            object.__setattr__(self, "scale", DEFAULT_SCALES[self.kind])
        check_number("scale", self.scale, lambda number: 0 < number < math.inf, "finite, above 0")
        check_at_least_0("rate", self.rate)
        check_flag("higher_is_better", self.higher_is_better)
        check_name("optimizer_state", self.optimizer_state, OPTIMIZER_STATES)
        check_flag("back_off", self.back_off)
        check(not (self.back_off and self.kind == "noise"), "back_off", True, "False where kind is 'noise'")
        if self.temperature is not None:
            check(self.kind == "random_gradients", "temperature", self.temperature, "None for other kinds")
            check_callable("temperature", self.temperature, 1)

    @property
    def needs_gradient(self) -> bool:
        """Returns whether offspring are made of a gradient."""
        return self.kind == "random_gradients"

    def loss(self, measured: float) -> float:
        """Returns a measure as a loss, of which lower is better; infinity where it is not finite."""
        number = float(measured)
        if not math.isfinite(number):
            return math.inf
        return -number if self.higher_is_better else number

    def temperature_at(self, measured: float) -> float:
        """Returns the factor of the step of `"random_gradients"` for a parent's measure."""
        if self.temperature is not None:
            return float(self.temperature(measured))
        return max(0.0, 1 - measured if self.higher_is_better else measured)

    def noise(self, seed: int, generation: int, rows: range, size: int) -> Tensor:
        """Returns the noise of some offspring, float32, shape (len(rows), size); see `draw_noise`."""
        uniform = self.kind in ("es", "random_gradients")
        distribution: Distribution = UniformNoise() if uniform else NormalNoise()
        noise = draw_noise(distribution, seed, generation, rows, size)
        if uniform:
            noise /= math.sqrt(3)  # in (-1, 1)
        return (noise + 1) / 2 if self.needs_gradient else noise


RULES = {kind: MutationRule(kind) for kind in DEFAULT_SCALES}
"""Rules by name."""


def as_mutation_rule(rule: str | MutationRule) -> MutationRule:
    """Look a rule up.

    Args:
        rule: One of `RULES`, or a `MutationRule`, which is returned as it is.

    Raises:
        InvalidTypeError: If it is neither a name nor a rule.
        InvalidValueError: If the name is unknown.
    """
    return look_up("rule", rule, MutationRule, RULES, "a name or a MutationRule")


@dataclass(frozen=True)
class Parent:
    """What offspring are made of.

    Args:
        parameters: The parameters, shape (P,).
        sizes: How many numbers each tensor has, in their order.
        step: Learning rate times gradient, shape (P,), where a rule needs it.
    """

    parameters: Tensor
    sizes: tuple[int, ...]
    step: Tensor | None = None

    def unit(self) -> Tensor:
        """Returns the root mean square of the tensor that each number belongs to, shape (P,)."""
        parts = self.parameters.split(self.sizes)
        return torch.cat([part.square().mean().sqrt().expand(len(part)) for part in parts])


@dataclass(frozen=True)
class Mutation:
    """What one evolution did.

    Args:
        before: What was measured of the parent; NaN where the rule measures nothing.
        offspring: What was measured of the offspring, in their order.
        after: What was measured of what the parameters are now.
        taken: How often something took over.
        backed_off: Whether descent since the last evolution was undone first.
    """

    before: float
    offspring: tuple[float, ...] = ()
    after: float = math.nan
    taken: int = 0
    backed_off: bool = False


def evolve(
    rule: MutationRule,
    parent: Parent,
    measure: Measure,
    *,
    before: float,
    seed: int,
    generation: int,
    block_size: int = 1,
) -> tuple[Tensor | None, Mutation]:
    """Make offspring of a parent, and find what takes over.

    Noise depends on the seed, the generation, the offspring's number and the number of parameters alone.

    Args:
        rule: The rule.
        parent: The parent.
        measure: What measures offspring.
        before: What was measured of the parent.
        seed: Seed of the noise.
        generation: How many evolutions went before this one.
        block_size: Offspring that are made and measured together.

    Returns:
        The new parameters, shape (P,), or `None` where the parent stays, and what happened.
    """
    search = _Search(rule, parent, measure, seed, generation, block_size)
    return _FIND[rule.kind](search, before)


@dataclass(frozen=True)
class _Search:
    """One evolution; arguments are those of `evolve`."""

    rule: MutationRule
    parent: Parent
    measure: Measure
    seed: int
    generation: int
    block_size: int

    def noise(self, rows: range) -> Tensor:
        parameters = self.parent.parameters
        return self.rule.noise(self.seed, self.generation, rows, len(parameters)).to(parameters)

    def perturbations(self, unit: Tensor) -> Iterator[Tensor]:
        """Yields the perturbations of some offspring at a time, each (k, P)."""
        for start in range(0, self.rule.offspring, self.block_size):
            rows = range(start, min(start + self.block_size, self.rule.offspring))
            yield self.noise(rows) * unit

    def unit(self) -> Tensor:
        assert self.rule.scale is not None
        return self.parent.unit() * self.rule.scale

    def measured(self, unit: Tensor) -> tuple[float, ...]:
        """Returns what is measured of all offspring."""
        found: list[float] = []
        for perturbations in self.perturbations(unit):
            found += [float(value) for value in self.measure(self.parent.parameters + perturbations)]
        return tuple(found)


def _find_best(search: _Search, before: float) -> tuple[Tensor | None, Mutation]:
    """Take the best of all offspring, if it is better than the parent."""
    rule, unit = search.rule, search.unit()
    measured = search.measured(unit)
    losses = [rule.loss(value) for value in measured]
    best = min(range(len(losses)), key=losses.__getitem__)
    if not losses[best] < rule.loss(before):
        _warn_if_none_is_finite(losses)
        return None, Mutation(before, measured, before)
    found = search.parent.parameters + search.noise(range(best, best + 1))[0] * unit
    return found, Mutation(before, measured, measured[best], 1)


def _find_by_random_gradients(search: _Search, before: float) -> tuple[Tensor | None, Mutation]:
    """Take every offspring that is better than its parent, and make the next one of it."""
    rule, step = search.rule, search.parent.step
    assert step is not None and rule.scale is not None
    current, now, taken, measured = search.parent.parameters, before, 0, []
    for number in range(rule.offspring):
        noise = search.noise(range(number, number + 1))
        # Where nothing finite was measured, there is no temperature yet.
        factor = rule.scale * (rule.temperature_at(now) if math.isfinite(now) else 1.0)
        candidate = current - factor * step * noise[0]
        value = float(search.measure(candidate[None])[0])
        measured.append(value)
        if rule.loss(value) < rule.loss(now):
            current, now, taken = candidate, value, taken + 1
    if not taken:
        _warn_if_none_is_finite([rule.loss(value) for value in measured])
    return (current if taken else None), Mutation(before, tuple(measured), now, taken)


def _find_by_scores(search: _Search, before: float) -> tuple[Tensor | None, Mutation]:
    """Move by the mean of all perturbations, each times its score less the mean, over their deviation."""
    rule, unit = search.rule, search.unit()
    measured = search.measured(unit)
    losses = torch.tensor([rule.loss(value) for value in measured], dtype=torch.float64)
    if not losses.isfinite().any():
        _warn_if_none_is_finite(losses.tolist())
        return None, Mutation(before, measured, before)
    scores = Shaping("z_score")(-losses).to(search.parent.parameters)
    if not scores.any():
        return None, Mutation(before, measured, before)
    move = torch.zeros_like(search.parent.parameters)
    rows = (row for perturbations in search.perturbations(unit) for row in perturbations)
    for score, row in zip(scores.tolist(), rows, strict=True):  # one by one: whatever the block, equal bits
        move.add_(row, alpha=score)
    found = search.parent.parameters + move * (rule.rate / rule.offspring)
    after = float(search.measure(found[None])[0])
    if not math.isfinite(after):
        warn("the step of the evolution strategy leads to where nothing finite is measured: not taken")
        return None, Mutation(before, measured, before)
    return found, Mutation(before, measured, after, 1)


def _find_unmeasured(search: _Search, before: float) -> tuple[Tensor | None, Mutation]:
    """Take the first offspring."""
    found = search.parent.parameters + search.noise(range(1))[0] * search.unit()
    return found, Mutation(before, taken=1)


_FIND = {
    "best": _find_best,
    "random_gradients": _find_by_random_gradients,
    "es": _find_by_scores,
    "noise": _find_unmeasured,
}


def _warn_if_none_is_finite(losses: Sequence[float]) -> None:
    if not any(map(math.isfinite, losses)):
        warn(f"nothing finite was measured of any of {len(losses)} offspring: the parent stays")
