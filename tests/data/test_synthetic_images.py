"""Synthetic images: their form, their names, and what classifiers make of them."""

import gc
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.runs.plain import read_plain, write_plain
from autotrain_env import CNN, Cosine, evaluate_policy, load_dataset, synthetic_images
from autotrain_env.data.registry import is_built_in
from autotrain_env.data.synthetic_images import IMAGE_KINDS

KINDS = tuple(IMAGE_KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_have_the_form_asked_for_and_are_seeded(kind: str):
    arguments: dict[str, Any] = {"num_classes": 5, "channels": 3, "side": 9, "size": 500}
    handle = synthetic_images(kind, seed=3, **arguments)
    assert (handle.pool_size, handle.test_size) == (400, 100)
    assert (handle.image_shape, handle.num_classes) == ((3, 9, 9), 5)
    assert handle.built_in and handle.from_bytes
    counts = np.bincount(handle.labels, minlength=5)
    assert counts.min() >= 90 and counts.max() <= 110
    assert handle.images.min() >= 0 and handle.images.max() <= 1 and handle.images.std() > 0.05
    assert synthetic_images(kind, seed=3, **arguments) is handle
    images, labels = handle.images.clone(), handle.labels.copy()
    del handle
    gc.collect()
    again = synthetic_images(kind, seed=3, **arguments)
    assert torch.equal(again.images, images) and np.array_equal(again.labels, labels)
    assert not torch.equal(synthetic_images(kind, seed=4, **arguments).images, images)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_unequal_size(kind: str):
    handle = synthetic_images(kind, size=3000, num_classes=4, side=8, imbalance=8)
    counts = np.bincount(handle.labels, minlength=4)
    assert counts == pytest.approx(3000 * np.array([8, 4, 2, 1]) / 15, rel=0.1)


def test_a_hundred_classes_of_few_images():
    handle = synthetic_images("glyphs", size=400, num_classes=100, side=8, imbalance=10)
    assert handle.num_classes == 100 and len(handle.labels) == 400


def test_pixels_of_scenes_are_correlated_as_in_photographs():
    def alike(kind: str, apart: int) -> float:
        handle = synthetic_images(kind, size=2000, difficulty=1, channels=3, side=32)
        return float(np.corrcoef(handle.images[:, 0, 1, 4], handle.images[:, 0, 1, 4 + apart])[0, 1])

    falling = [alike("scenes", apart) for apart in (1, 4, 12, 24)]
    assert falling == sorted(falling, reverse=True) and falling[0] > 0.5
    assert falling[-1] > 0.15 > abs(alike("textures", 24))


def test_names_give_the_same_set(tmp_path: Any):
    name = "shapes-3-200-0.25-7-3x10-4.5"
    handle = load_dataset(name)
    arguments = {"seed": 3, "size": 200, "difficulty": 0.25, "num_classes": 7, "channels": 3, "side": 10}
    assert handle is synthetic_images("shapes", **arguments, imbalance=4.5)
    assert handle.name == name and is_built_in(name)
    assert pickle.loads(pickle.dumps(handle)) is handle and len(pickle.dumps(handle)) < 500
    write_plain(tmp_path, handle)
    assert read_plain(tmp_path) is handle
    assert load_dataset("textures-0-100-1").image_shape == (1, 28, 28)
    assert load_dataset("textures-0-100-1") is load_dataset("textures-0-100-1-10-1x28-1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "shape"}, "kind='shape'.*nearest.*'shapes'"),
        ({"seed": -1}, "seed=-1 is not allowed: .* at least 0"),
        ({"num_classes": 1}, "num_classes=1 is not allowed: .* at least 2"),
        ({"channels": 2}, "channels=2 is not allowed: it must be 1 or 3"),
        ({"side": 7}, "side=7 is not allowed: .* at least 8"),
        ({"side": 100}, "side=100 is not allowed"),
        ({"size": 3}, "size=3 is not allowed: .* at least 4"),
        ({"size": 10**8, "side": 64}, r"\(size, channels, side\)=.*at most 1,000,000,000 pixels"),
        ({"difficulty": 1.1}, r"difficulty=1.1 is not allowed: it must be in \[0, 1\]"),
        ({"imbalance": 0.5}, "imbalance=0.5 is not allowed: it must be from 1 to 1000"),
    ],
)
def test_wrong_arguments_are_reported(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        synthetic_images(**arguments)
    with pytest.raises(ValueError, match="dataset='shape-0-100-0.5'"):
        load_dataset("shape-0-100-0.5")


def accuracy_of(kind: str, difficulty: float, classifier: Any) -> float:
    """Accuracy of a network after a short training with Adam."""
    env = gymnasium.make_vec(
        "AutoTrain-v0",
        dataset=synthetic_images(kind, size=2500, difficulty=difficulty, num_classes=6, side=16),
        classifier=classifier,
        optimizer="adam",
        initial_learning_rate=3e-3,
        label_noise=0.0,
        split_seed=0,
        budget=400,
        inner_steps=100,
        train_size=1500,
        holdout_size=100,
        validation_size=100,
        autoreset_mode="Disabled",
    )
    return float(evaluate_policy(env, Cosine(), 1)["test_accuracy"][0])


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_neither_trivial_nor_hopeless_and_convolutions_help(kind: str):
    easy, hard = (accuracy_of(kind, difficulty, CNN((8, 16))) for difficulty in (0.1, 0.6))
    dense = accuracy_of(kind, 0.6, "mlp-64")
    assert 0.7 < easy <= 1 and easy - 0.05 > hard > 1.7 / 6 and dense > 1.3 / 6
    if kind != "patterns":  # smooth pictures are for either
        assert hard > dense
