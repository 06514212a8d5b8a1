"""States of objects as plain values and tensors, which `torch.load` reads with `weights_only=True`."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, str, type(None))


def freeze(value: Any) -> Any:
    """Returns a value as plain values, tensors, lists and dictionaries: a copy.

    Args:
        value: Arrays, tensors, generators, plain values, lists and dictionaries of such, and objects that
            are made of such.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return freeze(value.tolist()) if value.dtype == object else torch.from_numpy(value.copy())
    if isinstance(value, np.random.Generator):
        return json.dumps(value.bit_generator.state)
    if isinstance(value, dict):
        return {key: freeze(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [freeze(part) for part in value]
    return freeze(vars(value))


def thaw(like: Any, frozen: Any) -> Any:
    """Bring a value into the state that `freeze` returned.

    Args:
        like: A value of the same form; generators and objects are changed in place.
        frozen: What `freeze` returned.

    Returns:
        The value in that state.
    """
    if isinstance(like, np.ndarray):
        if like.dtype == object:
            return np.array(frozen, object)
        return frozen.numpy().astype(like.dtype)
    if isinstance(like, np.random.Generator):
        like.bit_generator.state = json.loads(frozen)
        return like
    if isinstance(like, dict):
        return {key: thaw(like.get(key), part) for key, part in frozen.items()}
    if isinstance(like, list) and len(like) == len(frozen):
        return [thaw(part, state) for part, state in zip(like, frozen, strict=True)]
    if isinstance(like, tuple):
        return tuple(frozen)
    if isinstance(like, (*_PLAIN, list, Tensor, np.generic)):
        return frozen.clone() if isinstance(frozen, Tensor) else frozen
    for name, part in frozen.items():
        setattr(like, name, thaw(getattr(like, name), part))
    return like
