"""Descents of functions from many points at once: every rate, momentum and start is a lane.

A function takes points of shape (N, d) and gives heights of shape (N,), each of its own point: one of
`autotrain_env.evolution.landscapes`, a `Quadratic`, the loss of networks (`ClassifierLoss`), or anyone's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotrain_env.errors import (
    InvalidTypeError,
    InvalidValueError,
    check,
    check_flag,
    check_whole,
    in_brief,
)
from autotrain_env.training.optimizers import Optimizer, as_optimizer

Function = Callable[[Tensor], Tensor]
"""A function of points (N, d) that gives their heights, shape (N,)."""

BACKWARD_PASSES = 2
"""Forward passes that one backward pass costs: it multiplies by every weight twice, not once."""


class Counted:
    """A function that counts what it is asked for, so that methods can be compared at equal cost.

    Args:
        function: The function.
    """

    def __init__(self, function: Function) -> None:
        if not callable(function):
            raise InvalidTypeError(f"function={in_brief(function)} must be a function of points")
        self.function = function
        self.forward = 0
        """Heights that were computed."""
        self.backward = 0
        """Gradients that were computed."""

    @property
    def passes(self) -> int:
        """Returns the cost so far [forward passes]."""
        return self.forward + BACKWARD_PASSES * self.backward

    def __call__(self, points: Tensor) -> Tensor:
        """Returns heights of points of shape (N, d), shape (N,).

        Raises:
            InvalidValueError: If the function gives another shape.
        """
        heights = self.function(points)
        shape = tuple(heights.shape) if isinstance(heights, Tensor) else type(heights)
        check(shape == (len(points),), "function", f"gives shape {shape}", f"of shape ({len(points)},)")
        self.forward += len(points)
        if heights.requires_grad:
            heights.register_hook(lambda _: self._count_backward(len(points)))
        return heights

    def _count_backward(self, count: int) -> None:
        self.backward += count


@dataclass(frozen=True)
class Path:
    """Where N lanes went.

    Args:
        steps: After how many steps the lanes were looked at, int64, shape (k,).
        points: Where they were, shape (k, N, d).
        heights: How high that was, shape (k, N).
        passes: What it had cost each lane until then [forward passes], int64, shape (k,).
    """

    steps: npt.NDArray[np.int64]
    points: npt.NDArray[Any]
    heights: npt.NDArray[Any]
    passes: npt.NDArray[np.int64]

    def lane(self, number: int) -> "Path":
        """Returns the path of one lane alone, with N = 1."""
        check_whole("number", number, 0, self.heights.shape[1] - 1)
        at = slice(number, number + 1)
        return replace(self, points=self.points[:, at], heights=self.heights[:, at])

    @property
    def best_lane(self) -> int:
        """Returns the lane that ends lowest; those that are not finite count as highest."""
        last = self.heights[-1]
        return int(np.where(np.isfinite(last), last, np.inf).argmin())


class Recorder:
    """Gathers a `Path` while lanes move.

    Args:
        every: After how many steps lanes are looked at.
    """

    def __init__(self, every: int) -> None:
        check_whole("every", every, 1)
        self.every = every
        self.rows: list[tuple[int, npt.NDArray[Any], npt.NDArray[Any], int]] = []

    def look(self, step: int, last: int, points: Tensor, heights: Tensor, passes: int) -> None:
        """Note where lanes are, at every so manieth step and at the last one."""
        if step % self.every == 0 or step == last:
            found = points.detach().cpu().numpy().copy(), heights.detach().cpu().numpy().copy()
            self.rows.append((step, *found, passes // len(points)))

    def path(self) -> Path:
        """Returns what was noted."""
        steps, points, heights, passes = zip(*self.rows, strict=True)
        return Path(np.array(steps), np.stack(points), np.stack(heights), np.array(passes))


def descend(
    function: Function,
    starts: Tensor,
    optimizer: str | Optimizer = "sgd",
    *,
    learning_rates: npt.ArrayLike,
    momenta: npt.ArrayLike | None = None,
    steps: int,
    every: int = 1,
    normalized: bool = False,
) -> Path:
    """Follow the gradient from one or many points, with rates, momenta and starts as lanes.

    A lane that leaves the finite numbers stays where that leads: its heights are infinite or NaN.

    Args:
        function: What is minimised.
        starts: Where lanes begin, floats, shape (d,) or (N, d).
        optimizer: The update rule, as for the environments: a name or an `Optimizer`.
        learning_rates: One rate, or one for each lane.
        momenta: One momentum, or one for each lane, where the rule is gradient descent; by default the
            rule's.
        steps: Updates of every lane.
        every: After how many updates lanes are looked at.
        normalized: Whether each lane's gradient is divided by its length.

    Returns:
        The way of every lane. The cost of an update is one forward and one backward pass.

    Raises:
        InvalidTypeError: If something is of the wrong kind.
        InvalidValueError: If a number is out of range, or lanes are not as many in all arguments.
    """
    counted, recorder = Counted(function), Recorder(every)
    check_whole("steps", steps, 1)
    check_flag("normalized", normalized)
    lanes = _Lanes.begin(starts, optimizer, learning_rates, momenta)
    for step in range(steps):
        heights, gradients = slope(counted, lanes.points)
        # The backward pass of this step is paid for by the step to come.
        cost = counted.passes - BACKWARD_PASSES * len(lanes.points)
        recorder.look(step, steps, lanes.points, heights, cost)
        lanes.move(unit(gradients) if normalized else gradients, step)
    with torch.no_grad():
        heights = counted(lanes.points)
    recorder.look(steps, steps, lanes.points, heights, counted.passes)
    return recorder.path()


def steps_needed(
    function: Function,
    starts: Tensor,
    optimizer: str | Optimizer = "sgd",
    *,
    learning_rates: npt.ArrayLike,
    momenta: npt.ArrayLike | None = None,
    targets: npt.ArrayLike,
    max_steps: int,
) -> npt.NDArray[np.float64]:
    """Count the updates until lanes are low enough.

    Args:
        function: What is minimised, as in `descend`; so are the next four.
        starts: Where lanes begin.
        optimizer: The update rule.
        learning_rates: Rates of the lanes.
        momenta: Momenta of the lanes.
        targets: The height that is low enough, one or one for each lane.
        max_steps: Updates after which it is given up.

    Returns:
        Number of updates after which a lane was low enough for the first time, float64, shape (N,);
        infinite where it never was.
    """
    counted = Counted(function)
    check_whole("max_steps", max_steps, 1)
    lanes = _Lanes.begin(starts, optimizer, learning_rates, momenta)
    wanted = torch.from_numpy(_per_lane("targets", targets, len(lanes.points))).to(lanes.points)
    found = torch.full((len(lanes.points),), math.inf, dtype=torch.float64)
    for step in range(max_steps + 1):
        heights, gradients = slope(counted, lanes.points)
        found[(heights <= wanted).cpu() & found.isinf()] = step
        if bool((found.isfinite() | ~heights.isfinite().cpu()).all()):
            break
        lanes.move(gradients, step)
    return found.numpy()


def slope(function: Function, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns heights of points, shape (N,), and their gradients by automatic differentiation, (N, d)."""
    leaf = points.detach().clone().requires_grad_()
    heights = function(leaf)
    if not heights.requires_grad:
        raise InvalidValueError("function: gives heights that do not lead back to its points")
    (gradients,) = torch.autograd.grad(heights.sum(), leaf)
    return heights.detach(), gradients


def unit(vectors: Tensor) -> Tensor:
    """Returns vectors of shape (N, d) over their lengths; what has no length stays as it is."""
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


class Start(NamedTuple):
    """Where lanes begin, and a number for each."""

    points: Tensor
    numbers: npt.NDArray[np.float64]


def as_lanes(starts: Tensor, argument: str, numbers: npt.ArrayLike, named: str = "starts") -> Start:
    """Check points and numbers, and make them equally many.

    Args:
        starts: Points, floats, shape (d,) or (N, d).
        argument: What the numbers are called.
        numbers: One number, at least 0, or one for each lane.
        named: What the points are called.

    Returns:
        Points, shape (N, d), a copy, and numbers, float64, shape (N,).
    """
    if not isinstance(starts, Tensor) or not starts.is_floating_point():
        raise InvalidTypeError(f"{named}={in_brief(starts)} must be a tensor of floats")
    fits = 1 <= starts.ndim <= 2 and starts.numel() > 0
    check(fits, named, f"of shape {tuple(starts.shape)}", "of shape (d,) or (N, d)")
    check(bool(starts.isfinite().all()), named, starts, "finite")
    points = starts.detach().reshape(-1, starts.shape[-1])
    lanes = max(len(points), np.size(np.asarray(numbers)))
    values = _per_lane(argument, numbers, lanes)
    check(len(points) in (1, lanes), named, f"{len(points)} points", f"one, or one for each of {lanes}")
    return Start(points.expand(lanes, -1).clone(), values)


def _per_lane(argument: str, values: npt.ArrayLike, lanes: int) -> npt.NDArray[np.float64]:
    """Returns one number, or one for each lane, at least 0, as float64 of shape (lanes,)."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"{argument}={in_brief(values)} must be numbers") from error
    check(array.ndim <= 1, argument, f"of shape {array.shape}", "a number, or of shape (N,)")
    check(array.size in (1, lanes), argument, f"{array.size} numbers", f"one, or one for each of {lanes}")
    check(bool((np.isfinite(array) & (array >= 0)).all()), argument, values, "finite, at least 0")
    return np.full(lanes, array)


@dataclass(eq=False)
class _Lanes:
    """Points in motion, and what their rule remembers."""

    points: Tensor
    optimizer: Optimizer
    rates: npt.NDArray[np.float64]
    momenta: npt.NDArray[np.float64] | None
    accumulators: list[Tensor]

    @classmethod
    def begin(
        cls,
        starts: Tensor,
        optimizer: str | Optimizer,
        learning_rates: npt.ArrayLike,
        momenta: npt.ArrayLike | None,
    ) -> "_Lanes":
        rule, decay = as_optimizer(optimizer), None
        points, rates = as_lanes(starts, "learning_rates", learning_rates)
        if momenta is not None:
            if len(points) == 1:
                points = points.expand(max(1, np.size(np.asarray(momenta))), -1).clone()
                rates = np.full(len(points), rates)
            decay = _per_lane("momenta", momenta, len(points))
            rule = with_momentum(rule)
            check(bool((decay < 1).all()), "momenta", momenta, "in [0, 1)")
        accumulators = [torch.zeros_like(points) for _ in range(rule.num_accumulators)]
        return cls(points, rule, rates, decay, accumulators)

    def move(self, gradients: Tensor, updates_done: int) -> None:
        values = None if self.momenta is None else self.momenta[:, None]
        self.optimizer.apply(self.points, gradients, self.accumulators, self.rates, updates_done, values)


def with_momentum(rule: Optimizer) -> Optimizer:
    """Returns a rule in which lanes may have momenta of their own.

    Raises:
        InvalidValueError: If the rule knows no such momentum.
    """
    names = [entry.name for entry in fields(rule)]
    allowed = "None: the rule has no momentum in which lanes may differ"
    check("momentum" in rule.lane_values and "momentum" in names, "momenta", "given", allowed)
    if getattr(rule, "momentum", 0) > 0:
        return rule
    return replace(rule, momentum=0.5)  # type: ignore[call-arg]
