"""What a module holds beside its parameters and buffers.

Lanes have parameters and buffers of their own; everything else in a module is there once for all of them.
So it has to be the same in every network that a factory makes, and to stay as it is while a network
computes. Here is what lists it.
"""

import functools
import hashlib
import pickle
import random
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, hooks: not what a user has put there
_PLAIN = (type(None), bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device)


def hidden_state(module: nn.Module) -> dict[str, Any]:
    """Returns everything that a module and those in it hold beside parameters and buffers.

    Attributes are followed through containers, objects and closures; tensors and arrays stand as digests of
    their contents, generators of random numbers as their states. Of what cannot be looked into, the type
    stands.

    Args:
        module: The module.

    Returns:
        Values that can be compared, by where they are, such as `"encoder.permutation"` or
        `"layers[0].weight"`.
    """
    registered: dict[int, str] = {id(tensor): name for name, tensor in module.named_parameters()}
    registered |= {id(tensor): name for name, tensor in module.named_buffers()}
    seen = {id(part) for part in module.modules()}
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute not in _OF_EVERY_MODULE:
                where = f"{name}.{attribute}" if name else attribute
                found.update(_walk(value, where, registered, seen))
    return found


def contents_of(value: Any) -> dict[str, Any]:
    """Returns everything in a value, followed likewise, by where it is."""
    return dict(_walk(value, "", {}, set()))


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Returns where two hidden states differ, in order."""
    absent = object()
    places = dict.fromkeys((*first, *second))
    return [where for where in places if first.get(where, absent) != second.get(where, absent)]


def _walk(value: Any, where: str, registered: dict[int, str], seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields places and comparable values of a value and of all in it."""
    if id(value) in registered:
        yield where, ("registered", registered[id(value)])
        return
    leaf = _leaf(value)
    if leaf is not None:
        yield where, leaf
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    yield where, getattr(value, "__qualname__", type(value).__qualname__)
    for inner, part in _parts(value):
        yield from _walk(part, where + inner, registered, seen)


def _leaf(value: Any) -> Any:
    """Returns something comparable for a value that holds nothing else, `None` for all others."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return type(value).__name__, repr(value)
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return str(value.dtype), value.shape, _digest(np.ascontiguousarray(value))
    if isinstance(value, torch.Generator):
        return "generator", _digest(value.get_state().numpy())
    if isinstance(
        value, (np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random)
    ):
        return "generator", hashlib.sha256(pickle.dumps(value)).hexdigest()
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        return type(value).__name__, getattr(value, "__qualname__", value.__name__)
    return None


def digest(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    """Returns dtype, shape and a hash of the numbers of a tensor."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    numbers = dense.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), tuple(tensor.shape), _digest(numbers)


def _digest(array: Any) -> str:
    return hashlib.sha256(memoryview(array).cast("B") if array.size else b"").hexdigest()


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields what a container, a function or an object holds, by how its place is written."""
    if isinstance(value, Mapping):
        for number, (key, part) in enumerate(value.items()):
            yield f"[{key!r}]" if isinstance(key, _PLAIN) else f"[{number}]", part
    elif isinstance(value, (list, tuple, deque)):
        for number, part in enumerate(value):
            yield f"[{number}]", part
    elif isinstance(value, (set, frozenset)):
        for number, part in enumerate(sorted(value, key=repr)):
            yield f"[{number}]", part
    elif isinstance(value, np.ndarray):  # of objects
        for number, part in enumerate(value.ravel().tolist()):
            yield f"[{number}]", part
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            yield f".{name}", _contents(cell)
        for number, part in enumerate(value.__defaults__ or ()):
            yield f".default[{number}]", part
    elif isinstance(value, types.MethodType):
        yield "", value.__func__
        yield ".self", value.__self__
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif type(value).__module__.partition(".")[0] in sys.stdlib_module_names:
        text = repr(value)
        if " at 0x" not in text:  # such as count(5)
            yield "", text
    else:
        for name, part in getattr(value, "__dict__", {}).items():
            if not (isinstance(value, nn.Module) and name in _OF_EVERY_MODULE):
                yield f".{name}", part
        if isinstance(value, nn.Module):  # in a list or another object, so that torch does not know of it
            for name, part in (*value.named_parameters(), *value.named_buffers()):
                yield f".{name}", part
            for name, part in value.named_children():
                yield f".{name}", part


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None
