"""Image sets, downloaded and read by torchvision."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

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
_Parts: TypeAlias = "list[tuple[Any, Any]]"  # images and labels, of train and of test
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
        InvalidValueError: If a file is damaged.
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
    try:
        _torchvision_class(name)(root, download=True)
    except (OSError, RuntimeError) as error:
        raise ConnectionError(f"dataset={name!r}: no download to {root}: {error}") from error


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # takes a second to import

    return getattr(datasets, IMAGE_SETS[name])


def _read_image_set(name: str, root: str) -> Dataset:
    read = _read_cifar if name == "cifar10" else _read_mnist
    (images, labels), (test_images, test_labels) = read(name, Path(root))
    dataset = Dataset.from_arrays(
        images,
        labels,
        name=name,
        num_classes=10,
        test_images=test_images,
        test_labels=test_labels,
        default_sizes=SplitSizes(4000, 500, 500) if len(labels) >= 5000 else None,
    )
    return replace(dataset, built_in=True)


def _require_files(name: str, root: Path, paths: list[Path]) -> None:
    # torchvision would say no more than that the data set was not found.
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"dataset={name!r}: {missing[0]} is missing (looked in {root}). Get the data with "
            f"download=True, or say with data_root= or the environment variable "
            f"{DATA_ROOT_VARIABLE} which folder holds them in torchvision's layout."
        )


def _read_cifar(name: str, root: Path) -> _Parts:
    """Read CIFAR-10: uint8 images (n, 3, 32, 32) and labels (n,)."""
    from torchvision.datasets.utils import check_integrity

    kind = _torchvision_class(name)
    files = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
    checksums = {root / kind.base_folder / file: checksum for file, checksum in files}
    _require_files(name, root, list(checksums))
    try:
        parts = [kind(root, train=train) for train in (True, False)]
    except RuntimeError as error:  # which does not say which of the files it is
        wrong = next(path for path, checksum in checksums.items() if not check_integrity(path, checksum))
        raise InvalidValueError(f"{wrong}: wrong checksum. {_DAMAGED}") from error
    return [(part.data.transpose(0, 3, 1, 2), np.array(part.targets)) for part in parts]


def _read_mnist(name: str, root: Path) -> _Parts:
    """Read MNIST or the like: uint8 images (n, 28, 28) and labels (n,).

    Files are read one by one with torchvision's functions. Its class does the same, but neither says which
    file is damaged nor notices images of another size, or labels that do not fit the images.
    """
    from torchvision.datasets import mnist

    kind = _torchvision_class(name)
    folder = root / kind.__name__ / "raw"
    paths = [folder / Path(url).stem for url, _ in kind.resources]  # of train, then of test
    _require_files(name, root, paths)
    parts = []
    for image_path, label_path in zip(paths[::2], paths[1::2], strict=True):
        images = _read(mnist.read_image_file, image_path)
        labels = _read(mnist.read_label_file, label_path)
        _check_part(images, labels, image_path, label_path)
        parts.append((images, labels))
    return parts


def _check_part(images: Tensor, labels: Tensor, image_path: Path, label_path: Path) -> None:
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


def _read(read: Callable[[str], Tensor], path: Path) -> Tensor:
    try:
        return read(str(path))
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidValueError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). {_DAMAGED}"
        ) from error
