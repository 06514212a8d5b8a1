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
        train_size: int,
        data_root: str | os.PathLike[str] | None = None,
    ) -> ClassifierProblem:
        """Returns the problem.

        Args:
            dataset: Data, as for `ClassifierProblem`.
            hidden_sizes: Units of each hidden layer.
            train_size: Images of the train part.
            data_root: Folder of torchvision's data sets.
        """

        def of(classifier: Classifier) -> ClassifierProblem:
            return ClassifierProblem(
                dataset,
                classifier,
                fitness=inverse_log_loss if self.inverse else "log_loss",
                batch_size=self.batch_size or train_size,
                train_size=train_size,
                data_root=data_root,
            )

        problem = of(MLP(hidden_sizes))
        if not (self.rectified or self.raw_pixels):
            return problem
        mean, std = (float(moment.mean()) for moment in (problem.split.mean, problem.split.std))
        raw = (255 * std, 255 * mean) if self.raw_pixels else None
        return of(AttemptedMLP(hidden_sizes, self.rectified, raw))

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
    "no rectifier on the outputs": {"rectified": False},
    "pixels normalised": {"raw_pixels": False},
    "weights drawn, not zero": {"zero_weights": False},
    "minus the loss, not its inverse": {"inverse": False},
    "mirrored pairs, ranks": {"strategy": {"mirrored": True, "shaping": "ranks"}},
    "Adam": {"strategy": {"optimizer": "adam"}},
}
"""What an attempt can do better: changes for `Attempt.changed`."""


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
