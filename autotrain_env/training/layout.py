"""How a network's numbers lie in a row."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One tensor inside a row: its name, shape and place."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def view(self, rows: Tensor) -> Tensor:
        """The tensor of every lane, shape (n, *shape), sharing memory with `rows` (n, width)."""
        return rows[:, self.start : self.stop].view(rows.shape[0], *self.shape)


def _entries(named: Iterator[tuple[str, Tensor]]) -> tuple[Entry, ...]:
    entries, start = [], 0
    for name, tensor in named:
        stop = start + tensor.numel()
        entries.append(Entry(name, tuple(tensor.shape), start, stop))
        start = stop
    return tuple(entries)


def state_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that training changes: floating ones and batch normalisation's counters."""
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() or name.endswith("num_batches_tracked"):
            yield name, buffer


@dataclass(frozen=True)
class Layout:
    """Where a network's parameters and buffers lie in a row."""

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """Read the layout off a module."""
        return cls(_entries(iter(module.named_parameters())), _entries(state_buffers(module)))

    @property
    def num_parameters(self) -> int:
        """Numbers in the parameters."""
        return self.parameters[-1].stop

    @property
    def num_buffers(self) -> int:
        """Numbers in the buffers."""
        return self.buffers[-1].stop if self.buffers else 0
