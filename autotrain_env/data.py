"""Data: shared dataset handles, the four-way split, and pools of images.

A `Dataset` is a handle: one object per process that environments share and never copy. Its images
come in two parts. The *pool* is what the seed of a task divides into train, holdout and validation
(`split_dataset`); the *test part* is the same for every seed and lies outside the pool.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autotrain_env import sharing
from autotrain_env.arrays import as_images, as_labels, check_classes, join_as_float
from autotrain_env.errors import check
from autotrain_env.sampling import EpochSampler as EpochSampler
from autotrain_env.sampling import add_label_noise, cut_off_test_part, stratified_order

Recipe: TypeAlias = "tuple[Callable[..., Dataset], tuple[Any, ...]]"

_TEST_FRACTION = 0.2  # of the images, where a data set comes without a test part


class SplitSizes(NamedTuple):
    """How many images of the pool each part of a split takes.

    Attributes:
        train: Images that gradients are computed on.
        holdout: Images behind the guarded look of the agent.
        validation: Images that the reward is computed on.
    """

    train: int
    holdout: int
    validation: int

    @property
    def total(self) -> int:
        """Number of images in the three parts together."""
        return self.train + self.holdout + self.validation


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A handle to labelled images, shared by everything in a process that uses them.

    Copies and deep copies return the handle itself. How it pickles depends on where it comes from:
    a built-in set travels as its name and folder, a synthetic one as its arguments, a user's own
    through shared memory, which the receiving process maps without copying. That memory belongs
    to the process that pickled the handle first and stays there until that process ends, and such
    a pickle is of no use afterwards. Unpickled twice in one process, it is the same handle twice.

    Handles are made by `load_dataset`, `Dataset.from_arrays` and `synthetic`, not by the
    constructor.

    Attributes:
        name: What messages and logs call the data set.
        num_classes: Number of classes C; labels are 0 … C − 1.
        images: Float32, on the CPU, contiguous, shape (pool_size + test_size, *image_shape): first
            the pool, then the test part. Not normalised: pixels lie in [0, 1], other features
            are as the user gave them. Must not be written to.
        labels: Int64, read-only, shape (pool_size + test_size,).
        test_size: Number of images in the test part.
        default_sizes: Split sizes for users who give none.
        recipe: A function and its arguments that make this handle in another process; None for a
            user's own tensors.
    """

    name: str
    num_classes: int
    images: torch.Tensor
    labels: npt.NDArray[np.int64]
    test_size: int
    default_sizes: SplitSizes
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        self.labels.flags.writeable = False

    @property
    def pool_size(self) -> int:
        """Number of images that a split seed may divide."""
        return len(self.labels) - self.test_size

    @property
    def num_features(self) -> int:
        """Numbers in one image."""
        return math.prod(self.image_shape)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: (channels, height, width) or (features,)."""
        return tuple(self.images.shape[1:])

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        *,
        name: str = "custom",
        num_classes: int | None = None,
        test_images: Any = None,
        test_labels: Any = None,
        default_sizes: SplitSizes | None = None,
    ) -> Dataset:
        """Make a handle from tensors or arrays, which are copied.

        Args:
            images: Shape (n, features), (n, height, width) or (n, channels, height, width), any
                real dtype. Values of dtype uint8 are divided by 255; all others are only converted
                to float32.
            labels: Integers 0 … C − 1, shape (n,).
            name: What messages and logs call the data set.
            num_classes: C, at least 2; the largest label + 1 if None.
            test_images: The test part; if None, a fixed stratified 20% of `images` is taken out of
                the pool for it, the same one in every process.
            test_labels: Its labels.
            default_sizes: Split sizes for users who give none. If None, the holdout gets 27% and
                the validation part 33% of the pool, but at most 1,000 images each, and train the
                rest.

        Returns:
            A new handle.

        Raises:
            TypeError: If images or labels have a wrong dtype.
            ValueError: If there is no image, numbers of images and labels differ, a shape is
                wrong, an image holds a NaN or an infinite value, a label lies outside the classes,
                or the default sizes exceed the pool.
        """
        if (test_images is None) != (test_labels is None):
            raise ValueError("test_images and test_labels must be given together or not at all")
        image_parts = [as_images(images, "images")]
        label_parts = [as_labels(labels, "labels", len(image_parts[0]))]
        if test_images is not None:
            image_parts.append(as_images(test_images, "test_images"))
            label_parts.append(as_labels(test_labels, "test_labels", len(image_parts[1])))
            shape, test_shape = (tuple(part.shape[1:]) for part in image_parts)
            if shape != test_shape:
                raise ValueError(f"test_images: image shape {test_shape}; must be {shape} as in images")
        num_classes = check_classes(label_parts, num_classes)
        if test_images is None:
            test_size = max(1, round(_TEST_FRACTION * len(label_parts[0])))
            pool_and_test = cut_off_test_part(label_parts[0], num_classes, test_size)
            image_parts = [image_parts[0][torch.from_numpy(part)] for part in pool_and_test]
            label_parts = [label_parts[0][part] for part in pool_and_test]
        pool_size, test_size = map(len, label_parts)
        if pool_size < 3:
            raise ValueError(
                f"images: {pool_size} besides the {test_size} of the test part; "
                "at least 3 are needed for train, holdout and validation"
            )
        if default_sizes is None:
            default_sizes = _proportional_sizes(pool_size)
        sizes = _check_sizes("default_sizes", default_sizes, name, pool_size, test_size)
        return cls(
            name, num_classes, join_as_float(image_parts), np.concatenate(label_parts), test_size, sizes
        )

    def __copy__(self) -> Dataset:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        return self

    def __reduce__(self) -> tuple[Callable[..., Dataset], tuple[Any, ...]]:
        make, arguments = self.recipe or self._recipe_of_shared
        return from_recipe, (make, *arguments)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {self.pool_size:,} + {self.test_size:,} test images of shape "
            f"{self.image_shape}, {self.num_classes} classes)"
        )

    @functools.cached_property
    def _recipe_of_shared(self) -> Recipe:
        """How others make this handle from shared memory, where its tensors are put at the first call."""
        ticket = sharing.share(self.name, self.images, self.labels)
        recipe = (_attach, (ticket, self.num_classes, self.test_size, self.default_sizes))
        _HANDLES[recipe] = self
        return recipe

    @functools.cached_property
    def _pixel_moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and variance over the pixels of each pool image, float64, (pool_size, channels)."""
        images = self.images[: self.pool_size].flatten(start_dim=2).numpy()
        means, variances = [], []
        for start in range(0, self.pool_size, 256):  # a chunk in float64 stays in the cache
            pixels = images[start : start + 256].astype(np.float64)  # (images, channels, pixels)
            mean = pixels.mean(axis=2)
            pixels -= mean[:, :, np.newaxis]
            means.append(mean)
            variances.append(np.einsum("ncp,ncp->nc", pixels, pixels) / pixels.shape[2])
        return np.concatenate(means), np.concatenate(variances)


# Handles that are in use, by their recipes.
_HANDLES: weakref.WeakValueDictionary[Recipe, Dataset] = weakref.WeakValueDictionary()


def from_recipe(make: Callable[..., Dataset], *arguments: Any) -> Dataset:
    """Give the handle that a function makes of arguments: the same one as long as it is in use.

    Args:
        make: A function that pickles by its name.
        *arguments: What it is called with; hashable.

    Returns:
        A handle that pickles as this call.
    """
    recipe = (make, arguments)
    handle = _HANDLES.get(recipe)
    if handle is None:
        handle = _HANDLES[recipe] = replace(make(*arguments), recipe=recipe)
    return handle


def _attach(ticket: sharing.Ticket, num_classes: int, test_size: int, default_sizes: SplitSizes) -> Dataset:
    images, labels = sharing.attach(ticket)
    return Dataset(ticket.name, num_classes, images, labels, test_size, default_sizes)


# Splits -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set into train, holdout, validation and test part.

    Attributes:
        train_index: Positions in `Dataset.images`, int32, shape (train,); so are the next three.
        holdout_index: Shape (holdout,).
        validation_index: Shape (validation,).
        test_index: Shape (test_size,); the same for all splits of a data set.
        train_labels: Labels after label noise, int64, shape (train,).
        holdout_labels: Labels after label noise, int64, shape (holdout,).
        validation_labels: Clean labels, int64, shape (validation,).
        test_labels: Clean labels, int64, read-only, shape (test_size,).
        mean: Mean of the train images, float32: one value per channel, shape (channels, 1, 1), or
            per feature, shape (features,).
        std: Their standard deviation in the same shape, 1 where they do not vary.
        train_subset: Which positions in the train part form the fixed subset as large as the
            holdout (or all of train where that is smaller).
    """

    train_index: npt.NDArray[np.int32]
    holdout_index: npt.NDArray[np.int32]
    validation_index: npt.NDArray[np.int32]
    test_index: npt.NDArray[np.int32]
    train_labels: npt.NDArray[np.int64]
    holdout_labels: npt.NDArray[np.int64]
    validation_labels: npt.NDArray[np.int64]
    test_labels: npt.NDArray[np.int64]
    mean: torch.Tensor
    std: torch.Tensor
    train_subset: slice

    def with_holdout_in_train(self) -> Split:
        """The same split, the holdout's images and labels appended to the train part; all else is kept."""
        return replace(
            self,
            train_index=np.concatenate((self.train_index, self.holdout_index)),
            train_labels=np.concatenate((self.train_labels, self.holdout_labels)),
        )


def split_dataset(dataset: Dataset, sizes: SplitSizes, seed: int, label_noise: float = 0.0) -> Split:
    """Divide the pool of a data set at random, stratified by class.

    The seed puts the whole pool in an order of which every stretch is stratified; validation,
    holdout and train are taken from it one after the other. So another train size changes neither
    holdout nor validation, and of two train parts the smaller is the beginning of the larger, label
    noise included. No global random generator is used.

    Args:
        dataset: The data set.
        sizes: Numbers of images, each at least 1, together at most the pool.
        seed: Seed of the division and of the label noise, which have separate streams.
        label_noise: Probability in [0, 1] with which a label of train or holdout becomes one of
            the other classes, each as likely as the next. With the same seed, the labels
            that a smaller probability changes are among those that a larger one does.

    Returns:
        The split. Statistics are those of its train images alone.

    Raises:
        TypeError: If a size is not an integer.
        ValueError: If the sizes or the label noise are out of range.
    """
    sizes = _check_sizes("sizes", sizes, dataset.name, dataset.pool_size, dataset.test_size)
    check(0 <= label_noise <= 1, "label_noise", label_noise, "in [0, 1]")
    order_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
    order = stratified_order(
        dataset.labels[: dataset.pool_size], dataset.num_classes, np.random.default_rng(order_seed)
    ).astype(np.int32)
    validation, noisy = np.split(order[: sizes.total], [sizes.validation])
    holdout, train = np.split(noisy, [sizes.holdout])
    noisy_labels = dataset.labels[noisy]
    if label_noise > 0:
        noise = np.random.default_rng(noise_seed).random(len(noisy))
        noisy_labels = add_label_noise(noisy_labels, noise, label_noise, dataset.num_classes)
    mean, std = _statistics(dataset, train)
    return Split(
        train_index=train,
        holdout_index=holdout,
        validation_index=validation,
        test_index=np.arange(dataset.pool_size, len(dataset.labels), dtype=np.int32),
        train_labels=noisy_labels[sizes.holdout :],
        holdout_labels=noisy_labels[: sizes.holdout],
        validation_labels=dataset.labels[validation],
        test_labels=dataset.labels[dataset.pool_size :],
        mean=mean,
        std=std,
        train_subset=slice(0, min(sizes.train, sizes.holdout)),
    )


def _check_sizes(argument: str, sizes: SplitSizes, name: str, pool_size: int, test_size: int) -> SplitSizes:
    for part, size in zip(SplitSizes._fields, sizes, strict=True):
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise TypeError(f"{argument}: {part}={size!r}; must be an integer")
        if size < 1:
            raise ValueError(f"{argument}: {part}={size!r}; must be at least 1")
    sizes = SplitSizes(*map(int, sizes))
    if sizes.total > pool_size:
        raise ValueError(
            f"{argument}: train={sizes.train}, holdout={sizes.holdout} and validation="
            f"{sizes.validation} are {sizes.total:,} images, but dataset {name!r} has "
            f"{pool_size:,} to divide (besides its {test_size:,} test images)"
        )
    return sizes


def _proportional_sizes(pool_size: int) -> SplitSizes:
    """Choose default sizes; the bound keeps evaluations on large sets affordable."""
    holdout, validation = (min(max(1, round(share * pool_size)), 1000) for share in (0.27, 0.33))
    return SplitSizes(pool_size - holdout - validation, holdout, validation)


def _statistics(dataset: Dataset, index: npt.NDArray[np.int32]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation of some pool images, per channel or per feature.

    The moments of single images are kept, so that the cost does not depend on their pixels; for
    feature vectors it does.
    """
    if len(dataset.image_shape) == 1:
        mean, variance = _mean_and_variance(dataset.images.numpy(), index)
    else:
        means, variances = dataset._pixel_moments
        mean, variance_between = _mean_and_variance(means, index)
        variance = variance_between + variances[index].mean(axis=0)
    std = np.sqrt(variance)
    resolution = np.finfo(np.float32)
    # Rounding errors are no variation, and a subnormal number is not to be divided by.
    constant = (std <= resolution.eps * np.abs(mean)) | (std < resolution.tiny)
    shape = (-1,) + (1,) * (len(dataset.image_shape) - 1)
    mean_tensor, std_tensor = (
        torch.from_numpy(values.astype(np.float32).reshape(shape))
        for values in (mean, np.where(constant, 1.0, std))
    )
    return mean_tensor, std_tensor


def _mean_and_variance(
    rows: npt.NDArray[Any], index: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute both per column, of some rows, in float64 and one pass.

    Differences from one of these rows are summed: they are no larger than the spread asks for, and
    exactly 0 where nothing varies.
    """
    first = rows[index[0]].astype(np.float64)
    total, total_squared = np.zeros_like(first), np.zeros_like(first)
    chunk = 1 + 50_000 // len(first)  # stays in the cache
    for start in range(0, len(index), chunk):
        differences = rows[index[start : start + chunk]] - first
        total += differences.sum(axis=0)
        total_squared += np.einsum("nf,nf->f", differences, differences)
    mean = total / len(index)
    variance = np.maximum(total_squared / len(index) - mean**2, 0)
    return first + mean, variance


# Several data sets in one tensor ------------------------------------------------------------------

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
        device: Where it lies.

    Returns:
        The images, shape (sum of lengths, features), not to be written to, and for each data set
        the position of its first image.

    Raises:
        ValueError: If there is no data set or their numbers of features differ.
    """
    unique = tuple(dict.fromkeys(datasets))
    if len({dataset.num_features for dataset in unique}) != 1:
        listed = ", ".join(f"{dataset.name!r}: {dataset.image_shape}" for dataset in unique)
        raise ValueError(f"datasets must be one or more with equally many features, not {{{listed}}}")
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
