"""Image sets: written small in the files' formats, damaged, and the real ones."""

import hashlib
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env import SplitSizes, load_dataset
from autotrain_env.data import registry as datasets
from autotrain_env.data.split import split_dataset


@pytest.fixture(autouse=True)
def _no_sets_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of one test go before the next."""
    monkeypatch.setattr(datasets, "_BUILT_IN", {})


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    magic = 0x0800 + array.ndim if magic is None else magic
    header = struct.pack(f">{1 + array.ndim}I", magic, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_idx_set(folder: Path, train: int = 30, test: int = 10) -> dict[str, np.ndarray]:
    """Write a small set in MNIST's format and return its arrays by file name."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, size in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = generator.integers(256, size=(size, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(size) % 10
    for name, array in arrays.items():
        write_idx(folder / name, array)
    return arrays


IDX_SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.mark.parametrize(("name", "folder"), IDX_SETS.items())
def test_idx_files_are_read_with_the_official_test_part(name: str, folder: str, tmp_path: Path):
    arrays = write_idx_set(tmp_path / folder / "raw")
    handle = load_dataset(name, tmp_path)
    assert (handle.name, handle.pool_size, handle.test_size) == (name, 30, 10)
    assert (handle.image_shape, handle.num_classes) == ((1, 28, 28), 10)
    images, labels = (
        np.concatenate([arrays[f"{part}-{kind}"] for part in ("train", "t10k")])
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    np.testing.assert_array_equal(handle.images[:, 0].numpy(), images.astype(np.float32) / 255)
    np.testing.assert_array_equal(handle.labels, labels)
    assert len(pickle.dumps(handle)) < 500 and pickle.loads(pickle.dumps(handle)) is handle
    assert load_dataset(name, str(tmp_path)) is handle
    assert load_dataset(name, tmp_path / "." / folder / "..") is handle


def test_the_same_name_in_another_folder_is_another_handle(tmp_path: Path):
    for folder in ("a", "b"):
        write_idx_set(tmp_path / folder / "MNIST" / "raw")
    assert load_dataset("mnist", tmp_path / "a") is not load_dataset("mnist", tmp_path / "b")


def test_the_folder_can_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_idx_set(tmp_path / "MNIST" / "raw")
    monkeypatch.setenv("AUTOTRAIN_DATA", str(tmp_path))
    assert load_dataset("mnist") is load_dataset("mnist", tmp_path)


def test_without_a_folder_the_cache_in_the_home_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AUTOTRAIN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="looked in .*/.cache/autotrain") as caught:
        load_dataset("mnist")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", [*IDX_SETS, "cifar10"])
def test_missing_files_are_reported_with_where_and_how(name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset(name, tmp_path / "nowhere")
    for part in (name, str(tmp_path / "nowhere"), "download=True", "data_root=", "AUTOTRAIN_DATA"):
        assert part in str(caught.value)


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "image file cut": (
        "train-images-idx3-ubyte",
        lambda path: cut(path, 5000),
        "cannot be read",
    ),
    "label file cut": (
        "t10k-labels-idx1-ubyte",
        lambda path: cut(path, 12),
        "cannot be read",
    ),
    "header cut": (
        "t10k-images-idx3-ubyte",
        lambda path: cut(path, 7),
        "cannot be read",
    ),
    "empty file": ("train-labels-idx1-ubyte", lambda path: cut(path, 0), "cannot be read"),
    "bytes too many": (
        "train-labels-idx1-ubyte",
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        "cannot be read",
    ),
    "wrong magic number": (
        "train-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((30, 28, 28)), magic=0x0D03),
        "cannot be read",
    ),
    "still compressed": (
        "train-labels-idx1-ubyte",
        lambda path: path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(40)),
        "cannot be read",
    ),
    "images of another size": (
        "t10k-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((10, 32, 32))),
        r"holds images of shape \(32, 32\)",
    ),
    "no images": (
        "t10k-images-idx3-ubyte",
        lambda path: write_idx(path, np.zeros((0, 28, 28))),
        "cannot be read",
    ),
    "a label too few": (
        "train-labels-idx1-ubyte",
        lambda path: write_idx(path, np.arange(29) % 10),
        "holds 29 labels for the 30 images of train-images-idx3-ubyte",
    ),
    "labels of another set": (
        "t10k-labels-idx1-ubyte",
        lambda path: write_idx(path, np.arange(10) + 3),
        "labels above 9",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_idx_files_are_named(damage: str, tmp_path: Path):
    file, do_damage, message = DAMAGES[damage]
    write_idx_set(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / file
    do_damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("mnist", tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "delete it and get it again" in str(caught.value)
    shutil.rmtree(tmp_path / "MNIST")  # what failed once must not be remembered
    write_idx_set(tmp_path / "MNIST" / "raw")
    assert load_dataset("mnist", tmp_path).pool_size == 30


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Write six small batches in CIFAR-10's format, with checksums that torchvision accepts."""
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    batches, checksums = {}, {}
    for file, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        pixels = generator.integers(256, size=(4, 3 * 32 * 32), dtype=np.uint8)
        batches[file] = {"data": pixels, "labels": generator.integers(10, size=4).tolist()}
    for file, content in batches.items():
        (folder / file).write_bytes(pickle.dumps(content))
        checksums[file] = hashlib.md5((folder / file).read_bytes()).hexdigest()
    meta = folder / CIFAR10.meta["filename"]
    meta.write_bytes(pickle.dumps({CIFAR10.meta["key"]: [str(label) for label in range(10)]}))
    checksum = hashlib.md5(meta.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": checksum})
    for attribute in ("train_list", "test_list"):
        files = [[file, checksums[file]] for file, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, files)
    return batches


def test_cifar_batches_are_read_with_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    handle = load_dataset("cifar10", tmp_path)
    assert (handle.pool_size, handle.test_size, handle.image_shape) == (20, 4, (3, 32, 32))
    pixels = np.concatenate([batch["data"] for batch in batches.values()])
    expected = pixels.reshape(24, 3, 32, 32).astype(np.float32) / 255
    np.testing.assert_array_equal(handle.images.numpy(), expected)
    assert handle.images.is_contiguous()
    assert handle.labels.tolist() == sum((batch["labels"] for batch in batches.values()), [])


@pytest.mark.parametrize("file", ["data_batch_1", "data_batch_4", "test_batch"])
def test_damaged_and_missing_cifar_files_are_named(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / file
    cut(path, 40)
    with pytest.raises(ValueError, match="wrong checksum") as caught:
        load_dataset("cifar10", tmp_path)
    assert str(caught.value).startswith(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=file):
        load_dataset("cifar10", tmp_path)


def test_a_download_is_left_to_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import KMNIST

    def download(self: KMNIST) -> None:
        write_idx_set(Path(self.raw_folder))

    monkeypatch.setattr(KMNIST, "download", download)
    with pytest.raises(FileNotFoundError):
        load_dataset("kmnist", tmp_path)
    assert load_dataset("kmnist", tmp_path, download=True).pool_size == 30


def test_a_failed_download_says_what_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import KMNIST

    def fail(self: KMNIST) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(KMNIST, "download", fail)
    with pytest.raises(ConnectionError, match="dataset='kmnist'.*Error downloading train-images"):
        load_dataset("kmnist", tmp_path, download=True)
    write_idx_set(tmp_path / "KMNIST" / "raw")  # what is there already is not downloaded
    assert load_dataset("kmnist", tmp_path, download=True).pool_size == 30


# Real files ----------------------------------------------------------------------------------------

needs_real_data = pytest.mark.skipif(
    not os.environ.get("AUTOTRAIN_DATA"), reason="AUTOTRAIN_DATA names no folder with image sets"
)


MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.realdata
@needs_real_data
@pytest.mark.parametrize(
    ("name", "shape", "pool_counts", "test_counts", "first_labels", "first_test_labels"),
    [
        ("mnist", (1, 28, 28), MNIST_COUNTS, MNIST_TEST_COUNTS, [5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
        ("fashion_mnist", (1, 28, 28), [6000] * 10, [1000] * 10, [9, 0, 0, 3, 0], [9, 2, 1, 1, 6]),
        ("cifar10", (3, 32, 32), [5000] * 10, [1000] * 10, [6, 9, 9, 4, 1], [3, 8, 8, 0, 6]),
    ],
)
def test_real_image_sets(
    name: str,
    shape: tuple[int, ...],
    pool_counts: list[int],
    test_counts: list[int],
    first_labels: list[int],
    first_test_labels: list[int],
):
    handle = load_dataset(name)
    pool = sum(pool_counts)
    assert (handle.pool_size, handle.test_size) == (pool, 10_000)
    assert handle.images.shape == (pool + 10_000, *shape)
    assert np.bincount(handle.labels[:pool]).tolist() == pool_counts
    assert np.bincount(handle.labels[pool:]).tolist() == test_counts
    assert handle.labels[:5].tolist() == first_labels
    assert handle.labels[pool : pool + 5].tolist() == first_test_labels
    assert (handle.images.min(), handle.images.max()) == (0, 1)
    assert handle.default_sizes == SplitSizes(4000, 500, 500)

    split = split_dataset(handle, handle.default_sizes, seed=1, label_noise=0.2)
    assert len(split.train_index) == 4000 and split.test_index.tolist() == [*range(pool, pool + 10_000)]
    drawn = np.concatenate([split.train_index, split.holdout_index, split.validation_index])
    assert len(np.unique(drawn)) == 5000 and drawn.max() < pool
    shares = np.bincount(handle.labels[split.train_index]) / 4000
    assert np.abs(shares - np.array(pool_counts) / pool).max() < 2 / 4000
    std, mean = torch.std_mean(
        handle.images[split.train_index].double(), dim=(0, 2, 3), correction=0, keepdim=True
    )
    torch.testing.assert_close(split.mean, mean[0].float())
    torch.testing.assert_close(split.std, std[0].float())
    assert len(pickle.dumps(handle)) < 500 and pickle.loads(pickle.dumps(handle)) is handle


@pytest.mark.realdata
@needs_real_data
def test_a_real_file_that_was_cut_is_named(tmp_path: Path):
    source = Path(os.environ["AUTOTRAIN_DATA"]) / "MNIST" / "raw"
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    cut_file = folder / "t10k-images-idx3-ubyte"
    content = cut_file.read_bytes()
    cut_file.unlink()
    cut_file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load_dataset("mnist", tmp_path)
    assert str(caught.value).startswith(str(cut_file))
