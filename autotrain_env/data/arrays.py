"""Users' arrays: their checks, and what they become."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check_whole, in_brief, warn

MOST_CLASSES = 100_000


def as_images(images: Any, argument: str) -> torch.Tensor:
    """Check images and bring them to the CPU.

    Args:
        images: Tensor or array, shape (n, features), (n, height, width) or (n, channels, height, width).
        argument: The argument's name, as the user wrote it.

    Returns:
        The images, uint8 if they were, or else float32, with a channel axis unless they are vectors.

    Raises:
        InvalidTypeError: If the dtype is not a numeric, real one.
        InvalidValueError: If the shape is wrong or empty, or an image holds a NaN or an infinite value.
    """
    tensor = images if isinstance(images, torch.Tensor) else _as_tensor(images, argument)
    if tensor.is_complex():
        raise InvalidTypeError(f"{argument}: dtype {tensor.dtype}; must be a real one")
    if tensor.ndim not in (2, 3, 4):
        raise InvalidValueError(
            f"{argument}: shape {tuple(tensor.shape)}; must be (n, features), (n, height, width) "
            "or (n, channels, height, width)"
        )
    if tensor.numel() == 0:
        raise InvalidValueError(f"{argument}: shape {tuple(tensor.shape)} is empty")
    if tensor.ndim == 4 and tensor.shape[3] in (1, 3, 4) and min(tensor.shape[1:3]) > 4:
        channels, height, width = tensor.shape[1:]
        warn(
            f"{argument}: shape {tuple(tensor.shape)} is read as images of {channels} channels and "
            f"{height}x{width} pixels, since channels come first; if they come last, give "
            f"{argument}.transpose(0, 3, 1, 2) of an array, or {argument}.permute(0, 3, 1, 2) of a tensor"
        )
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
        finite = torch.isfinite(tensor.flatten(start_dim=1)).all(dim=1)
        if not finite.all():
            raise InvalidValueError(
                f"{argument}: {int((~finite).sum())} of {len(finite)} hold a NaN or a value that "
                f"is infinite in float32, the first at position {int(finite.int().argmin())}"
            )
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor


def _as_tensor(images: Any, argument: str) -> torch.Tensor:
    try:
        array = np.asarray(images)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidValueError(f"{argument}={in_brief(images)}: no array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{argument}: dtype {array.dtype}; must be a numeric, real one")
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    with np.errstate(over="ignore"):  # infinite values are reported with their position
        return torch.tensor(np.ascontiguousarray(array, dtype=dtype))


def as_labels(labels: Any, argument: str, num_images: int) -> npt.NDArray[np.int64]:
    """Check the dtype and shape of labels and copy them.

    Args:
        labels: Tensor or array of integers, shape (n,).
        argument: The argument's name, as the user wrote it.
        num_images: The n that is right.

    Returns:
        The labels, int64, shape (n,).

    Raises:
        InvalidTypeError: If the dtype is not an integer one.
        InvalidValueError: If the shape is wrong.
    """
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    try:
        array = np.asarray(labels)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidValueError(f"{argument}={in_brief(labels)}: no array of numbers: {error}") from error
    if array.dtype.kind not in "biu":
        raise InvalidTypeError(f"{argument}: dtype {array.dtype}; must be an integer one")
    if array.shape != (num_images,):
        raise InvalidValueError(
            f"{argument}: shape {array.shape}; must be ({num_images},), one label for each image"
        )
    return array.astype(np.int64)


def check_classes(label_parts: list[npt.NDArray[np.int64]], num_classes: int | None) -> int:
    """Check all labels against the number of classes.

    Args:
        label_parts: The labels, then those of the test part, if there is one.
        num_classes: Number of classes C, or None for the largest label + 1.

    Returns:
        C.

    Warns:
        UserWarning: If C is not given, and there are classes without an image.

    Raises:
        InvalidValueError: If C is not an integer above 1, or a label lies outside 0 … C − 1.
    """
    given = num_classes is not None
    for argument, part in zip(("labels", "test_labels"), label_parts, strict=False):
        largest = int(part.max())
        if largest >= MOST_CLASSES:
            raise InvalidValueError(
                f"{argument}: {largest} at position {int(part.argmax())}; classes are numbered from 0 on, "
                f"and there are at most {MOST_CLASSES:,}"
            )
    if num_classes is None:
        num_classes = max(2, 1 + max(int(part.max()) for part in label_parts))
    check_whole("num_classes", num_classes, 2, MOST_CLASSES)
    for argument, part in zip(("labels", "test_labels"), label_parts, strict=False):
        outside = (part < 0) | (part >= num_classes)
        if outside.any():
            first = int(outside.argmax())
            raise InvalidValueError(
                f"{argument}: {int(outside.sum())} of {len(part)} lie outside the classes 0 … "
                f"{num_classes - 1}, the first at position {first}: {part[first]}"
            )
    if not given:
        _warn_of_empty_classes(np.concatenate(label_parts), num_classes)
    return int(num_classes)


def _warn_of_empty_classes(labels: npt.NDArray[np.int64], num_classes: int) -> None:
    present = np.unique(labels)
    empty = np.setdiff1d(np.arange(num_classes), present)
    if not len(empty):
        return
    named = ", ".join(map(str, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    remedy = (
        "Labels count from 0 without a gap (numpy.unique(labels, return_inverse=True)[1] does); "
        "num_classes= of Dataset.from_arrays says that classes are missing on purpose"
    )
    if present[-1] == 255 and len(present) < 255:
        remedy = f"255 often stands for images without a label: leave those out. {remedy}"
    elif empty[0] == 0 and len(empty) == 1:
        remedy = f"If labels count from 1, give labels - 1. {remedy}"
    warn(f"labels: no image is of class {named}, yet there are {num_classes} classes. {remedy}")


def join_as_float(parts: list[torch.Tensor]) -> torch.Tensor:
    """Put uint8 (scaled to [0, 1]) and float32 images one after another into one float32 tensor.

    Args:
        parts: The images, each of shape (n, *image_shape).

    Returns:
        A new contiguous tensor, shape (sum of n, *image_shape).
    """
    joined = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.float32)
    for part, target in zip(parts, joined.split([len(part) for part in parts]), strict=True):
        target.copy_(part)
        if part.dtype == torch.uint8:
            target.div_(255)
    return joined
