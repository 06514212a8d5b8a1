"""What a user's module must be like to be trained, tried before anything is: messages name the remedy."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autotrain_env.errors import InvalidValueError

NO_RANDOMNESS = (
    "layers that draw random numbers are not supported, since lanes must not share a random stream; "
    "a probability of 0 is"
)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_PASS_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


def check_module(network: nn.Module) -> None:
    """Check what can be seen of a module without calling it.

    Args:
        network: What a user's factory made.

    Raises:
        InvalidValueError: If a layer draws random numbers, or is a wrapper for several devices or a
            compiled one, or if a parameter is uninitialised, is no float32 or lies elsewhere than on the
            CPU.
    """
    for name, module in network.named_modules():
        where = f"layer {name!r} is" if name else "the network is"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise InvalidValueError(f"classifier: layer {name!r} is {module}: {NO_RANDOMNESS}")
        if isinstance(module, _PARALLEL):
            raise InvalidValueError(
                f"classifier: {where} a {type(module).__name__}; return the module inside, since lanes are "
                "computed side by side by the environment, on its device="
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise InvalidValueError(
                f"classifier: {where} compiled by TorchScript; return the module that was compiled"
            )
    for name, parameter in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(parameter):
            raise InvalidValueError(
                f"classifier: {name!r} has no shape yet; give its layer the number of features "
                "(nn.Linear for nn.LazyLinear), or call the network on an example in the factory"
            )
    for name, parameter in network.named_parameters():
        _check_parameter(name, parameter)


def _check_parameter(name: str, parameter: nn.Parameter) -> None:
    if parameter.device.type != "cpu":
        raise InvalidValueError(
            f"classifier: parameter {name!r} lies on device {str(parameter.device)!r}; make the network on "
            "the CPU: the environment's device= says where it is trained"
        )
    if parameter.is_complex():
        raise InvalidValueError(
            f"classifier: parameter {name!r} is {parameter.dtype}; optimisers here know real numbers: "
            "hold its real and imaginary part (torch.view_as_real), and put them together in forward"
        )
    if parameter.dtype != torch.float32 and (parameter.requires_grad or parameter.is_floating_point()):
        raise InvalidValueError(
            f"classifier: parameter {name!r} is {parameter.dtype}; make the network in torch.float32 "
            "(.float()): the environment's dtype= says in what it is trained, such as dtype='float64'"
        )


def check_trains(classifier: Any, network: nn.Module, image_shape: tuple[int, ...], classes: int) -> None:
    """Make a forward and a backward pass in training mode, on images of noise.

    Args:
        classifier: What made the network, for messages.
        network: The network; it stays as it is.
        image_shape: Shape of an image.
        classes: Number of classes C.

    Raises:
        InvalidValueError: If a pass fails, the network returns something else than logits of shape
            (n, C), or a parameter that is to be trained gets no gradient.
    """
    network = copy.deepcopy(network).train()
    without = _without_gradient(classifier, network, _noise(2, image_shape), classes)
    if without:  # on these two images: some networks send images different ways
        without &= _without_gradient(classifier, network, _noise(64, image_shape), classes)
    if without:
        names = [name for name, _ in network.named_parameters() if name in without]
        raise InvalidValueError(
            f"classifier={classifier!r}: no gradient reaches {_some(names)}; use them in forward, remove "
            "them, or freeze them by requires_grad_(False)"
        )


def _without_gradient(classifier: Any, network: nn.Module, images: Tensor, classes: int) -> set[str]:
    """Returns the names of parameters that are to be trained and get no gradient from some images."""
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    with torch.enable_grad():
        logits = _logits_in_training(classifier, network, images)
        expected = (len(images), classes)
        if tuple(logits.shape) != expected:
            raise InvalidValueError(
                f"classifier={classifier!r} returns shape {tuple(logits.shape)} of {len(images)} images in "
                f"training mode; expected {expected}"
            )
        if trained and not logits.requires_grad:
            raise InvalidValueError(
                f"classifier={classifier!r}: no gradient flows from its logits to its parameters "
                f"({_some(list(trained))}); forward must be differentiable, without torch.no_grad, detach "
                "or argmax on the way"
            )
        loss = nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.long))
        try:
            gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        except _PASS_ERRORS as error:
            raise InvalidValueError(
                f"classifier={classifier!r}: the backward pass fails; operations in place are a usual "
                f"cause: {error}"
            ) from error
    return {name for name, gradient in zip(trained, gradients, strict=True) if gradient is None}


def check_batch_of_one(classifier: Any, network: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Check that a network can be trained on minibatches of one image.

    Args:
        classifier: What made the network, for messages.
        network: The network; it stays as it is.
        image_shape: Shape of an image.

    Raises:
        InvalidValueError: If it cannot, as batch normalisation of vectors.
    """
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(_noise(1, image_shape))
    except _PASS_ERRORS as error:
        raise InvalidValueError(
            f"batch_size=1: classifier={classifier!r} cannot be trained on one image at a time; batch "
            f"normalisation needs two, group or layer normalisation one: {error}"
        ) from error


def _logits_in_training(classifier: Any, network: nn.Module, images: Tensor) -> Tensor:
    try:
        logits = network(images)
    except _PASS_ERRORS as error:
        raise InvalidValueError(
            f"classifier={classifier!r} cannot take images of shape {tuple(images.shape[1:])} in training "
            f"mode: {error}"
        ) from error
    if not isinstance(logits, Tensor):
        raise InvalidValueError(
            f"classifier={classifier!r} returns a {type(logits).__name__} in training mode; it must return "
            "the logits alone: switch auxiliary outputs off (torchvision: aux_logits=False), or wrap it in "
            "a module that picks them"
        )
    return logits


def _noise(count: int, image_shape: tuple[int, ...]) -> Tensor:
    return torch.randn(count, *image_shape, generator=torch.Generator().manual_seed(0))


def _some(names: list[str]) -> str:
    """Returns the first few names, in words."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(map(repr, names[:4])) + more
