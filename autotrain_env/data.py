"""Data: shared dataset handles, the four-way split, label noise and the order of minibatches.

A `Dataset` is a handle: one object per process that environments share and never copy. Its images
come in two parts. The *pool* is what the seed of a task divides into train, holdout and validation
(`split_dataset`); the *test part* is the same for every seed and lies outside the pool.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing.util
import operator
import os
import shutil
import struct
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data

from autotrain_env.errors import unknown_name

IntArray: TypeAlias = npt.NDArray[np.integer[Any]]

DATA_ROOT_VARIABLE = "AUTOTRAIN_DATA"
DEFAULT_DATA_ROOT = "~/.cache/autotrain"

# Name of a torchvision data set -> its class in torchvision.datasets.
_TORCHVISION_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
}
_BUILT_IN_NAMES = ("digits", "synthetic", *_TORCHVISION_CLASSES)

_TEST_PART_SEED = 0  # of the test part that is cut off where a data set comes without one
_TEST_FRACTION = 0.2
_DIGITS_TEST_SIZE = 697
_MIN_POOL_SIZE = 3  # one image each for train, holdout and validation


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
    to the process that pickled the handle first (which keeps it beside its own tensor until it
    exits), so that such a pickle is of no use after the end of that process. Unpickled twice in one
    process, it is the same handle twice.

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
        recipe: A function and its arguments that give this handle in another process; None for a
            user's own tensors.
    """

    name: str
    num_classes: int
    images: torch.Tensor
    labels: npt.NDArray[np.int64]
    test_size: int
    default_sizes: SplitSizes
    recipe: tuple[Callable[..., Dataset], tuple[Any, ...]] | None = field(default=None)

    def __post_init__(self) -> None:
        self.labels.flags.writeable = False

    @property
    def pool_size(self) -> int:
        """Number of images that a split seed may divide."""
        return len(self.labels) - self.test_size

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
        name: str | None = None,
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
            name: What messages and logs call the data set; "custom" if None.
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
        image_parts = [_as_image_tensor(images, "images")]
        label_parts = [_as_label_array(labels, "labels", len(image_parts[0]))]
        if test_images is not None:
            image_parts.append(_as_image_tensor(test_images, "test_images"))
            label_parts.append(_as_label_array(test_labels, "test_labels", len(image_parts[1])))
            _check_same_image_shape(image_parts)
        num_classes = _check_classes(label_parts, num_classes)
        if test_images is None:
            test_size = max(1, round(_TEST_FRACTION * len(label_parts[0])))
            image_parts, label_parts = _cut_off_test_part(
                image_parts[0], label_parts[0], num_classes, test_size
            )
        return cls._from_parts(image_parts, label_parts, num_classes, name, default_sizes)

    @classmethod
    def _from_parts(
        cls,
        image_parts: list[torch.Tensor],
        label_parts: list[npt.NDArray[np.int64]],
        num_classes: int,
        name: str | None,
        default_sizes: SplitSizes | None,
    ) -> Dataset:
        """Make a handle from checked pool and test part."""
        name = "custom" if name is None else name
        pool_size, test_size = map(len, label_parts)
        if pool_size < _MIN_POOL_SIZE:
            raise ValueError(
                f"images: {pool_size} besides the {test_size} of the test part; "
                f"at least {_MIN_POOL_SIZE} are needed for train, holdout and validation"
            )
        if default_sizes is None:
            default_sizes = _proportional_sizes(pool_size)
        sizes = _check_sizes("default_sizes", default_sizes, name, pool_size, test_size)
        labels = np.concatenate(label_parts)
        return cls(name, num_classes, _join_as_float(image_parts), labels, test_size, sizes)

    def __copy__(self) -> Dataset:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        return self

    def __reduce__(self) -> tuple[Callable[..., Dataset], tuple[Any, ...]]:
        return self.recipe if self.recipe is not None else (_attach, (_ticket_of(self),))

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {self.pool_size:,} + {self.test_size:,} test images of shape "
            f"{self.image_shape}, {self.num_classes} classes)"
        )

    @functools.cached_property
    def _pool_strata(self) -> _Strata:
        return _Strata(self.labels[: self.pool_size], self.num_classes)

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


DatasetSpec: TypeAlias = "str | Dataset | tuple[Any, Any] | torch.utils.data.Dataset[Any]"


# Where handles come from --------------------------------------------------------------------------

# Built-in sets by name and folder: held until the process ends.
_NAMED_HANDLES: dict[tuple[str, Path | None], Dataset] = {}
# Registered names; a loader stands here until its first use.
_REGISTRY: dict[str, Dataset | Callable[[], DatasetSpec]] = {}
# Handles under another name, by the identity of the handle they hold on to and by that name.
_ALIASES: weakref.WeakValueDictionary[tuple[int, str], Dataset] = weakref.WeakValueDictionary()
# Handles of users' objects by their identities; an entry goes when one of the objects does.
_USER_HANDLES: weakref.WeakValueDictionary[tuple[int, ...], Dataset] = weakref.WeakValueDictionary()
_SYNTHETIC_HANDLES: weakref.WeakValueDictionary[tuple[Any, ...], Dataset] = weakref.WeakValueDictionary()


def load_dataset(
    spec: DatasetSpec, data_root: str | os.PathLike[str] | None = None, download: bool = False
) -> Dataset:
    """Give the handle of a data set, loading it at the first call in this process.

    | name | image shape | pool + test part | default train / holdout / validation |
    |---|---|---|---|
    | `digits` | (1, 8, 8) | 1,100 + 697 | 400 / 300 / 400 |
    | `mnist`, `fashion_mnist`, `kmnist` | (1, 28, 28) | 60,000 + 10,000 | 4,000 / 500 / 500 |
    | `cifar10` | (3, 32, 32) | 50,000 + 10,000 | 4,000 / 500 / 500 |
    | `synthetic` (`synthetic()`) | (64,) | 3,200 + 800 | 1,336 / 864 / 1,000 |

    All have 10 classes. The digits are scikit-learn's, with a fixed stratified test part; the image
    sets are torchvision's, with their official test part.

    The same name (and folder) gives the same handle, and so does the same user's object as long as
    it lives and its handle is in use; later changes of its contents are not seen. To give your own
    data to `gym.make`, which deep-copies arguments, pass the handle.

    Args:
        spec: A built-in or registered name, a handle, a tuple (images, labels) as for
            `Dataset.from_arrays`, or a map-style `torch.utils.data.Dataset` of pairs
            (image, label), which is read once from the first to the last item.
        data_root: Folder with the files of torchvision's sets, laid out as torchvision does it. If
            None, the environment variable AUTOTRAIN_DATA, or else `~/.cache/autotrain`.
        download: Whether torchvision may download what is missing there.

    Returns:
        The handle.

    Raises:
        FileNotFoundError: If files of a torchvision set are missing.
        TypeError: If `spec` is none of the above, or the user's data have a wrong dtype.
        ValueError: If the name is unknown, a data file is damaged, or the user's data are wrong.
        ConnectionError: If a download fails.
    """
    if isinstance(spec, Dataset):
        return spec
    if isinstance(spec, str):
        return _load_by_name(spec, data_root, download)
    if isinstance(spec, tuple) and len(spec) == 2:
        return _remembered(spec, lambda: Dataset.from_arrays(*spec))
    if isinstance(spec, torch.utils.data.Dataset):
        return _remembered((spec,), lambda: _from_torch_dataset(spec))
    raise TypeError(
        f"dataset={_brief(spec)}: must be a name, a Dataset, a tuple (images, labels) or a "
        "torch.utils.data.Dataset"
    )


def register_dataset(
    name: str, data: DatasetSpec | Callable[[], DatasetSpec], *, overwrite: bool = False
) -> None:
    """Make a data set known under a name, so that `dataset=name` finds it.

    A handle that was found by name keeps it when it is pickled: unless the receiving process has
    registered that name itself, it knows the name from then on.

    Args:
        name: The name; not that of a built-in set.
        data: Anything that `load_dataset` takes (use `Dataset.from_arrays` to give a test part or
            default split sizes too), or a function without arguments that returns such, which is
            called once, when the data set is first asked for.
        overwrite: Whether the name may be taken already, and then means this data set from now on.

    Raises:
        TypeError: If the name is no string, or `data` is nothing that `load_dataset` takes.
        ValueError: If the name is empty, built-in, or taken and `overwrite` is False.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r}: must be a string")
    if not name or name in _BUILT_IN_NAMES:
        raise ValueError(
            f"name={name!r}: must not be empty or one of the built-in names "
            f"{', '.join(map(repr, _BUILT_IN_NAMES))}"
        )
    if name in _REGISTRY and not overwrite:
        raise ValueError(f"name={name!r}: registered already; pass overwrite=True to replace it")
    if callable(data) and not isinstance(data, torch.utils.data.Dataset):
        _REGISTRY[name] = data
    else:
        _REGISTRY[name] = _alias(load_dataset(data), name)


def _load_by_name(name: str, data_root: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if name in _REGISTRY:
        return _load_registered(name)
    if name not in _BUILT_IN_NAMES:
        raise unknown_name("dataset", name, (*_BUILT_IN_NAMES, *_REGISTRY))
    root = _resolve_data_root(data_root) if name in _TORCHVISION_CLASSES else None
    if (name, root) not in _NAMED_HANDLES:
        if root is not None:
            handle = _load_torchvision(name, root, download)
        else:
            handle = synthetic() if name == "synthetic" else _load_digits()
        _NAMED_HANDLES[name, root] = handle
    return _NAMED_HANDLES[name, root]


def _load_registered(name: str) -> Dataset:
    entry = _REGISTRY[name]
    if not isinstance(entry, Dataset):
        entry = _REGISTRY[name] = _alias(load_dataset(entry()), name)
    return entry


def _alias(base: Dataset, name: str) -> Dataset:
    """Give the handle of the same images under another name; there is one for each name."""
    handle = _ALIASES.get((id(base), name))
    if handle is None:
        # The recipe keeps `base` alive, so that its identity stays its own.
        handle = replace(base, name=name, recipe=(_receive_registered, (base, name)))
        _ALIASES[id(base), name] = handle
    return handle


def _receive_registered(base: Dataset, name: str) -> Dataset:
    """Unpickle a registered handle: register it here too, unless the name is taken."""
    handle = _alias(base, name)
    _REGISTRY.setdefault(name, handle)
    return handle


def _remembered(sources: tuple[Any, ...], build: Callable[[], Dataset]) -> Dataset:
    """Give the handle built from a user's objects: the same one as long as they and it live."""
    key = tuple(map(id, sources))
    handle = _USER_HANDLES.get(key)
    if handle is None:
        handle = build()
        # Lists and the like cannot be watched, and so are not remembered.
        with contextlib.suppress(TypeError):
            for source in sources:
                weakref.finalize(source, _USER_HANDLES.pop, key, None).atexit = False
            _USER_HANDLES[key] = handle
    return handle


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    image_parts, label_parts = _cut_off_test_part(
        torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16,  # inks are 0 … 16
        digits.target.astype(np.int64),
        num_classes=10,
        test_size=_DIGITS_TEST_SIZE,
    )
    handle = Dataset._from_parts(image_parts, label_parts, 10, "digits", SplitSizes(400, 300, 400))
    return replace(handle, recipe=(load_dataset, ("digits",)))


# Torchvision's files ------------------------------------------------------------------------------


def _resolve_data_root(data_root: str | os.PathLike[str] | None) -> Path:
    if data_root is None:
        data_root = os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA_ROOT
    return Path(data_root).expanduser().resolve()


def _load_torchvision(name: str, root: Path, download: bool) -> Dataset:
    from torchvision import datasets  # takes a second to import

    torchvision_class = getattr(datasets, _TORCHVISION_CLASSES[name])
    if download:
        try:
            torchvision_class(root, download=True)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(f"dataset={name!r}: no download to {root}: {error}") from error
    load = _load_cifar if name == "cifar10" else _load_idx
    (images, labels), (test_images, test_labels) = load(name, root, torchvision_class)
    pool_size = len(labels)
    handle = Dataset.from_arrays(
        images,
        labels,
        name=name,
        num_classes=10,
        test_images=test_images,
        test_labels=test_labels,
        default_sizes=SplitSizes(4000, 500, 500) if pool_size >= 5000 else None,
    )
    return replace(handle, recipe=(load_dataset, (name, str(root))))


def _require_files(name: str, root: Path, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"dataset={name!r}: {missing[0]} is missing (looked in {root}). Get the data with "
            f"download=True, or say with data_root= or the environment variable "
            f"{DATA_ROOT_VARIABLE} which folder holds them in torchvision's layout."
        )


def _load_idx(name: str, root: Path, torchvision_class: Any) -> list[tuple[Any, Any]]:
    """Read MNIST or the like: uint8 images (n, 28, 28) and labels (n,), of train and of test."""
    folder = root / torchvision_class.__name__ / "raw"
    parts = [
        (folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte")
        for part in ("train", "t10k")
    ]
    _require_files(name, root, [path for part in parts for path in part])
    for image_path, label_path in parts:
        num_images = _check_idx_file(image_path, (28, 28))
        num_labels = _check_idx_file(label_path, ())
        if num_images != num_labels:
            raise ValueError(
                f"{label_path}: holds {num_labels:,} labels for the {num_images:,} images of "
                f"{image_path.name}. {_DAMAGED}"
            )
    loaded = [torchvision_class(root, train=train) for train in (True, False)]
    for data, (_, label_path) in zip(loaded, parts, strict=True):
        if data.targets.max() > 9:
            raise ValueError(f"{label_path}: holds labels above 9. {_DAMAGED}")
    return [(data.data, data.targets) for data in loaded]


_DAMAGED = "The file is damaged or not the right one: delete it and get it again (download=True)."


def _check_idx_file(path: Path, entry_shape: tuple[int, ...]) -> int:
    """Check an idx file of bytes against its own header.

    Args:
        path: The file.
        entry_shape: The shape that its entries should have.

    Returns:
        The number of entries.

    Raises:
        ValueError: If the header is not the expected one, or the file's length not what it says.
    """
    rank = 1 + len(entry_shape)
    header_size = 4 * (1 + rank)
    with path.open("rb") as file:
        header = file.read(header_size)
    if len(header) < header_size:
        raise ValueError(f"{path}: {len(header)} bytes are less than a header. {_DAMAGED}")
    magic, count, *shape = struct.unpack(f">{1 + rank}I", header)
    expected_magic = 0x0800 + rank  # 08: unsigned bytes
    if magic != expected_magic:
        raise ValueError(f"{path}: starts with {magic:#010x}, {expected_magic:#010x} expected. {_DAMAGED}")
    if tuple(shape) != entry_shape or count == 0:
        raise ValueError(
            f"{path}: its header says {count:,} entries of shape {tuple(shape)}, expected are some "
            f"of shape {entry_shape}. {_DAMAGED}"
        )
    size, expected_size = path.stat().st_size, header_size + count * math.prod(entry_shape)
    if size != expected_size:
        raise ValueError(
            f"{path}: {size:,} bytes long, {expected_size:,} expected from its header. {_DAMAGED}"
        )
    return int(count)


def _load_cifar(name: str, root: Path, torchvision_class: Any) -> list[tuple[Any, Any]]:
    """Read CIFAR-10: uint8 images (n, 3, 32, 32) and labels (n,), train and test."""
    from torchvision.datasets.utils import check_integrity

    checksums = dict([*torchvision_class.train_list, *torchvision_class.test_list])
    checksums[torchvision_class.meta["filename"]] = torchvision_class.meta["md5"]
    paths = {file: root / torchvision_class.base_folder / file for file in checksums}
    _require_files(name, root, list(paths.values()))
    try:
        loaded = [torchvision_class(root, train=train) for train in (True, False)]
    except RuntimeError:  # torchvision found a wrong checksum, but does not say where
        for file, checksum in checksums.items():
            if not check_integrity(paths[file], checksum):
                raise ValueError(f"{paths[file]}: wrong checksum. {_DAMAGED}") from None
        raise
    return [(data.data.transpose(0, 3, 1, 2), data.targets) for data in loaded]


# Users' objects -----------------------------------------------------------------------------------


def _brief(value: object, limit: int = 80) -> str:
    """Show a value in a message, cut where it is long."""
    text = f"{type(value).__name__} {' '.join(repr(value).split())}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _as_image_tensor(images: Any, argument: str) -> torch.Tensor:
    """Check images and bring them to the CPU, as uint8 or float32, with a channel axis."""
    tensor = images if isinstance(images, torch.Tensor) else _array_to_tensor(images, argument)
    if tensor.is_complex():
        raise TypeError(f"{argument}: dtype {tensor.dtype}; must be a real one")
    if tensor.ndim not in (2, 3, 4):
        raise ValueError(
            f"{argument}: shape {tuple(tensor.shape)}; must be (n, features), (n, height, width) "
            "or (n, channels, height, width)"
        )
    if tensor.numel() == 0:
        raise ValueError(f"{argument}: shape {tuple(tensor.shape)} is empty")
    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
        finite = torch.isfinite(tensor.flatten(start_dim=1)).all(dim=1)
        if not finite.all():
            raise ValueError(
                f"{argument}: {int((~finite).sum())} of {len(finite)} hold a NaN or a value that "
                f"is infinite in float32, the first at position {int(finite.int().argmin())}"
            )
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor


def _array_to_tensor(images: Any, argument: str) -> torch.Tensor:
    array = np.asarray(images)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument}: dtype {array.dtype}; must be a numeric, real one")
    if array.dtype == np.uint8:
        return torch.tensor(np.ascontiguousarray(array))
    with np.errstate(over="ignore"):  # infinite values are reported with their position
        return torch.tensor(np.ascontiguousarray(array, dtype=np.float32))


def _as_label_array(labels: Any, argument: str, num_images: int) -> npt.NDArray[np.int64]:
    """Check the dtype and shape of labels and convert them to int64."""
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    array = np.asarray(labels)
    if array.dtype.kind not in "biu":
        raise TypeError(f"{argument}: dtype {array.dtype}; must be an integer one")
    if array.ndim != 1 or len(array) != num_images:
        raise ValueError(
            f"{argument}: shape {array.shape}; must be ({num_images},), one label for each image"
        )
    return array.astype(np.int64)


def _check_same_image_shape(image_parts: list[torch.Tensor]) -> None:
    shape, test_shape = (tuple(part.shape[1:]) for part in image_parts)
    if shape != test_shape:
        raise ValueError(f"test_images: image shape {test_shape}; must be {shape} as in images")


def _check_classes(label_parts: list[npt.NDArray[np.int64]], num_classes: int | None) -> int:
    """Check all labels against the number of classes, which is found if None, and give it."""
    if num_classes is None:
        num_classes = max(2, 1 + max(int(part.max()) for part in label_parts))
    elif not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes={num_classes!r}: must be an integer, at least 2")
    for argument, part in zip(("labels", "test_labels"), label_parts, strict=False):
        outside = (part < 0) | (part >= num_classes)
        if outside.any():
            first = int(outside.argmax())
            raise ValueError(
                f"{argument}: {int(outside.sum())} of {len(part)} lie outside the classes 0 … "
                f"{num_classes - 1}, the first at position {first}: {part[first]}"
            )
    return num_classes


def _from_torch_dataset(data: torch.utils.data.Dataset[Any]) -> Dataset:
    """Read all items of a map-style data set."""
    if isinstance(data, torch.utils.data.IterableDataset) or not hasattr(data, "__len__"):
        raise TypeError(f"dataset={_brief(data)}: must be map-style, with a length and an index")
    num_items = len(data)
    if num_items == 0:
        raise ValueError(f"dataset={_brief(data)}: is empty")
    items = [_read_item(data, position) for position in range(num_items)]
    images, labels = zip(*items, strict=True)
    for position, image in enumerate(images):
        if image.shape != images[0].shape or image.dtype != images[0].dtype:
            raise ValueError(
                f"dataset={_brief(data)}: item {position} has an image of shape "
                f"{tuple(image.shape)} and {image.dtype}, item 0 one of shape "
                f"{tuple(images[0].shape)} and {images[0].dtype}"
            )
    return Dataset.from_arrays(torch.stack(images), np.array(labels, dtype=np.int64))


def _read_item(data: torch.utils.data.Dataset[Any], position: int) -> tuple[torch.Tensor, int]:
    item = data[position]
    try:
        image, label = item
        return _item_image(image), operator.index(label)
    except (TypeError, ValueError):
        raise TypeError(
            f"dataset={_brief(data)}: item {position} is {_brief(item)}; must be a pair of an "
            "image (tensor, array or PIL image) and an integer label"
        ) from None


def _item_image(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    if hasattr(image, "getbands"):  # a PIL image, in which channels come last
        from torchvision.transforms.functional import pil_to_tensor

        tensor: torch.Tensor = pil_to_tensor(image)
        return tensor
    return torch.tensor(np.asarray(image))


def _cut_off_test_part(
    images: torch.Tensor, labels: npt.NDArray[np.int64], num_classes: int, test_size: int
) -> tuple[list[torch.Tensor], list[npt.NDArray[np.int64]]]:
    """Divide images into pool and test part: stratified, always the same, order kept."""
    order = _Strata(labels, num_classes).draw_order(np.random.default_rng(_TEST_PART_SEED))
    parts = [np.sort(order[test_size:]), np.sort(order[:test_size])]
    return [images[torch.from_numpy(part)] for part in parts], [labels[part] for part in parts]


def _join_as_float(parts: list[torch.Tensor]) -> torch.Tensor:
    """Put uint8 (scaled to [0, 1]) and float32 images one after another into one float32 tensor."""
    joined = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.float32)
    start = 0
    for part in parts:
        target = joined[start : start + len(part)]
        target.copy_(part)
        if part.dtype == torch.uint8:
            target.div_(255)
        start += len(part)
    return joined


# Synthetic sets -----------------------------------------------------------------------------------

_MIXTURE_COMPONENTS = 2  # Gaussians in each class: one hyperplane is not enough
_TEACHER_WIDTH = 32


def synthetic(
    kind: str = "gaussian_mixture",
    *,
    seed: int = 0,
    num_classes: int = 10,
    num_features: int = 64,
    size: int = 4000,
    difficulty: float = 0.5,
) -> Dataset:
    """Make a classification problem of given difficulty out of random numbers.

    `"gaussian_mixture"`: every class is a mixture of two Gaussians in equal shares. Their standard
    deviation grows with the difficulty, from 0.07 to 0.7 of the typical distance between centres.

    `"teacher"`: normally distributed features, labelled by a random network with one hidden layer
    of 32 tanh units whose logits, standardised over the images, receive Gumbel noise of scale
    difficulty²: at 0 the labels are exact, at 1 they are drawn from the softmax.

    With the other arguments equal, sets of different difficulty rest on the same random numbers; a
    greater difficulty only adds noise. The same arguments give the same handle while it is in use,
    and pickling sends nothing but them.

    Args:
        kind: `"gaussian_mixture"` or `"teacher"`.
        seed: Seed of everything.
        num_classes: Number of classes, at least 2.
        num_features: Length of a feature vector; `image_shape` is (num_features,).
        size: Number of vectors: 80% of them form the pool, 20% the test part. At least 4.
        difficulty: From 0 (perfect accuracy is attainable) to 1 (far from it).

    Returns:
        The handle.

    Raises:
        ValueError: If an argument is out of its range or `kind` is unknown.
    """
    if kind not in _SYNTHETIC_KINDS:
        raise unknown_name("kind", kind, _SYNTHETIC_KINDS)
    lower_bounds = {"seed": 0, "num_classes": 2, "num_features": 1, "size": _MIN_POOL_SIZE + 1}
    numbers = {"seed": seed, "num_classes": num_classes, "num_features": num_features, "size": size}
    for argument, lower_bound in lower_bounds.items():
        number = numbers[argument]
        if not isinstance(number, int) or number < lower_bound:
            raise ValueError(f"{argument}={number!r}: must be an integer, at least {lower_bound}")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty={difficulty!r}: must lie in [0, 1]")
    return _synthetic(kind, seed, num_classes, num_features, size, float(difficulty))


def _synthetic(
    kind: str, seed: int, num_classes: int, num_features: int, size: int, difficulty: float
) -> Dataset:
    arguments = (kind, seed, num_classes, num_features, size, difficulty)
    handle = _SYNTHETIC_HANDLES.get(arguments)
    if handle is None:
        generator = np.random.default_rng(seed)
        features, labels = _SYNTHETIC_KINDS[kind](generator, num_classes, num_features, size, difficulty)
        pool_size = size - max(1, round(_TEST_FRACTION * size))
        handle = Dataset.from_arrays(
            features[:pool_size],
            labels[:pool_size],
            name="synthetic",
            num_classes=num_classes,
            test_images=features[pool_size:],
            test_labels=labels[pool_size:],
        )
        handle = replace(handle, recipe=(_synthetic, arguments))
        _SYNTHETIC_HANDLES[arguments] = handle
    return handle


def _gaussian_mixture(
    generator: np.random.Generator,
    num_classes: int,
    num_features: int,
    size: int,
    difficulty: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    labels = generator.permutation(np.arange(size, dtype=np.int64) % num_classes)
    centres = generator.standard_normal((num_classes, _MIXTURE_COMPONENTS, num_features))
    component = generator.integers(_MIXTURE_COMPONENTS, size=size)
    noise = generator.standard_normal((size, num_features))
    # Centres lie about √(2 · features) apart.
    noise_std = math.sqrt(num_features) * 0.1 * 10**difficulty
    features = centres[labels, component] + noise_std * noise
    return features / math.sqrt(1 + noise_std**2), labels


def _teacher_network(
    generator: np.random.Generator,
    num_classes: int,
    num_features: int,
    size: int,
    difficulty: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    features = generator.standard_normal((size, num_features))
    hidden_weights = generator.standard_normal((num_features, _TEACHER_WIDTH))
    output_weights = generator.standard_normal((_TEACHER_WIDTH, num_classes))
    logits = np.tanh(features @ hidden_weights / math.sqrt(num_features)) @ output_weights
    logits = (logits - logits.mean(axis=0)) / logits.std(axis=0)
    noise = generator.gumbel(size=logits.shape)
    return features, np.argmax(logits + difficulty**2 * noise, axis=1).astype(np.int64)


_SYNTHETIC_KINDS = {"gaussian_mixture": _gaussian_mixture, "teacher": _teacher_network}


# Travelling through shared memory -----------------------------------------------------------------


class _Ticket(NamedTuple):
    """What a pickle of a user's data set holds: where its images and labels lie, and the rest."""

    block: str
    process: int
    name: str
    num_classes: int
    images_shape: tuple[int, ...]
    test_size: int
    default_sizes: SplitSizes


# Handles that have a block of shared memory, and the same from block to handle.
_TICKETS: weakref.WeakKeyDictionary[Dataset, _Ticket] = weakref.WeakKeyDictionary()
_ATTACHED: weakref.WeakValueDictionary[str, Dataset] = weakref.WeakValueDictionary()


class _MappedBytes:
    """The bytes of an attached block for NumPy, mapped as long as an array or tensor uses them.

    An array made from this object holds on to it, and it to the block. An array made from the
    block's own buffer would make the block fail to close, with a message on stderr.
    """

    def __init__(self, block: SharedMemory) -> None:
        self.block = block
        view = np.ndarray(block.size, dtype=np.uint8, buffer=block.buf)
        self.__array_interface__ = view.__array_interface__


def _ticket_of(dataset: Dataset) -> _Ticket:
    """Give the ticket of a handle; at the first call, put its tensors into shared memory."""
    ticket = _TICKETS.get(dataset)
    if ticket is None:
        num_bytes = dataset.labels.nbytes + dataset.images.nbytes
        _check_shared_memory(dataset.name, num_bytes)
        block = SharedMemory(create=True, size=num_bytes)
        images, labels = _map_block(block, tuple(dataset.images.shape))
        images.copy_(dataset.images)
        labels[:] = dataset.labels
        # Negative: after the end of child processes, which may still have to attach. The handle is
        # among the arguments to live as long as its block does.
        multiprocessing.util.Finalize(None, _unlink, args=(block, dataset), exitpriority=-100)
        ticket = _Ticket(
            block.name,
            os.getpid(),
            dataset.name,
            dataset.num_classes,
            tuple(dataset.images.shape),
            dataset.test_size,
            dataset.default_sizes,
        )
        _TICKETS[dataset] = ticket
        _ATTACHED[block.name] = dataset
    return ticket


def _attach(ticket: _Ticket) -> Dataset:
    """Unpickle a user's data set: map the shared memory, or find the handle that did so before."""
    handle = _ATTACHED.get(ticket.block)
    if handle is None:
        try:
            block = _open_block(ticket.block)
        except FileNotFoundError:
            raise RuntimeError(
                f"dataset {ticket.name!r}: process {ticket.process}, which pickled it, has ended "
                "or runs on another machine, and its shared memory is gone. Load or register the "
                "data in this process instead (load_dataset, register_dataset)."
            ) from None
        images, labels = _map_block(block, ticket.images_shape)
        handle = Dataset(
            ticket.name,
            ticket.num_classes,
            images,
            labels,
            ticket.test_size,
            ticket.default_sizes,
        )
        _TICKETS[handle] = ticket
        _ATTACHED[ticket.block] = handle
    return handle


def _map_block(
    block: SharedMemory, images_shape: tuple[int, ...]
) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """View a block as labels (first, being wider) and images."""
    memory = np.asarray(_MappedBytes(block))
    labels_end = images_shape[0] * np.dtype(np.int64).itemsize
    images_end = labels_end + math.prod(images_shape) * np.dtype(np.float32).itemsize
    images = memory[labels_end:images_end].view(np.float32).reshape(images_shape)
    return torch.from_numpy(images), memory[:labels_end].view(np.int64)


def _open_block(name: str) -> SharedMemory:
    """Attach to a block without becoming its owner."""
    if sys.version_info >= (3, 13):
        return SharedMemory(name, track=False)
    # Older versions let the tracker remove the block when the first process attached to it ends.
    register = resource_tracker.register
    resource_tracker.register = lambda name, rtype: None
    try:
        return SharedMemory(name)
    finally:
        resource_tracker.register = register


def _unlink(block: SharedMemory, dataset: Dataset) -> None:
    with contextlib.suppress(FileNotFoundError):
        block.unlink()


def _check_shared_memory(name: str, num_bytes: int) -> None:
    """Report a lack of shared memory, which otherwise kills the process at the first write."""
    folder = "/dev/shm"
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else math.inf
    if num_bytes > free:
        raise OSError(
            f"dataset {name!r}: {num_bytes / 1e6:,.1f} MB of shared memory are needed to send it "
            f"to another process, {free / 1e6:,.1f} MB are free in {folder} (containers often set "
            "a low limit). Raise it, or load the data in each process."
        )


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
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise={label_noise!r}: must lie in [0, 1]")
    order_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
    order = dataset._pool_strata.draw_order(np.random.default_rng(order_seed)).astype(np.int32)
    validation, noisy = np.split(order[: sizes.total], [sizes.validation])
    holdout, train = np.split(noisy, [sizes.holdout])
    noisy_labels = dataset.labels[noisy]
    if label_noise > 0:
        noise = np.random.default_rng(noise_seed).random(len(noisy))
        noisy_labels = _add_label_noise(noisy_labels, noise, label_noise, dataset.num_classes)
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


class _Strata:
    """What all stratified orders of the same labels have in common.

    In such an order the images of a class with count n stand at (0 + u)/n, (1 + u)/n, … of the way,
    with one random number u in [0, 1) per class, and images of a class are in random order. So a
    stretch holds of each class its share to within one image where classes are equally large, and
    to within a few otherwise.
    """

    def __init__(self, labels: npt.NDArray[np.int64], num_classes: int) -> None:
        # NumPy sorts 16-bit integers in linear time.
        dtype = np.int16 if num_classes <= np.iinfo(np.int16).max else np.int64
        self.labels: IntArray = labels.astype(dtype)
        counts = np.bincount(labels, minlength=num_classes)
        self.spacing = 1 / np.maximum(counts, 1)
        self.grouped_labels = np.sort(self.labels)
        rank = np.arange(len(labels)) - (np.cumsum(counts) - counts)[self.grouped_labels]
        self.grouped_places = rank * self.spacing[self.grouped_labels]

    def draw_order(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw a stratified order: positions of the labels, shape (number of labels,)."""
        shuffled = generator.permutation(len(self.labels))
        grouped = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        offsets = generator.random(len(self.spacing)) * self.spacing
        places = self.grouped_places + offsets[self.grouped_labels]
        return grouped[np.argsort(places, kind="stable")]


def _add_label_noise(
    labels: npt.NDArray[np.int64],
    noise: npt.NDArray[np.float64],
    probability: float,
    num_classes: int,
) -> npt.NDArray[np.int64]:
    """Exchange the labels whose noise, uniform in [0, 1), lies below the probability.

    Given that it does, noise / probability is uniform again, and chooses among the other classes:
    it is 1 − 2⁻⁵³ at most, so that its product with an integer never rounds up to that integer.
    """
    changed = np.flatnonzero(noise < probability)
    choice = (noise[changed] / probability * (num_classes - 1)).astype(np.int64)
    noisy_labels = labels.copy()
    noisy_labels[changed] = (labels[changed] + 1 + choice) % num_classes
    return noisy_labels


def _statistics(dataset: Dataset, index: npt.NDArray[np.int32]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation of some pool images, per channel or per feature.

    The moments of single images are kept, so that the cost does not depend on their pixels; for
    feature vectors it does.
    """
    if len(dataset.image_shape) == 1:
        means = dataset.images.numpy()[index].astype(np.float64)  # (images, features), a copy
        variance_within = 0.0
    else:
        all_means, all_variances = dataset._pixel_moments
        means = all_means[index]  # (images, channels), a copy
        variance_within = all_variances[index].mean(axis=0)
    mean = means.mean(axis=0)
    means -= mean
    std = np.sqrt(variance_within + np.square(means, out=means).mean(axis=0))
    resolution = np.finfo(np.float32)
    # Rounding errors are no variation, and a subnormal number is not to be divided by.
    constant = (std <= resolution.eps * np.abs(mean)) | (std < resolution.tiny)
    shape = (-1,) + (1,) * (len(dataset.image_shape) - 1)
    statistics = (mean, np.where(constant, 1.0, std))
    mean_tensor, std_tensor = (
        torch.from_numpy(values.astype(np.float32).reshape(shape)) for values in statistics
    )
    return mean_tensor, std_tensor


class EpochSampler:
    """Draws positions for minibatches, one permutation of all of them per epoch.

    The stream of positions is the permutations one after the other: a minibatch may begin in one
    epoch and end in the next. How many positions a call asks for does not change the stream.

    Args:
        generator: Where the permutations come from; advances with the draws.
        size: Number of positions in an epoch, at least 1.

    Raises:
        ValueError: If `size` is below 1.
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        if size < 1:
            raise ValueError(f"size={size!r}: must be at least 1")
        self.generator = generator
        self.size = size
        self.pending: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)  # rest of the epoch

    def draw(self, count: int) -> npt.NDArray[np.int32]:
        """Draw the next positions.

        Args:
            count: How many.

        Returns:
            Positions in [0, size), int32, shape (count,).

        Raises:
            ValueError: If `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count={count!r}: must not be negative")
        missing = count - len(self.pending)
        if missing > 0:
            epochs = np.empty((math.ceil(missing / self.size), self.size), dtype=np.int32)
            epochs[:] = np.arange(self.size, dtype=np.int32)
            self.generator.permuted(epochs, axis=1, out=epochs)
            self.pending = np.concatenate([self.pending, epochs.ravel()])
        drawn, self.pending = self.pending[:count], self.pending[count:]
        return drawn


# Several data sets in one tensor ------------------------------------------------------------------

# The keys hold on to the handles as long as the pool is in use, so that a pool is never mistaken.
_POOLS: weakref.WeakValueDictionary[tuple[tuple[Dataset, ...], torch.dtype, torch.device], torch.Tensor] = (
    weakref.WeakValueDictionary()
)


def image_pool(
    datasets: tuple[Dataset, ...], dtype: torch.dtype, device: torch.device | str
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Give all images of data sets of equal image shape in one tensor.

    The same data sets, dtype and device give the same tensor as long as somebody holds it (the
    tensor itself: a view does not count). One data set in float32 on the CPU is its `images`, not a
    copy.

    Args:
        datasets: The data sets, at least one; one that occurs twice is stored once.
        dtype: The dtype of the pool.
        device: Where it lies.

    Returns:
        The images, shape (sum of lengths, *image_shape), not to be written to, and for each data
        set the position of its first image.

    Raises:
        ValueError: If there is no data set or their image shapes differ.
    """
    unique = tuple(dict.fromkeys(datasets))
    shapes = {dataset.image_shape for dataset in unique}
    if len(shapes) != 1:
        listed = ", ".join(f"{dataset.name!r}: {dataset.image_shape}" for dataset in unique)
        raise ValueError(f"datasets must be one or more of equal image shape, not {{{listed}}}")
    lengths = [len(dataset.labels) for dataset in unique]
    starts = dict(zip(unique, np.cumsum([0, *lengths]).tolist(), strict=False))
    offsets = tuple(starts[dataset] for dataset in datasets)
    device = torch.empty(0, device=device).device  # "cuda" -> "cuda:0"
    key = (unique, dtype, device)
    pool = _POOLS.get(key)
    if pool is None:
        if len(unique) == 1 and (dtype, device.type) == (torch.float32, "cpu"):
            return unique[0].images, offsets
        pool = torch.empty((sum(lengths), *unique[0].image_shape), dtype=dtype, device=device)
        for dataset in unique:
            start = starts[dataset]
            pool[start : start + len(dataset.labels)].copy_(dataset.images)
        _POOLS[key] = pool
    return pool, offsets
