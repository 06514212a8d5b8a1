"""Schemes by which the weights of a network are drawn."""

import math
from collections.abc import Callable

import numpy as np

Scheme = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _uniform(bound: float, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.random(shape, dtype=np.float32) * np.float32(2 * bound) - np.float32(bound)


def _normal(std: float, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(std)


def _orthogonal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    rows, columns = shape[0], math.prod(shape[1:])
    gaussian = generator.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(gaussian)
    basis *= np.sign(np.diag(triangle))  # makes the distribution uniform (Mezzadri, math-ph/0609050)
    return (basis if rows >= columns else basis.T).reshape(shape).astype(np.float32)


INITIALIZATIONS: dict[str, Scheme] = {
    # He et al., arXiv:1502.01852
    "kaiming_uniform": lambda shape, g: _uniform(math.sqrt(6 / _fans(shape)[0]), shape, g),
    # Glorot and Bengio, AISTATS 2010
    "xavier_uniform": lambda shape, g: _uniform(math.sqrt(6 / sum(_fans(shape))), shape, g),
    # Saxe et al., arXiv:1312.6120
    "orthogonal": _orthogonal,
    # LeCun et al., Efficient BackProp, 1998
    "lecun_normal": lambda shape, g: _normal(math.sqrt(1 / _fans(shape)[0]), shape, g),
    "kaiming_normal": lambda shape, g: _normal(math.sqrt(2 / _fans(shape)[0]), shape, g),
    "xavier_normal": lambda shape, g: _normal(math.sqrt(2 / sum(_fans(shape))), shape, g),
    # Kaiming everywhere but in the last layer, which is zero
    "zero_last_layer": lambda shape, g: _uniform(math.sqrt(6 / _fans(shape)[0]), shape, g),
}
MODULE_DEFAULT = "module_default"  # what the module's own constructor draws


def initialization_names() -> tuple[str, ...]:
    """Returns the names that `initialization=` accepts."""
    return (*INITIALIZATIONS, MODULE_DEFAULT)


def schemes_for_rows(initialization: str, count: int) -> list[str]:
    """Returns the scheme of every row at reset: the task's own first, then the others in turn.

    Args:
        initialization: Scheme of row 0.
        count: Number of rows in all.
    """
    others = [name for name in INITIALIZATIONS if name != initialization]
    return [initialization] + [others[i % len(others)] for i in range(count - 1)]
