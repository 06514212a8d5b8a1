"""Users' arrays: what becomes of them in a handle, and what is wrong with them."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env import Dataset, SplitSizes, load_dataset
from autotrain_env.errors import InvalidValueError
from tests.helpers import rows, user_arrays

IMAGES, LABELS = user_arrays()


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


def test_lists_are_read_too():
    handle = Dataset.from_arrays([[0.0, 1.0]] * 5, [0, 1, 0, 1, 0])
    assert handle.image_shape == (2,) and handle.num_classes == 2


def test_classes_can_be_more_than_those_that_occur():
    assert Dataset.from_arrays(*user_arrays(), num_classes=7).num_classes == 7
    with pytest.warns(UserWarning, match="no image is of class 1, yet there are 2 classes"):
        assert Dataset.from_arrays(np.ones((5, 2)), np.zeros(5, dtype=int)).num_classes == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.arange(60) % 3 + 1,
            "no image is of class 0, yet there are 4 classes. If labels count from 1, give labels - 1",
        ),
        (np.arange(60) % 3 * 2, "no image is of class 1, 3, yet there are 5 classes. Labels count from 0"),
        (
            np.where(np.arange(60) % 5 == 4, 255, np.arange(60) % 4),
            "no image is of class 4, 5, 6, 7, 8 and 246 more, yet there are 256 classes. 255 often stands",
        ),
        (np.arange(60) % 2 + 5, "no image is of class 0, 1, 2, 3, 4, yet there are 7 classes"),
    ],
)
def test_classes_without_an_image_are_named(labels: np.ndarray, message: str):
    with pytest.warns(UserWarning, match=message) as caught:
        dataset = load_dataset((IMAGES, labels))
    assert dataset.num_classes == labels.max() + 1
    assert [warning.filename for warning in caught] == [__file__]  # the user's line


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels": np.arange(60) % 4},
        {"labels": np.arange(60) % 4 + 1, "num_classes": 10},  # says so
        {"labels": np.arange(60) % 256},
        {
            "labels": np.arange(60) % 4,
            "test_images": np.ones((2, 3)),
            "test_labels": [4, 4],
        },  # in the test part
    ],
)
def test_classes_that_are_all_there_or_missing_on_purpose_bring_no_warning(arguments: dict[str, Any]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dataset.from_arrays(**{"images": IMAGES} | arguments)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((28, 28, 1), "28 channels and 28x1"),
        ((32, 32, 3), "32 channels and 32x3"),
        ((5, 8, 4), "5 channels and 8x4"),
        ((1, 28, 28), None),
        ((3, 32, 32), None),
        ((4, 9, 3), None),
        ((16, 2, 1), None),
        ((28, 28), None),
        ((3,), None),
    ],
)
def test_channels_that_come_last_bring_a_hint(shape: tuple[int, ...], hint: str | None):
    for images in (np.ones((60, *shape), np.uint8), torch.ones(60, *shape)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Dataset.from_arrays(images, LABELS)
        if hint is None:
            assert not caught
        else:
            assert len(caught) == 1 and hint in str(caught[0].message)
            assert caught[0].filename == __file__ and "permute(0, 3, 1, 2)" in str(caught[0].message)


@pytest.mark.parametrize("made", [(np.uint8, np.float32), (np.float64, np.uint8)])
def test_bytes_beside_other_numbers_are_refused(made: tuple[Any, Any]):
    images, test_images = (np.ones((60, 3), dtype) for dtype in made)
    with pytest.raises(TypeError, match="both or neither must be bytes"):
        Dataset.from_arrays(images, LABELS, test_images=test_images, test_labels=LABELS)


def with_value(value: float, position: tuple[int, ...] = (7, 1)) -> np.ndarray:
    images = user_arrays()[0].astype(np.float64)
    images[position] = value
    return images


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
        ({"num_classes": 1}, ValueError, "num_classes=1 is not allowed: .* at least 2"),
        ({"num_classes": 4.0}, ValueError, "num_classes=4.0 is not allowed: .* whole number"),
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


@pytest.mark.parametrize("label", [2**40, 2**62, 100_000])
@pytest.mark.parametrize("kind", ["arrays", "torch"])
def test_a_label_that_is_none_of_a_class_is_named(label: int, kind: str):
    """Counting classes up to it would take all memory."""
    images, labels = np.zeros((30, 3), np.float32), np.arange(30) % 3
    labels[7] = label
    data: Any = (images, labels)
    if kind == "torch":
        data = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    with pytest.raises(InvalidValueError, match=rf"label.*{label}"):
        load_dataset(data)
