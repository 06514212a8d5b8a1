"""Pictures of searches in one dimension: what sampling sees, where searches end, how estimates scatter."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from autotrain_env.errors import check, check_whole
from autotrain_env.evolution.estimates import gradient, second_derivatives
from autotrain_env.evolution.noise import Distribution, NormalNoise, draw_noise
from autotrain_env.evolution.strategy import EvolutionState, EvolutionStrategy
from autotrain_env.optimization import descents
from autotrain_env.viewing.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, tidy

Function = Callable[[Tensor], Tensor]
"""A function of every number in a tensor of any shape."""

COLOURS = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)
WIDTH = 7.2  # [inches]


def smoothed(
    function: Function, points: Tensor, std: Tensor | float, distribution: Distribution, samples: int = 4096
) -> Tensor:
    """Compute the mean of a function of perturbed points, over mirrored noise that all points share.

    Args:
        function: A function of one dimension; minimised.
        points: Points at which the mean is wanted, shape (n,).
        std: Standard deviation of the perturbation, shape (n,) or ().
        distribution: Distribution of the noise.
        samples: How many mirrored pairs.

    Returns:
        Means, shape (n,).
    """
    noise = draw_noise(distribution, 0, 0, range(1), samples)[0].to(points)
    steps = noise * torch.as_tensor(std).to(points).expand(len(points))[:, None]
    return (function(points[:, None] + steps) + function(points[:, None] - steps)).mean(1) / 2


def descend(function: Function, starts: Sequence[float], rate: float, steps: int) -> np.ndarray:
    """Descend the gradient from several points, by automatic differentiation.

    Returns:
        Where each is after every step, shape (steps + 1, starts).
    """
    points = torch.tensor(starts, dtype=torch.float64)[:, None]
    path = descents.descend(lambda at: function(at[:, 0]), points, learning_rates=rate, steps=steps)
    return path.points[:, :, 0]


def search(
    function: Function,
    starts: Sequence[float],
    strategy: EvolutionStrategy,
    generations: int,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Run evolution strategies from several points, each with noise of its own.

    Args:
        function: A function of one dimension; minimised.
        starts: Initial centres.
        strategy: The strategy that is followed.
        generations: How many generations.
        seed: Seed of the first search; the next has the next.

    Returns:
        Centres and standard deviations after every generation, both of shape (generations + 1, starts).
    """
    centres, stds = [], []
    for number, start in enumerate(starts):
        state: EvolutionState = strategy.init(torch.tensor([start], dtype=torch.float64), seed + number)
        path = [(float(state.parameters), float(state.std()))]
        for _ in range(generations):
            population, asked = state.ask()
            assert isinstance(population, Tensor)  # a single number has no low-rank noise
            state = asked.tell(-function(population[:, 0]))
            path.append((float(state.parameters), float(state.std())))
        centres.append([centre for centre, _ in path])
        stds.append([std for _, std in path])
    return np.array(centres).T, np.array(stds).T


def plot_smoothed(
    function: Function,
    span: tuple[float, float],
    stds: Sequence[float],
    distributions: Mapping[str, Distribution] | None = None,
) -> Figure:
    """Draw a function, and what sampling with noise of some standard deviations sees of it.

    Args:
        function: A function of one dimension.
        span: Ends of the range in which the function is drawn.
        stds: Standard deviations, with a panel for each.
        distributions: Distributions by name, with a curve for each; by default the normal one.
    """
    check(len(stds) > 0, "stds", stds, "at least one")
    distributions = {"normal": NormalNoise()} if distributions is None else distributions
    figure = Figure(figsize=(WIDTH, 2.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(stds), sharey=True, squeeze=False)[0]
    points = torch.linspace(*span, 400, dtype=torch.float64)
    for axes, std in zip(panels, stds, strict=True):
        axes.plot(points, function(points), color=GREY, linewidth=1, label="the function")
        for (name, distribution), colour in zip(distributions.items(), COLOURS, strict=False):
            axes.plot(points, smoothed(function, points, std, distribution), color=colour, label=name)
        axes.set_title(f"standard deviation {std:g}", fontsize="medium", loc="left")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def plot_ends(function: Function, span: tuple[float, float], paths: Mapping[str, np.ndarray]) -> Figure:
    """Draw where searches begin and end on a function.

    Args:
        function: A function of one dimension.
        span: Ends of the range in which the function is drawn.
        paths: Points after every step, by name, shape (steps + 1, starts).
    """
    figure = Figure(figsize=(WIDTH, 1.7 * len(paths)), dpi=80, layout="constrained")
    panels = figure.subplots(len(paths), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, path) in zip(panels, paths.items(), strict=True):
        _draw_function(axes, function, span)
        for column in path.T:
            ends = torch.from_numpy(column[[0, -1]])
            heights = function(ends)
            axes.annotate(
                "",
                (float(ends[1]), float(heights[1])),
                (float(ends[0]), float(heights[0])),
                arrowprops={"arrowstyle": "->", "color": GREY, "alpha": 0.6},
            )
            axes.plot(ends[0], heights[0], "o", color=BLUE, markersize=4)
            axes.plot(ends[1], heights[1], "o", color=VERMILION, markersize=6)
        axes.set_title(f"{name}: from blue to red", fontsize="medium", loc="left")
        tidy(axes)
    return figure


def plot_plane(
    function: Function,
    span: tuple[float, float],
    stds: tuple[float, float],
    paths: Mapping[str, tuple[np.ndarray, np.ndarray]],
    distribution: Distribution | None = None,
) -> Figure:
    """Draw ways through the plane of centre and standard deviation, over the smoothed function's height.

    Args:
        function: A function of one dimension; minimised.
        span: Ends of the range in which the centre is drawn.
        stds: Smallest and largest standard deviation, on a log scale.
        paths: What `search` returned, by name.
        distribution: Distribution of the noise, by default normal.
    """
    figure = Figure(figsize=(WIDTH, 2.4 * len(paths)), dpi=72, layout="constrained")
    panels = figure.subplots(len(paths), 1, sharex=True, squeeze=False)[:, 0]
    points = torch.linspace(*span, 160, dtype=torch.float64)
    levels = np.geomspace(*stds, 60)
    height = np.stack(
        [
            smoothed(function, points, float(std), distribution or NormalNoise(), 1024).numpy()
            for std in levels
        ]
    )
    for axes, (name, (centres, deviations)) in zip(panels, paths.items(), strict=True):
        axes.contourf(points, levels, height, levels=16, cmap="Greys", alpha=0.8)
        for centre, std, colour in zip(centres.T, deviations.T, COLOURS * len(centres), strict=False):
            axes.plot(centre, std.clip(*stds), color=colour, linewidth=1.2)
            axes.plot(centre[0], std[0], "o", color=colour, markersize=4)
            axes.plot(centre[-1], std[-1].clip(*stds), "X", color=colour, markersize=8)
        axes.set(yscale="log", ylabel="standard deviation", xlim=span, ylim=stds)
        axes.set_title(f"{name}: from • to ✖", fontsize="medium", loc="left")
        tidy(axes)
    panels[-1].set_xlabel("centre")
    return figure


def estimate_scatter(
    function: Function,
    point: float,
    std: float,
    distributions: Mapping[str, Distribution],
    sizes: Sequence[int],
    repeats: int = 200,
) -> dict[str, dict[str, np.ndarray]]:
    """Measure standard deviations of estimates over repeated generations, for several population sizes.

    Args:
        function: A function of one dimension.
        point: Point at which derivatives are estimated.
        std: Standard deviation of the perturbation.
        distributions: Distributions by name, with a score.
        sizes: Numbers of members, in mirrored pairs, at least 4.
        repeats: How many generations.

    Returns:
        `"first"` and `"second"` derivative: by name, shape (sizes,).
    """
    for size in sizes:
        check_whole("sizes", size, 4)
        check(size % 2 == 0, "sizes", size, "even")
    scale = torch.tensor([std], dtype=torch.float64)
    centre = function(torch.tensor(point, dtype=torch.float64))
    found: dict[str, dict[str, Any]] = {"first": {}, "second": {}}
    for name, distribution in distributions.items():
        for kind in found:
            found[kind][name] = np.zeros(len(sizes))
        for column, size in enumerate(sizes):
            noise = draw_noise(distribution, column, 0, range(repeats), size // 2).double()
            pairs = point + std * torch.stack((noise, -noise), 2).flatten(1)
            estimates = [
                (
                    float(gradient(fitness, rows[:, None], scale, distribution, True)),
                    float(
                        second_derivatives(fitness, rows[:, None], scale, distribution, True, centre).value
                    ),
                )
                for fitness, rows in zip(function(pairs), noise, strict=True)
            ]
            for kind, values in zip(found, np.array(estimates).T, strict=True):
                found[kind][name][column] = values.std(ddof=1)
    return found


def plot_scatter(sizes: Sequence[int], found: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw standard deviations of estimates against the number of members.

    Args:
        sizes: Numbers of members.
        found: What `estimate_scatter` returned.
    """
    figure = Figure(figsize=(WIDTH, 3.0), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (kind, curves) in zip(panels, found.items(), strict=True):
        for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
            axes.plot(sizes, values, color=colour, marker=".", label=name)
        axes.set(xscale="log", yscale="log", xlabel="members")
        axes.set_title(f"{kind} derivative", fontsize="medium", loc="left")
        tidy(axes)
    panels[0].set_ylabel("standard deviation of the estimate")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def animate_searches(
    function: Function,
    span: tuple[float, float],
    paths: Mapping[str, np.ndarray],
    path: str | Path,
    frames: int = 40,
) -> None:
    """Write a GIF of searches that move along a function.

    Args:
        function: A function of one dimension.
        span: Ends of the range in which the function is drawn.
        paths: Points after every step, by name, shape (steps + 1, starts).
        path: The file.
        frames: How many pictures, evenly over the steps.
    """
    figure = Figure(figsize=(WIDTH, 1.9 * len(paths)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(paths), 1, sharex=True, squeeze=False)[:, 0]
    dots = []
    for axes, name in zip(panels, paths, strict=True):
        _draw_function(axes, function, span)
        axes.set_title(name, fontsize="medium", loc="left")
        dots += axes.plot([], [], "o", color=VERMILION, markersize=6)
        tidy(axes)

    def draw(share: float) -> list[Any]:
        for dot, steps in zip(dots, paths.values(), strict=True):
            points = torch.from_numpy(steps[round(share * (len(steps) - 1))])
            dot.set_data(points.numpy(), function(points).numpy())
        return dots

    moving = FuncAnimation(figure, draw, frames=np.linspace(0, 1, frames).tolist(), blit=False)
    moving.save(path, writer=PillowWriter(fps=12))


def _draw_function(axes: Axes, function: Function, span: tuple[float, float]) -> None:
    points = torch.linspace(*span, 400, dtype=torch.float64)
    axes.plot(points, function(points), color=BLACK, linewidth=1)
    axes.set_xlim(span)
