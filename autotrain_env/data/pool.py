"""Pools: the images of several data sets in one tensor, shared by all that use them."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from autotrain_env.data.dataset import Dataset
from autotrain_env.errors import InvalidValueError

# The keys hold on to the handles as long as the pool is in use, so that a pool is never mistaken.
_POOLS: weakref.WeakValueDictionary[tuple[tuple[Dataset, ...], torch.dtype, torch.device], torch.Tensor] = (
    weakref.WeakValueDictionary()
)


def image_pool(
    datasets: tuple[Dataset, ...], dtype: torch.dtype, device: torch.device | str
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Give all images of data sets with equally many features in one tensor.

    The same data sets, dtype and device give the same tensor as long as somebody holds it (the
    tensor itself: a view does not count). One data set in float32 on the CPU is a view of its
    `images`, not a copy.

    Args:
        datasets: The data sets, at least one; one that occurs twice is stored once.
        dtype: The dtype of the pool.
        device: Device that holds the pool.

    Returns:
        The images, shape (sum of lengths, features), not to be written to, and for each data set
        the position of its first image.

    Raises:
        InvalidValueError: If there is no data set or their numbers of features differ.
    """
    unique = tuple(dict.fromkeys(datasets))
    if len({dataset.num_features for dataset in unique}) != 1:
        listed = ", ".join(f"{dataset.name!r}: {dataset.image_shape}" for dataset in unique)
        raise InvalidValueError(
            f"datasets must be one or more with equally many features, not {{{listed}}}"
        )
    lengths = [len(dataset.labels) for dataset in unique]
    starts = dict(zip(unique, np.cumsum([0, *lengths]).tolist(), strict=False))
    offsets = tuple(starts[dataset] for dataset in datasets)
    device = torch.empty(0, device=device).device  # "cuda" -> "cuda:0"
    key = (unique, dtype, device)
    pool = _POOLS.get(key)
    if pool is None:
        if len(unique) == 1 and (dtype, device.type) == (torch.float32, "cpu"):
            return unique[0].images.flatten(1), offsets
        pool = torch.empty((sum(lengths), unique[0].num_features), dtype=dtype, device=device)
        for dataset in unique:
            start = starts[dataset]
            pool[start : start + len(dataset.labels)].copy_(dataset.images.flatten(1))
        _POOLS[key] = pool
    return pool, offsets
