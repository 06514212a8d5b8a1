"""States of runs as plain data: JSON and arrays, which can run no code when they are read.

What a run goes on from are objects: lanes, optimisers, random streams. They are written as Python's own
protocol of copies describes them (`__reduce_ex__`): a class, its arguments and its attributes. But where
pickle would call whatever a file names, here a file can name no more than the classes of `CLASSES`,
numbers, texts, arrays and random generators. The rest of an environment is made anew from the run's
configuration.
"""

import collections
import functools
import importlib
import json
import math
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from agents.runs.folder import RunConfig
from autotrain_env import ENVIRONMENTS
from autotrain_env.data.dataset import Dataset
from autotrain_env.data.registry import load_dataset
from autotrain_env.data.synthetic import synthetic
from autotrain_env.errors import InvalidValueError, check, check_name
from autotrain_env.process.config import AutoTrainConfig, make_config
from autotrain_env.schemas import (
    MIB,
    conform,
    listed,
    parse_json,
    read_limited,
    read_tensors,
    structure,
    whole,
)
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.networks import ModuleNetwork

STATE_NAME, ARRAYS_NAME = "state.json", "state.safetensors"
STATE_FORMAT = 4
"""Changes with what checkpoints hold, and where the classes live that they are made of."""
LARGEST_STATE, LARGEST_ARRAYS = 512 * MIB, 65_536 * MIB
MOST_OBJECTS = 10_000_000

_PLACES: dict[str, tuple[str, ...]] = {
    "autotrain_env.data.dataset": ("SplitSizes",),
    "autotrain_env.data.sampling": ("EpochSampler", "StreamPosition", "permute_rows"),
    "autotrain_env.data.split": ("Split",),
    "autotrain_env.evolution.cma_es": ("CMAES", "CMAState", "replayed"),
    "autotrain_env.evolution.estimates": ("Estimate",),
    "autotrain_env.evolution.fitness": ("Shaping",),
    "autotrain_env.evolution.noise": ("LaplaceNoise", "NormalNoise", "StudentTNoise", "UniformNoise"),
    "autotrain_env.evolution.novelty": ("Archive", "Novelty"),
    "autotrain_env.evolution.random_search": ("RandomSearch", "RandomState"),
    "autotrain_env.evolution.sparse": ("SparseEvolutionStrategy", "SparseState"),
    "autotrain_env.evolution.strategy": ("EvolutionState", "EvolutionStrategy"),
    "autotrain_env.evolution.updates": ("ClipUp", "Cosine", "Decay", "Updated"),
    "autotrain_env.policies.moments": ("Moments",),
    "autotrain_env.process.episodes": ("Episode", "EpisodeMaker"),
    "autotrain_env.process.lanes": ("Lanes",),
    "autotrain_env.process.lineage": ("Lineage",),
    "autotrain_env.process.record": ("EpisodeHistory",),
    "autotrain_env.process.stacks": ("Stacks",),
    "autotrain_env.process.task_distributions": (
        *("Choice", "Curriculum", "LogUniform", "Mixture", "RandomSeed", "TaskDistribution", "Uniform"),
    ),
    "autotrain_env.process.tasks": ("Task",),
    "autotrain_env.process.thresholdout": ("Thresholdout",),
    "autotrain_env.training.architecture": ("Architecture",),
    "autotrain_env.training.classifiers": ("CNN", "MLP", "Normalized", "ResNet18"),
    "autotrain_env.training.layout": ("Entry", "Layout"),
    "autotrain_env.training.native.library": ("permute",),
    "autotrain_env.training.networks": ("LoopedNetwork", "StackedMLP", "VmapNetwork"),
    "autotrain_env.training.optimizers": ("Adam", "AdamW", "RMSprop", "SGD"),
    "autotrain_env.training.snapshots": ("SnapshotRing",),
    "autotrain_env.training.stack": ("LaneStack",),
    "agents.evolving.classifiers": ("Chosen", "EvolveProgress"),
    "agents.evolving.evolution": ("Progress",),
    "agents.imitating.imitation": ("ImitationProgress",),
    "agents.imitating.sweeps": ("States",),
}
CLASSES = {name: module for module, names in _PLACES.items() for name in names}
"""All classes and functions that a state may name, and where they live; they keep what they get."""

_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.bool)}
_BIT_GENERATORS = {"PCG64": np.random.PCG64, "MT19937": np.random.MT19937}


@functools.cache
def _named(name: str) -> Any:
    return getattr(importlib.import_module(CLASSES[name]), name)


def write_plain(folder: Path, state: Any) -> None:
    """Write a state as `state.json` and `state.safetensors`.

    Args:
        folder: Folder to write them in.
        state: Numbers, texts, arrays, tensors, random generators, and objects of `CLASSES`, in lists,
            tuples and dictionaries.

    Raises:
        TypeError: If something in it is anything else.
    """
    writer = _Writer()
    root = writer.add(state)
    content = {"format": STATE_FORMAT, "root": root, "objects": writer.objects}
    (folder / STATE_NAME).write_text(json.dumps(content, separators=(",", ":")))
    safetensors.numpy.save_file(writer.arrays, folder / ARRAYS_NAME)


def read_plain(folder: Path, config: AutoTrainConfig | None = None) -> Any:
    """Returns a state that `write_plain` has written. No code of the files' is run by reading them.

    Args:
        folder: Folder with the two files.
        config: The environment's configuration, which the state itself does not hold.

    Raises:
        FileNotFoundError: If a file is missing.
        InvalidValueError: If one is damaged, or was written by a version that writes another format.
    """
    path = folder / STATE_NAME
    content = parse_json(read_limited(path, LARGEST_STATE), str(path))
    if isinstance(content, dict) and content.get("format") != STATE_FORMAT:
        raise other_version(path)
    content = conform(content, _CONTENT, str(path))
    arrays = read_tensors(folder / ARRAYS_NAME, LARGEST_ARRAYS)
    try:
        return _Reader(content["objects"], arrays, config).get(content["root"])
    except (ModuleNotFoundError, AttributeError) as error:  # it names what is no longer there
        raise other_version(path) from error
    except Exception as error:  # what is made of damaged parts may raise anything
        raise InvalidValueError(f"{path} is damaged: {error!r}") from error


def read_state(checkpoint: Path, config: RunConfig) -> dict[str, Any]:
    """Returns the state that a run's checkpoint holds; see `read_plain`.

    Args:
        checkpoint: Folder of the checkpoint.
        config: Configuration of the run.

    Raises:
        InvalidValueError: If it is damaged, or was written by a version that writes another format.
    """
    path = checkpoint / STATE_NAME
    if not path.exists():
        raise other_version(path)
    state = read_plain(checkpoint, make_config({**ENVIRONMENTS[config.env_id], **config.env}))
    if not isinstance(state, dict):
        raise InvalidValueError(f"{path} is damaged: it holds no state of a run")
    return state


def other_version(path: Path) -> InvalidValueError:
    """Make the error for a state that another version has written."""
    return InvalidValueError(
        f"{path} was made by another version of this project: go on with that version, or train anew with "
        f"--overwrite"
    )


_CONTENT = structure(
    {
        "format": whole(),
        "root": lambda field, value: value,
        "objects": listed(lambda field, value: value, MOST_OBJECTS),
    }
)


class _Writer:
    """Takes a state apart: `objects` is a table of its parts, which name each other by their numbers.

    A value is itself where it is a text, a flag, `None` or a whole number, `[number]` of an object in the
    table, or `{"float": …}`.
    """

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the identity of one that is gone

    def add(self, value: Any) -> Any:
        """Returns how a value is written, and puts it into the table where it has parts."""
        if value is None or type(value) in (str, bool, int):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if id(value) not in self._numbers:
            number = len(self.objects)
            self._numbers[id(value)] = number
            self._kept.append(value)
            self.objects.append(None)
            self.objects[number] = self._describe(value)
        return [self._numbers[id(value)]]

    def _describe(self, value: Any) -> dict[str, Any]:
        if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
            return self._array(value)
        if type(value) in (list, tuple, set, frozenset):
            return {type(value).__name__: [self.add(entry) for entry in value]}
        if type(value) in (dict, collections.OrderedDict):
            return {"dict": [[self.add(key), self.add(entry)] for key, entry in value.items()]}
        if type(value) is collections.deque:
            return {"deque": [self.add(entry) for entry in value], "longest": value.maxlen}
        if isinstance(value, slice):
            return {"slice": [self.add(part) for part in (value.start, value.stop, value.step)]}
        if isinstance(value, np.random.Generator):
            return {"generator": self.add(value.bit_generator.state)}
        if isinstance(value, torch.Generator):
            return {"torch_generator": self.add(value.get_state())}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value)}
        if isinstance(value, AutoTrainConfig):
            return {"config": True}
        if isinstance(value, Dataset):
            return {"dataset": _description(value)}
        if isinstance(value, (type, types.FunctionType)):
            return {"class": self._name(value)}
        if isinstance(value, Architecture):
            return self._call(type(value), value.classifier, value.image_shape, value.num_classes)
        if isinstance(value, ModuleNetwork):
            like = next(value.module.parameters())
            return self._call(type(value), value.architecture, like.dtype, like.device)
        return self._object(value)

    def _array(self, value: Any) -> dict[str, Any]:
        if isinstance(value, np.ndarray) and value.dtype == object:
            return {"objects": [self.add(entry) for entry in value.ravel()], "shape": list(value.shape)}
        number = str(len(self.arrays))
        if isinstance(value, torch.Tensor):
            self.arrays[number] = np.ascontiguousarray(value.detach().cpu().numpy())
            return {"tensor": number, "shape": list(value.shape), "device": value.device.type}
        self.arrays[number] = np.ascontiguousarray(value)
        kind = "scalar" if isinstance(value, np.generic) else "array"
        return {kind: number, "shape": list(np.shape(value))}

    def _name(self, kind: Any) -> str:
        name = kind.__name__
        if CLASSES.get(name) != kind.__module__:
            raise TypeError(f"{kind} is nothing that the state of a run may hold")
        return name

    def _call(self, made: Any, *arguments: Any) -> dict[str, Any]:
        return {"call": self._name(made), "arguments": [self.add(entry) for entry in arguments]}

    def _object(self, value: Any) -> dict[str, Any]:
        made, arguments, *more = value.__reduce_ex__(2)
        if made.__name__ != "__newobj__":
            return self._call(made, *arguments)
        state = more[0] if more else None
        if not isinstance(state, (dict, type(None))):  # attributes in slots
            raise TypeError(f"{type(value)} is nothing that the state of a run may hold")
        entries = [self.add(entry) for entry in arguments[1:]]
        return {"new": self._name(arguments[0]), "arguments": entries, "attributes": self.add(state or {})}


def _description(data: Dataset) -> list[Any]:
    """Returns how a data set is found again: by its name, or what it was made of."""
    arguments = data.recipe[1] if data.recipe is not None else ()
    if data.name == "synthetic" and arguments:
        return list(arguments)
    return [data.name]


class _Reader:
    """Puts a state together again.

    Args:
        objects: The table of parts.
        arrays: Arrays by their numbers.
        config: The environment's configuration.
    """

    def __init__(
        self, objects: list[Any], arrays: Mapping[str, torch.Tensor], config: AutoTrainConfig | None
    ) -> None:
        self.objects = objects
        self.arrays = arrays
        self.config = config
        self._made: dict[int, Any] = {}
        self._begun: set[int] = set()

    def get(self, written: Any) -> Any:
        """Returns the value that was written."""
        if isinstance(written, list):
            (number,) = written
            return self._object(number)
        if isinstance(written, dict):
            (text,) = written.values()
            check_name("float", text, ("nan", "inf", "-inf"))
            return float(text)
        return written

    def _object(self, number: Any) -> Any:
        check(type(number) is int and 0 <= number < len(self.objects), "object", number, "one of the table")
        if number not in self._made:
            check(number not in self._begun, "object", number, "no part of itself")
            self._begun.add(number)
            self._made[number] = self._make(self.objects[number])
        return self._made[number]

    def _make(self, described: Any) -> Any:
        check(isinstance(described, dict) and len(described) > 0, "object", described, "an object")
        kind = next(iter(described))
        makers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "tensor": self._tensor,
            "array": lambda part: self._array(part["array"], part).copy(),
            "scalar": lambda part: self._array(part["scalar"], part)[()],
            "objects": self._objects,
            "list": lambda part: self._all(part["list"]),
            "tuple": lambda part: tuple(self._all(part["tuple"])),
            "set": lambda part: set(self._all(part["set"])),
            "frozenset": lambda part: frozenset(self._all(part["frozenset"])),
            "dict": lambda part: {self.get(key): self.get(value) for key, value in part["dict"]},
            "deque": lambda part: collections.deque(self._all(part["deque"]), part["longest"]),
            "slice": lambda part: slice(*self._all(part["slice"])),
            "generator": self._generator,
            "torch_generator": self._torch_generator,
            "device": lambda part: self._device(part["device"]),
            "dtype": lambda part: _DTYPES[part["dtype"]],
            "config": self._config,
            "dataset": lambda part: self._dataset(*part["dataset"]),
            "class": lambda part: self._class(part["class"]),
            "call": lambda part: self._class(part["call"])(*self._all(part["arguments"])),
            "new": self._new,
        }
        check_name("kind of object", kind, makers)
        return makers[kind](described)

    def _all(self, written: list[Any]) -> list[Any]:
        return [self.get(entry) for entry in written]

    def _array(self, number: str, part: dict[str, Any]) -> np.ndarray:
        return self.arrays[number].numpy().reshape(part["shape"])

    def _tensor(self, part: dict[str, Any]) -> torch.Tensor:
        tensor = self.arrays[part["tensor"]].reshape(part["shape"]).clone()
        return tensor if part["device"] == "cpu" else tensor.to(self._device(part["device"]))

    def _device(self, name: str) -> torch.device:
        """Returns the CPU, or the device of the environment: a state chooses none."""
        own = torch.device("cpu" if self.config is None else self.config.device)
        return torch.device("cpu") if name == "cpu" else own

    def _objects(self, part: dict[str, Any]) -> np.ndarray:
        array = np.empty(len(part["objects"]), object)
        array[:] = self._all(part["objects"])
        return array.reshape(part["shape"])

    def _generator(self, part: dict[str, Any]) -> np.random.Generator:
        state = self.get(part["generator"])
        check_name("bit generator", state["bit_generator"], _BIT_GENERATORS)
        bits = _BIT_GENERATORS[state["bit_generator"]]()
        bits.state = state
        return np.random.Generator(bits)

    def _torch_generator(self, part: dict[str, Any]) -> torch.Generator:
        generator = torch.Generator()
        generator.set_state(self.get(part["torch_generator"]))
        return generator

    def _config(self, part: dict[str, Any]) -> AutoTrainConfig:
        assert self.config is not None, "it belongs to an environment"
        return self.config

    def _dataset(self, name: str, *arguments: Any) -> Dataset:
        if arguments:
            names = ("seed", "num_classes", "num_features", "size", "difficulty", "components")
            return synthetic(name, **dict(zip(names, arguments, strict=True)))
        root = None if self.config is None else self.config.data_root
        return load_dataset(name, root)

    def _class(self, name: Any) -> Any:
        check_name("class", name, CLASSES)
        return _named(name)

    def _new(self, part: dict[str, Any]) -> Any:
        made = self._class(part["new"])
        value, attributes = made.__new__(made, *self._all(part["arguments"])), self.get(part["attributes"])
        if hasattr(value, "__setstate__"):
            value.__setstate__(attributes)
        elif attributes:
            vars(value).update(attributes)
        return value
