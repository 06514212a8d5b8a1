"""Where the tensors of a network lie in one flat vector of parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, unknown_name

SCALINGS = ("none", "fan_in")


@dataclass(frozen=True)
class Layout:
    """Names and shapes of tensors, in the order in which they lie in a vector.

    Args:
        shapes: By name; those of weights are (out, in, ...), as in `torch.nn`.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def sizes(self) -> list[int]:
        """Numbers in each tensor."""
        return [math.prod(shape) for shape in self.shapes.values()]

    @property
    def size(self) -> int:
        """Numbers in all."""
        return sum(self.sizes)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Layout":
        """The layout of named tensors."""
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector of all tensors, shape (size,)."""
        return torch.cat([tensors[name].flatten() for name in self.shapes])

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Named views of vectors of shape (..., size): tensors of shape (..., *shape)."""
        parts = vectors.split(self.sizes, -1)
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def groups(self) -> Tensor:
        """The number of the tensor that each parameter belongs to, int64, shape (size,)."""
        return torch.arange(len(self.shapes)).repeat_interleave(torch.tensor(self.sizes))

    def scale(self, scaling: str, factors: Mapping[str, float]) -> Tensor:
        """What the perturbation of each parameter is multiplied by.

        Args:
            scaling: `"none"`: 1; `"fan_in"`: 1 over the root of the numbers that go into a unit. A vector
                that is named after a weight (`layer.bias` and `layer.weight`) goes with it, other vectors
                have 1.
            factors: Further factors of tensors, by name; 1 where none is given.

        Returns:
            Float32, shape (size,).

        Raises:
            ValueError: If a name is unknown, or a factor is not finite and above 0.
        """
        if scaling not in SCALINGS:
            raise unknown_name("scaling", scaling, SCALINGS)
        for name, factor in factors.items():
            if name not in self.shapes:
                raise unknown_name("tensor_scales", name, self.shapes)
            check(0 < factor < math.inf, f"tensor_scales[{name!r}]", factor, "finite, above 0")
        scales = [
            factors.get(name, 1.0) / (math.sqrt(self._fan_in(name)) if scaling == "fan_in" else 1.0)
            for name in self.shapes
        ]
        return torch.tensor(scales).repeat_interleave(torch.tensor(self.sizes))

    def _fan_in(self, name: str) -> int:
        shape = self.shapes[name]
        if len(shape) < 2:
            shape = self.shapes.get(name.replace("bias", "weight"), shape)
        return math.prod(shape[1:]) if len(shape) >= 2 else 1


def as_vector(parameters: Tensor | Mapping[str, Tensor]) -> tuple[Layout, Tensor]:
    """Parameters as one vector, a copy of shape (d,), and where everything lies in it.

    Args:
        parameters: Named tensors of floats, or one such tensor.

    Raises:
        TypeError: If they are no floats.
        ValueError: If there is none, or one is not finite.
    """
    named = {"parameters": parameters} if isinstance(parameters, Tensor) else dict(parameters)
    for name, tensor in named.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            raise InvalidTypeError(f"{name} must be a tensor of floats, but is {tensor!r}")
        check(bool(tensor.isfinite().all()), name, tensor, "finite")
    layout = Layout.of(named)
    check(bool(named) and layout.size > 0, "parameters", parameters, "at least one number")
    return layout, layout.join(named).detach().clone()
