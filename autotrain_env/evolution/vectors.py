"""Parameters as one vector, and what the perturbation of each of its numbers is multiplied by."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, unknown_name
from autotrain_env.training.layout import Layout

SCALINGS = ("none", "fan_in")


def as_vector(parameters: Tensor | Mapping[str, Tensor]) -> tuple[Layout, Tensor]:
    """Returns parameters as one vector, a copy of shape (d,), and where everything lies in it.

    Args:
        parameters: Named tensors of floats (a mapping, or pairs as `Module.named_parameters` gives), or one
            such tensor.

    Raises:
        InvalidTypeError: If they are no floats.
        InvalidValueError: If there is none, or one is not finite.
    """
    named = {"parameters": parameters} if isinstance(parameters, Tensor) else _named(parameters)
    for name, tensor in named.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            raise InvalidTypeError(f"{name} must be a tensor of floats, but is {tensor!r}")
        check(bool(tensor.isfinite().all()), name, tensor, "finite")
    layout = Layout.of(named)
    check(layout.size > 0, "parameters", parameters, "at least one number")
    return layout, layout.join(named).detach().clone()


def _named(parameters: Any) -> dict[str, Tensor]:
    pairs = None
    if isinstance(parameters, Mapping):
        pairs = list(parameters.items())
    elif isinstance(parameters, Iterable) and not isinstance(parameters, str):
        pairs = list(parameters)
    if pairs is None or any(not _is_pair(pair) for pair in pairs):
        raise InvalidTypeError(
            f"parameters={parameters!r} must be one tensor, or tensors with their names, such as "
            "dict(module.named_parameters())"
        )
    return dict(pairs)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)


def perturbation_scale(layout: Layout, scaling: str, tensor_scales: Mapping[str, float]) -> Tensor:
    """Returns what the perturbation of each parameter is multiplied by.

    Args:
        layout: Layout of the parameters.
        scaling: `"none"`: 1; `"fan_in"`: 1 over the root of the numbers that go into a unit, see
            `Layout.fan_ins`.
        tensor_scales: Further factors of tensors, by name; 1 where none is given.

    Returns:
        Factors, float32, shape (size,).

    Raises:
        InvalidValueError: If a name is unknown, or a factor is not finite and above 0.
    """
    if scaling not in SCALINGS:
        raise unknown_name("scaling", scaling, SCALINGS)
    for name, factor in tensor_scales.items():
        if name not in layout.names:
            raise unknown_name("tensor_scales", name, layout.names)
        check(0 < factor < math.inf, f"tensor_scales[{name!r}]", factor, "finite, above 0")
    divisors = [math.sqrt(fan_in) if scaling == "fan_in" else 1.0 for fan_in in layout.fan_ins()]
    scales = [
        tensor_scales.get(name, 1.0) / divisor for name, divisor in zip(layout.names, divisors, strict=True)
    ]
    sizes = torch.tensor([entry.stop - entry.start for entry in layout.entries])
    return torch.tensor(scales).repeat_interleave(sizes)
