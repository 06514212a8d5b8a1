"""Going round a loader, and going on in the middle of a round."""

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from autotrain_env.errors import InvalidValueError, check


class Rounds:
    """Where a loop round a loader is, so that a resumed one meets the same batches."""

    def __init__(self) -> None:
        self.epoch = 0
        self.position = 0  # batches of this epoch that were handed out
        self.start: dict[str, Any] | None = None  # random streams at the beginning of this epoch
        self.now: dict[str, Any] | None = None  # random streams to go on with, after resuming

    def go(self, loader: Any, over: Callable[[], bool], calls: Callable[[], int]) -> Iterator[Any]:
        """Yields batches round by round.

        Args:
            loader: What to go round.
            over: Tells whether to stop.
            calls: Tells how many updates the loop has reported.
        """
        while not over():
            handed, calls_before = 0, calls()
            for batch in self._round(loader):
                handed += 1
                yield batch
                if over():
                    return
            if handed and calls() == calls_before:
                raise InvalidValueError(
                    "a round over the loader went by without controller.step(loss, logits, labels): call "
                    "it after each optimizer.step()"
                )

    def _round(self, loader: Any) -> Iterator[Any]:
        """Yields the batches of an epoch that are left; those before are drawn and passed over."""
        skip, resumed = self.position, self.now is not None
        if resumed and self.start is not None:
            set_streams(self.start, loader)
        else:
            self.start = streams(loader)
        with contextlib.suppress(AttributeError):
            loader.sampler.set_epoch(self.epoch)
        number = 0
        for number, batch in enumerate(loader, start=1):
            if number <= skip:
                continue
            self._go_on()
            self.position = number
            yield batch
        check(number > 0, "loader", "empty, or an iterator that is used up", "one with batches")
        self._go_on()
        self.epoch, self.position = self.epoch + 1, 0

    def _go_on(self) -> None:
        if self.now is not None:
            set_streams(self.now)
            self.now = None

    def state_dict(self) -> dict[str, Any]:
        """Returns the place, and all global random streams."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "start": self.start,
            "now": streams(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned: streams now, the loader with the next round."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.start, self.now = state["start"], state["now"]
        set_streams(state["now"])


def streams(loader: Any = None) -> dict[str, Any]:
    """Returns the states of all global random streams and a loader's own, as plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    version, inner, gauss = random.getstate()
    found: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(inner), gauss],
        "own": [generator.get_state() for generator in _generators(loader)],
    }
    if torch.cuda.is_initialized():
        found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_streams(state: dict[str, Any], loader: Any = None) -> None:
    """Bring random streams to where `streams` found them."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))
    for generator, own in zip(_generators(loader), state["own"], strict=False):
        generator.set_state(own)
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _generators(loader: Any) -> list[torch.Generator]:
    """Returns the generators that a loader and its sampler have of their own."""
    owners = (loader, getattr(loader, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
