"""Descriptions of arguments, as text: to tell whether two environments have the same ones."""

import dataclasses
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from autotrain_env.data.dataset import Dataset
from autotrain_env.errors import InvalidValueError
from autotrain_env.training.hidden_state import contents_of


def describe(value: Any) -> str:
    """Returns a text that two values share where they mean the same, in other processes, too.

    Of data, arrays and functions it has a digest: of the numbers, or of the compiled code and of what
    belongs to it.
    """
    if isinstance(value, Dataset):
        size = f"{value.pool_size:,} + {value.test_size:,} test images"  # under whatever name
        return f"Dataset({size} of shape {value.image_shape}) with digest {value.digest}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        entries = ((entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(f'{name}={describe(part)}' for name, part in entries)})"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{float(value):g}" if float(f"{float(value):g}") == value else repr(value)
    if isinstance(value, Mapping):
        return (
            f"{{{', '.join(sorted(f'{describe(key)}: {describe(part)}' for key, part in value.items()))}}}"
        )
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, types.FunctionType):
        digest = _digest(_code_of(value), contents_of(value))
        return f"{value.__module__}.{value.__qualname__} with digest {digest}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, (str, bool)):
        return repr(value)
    return f"{type(value).__qualname__} with digest {_digest(contents_of(value))}"


def check_same(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Check that a state is of an environment with the same arguments.

    Args:
        there: Descriptions of the arguments of the environment whose state it is, by name.
        here: Descriptions of those of the environment that is to go on from it.

    Raises:
        InvalidValueError: If it is not: the message says in what they differ.
    """
    names = [name for name in here if there.get(name) != here[name]]
    if names:
        told = "; ".join(f"{name} is {there.get(name)} there and {here[name]} here" for name in names)
        raise InvalidValueError(f"state is of an environment with other arguments: {told}")


def _code_of(function: types.FunctionType) -> Any:
    def parts(code: types.CodeType) -> Any:
        inner = [parts(part) if isinstance(part, types.CodeType) else repr(part) for part in code.co_consts]
        return code.co_code, inner, code.co_names

    return parts(function.__code__)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
