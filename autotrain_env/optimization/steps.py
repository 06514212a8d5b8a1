"""Update rules written by hand: each takes a loss, and moves the parameters that it was computed from.

    for images, labels in loader:
        loss = cross_entropy(model(images), labels)
        momentum_step(loss, parameters, velocities, learning_rate=0.1, momentum=0.9)

What a rule remembers is a list of tensors beside the parameters, zeros at first (`zeros_like`). They are
for reading, and the tests hold them to `torch.optim`; networks side by side are updated by
`autotrain_env.training.optimizers`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from autotrain_env.errors import (
    InvalidTypeError,
    check,
    check_at_least_0,
    check_flag,
    check_number,
    in_brief,
)


def zeros_like(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Returns zeros in the shape of every parameter: what a rule remembers before the first update."""
    return [torch.zeros_like(parameter) for parameter in _checked(parameters)]


def gradient_step(loss: Tensor, parameters: Sequence[Tensor], learning_rate: float) -> None:
    """Move parameters down the gradient: p ← p - rate · g.

    Args:
        loss: The loss, a single number that was computed from the parameters.
        parameters: What is moved, in place: tensors that require gradients.
        learning_rate: The rate, at least 0.

    Raises:
        InvalidTypeError: If the loss is no tensor that leads back to the parameters, or they are none.
        InvalidValueError: If the loss is not a single number, or a number is out of range.
    """
    gradients = _gradients(loss, parameters, learning_rate)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= learning_rate * gradient


def random_step(
    parameters: Sequence[Tensor], scale: float, generator: torch.Generator, *, normalized: bool = False
) -> None:
    """Move parameters by normal noise, without a look at the loss.

    Args:
        parameters: What is moved, in place.
        scale: Standard deviation of the noise; or, normalised, the length of each tensor's step.
        generator: Generator of the noise.
        normalized: Whether the noise of each tensor is divided by its length.
    """
    check_at_least_0("scale", scale)
    check_flag("normalized", normalized)
    if not isinstance(generator, torch.Generator):
        raise InvalidTypeError(f"generator={in_brief(generator)} must be a torch.Generator")
    with torch.no_grad():
        for parameter in _checked(parameters):
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            if normalized:
                noise /= torch.linalg.vector_norm(noise)
            parameter += scale * noise


def momentum_step(
    loss: Tensor,
    parameters: Sequence[Tensor],
    velocities: Sequence[Tensor],
    learning_rate: float,
    momentum: float,
) -> None:
    """Move parameters by a velocity, to which gradients add up: v ← momentum · v - rate · g, p ← p + v.

    At a constant rate this is `torch.optim.SGD`, whose velocity lacks the factor -rate: there a new rate
    holds at once for all of the velocity, here for the new gradients (Polyak, 1964).

    Args:
        loss: The loss, as for `gradient_step`.
        parameters: What is moved, in place.
        velocities: A velocity for each parameter, changed in place.
        learning_rate: The rate, at least 0.
        momentum: Share of the velocity that an update leaves, in [0, 1).
    """
    _check_decay("momentum", momentum)
    _check_memory("velocities", velocities, parameters)
    gradients = _gradients(loss, parameters, learning_rate)
    with torch.no_grad():
        for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
            velocity.mul_(momentum).sub_(learning_rate * gradient)
            parameter += velocity


def rmsprop_step(
    loss: Tensor,
    parameters: Sequence[Tensor],
    mean_squares: Sequence[Tensor],
    learning_rate: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
) -> None:
    """Move each number by its gradient over the root of that gradient's running mean square.

    s ← alpha · s + (1 - alpha) · g², p ← p - rate · g / (√s + eps) (Tieleman and Hinton, 2012).

    Args:
        loss: The loss, as for `gradient_step`.
        parameters: What is moved, in place.
        mean_squares: A running mean of squared gradients for each parameter, changed in place.
        learning_rate: The rate, at least 0: about the length of each number's step.
        alpha: Share of the running mean that an update leaves, in [0, 1).
        eps: What is added to the root, above 0.
    """
    _check_decay("alpha", alpha)
    _check_eps(eps)
    _check_memory("mean_squares", mean_squares, parameters)
    gradients = _gradients(loss, parameters, learning_rate)
    with torch.no_grad():
        for parameter, square, gradient in zip(parameters, mean_squares, gradients, strict=True):
            square.mul_(alpha).add_((1 - alpha) * gradient**2)
            parameter -= learning_rate * gradient / (square.sqrt() + eps)


def adam_step(
    loss: Tensor,
    parameters: Sequence[Tensor],
    means: Sequence[Tensor],
    mean_squares: Sequence[Tensor],
    count: int,
    learning_rate: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> None:
    """Move each number by its mean gradient over the root of its mean squared gradient.

    Both running means begin at 0, and are divided by 1 - beta^count, the weight that they have gathered
    (Kingma and Ba, arXiv:1412.6980).

    Args:
        loss: The loss, as for `gradient_step`.
        parameters: What is moved, in place.
        means: A running mean of gradients for each parameter, changed in place.
        mean_squares: A running mean of squared gradients for each, changed in place.
        count: Number of this update, from 1 on.
        learning_rate: The rate, at least 0: about the length of each number's step.
        beta1: Share of the mean that an update leaves, in [0, 1).
        beta2: Share of the mean square that an update leaves, in [0, 1).
        eps: What is added to the root, above 0.
    """
    _check_decay("beta1", beta1)
    _check_decay("beta2", beta2)
    _check_eps(eps)
    check_number("count", count, lambda number: number >= 1 and number % 1 == 0, "a whole number from 1 on")
    _check_memory("means", means, parameters)
    _check_memory("mean_squares", mean_squares, parameters)
    gradients = _gradients(loss, parameters, learning_rate)
    with torch.no_grad():
        for parameter, mean, square, gradient in zip(
            parameters, means, mean_squares, gradients, strict=True
        ):
            mean.mul_(beta1).add_((1 - beta1) * gradient)
            square.mul_(beta2).add_((1 - beta2) * gradient**2)
            root = (square / (1 - beta2**count)).sqrt() + eps
            parameter -= learning_rate * mean / (1 - beta1**count) / root


def _gradients(loss: Tensor, parameters: Sequence[Tensor], learning_rate: float) -> tuple[Tensor, ...]:
    """Returns the gradient of the loss for each parameter; nothing adds up, nothing is cleared."""
    check_at_least_0("learning_rate", learning_rate)
    if not isinstance(loss, Tensor) or loss.grad_fn is None:
        raise InvalidTypeError(f"loss={in_brief(loss)} must be a tensor that was computed from parameters")
    check(loss.numel() == 1, "loss", f"of shape {tuple(loss.shape)}", "a single number")
    parameters = _checked(parameters)
    try:
        return torch.autograd.grad(loss.sum(), parameters)
    except RuntimeError as error:
        raise InvalidTypeError(f"loss: has no gradient for the parameters: {error}") from error


def _checked(parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    listed = isinstance(parameters, (list, tuple)) and len(parameters) > 0
    if not listed or not all(isinstance(tensor, Tensor) for tensor in parameters):
        raise InvalidTypeError(
            f"parameters={in_brief(parameters)} must be a list of tensors, such as list(model.parameters())"
        )
    return parameters


def _check_memory(argument: str, memory: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    shapes = [tuple(tensor.shape) for tensor in _checked(parameters)]
    fits = isinstance(memory, (list, tuple)) and all(isinstance(tensor, Tensor) for tensor in memory)
    check(
        fits and [tuple(tensor.shape) for tensor in memory] == shapes,
        argument,
        memory,
        "a list with a tensor in the shape of each parameter, such as zeros_like(parameters)",
    )


def _check_decay(argument: str, value: float) -> None:
    check_number(argument, value, lambda number: 0 <= number < 1, "in [0, 1)")


def _check_eps(eps: float) -> None:
    check_number("eps", eps, lambda number: 0 < number < float("inf"), "finite, above 0")
