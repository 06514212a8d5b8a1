"""Distributions of tasks that have names.

Those of real training runs hold none of the real image sets: policies are to be judged on these.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autotrain_env.errors import look_up
from autotrain_env.process.task_distributions import (
    Choice,
    Curriculum,
    Distribution,
    LogUniform,
    Mixture,
    TaskDistribution,
    Uniform,
)
from autotrain_env.training.optimizers import SGD, AdamW


@dataclass(frozen=True)
class _Rule:
    """Update rules that go with the same learning rates.

    Args:
        weight: How often they are met, up to a factor.
        optimizers: The rules.
        sensible: Rates at which they make sense.
        wild: Rates that somebody may try.
    """

    weight: float
    optimizers: tuple[Any, ...]
    sensible: tuple[float, float]
    wild: tuple[float, float]

    def fields(self) -> dict[str, Any]:
        """Returns the fields of a task that belong together."""
        rates = (LogUniform(*self.sensible),) * 3 + (LogUniform(*self.wild),)
        return {"optimizer": Choice(self.optimizers), "initial_learning_rate": Choice(rates)}


@dataclass(frozen=True)
class _Length:
    """Budgets that go with the same number of updates per env step.

    Args:
        weight: How often they are met, up to a factor.
        inner_steps: Updates per env step (T).
        decisions: Env steps of an episode.
    """

    weight: float
    inner_steps: int
    decisions: tuple[int, ...]

    def fields(self, most_updates: int) -> dict[str, Any] | None:
        """Returns the fields of a task that belong together; `None` where all budgets are too large."""
        budgets = tuple(self.inner_steps * number for number in self.decisions)
        allowed = tuple(budget for budget in budgets if budget <= most_updates)
        return {"inner_steps": self.inner_steps, "budget": Choice(allowed)} if allowed else None


@dataclass(frozen=True)
class _Data:
    """Data sets of one shape, and networks for them.

    Args:
        weight: How often they are met, up to a factor.
        datasets: Names of the sets.
        classifiers: Networks.
        lengths: How long they are trained.
        train_sizes: Images in the train part; `None` for all that there are.
        batch_sizes: Images in a minibatch.
        often: Weight where small sets are met often; of sets that are not small, `None`.
    """

    weight: float
    datasets: Sequence[str]
    classifiers: tuple[str, ...]
    lengths: tuple[_Length, ...]
    train_sizes: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] = (16, 32, 64, 64, 128, 256)
    often: float | None = None

    def fields(self) -> dict[str, Any]:
        """Returns the fields of a task that belong together."""
        return {
            "dataset": Choice(tuple(self.datasets)),
            "classifier": Choice(self.classifiers),
            "train_size": None if self.train_sizes is None else Choice(self.train_sizes),
            "batch_size": Choice(self.batch_sizes),
        }


_RULES = (
    _Rule(2, ("sgd", SGD(weight_decay=5e-4)), (1e-2, 1.0), (1e-4, 30.0)),
    _Rule(
        3,
        ("momentum", "nesterov", SGD(momentum=0.9, weight_decay=5e-4), SGD(momentum=0.98)),
        (1e-3, 0.3),
        (1e-5, 10.0),
    ),
    _Rule(1, ("rmsprop",), (1e-4, 1e-2), (1e-6, 1.0)),
    _Rule(3, ("adam",), (1e-4, 2e-2), (1e-6, 1.0)),
    _Rule(3, ("adamw", AdamW(weight_decay=0.1)), (1e-4, 2e-2), (1e-6, 1.0)),
)

_SHORT = (
    _Length(2, 10, (30, 60, 120)),
    _Length(3, 20, (15, 30, 50, 80, 120)),
    _Length(1, 50, (15, 30, 60)),
)
_LONG = (
    _Length(3, 20, (15, 30, 60, 100, 120)),
    _Length(2, 50, (15, 30, 60, 120)),
    _Length(2, 100, (15, 30, 60, 120)),
    _Length(1, 200, (15, 30, 50, 100)),
)

_KINDS = ("shapes", "patterns", "textures", "teacher_cnn")  # not glyphs and scenes, which are for judging


def _images(
    size: int,
    shape: str,
    levels: tuple[float, ...],
    *,
    kinds: tuple[str, ...] = _KINDS,
    classes: int = 10,
    imbalance: int = 1,
) -> tuple[str, ...]:
    """Returns names of a set of every kind at every difficulty, each with a seed of its own."""
    every = itertools.product(kinds, levels)
    return tuple(
        f"{kind}-{100 * classes + seed}-{size}-{level}-{classes}-{shape}-{imbalance}"
        for seed, (kind, level) in enumerate(every)
    )


_VECTORS = (
    "gaussian_mixture-1-1500-0.1",
    "gaussian_mixture-3-12000-0.5",
    "correlated_mixture-4-1500-0.2",
    "correlated_mixture-6-12000-0.3",
    "correlated_mixture-8-40000-0.1-64-8",
    "correlated_mixture-9-62500-0.0-64-4",
    "teacher-3-12000-0.2",
)
_DENSE = ("linear", "mlp", "mlp-64-32", "mlp-48-48-48", "mlp-40-40-40-40-40")
_NORMALIZED = ("mlp-64-32+batch_norm", "mlp-64-32+layer_norm")

_DATA = (
    _Data(
        *(2, ("digits",), (*_DENSE, "mlp-64-32", "cnn-8-16", "cnn-8-16", "cnn-8-16+batch_norm"), _SHORT),
        train_sizes=(100, 200, 400),
        batch_sizes=(16, 32, 64),
        often=5,
    ),
    _Data(
        *(0, _VECTORS[:5], (*_DENSE, *_DENSE[1:], *_NORMALIZED), _SHORT),
        train_sizes=(100, 250, 500),
        batch_sizes=(16, 32, 64),
        often=2,
    ),
    _Data(2, _VECTORS, (*_DENSE, *_DENSE[1:], *_NORMALIZED), _LONG),
    _Data(
        2,
        (*_images(2500, "1x8", (0.1, 0.5)), *_images(2500, "1x8", (0.3,), imbalance=10)),
        (*_DENSE[1:], *("cnn-8-16",) * 3, *_NORMALIZED, "cnn-8-16+batch_norm"),
        _SHORT,
        train_sizes=(100, 250, 500, 1000),
        batch_sizes=(16, 32, 64),
        often=4,
    ),
    _Data(
        *(1, (*_images(2500, "1x16", (0.1, 0.4), classes=2),), ("mlp-100-50", "cnn-8-16"), _SHORT),
        train_sizes=(100, 250, 500, 1000),
        batch_sizes=(16, 32, 64),
    ),
    _Data(
        3,
        (*_images(12_000, "1x16", (0.1, 0.5)), *_images(12_000, "1x16", (0.3,), imbalance=20)),
        (
            *("mlp-100-50", "mlp-64-64-64-64", "cnn-8-16", "cnn-8-16", "cnn-16-32") * 2,
            "mlp-100-50+batch_norm",
        ),
        _LONG,
    ),
    _Data(1, _images(12_000, "1x16", (0.1,), classes=30), ("mlp-100-50", "cnn-8-16"), _LONG),
    _Data(
        2,
        (
            *_images(8_000, "1x28", (0.2,)),
            *_images(62_500, "1x28", (0.05,), kinds=("shapes",)),
            *_images(16_000, "1x28", (0.2,), kinds=("teacher_cnn",), imbalance=5),
        ),
        ("mlp-100-50", "mlp-200-100-50", "cnn-8-16", "cnn-8-16"),
        _LONG,
        batch_sizes=(16, 32, 64, 64, 128),
    ),
    _Data(
        *(1, _images(16_000, "1x28", (0.05,), kinds=("patterns", "textures"), classes=100)),
        *(("mlp-200-100-50", "cnn-8-16"), _LONG),
        batch_sizes=(32, 64, 128),
    ),
    _Data(
        *(1, _images(8_000, "3x16", (0.1, 0.4)), ("mlp-64-32", "cnn-8-16", "cnn-16-32"), _LONG),
        batch_sizes=(16, 32, 64, 64, 128),
    ),
    _Data(
        *(1, _images(6_000, "3x32", (0.2,), kinds=("shapes", "textures"), classes=5)),
        *(("mlp-64-32", "cnn-8-16"), _LONG),
        batch_sizes=(16, 32, 64),
    ),
)


_SOMETIMES_WRONG = Choice((0.0, 0.0, Uniform(0.0, 0.2), Uniform(0.1, 0.5)))
_OFTEN_WRONG = Choice((0.0, Uniform(0.0, 0.2), Uniform(0.1, 0.5), Uniform(0.1, 0.5)))


def real_runs(most_updates: int, *, small_sets_often: bool = False) -> Mixture:
    """Returns tasks as people train networks, but for the real image sets.

    Six update rules, each with rates at which it makes sense and, in a quarter of the tasks, wild ones;
    networks of one to six layers, dense and convolutional, some with normalisations; digits, vectors and
    synthetic images, from 100 images to 50,000, of 2 to 100 classes, balanced or not; labels right or up to
    half of them wrong; budgets from 300 updates on, in 15 to 120 env steps. In a quarter of the tasks there
    is no holdout, in half of them the network cannot be drawn anew.

    Args:
        most_updates: Largest budget.
        small_sets_often: Whether every other task has 1,000 images or fewer, wrong labels in three
            quarters of them. Such a task takes a tenth of the time that another takes, and what is hard
            about it, to stop learning before wrong labels are learned by heart, takes many to be learned.
    """
    parts, weights = [], []
    for data, rule in itertools.product(_DATA, _RULES):
        often = small_sets_often and data.often is not None
        weight = data.often if often else data.weight
        if not weight:
            continue
        total = sum(length.weight for length in data.lengths)
        for length in data.lengths:
            lasting = length.fields(most_updates)
            if lasting is None:
                continue
            part = TaskDistribution(
                holdout_size=300,
                validation_size=400,
                label_noise=_OFTEN_WRONG if often else _SOMETIMES_WRONG,
                initialization=Choice(("kaiming_uniform", "module_default")),
                measured=Choice((*("train_and_holdout",) * 5, "holdout", *("nothing",) * 2)),
                can_reinit=Choice((True, False)),
                **data.fields(),
                **rule.fields(),
                **lasting,
            )
            parts.append(part)
            weights.append(weight * rule.weight * length.weight / total)
    return Mixture(tuple(parts), tuple(weights))


TASK_PRESETS: dict[str, Distribution | Curriculum | Callable[[], Mixture]] = {
    # the task of the documentation: rate, split and initialisation differ from episode to episode
    "default": TaskDistribution(),
    # one split of one dataset: episodes differ in the initial rate and the first weights alone
    "rates": TaskDistribution(split_seed=0),
    # several datasets and networks, none of which needs a download
    "mixed": TaskDistribution(
        dataset=Choice(("digits", "synthetic")),
        label_noise=Choice((0.0, 0.1, 0.2, 0.4)),
        train_size=Choice((100, 200, 400)),
        holdout_size=200,
        validation_size=400,
        classifier=Choice(("linear", "mlp", "mlp-64-32")),
        optimizer=Choice(("sgd", "momentum", "adam")),
        batch_size=Choice((32, 64)),
    ),
    # the default task, from low rates and clean labels to all rates and wrong ones
    "curriculum": Curriculum(
        (
            TaskDistribution(label_noise=0.0, initial_learning_rate=LogUniform(1e-3, 0.1)),
            TaskDistribution(label_noise=0.1, initial_learning_rate=LogUniform(1e-3, 1.0)),
            TaskDistribution(),
        )
    ),
    # for policies that are to be carried over to other data: small noisy sets, on which a low rate early is
    # best, and large ones of many Gaussians (the last three), on which a high one pays until late, also
    # where accuracy is high; momentum moves the best rate by decades; deep networks die at high rates, and
    # a lower one alone does not bring them back
    "many": TaskDistribution(
        dataset=Choice(
            (
                *("digits",) * 4,
                "gaussian_mixture-1-1500-0.1",
                "gaussian_mixture-3-12000-0.5",
                "correlated_mixture-4-1500-0.2",
                "correlated_mixture-6-12000-0.3",
                "correlated_mixture-8-40000-0.1-64-8",
                "correlated_mixture-9-40000-0.0-64-4",
                "correlated_mixture-10-40000-0.0-64-8",
            )
        ),
        label_noise=Choice((0.0, 0.0, 0.1, 0.2, 0.4)),
        holdout_size=300,
        validation_size=400,
        classifier=Choice(("mlp", "mlp-64-32", "mlp-48-48-48")),
        optimizer=Choice(("sgd", "momentum", "momentum", SGD(momentum=0.98))),
    ),
    # all that people train, with budgets up to 20,000 updates, and up to 2,000: for policies that are to
    # serve any run; made when they are asked for, since they have some hundred parts
    "real_runs": functools.cache(functools.partial(real_runs, 20_000)),
    "short_real_runs": functools.cache(functools.partial(real_runs, 2_000)),
    # the same with small sets more often, to train on
    "training_runs": functools.cache(functools.partial(real_runs, 2_000, small_sets_often=True)),
}


def as_task_distribution(tasks: str | Distribution | Curriculum) -> Distribution | Curriculum:
    """Look a distribution up by name.

    Args:
        tasks: One of `TASK_PRESETS`, or a distribution, which is returned as it is.

    Raises:
        InvalidValueError: If the name is unknown.
        InvalidTypeError: If it is neither a name nor a distribution.
    """
    kinds = (TaskDistribution, Mixture, Curriculum)
    allowed = "a name, a TaskDistribution, a Mixture or a Curriculum"
    found = look_up("tasks", tasks, kinds, TASK_PRESETS, allowed)
    return found() if callable(found) else found
