"""What users hand over: whether it fits together, and what is inside."""

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check, unknown_name

Reinit = str | Callable[[nn.Module], object]
"""How a network is drawn anew: `"reset_parameters"`, or a function that changes a model in place."""

_OWNERS: "weakref.WeakKeyDictionary[Any, weakref.ref[Any]]" = weakref.WeakKeyDictionary()


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the module within a compiled one, or within one for several processes."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def check_objects(model: nn.Module, optimizer: Any, also: Sequence[Any]) -> None:
    """Check that a model, its optimiser and what goes back with them belong together.

    Raises:
        InvalidTypeError: If one of them is of the wrong kind.
        InvalidValueError: If the model has no parameters, or the optimiser has others.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model={type(model).__name__} must be a torch.nn.Module")
    for name, part in (("optimizer", optimizer), *(("also", part) for part in also)):
        for method in ("state_dict", "load_state_dict"):
            if isinstance(part, type) or not callable(getattr(part, method, None)):
                raise InvalidTypeError(f"{name}={part!r} has no {method}")
    known = {id(parameter) for parameter in model.parameters()}
    check(bool(known), "model", type(model).__name__, "one with parameters")
    for part in also:
        check(part is not model and part is not optimizer, "also", type(part).__name__, "something else")
        if isinstance(part, nn.Module):
            known |= {id(parameter) for parameter in part.parameters()}
    groups = getattr(optimizer, "param_groups", None) or []
    strangers = [p for group in groups for p in group["params"] if id(p) not in known]
    check(
        not strangers,
        "optimizer",
        f"{type(optimizer).__name__} with {len(strangers)} tensors that are not the model's",
        "one of the model's parameters, or of those of modules in also=",
    )


def check_reinit(model: nn.Module, reinit: Any) -> Reinit | None:
    """Check how networks are drawn anew, and return it.

    Raises:
        InvalidTypeError: If it is neither a function nor a name.
        InvalidValueError: If the name is unknown, or a module with parameters cannot reset them.
    """
    if reinit is None or callable(reinit):
        return reinit
    if not isinstance(reinit, str):
        raise InvalidTypeError(f'reinit={reinit!r} must be a function, "reset_parameters" or None')
    if reinit != "reset_parameters":
        raise unknown_name("reinit", reinit, ("reset_parameters",))
    unable = [
        name or type(module).__name__
        for name, module in unwrap(model).named_modules()
        if list(module.parameters(recurse=False)) and not hasattr(module, "reset_parameters")
    ]
    check(not unable, "reinit", reinit, f"a function, since {', '.join(unable)} cannot reset_parameters()")
    return reinit


def check_apart(holdout: Any, other: Any, name: str) -> None:
    """Check that the holdout is not what is trained on.

    Args:
        holdout: The holdout: a loader, tensors or a function.
        other: Training data, or `None`.
        name: Name of the argument with the training data.

    Raises:
        InvalidValueError: If they are the same object, or hold the same.
    """
    if other is None:
        return
    same = _contents(holdout) & _contents(other)
    if same:
        raise InvalidValueError(f"holdout is the same data as {name}: it must be held out from training")


def _contents(data: Any) -> set[int]:
    parts = [data]
    if isinstance(data, (tuple, list)) and all(isinstance(part, Tensor) for part in data):
        parts.append(data[0])
    dataset = getattr(data, "dataset", None)
    if dataset is not None:
        parts.append(dataset)
    return {id(part) for part in parts}


def claim(optimizer: Any, owner: Any) -> None:
    """Let an optimiser belong to a controller for as long as that lives and its run is not over.

    Raises:
        InvalidValueError: If it belongs to another one.
    """
    with contextlib.suppress(TypeError):  # where an optimiser cannot be a key, nothing is known
        found = _OWNERS.get(optimizer)
        other = None if found is None else found()
        if other is not None and other is not owner and not other.over:
            raise InvalidValueError(
                "optimizer belongs to another Controller, whose run is not over: two would fight over it"
            )
        _OWNERS[optimizer] = weakref.ref(owner)


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers in a model's state, by the names they have in the plain module."""
    return {name: value for name, value in unwrap(model).state_dict().items() if isinstance(value, Tensor)}


@torch.no_grad()
def copy_weights(model: nn.Module, average: nn.Module) -> None:
    """Copy a model's state into a module that averages it: tensors of the same name and shape."""
    own = tensors_by_name(model)
    for name, tensor in average.state_dict().items():
        source = own.get(name.removeprefix("module."))
        if source is not None and isinstance(tensor, Tensor) and tensor.shape == source.shape:
            tensor.copy_(source)
