"""Whether lanes can have networks of their own from a user's factory: they are made and run twice."""

import copy

import torch
from torch import Tensor, nn

from autotrain_env.errors import InvalidValueError
from autotrain_env.training.hidden_state import differences, digest, hidden_state
from autotrain_env.training.layout import kept_tensors

_REMEDY = (
    "Lanes have parameters and buffers of their own, and share everything else. Make it a buffer "
    "(self.register_buffer(name, tensor)), or keep it the same"
)


def check_repeatable(classifier: object, first: nn.Module, second: nn.Module) -> None:
    """Check that two networks that were made with one seed are equal.

    Raises:
        InvalidValueError: If they are not: then two runs with one seed would differ.
    """
    held = [hidden_state(network) | _digests(network) for network in (first, second)]
    places = differences(*held)
    if places:
        raise InvalidValueError(
            f"classifier={classifier!r}: two networks that it made with one seed differ in "
            f"{_listed(places)}, so that two runs with one seed would differ. What is random must come "
            "from the global generators of torch, NumPy or Python, which are seeded before every call"
        )


def check_alike(classifier: object, first: nn.Module, second: nn.Module) -> None:
    """Check that two networks differ in nothing but parameters and finite buffers, which belong to lanes.

    Raises:
        InvalidValueError: If they do.
    """
    places = differences(
        *(hidden_state(network) | _infinite_buffers(network) for network in (first, second))
    )
    if places:
        raise InvalidValueError(
            f"classifier={classifier!r}: two networks that it made differ in {_listed(places)}, which is "
            f"neither a parameter nor a finite buffer. {_REMEDY}"
        )


def check_exchangeable(classifier: object, first: nn.Module, second: nn.Module, images: Tensor) -> None:
    """Check that two networks, given the same parameters and buffers, compute the same.

    Raises:
        InvalidValueError: If they do not: then they differ in something that cannot be seen in them.
    """
    first, second = copy.deepcopy(first).eval(), copy.deepcopy(second).eval()
    _set_state(second, _state(first))
    with torch.no_grad():
        same = _close(first(images), second(images))
    if not same:
        raise InvalidValueError(
            f"classifier={classifier!r}: two networks that it made compute different logits with the same "
            f"parameters and buffers, so that they differ in something else. {_REMEDY}"
        )


def check_steady(classifier: object, network: nn.Module, images: Tensor) -> None:
    """Check that a network, in training mode, changes nothing but its buffers while it computes.

    Args:
        classifier: What made it.
        network: The network, of which nobody else needs anything any more.
        images: Images to compute on, shape (n, *image_shape); two batches of n / 2.

    Raises:
        InvalidValueError: If it changes more, or computes something else the second time.
    """
    before, held = _state(network), hidden_state(network) | _infinite_buffers(network)
    digests = _digests(network, buffers=False)
    modes = {name: part.training for name, part in network.named_modules()}
    results = []
    for _ in range(2):
        _set_state(network, before)
        for batch in images.chunk(2):
            for name, part in network.named_modules():
                part.training = modes[name]
            logits = network(batch)
            logits.square().mean().backward()
            network.zero_grad()
            with torch.no_grad():
                results.append((logits.detach(), network.eval()(batch)))
            for name, part in network.named_modules():
                part.training = modes[name]
            _check_unchanged(classifier, network, before, held, digests)
    half = len(results) // 2
    for once, again in zip(results[:half], results[half:], strict=True):
        if not all(_close(left, right) for left, right in zip(once, again, strict=True)):
            raise InvalidValueError(
                f"classifier={classifier!r}: its network computes something else the second time, with "
                f"the same parameters and buffers, so that something else changes while it computes. "
                f"{_REMEDY}"
            )


def _check_unchanged(
    classifier: object,
    network: nn.Module,
    before: dict[str, Tensor],
    held: dict[str, object],
    digests: dict[str, object],
) -> None:
    places = differences(held, hidden_state(network) | _infinite_buffers(network))
    places += differences(digests, _digests(network, buffers=False))
    if places:
        raise InvalidValueError(
            f"classifier={classifier!r}: its network changes {_listed(places)} while it computes, which "
            f"is no finite buffer. {_REMEDY}"
        )
    after = _state(network)
    for name in before.keys() | after.keys():
        kinds = [
            (tuple(state[name].shape), state[name].dtype) if name in state else None
            for state in (before, after)
        ]
        if kinds[0] != kinds[1]:
            raise InvalidValueError(
                f"classifier={classifier!r}: its network makes another tensor of buffer {name!r} while it "
                f"computes: of shape and dtype {kinds[0]}, then {kinds[1]}. A buffer must keep both, from "
                "the beginning"
            )


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone()
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }


def _set_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.copy_(state[name])


def _digests(network: nn.Module, *, buffers: bool = True) -> dict[str, object]:
    """Returns digests of parameters, and maybe buffers, by name."""
    named = [*network.named_parameters(), *(network.named_buffers() if buffers else ())]
    return {name: digest(tensor) for name, tensor in named}


def _infinite_buffers(network: nn.Module) -> dict[str, object]:
    """Returns digests of buffers that are not finite, which lanes share; see `kept_tensors`."""
    kept = kept_tensors(network)
    return {name: digest(tensor) for name, tensor in network.named_buffers() if name not in kept}


def _close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)


def _listed(places: list[str]) -> str:
    shown = ", ".join(repr(place) for place in places[:3])
    return shown + (f" and {len(places) - 3} more" if len(places) > 3 else "")
