"""Mutations of networks that are trained side by side: offspring are lanes of a stack of their own."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from autotrain_env.errors import check, check_name
from autotrain_env.evolution.mutation_rules import (
    Mutation,
    MutationRule,
    Parent,
    as_mutation_rule,
    evolve,
)
from autotrain_env.evolution.noise import check_seed
from autotrain_env.training.engine import Evaluation
from autotrain_env.training.optimizers import SGD
from autotrain_env.training.stack import LaneStack

METRICS = ("log_loss", "accuracy")
_BLOCK_BYTES = 64 * 2**20  # of offspring that are made at once


@dataclass(frozen=True)
class _Kept:
    """What a lane goes back to: its row in the stack, and what was measured of it."""

    row: Tensor
    measured: float


class LaneMutations:
    """Lets lanes of a stack mutate, each by itself: a lane's bits depend neither on the others nor on N.

    The noise of a lane is that of `Mutations` with the lane's seed, and so is all else, but for what a
    stack brings along: a lane that backs off gets its buffers back, too, and `"random_gradients"` computes
    the gradient of a given minibatch at the lane's parameters, by an update of plain SGD, to about six
    digits.

    Args:
        stack: The networks.
        slots: Places of the lanes, shape (n,).
        seeds: Seed of each lane's noise, n of them.
        rule: What is done: the name of a rule, or a `MutationRule`.
        metric: What is measured: `"log_loss"`, or `"accuracy"`, for which the rule has to say
            `higher_is_better=True`.

    Raises:
        InvalidValueError: If a value is not allowed, or the rule and the metric contradict each other.
    """

    def __init__(
        self,
        stack: LaneStack,
        slots: np.ndarray,
        seeds: list[int],
        rule: str | MutationRule = "best",
        metric: str = "log_loss",
    ) -> None:
        self.rule = as_mutation_rule(rule)
        check_name("metric", metric, METRICS)
        check(
            self.rule.higher_is_better == (metric == "accuracy"),
            "higher_is_better",
            self.rule.higher_is_better,
            f"{metric == 'accuracy'} for metric={metric!r}",
        )
        for seed in seeds:
            check_seed(seed)
        check(len(seeds) == len(slots), "seeds", seeds, f"one for each of {len(slots)} lanes")
        self.stack, self.slots, self.seeds, self.metric = stack, np.asarray(slots, np.int64), seeds, metric
        self.generation = 0
        self._sizes = tuple(e.stop - e.start for e in stack.architecture.parameter_layout.entries)
        room = max(1, _BLOCK_BYTES // (4 * max(1, stack.num_parameters)))
        self._block_size = 1 if self.rule.needs_gradient else min(self.rule.offspring, room)
        self._offspring = LaneStack(
            stack.architecture, SGD(), 1, stack.backend, stack.state.dtype, stack.device
        )
        for _ in range(self._block_size):
            self._offspring.acquire(self._block_size)
        self._kept: dict[int, _Kept] = {}

    def mutate(
        self,
        pool: Tensor,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        learning_rates: np.ndarray | None = None,
        batch_indices: np.ndarray | None = None,
        batch_labels: np.ndarray | None = None,
    ) -> list[Mutation]:
        """Make an evolution of every lane.

        Args:
            pool: Images, shape (total, features).
            indices: Positions in the pool of the images that offspring are measured on, shape (n, E).
            labels: Their labels, shape (n, E).
            learning_rates: For rules that need a gradient, the lanes' learning rates, shape (n,).
            batch_indices: For such rules, positions of the minibatch whose gradient it is, shape (n, B).
            batch_labels: Its labels, shape (n, B).

        Returns:
            What happened to each lane.

        Warns:
            UserWarning: If nothing finite is measured of any of a lane's offspring; it stays then.

        Raises:
            InvalidValueError: If there are no images, or a minibatch is missing that the rule needs.
        """
        check(indices.ndim == 2 and indices.shape[1] > 0, "indices", indices, "one image a lane at least")
        check(len(indices) == len(self.slots), "indices", indices, f"of {len(self.slots)} lanes")
        given = learning_rates is not None and batch_indices is not None and batch_labels is not None
        check(
            given or not self.rule.needs_gradient, "batch_indices", None, "given, as gradients are needed"
        )
        done = []
        for lane in range(len(self.slots)):
            look = _Look(self, lane, pool, indices[lane], labels[lane])
            step = None
            if self.rule.needs_gradient:
                assert learning_rates is not None and batch_indices is not None and batch_labels is not None
                gradient = self._gradient(lane, pool, batch_indices[lane], batch_labels[lane])
                step = gradient * float(learning_rates[lane])
            done.append(self._mutate_lane(lane, look, step))
        self.generation += 1
        return done

    def _mutate_lane(self, lane: int, look: "_Look", step: Tensor | None) -> Mutation:
        row, size = self._row(lane), self.stack.num_parameters
        before = float("nan") if self.rule.kind == "noise" else look(row[None, :size])[0]
        kept = self._kept.get(lane)
        backed_off = kept is not None and self.rule.loss(before) > self.rule.loss(kept.measured)
        if kept is not None and backed_off:
            row.copy_(kept.row)
            before = kept.measured
        found, mutation = evolve(
            self.rule,
            Parent(row[:size].clone(), self._sizes, step),
            look,
            before=before,
            seed=self.seeds[lane],
            generation=self.generation,
            block_size=self._block_size,
        )
        if found is not None:
            row[:size] = found
            if self.rule.optimizer_state == "reset":
                row[size : self.stack.buffers_start] = 0
        if self.rule.back_off:
            self._kept[lane] = _Kept(row.clone(), mutation.after)
        return replace(mutation, backed_off=backed_off)

    def _row(self, lane: int) -> Tensor:
        """Returns a lane's row in the stack, which can be written to."""
        return self.stack.state[int(self.slots[lane])]

    def _place(self, lane: int, parameters: Tensor) -> np.ndarray:
        """Put offspring of a lane into the stack of offspring, and return their places, shape (k,).

        Args:
            lane: Number of the lane.
            parameters: Their parameters, shape (k, P).
        """
        count, size, row = len(parameters), self.stack.num_parameters, self._row(lane)
        slot = int(self.slots[lane])
        self._offspring.state[:count, :size] = parameters
        self._offspring.state[:count, size:] = row[self.stack.buffers_start :]
        self._offspring.scale[:count] = self.stack.scale[slot]
        self._offspring.shift[:count] = self.stack.shift[slot]
        return np.arange(count)

    def _evaluate(
        self, places: np.ndarray, pool: Tensor, indices: np.ndarray, labels: np.ndarray
    ) -> Evaluation:
        """Evaluate offspring on images that they share, positions and labels of shape (E,)."""
        return self._offspring.evaluate(
            pool,
            places,
            np.tile(indices, (len(places), 1)),
            np.tile(labels, (len(places), 1)),
            losses=self.metric == "log_loss",
        )

    def _gradient(self, lane: int, pool: Tensor, indices: np.ndarray, labels: np.ndarray) -> Tensor:
        """Returns the gradient on a minibatch: what plain SGD at rate 1 subtracts from the parameters."""
        parameters = self._row(lane)[None, : self.stack.num_parameters]
        places = self._place(lane, parameters)
        minibatch = indices[None, None], labels[None, None]
        self._offspring.train(pool, places, np.ones(1), *minibatch)
        return (parameters - self._offspring.state[:1, : self.stack.num_parameters])[0]


@dataclass(frozen=True)
class _Look:
    """Measures parameters, shape (k, P), in the place of a lane's; arguments as in `LaneMutations`."""

    mutations: LaneMutations
    lane: int
    pool: Tensor
    indices: np.ndarray
    labels: np.ndarray

    def __call__(self, parameters: Tensor) -> list[float]:
        """Returns the mean metric of each."""
        places = self.mutations._place(self.lane, parameters)
        evaluation = self.mutations._evaluate(places, self.pool, self.indices, self.labels)
        if evaluation.losses is not None:
            return evaluation.losses.mean(1, dtype=np.float64).tolist()
        accuracy = evaluation.correct.mean(1)
        return np.where(evaluation.finite.all(1), accuracy, np.nan).tolist()
