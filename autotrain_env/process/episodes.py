"""Episodes: a task made concrete, with its data, its network's shape and its random streams."""

import functools
import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.data.dataset import Dataset, SplitSizes
from autotrain_env.data.pool import image_pool
from autotrain_env.data.registry import load_dataset
from autotrain_env.data.split import Split, split_dataset
from autotrain_env.errors import check
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.rewards import baseline_curve
from autotrain_env.process.tasks import Task
from autotrain_env.training.architecture import Architecture

GROUPS = ("stack", "training", "evaluation", "test")
"""What lanes can be computed together for; episodes number the groups of lanes that can."""

DEFAULT_BATCH_SIZE = 64
MOST_GROUPS = 1024  # that are remembered

_STREAMS = {
    "task": 0,
    "initialization": 1,
    "minibatches": 2,
    "thresholdout": 3,
    "actions": 4,
    "rewind_noise": 5,
}


def stream(episode_seed: int, name: str, *more: int) -> np.random.Generator:
    """Returns one of an episode's separate random streams.

    Args:
        episode_seed: The number drawn for the episode.
        name: `"task"`, `"initialization"`, `"minibatches"`, `"thresholdout"`, `"actions"` or
            `"rewind_noise"`.
        *more: Further keys: for `"initialization"`, the number of the attempt.
    """
    sequence = np.random.SeedSequence(episode_seed, spawn_key=(_STREAMS[name], *more))
    return np.random.Generator(np.random.PCG64(sequence))


@dataclass
class Episode:
    """What one lane's episode is about, and the streams that drive it."""

    seed: int
    task: Task
    dataset: Dataset
    split: Split
    architecture: Architecture
    batch_size: int
    inner_steps: int
    groups: tuple[int, ...]  # by `GROUPS`: equal for lanes that can be computed together
    offset: int  # of the dataset in the pool
    evaluation_index: np.ndarray  # in the pool: train subset, holdout and validation together, int32
    evaluation_labels: np.ndarray  # int32
    evaluation_parts: tuple[slice, slice, slice]  # where each of these is among them
    action_generator: np.random.Generator
    curve: tuple[np.ndarray, np.ndarray] | None
    attempt: int = 0

    @functools.cached_property
    def noise_generator(self) -> np.random.Generator:
        """Returns the stream of the noise on rewound weights."""
        return stream(self.seed, "rewind_noise")

    @property
    def epochs(self) -> float:
        """Returns how often the budget goes through the train part."""
        return self.task.budget * self.batch_size / len(self.split.train_index)

    def train_examples(self) -> np.ndarray:
        """Returns the train part: positions in the pool and labels, int32, shape (train, 2)."""
        examples = np.empty((len(self.split.train_index), 2), np.int32)
        examples[:, 0] = self.split.train_index + self.offset
        examples[:, 1] = self.split.train_labels
        return examples


class EpisodeMaker:
    """Draws tasks and makes episodes of them; keeps the datasets and networks' shapes that they share.

    Args:
        config: The environment's arguments.

    Raises:
        InvalidValueError: If a task that can be drawn does not fit its data.
        FileNotFoundError: If a dataset is missing.
    """

    def __init__(self, config: AutoTrainConfig) -> None:
        self.config = config
        self.distribution = config.task_distribution
        self.task_level = 0
        # By number of features, in pool order; a number is a gap of so many images.
        self.datasets: dict[int, list[Dataset | int]] = {}
        self._pools: dict[int, Tensor] = {}
        self._architectures: dict[Hashable, Architecture] = {}
        self._trainable: set[tuple[Architecture, int]] = set()  # minibatches that have been tried
        # Numbers, since they are compared at every step; a key's second entry is the architecture.
        self._groups: dict[tuple[Any, ...], int] = {}
        self._next_group = 0
        self._own: tuple[Dataset, ...] = ()  # of the distribution, which stay
        self._check_distribution()
        self._own_architectures = tuple(self._architectures)

    def set_task_level(self, level: int) -> None:
        """Set the curriculum's level for episodes that begin from now on.

        Args:
            level: The level, from 0, the easiest.

        Raises:
            InvalidValueError: If there is no such level.
        """
        highest = len(self.distribution.levels) - 1
        check(0 <= level <= highest, "level", level, f"from 0 to {highest}")
        self.task_level = int(level)

    def _pool_offset(self, dataset: Dataset) -> int:
        """Returns the position of a dataset's first image in the pool of its number of features."""
        datasets = self.datasets.setdefault(dataset.num_features, [])
        if dataset not in datasets:
            _put(datasets, dataset)
            self._pools.pop(dataset.num_features, None)
        before = itertools.takewhile(lambda other: other is not dataset, datasets)
        return sum(map(_length, before))

    def pool(self, num_features: int) -> Tensor:
        """Returns all images that have so many features, in the chosen dtype, shape (total, features)."""
        if num_features not in self._pools:
            parts = self.datasets[num_features]
            datasets = tuple(part for part in parts if isinstance(part, Dataset))
            dtype, device = self.config.torch_dtype, torch.device(self.config.device)
            if len(datasets) == len(parts):
                self._pools[num_features] = image_pool(datasets, dtype, device)[0]
            else:
                gap = torch.zeros(1, num_features, dtype=dtype, device=device)
                self._pools[num_features] = torch.cat(
                    [
                        gap.expand(part, -1)
                        if isinstance(part, int)
                        else part.images.flatten(1).to(device, dtype)
                        for part in parts
                    ]
                )
        return self._pools[num_features]

    def forget_unused(self, episodes: list[Episode | None]) -> None:
        """Let go of what tasks that were given brought with them, once no lane plays them any more.

        Args:
            episodes: The lanes' current episodes.
        """
        current = [episode for episode in episodes if episode is not None]
        used = {id(episode.dataset) for episode in current} | {id(dataset) for dataset in self._own}
        for num_features, parts in list(self.datasets.items()):
            if all(isinstance(part, int) or id(part) in used for part in parts):
                continue
            self._pools.pop(num_features, None)
            self.datasets[num_features] = _joined(
                [part if isinstance(part, int) or id(part) in used else len(part.labels) for part in parts]
            )
        self._forget_shapes(current)

    def _forget_shapes(self, current: list[Episode]) -> None:
        """Let go of networks' shapes and of groups of lanes; see `forget_unused`."""
        if len(self._architectures) > len(self._own_architectures) + len(current):
            shapes = {id(episode.architecture) for episode in current}
            self._architectures = {
                key: architecture
                for key, architecture in self._architectures.items()
                if key in self._own_architectures or id(architecture) in shapes
            }
            kept = {id(architecture) for architecture in self._architectures.values()}
            self._groups = {key: number for key, number in self._groups.items() if id(key[1]) in kept}
            self._trainable = {tried for tried in self._trainable if id(tried[0]) in kept}
        if len(self._groups) > MOST_GROUPS:
            numbers = {number for episode in current for number in episode.groups}
            self._groups = {key: number for key, number in self._groups.items() if number in numbers}

    def make(self, seed: int, task: Task | None) -> Episode:
        """Returns a new episode.

        Args:
            seed: The number drawn for the episode; it decides everything random in it.
            task: The task, or `None` for one drawn at the level that is set.

        Raises:
            InvalidValueError: If the task does not fit its data or the environment.
        """
        config = self.config
        if task is None:
            task = self.distribution.sample(stream(seed, "task"), self.task_level)
        inner_steps = config.check_length(task.budget, task.inner_steps)
        dataset = self._load(task)
        split_sizes = self._sizes(task, dataset)
        batch_size = _batch_size(task, split_sizes)
        split = split_dataset(dataset, split_sizes, task.split_seed, task.label_noise)  # type: ignore[arg-type]
        if config.train_on_holdout:
            split = split.with_holdout_in_train()
        offset = self._pool_offset(dataset)
        subset = split.train_subset
        architecture = self._architecture(task, dataset, batch_size)
        parts = (split.train_index[subset], split.holdout_index, split.validation_index)
        sizes = (len(parts[0]), len(parts[1]), len(parts[2]))
        return Episode(
            seed=seed,
            task=task,
            dataset=dataset,
            split=split,
            architecture=architecture,
            batch_size=batch_size,
            inner_steps=inner_steps,
            groups=self._group_numbers(task, dataset, architecture, (inner_steps, batch_size), sizes),
            offset=offset,
            evaluation_index=np.concatenate(parts) + np.int32(offset),
            evaluation_labels=np.concatenate(
                (split.train_labels[subset], split.holdout_labels, split.validation_labels)
            ).astype(np.int32),
            evaluation_parts=_slices(sizes),
            action_generator=stream(seed, "actions"),
            curve=baseline_curve(config.baseline, task),
        )

    def _group_numbers(
        self,
        task: Task,
        dataset: Dataset,
        architecture: Architecture,
        batches: tuple[int, int],
        evaluation_sizes: tuple[int, int, int],
    ) -> tuple[int, ...]:
        stack = (architecture, task.optimizer.kind)  # type: ignore[union-attr]
        alike = {
            "stack": None,
            "training": batches,
            "evaluation": evaluation_sizes,
            "test": len(dataset.labels) - dataset.pool_size,
        }
        keys = [(name, *stack, alike[name]) for name in GROUPS]
        return tuple(self._group(key) for key in keys)

    def _group(self, key: tuple[Any, ...]) -> int:
        """Returns the number of a group, which no other has had."""
        if key not in self._groups:
            self._groups[key] = self._next_group
            self._next_group += 1
        return self._groups[key]

    def _architecture(self, task: Task, dataset: Dataset, batch_size: int) -> Architecture:
        # What flattens its images serves images and feature vectors alike.
        flat = task.classifier.flattens  # type: ignore[union-attr]
        image_shape = (dataset.num_features,) if flat else dataset.image_shape
        shape = (task.classifier, image_shape, dataset.num_classes)
        if shape not in self._architectures:
            self._architectures[shape] = Architecture(*shape)  # type: ignore[arg-type]
        architecture = self._architectures[shape]
        if (architecture, batch_size) not in self._trainable:
            architecture.check_batch_size(batch_size)
            self._trainable.add((architecture, batch_size))
        return architecture

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images, which are shared."""
        return vars(self) | {"_pools": {}}

    def _check_distribution(self) -> None:
        names = (
            "dataset",
            "train_size",
            "holdout_size",
            "validation_size",
            "batch_size",
            "classifier",
        )
        seen = set()
        for part in (part for level in self.distribution.levels for part in level.parts):
            for values in itertools.product(*(part.possible(name) or [None] for name in names)):
                if values in seen:
                    continue
                seen.add(values)
                given = {n: v for n, v in zip(names, values, strict=True) if v is not None}
                task = Task(**given)
                dataset = self._load(task)
                self._own = (*self._own, *[dataset] * (dataset not in self._own))
                sizes = self._sizes(task, dataset)
                self._architecture(task, dataset, _batch_size(task, sizes))

    def _load(self, task: Task) -> Dataset:
        return load_dataset(task.dataset, self.config.data_root, self.config.download)

    def _sizes(self, task: Task, dataset: Dataset) -> SplitSizes:
        default = dataset.default_sizes
        sizes = SplitSizes(
            task.train_size or default.train,
            task.holdout_size or default.holdout,
            task.validation_size or default.validation,
        )
        check(
            sizes.total <= dataset.pool_size,
            "train_size, holdout_size, validation_size",
            tuple(sizes),
            f"at most {dataset.pool_size} in all, which is what {dataset.name!r} has beside its test part",
        )
        check(
            _batch_size(task, sizes) <= sizes.train,
            "batch_size",
            task.batch_size,
            f"at most train_size={sizes.train}",
        )
        return sizes


def _batch_size(task: Task, sizes: SplitSizes) -> int:
    """Returns the images in a minibatch: so many that an epoch of a small set is several updates."""
    if task.batch_size is not None:
        return task.batch_size
    return min(DEFAULT_BATCH_SIZE, max(1, sizes.train // 4))


def _slices(sizes: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """Returns where parts of given sizes are that stand one after the other."""
    first, second, third = itertools.accumulate(sizes)
    return slice(0, first), slice(first, second), slice(second, third)


def _length(part: Dataset | int) -> int:
    """Returns how many images a part of a pool has room for."""
    return part if isinstance(part, int) else len(part.labels)


def _put(parts: list[Dataset | int], dataset: Dataset) -> None:
    """Put a data set into the first gap of a pool that is large enough, or else at its end."""
    wanted = len(dataset.labels)
    for at, part in enumerate(parts):
        if isinstance(part, int) and part >= wanted:
            parts[at : at + 1] = [dataset, part - wanted] if part > wanted else [dataset]
            return
    parts.append(dataset)


def _joined(parts: list[Dataset | int]) -> list[Dataset | int]:
    """Returns the parts of a pool with adjacent gaps made one, and none at the end."""
    joined: list[Dataset | int] = []
    for part in parts:
        before = joined[-1] if joined else None
        if isinstance(part, int) and isinstance(before, int):
            joined[-1] = before + part
        else:
            joined.append(part)
    return joined[:-1] if joined and isinstance(joined[-1], int) else joined
