"""The learning rates of an optimiser's parameter groups, which keep their ratios."""

import gc
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check


class Rates:
    """Sets the rates of all parameter groups by one number: that of the group with the largest rate.

    Args:
        optimizer: Any optimiser with `param_groups` as those of torch have them.

    Raises:
        InvalidTypeError: If it has no parameter groups with a rate.
        InvalidValueError: If no group has a finite rate above 0.
    """

    def __init__(self, optimizer: Any) -> None:
        groups = getattr(optimizer, "param_groups", None)
        if not groups or not all("lr" in group for group in groups):
            raise InvalidTypeError(
                f"optimizer={type(optimizer).__name__} must have param_groups with an lr"
            )
        self.optimizer = optimizer
        rates = self.current()
        self.rate = max(rates)
        finite = all(math.isfinite(rate) and rate >= 0 for rate in rates)
        check(finite and self.rate > 0, "optimizer's rates", rates, "finite, and one of them above 0")
        self.ratios = [rate / self.rate for rate in rates]
        self.overridden = 0  # how often somebody else had set a rate
        self._expected = rates

    def current(self) -> list[float]:
        """Returns the rates that the groups have now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def set(self, rate: float) -> None:
        """Set the rates of all groups."""
        self.rate = rate
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * ratio)
            else:
                group["lr"] = rate * ratio
        self._expected = self.current()

    def check(self, *, tensors: bool = True) -> None:
        """Set the rates again where somebody else has changed one; the first time, warn of it.

        Args:
            tensors: Whether to look at rates that are tensors, too, for which a device may have to wait.
        """
        groups = self.optimizer.param_groups
        if not tensors and any(isinstance(group["lr"], Tensor) for group in groups):
            return
        found = self.current()
        if found == self._expected:
            return
        if not self.overridden:
            warnings.warn(
                f"{self._culprit()} has changed the learning rate from {self._expected} to {found}; the "
                "controller sets the rate and takes it back: do without the other",
                stacklevel=4 if tensors else 3,  # the user's line, through Controller.step
            )
        self.overridden += 1
        self.set(self.rate)

    def _culprit(self) -> str:
        """Returns the name of a schedule of torch that has this optimiser, or what else it may be."""
        kind = torch.optim.lr_scheduler.LRScheduler
        for found in gc.get_objects():
            # Not isinstance, which asks objects that answer with a warning.
            if issubclass(type(found), kind) and getattr(found, "optimizer", None) is self.optimizer:
                return type(found).__name__
        return "Something else, a schedule perhaps,"
