"""Descent with mutations on a data set, many seeds at once: one lane for each seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from autotrain_env.data.dataset import SplitSizes
from autotrain_env.data.pool import image_pool
from autotrain_env.data.registry import load_dataset
from autotrain_env.data.sampling import EpochSampler
from autotrain_env.data.split import split_dataset
from autotrain_env.errors import check, check_at_least_0, check_name, check_number, check_whole
from autotrain_env.evolution.lane_mutations import LaneMutations
from autotrain_env.evolution.mutation_rules import Mutation, MutationRule, as_mutation_rule
from autotrain_env.evolution.mutations import gradient_noise_std
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import as_classifier
from autotrain_env.training.initialization import initialization_names
from autotrain_env.training.optimizers import Optimizer, as_optimizer
from autotrain_env.training.stack import LaneStack

SELECTIONS = ("apart", "train")
PARTS = ("train", "validation", "test")


Measured = dict[str, tuple[np.ndarray, np.ndarray]]
"""Mean log loss [nats] and share of right answers of each lane, shape (n,) each, by part."""


@dataclass
class Curves:
    """What was measured before the first epoch, and after each.

    Attributes:
        losses: Mean log loss [nats] of each lane by part, `"train"` and `"validation"`, shape
            (epochs + 1, n).
        accuracies: Share of right answers likewise.
        evolved: Whether an evolution came before a row, one for each.
        mutations: What each evolution did to each lane.
    """

    losses: dict[str, np.ndarray] = field(default_factory=dict)
    accuracies: dict[str, np.ndarray] = field(default_factory=dict)
    evolved: list[bool] = field(default_factory=list)
    mutations: list[list[Mutation]] = field(default_factory=list)

    def add(self, measured: Measured, mutations: list[Mutation] | None) -> None:
        """Add a row: what was measured, and what an evolution did where there was one."""
        for part, values in measured.items():
            for rows, value in zip((self.losses, self.accuracies), values, strict=True):
                before = rows.get(part, np.empty((0, len(value))))
                rows[part] = np.concatenate((before, value[None]))
        self.evolved.append(mutations is not None)
        if mutations is not None:
            self.mutations.append(mutations)

    @property
    def best_epochs(self) -> np.ndarray:
        """Returns after which epoch each lane's validation loss was lowest: overfitting begins there."""
        return self.losses["validation"].argmin(0)


class LaneDescent:
    """Networks in descent on minibatches, one for each seed, that mutate every so many epochs.

    A seed decides a lane's division of the data, its first weights, its minibatches and its noise, each by
    a stream of its own. So lanes of one seed under two rules are a pair: they have the same images, begin
    as the same network and see the same minibatches. The learning rate stays as it is.

    After every `every` epochs of descent comes an evolution, which counts as an epoch.

    Args:
        dataset: Data, as for `load_dataset`.
        classifier: Architecture, as for `classifier=` of the environments.
        seeds: One for each lane, each at least 0.
        train_size: Images that descent sees.
        selection_size: Images that offspring are measured on.
        validation_size: Images that are measured after each epoch.
        optimizer: The update rule.
        learning_rate: Learning rate of all lanes.
        batch_size: Images of a minibatch.
        rule: What is done every so many epochs: the name of a rule, or a `MutationRule`; `None` for
            nothing.
        every: Epochs of descent before an evolution, at least 1.
        selection: `"apart"`: offspring are measured on images that descent does not see; `"train"`: on as
            many that it does see.
        metric: What is measured of them, `"log_loss"` or `"accuracy"`.
        gradient_noise: Variance of the noise on gradients at first, and its decay, as for `GradientNoise`;
            for plain SGD alone.
        initialization: How first weights are drawn.
        data_root: Folder of torchvision's data sets.
        backend: How networks are computed; see `autotrain_env.training.engine.make_engine`.

    Raises:
        InvalidValueError: If a value is not allowed, or there are too few images.
    """

    def __init__(
        self,
        dataset: Any,
        classifier: Any = "cnn",
        *,
        seeds: Sequence[int],
        train_size: int,
        selection_size: int,
        validation_size: int,
        optimizer: str | Optimizer = "sgd",
        learning_rate: float = 0.05,
        batch_size: int = 64,
        rule: str | MutationRule | None = None,
        every: int = 5,
        selection: str = "apart",
        metric: str = "log_loss",
        gradient_noise: tuple[float, float] | None = None,
        initialization: str = "kaiming_normal",
        data_root: Any = None,
        backend: str = "auto",
    ) -> None:
        check(len(seeds) > 0, "seeds", seeds, "at least one")
        for seed in seeds:
            check_whole("seed", seed, 0)
        check_number("learning_rate", learning_rate, lambda rate: 0 < rate < 1e6, "above 0")
        check_whole("every", every, 1)
        check_name("selection", selection, SELECTIONS)
        check_name("initialization", initialization, initialization_names())
        self.dataset, self.seeds, self.every = load_dataset(dataset, data_root), list(seeds), every
        sizes = SplitSizes(train_size, selection_size, validation_size)
        self.splits = [split_dataset(self.dataset, sizes, seed) for seed in self.seeds]
        check_whole("batch_size", batch_size, 1, train_size)
        self.batch_size, self.learning_rates = batch_size, np.full(len(self.seeds), float(learning_rate))
        self.updates_per_epoch = train_size // batch_size
        architecture = Architecture(
            as_classifier(classifier), self.dataset.image_shape, self.dataset.num_classes
        )
        update_rule = as_optimizer(optimizer)
        self.stack = LaneStack(architecture, update_rule, 1, backend, torch.float32, torch.device("cpu"))
        self.slots = np.array([self.stack.acquire(len(self.seeds)) for _ in self.seeds])
        self.pool, _ = image_pool((self.dataset,), torch.float32, "cpu")
        self.sampler = EpochSampler(len(self.seeds))
        self.noise: list[np.random.Generator] = []
        self._begin(initialization)
        self.gradient_noise = _checked_noise(gradient_noise, update_rule)
        self.updates, self.epochs_of_descent = 0, 0
        self.last_batch = np.empty((len(self.seeds), 0), np.int32)
        at = "train_index" if selection == "train" else "holdout_index"
        self.selection_indices = np.stack([getattr(s, at)[:selection_size] for s in self.splits])
        self.mutations: LaneMutations | None = None
        if rule is not None:
            self.mutations = LaneMutations(
                self.stack, self.slots, self.seeds, as_mutation_rule(rule), metric
            )

    def _begin(self, initialization: str) -> None:
        rows = []
        for lane, (seed, split) in enumerate(zip(self.seeds, self.splits, strict=True)):
            streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
            rows.append(self.stack.architecture.initial_row(initialization, streams[0]))
            self.sampler.begin(lane, streams[1], split.train_index.astype(np.int64))
            self.noise.append(streams[2])
            self.stack.set_normalization(int(self.slots[lane]), split.mean, split.std)
        self.stack.set_network(self.slots, np.stack(rows))

    def start_from(self, weights: torch.Tensor, *, keep: int = 0) -> None:
        """Begin as networks that were trained elsewhere.

        Args:
            weights: Parameters of each lane, shape (n, P).
            keep: How many tensors, from the end, stay as they were drawn: 2 for a last layer of its own.
        """
        entries = self.stack.architecture.parameter_layout.entries
        stop = entries[len(entries) - keep - 1].stop
        self.stack.state[self.stack.index(self.slots), :stop] = weights[:, :stop]

    # --- epochs ---

    def run(self, epochs: int, report: Callable[[int, Curves], object] | None = None) -> Curves:
        """Run epochs of descent and evolutions, and measure after each; best weights are kept.

        Args:
            epochs: How many, evolutions included.
            report: What is called after each, and at first, with its number and the curves so far.

        Returns:
            What was measured.
        """
        check_whole("epochs", epochs, 0)
        curves, best = Curves(), np.full(len(self.seeds), -1.0)
        for epoch in range(epochs + 1):
            mutations = None
            if epoch and self.mutations is not None and epoch % (self.every + 1) == 0:
                mutations = self.evolve()
            elif epoch:
                self.descend()
            curves.add({part: self.measure(part) for part in ("train", "validation")}, mutations)
            accuracy = curves.accuracies["validation"][-1]
            if (accuracy > best).any():
                self.stack.keep_best(self.slots[accuracy > best])
            best = np.maximum(best, accuracy)
            if report is not None:
                report(epoch, curves)
        return curves

    def descend(self) -> None:
        """Make an epoch of updates."""
        lanes = np.arange(len(self.seeds))
        count = self.updates_per_epoch * self.batch_size
        indices = self.sampler.draw(lanes, count).astype(np.int32)
        indices = indices.reshape(len(lanes), self.updates_per_epoch, self.batch_size)
        at_once = 1 if self.gradient_noise else self.updates_per_epoch
        for start in range(0, self.updates_per_epoch, at_once):
            some = indices[:, start : start + at_once]
            self.stack.train(self.pool, self.slots, self.learning_rates, some, self._labels(some))
            if self.gradient_noise:
                self._add_gradient_noise(*self.gradient_noise)
            self.updates += at_once
        self.last_batch = indices[:, -1]
        self.epochs_of_descent += 1

    def _add_gradient_noise(self, variance: float, decay: float) -> None:
        """Move by what noise on the gradient of plain SGD would have moved it."""
        std = gradient_noise_std(variance, decay, self.updates)
        size = self.stack.num_parameters
        for slot, rate, generator in zip(self.slots, self.learning_rates, self.noise, strict=True):
            noise = torch.from_numpy(generator.standard_normal(size, dtype=np.float32))
            self.stack.state[int(slot), :size] += noise * float(rate * std)

    def evolve(self) -> list[Mutation]:
        """Make an evolution of every lane, and return what happened."""
        assert self.mutations is not None
        return self.mutations.mutate(
            self.pool,
            self.selection_indices,
            self._labels(self.selection_indices),
            learning_rates=self.learning_rates,
            batch_indices=self.last_batch,
            batch_labels=self._labels(self.last_batch),
        )

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        return self.dataset.labels[indices].astype(np.int32)

    # --- measuring ---

    def measure(self, part: str, *, best: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Measure all lanes.

        Args:
            part: `"train"` (as many train images as validation has, or all), `"validation"` or `"test"`.
            best: Whether to measure the weights that were best on the validation part, by accuracy.

        Returns:
            Mean log loss [nats] and share of right answers of each lane, shape (n,) each.
        """
        check_name("part", part, PARTS)
        indices = np.stack([getattr(split, f"{part}_index") for split in self.splits])
        if part == "train":
            indices = indices[:, : len(self.splits[0].validation_index)]
        evaluation = self.stack.evaluate(
            self.pool, self.slots, indices, self._labels(indices), losses=True, best=best
        )
        assert evaluation.losses is not None
        return evaluation.losses.mean(1, dtype=np.float64), evaluation.correct.mean(1)


def _checked_noise(given: tuple[float, float] | None, optimizer: Optimizer) -> tuple[float, float] | None:
    if given is None:
        return None
    check_at_least_0("gradient_noise[0]", given[0])
    check_at_least_0("gradient_noise[1]", given[1])
    plain = optimizer.num_accumulators == 0 and optimizer.max_grad_norm is None
    check(plain, "gradient_noise", given, f"None with {optimizer}: it is added where plain SGD has been")
    return given
