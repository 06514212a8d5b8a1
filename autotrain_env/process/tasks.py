"""Tasks: everything that an episode is about."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from autotrain_env.data.dataset import Dataset
from autotrain_env.data.registry import is_built_in
from autotrain_env.errors import (
    InvalidTypeError,
    check_flag,
    check_name,
    check_number,
    check_whole,
    in_brief,
)
from autotrain_env.training.classifiers import Classifier, as_classifier
from autotrain_env.training.initialization import initialization_names
from autotrain_env.training.optimizers import Optimizer, as_optimizer

BUILT_IN_LABEL_NOISE = 0.2  # where a task does not say: the built-in tasks are about noisy labels


def is_users_own(dataset: str | Dataset) -> bool:
    """Returns whether a dataset, or what stands under a name, is a user's own."""
    return not (dataset.built_in if isinstance(dataset, Dataset) else is_built_in(dataset))


MEASURED = ("train_and_holdout", "holdout", "nothing")
"""What an agent may have measured at every decision."""

MOST_UPDATES, MOST_INNER_STEPS = 10**9, 100_000
"""Largest budget, a year and more of updates of one network; largest T, since indices are drawn at once."""


@dataclass(frozen=True)
class Task:
    """Everything that one episode is about.

    Args:
        dataset: A name (`"digits"`, `"mnist"`, `"fashion_mnist"`, `"kmnist"`, `"cifar10"`, `"synthetic"`,
            or of a set such as `"teacher-3-4000-0.5"`), or a dataset handle; see
            `autotrain_env.load_dataset`.
        split_seed: Seed of the four-way split and of the label noise.
        train_size: Images in the train part; `None` for the dataset's own default, as with the next two.
        holdout_size: Images in the holdout part.
        validation_size: Images in the validation part.
        label_noise: Probability with which a label of the train or holdout part becomes another class.
            `None` for 0.2 with a built-in dataset, and for 0 with your own data.
        classifier: A name (`"linear"`, `"mlp"`, `"mlp-200-100-50"`, `"cnn"`, `"cnn-8-16"`,
            `"cnn+batch_norm"`, `"mlp-100+layer_norm"`, `"resnet18"`), a `Classifier`, or a function that
            makes an `nn.Module`.
        optimizer: A name (`"sgd"`, `"momentum"`, `"nesterov"`, `"rmsprop"`, `"adam"`, `"adamw"`) or an
            `Optimizer`.
        batch_size: Images in a minibatch; `None` for 64, or a quarter of the train part if that is less.
        initial_learning_rate: Learning rate at the start; clipped to the environment's bounds.
        initialization: Scheme of the first network (`"kaiming_uniform"`, `"xavier_normal"`, …); see
            `autotrain_env.training.initialization.INITIALIZATIONS`.
        budget: Optimiser updates in the episode, a multiple of `inner_steps`.
        inner_steps: Optimiser updates in one env step (T); `None` for those that the environment says.
        measured: What the agent has measured at every decision: `"train_and_holdout"`; the `"holdout"`
            alone; or `"nothing"`. Accuracy and loss on the last minibatches stand in for a train score that
            is not measured, and the train score for a holdout score. Rewards do not depend on it.
        can_reinit: Whether other networks can be drawn. If not, rows 1 … H-1 are missing at reset,
            re-initialising is masked out, and does nothing where it is asked for.
        epochs_known: Whether the agent is told how many epochs the budget is, where its metrics say so.
    """

    dataset: str | Dataset = "digits"
    split_seed: int = 0
    train_size: int | None = None
    holdout_size: int | None = None
    validation_size: int | None = None
    label_noise: float | None = None
    classifier: str | Classifier | Callable[[], nn.Module] = "mlp"
    optimizer: str | Optimizer = "momentum"
    batch_size: int | None = None
    initial_learning_rate: float = 0.1
    initialization: str = "kaiming_uniform"
    budget: int = 600
    inner_steps: int | None = None
    measured: str = "train_and_holdout"
    can_reinit: bool = True
    epochs_known: bool = True

    def __post_init__(self) -> None:
        """Look names up and check every value that can be checked without the data."""
        object.__setattr__(self, "classifier", as_classifier(self.classifier))
        object.__setattr__(self, "optimizer", as_optimizer(self.optimizer))
        if not isinstance(self.dataset, (str, Dataset)):
            raise InvalidTypeError(
                f"dataset={in_brief(self.dataset)} must be a name or a Dataset in a Task; "
                "autotrain_env.load_dataset makes a Dataset of your own data"
            )
        if self.label_noise is None:
            object.__setattr__(
                self, "label_noise", 0.0 if is_users_own(self.dataset) else BUILT_IN_LABEL_NOISE
            )
        check_name("initialization", self.initialization, initialization_names())
        check_name("measured", self.measured, MEASURED)
        check_flag("can_reinit", self.can_reinit)
        check_flag("epochs_known", self.epochs_known)
        for name in ("train_size", "holdout_size", "validation_size", "batch_size"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        check_whole("split_seed", self.split_seed, 0, 2**64 - 1)
        check_whole("budget", self.budget, 1, MOST_UPDATES)
        if self.inner_steps is not None:
            check_whole("inner_steps", self.inner_steps, 1, MOST_INNER_STEPS)
        check_number("label_noise", self.label_noise, lambda number: 0 <= number <= 1, "in [0, 1]")
        check_number(
            "initial_learning_rate",
            self.initial_learning_rate,
            lambda number: 0 < number < math.inf,
            "finite and above 0",
        )
