"""Data handles, their splits, the order of minibatches, and how handles travel."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import pickle
import shutil
import struct
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from autotrain_env import data
from autotrain_env.data import (
    Dataset,
    EpochSampler,
    SplitSizes,
    image_pool,
    load_dataset,
    register_dataset,
    split_dataset,
    synthetic,
)
from autotrain_env.errors import unknown_name

REPOSITORY = Path(data.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep names and files of one test from the next."""
    monkeypatch.setattr(data, "_REGISTRY", {})
    monkeypatch.setattr(data, "_NAMED_HANDLES", {})


def user_arrays(
    size: int = 60, shape: tuple[int, ...] = (3,), num_classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((size, *shape)).astype(np.float32)
    return images, generator.permutation(np.arange(size) % num_classes)


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# Names --------------------------------------------------------------------------------------------


def test_unknown_name_gives_argument_value_nearest_and_all_known():
    error = unknown_name("dataset", "FashionMNIST", ["mnist", "fashion_mnist", "digits"])
    assert isinstance(error, ValueError)
    assert "dataset='FashionMNIST'" in str(error)
    assert "nearest known one is 'fashion_mnist'" in str(error)
    assert str(error).endswith("Allowed: 'digits', 'fashion_mnist', 'mnist'.")


def test_unknown_name_always_names_a_nearest_one_unless_none_is_known():
    assert "nearest known one is 'a'" in str(unknown_name("kind", "zzz", ["a"]))
    assert str(unknown_name("kind", 3, [])) == "kind=3 is not a known name. Allowed: none."


def test_an_unknown_data_set_is_reported_with_registered_names_too():
    register_dataset("my_letters", user_arrays())
    with pytest.raises(ValueError, match=r"dataset='my_leters'.*nearest.*'my_letters'") as caught:
        load_dataset("my_leters")
    for name in ("digits", "mnist", "fashion_mnist", "kmnist", "cifar10", "synthetic"):
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize("spec", [None, 3, (1, 2, 3), ["digits"]])
def test_a_spec_of_another_type_is_a_type_error(spec: Any):
    with pytest.raises(TypeError, match="dataset=.*must be a name, a Dataset, a tuple"):
        load_dataset(spec)


# Digits -------------------------------------------------------------------------------------------


# Golden values: results on another test part could not be compared with earlier ones.
DIGITS_TEST_LABELS_MD5 = "eba17110d0bcb1b1ddffafa0faf5347d"
DIGITS_TEST_PIXELS_MD5 = "430fa4cd96f1a0619510b21df8b7ca57"


def test_digits_have_a_pool_of_1100_and_a_test_part_of_697():
    digits = load_dataset("digits")
    assert (digits.name, digits.num_classes, digits.image_shape) == ("digits", 10, (1, 8, 8))
    assert (digits.pool_size, digits.test_size) == (1100, 697)
    assert digits.default_sizes == SplitSizes(train=400, holdout=300, validation=400)
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.float32 and digits.images.is_contiguous()
    assert digits.images.device.type == "cpu"
    assert digits.labels.shape == (1797,) and digits.labels.dtype == np.int64
    assert (digits.images.min(), digits.images.max()) == (0, 1)


def test_digits_are_scikit_learns_images_each_once_with_its_label():
    digits, original = load_dataset("digits"), load_digits()
    expected = {
        (image.astype(np.float32) / 16).tobytes(): label
        for image, label in zip(original.images, original.target, strict=True)
    }
    found = {
        image.numpy().tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)
    }
    assert found == expected and len(found) == 1797


def test_the_test_part_of_digits_is_stratified_and_fixed():
    digits = load_dataset("digits")
    counts = np.bincount(digits.labels)
    test_counts = np.bincount(digits.labels[1100:])
    assert np.abs(test_counts - counts * 697 / 1797).max() < 2
    assert hashlib.md5(digits.labels[1100:].tobytes()).hexdigest() == DIGITS_TEST_LABELS_MD5
    pixels = (digits.images[1100:] * 16).to(torch.uint8).numpy()
    assert hashlib.md5(pixels.tobytes()).hexdigest() == DIGITS_TEST_PIXELS_MD5


# One handle per process ---------------------------------------------------------------------------


def test_the_same_name_gives_the_same_handle():
    assert load_dataset("digits") is load_dataset("digits")
    assert load_dataset("digits") is load_dataset("digits", data_root="/does/not/matter")
    assert load_dataset("synthetic") is synthetic()


def test_a_handle_is_its_own_copy_and_compares_by_identity():
    handle = Dataset.from_arrays(*user_arrays())
    assert copy.copy(handle) is handle
    assert copy.deepcopy({"dataset": [handle]})["dataset"][0] is handle
    assert load_dataset(handle) is handle
    assert handle != Dataset.from_arrays(*user_arrays())


def test_labels_of_a_handle_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        load_dataset("digits").labels[0] = 1


def test_repr_says_what_it_is():
    assert repr(load_dataset("digits")) == (
        "Dataset('digits': 1,100 + 697 test images of shape (1, 8, 8), 10 classes)"
    )


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_the_same_arrays_give_the_same_handle_but_are_not_kept_alive(convert: Callable[..., Any]):
    images, labels = map(convert, user_arrays())
    handle = load_dataset((images, labels))
    assert load_dataset((images, labels)) is handle
    assert load_dataset((images, convert(user_arrays()[1]))) is not handle
    dead = weakref.ref(images), weakref.ref(handle)
    del images, handle
    gc.collect()
    assert [reference() for reference in dead] == [None, None]


def test_a_handle_is_not_found_again_under_the_identity_of_a_dead_array():
    images, labels = user_arrays()
    handle = load_dataset((images, labels))
    assert (id(images), id(labels)) in data._USER_HANDLES
    key = id(images), id(labels)
    del images
    gc.collect()
    assert key not in data._USER_HANDLES
    assert handle.pool_size == 48


def test_the_same_torch_data_set_gives_the_same_handle():
    images, labels = map(torch.as_tensor, user_arrays())
    items = torch.utils.data.TensorDataset(images, labels)
    handle = load_dataset(items)
    assert load_dataset(items) is handle
    assert load_dataset(torch.utils.data.TensorDataset(images, labels)) is not handle


def test_lists_are_read_but_not_remembered():
    images, labels = [[0.0, 1.0]] * 5, [0, 1, 0, 1, 0]
    handle = load_dataset((images, labels))
    assert handle.image_shape == (2,) and handle.num_classes == 2
    assert load_dataset((images, labels)) is not handle


# Users' data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "raw", "expected"),
    [
        (np.uint8, [0, 51, 255], [0, 0.2, 1]),
        (np.int16, [-3, 51, 255], [-3, 51, 255]),
        (np.uint16, [3, 51, 65535], [3, 51, 65535]),
        (np.bool_, [False, True, True], [0, 1, 1]),
        (np.float16, [-0.5, 2, 300], [-0.5, 2, 300]),
        (np.float64, [-0.5, 2, 300], [-0.5, 2, 300]),
        (">f4", [-0.5, 2, 300], [-0.5, 2, 300]),
        (torch.uint8, [0, 51, 255], [0, 0.2, 1]),
        (torch.int64, [-3, 51, 255], [-3, 51, 255]),
        (torch.bfloat16, [-0.5, 2, 300], [-0.5, 2, 300]),
    ],
)
def test_every_numeric_dtype_becomes_float32(dtype: Any, raw: list, expected: list):
    is_torch = isinstance(dtype, torch.dtype)
    row = torch.tensor([raw], dtype=dtype) if is_torch else np.array([raw], dtype=dtype)
    images = row.repeat(5, 1) if is_torch else row.repeat(5, axis=0)
    handle = Dataset.from_arrays(images, [0, 1, 0, 1, 0])
    assert handle.images.dtype == torch.float32
    torch.testing.assert_close(
        handle.images[0], torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((7,), (7,)), ((5, 6), (1, 5, 6)), ((3, 5, 6), (3, 5, 6)), ((1, 1, 1), (1, 1, 1))],
)
def test_images_are_vectors_or_have_a_channel_axis(shape: tuple, image_shape: tuple):
    images, labels = user_arrays(shape=shape)
    handle = Dataset.from_arrays(images, labels)
    assert handle.image_shape == image_shape
    assert handle.images.shape == (60, *image_shape) and handle.images.is_contiguous()


def test_arrays_are_copied_whatever_their_layout():
    images, labels = user_arrays(shape=(4, 5, 6))
    reversed_view = np.flip(images.transpose(0, 3, 1, 2), axis=2)
    reversed_view.flags.writeable = False
    handle = Dataset.from_arrays(reversed_view, labels)
    before = handle.images.clone()
    assert rows(before) == rows(torch.tensor(reversed_view.copy()))
    images[:] = 0
    labels[:] = 0
    assert torch.equal(handle.images, before) and handle.labels.max() == 3


def test_a_tensor_with_gradient_is_taken_for_its_values():
    images, labels = map(torch.as_tensor, user_arrays())
    handle = Dataset.from_arrays(images.requires_grad_(), labels)
    assert not handle.images.requires_grad


def test_a_fixed_stratified_fifth_becomes_the_test_part():
    images, labels = user_arrays(size=200)
    first, second = Dataset.from_arrays(images, labels), Dataset.from_arrays(images, labels)
    assert (first.pool_size, first.test_size) == (160, 40)
    assert np.bincount(first.labels[160:]).tolist() == [10, 10, 10, 10]
    assert torch.equal(first.images, second.images)
    assert not rows(first.images[:160]) & rows(first.images[160:])
    assert rows(first.images) == rows(torch.from_numpy(images))
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [label_of[image.numpy().tobytes()] for image in first.images] == first.labels.tolist()


def test_a_given_test_part_follows_the_pool_unchanged():
    images, labels = user_arrays(size=20)
    test_images, test_labels = user_arrays(size=8, num_classes=5, seed=1)
    handle = Dataset.from_arrays(
        images, labels, test_images=test_images, test_labels=test_labels, name="mine"
    )
    assert (handle.name, handle.pool_size, handle.test_size) == ("mine", 20, 8)
    assert handle.num_classes == 5  # one of them occurs in the test part alone
    np.testing.assert_array_equal(handle.images.numpy(), np.concatenate([images, test_images]))
    np.testing.assert_array_equal(handle.labels, np.concatenate([labels, test_labels]))


@pytest.mark.parametrize(
    ("size", "expected"),
    [(4, (1, 1, 1)), (125, (40, 27, 33)), (10_000, (6000, 1000, 1000))],
)
def test_default_sizes_are_shares_of_the_pool_with_a_bound(size: int, expected: tuple):
    handle = Dataset.from_arrays(*user_arrays(size=size))
    assert handle.default_sizes == SplitSizes(*expected)
    assert handle.default_sizes.total == handle.pool_size == size - handle.test_size


def test_default_sizes_can_be_given():
    sizes = SplitSizes(10, 5, 6)
    assert Dataset.from_arrays(*user_arrays(), default_sizes=sizes).default_sizes == sizes


def test_classes_can_be_more_than_those_that_occur():
    assert Dataset.from_arrays(*user_arrays(), num_classes=7).num_classes == 7
    assert Dataset.from_arrays(np.ones((5, 2)), np.zeros(5, dtype=int)).num_classes == 2


def with_value(value: float, position: tuple[int, ...] = (7, 1)) -> np.ndarray:
    images = user_arrays()[0].astype(np.float64)
    images[position] = value
    return images


IMAGES, LABELS = user_arrays()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": with_value(np.nan)}, ValueError, r"images: 1 of 60 .*NaN.* at position 7"),
        ({"images": with_value(-np.inf)}, ValueError, r"images: 1 of 60 .*infinite.*position 7"),
        ({"images": with_value(1e300)}, ValueError, r"images: 1 of 60 .*infinite.*position 7"),
        ({"images": torch.full((60, 3), torch.nan)}, ValueError, "images: 60 of 60 .*position 0"),
        ({"images": IMAGES.astype(complex)}, TypeError, "images: dtype complex128"),
        ({"images": torch.zeros(60, 3, dtype=torch.cfloat)}, TypeError, "images: dtype torch.comp"),
        ({"images": IMAGES.astype(str)}, TypeError, "images: dtype <U"),
        ({"images": IMAGES[:, 0]}, ValueError, r"images: shape \(60,\); must be \(n, features\)"),
        ({"images": np.zeros((60, 1, 1, 1, 1))}, ValueError, r"images: shape \(60, 1, 1, 1, 1\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, ValueError, r"images: .*\(0, 3\) is empty"),
        ({"images": IMAGES[:, :0]}, ValueError, r"images: shape \(60, 0\) is empty"),
        ({"labels": LABELS[:-1]}, ValueError, r"labels: shape \(59,\); must be \(60,\)"),
        ({"labels": np.eye(4)[LABELS].astype(int)}, ValueError, r"labels: shape \(60, 4\)"),
        ({"labels": LABELS.astype(float)}, TypeError, "labels: dtype float64; must be an integer"),
        ({"labels": torch.as_tensor(LABELS) * 1.0}, TypeError, "labels: dtype float32"),
        ({"labels": LABELS - 1}, ValueError, r"labels: 15 of 60 lie outside .* 0 … 2, .*: -1"),
        ({"num_classes": 3}, ValueError, r"labels: 15 of 60 lie outside the classes 0 … 2, .*: 3"),
        ({"num_classes": 1}, ValueError, "num_classes=1: must be an integer, at least 2"),
        ({"num_classes": 4.0}, ValueError, "num_classes=4.0: must be an integer"),
        ({"test_images": IMAGES}, ValueError, "test_images and test_labels must be given together"),
        ({"test_labels": LABELS}, ValueError, "test_images and test_labels must be given together"),
        (
            {"test_images": IMAGES[:, :2], "test_labels": LABELS},
            ValueError,
            r"test_images: image shape \(2,\); must be \(3,\)",
        ),
        (
            {"test_images": with_value(np.nan), "test_labels": LABELS},
            ValueError,
            "test_images: 1 of 60 .*NaN",
        ),
        (
            {"test_images": IMAGES, "test_labels": LABELS + 1, "num_classes": 4},
            ValueError,
            "test_labels: 15 of 60 lie outside",
        ),
        ({"images": IMAGES[:3], "labels": LABELS[:3]}, ValueError, "images: 2 besides the 1 of"),
        (
            {"default_sizes": SplitSizes(40, 5, 5)},
            ValueError,
            "default_sizes: train=40, holdout=5 and validation=5 are 50 images, .* has 48",
        ),
    ],
)
def test_wrong_user_data_are_reported_by_argument_and_value(
    arguments: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        Dataset.from_arrays(**{"images": IMAGES, "labels": LABELS, **arguments})


class Items(torch.utils.data.Dataset):
    """A map-style data set of the given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        return self.items[position]


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(3), 0


def test_torch_data_sets_are_read_item_by_item():
    images, labels = user_arrays(shape=(1, 2, 2))
    tensors = Items([(torch.tensor(i), torch.tensor(y)) for i, y in zip(images, labels, strict=True)])
    arrays = Items([(i, int(y)) for i, y in zip(images, labels, strict=True)])
    expected = Dataset.from_arrays(images, labels)
    for items in (tensors, arrays):
        handle = load_dataset(items)
        assert torch.equal(handle.images, expected.images)
        np.testing.assert_array_equal(handle.labels, expected.labels)
    assert handle.pool_size == 48


def test_pictures_in_a_torch_data_set_get_their_channels_first():
    pixels = np.random.default_rng(0).integers(256, size=(5, 4, 6, 3), dtype=np.uint8)
    handle = load_dataset(Items([(Image.fromarray(p), i % 2) for i, p in enumerate(pixels)]))
    assert handle.image_shape == (3, 4, 6)
    expected = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous() / 255
    assert rows(handle.images) == rows(expected)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (Items([]), ValueError, "dataset=Items .* is empty"),
        (
            Items([(np.zeros(2), 0), (np.zeros(2), 0.5)]),
            TypeError,
            "item 1 is tuple .*integer label",
        ),
        (Items([np.zeros(3)]), TypeError, "item 0 is ndarray .*must be a pair"),
        (
            Items([(np.zeros(2), 0), (np.zeros(3), 0)]),
            ValueError,
            r"item 1 has an image of shape \(3,\) .* item 0 one of shape \(2,\)",
        ),
        (Stream(), TypeError, "must be map-style"),
    ],
)
def test_wrong_torch_data_sets_are_reported_by_item(
    items: torch.utils.data.Dataset, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        load_dataset(items)


# Registered names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["arrays", "handle", "torch", "name"])
def test_everything_that_loads_can_be_registered(form: str):
    arrays = user_arrays()
    torch_items = torch.utils.data.TensorDataset(*map(torch.as_tensor, arrays))
    handle = Dataset.from_arrays(*arrays)
    register_dataset(
        "mine", {"arrays": arrays, "handle": handle, "torch": torch_items, "name": "digits"}[form]
    )
    found = load_dataset("mine")
    assert found.name == "mine" and load_dataset("mine") is found
    expected = load_dataset("digits") if form == "name" else handle
    assert torch.equal(found.images, expected.images)
    assert found.default_sizes == expected.default_sizes
    if form == "handle":
        assert found.images is handle.images and handle.name == "custom"


def test_a_registered_loader_is_called_once_and_not_before_it_is_needed():
    calls = []

    def load() -> tuple[np.ndarray, np.ndarray]:
        calls.append(1)
        return user_arrays()

    register_dataset("lazy", load)
    assert calls == []
    assert load_dataset("lazy") is load_dataset("lazy")
    assert calls == [1] and load_dataset("lazy").name == "lazy"


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10", "synthetic", ""])
def test_a_built_in_name_cannot_be_registered(name: str):
    with pytest.raises(ValueError, match=f"name={name!r}: must not be empty or one of the built-in"):
        register_dataset(name, user_arrays(), overwrite=True)


def test_a_name_is_replaced_only_on_demand():
    register_dataset("mine", user_arrays())
    first = load_dataset("mine")
    with pytest.raises(ValueError, match="name='mine': registered already; pass overwrite=True"):
        register_dataset("mine", user_arrays(size=20))
    assert load_dataset("mine") is first
    register_dataset("mine", user_arrays(size=20), overwrite=True)
    assert load_dataset("mine").pool_size == 16


def test_wrong_registrations_are_reported_at_once():
    with pytest.raises(TypeError, match="name=3: must be a string"):
        register_dataset(3, user_arrays())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dataset="):
        register_dataset("mine", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="labels"):
        register_dataset("mine", (IMAGES, LABELS[1:]))
    assert data._REGISTRY == {}


# Synthetic sets -----------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gausian_mixture"}, "kind='gausian_mixture'.*nearest.*'gaussian_mixture'"),
        ({"seed": -1}, "seed=-1: must be an integer, at least 0"),
        ({"num_classes": 1}, "num_classes=1: must be an integer, at least 2"),
        ({"num_features": 0}, "num_features=0"),
        ({"size": 3}, "size=3: must be an integer, at least 4"),
        ({"size": 10.0}, "size=10.0: must be an integer"),
        ({"difficulty": 1.1}, r"difficulty=1.1: must lie in \[0, 1\]"),
        ({"difficulty": np.nan}, "difficulty=nan"),
    ],
)
def test_wrong_synthetic_arguments_are_reported(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        synthetic(**arguments)


# Torchvision's files ------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    magic = 0x0800 + array.ndim if magic is None else magic
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx_set(folder: Path, train: int = 30, test: int = 10) -> dict[str, np.ndarray]:
    """Write a small set in MNIST's format and return its arrays by file name."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = generator.integers(256, size=(size, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(size) % 10
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return arrays


IDX_SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.mark.parametrize(("name", "folder"), IDX_SETS.items())
def test_idx_files_are_read_with_the_official_test_part(name: str, folder: str, tmp_path: Path):
    arrays = write_idx_set(tmp_path / folder / "raw")
    handle = load_dataset(name, tmp_path)
    assert (handle.name, handle.pool_size, handle.test_size) == (name, 30, 10)
    assert (handle.image_shape, handle.num_classes) == ((1, 28, 28), 10)
    images, labels = (
        np.concatenate([arrays[f"{part}-{kind}"] for part in ("train", "t10k")])
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    np.testing.assert_array_equal(handle.images[:, 0].numpy(), images.astype(np.float32) / 255)
    np.testing.assert_array_equal(handle.labels, labels)
    assert load_dataset(name, str(tmp_path)) is handle
    assert load_dataset(name, tmp_path / "." / folder / "..") is handle


def test_the_same_name_in_another_folder_is_another_handle(tmp_path: Path):
    for folder in ("a", "b"):
        write_idx_set(tmp_path / folder / "MNIST" / "raw")
    assert load_dataset("mnist", tmp_path / "a") is not load_dataset("mnist", tmp_path / "b")


def test_the_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_idx_set(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("AUTOTRAIN_DATA", str(tmp_path))
    assert load_dataset("mnist") is load_dataset("mnist", tmp_path)


def test_without_a_folder_the_cache_in_the_home_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AUTOTRAIN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="looked in .*/.cache/autotrain") as caught:
        load_dataset("mnist")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", [*IDX_SETS, "cifar10"])
def test_missing_files_are_reported_with_where_and_how(name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(name, tmp_path / "nowhere")
    for part in (name, str(tmp_path / "nowhere"), "download=True", "data_root=", "AUTOTRAIN_DATA"):
        assert part in str(caught.value)


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "image file cut": (
        "train-images-idx3-ubyte",
        lambda path: cut(path, 5000),
        "5,000 bytes long, 23,536 expected",
    ),
    "label file cut": (
        "t10k-labels-idx1-ubyte",
        lambda path: cut(path, 12),
        "12 bytes long, 18 exp",
    ),
    "header cut": (
        "t10k-images-idx3-ubyte",
        lambda path: cut(path, 7),
        "7 bytes are less than a h",
    ),
    "empty file": ("train-labels-idx1-ubyte", lambda path: cut(path, 0), "0 bytes are less than a"),
    "bytes too many": (
        "train-labels-idx1-ubyte",
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        "39 bytes long, 38 expected",
    ),
    "wrong magic number": (
        "train-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((30, 28, 28)), magic=0x0D03),
        "starts with 0x00000d03, 0x00000803 expected",
    ),
    "still compressed": (
        "train-labels-idx1-ubyte",
        lambda path: path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(40)),
        "starts with 0x1f8b0808, 0x00000801 expected",
    ),
    "images of another size": (
        "t10k-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((10, 32, 32))),
        r"10 entries of shape \(32, 32\), expected are some of shape \(28, 28\)",
    ),
    "no images": (
        "t10k-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((0, 28, 28))),
        "0 entries of shape",
    ),
    "a label too few": (
        "train-labels-idx1-ubyte",
        lambda path: write_idx(path, np.arange(29) % 10),
        "holds 29 labels for the 30 images of train-images-idx3-ubyte",
    ),
    "labels of another set": (
        "t10k-labels-idx1-ubyte",
        lambda path: write_idx(path, np.arange(10) + 3),
        "holds labels above 9",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_idx_files_are_named(damage: str, tmp_path: Path):
    file, do_damage, message = DAMAGES[damage]
    write_idx_set(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / file
    do_damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("mnist", tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "delete it and get it again" in str(caught.value)
    shutil.rmtree(tmp_path / "MNIST")  # what failed once must not be remembered
    write_idx_set(tmp_path / "MNIST" / "raw")
    assert load_dataset("mnist", tmp_path).pool_size == 30


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Write six small batches in CIFAR-10's format, with checksums that torchvision accepts."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    batches, checksums = {}, {}
    for file, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        pixels = generator.integers(256, size=(4, 3 * 32 * 32), dtype=np.uint8)
        batches[file] = {"data": pixels, "labels": generator.integers(10, size=4).tolist()}
    contents = {**batches, "batches.meta": {"label_names": list("abcdefghij")}}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content))
        checksums[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        files = [[file, checksums[file]] for file, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, files)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": checksums["batches.meta"]})
    return batches


def test_cifar_batches_are_read_with_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    handle = load_dataset("cifar10", tmp_path)
    assert (handle.pool_size, handle.test_size, handle.image_shape) == (20, 4, (3, 32, 32))
    pixels = np.concatenate([batch["data"] for batch in batches.values()])
    expected = pixels.reshape(24, 3, 32, 32).astype(np.float32) / 255
    np.testing.assert_array_equal(handle.images.numpy(), expected)
    assert handle.images.is_contiguous()
    assert handle.labels.tolist() == sum((batch["labels"] for batch in batches.values()), [])


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_4", "test_batch", "batches.meta"])
def test_damaged_and_missing_cifar_files_are_named(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / file
    cut(path, 40)
    with pytest.raises(ValueError, match="wrong checksum") as caught:
        load_dataset("cifar10", tmp_path)
    assert str(caught.value).startswith(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=file):
        load_dataset("cifar10", tmp_path)


def test_a_download_is_left_to_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import KMNIST

    def download(self: KMNIST) -> None:
        write_idx_set(Path(self.raw_folder))

    monkeypatch.setattr(KMNIST, "download", download)
    with pytest.raises(FileNotFoundError):
        load_dataset("kmnist", tmp_path)
    assert load_dataset("kmnist", tmp_path, download=True).pool_size == 30


def test_a_failed_download_says_what_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import KMNIST

    def fail(self: KMNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(KMNIST, "download", fail)
    with pytest.raises(ConnectionError, match="dataset='kmnist'.*Error downloading train-images"):
        load_dataset("kmnist", tmp_path, download=True)


# Real files ---------------------------------------------------------------------------------------

needs_real_data = pytest.mark.skipif(
    not os.environ.get("AUTOTRAIN_DATA"), reason="AUTOTRAIN_DATA names no folder with image sets"
)
MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.realdata
@needs_real_data
@pytest.mark.parametrize(
    ("name", "shape", "pool_counts", "test_counts", "first_labels", "first_test_labels"),
    [
        ("mnist", (1, 28, 28), MNIST_COUNTS, MNIST_TEST_COUNTS, [5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
        ("fashion_mnist", (1, 28, 28), [6000] * 10, [1000] * 10, [9, 0, 0, 3, 0], [9, 2, 1, 1, 6]),
        ("cifar10", (3, 32, 32), [5000] * 10, [1000] * 10, [6, 9, 9, 4, 1], [3, 8, 8, 0, 6]),
    ],
)
def test_real_image_sets(
    name: str,
    shape: tuple[int, ...],
    pool_counts: list[int],
    test_counts: list[int],
    first_labels: list[int],
    first_test_labels: list[int],
):
    handle = load_dataset(name)
    pool = sum(pool_counts)
    assert (handle.pool_size, handle.test_size) == (pool, 10_000)
    assert handle.images.shape == (pool + 10_000, *shape)
    assert np.bincount(handle.labels[:pool]).tolist() == pool_counts
    assert np.bincount(handle.labels[pool:]).tolist() == test_counts
    assert handle.labels[:5].tolist() == first_labels
    assert handle.labels[pool : pool + 5].tolist() == first_test_labels
    assert (handle.images.min(), handle.images.max()) == (0, 1)
    assert handle.default_sizes == SplitSizes(4000, 500, 500)

    split = split_dataset(handle, handle.default_sizes, seed=1, label_noise=0.2)
    assert len(split.train_index) == 4000 and split.test_index.tolist() == [*range(pool, pool + 10_000)]
    drawn = np.concatenate([split.train_index, split.holdout_index, split.validation_index])
    assert len(np.unique(drawn)) == 5000 and drawn.max() < pool
    shares = np.bincount(handle.labels[split.train_index]) / 4000
    assert np.abs(shares - np.array(pool_counts) / pool).max() < 2 / 4000
    std, mean = torch.std_mean(
        handle.images[split.train_index].double(), dim=(0, 2, 3), correction=0, keepdim=True
    )
    torch.testing.assert_close(split.mean, mean[0].float())
    torch.testing.assert_close(split.std, std[0].float())
    assert len(pickle.dumps(handle)) < 500 and pickle.loads(pickle.dumps(handle)) is handle


@pytest.mark.realdata
@needs_real_data
def test_a_real_file_that_was_cut_is_named(tmp_path: Path):
    source = Path(os.environ["AUTOTRAIN_DATA"]) / "MNIST" / "raw"
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    cut_file = folder / "t10k-images-idx3-ubyte"
    content = cut_file.read_bytes()
    cut_file.unlink()
    cut_file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="7,840,015 bytes long, 7,840,016 expected") as caught:
        load_dataset("mnist", tmp_path)
    assert str(caught.value).startswith(str(cut_file))


# Pickles ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_built_in_sets_pickle_by_name_or_arguments(dumps: Callable[..., bytes], tmp_path: Path):
    write_idx_set(tmp_path / "MNIST" / "raw")
    register_dataset("my_digits", "digits")
    for handle in (
        load_dataset("digits"),
        load_dataset("mnist", tmp_path),
        load_dataset("my_digits"),
        synthetic("teacher", seed=5, size=100, difficulty=0.2),
    ):
        pickled = dumps(handle)
        assert len(pickled) < 500
        assert pickle.loads(pickled) is handle


def test_user_data_pickle_to_a_ticket_and_come_back_as_the_very_same_handle():
    handle = Dataset.from_arrays(*user_arrays(shape=(1, 28, 28)))
    register_dataset("mine", handle)
    first, second = pickle.dumps(handle), pickle.dumps([handle, load_dataset("mine")])
    assert len(first) < 500 and len(second) < 1000
    assert pickle.loads(first) is handle
    assert pickle.loads(second)[0] is handle
    assert pickle.loads(second)[1] is load_dataset("mine")


def test_too_little_shared_memory_is_reported_before_it_is_used(monkeypatch: pytest.MonkeyPatch):
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm on this system")
    handle = Dataset.from_arrays(*user_arrays(size=1000, shape=(1000,)))
    usage = shutil.disk_usage("/dev/shm")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="'custom': 4.0 MB of shared memory .* 1.0 MB are free"):
        pickle.dumps(handle)


def run_script(folder: Path, script: str, *arguments: str) -> str:
    """Run a script in a new process; neither it nor its resource tracker may complain."""
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    process = subprocess.run(
        [sys.executable, str(path), *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


TRAVEL_SCRIPT = """
    import gc, multiprocessing, pickle, subprocess, sys, textwrap

    import cloudpickle
    import numpy as np
    import torch

    from autotrain_env.data import (
        Dataset, _ticket_of, image_pool, load_dataset, register_dataset, split_dataset
    )

    OTHER_PROCESS = '''
    import pickle, sys
    with open(sys.argv[1], "rb") as file:
        handle = pickle.load(file)
    assert handle.images[3, 0] == 30.0, handle.images[3, 0]
    handle.images[0, 0] += 1
    '''

    def visit(connection):
        '''Answer questions about handles that arrive, each as a pickle of its own.'''
        images = None
        while (message := connection.recv_bytes()):
            first, second = pickle.loads(message)(), pickle.loads(message)()
            assert first is second
            if images is None:
                images = first.images
            expected = torch.arange(400.0).reshape(100, 4) * 2.5
            expected[0, 0] = images[0, 0]
            assert torch.equal(images, expected), "the tensor did not outlive its handle"
            images[0, 0] += 1  # nobody should; it shows who shares the memory
            pool, _ = image_pool((first,), torch.float32, "cpu")
            connection.send((
                first.name, float(first.images[0, 0]), first.labels.tolist(),
                load_dataset("mine") is first, pool.data_ptr() == images.data_ptr(),
                split_dataset(first, first.default_sizes, 3).train_index.tolist(),
                len(pickle.dumps(first)) < 700, pickle.loads(pickle.dumps(first)) is first,
            ))
            del first, second, pool
            gc.collect()

    def travel(start_method, folder):
        images = np.arange(500, dtype=np.float32).reshape(125, 4) * 2.5
        # The test part is given, so that the order stays.
        base = Dataset.from_arrays(
            images[:80], np.arange(80) % 3, test_images=images[80:100], test_labels=[0, 1] * 10
        )
        register_dataset("mine", base, overwrite=True)
        handle = load_dataset("mine")
        message = cloudpickle.dumps(lambda: handle)
        assert len(message) < 2000, len(message)
        assert pickle.loads(message)() is handle
        with open(folder + "/handle.pickle", "wb") as file:
            pickle.dump(base, file)
        if start_method == "spawn":  # what ends here must not take the memory with it
            subprocess.run(
                [sys.executable, "-W", "error", "-c", textwrap.dedent(OTHER_PROCESS),
                 folder + "/handle.pickle"], check=True
            )
        context = multiprocessing.get_context(start_method)
        ours, theirs = context.Pipe()
        process = context.Process(target=visit, args=(theirs,))
        process.start()
        answers = []
        for _ in range(2):
            ours.send_bytes(message)
            answers.append(ours.recv())
        train = split_dataset(handle, handle.default_sizes, 3).train_index.tolist()
        for name, first_pixel, labels, registered, same_memory, index, short, same in answers:
            assert (name, registered, same_memory, short, same) == ("mine", True, True, True, True)
            assert labels == handle.labels.tolist() and index == train
        # What attaches sees the mark of the process before it; a forked one has the handle already.
        expected = [2, 3] if start_method == "spawn" else [1, 2]
        assert [answer[1] for answer in answers] == expected, answers
        ours.send_bytes(b"")
        process.join()
        assert process.exitcode == 0
        print(_ticket_of(base).block)

    def share(connection):
        '''Own shared memory in a child process.'''
        handle = Dataset.from_arrays(np.ones((10, 2)), np.arange(10) % 2)
        connection.send_bytes(pickle.dumps(handle))
        connection.recv()

    def receive_from_child():
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=share, args=(theirs,))
        process.start()
        handle = pickle.loads(ours.recv_bytes())
        ours.send(None)
        process.join()
        assert process.exitcode == 0
        assert handle.images.sum() == 20  # what is mapped stays until its last user ends
        print(_ticket_of(handle).block)

    if __name__ == "__main__":
        travel("fork", sys.argv[1])
        receive_from_child()
        travel("spawn", sys.argv[1])
"""


def test_user_data_travel_once_without_a_copy_and_leave_nothing_behind(tmp_path: Path):
    blocks = run_script(tmp_path, TRAVEL_SCRIPT, str(tmp_path)).split()
    assert len(set(blocks)) == 3
    for block in blocks:
        with pytest.raises(FileNotFoundError):
            SharedMemory(block)
    # The process that owned the memory is gone.
    with pytest.raises(RuntimeError, match="dataset 'custom': process .* its shared memory is gone"):
        pickle.loads((tmp_path / "handle.pickle").read_bytes())


def test_a_name_that_the_receiver_has_registered_stays_its_own():
    register_dataset("mine", user_arrays())
    sent, pickled = load_dataset("mine"), pickle.dumps(load_dataset("mine"))
    register_dataset("mine", user_arrays(size=20), overwrite=True)
    own = load_dataset("mine")
    assert pickle.loads(pickled) is sent
    assert load_dataset("mine") is own and own is not sent


def test_a_registered_handle_registers_itself_where_it_arrives(monkeypatch: pytest.MonkeyPatch):
    register_dataset("mine", "synthetic")
    pickled = pickle.dumps(load_dataset("mine"))
    monkeypatch.setattr(data, "_REGISTRY", {})  # as in another process
    handle = pickle.loads(pickled)
    assert handle.name == "mine" and load_dataset("mine") is handle


# Splits -------------------------------------------------------------------------------------------


def unbalanced(counts: list[int], shape: tuple[int, ...] = (2,)) -> Dataset:
    """Make a set whose pool has the given numbers of images per class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    images = np.random.default_rng(1).standard_normal((len(labels), *shape))
    return Dataset.from_arrays(
        images, labels, test_images=images[:2], test_labels=labels[:2], num_classes=len(counts)
    )


class_counts = st.lists(st.integers(0, 60), min_size=2, max_size=7).filter(lambda counts: sum(counts) >= 3)


@st.composite
def datasets_and_sizes(draw: st.DrawFn) -> tuple[Dataset, SplitSizes]:
    dataset = unbalanced(draw(class_counts))
    train = draw(st.integers(1, dataset.pool_size - 2))
    holdout = draw(st.integers(1, dataset.pool_size - train - 1))
    validation = draw(st.integers(1, dataset.pool_size - train - holdout))
    return dataset, SplitSizes(train, holdout, validation)


seeds = st.integers(0, 2**64)
PARTS = ("train", "holdout", "validation", "test")


@settings(max_examples=100, deadline=None)
@given(datasets_and_sizes(), seeds, st.floats(0, 1))
def test_parts_are_disjoint_of_the_sizes_asked_for_and_clean_where_they_must_be(
    dataset_and_sizes: tuple[Dataset, SplitSizes], seed: int, label_noise: float
):
    dataset, sizes = dataset_and_sizes
    split = split_dataset(dataset, sizes, seed, label_noise)
    indices = [getattr(split, f"{part}_index") for part in PARTS]
    labels = [getattr(split, f"{part}_labels") for part in PARTS]
    assert [len(index) for index in indices] == [*sizes, dataset.test_size]
    assert [len(part) for part in labels] == [*sizes, dataset.test_size]
    assert {index.dtype for index in indices} == {np.dtype(np.int32)}
    assert {part.dtype for part in labels} == {np.dtype(np.int64)}
    together = np.concatenate(indices)
    assert len(np.unique(together)) == len(together)
    assert np.concatenate(indices[:3]).max() < dataset.pool_size
    assert indices[3].tolist() == [*range(dataset.pool_size, len(dataset.labels))]
    for index, part in zip(indices[2:], labels[2:], strict=True):
        np.testing.assert_array_equal(part, dataset.labels[index])
    for part in labels[:2]:
        assert part.min() >= 0 and part.max() < dataset.num_classes
    assert split.train_subset == slice(0, min(sizes.train, sizes.holdout))


@settings(max_examples=100, deadline=None)
@given(datasets_and_sizes(), seeds)
def test_every_part_is_stratified(dataset_and_sizes: tuple[Dataset, SplitSizes], seed: int):
    dataset, sizes = dataset_and_sizes
    split = split_dataset(dataset, sizes, seed)
    shares = np.bincount(dataset.labels[: dataset.pool_size], minlength=dataset.num_classes)
    shares = shares / dataset.pool_size
    # With e_c < 1 the error of a class on the way, its error in number is e_c - share · Σ e.
    bound = 1 - shares + shares * (dataset.num_classes - 1)
    subset = split.train_index[split.train_subset]
    for index in (split.train_index, split.holdout_index, split.validation_index, subset):
        counts = np.bincount(dataset.labels[index], minlength=dataset.num_classes)
        assert (np.abs(counts - shares * len(index)) <= bound + 1e-9).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 8), st.integers(3, 20), seeds, st.data())
def test_equally_large_classes_differ_by_one_image_at_most(
    num_classes: int, class_size: int, seed: int, choice: st.DataObject
):
    dataset = unbalanced([class_size] * num_classes)
    train = choice.draw(st.integers(1, dataset.pool_size - 2))
    split = split_dataset(dataset, SplitSizes(train, 1, 1), seed)
    counts = np.bincount(dataset.labels[split.train_index], minlength=num_classes)
    assert counts.max() - counts.min() <= 1


@settings(max_examples=60, deadline=None)
@given(datasets_and_sizes(), seeds, st.floats(0, 1), st.data())
def test_a_smaller_train_part_is_the_beginning_of_a_larger_one(
    dataset_and_sizes: tuple[Dataset, SplitSizes],
    seed: int,
    label_noise: float,
    choice: st.DataObject,
):
    dataset, sizes = dataset_and_sizes
    small = choice.draw(st.integers(1, sizes.train))
    larger = split_dataset(dataset, sizes, seed, label_noise)
    smaller = split_dataset(dataset, sizes._replace(train=small), seed, label_noise)
    for part in ("holdout", "validation", "test"):
        for kind in ("index", "labels"):
            name = f"{part}_{kind}"
            np.testing.assert_array_equal(getattr(smaller, name), getattr(larger, name))
    np.testing.assert_array_equal(smaller.train_index, larger.train_index[:small])
    np.testing.assert_array_equal(smaller.train_labels, larger.train_labels[:small])


def test_the_seed_alone_decides_a_split():
    digits = load_dataset("digits")
    first, again, other = (split_dataset(digits, digits.default_sizes, seed, 0.2) for seed in (7, 7, 8))
    for name in first.__dataclass_fields__:
        one, two = getattr(first, name), getattr(again, name)
        assert one == two if isinstance(one, slice) else np.array_equal(one, two)
    for part in PARTS[:3]:
        assert set(getattr(first, f"{part}_index")) != set(getattr(other, f"{part}_index"))
    np.testing.assert_array_equal(first.test_index, other.test_index)


def test_every_image_of_the_pool_gets_everywhere_equally_often():
    dataset = unbalanced([30, 10])
    sizes, num_splits = SplitSizes(20, 10, 10), 2000
    found = np.zeros((3, 40))
    for seed in range(num_splits):
        split = split_dataset(dataset, sizes, seed)
        for row, part in enumerate(PARTS[:3]):
            found[row, getattr(split, f"{part}_index")] += 1
    expected = np.array(sizes)[:, None] / 40
    std = np.sqrt(expected * (1 - expected) / num_splits)
    assert np.abs((found / num_splits - expected) / std).max() < 4.5


def test_global_generators_are_untouched():
    digits = load_dataset("digits")
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    split_dataset(digits, digits.default_sizes, 0, 0.5)
    synthetic(seed=11)
    Dataset.from_arrays(*user_arrays())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


# Label noise --------------------------------------------------------------------------------------


def test_label_noise_has_its_rate_and_spreads_over_the_other_classes():
    dataset = synthetic(size=50_000, num_features=1, num_classes=5)
    sizes = SplitSizes(30_000, 6000, 4000)
    split = split_dataset(dataset, sizes, 0, label_noise=0.3)
    for index, labels in (
        (split.train_index, split.train_labels),
        (split.holdout_index, split.holdout_labels),
    ):
        clean = dataset.labels[index]
        changed = labels != clean
        assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(labels))
        shift = np.bincount((labels - clean)[changed] % 5, minlength=5)
        assert shift[0] == 0
        expected = changed.sum() / 4
        assert np.abs(shift[1:] - expected).max() < 4 * np.sqrt(expected)


def test_noise_of_zero_and_one_are_exact():
    digits = load_dataset("digits")
    none, all_wrong = (split_dataset(digits, digits.default_sizes, 3, p) for p in (0.0, 1.0))
    for part in ("train", "holdout"):
        clean = digits.labels[getattr(none, f"{part}_index")]
        np.testing.assert_array_equal(getattr(none, f"{part}_labels"), clean)
        assert (getattr(all_wrong, f"{part}_labels") != clean).all()


def test_more_noise_adds_to_less_and_moves_no_image():
    digits = load_dataset("digits")
    less, more = (split_dataset(digits, digits.default_sizes, 3, p) for p in (0.2, 0.4))
    np.testing.assert_array_equal(less.train_index, more.train_index)
    clean = digits.labels[less.train_index]
    changed_less, changed_more = less.train_labels != clean, more.train_labels != clean
    assert changed_more[changed_less].all() and changed_more.sum() > changed_less.sum() > 40


def test_the_largest_random_number_still_gives_another_class():
    labels = np.zeros(1, dtype=np.int64)
    for probability in (1.0, 0.3, 1e-300):
        noise = np.array([np.nextafter(probability, 0)])
        for num_classes in range(2, 1000):
            noisy = data._add_label_noise(labels, noise, probability, num_classes)
            assert 1 <= noisy[0] <= num_classes - 1


def test_noise_has_a_random_stream_of_its_own():
    digits = load_dataset("digits")
    split = split_dataset(digits, digits.default_sizes, 3, 0.2)
    noise_seed = np.random.SeedSequence(3).spawn(2)[1]
    noisy = np.random.default_rng(noise_seed).random(700) < 0.2
    index = np.concatenate([split.holdout_index, split.train_index])
    labels = np.concatenate([split.holdout_labels, split.train_labels])
    np.testing.assert_array_equal(labels != digits.labels[index], noisy)


@pytest.mark.parametrize("label_noise", [-0.1, 1.01, float("nan")])
def test_label_noise_outside_its_range_is_reported(label_noise: float):
    digits = load_dataset("digits")
    with pytest.raises(ValueError, match=rf"label_noise={label_noise}: must lie in \[0, 1\]"):
        split_dataset(digits, digits.default_sizes, 0, label_noise)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 300, 400), ValueError, "sizes: train=0; must be at least 1"),
        ((400, -1, 400), ValueError, "sizes: holdout=-1; must be at least 1"),
        ((400, 300, 0), ValueError, "sizes: validation=0; must be at least 1"),
        ((400, 300.0, 400), TypeError, "sizes: holdout=300.0; must be an integer"),
        ((400, 300, True), TypeError, "sizes: validation=True; must be an integer"),
        (
            (401, 300, 400),
            ValueError,
            "train=401, holdout=300 and validation=400 are 1,101 images, but dataset 'digits' has "
            r"1,100 to divide \(besides its 697 test images\)",
        ),
    ],
)
def test_wrong_sizes_are_reported(sizes: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        split_dataset(load_dataset("digits"), SplitSizes(*sizes), 0)


def test_the_whole_pool_can_be_used():
    split = split_dataset(load_dataset("digits"), SplitSizes(400, np.int64(300), 400), 0)
    drawn = np.concatenate([split.train_index, split.holdout_index, split.validation_index])
    assert sorted(drawn) == [*range(1100)]


# Statistics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (1, 5, 4), (3, 7, 2)])
def test_mean_and_std_are_those_of_the_train_images(shape: tuple[int, ...]):
    images, labels = user_arrays(size=1000, shape=shape)
    images = images * 3 + 50 + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    dataset = Dataset.from_arrays(images, labels)
    split = split_dataset(dataset, SplitSizes(300, 100, 100), 5)
    train = dataset.images[split.train_index].double()
    axes = (0, *range(2, train.ndim))
    std, mean = torch.std_mean(train, dim=axes, correction=0, keepdim=True)
    assert split.mean.shape == split.std.shape == (shape[0], *[1] * (len(shape) - 1))
    assert split.mean.dtype == split.std.dtype == torch.float32
    torch.testing.assert_close(split.mean, mean[0].float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(split.std, std[0].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6,), (2, 5, 4)])
def test_no_other_image_changes_a_bit_of_the_statistics(shape: tuple[int, ...]):
    images, labels = user_arrays(size=1000, shape=shape)
    test_images, test_labels = user_arrays(size=100, shape=shape, seed=1)

    def split_of(images: np.ndarray, test_images: np.ndarray) -> data.Split:
        dataset = Dataset.from_arrays(images, labels, test_images=test_images, test_labels=test_labels)
        return split_dataset(dataset, SplitSizes(300, 300, 300), 5)

    before = split_of(images, test_images)
    others = np.setdiff1d(np.arange(1000), before.train_index)
    changed = images.copy()
    changed[others] = np.random.default_rng(2).standard_normal(changed[others].shape) * 100
    after = split_of(changed, test_images * 1000)
    assert torch.equal(before.mean, after.mean) and torch.equal(before.std, after.std)
    changed[before.train_index[0]] += 1  # and those of train do
    assert not torch.equal(split_of(changed, test_images).mean, before.mean)


@pytest.mark.parametrize(
    ("value", "spread"), [(0, 0), (0.1, 0), (-1e30, 0), (0, 1e-42), (1, 2**-23), (-100, 2**-17)]
)
@pytest.mark.parametrize("shape", [(3,), (3, 4, 4)])
def test_std_is_one_where_nothing_varies_but_the_last_bit(
    value: float, spread: float, shape: tuple[int, ...]
):
    images, labels = user_arrays(shape=shape)
    images[:, 1] = value
    images[::2, 1] += np.float32(spread)
    split = split_dataset(Dataset.from_arrays(images, labels), SplitSizes(30, 5, 5), 0)
    std = split.std.flatten()
    assert std[1] == 1 and 0.5 < std[0] < 1.5 and 0.5 < std[2] < 1.5
    torch.testing.assert_close(split.mean.flatten()[1], torch.tensor(float(value)))


def test_a_small_spread_around_a_large_value_is_measured():
    images, labels = user_arrays(size=1000, shape=(1, 4, 4))
    dataset = Dataset.from_arrays(images + 1000, labels)
    split = split_dataset(dataset, SplitSizes(400, 100, 100), 0)
    expected = dataset.images[split.train_index].double().std(correction=0)
    torch.testing.assert_close(split.std.double().squeeze(), expected, rtol=1e-6, atol=0)


# Order of minibatches -----------------------------------------------------------------------------


def sampler(size: int, seed: int = 0) -> EpochSampler:
    return EpochSampler(np.random.default_rng(seed), size)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 130), max_size=12), seeds)
def test_draws_are_permutations_however_they_are_cut(size: int, counts: list[int], seed: int):
    in_parts, at_once = sampler(size, seed), sampler(size, seed)
    drawn = [in_parts.draw(count) for count in counts]
    assert [part.shape for part in drawn] == [(count,) for count in counts]
    together = np.concatenate([np.empty(0, dtype=np.int32), *drawn])
    assert together.dtype == np.int32
    np.testing.assert_array_equal(together, at_once.draw(sum(counts)))
    whole = len(together) // size * size
    for epoch in together[:whole].reshape(-1, size):
        assert sorted(epoch) == [*range(size)]
    rest = together[whole:]
    assert len(set(rest)) == len(rest) and set(rest) <= set(range(size))


def test_epochs_differ_and_every_place_gets_every_position():
    epochs = sampler(5).draw(5 * 8000).reshape(8000, 5)
    assert not np.array_equal(epochs[0], epochs[1]) or not np.array_equal(epochs[1], epochs[2])
    for place in epochs.T:
        assert np.abs(np.bincount(place, minlength=5) / 8000 - 0.2).max() < 4.5 * 0.4 / 8000**0.5
    # Each of the 120 orders is as likely as the next: about 67 of each.
    orders = np.unique(epochs, axis=0, return_counts=True)[1]
    assert len(orders) == 120 and np.abs(orders - 8000 / 120).max() < 5 * np.sqrt(8000 / 120)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_of_a_sampler_goes_on_alike_and_apart(duplicate: Callable[..., EpochSampler]):
    original = sampler(10)
    original.draw(13)
    twin = duplicate(original)
    expected = original.draw(40)
    np.testing.assert_array_equal(twin.draw(40), expected)
    assert len(pickle.dumps(original)) < 2000


def test_drawn_positions_can_be_written_without_harm():
    written, untouched = sampler(10), sampler(10)
    written.draw(3)[:] = -1
    untouched.draw(3)
    np.testing.assert_array_equal(written.draw(30), untouched.draw(30))


def test_wrong_sampler_arguments_are_reported():
    with pytest.raises(ValueError, match="size=0: must be at least 1"):
        sampler(0)
    with pytest.raises(ValueError, match="count=-1: must not be negative"):
        sampler(3).draw(-1)


# Several data sets in one tensor ------------------------------------------------------------------


def test_the_pool_of_one_data_set_is_its_own_tensor():
    digits = load_dataset("digits")
    pool, offsets = image_pool((digits,), torch.float32, torch.device("cpu"))
    assert pool is digits.images and offsets == (0,)
    assert image_pool((digits, digits), torch.float32, "cpu")[0] is digits.images


def test_a_pool_holds_each_data_set_once_at_its_offset():
    first, second = (Dataset.from_arrays(*user_arrays(seed=seed)) for seed in (1, 2))
    pool, offsets = image_pool((first, second, first), torch.float64, torch.device("cpu"))
    assert offsets == (0, 60, 0) and pool.shape == (120, 3) and pool.dtype == torch.float64
    assert torch.equal(pool[:60], first.images.double())
    assert torch.equal(pool[60:], second.images.double())


def test_a_pool_is_shared_while_it_is_used_and_then_freed():
    datasets = tuple(Dataset.from_arrays(*user_arrays(seed=seed)) for seed in (1, 2))
    pool, _ = image_pool(datasets, torch.float32, torch.device("cpu"))
    assert image_pool(datasets, torch.float32, "cpu")[0] is pool
    assert image_pool(datasets, torch.float64, "cpu")[0] is not pool
    assert image_pool(datasets[::-1], torch.float32, "cpu")[0] is not pool
    references = [weakref.ref(item) for item in (pool, *datasets)]
    del pool
    gc.collect()
    assert references[0]() is None and references[1]() is datasets[0]
    del datasets
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_data_sets_of_different_shape_share_no_pool():
    first, second = (Dataset.from_arrays(*user_arrays(shape=shape)) for shape in ((3,), (4,)))
    with pytest.raises(ValueError, match=r"equal image shape.*'custom': \(3,\).*\(4,\)"):
        image_pool((first, second), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="one or more"):
        image_pool((), torch.float32, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_pool_on_the_gpu_is_one_copy():
    digits = load_dataset("digits")
    pool, _ = image_pool((digits,), torch.float32, "cuda")
    assert pool.is_cuda and torch.equal(pool.cpu(), digits.images)
    assert image_pool((digits,), torch.float32, torch.device("cuda", 0))[0] is pool
