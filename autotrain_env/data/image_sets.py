"""Image sets, downloaded and read by torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autotrain_env.data.dataset import Dataset, SplitSizes, from_recipe
from autotrain_env.errors import InvalidValueError

DATA_ROOT_VARIABLE = "AUTOTRAIN_DATA"
DEFAULT_DATA_ROOT = "~/.cache/autotrain"

# Name of an image set -> its class in torchvision.datasets.
IMAGE_SETS = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
}
_DAMAGED = "The file is damaged or not the right one: delete it and get it again (download=True)."


def resolve_data_root(data_root: str | os.PathLike[str] | None) -> Path:
    """Find the folder that holds the image sets.

    Args:
        data_root: The folder; if None, that of the environment variable, or else the default one.

    Returns:
        Its absolute path; it need not exist.
    """
    if data_root is None:
        data_root = os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA_ROOT
    return Path(data_root).expanduser().resolve()


def load_image_set(name: str, root: Path, download: bool) -> Dataset:
    """Read an image set, which may be downloaded where files are missing.

    Args:
        name: One of `IMAGE_SETS`.
        root: The folder that holds the image sets, as torchvision lays them out.
        download: Whether to download what is missing.

    Returns:
        The handle.

    Raises:
        FileNotFoundError: If files are missing, and `download` is False.
        ValueError: If a file is damaged.
        ConnectionError: If the download fails.
    """
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
        getattr(datasets, IMAGE_SETS[name])(root, download=True)
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


def _read_mnist(name: str, root: Path) -> list[tuple[Any, Any]]:
    """Read MNIST or the like: uint8 images (n, 28, 28) and labels (n,), of train and of test."""
    from torchvision.datasets import mnist  # takes a second to import

    folder = root / IMAGE_SETS[name] / "raw"
    paths = [
        (folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte")
        for part in ("train", "t10k")
    ]
    _require_files(name, root, [path for pair in paths for path in pair])
    parts = [
        (_read(mnist.read_image_file, image_path), _read(mnist.read_label_file, label_path))
        for image_path, label_path in paths
    ]
    for (images, labels), (image_path, label_path) in zip(parts, paths, strict=True):
        if images.shape[1:] != (28, 28):
            raise InvalidValueError(
                f"{image_path}: holds images of shape {tuple(images.shape[1:])}. {_DAMAGED}"
            )
        if len(images) != len(labels):
            raise InvalidValueError(
                f"{label_path}: holds {len(labels):,} labels for the {len(images):,} images of "
                f"{image_path.name}. {_DAMAGED}"
            )
        if len(labels) == 0 or labels.max() > 9:
            raise InvalidValueError(f"{label_path}: holds no labels, or labels above 9. {_DAMAGED}")
    return parts


def _read(read: Callable[[str], Tensor], path: Path) -> Tensor:
    try:
        return read(str(path))
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). {_DAMAGED}"
        ) from error


def _read_cifar(name: str, root: Path) -> list[tuple[Any, Any]]:
    """Read CIFAR-10: uint8 images (n, 3, 32, 32) and labels (n,), of train and of test."""
    from torchvision.datasets import CIFAR10  # takes a second to import
    from torchvision.datasets.utils import check_integrity

    folder = root / CIFAR10.base_folder
    checksums = [*CIFAR10.train_list, *CIFAR10.test_list, (CIFAR10.meta["filename"], CIFAR10.meta["md5"])]
    _require_files(name, root, [folder / file for file, _ in checksums])
    for file, checksum in checksums:
        if not check_integrity(str(folder / file), checksum):
            raise InvalidValueError(f"{folder / file}: wrong checksum. {_DAMAGED}")
    parts = [CIFAR10(root, train=train) for train in (True, False)]
    return [(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in parts]
