"""Data: shared dataset handles, the four-way split, and pools of images.

A `Dataset` is a handle: one object per process that environments share and never copy. Its images
come in two parts. The *pool* is what the seed of a task divides into train, holdout and validation
(`split_dataset`); the *test part* is the same for every seed and lies outside the pool.
"""

from __future__ import annotations

import functools
import hashlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autotrain_env.data import sharing
from autotrain_env.data.arrays import as_images, as_labels, check_classes, join_as_float
from autotrain_env.data.sampling import cut_off_test_part
from autotrain_env.errors import InvalidTypeError, InvalidValueError

Recipe: TypeAlias = "tuple[Callable[..., Dataset], tuple[Any, ...]]"
TEST_FRACTION = 0.2  # of the images, where a data set comes without a test part


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
        """Returns the number of images in the three parts together."""
        return self.train + self.holdout + self.validation


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A handle to labelled images, shared by everything in a process that uses them.

    Copies and deep copies return the handle itself. How it pickles depends on where it comes from:
    a built-in set travels as its name and folder, a synthetic one as its arguments, a user's own
    through shared memory, which the receiving process maps without copying. That memory belongs
    to the process that pickled the handle first and stays there until that process ends; afterwards
    such a pickle can be read where the same data are registered, under any name
    (`register_dataset`). Unpickled twice in one process, it is the same handle twice.

    Handles are made by `load_dataset`, `Dataset.from_arrays` and `synthetic`, not by the
    constructor.

    Attributes:
        name: What messages and logs call the data set.
        num_classes: Number of classes C; labels are 0 … C − 1.
        images: Images, float32, on the CPU, contiguous, shape (pool_size + test_size, *image_shape):
            first the pool, then the test part. Not normalised: pixels lie in [0, 1], other features
            are as the user gave them. Must not be written to.
        labels: Labels, int64, read-only, shape (pool_size + test_size,).
        test_size: Number of images in the test part.
        default_sizes: Split sizes for users who give none.
        recipe: A function and its arguments that make this handle in another process; None for a
            user's own tensors.
        built_in: Whether it comes with the package, or from torchvision by name; a user's own data do not.
        from_bytes: Whether the images were bytes, which are divided by 255.
    """

    name: str
    num_classes: int
    images: torch.Tensor
    labels: npt.NDArray[np.int64]
    test_size: int
    default_sizes: SplitSizes
    recipe: Recipe | None = None
    built_in: bool = False
    from_bytes: bool = False

    def __post_init__(self) -> None:
        self.labels.flags.writeable = False

    @property
    def pool_size(self) -> int:
        """Returns the number of images that a split seed may divide."""
        return len(self.labels) - self.test_size

    @property
    def num_features(self) -> int:
        """Returns how many numbers make an image."""
        return math.prod(self.image_shape)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Returns the shape of one image: (channels, height, width) or (features,)."""
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
            images: Images, shape (n, features), (n, height, width) or (n, channels, height, width), any
                real dtype. Values of dtype uint8 are divided by 255; all others are only converted
                to float32.
            labels: Integers 0 … C − 1, shape (n,).
            name: What messages and logs call the data set.
            num_classes: Number of classes C, at least 2; the largest label + 1 if None.
            test_images: The test part; if None, a fixed stratified 20% of `images` is taken out of
                the pool for it, the same one in every process.
            test_labels: Labels of the test part.
            default_sizes: Split sizes for users who give none. If None, the holdout gets 27% and
                the validation part 33% of the pool, but at most 1,000 images each, and train the
                rest.

        Returns:
            A new handle.

        Warns:
            UserWarning: If channels seem to come last, or `num_classes` is not given and a class has no
                image.

        Raises:
            InvalidTypeError: If images or labels have a wrong dtype, or one of images and test images are
                bytes.
            InvalidValueError: If there is no image, numbers of images and labels differ, a shape is
                wrong, an image holds a NaN or an infinite value, a label lies outside the classes,
                or the default sizes exceed the pool.
        """
        if (test_images is None) != (test_labels is None):
            raise InvalidValueError("test_images and test_labels must be given together or not at all")
        image_parts = [as_images(images, "images")]
        label_parts = [as_labels(labels, "labels", len(image_parts[0]))]
        if test_images is not None:
            image_parts.append(as_images(test_images, "test_images"))
            label_parts.append(as_labels(test_labels, "test_labels", len(image_parts[1])))
            shape, test_shape = (tuple(part.shape[1:]) for part in image_parts)
            if shape != test_shape:
                raise InvalidValueError(
                    f"test_images: image shape {test_shape}; must be {shape} as in images"
                )
            dtypes = [part.dtype for part in image_parts]
            if (dtypes[0] == torch.uint8) != (dtypes[1] == torch.uint8):
                raise InvalidTypeError(
                    f"test_images: dtype {dtypes[1]}, but images are of dtype {dtypes[0]}: bytes alone "
                    "are divided by 255, so that both or neither must be bytes"
                )
        num_classes = check_classes(label_parts, num_classes)
        if test_images is None:
            test_size = max(1, round(TEST_FRACTION * len(label_parts[0])))
            pool_and_test = cut_off_test_part(label_parts[0], num_classes, test_size)
            image_parts = [image_parts[0][torch.from_numpy(part)] for part in pool_and_test]
            label_parts = [label_parts[0][part] for part in pool_and_test]
        pool_size, test_size = map(len, label_parts)
        if pool_size < 3:
            raise InvalidValueError(
                f"images: {pool_size} besides the {test_size} of the test part; "
                "at least 3 are needed for train, holdout and validation"
            )
        if default_sizes is None:
            default_sizes = _proportional_sizes(pool_size)
        sizes = check_sizes("default_sizes", default_sizes, name, pool_size, test_size)
        return cls(
            name,
            num_classes,
            join_as_float(image_parts),
            np.concatenate(label_parts),
            test_size,
            sizes,
            from_bytes=image_parts[0].dtype == torch.uint8,
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
    def digest(self) -> str:
        """Returns a hash of all that the data are: equal ones have the same in every process."""
        kept = (self.num_classes, self.test_size, *self.default_sizes, *self.images.shape)
        found = hashlib.blake2b(repr(kept).encode(), digest_size=12)
        for array in (self.images.numpy(), self.labels):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    @functools.cached_property
    def _recipe_of_shared(self) -> Recipe:
        """Returns how others make this handle from shared memory, where the first call puts its tensors."""
        ticket = sharing.share(self.name, self.images, self.labels, self.digest)
        recipe = (
            _attach,
            (ticket, self.num_classes, self.test_size, self.default_sizes, self.from_bytes),
        )
        _HANDLES[recipe] = self
        return recipe

    @functools.cached_property
    def _pixel_moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Returns mean and variance over the pixels of each pool image, float64, (pool_size, channels)."""
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

    Raises:
        SharedMemoryGoneError: If it was a user's own in a process that has ended, and the same data are
            not registered in this one.
    """
    recipe = (make, arguments)
    handle = _HANDLES.get(recipe)
    if handle is None:
        try:
            handle = replace(make(*arguments), recipe=recipe)
        except sharing.SharedMemoryGoneError as gone:
            from autotrain_env.data.registry import registered_alike

            handle = registered_alike(gone.ticket.digest)
            if handle is None:
                raise
        _HANDLES[recipe] = handle
    return handle


def _attach(
    ticket: sharing.Ticket, num_classes: int, test_size: int, default_sizes: SplitSizes, from_bytes: bool
) -> Dataset:
    images, labels = sharing.attach(ticket)
    return Dataset(
        ticket.name, num_classes, images, labels, test_size, default_sizes, from_bytes=from_bytes
    )


def check_sizes(argument: str, sizes: SplitSizes, name: str, pool_size: int, test_size: int) -> SplitSizes:
    """Check the sizes of a split.

    Args:
        argument: The argument's name, as the user wrote it.
        sizes: Numbers of images of train, holdout and validation part.
        name: Name of the data set.
        pool_size: How many images it has to divide.
        test_size: How many images its test part has.

    Returns:
        The sizes, as plain integers.

    Raises:
        InvalidTypeError: If a size is not an integer.
        InvalidValueError: If a size is below 1, or all together exceed the pool.
    """
    for part, size in zip(SplitSizes._fields, sizes, strict=True):
        if not isinstance(size, (int, np.integer)) or isinstance(size, bool):
            raise InvalidTypeError(f"{argument}: {part}={size!r}; must be an integer")
        if size < 1:
            raise InvalidValueError(f"{argument}: {part}={size!r}; must be at least 1")
    sizes = SplitSizes(*map(int, sizes))
    if sizes.total > pool_size:
        raise InvalidValueError(
            f"{argument}: train={sizes.train}, holdout={sizes.holdout} and validation="
            f"{sizes.validation} are {sizes.total:,} images, but dataset {name!r} has "
            f"{pool_size:,} to divide (besides its {test_size:,} test images)"
        )
    return sizes


def _proportional_sizes(pool_size: int) -> SplitSizes:
    """Choose default sizes; the bound keeps evaluations on large sets affordable."""
    holdout, validation = (min(max(1, round(share * pool_size)), 1000) for share in (0.27, 0.33))
    return SplitSizes(pool_size - holdout - validation, holdout, validation)
