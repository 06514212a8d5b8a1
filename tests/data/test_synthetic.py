"""Synthetic sets: their form, their seeds and their difficulty."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from autotrain_env import synthetic

KINDS = ("gaussian_mixture", "teacher")


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_sets_have_the_shape_asked_for_and_are_seeded(kind: str):
    arguments = {"num_classes": 5, "num_features": 12, "size": 500}
    handle = synthetic(kind, seed=3, **arguments)
    assert (handle.pool_size, handle.test_size) == (400, 100)
    assert (handle.image_shape, handle.num_classes) == ((12,), 5)
    assert np.bincount(handle.labels, minlength=5).min() > 50
    assert 0.5 < handle.images.std() < 2
    assert synthetic(kind, seed=3, **arguments) is handle
    images, labels = handle.images.clone(), handle.labels.copy()
    del handle
    gc.collect()
    again, other = synthetic(kind, seed=3, **arguments), synthetic(kind, seed=4, **arguments)
    assert torch.equal(again.images, images) and np.array_equal(again.labels, labels)
    assert not torch.equal(other.images, images)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_difficulty_lowers_the_accuracy_of_every_classifier(kind: str):
    accuracies = []
    for difficulty in (0.0, 0.5, 1.0):
        handle = synthetic(kind, difficulty=difficulty)
        images, labels, pool = handle.images.numpy(), handle.labels, handle.pool_size
        classifiers = (
            LogisticRegression(max_iter=200),
            MLPClassifier((32,), max_iter=10, learning_rate_init=5e-3, random_state=0),
        )
        accuracies.append(
            [
                classifier.fit(images[:pool], labels[:pool]).score(images[pool:], labels[pool:])
                for classifier in classifiers
            ]
        )
    assert (np.diff(accuracies, axis=0) < -0.08).all()
    assert (np.array(accuracies[0]) > 0.6).all() and (np.array(accuracies[-1]) < 0.35).all()


def test_difficulty_is_noise_added_to_the_same_problem():
    levels = np.linspace(0, 1, 9)
    teachers = [synthetic("teacher", difficulty=level) for level in levels]
    right = [(teacher.labels == teachers[0].labels).mean() for teacher in teachers]
    assert right[0] == 1 and (np.diff(right) < 0).all()
    mixtures = [synthetic(size=8000, difficulty=level) for level in levels]
    assert all(np.array_equal(mixture.labels, mixtures[0].labels) for mixture in mixtures)
    # The part of the variance that the classes explain.
    explained = []
    for mixture in mixtures:
        images = mixture.images.numpy()
        means = np.array([images[mixture.labels == label].mean(axis=0) for label in range(10)])
        explained.append(means[mixture.labels].var() / images.var())
    assert (np.diff(explained) < 0).all()


@pytest.mark.parametrize("kind", ["gaussian_mixture", "correlated_mixture"])
def test_the_more_gaussians_in_a_class_the_less_hyperplanes_tell(kind: str):
    accuracies = []
    for components in (1, 2, 8):
        handle = synthetic(kind, num_features=16, difficulty=0.2, components=components)
        images, labels, pool = handle.images.numpy(), handle.labels, handle.pool_size
        classifier = LogisticRegression(max_iter=1000).fit(images[:pool], labels[:pool])
        accuracies.append(classifier.score(images[pool:], labels[pool:]))
    assert accuracies[0] > 0.98 and (np.diff(accuracies) < -0.05).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gausian_mixture"}, "kind='gausian_mixture'.*nearest.*'gaussian_mixture'"),
        ({"seed": -1}, "seed=-1 is not allowed: .* at least 0"),
        ({"num_classes": 1}, "num_classes=1 is not allowed: .* at least 2"),
        ({"num_features": 0}, "num_features=0"),
        ({"size": 3}, "size=3 is not allowed: .* at least 4"),
        ({"size": 10.0}, "size=10.0 is not allowed: .* whole number"),
        ({"difficulty": 1.1}, r"difficulty=1.1 is not allowed: it must be in \[0, 1\]"),
        ({"difficulty": np.nan}, "difficulty=nan"),
        ({"components": 0}, "components=0 is not allowed: .* at least 1"),
    ],
)
def test_wrong_synthetic_arguments_are_reported(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        synthetic(**arguments)
