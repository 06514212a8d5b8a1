"""Synthetic sets: classification problems of given difficulty, made of random numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from autotrain_env.data.arrays import MOST_CLASSES
from autotrain_env.data.dataset import TEST_FRACTION, Dataset, from_recipe
from autotrain_env.errors import check, check_name, check_number, check_whole

_TEACHER_WIDTH = 32
_MOST_NUMBERS = 10**9


def synthetic(
    kind: str = "gaussian_mixture",
    *,
    seed: int = 0,
    num_classes: int = 10,
    num_features: int = 64,
    size: int = 4000,
    difficulty: float = 0.5,
    components: int = 2,
) -> Dataset:
    """Make a classification problem of given difficulty out of random numbers.

    `"gaussian_mixture"`: every class is a mixture of Gaussians in equal shares, two unless told
    otherwise, so that one hyperplane is not enough. Their standard deviation grows with the difficulty,
    from 0.07 to 0.7 of the typical distance between centres. The more Gaussians, the longer it takes a
    network to learn them.

    `"correlated_mixture"`: the same problem, seen through a linear map with singular values 1, 1/2, 1/3, …
    (up to a factor), so that features are correlated, as pixels are. What can be attained is the same, but
    training is ill-conditioned, and the best learning rate is lower by an order of magnitude.

    `"teacher"`: normally distributed features, labelled by a random network with one hidden layer
    of 32 tanh units whose logits, standardised over the images, receive Gumbel noise of scale
    difficulty²: at 0 the labels are exact, at 1 they are drawn from the softmax.

    With the other arguments equal, sets of different difficulty rest on the same random numbers; a
    greater difficulty only adds noise. The same arguments give the same handle while it is in use,
    and pickling sends nothing but them.

    Args:
        kind: Kind of problem: `"gaussian_mixture"`, `"correlated_mixture"` or `"teacher"`.
        seed: Seed of everything.
        num_classes: Number of classes, at least 2.
        num_features: Length of a feature vector; `image_shape` is (num_features,).
        size: Number of vectors: 80% of them form the pool, 20% the test part. At least 4.
        difficulty: Difficulty, from 0 (perfect accuracy is attainable) to 1 (far from it).
        components: Number of Gaussians in each class; of no meaning to `"teacher"`.

    Returns:
        The handle.

    Raises:
        InvalidValueError: If an argument is out of its range or `kind` is unknown.
    """
    check_name("kind", kind, SYNTHETIC_KINDS)
    check_whole("seed", seed, 0, 2**64 - 1)
    check_whole("num_classes", num_classes, 2, MOST_CLASSES)
    check_whole("num_features", num_features, 1, _MOST_NUMBERS)
    check_whole("size", size, 4, _MOST_NUMBERS)
    check_number("difficulty", difficulty, lambda number: 0 <= number <= 1, "in [0, 1]")
    check_whole("components", components, 1, _MOST_NUMBERS)
    few = max(size, num_classes * components) * num_features <= _MOST_NUMBERS
    allowed = f"so that vectors and centres are at most {_MOST_NUMBERS:,} numbers"
    check(few, "(size, num_features)", (size, num_features), allowed)
    return from_recipe(_make, kind, seed, num_classes, num_features, size, float(difficulty), components)


class _Problem(NamedTuple):
    """The arguments of `synthetic` that its kinds differ by."""

    num_classes: int
    num_features: int
    size: int
    difficulty: float
    components: int


_Sample: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
"""Features, shape (size, num_features), and labels, shape (size,)."""


def _make(kind: str, seed: int, *arguments: Any) -> Dataset:
    problem = _Problem(*arguments)
    features, labels = SYNTHETIC_KINDS[kind](np.random.default_rng(seed), problem)
    pool_size = problem.size - max(1, round(TEST_FRACTION * problem.size))
    dataset = Dataset.from_arrays(
        features[:pool_size],
        labels[:pool_size],
        name="synthetic",
        num_classes=problem.num_classes,
        test_images=features[pool_size:],
        test_labels=labels[pool_size:],
    )
    return replace(dataset, built_in=True)


def _gaussian_mixture(generator: np.random.Generator, problem: _Problem) -> _Sample:
    num_classes, num_features, size, difficulty, components = problem
    labels = generator.permutation(np.arange(size, dtype=np.int64) % num_classes)
    centres = generator.standard_normal((num_classes, components, num_features))
    component = generator.integers(components, size=size)
    noise = generator.standard_normal((size, num_features))
    # Centres lie about √(2 · features) apart.
    noise_std = math.sqrt(num_features) * 0.1 * 10**difficulty
    features = centres[labels, component] + noise_std * noise
    return features / math.sqrt(1 + noise_std**2), labels


def _correlated_mixture(generator: np.random.Generator, problem: _Problem) -> _Sample:
    features, labels = _gaussian_mixture(generator, problem)
    num_features = problem.num_features
    shape = (num_features, num_features)
    left, right = (np.linalg.qr(generator.standard_normal(shape)).Q for _ in range(2))
    singular_values = 1 / np.arange(1, num_features + 1)
    singular_values *= math.sqrt(num_features / np.square(singular_values).sum())
    return features @ (left * singular_values @ right.T), labels


def _teacher_network(generator: np.random.Generator, problem: _Problem) -> _Sample:
    num_classes, num_features, size, difficulty, _ = problem
    features = generator.standard_normal((size, num_features))
    hidden_weights = generator.standard_normal((num_features, _TEACHER_WIDTH))
    output_weights = generator.standard_normal((_TEACHER_WIDTH, num_classes))
    logits = np.tanh(features @ hidden_weights / math.sqrt(num_features)) @ output_weights
    logits = (logits - logits.mean(axis=0)) / logits.std(axis=0)
    noise = generator.gumbel(size=logits.shape)
    return features, np.argmax(logits + difficulty**2 * noise, axis=1).astype(np.int64)


SYNTHETIC_KINDS = {
    "gaussian_mixture": _gaussian_mixture,
    "correlated_mixture": _correlated_mixture,
    "teacher": _teacher_network,
}
