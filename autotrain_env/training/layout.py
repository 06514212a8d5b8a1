"""How the tensors of a network lie one after another in a vector of numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One tensor inside a vector: its name, shape and place."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def view(self, vectors: Tensor) -> Tensor:
        """Returns this tensor of every vector, sharing memory with them.

        Args:
            vectors: Vectors of the layout, shape (..., size).

        Returns:
            The tensors, shape (..., *shape).
        """
        return vectors[..., self.start : self.stop].view(vectors.shape[:-1] + self.shape)


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters that training changes, by name: those that want a gradient."""
    return {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}


def kept_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns what else belongs to one network, by name: frozen parameters, and buffers of every dtype.

    Buffers that are not finite, such as masks of minus infinity, are left out: a lane with such numbers in
    it would count as diverged. They have to be the same in all networks.
    """
    frozen = {name: tensor for name, tensor in module.named_parameters() if not tensor.requires_grad}
    buffers = {
        name: tensor for name, tensor in module.named_buffers() if bool(torch.isfinite(tensor).all())
    }
    return frozen | buffers


@dataclass(frozen=True)
class Layout:
    """Names and shapes of tensors, in the order in which they lie in a vector.

    Args:
        entries: One for each tensor, each beginning where the one before it stops.
    """

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        """Returns the layout of named tensors, in their order."""
        entries, start = [], 0
        for name, tensor in tensors.items():
            stop = start + tensor.numel()
            entries.append(Entry(name, tuple(tensor.shape), start, stop))
            start = stop
        return cls(tuple(entries))

    @classmethod
    def of_module(cls, module: nn.Module) -> tuple["Layout", "Layout"]:
        """Returns the layout of a module's trained parameters and that of what else belongs to it."""
        return cls.of(trained_tensors(module)), cls.of(kept_tensors(module))

    @property
    def size(self) -> int:
        """Returns how many numbers all tensors together have."""
        return self.entries[-1].stop if self.entries else 0

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the tensors."""
        return tuple(entry.name for entry in self.entries)

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Returns all tensors as one vector, a copy of shape (size,)."""
        return torch.cat([tensors[name].flatten() for name in self.names])

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Returns named views of vectors of shape (..., size): tensors of shape (..., *shape)."""
        return {entry.name: entry.view(vectors) for entry in self.entries}

    def groups(self) -> Tensor:
        """Returns the number of the tensor that each number belongs to, int64, shape (size,)."""
        sizes = torch.tensor([entry.stop - entry.start for entry in self.entries])
        return torch.arange(len(self.entries)).repeat_interleave(sizes)

    def fan_ins(self) -> list[int]:
        """Returns for each tensor how many numbers go into a unit of its layer.

        Weights are of shape (out, in, ...), as in `torch.nn`. A vector that is named after a weight
        (`layer.bias` and `layer.weight`) goes with it; other vectors have 1.
        """
        shapes = {entry.name: entry.shape for entry in self.entries}
        owners = [
            entry.shape
            if len(entry.shape) >= 2
            else shapes.get(entry.name.replace("bias", "weight"), entry.shape)
            for entry in self.entries
        ]
        return [math.prod(shape[1:]) for shape in owners]  # of a vector that is an empty product, 1
