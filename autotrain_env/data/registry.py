"""Where data sets come from: names, files, users' objects."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.utils.data

from autotrain_env.data.dataset import Dataset, SplitSizes, from_recipe
from autotrain_env.data.image_sets import IMAGE_SETS, load_image_set, resolve_data_root
from autotrain_env.data.sampling import cut_off_test_part
from autotrain_env.data.synthetic import SYNTHETIC_KINDS, synthetic
from autotrain_env.data.synthetic_images import IMAGE_NAME, named_images
from autotrain_env.data.torch_datasets import brief, from_torch_dataset
from autotrain_env.errors import InvalidTypeError, InvalidValueError, unknown_name

DatasetSpec: TypeAlias = "str | Dataset | tuple[Any, Any] | torch.utils.data.Dataset[Any]"
_TABLES = ("breast_cancer", "wine")
_BUILT_IN_NAMES = ("digits", "synthetic", *_TABLES, *IMAGE_SETS)
# kind, seed, size, difficulty, features and components (64 and 2 where they are not said)
_SYNTHETIC_NAME = re.compile(
    rf"({'|'.join(SYNTHETIC_KINDS)})-(\d+)-(\d+)-([01]|[01]?\.\d+)(?:-(\d+))?(?:-(\d+))?"
)
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
    | `breast_cancer`, two classes | (30,) | 455 + 114 | 182 / 123 / 150 |
    | `wine`, three classes | (13,) | 142 + 36 | 57 / 38 / 47 |

    Other synthetic sets are named `KIND-SEED-SIZE-DIFFICULTY`, `KIND-SEED-SIZE-DIFFICULTY-FEATURES` or
    `KIND-SEED-SIZE-DIFFICULTY-FEATURES-COMPONENTS`, such as `teacher-3-4000-0.5`, after the arguments of
    `synthetic()`; synthetic images `KIND-SEED-SIZE-DIFFICULTY`, `KIND-SEED-SIZE-DIFFICULTY-CLASSES`,
    `…-CHANNELSxSIDE` or `…-IMBALANCE`, such as `shapes-3-12000-0.5-20-3x32-10`, after those of
    `synthetic_images()`.

    All others have 10 classes. Digits and the two tables are scikit-learn's, with a fixed stratified test
    part; the image sets are torchvision's, with their official test part.

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
        InvalidTypeError: If `spec` is none of the above, or the user's data have a wrong dtype.
        InvalidValueError: If the name is unknown, a data file is damaged, or the user's data are wrong.
        ConnectionError: If a download fails.
    """
    if isinstance(spec, Dataset):
        return spec
    if isinstance(spec, str):
        if spec in _REGISTRY:
            return _load_registered(spec)
        described = _SYNTHETIC_NAME.fullmatch(spec)
        if described:
            kind, seed, size, difficulty, features, components = described.groups()
            return synthetic(
                kind,
                seed=int(seed),
                size=int(size),
                difficulty=float(difficulty),
                num_features=int(features or 64),
                components=int(components or 2),
            )
        return named_images(spec) or _load_built_in(spec, data_root, download)
    if isinstance(spec, tuple) and len(spec) == 2:
        return Dataset.from_arrays(*spec)
    if isinstance(spec, torch.utils.data.Dataset):
        return from_torch_dataset(spec)
    raise InvalidTypeError(
        f"dataset={brief(spec)}: must be a name, a Dataset, a tuple (images, labels) or a "
        "torch.utils.data.Dataset"
    )


def register_dataset(
    name: str, data: DatasetSpec | Callable[[], DatasetSpec], *, overwrite: bool = False
) -> None:
    """Make a data set known under a name, so that `dataset=name` finds it.

    A handle that was found by name keeps it when it is pickled: unless the receiving process has
    registered that name itself, it knows the name from then on. What was pickled by a process that has
    ended, such as a checkpoint, can be read where the same data are registered.

    Args:
        name: The name; not that of a built-in set.
        data: Anything that `load_dataset` takes (use `Dataset.from_arrays` to give a test part or
            default split sizes too), or a function without arguments that returns such, which is
            called once, when the data set is first asked for.
        overwrite: Whether the name may be taken already, and then means this data set from now on.

    Raises:
        InvalidTypeError: If the name is no string, or `data` is nothing that `load_dataset` takes.
        InvalidValueError: If the name is empty, built-in, or taken and `overwrite` is False.
    """
    if not isinstance(name, str):
        raise InvalidTypeError(f"name={name!r}: must be a string")
    if not name or is_built_in(name):
        raise InvalidValueError(
            f"name={name!r}: must not be empty or one of the built-in names "
            f"{', '.join(map(repr, _BUILT_IN_NAMES))}"
        )
    if name in _REGISTRY and not overwrite:
        raise InvalidValueError(f"name={name!r}: registered already; pass overwrite=True to replace it")
    if callable(data) and not isinstance(data, torch.utils.data.Dataset):
        _REGISTRY[name] = data
    else:
        _REGISTRY[name] = load_dataset(data)


def is_built_in(name: str) -> bool:
    """Returns whether a data set of that name comes with the package, or from torchvision."""
    return name in _BUILT_IN_NAMES or any(form.fullmatch(name) for form in (_SYNTHETIC_NAME, IMAGE_NAME))


def _load_registered(name: str) -> Dataset:
    return from_recipe(_rename, _registered_data(name), name)


def _registered_data(name: str) -> Dataset:
    """Returns what is registered under a name, as it was before it had the name."""
    data = _REGISTRY[name]
    if not isinstance(data, Dataset):
        data = _REGISTRY[name] = load_dataset(data())
    return data


def registered_alike(digest: str) -> Dataset | None:
    """Returns a registered data set with the same data, or `None`; those not loaded yet are loaded last.

    Args:
        digest: That of the data; see `Dataset.digest`.
    """
    loaded_first = sorted(_REGISTRY, key=lambda name: not isinstance(_REGISTRY[name], Dataset))
    return next((data for data in map(_registered_data, loaded_first) if data.digest == digest), None)


def _rename(data: Dataset, name: str) -> Dataset:
    """Give a registered set its name; where it arrives from another process, register it too."""
    _REGISTRY.setdefault(name, data)
    return replace(data, name=name)


def _load_built_in(name: str, data_root: str | os.PathLike[str] | None, download: bool) -> Dataset:
    if name not in _BUILT_IN_NAMES:
        raise unknown_name("dataset", name, (*_BUILT_IN_NAMES, *_REGISTRY))
    root = resolve_data_root(data_root) if name in IMAGE_SETS else None
    if (name, root) not in _BUILT_IN:
        if root is not None:
            handle = load_image_set(name, root, download)
        else:
            handle = synthetic() if name == "synthetic" else _read_sklearn(name)
        _BUILT_IN[name, root] = handle
    return _BUILT_IN[name, root]


def _read_sklearn(name: str) -> Dataset:
    return from_recipe(_read_digits) if name == "digits" else from_recipe(_read_table, name)


def _read_table(name: str) -> Dataset:
    from sklearn import datasets

    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    return replace(Dataset.from_arrays(features, labels, name=name), built_in=True)


def _read_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = digits.images[:, np.newaxis] / 16  # inks are 0 … 16
    pool, test = cut_off_test_part(digits.target, 10, _DIGITS_TEST_SIZE)
    dataset = Dataset.from_arrays(
        images[pool],
        digits.target[pool],
        name="digits",
        test_images=images[test],
        test_labels=digits.target[test],
        default_sizes=SplitSizes(400, 300, 400),
    )
    return replace(dataset, built_in=True)
