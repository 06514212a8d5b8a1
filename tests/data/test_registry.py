"""Where data sets come from: names and users' objects. (Files: see test_image_sets.py.)"""

from __future__ import annotations

import gc
import hashlib
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from autotrain_env import Dataset, SplitSizes, load_dataset, register_dataset, synthetic
from autotrain_env.data import registry as datasets
from tests.helpers import rows, user_arrays


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep names and files of one test from the next."""
    monkeypatch.setattr(datasets, "_REGISTRY", {})
    monkeypatch.setattr(datasets, "_BUILT_IN", {})


# Names ---------------------------------------------------------------------------------------------


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


def test_the_same_name_gives_the_same_handle():
    assert load_dataset("digits") is load_dataset("digits")
    assert load_dataset("digits") is load_dataset("digits", data_root="/does/not/matter")
    assert load_dataset("synthetic") is synthetic()


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
        register_dataset("mine", (user_arrays()[0], user_arrays()[1][1:]))
    assert datasets._REGISTRY == {}


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_built_in_sets_pickle_by_name_or_arguments(dumps: Callable[..., bytes]):
    register_dataset("my_digits", "digits")
    for handle in (
        load_dataset("digits"),
        load_dataset("my_digits"),
        synthetic("teacher", seed=5, size=100, difficulty=0.2),
    ):
        pickled = dumps(handle)
        assert len(pickled) < 500
        assert pickle.loads(pickled) is handle


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
    monkeypatch.setattr(datasets, "_REGISTRY", {})  # as in another process
    handle = pickle.loads(pickled)
    assert handle.name == "mine" and load_dataset("mine") is handle


# Digits --------------------------------------------------------------------------------------------


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


# Users' objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_arrays_are_read_at_every_call_and_not_kept_alive(convert: Callable[..., Any]):
    images, labels = map(convert, user_arrays())
    handle = load_dataset((images, labels))
    assert load_dataset((images, labels)) is not handle
    dead = weakref.ref(images), weakref.ref(handle)
    del images, handle
    gc.collect()
    assert [reference() for reference in dead] == [None, None]


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


def test_a_synthetic_set_by_name_is_the_one_made_of_the_same_arguments():
    named = load_dataset("teacher-3-200-0.5")
    assert named is synthetic("teacher", seed=3, size=200, difficulty=0.5)
    assert load_dataset("gaussian_mixture-3-200-1") is synthetic(seed=3, size=200, difficulty=1.0)
    assert pickle.loads(pickle.dumps(named)) is named
    assert load_dataset("teacher-3-200-0.5-7").image_shape == (7,)
    mixture = load_dataset("gaussian_mixture-3-200-0-9-5")
    assert mixture is synthetic(seed=3, size=200, difficulty=0.0, num_features=9, components=5)
    for wrong in ("teacher-3-200", "teachers-3-200-0.5", "teacher--3-200-0.5"):
        with pytest.raises(ValueError, match="is not a known name"):
            load_dataset(wrong)
    with pytest.raises(ValueError, match="size=3"):
        load_dataset("teacher-3-3-0.5")
    with pytest.raises(ValueError, match=r"difficulty=1\.5"):
        load_dataset("teacher-3-200-1.5")
    with pytest.raises(ValueError, match="built-in"):
        register_dataset("teacher-3-200-0.5", named)
