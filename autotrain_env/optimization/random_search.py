"""Random steps in place of gradients, and what a step of some length brings in each direction."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotrain_env.errors import check, check_flag, check_name, check_number, check_whole
from autotrain_env.evolution.noise import NormalNoise, check_seed, draw_noise
from autotrain_env.optimization.descents import Counted, Function, Path, Recorder, as_lanes, slope, unit

KEEP = ("all", "better")
_AT_ONCE = 2**22  # numbers in the points that are measured together


def random_search(
    function: Function,
    starts: Tensor,
    *,
    scales: npt.ArrayLike,
    steps: int,
    keep: str = "better",
    normalized: bool = False,
    every: int = 1,
    seed: int = 0,
) -> Path:
    """Try normal noise instead of the gradient, with scales and starts as lanes.

    Args:
        function: What is minimised, as in `descend`.
        starts: Where lanes begin, floats, shape (d,) or (N, d).
        scales: Standard deviation of the noise, or, normalised, the length of a step: one, or one for each
            lane.
        steps: Steps of every lane.
        keep: `"better"`: a step that does not lead lower is taken back; `"all"`: none is.
        normalized: Whether noise is divided by its length.
        every: After how many steps lanes are looked at.
        seed: Seed of the noise, which depends on it, the step and the lane's number alone.

    Returns:
        The way of every lane. The cost of a step is one forward pass.

    Raises:
        InvalidTypeError: If something is of the wrong kind.
        InvalidValueError: If a number is out of range, or lanes are not as many in all arguments.
    """
    counted, recorder = Counted(function), Recorder(every)
    check_name("keep", keep, KEEP)
    check_whole("steps", steps, 1)
    check_flag("normalized", normalized)
    check_seed(seed)
    points, numbers = as_lanes(starts, "scales", scales)
    scale = torch.from_numpy(numbers).to(points)[:, None]
    with torch.no_grad():
        heights = counted(points)
        recorder.look(0, steps, points, heights, counted.passes)
        for step in range(1, steps + 1):
            noise = draw_noise(NormalNoise(), seed, step, range(len(points)), points.shape[1]).to(points)
            tried = points + scale * (unit(noise) if normalized else noise)
            reached = counted(tried)
            taken = reached < heights if keep == "better" else torch.ones_like(heights, dtype=torch.bool)
            points = torch.where(taken[:, None], tried, points)
            heights = torch.where(taken, reached, heights)
            recorder.look(step, steps, points, heights, counted.passes)
    return recorder.path()


@dataclass(frozen=True)
class StepEffects:
    """By how much the function changes with a step of one length.

    Args:
        random: In random directions, shape (directions,).
        gradient: Down the gradient.
        slope: Length of the gradient.
        dimensions: Number of coordinates (d).
        length: Length of the step.
    """

    random: npt.NDArray[Any]
    gradient: float
    slope: float
    dimensions: int
    length: float

    @property
    def expected_std(self) -> float:
        """Returns the standard deviation of a short step's change: slope · length / √d.

        A random direction has the cosine z / √d with the gradient, z being nearly standard normal.
        """
        return self.slope * self.length / math.sqrt(self.dimensions)


def step_effects(
    function: Function, point: Tensor, *, length: float, directions: int = 1000, seed: int = 0
) -> StepEffects:
    """Measure what steps of one length change, in random directions and down the gradient.

    Args:
        function: What is minimised, as in `descend`.
        point: Where the steps begin, floats, shape (d,).
        length: Length of all steps, above 0.
        directions: How many random directions.
        seed: Seed of the directions.
    """
    counted = Counted(function)
    points, _ = as_lanes(point, "length", 0.0, "point")
    check(len(points) == 1, "point", f"of shape {tuple(point.shape)}", "of shape (d,)")
    check_number("length", length, lambda number: 0 < number < math.inf, "finite, above 0")
    check_whole("directions", directions, 1)
    check_seed(seed)
    (height,), gradients = slope(counted, points)
    found = []
    some = max(1, _AT_ONCE // points.shape[1])
    with torch.no_grad():
        downhill = float(counted(points - length * unit(gradients))[0] - height)
        for start in range(0, directions, some):
            rows = range(start, min(start + some, directions))
            noise = draw_noise(NormalNoise(), seed, 0, rows, points.shape[1]).to(points)
            found.append((counted(points + length * unit(noise)) - height).cpu().numpy())
    norm = float(torch.linalg.vector_norm(gradients))
    return StepEffects(np.concatenate(found), downhill, norm, points.shape[1], float(length))
