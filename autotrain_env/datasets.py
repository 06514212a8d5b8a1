"""Where data sets come from: names, files, users' objects."""

from __future__ import annotations

import hashlib
import math
import operator
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.utils.data

from autotrain_env.data import Dataset, SplitSizes, from_recipe
from autotrain_env.errors import unknown_name
from autotrain_env.sampling import cut_off_test_part
from autotrain_env.synthetic_data import synthetic

DatasetSpec: TypeAlias = "str | Dataset | tuple[Any, Any] | torch.utils.data.Dataset[Any]"

DATA_ROOT_VARIABLE = "AUTOTRAIN_DATA"
DEFAULT_DATA_ROOT = "~/.cache/autotrain"

# Name of an image set -> its class in torchvision.datasets.
_IMAGE_SETS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
}
_BUILT_IN_NAMES = ("digits", "synthetic", *_IMAGE_SETS)
_DIGITS_TEST_SIZE = 697

# Built-in sets by name and folder: held until the process ends.
_BUILT_IN: dict[tuple[str, Path | None], Dataset] = {}
# Registered names; a loader stands here until its first use.
_REGISTRY: dict[str, Dataset | Callable[[], DatasetSpec]] = {}


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

    The same name (and folder) gives the same handle. Your own data are read and copied at every
    call; later changes of their contents are not seen. To give them to `gym.make`, which deep-copies
    arguments, pass the handle.

    Args:
        spec: A built-in or registered name, a handle, a tuple (images, labels) as for
            `Dataset.from_arrays`, or a map-style `torch.utils.data.Dataset` of pairs
            (image, label), which is read once from the first to the last item.
        data_root: Folder with the files of torchvision's sets, laid out as torchvision does it. If
            None, the environment variable AUTOTRAIN_DATA, or else `~/.cache/autotrain`.
        download: Whether torchvision may download a set of which files are missing there.

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
        if spec in _REGISTRY:
            return _load_registered(spec)
        return _load_built_in(spec, data_root, download)
    if isinstance(spec, tuple) and len(spec) == 2:
        return Dataset.from_arrays(*spec)
    if isinstance(spec, torch.utils.data.Dataset):
        return _from_torch_dataset(spec)
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
        _REGISTRY[name] = load_dataset(data)


def _load_registered(name: str) -> Dataset:
    data = _REGISTRY[name]
    if not isinstance(data, Dataset):
        data = _REGISTRY[name] = load_dataset(data())
    return from_recipe(_rename, data, name)


def _rename(data: Dataset, name: str) -> Dataset:
    """Give a registered set its name; where it arrives from another process, register it too."""
    _REGISTRY.setdefault(name, data)
    return replace(data, name=name)


def _load_built_in(name: str, data_root: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if name not in _BUILT_IN_NAMES:
        raise unknown_name("dataset", name, (*_BUILT_IN_NAMES, *_REGISTRY))
    root = _resolve_data_root(data_root) if name in _IMAGE_SETS else None
    if (name, root) not in _BUILT_IN:
        if root is not None:
            handle = _load_image_set(name, root, download)
        else:
            handle = synthetic() if name == "synthetic" else from_recipe(_read_digits)
        _BUILT_IN[name, root] = handle
    return _BUILT_IN[name, root]


def _read_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = digits.images[:, np.newaxis] / 16  # inks are 0 … 16
    pool, test = cut_off_test_part(digits.target, 10, _DIGITS_TEST_SIZE)
    return Dataset.from_arrays(
        images[pool],
        digits.target[pool],
        name="digits",
        test_images=images[test],
        test_labels=digits.target[test],
        default_sizes=SplitSizes(400, 300, 400),
    )


# Image sets in torchvision's files ----------------------------------------------------------------


def _resolve_data_root(data_root: str | os.PathLike[str] | None) -> Path:
    if data_root is None:
        data_root = os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA_ROOT
    return Path(data_root).expanduser().resolve()


def _load_image_set(name: str, root: Path, download: bool) -> Dataset:
    try:
        return from_recipe(_read_image_set, name, str(root))
    except FileNotFoundError:
        if not download:
            raise
    _download(name, root)
    return from_recipe(_read_image_set, name, str(root))


def _download(name: str, root: Path) -> None:
    from torchvision import datasets  # takes a second to import

    try:
        getattr(datasets, _IMAGE_SETS[name])(root, download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"dataset={name!r}: no download to {root}: {error}") from error


def _read_image_set(name: str, root: str) -> Dataset:
    read = _read_cifar if name == "cifar10" else _read_mnist
    (images, labels), (test_images, test_labels) = read(name, Path(root))
    return Dataset.from_arrays(
        images,
        labels,
        name=name,
        num_classes=10,
        test_images=test_images,
        test_labels=test_labels,
        default_sizes=SplitSizes(4000, 500, 500) if len(labels) >= 5000 else None,
    )


def _require_files(name: str, root: Path, paths: list[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"dataset={name!r}: {missing[0]} is missing (looked in {root}). Get the data with "
            f"download=True, or say with data_root= or the environment variable "
            f"{DATA_ROOT_VARIABLE} which folder holds them in torchvision's layout."
        )


_DAMAGED = "The file is damaged or not the right one: delete it and get it again (download=True)."


def _read_mnist(name: str, root: Path) -> list[tuple[Any, Any]]:
    """Read MNIST or the like: uint8 images (n, 28, 28) and labels (n,), of train and of test."""
    folder = root / _IMAGE_SETS[name] / "raw"
    paths = [
        (folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte")
        for part in ("train", "t10k")
    ]
    _require_files(name, root, [path for pair in paths for path in pair])
    parts = [
        (_read_idx(image_path, (28, 28)), _read_idx(label_path, ())) for image_path, label_path in paths
    ]
    for (images, labels), (image_path, label_path) in zip(parts, paths, strict=True):
        if len(images) != len(labels):
            raise ValueError(
                f"{label_path}: holds {len(labels):,} labels for the {len(images):,} images of "
                f"{image_path.name}. {_DAMAGED}"
            )
        if labels.max() > 9:
            raise ValueError(f"{label_path}: holds labels above 9. {_DAMAGED}")
    return parts


def _read_idx(path: Path, entry_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read an idx file of bytes, checking it against its own header.

    Args:
        path: The file.
        entry_shape: The shape that its entries should have.

    Returns:
        The entries, shape (n, *entry_shape).

    Raises:
        ValueError: If the header is not the expected one, or the file's length not what it says.
    """
    content = np.fromfile(path, dtype=np.uint8)
    rank = 1 + len(entry_shape)
    header_size = 4 * (1 + rank)
    if len(content) < header_size:
        raise ValueError(f"{path}: {len(content)} bytes are less than a header. {_DAMAGED}")
    magic, count, *shape = content[:header_size].view(">u4").tolist()
    expected_magic = 0x0800 + rank  # 08: unsigned bytes
    if magic != expected_magic:
        raise ValueError(f"{path}: starts with {magic:#010x}, {expected_magic:#010x} expected. {_DAMAGED}")
    if tuple(shape) != entry_shape or count == 0:
        raise ValueError(
            f"{path}: its header says {count:,} entries of shape {tuple(shape)}, expected are some "
            f"of shape {entry_shape}. {_DAMAGED}"
        )
    expected_size = header_size + count * math.prod(entry_shape)
    if len(content) != expected_size:
        raise ValueError(
            f"{path}: {len(content):,} bytes long, {expected_size:,} expected from its header. {_DAMAGED}"
        )
    return content[header_size:].reshape(count, *entry_shape)


def _read_cifar(name: str, root: Path) -> list[tuple[Any, Any]]:
    """Read CIFAR-10: uint8 images (n, 3, 32, 32) and labels (n,), of train and of test."""
    from torchvision.datasets import CIFAR10  # takes a second to import

    folder = root / CIFAR10.base_folder
    checksums = [CIFAR10.train_list, CIFAR10.test_list]
    _require_files(name, root, [folder / file for part in checksums for file, _ in part])
    parts = []
    for part in checksums:
        batches = [_read_cifar_batch(folder / file, checksum) for file, checksum in part]
        pixels = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([batch["labels"] for batch in batches])
        parts.append((pixels.reshape(-1, 3, 32, 32), labels))
    return parts


def _read_cifar_batch(path: Path, checksum: str) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() != checksum:
        raise ValueError(f"{path}: wrong checksum. {_DAMAGED}")
    batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch


# Users' objects -----------------------------------------------------------------------------------


def _brief(value: object, limit: int = 80) -> str:
    """Show a value in a message, cut where it is long."""
    text = f"{type(value).__name__} {' '.join(repr(value).split())}"
    return text if len(text) <= limit else text[: limit - 1] + "…"


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
    array = np.array(image)
    if hasattr(image, "getbands") and array.ndim == 3:  # a PIL image, in which channels come last
        array = array.transpose(2, 0, 1)
    return torch.from_numpy(array)
