"""A first attempt at evolving a classifier, which stays at the share of one class, and what mends it.

The attempt is one that people make: a network with zero weights and a rectifier on its outputs, pixels up
to 255, the inverse of the loss as fitness, 50 members with noise of 0.1 in every number, plain steps with a
rate of 0.01, and the same images, all there are, in every generation. Each of `MENDS` changes one thing.

    attempt = Attempt().changed(MENDS["pixels normalised"])
    problem = attempt.problem("mnist", train_size=2000)
    trained = attempt.run(problem, generations=100)
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrain_env.evolution.classifiers import ClassifierProblem, minus_log_loss
from autotrain_env.evolution.curves import Trained, train_classifier
from autotrain_env.evolution.strategy import EvolutionStrategy
from autotrain_env.training.classifiers import MLP, Classifier
from autotrain_env.training.initialization import MODULE_DEFAULT


@dataclass(frozen=True)
class Attempt:
    """What is tried.

    Args:
        zero_weights: Whether all weights begin at 0, and biases as PyTorch draws them; else the weights
            have a Kaiming initialisation, and the biases begin at 0.
        rectified: Whether the outputs pass a ReLU, too.
        inverse: Whether fitness is the inverse of the log loss; else minus it.
        raw_pixels: Whether the network sees pixels from 0 to 255; else normalised ones.
        batch_size: Images of a minibatch, another one in each generation; `None`: all images in each.
        strategy: Arguments of the strategy.
    """

    zero_weights: bool = True
    rectified: bool = True
    inverse: bool = True
    raw_pixels: bool = True
    batch_size: int | None = None
    strategy: Mapping[str, Any] = field(
        default_factory=lambda: {
            "population_size": 50,
            "perturbation_std": 0.1,
            "mirrored": False,
            "shaping": "z_score",
            "optimizer": "sgd",
            "learning_rate": 0.01,
        }
    )

    def changed(self, *changes: Mapping[str, Any]) -> "Attempt":
        """Returns the attempt with things changed; `strategy` replaces the arguments that it names."""
        attempt = self
        for change in changes:
            strategy = {**attempt.strategy, **change.get("strategy", {})}
            attempt = replace(attempt, **{**change, "strategy": strategy})
        return attempt

    def problem(
        self,
        dataset: Any,
        hidden_sizes: tuple[int, ...] = (200, 50),
        *,
        train_size: int | None = None,
        data_root: str | os.PathLike[str] | None = None,
    ) -> ClassifierProblem:
        """Returns the problem.

        Args:
            dataset: Data, as for `ClassifierProblem`.
            hidden_sizes: Units of each hidden layer.
            train_size: Images of the train part; by default all that validation leaves.
            data_root: Folder of torchvision's data sets.
        """

        def of(classifier: str | Classifier, batch_size: int) -> ClassifierProblem:
            return ClassifierProblem(
                dataset,
                classifier,
                fitness=inverse_log_loss if self.inverse else "log_loss",
                batch_size=batch_size,
                train_size=train_size,
                data_root=data_root,
            )

        plain = of("linear", 1)
        batch_size = plain.train_size if self.batch_size is None else self.batch_size
        if not (self.rectified or self.raw_pixels):
            return of(MLP(hidden_sizes), batch_size)
        mean, std = (float(moment.mean()) for moment in (plain.split.mean, plain.split.std))
        rescaled = (255 * std, 255 * mean) if self.raw_pixels else None
        return of(AttemptedMLP(hidden_sizes, self.rectified, rescaled), batch_size)

    def parameters(self, problem: ClassifierProblem, seed: int = 0) -> dict[str, Tensor]:
        """Returns the parameters that the attempt begins with, by name."""
        if not self.zero_weights:
            return problem.initial_parameters(seed=seed)
        drawn = problem.initial_parameters(MODULE_DEFAULT, seed)
        return {name: torch.zeros_like(part) if part.ndim > 1 else part for name, part in drawn.items()}

    def run(self, problem: ClassifierProblem, generations: int, seed: int = 0, **more: Any) -> Trained:
        """Carry the attempt out.

        Args:
            problem: What `problem` returned.
            generations: Generations to make.
            seed: Seed of the first centre and the noise.
            **more: Further arguments of `train_classifier`.
        """
        strategy = EvolutionStrategy(**self.strategy)
        parameters = self.parameters(problem, seed)
        return train_classifier(problem, strategy, generations, seed, parameters=parameters, **more)


MENDS: dict[str, dict[str, Any]] = {
    "pixels normalised": {"raw_pixels": False},
    "weights drawn": {"zero_weights": False},
    "no rectifier on the outputs": {"rectified": False},
    "minus the loss": {"inverse": False},
    "mirrored pairs, ranks": {"strategy": {"mirrored": True, "shaping": "ranks", "learning_rate": 0.03}},
    "Adam, noise by fan-in": {
        "strategy": {"optimizer": "adam", "scaling": "fan_in", "learning_rate": 0.1},
    },
    "minibatches, more members": {"batch_size": 100, "strategy": {"population_size": 500}},
    "low-rank noise": {"strategy": {"rank": 1}},
}
"""What an attempt can do better, in an order that makes sense: changes for `Attempt.changed`.

Ranks are a third as wide as z-scores, and rates by fan-in are in units of a layer's own weights, so that
learning rates change, too. 500 members and minibatches of 100 take as many forward passes as 50 members
and 1,000 images.
"""


def inverse_log_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the inverse of the mean log loss of each member, shape (n,).

    Args:
        logits: Logits, shape (n, B, C).
        labels: Labels, int64, shape (B,).
    """
    return -1 / minus_log_loss(logits, labels)


@dataclass(frozen=True)
class AttemptedMLP(Classifier):
    """Multilayer perceptron as in the attempt.

    Args:
        hidden_sizes: Units of each hidden layer.
        rectified: Whether the outputs pass a ReLU, too.
        rescaled: What normalised pixels are multiplied by, and what is added then; `None`: nothing is done.
    """

    hidden_sizes: tuple[int, ...]
    rectified: bool
    rescaled: tuple[float, float] | None

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make the network."""
        layers = list(MLP(self.hidden_sizes).build(image_shape, num_classes).children())
        if self.rescaled is not None:
            layers.insert(1, _Rescale(*self.rescaled))
        return nn.Sequential(*layers, *([nn.ReLU()] if self.rectified else []))


class _Rescale(nn.Module):
    """Multiplies by one number and adds another."""

    def __init__(self, factor: float, offset: float) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, images: Tensor) -> Tensor:
        """Returns what became of images of any shape."""
        return images * self.factor + self.offset
