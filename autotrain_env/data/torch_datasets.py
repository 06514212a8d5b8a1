"""Users' data sets of PyTorch, read item by item."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
import torch.utils.data

from autotrain_env.data.arrays import MOST_CLASSES
from autotrain_env.data.dataset import Dataset
from autotrain_env.errors import InvalidTypeError, InvalidValueError, in_brief


def brief(value: object, limit: int = 80) -> str:
    """Show a value in a message, cut where it is long."""
    text = f"{type(value).__name__} {' '.join(in_brief(value).split())}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def from_torch_dataset(data: torch.utils.data.Dataset[Any]) -> Dataset:
    """Read all items of a map-style data set."""
    if isinstance(data, torch.utils.data.IterableDataset) or not hasattr(data, "__len__"):
        raise InvalidTypeError(f"dataset={brief(data)}: must be map-style, with a length and an index")
    num_items = len(data)
    if num_items == 0:
        raise InvalidValueError(f"dataset={brief(data)}: is empty")
    items = [_read_item(data, position) for position in range(num_items)]
    images, labels = zip(*items, strict=True)
    for position, image in enumerate(images):
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise InvalidValueError(
                f"dataset={brief(data)}: item {position} has an image of shape "
                f"{tuple(image.shape)} and {image.dtype}, item 0 one of shape "
                f"{tuple(images[0].shape)} and {images[0].dtype}"
            )
    largest = max(labels, key=abs)
    if abs(largest) > MOST_CLASSES:
        raise InvalidValueError(f"dataset={brief(data)}: label {in_brief(largest)} is none of a class")
    return Dataset.from_arrays(torch.stack(images), np.array(labels, dtype=np.int64))


def _read_item(data: torch.utils.data.Dataset[Any], position: int) -> tuple[torch.Tensor, int]:
    item = data[position]
    try:
        image, label = item
        return _item_image(image), operator.index(label)
    except (TypeError, ValueError):
        raise InvalidTypeError(
            f"dataset={brief(data)}: item {position} is {brief(item)}; must be a pair of an "
            "image (tensor, array or PIL image) and an integer label"
        ) from None


def _item_image(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    array = np.array(image)
    if hasattr(image, "getbands") and array.ndim == 3:  # a PIL image, in which channels come last
        array = array.transpose(2, 0, 1)
    return torch.from_numpy(array)
