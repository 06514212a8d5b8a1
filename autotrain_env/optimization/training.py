"""Networks trained side by side: rates, momenta, batch sizes and seeds are lanes of one run.

problem = ClassifierProblem("digits", "mlp-32")
found = train(problem, "momentum", learning_rates=(0.001, 0.01, 0.1, 1.0), updates=500)
found.learning_rates[found.best_lane]
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotrain_env.data.pool import image_pool
from autotrain_env.data.sampling import EpochSampler
from autotrain_env.errors import InvalidTypeError, check, check_flag, check_number, check_whole, in_brief
from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.optimization.descents import with_momentum
from autotrain_env.optimization.networks import check_problem, initial_points
from autotrain_env.training.optimizers import Optimizer, as_optimizer
from autotrain_env.training.stack import LaneStack

MEASURED = ("train", "validation")


@dataclass(frozen=True)
class Trainings:
    """What N networks did.

    Args:
        learning_rates: Rate of each lane, float64, shape (N,).
        momenta: Momentum of each lane, float64, shape (N,); 0 where the rule has none of its own.
        batch_sizes: Images in a lane's minibatch, int64, shape (N,).
        seeds: Seed of each lane's first weights and minibatches, int64, shape (N,).
        losses: Log loss of every minibatch [nats], shape (updates, N).
        updates: After how many updates lanes were measured, int64, shape (k,).
        train_loss: Log loss on train images then [nats], shape (k, N); infinite for what has diverged.
        train_accuracy: Accuracy on them, shape (k, N).
        validation_loss: Log loss on validation images, shape (k, N).
        validation_accuracy: Accuracy on them, shape (k, N).
        test_accuracy: Accuracy on test images at the end, shape (N,): to be reported, not to choose by.
        parameters: Weights at the end, shape (N, P).
    """

    learning_rates: npt.NDArray[np.float64]
    momenta: npt.NDArray[np.float64]
    batch_sizes: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float64]
    updates: npt.NDArray[np.int64]
    train_loss: npt.NDArray[np.float64]
    train_accuracy: npt.NDArray[np.float64]
    validation_loss: npt.NDArray[np.float64]
    validation_accuracy: npt.NDArray[np.float64]
    test_accuracy: npt.NDArray[np.float64]
    parameters: torch.Tensor

    @property
    def best_lane(self) -> int:
        """Returns the lane with the lowest validation loss at the end."""
        return int(self.validation_loss[-1].argmin())

    def lanes(self, which: npt.NDArray[np.bool_]) -> "Trainings":
        """Returns what some of the networks did.

        Args:
            which: Which lanes, bool, shape (N,), at least one.
        """
        mask = np.asarray(which)
        fits = mask.dtype == bool and mask.shape == self.seeds.shape and bool(mask.any())
        check(fits, "which", which, f"bool, of shape ({len(self.seeds)},), with one lane or more")
        kept = {
            entry.name: getattr(self, entry.name)
            if entry.name == "updates"
            else self._some(entry.name, mask)
            for entry in fields(self)
        }
        return Trainings(**kept)

    def _some(self, name: str, mask: npt.NDArray[np.bool_]) -> Any:
        values = getattr(self, name)
        if isinstance(values, torch.Tensor):
            return values[torch.from_numpy(mask).to(values.device)]
        return values[..., mask]


def train(
    problem: ClassifierProblem,
    optimizer: str | Optimizer = "momentum",
    *,
    learning_rates: npt.ArrayLike,
    momenta: npt.ArrayLike | None = None,
    batch_sizes: npt.ArrayLike | None = None,
    seeds: npt.ArrayLike = 0,
    updates: int = 500,
    every: int | None = None,
    images: int = 1000,
    initialization: str = "module_default",
    normalize: bool = True,
) -> Trainings:
    """Train networks side by side.

    Lanes of equal seed begin with the same weights, and go through the train images in the same order. A
    lane whose minibatch is smaller than the largest one sees each of its images several times in it: the
    mean gradient is that of the small minibatch, and all lanes take one product.

    Args:
        problem: Data and architecture; its own minibatches are not used.
        optimizer: The update rule: a name or an `Optimizer`.
        learning_rates: One rate, or one for each lane.
        momenta: One momentum, or one for each lane, where the rule is gradient descent; by default the
            rule's.
        batch_sizes: Images in a minibatch, one number or one for each lane; the largest is a multiple of
            all. By default the problem's.
        seeds: One seed, or one for each lane.
        updates: Updates of each network.
        every: After how many updates networks are measured; by default twenty times in all. They are
            measured before the first and after the last, too.
        images: How many images of the train and of the validation part they are measured on, at most.
        initialization: One of `initialization_names()`; `"module_default"` is torch's own.
        normalize: Whether images are normalised by the train part's mean and standard deviation.

    Returns:
        What every network did.

    Raises:
        InvalidTypeError: If something is of the wrong kind.
        InvalidValueError: If a number is out of range, or lanes are not as many in all arguments.
    """
    check_problem(problem)
    check_whole("updates", updates, 1)
    every = max(1, updates // 20) if every is None else every
    check_whole("every", every, 1)
    check_whole("images", images, 1)
    check_flag("normalize", normalize)
    lanes = _Plan.of(problem, as_optimizer(optimizer), learning_rates, momenta, batch_sizes, seeds)
    run = _Run(problem, lanes, images, initialization, normalize)
    marks = [*range(0, updates, every), updates]
    found, losses = [run.measure()], []
    for done, until in zip(marks[:-1], marks[1:], strict=True):
        losses.append(run.train(until - done))
        found.append(run.measure())
    train_loss, train_accuracy, validation_loss, validation_accuracy = map(
        np.stack, zip(*found, strict=True)
    )
    return Trainings(
        lanes.learning_rates,
        lanes.momenta,
        lanes.batch_sizes,
        lanes.seeds,
        np.concatenate(losses, 1).T,
        np.array(marks),
        train_loss,
        train_accuracy,
        validation_loss,
        validation_accuracy,
        run.measure_part("test", None)[1],
        run.parameters(),
    )


def seconds_per_update(
    problem: ClassifierProblem,
    optimizer: str | Optimizer = "momentum",
    *,
    batch_sizes: Sequence[int],
    updates: int = 100,
) -> npt.NDArray[np.float64]:
    """Measure how long an update of a single network takes: the quickest of three goes.

    Args:
        problem: Data and architecture.
        optimizer: The update rule.
        batch_sizes: Images in a minibatch.
        updates: Updates of one go.

    Returns:
        Seconds for each batch size, float64, shape (k,).
    """
    check_problem(problem)
    check_whole("len(batch_sizes)", len(batch_sizes), 1)
    check_whole("updates", updates, 1)
    found = []
    for size in batch_sizes:
        plan = _Plan.of(problem, as_optimizer(optimizer), 1e-6, None, [size], 0)
        run = _Run(problem, plan, 1, "module_default", True)
        best = math.inf
        for _ in range(3):
            begin = time.perf_counter()
            run.train(updates)
            best = min(best, time.perf_counter() - begin)
        found.append(best / updates)
    return np.array(found)


@dataclass(frozen=True)
class _Plan:
    """The settings of N lanes; arrays of shape (N,)."""

    optimizer: Optimizer
    learning_rates: npt.NDArray[np.float64]
    momenta: npt.NDArray[np.float64]
    batch_sizes: npt.NDArray[np.int64]
    seeds: npt.NDArray[np.int64]
    own_momenta: bool

    @classmethod
    def of(
        cls,
        problem: ClassifierProblem,
        optimizer: Optimizer,
        learning_rates: npt.ArrayLike,
        momenta: npt.ArrayLike | None,
        batch_sizes: npt.ArrayLike | None,
        seeds: npt.ArrayLike,
    ) -> "_Plan":
        given = {
            "learning_rates": _listed("learning_rates", learning_rates),
            "batch_sizes": _listed(
                "batch_sizes", problem.batch_size if batch_sizes is None else batch_sizes
            ),
            "seeds": _listed("seeds", seeds),
            "momenta": _listed(
                "momenta", getattr(optimizer, "momentum", 0.0) if momenta is None else momenta
            ),
        }
        count = max(map(len, given.values()))
        for name, values in given.items():
            check(
                len(values) in (1, count),
                name,
                f"{len(values)} numbers",
                f"one, or one for each of {count}",
            )
        for value in given["learning_rates"]:
            check_number("learning_rates", value, lambda rate: 0 <= rate < math.inf, "finite, at least 0")
        for value in given["momenta"]:
            check_number("momenta", value, lambda momentum: 0 <= momentum < 1, "in [0, 1)")
        largest = max(given["batch_sizes"], default=0)
        for value in given["batch_sizes"]:
            check_whole("batch_sizes", value, 1, problem.train_size)
            check(largest % value == 0, "batch_sizes", value, f"a divisor of the largest, {largest}")
        for value in given["seeds"]:
            check_whole("seeds", value, 0)
        rule = optimizer if momenta is None else with_momentum(optimizer)
        wide = {name: np.array((values * count)[:count]) for name, values in given.items()}
        return cls(
            rule,
            wide["learning_rates"].astype(np.float64),
            wide["momenta"].astype(np.float64),
            wide["batch_sizes"].astype(np.int64),
            wide["seeds"].astype(np.int64),
            momenta is not None,
        )


def _listed(argument: str, values: Any) -> list[Any]:
    """Returns a number, or several, as a list of plain numbers."""
    if isinstance(values, (str, bytes, dict)):
        raise InvalidTypeError(f"{argument}={in_brief(values)} must be numbers")
    listed = np.asarray(values).tolist() if np.ndim(values) <= 1 else None
    check(listed is not None and listed != [], argument, values, "a number, or of shape (N,)")
    return listed if isinstance(listed, list) else [listed]


class _Run:
    """N networks in training, in a stack.

    Args:
        problem: Data and architecture.
        plan: Settings of the lanes.
        images: How many images of a part lanes are measured on, at most.
        initialization: How the first weights are drawn.
        normalize: Whether images are normalised.
    """

    def __init__(
        self,
        problem: ClassifierProblem,
        plan: _Plan,
        images: int,
        initialization: str,
        normalize: bool,
    ) -> None:
        self.problem, self.plan, self.images = problem, plan, images
        count = len(plan.seeds)
        self.stack = LaneStack(
            problem.architecture, plan.optimizer, 1, "auto", problem.dtype, problem.device
        )
        self.slots = np.array([self.stack.acquire(count) for _ in range(count)])
        (self.pool, _) = image_pool((problem.dataset,), problem.dtype, problem.device)
        mean, std = problem.split.mean, problem.split.std
        if not normalize:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        for lane, slot in enumerate(self.slots.tolist()):
            self.stack.set_normalization(slot, mean, std)
            if plan.own_momenta:
                rule = replace(plan.optimizer, momentum=float(plan.momenta[lane]))  # type: ignore[call-arg]
                self.stack.set_lane_values(slot, rule)
        drawn = {
            seed: initial_points(problem, initialization, [seed])[0] for seed in set(plan.seeds.tolist())
        }
        rows = torch.stack([drawn[seed] for seed in plan.seeds.tolist()]).float().cpu().numpy()
        kept = np.tile(problem.architecture.template_row[problem.layout.size :], (count, 1))
        self.stack.set_network(self.slots, np.concatenate((rows, kept), 1))
        self.sampler = EpochSampler(count)
        for lane, seed in enumerate(plan.seeds.tolist()):
            self.sampler.begin(lane, np.random.default_rng(seed), np.arange(problem.train_size))

    def train(self, count: int) -> npt.NDArray[np.float64]:
        """Make so many updates, and return the minibatches' losses, shape (N, count)."""
        split = self.problem.split
        at = np.empty((len(self.slots), count, self.plan.batch_sizes.max()), np.int64)
        for size in set(self.plan.batch_sizes.tolist()):
            lanes = np.flatnonzero(self.plan.batch_sizes == size)
            drawn = self.sampler.draw(lanes, count * size).reshape(len(lanes), count, size)
            at[lanes] = np.tile(drawn, (1, 1, at.shape[2] // size))
        indices, labels = split.train_index[at].astype(np.int32), split.train_labels[at].astype(np.int32)
        return self.stack.train(self.pool, self.slots, self.plan.learning_rates, indices, labels).losses

    def measure(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Returns loss and accuracy on train images, then on validation images, each of shape (N,)."""
        return tuple(figures for part in MEASURED for figures in self.measure_part(part, self.images))

    def measure_part(
        self, part: str, images: int | None
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns loss and accuracy on the first images of a part, or on all, each of shape (N,)."""
        split, count = self.problem.split, len(self.slots)
        index, labels = (getattr(split, f"{part}_{kind}")[:images] for kind in ("index", "labels"))
        wide = [np.tile(values.astype(np.int32), (count, 1)) for values in (index, labels)]
        found = self.stack.evaluate(self.pool, self.slots, *wide, losses=True)
        assert found.losses is not None
        finite = found.finite.all(1)
        losses = np.where(finite, found.losses.astype(np.float64).mean(1), np.inf)
        return losses, np.where(finite, found.correct.mean(1), 1 / self.problem.architecture.num_classes)

    def parameters(self) -> torch.Tensor:
        """Returns the weights, a copy, shape (N, P)."""
        return self.stack.weights(self.slots, best=False)[0].clone()
