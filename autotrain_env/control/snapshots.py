"""Copies of whatever has a `state_dict`: where they are kept, and how they are put back."""

import copy
import dataclasses
import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError
from autotrain_env.files import replace_file

Tree = Any
"""What a `state_dict` holds: tensors in mappings, lists and tuples, and plain values."""


def copy_tree(tree: Tree, device: torch.device | None = None, room: Tree = None) -> Tree:
    """Copy a tree of tensors. Those that share memory share it in the copy, too.

    Args:
        tree: What to copy; what is no tensor is deep-copied.
        device: Where to put the tensors; `None` for where each of them is.
        room: An earlier copy whose memory is used again where shapes and types agree, and which is
            worthless afterwards.

    Returns:
        The copy.
    """
    return _copy(tree, device, room, {})


def _copy(tree: Tree, device: torch.device | None, room: Tree, seen: dict[Any, Tensor]) -> Tree:
    if isinstance(tree, Tensor):
        return _copy_tensor(tree.detach(), device, room, seen)
    if isinstance(tree, Mapping):
        by_key = room if isinstance(room, Mapping) else {}
        pairs = {key: _copy(value, device, by_key.get(key), seen) for key, value in tree.items()}
        if not hasattr(tree, "_metadata"):
            return pairs
        found = OrderedDict(pairs)
        found._metadata = copy.copy(tree._metadata)  # type: ignore[attr-defined]  # modules' versions
        return found
    if type(tree) in (list, tuple):
        fits = type(room) is type(tree) and len(room) == len(tree)
        rooms = room if fits else [None] * len(tree)
        return type(tree)(_copy(value, device, at, seen) for value, at in zip(tree, rooms, strict=True))
    return copy.deepcopy(tree)


def _copy_tensor(
    tensor: Tensor, device: torch.device | None, room: Tree, seen: dict[Any, Tensor]
) -> Tensor:
    place = tensor.device if device is None else device
    shares = None
    if tensor.layout == torch.strided and tensor.numel():
        shares = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if shares in seen:
            return seen[shares]
    fits = (
        isinstance(room, Tensor)
        and room.shape == tensor.shape
        and room.stride() == tensor.stride()
        and room.dtype == tensor.dtype
        and room.device == place
    )
    found = room.copy_(tensor) if fits else tensor.to(place, copy=True)
    if shares is not None:
        seen[shares] = found
    return found


def tensors_of(tree: Tree) -> Iterator[Tensor]:
    """Yields all tensors in a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (Mapping, list, tuple)):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_of(part)


def num_bytes(*trees: Tree) -> int:
    """Returns the bytes of all tensors in trees; those that share memory are counted once."""
    sizes = {
        (tensor.data_ptr(), tensor.shape, tensor.dtype): tensor.numel() * tensor.element_size()
        for tensor in tensors_of(trees)
    }
    return sum(sizes.values())


def is_finite(tree: Tree) -> bool:
    """Returns whether all numbers in the tensors of a tree are finite; each device is asked once."""
    flags: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors_of(tree):
        if tensor.is_floating_point() and tensor.numel():
            tensor = tensor.detach()
            extremes = torch.stack((tensor.amax(), tensor.amin()))  # NaN where any is
            flags.setdefault(tensor.device, []).append(extremes.isfinite().all())
    return all(bool(torch.stack(found).all()) for found in flags.values())


class Snapshots:
    """Keeps copies of a run's state: on its devices, in CPU memory, or in files.

    Args:
        parts: What is copied, each with `state_dict` and `load_state_dict`; the first is the model.
        place: `"device"`, `"cpu"`, or a folder.

    Raises:
        InvalidTypeError: If the place is something else.
    """

    def __init__(self, parts: Sequence[Any], place: str | PathLike[str]) -> None:
        if not isinstance(place, (str, PathLike)):
            raise InvalidTypeError(f'snapshots={place!r} must be "device", "cpu" or a folder')
        self.parts = parts
        self.folder = None if place in ("device", "cpu") else Path(place)
        self.device = None if place == "device" else torch.device("cpu")
        self.count = 0  # copies made so far, for names of files
        self.bytes = 0  # of one copy
        self._room: Tree = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def room_bytes(self) -> int:
        """Returns the bytes of memory that is kept for the next copy."""
        return num_bytes(self._room)

    def state(self) -> list[Tree]:
        """Returns the parts' own states, which go on changing."""
        return [part.state_dict() for part in self.parts]

    def take(self) -> "Snapshot":
        """Returns a copy of the state of this moment."""
        room, self._room = self._room, None
        return self.keep(copy_tree(self.state(), self.device, room))

    def keep(self, state: list[Tree]) -> "Snapshot":
        """Returns a snapshot of a state that nobody else uses."""
        self.bytes = num_bytes(state)
        self.count += 1
        if self.folder is None:
            return Snapshot(state, None)
        path = self.folder / f"snapshot-{os.getpid()}-{self.count}.pt"
        buffer = io.BytesIO()
        torch.save(state, buffer)
        replace_file(path, buffer.getvalue())
        return Snapshot(None, path)

    def drop(self, snapshot: "Snapshot") -> None:
        """Forget a snapshot; its memory serves the next one."""
        if snapshot.path is not None:
            snapshot.path.unlink(missing_ok=True)
        self._room, snapshot.tree = snapshot.tree, None

    def clear(self) -> None:
        """Give back the memory that is kept for the next copy."""
        self._room = None

    def restore(self, snapshot: "Snapshot") -> None:
        """Put a snapshot's state back into the parts; the snapshot stays good."""
        for part, state in zip(self.parts, snapshot.state(), strict=True):
            load_state(part, state)


@dataclasses.dataclass
class Snapshot:
    """A copy of the state of a run.

    Args:
        tree: A state for each part, or `None` where it is in a file.
        path: The file, or `None`.
    """

    tree: list[Tree] | None
    path: Path | None

    def state(self) -> list[Tree]:
        """Returns the states of all parts."""
        if self.path is not None:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        assert self.tree is not None, "a snapshot that was dropped"
        return self.tree


def load_state(part: Any, state: Tree) -> None:
    """Load a copy of a state, so that what is loaded shares no memory with it."""
    if isinstance(part, torch.nn.Module):
        part.load_state_dict(state)  # which copies
    else:
        part.load_state_dict(copy_tree(state))
