"""Image sets, read from files as torchvision downloads them."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotrain_env.data import Dataset, SplitSizes, from_recipe

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
    folder = root / IMAGE_SETS[name] / "raw"
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
