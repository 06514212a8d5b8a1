"""Pictures of descents: ways over a landscape, steps against gradients, conditioning, basins."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from scipy.stats import norm

from autotrain_env.errors import check, check_name
from autotrain_env.optimization.descents import Function, Path
from autotrain_env.optimization.quadratics import Settings
from autotrain_env.optimization.random_search import StepEffects
from autotrain_env.viewing.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, tidy

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
WIDTH, DPI = 7.2, 70  # [inches]; pictures in notebooks are to stay small

Span = tuple[tuple[float, float], tuple[float, float]]
"""Ends of the first and of the second coordinate."""


def plot_paths(function: Function, span: Span, paths: Mapping[str, Path], columns: int = 2) -> Figure:
    """Draw ways over a function of two coordinates, on lines of equal height.

    Args:
        function: The function.
        span: What is shown of the plane.
        paths: Ways by name, with a panel for each; a lane is a line.
        columns: Panels side by side.
    """
    check(len(paths) > 0, "paths", paths, "at least one")
    rows = -(-len(paths) // columns)
    figure = Figure(figsize=(WIDTH, 0.2 + 1.6 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    (first, second), heights = _heights(function, span, 160)
    levels = np.geomspace(max(float(heights.min()), 1e-3 * float(heights.max())), float(heights.max()), 7)
    for axes, (name, path) in zip(panels, paths.items(), strict=False):
        axes.contour(first, second, heights, levels=levels, colors=GREY, linewidths=0.4, alpha=0.6)
        for lane in range(path.points.shape[1]):
            colour, way = COLOURS[lane % len(COLOURS)], path.points[:, lane]
            axes.plot(way[:, 0], way[:, 1], ".-", color=colour, linewidth=0.9, markersize=3)
            axes.plot(*way[0], "o", color=colour, markersize=5)
        axes.plot(0, 0, "+", color=BLACK, markersize=9)
        axes.set(xlim=span[0], ylim=span[1])
        axes.set_title(name, fontsize="medium", loc="left")
    for axes in panels[len(paths) :]:
        axes.set_axis_off()
    return figure


def plot_heights(
    panels: Mapping[str, Mapping[str, Path]],
    against: str = "passes",
    *,
    label: str = "loss",
    lowest: float = 0.0,
    others: bool = True,
) -> Figure:
    """Draw how low lanes are, on a log scale: of each way the lane that ends lowest, and others faintly.

    Args:
        panels: Ways by name, by the title of their panel.
        against: `"passes"`: what it cost [forward passes]; or `"steps"`.
        label: What the height is called.
        lowest: Where the scale ends; by default below all that is drawn.
        others: Whether the other lanes are drawn.
    """
    check_name("against", against, ("passes", "steps"))
    check(len(panels) > 0 and all(panels.values()), "panels", panels, "one or more, none of them empty")
    figure = Figure(figsize=(WIDTH, 2.8), dpi=DPI, layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    top, bottom = 0.0, np.inf
    for axes, (title, paths) in zip(drawn, panels.items(), strict=True):
        for (name, path), colour in zip(paths.items(), COLOURS, strict=False):
            x = path.passes if against == "passes" else path.steps
            best = path.heights[:, path.best_lane]
            if others:
                axes.plot(x, path.heights, color=colour, linewidth=0.6, alpha=0.25)
            axes.plot(x, best, color=colour, linewidth=1.8, label=name)
            top, bottom = max(top, float(best[0])), min(bottom, float(np.nanmin(best)))
        axes.set_xlabel({"passes": "forward passes", "steps": "updates"}[against])
        axes.set_title(title, fontsize="medium", loc="left")
        tidy(axes)
    drawn[0].set(yscale="log", ylim=(max(lowest, bottom / 2, top * 1e-12), 3 * top), ylabel=label)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_effects(effects: Mapping[str, StepEffects]) -> Figure:
    """Draw what steps of one length change: a histogram of random directions, a line for the gradient.

    The curve is what is expected of random directions: normal, with standard deviation slope · length / √d.

    Args:
        effects: What `step_effects` returned, by name, with a panel for each.
    """
    check(len(effects) > 0, "effects", effects, "at least one")
    figure = Figure(figsize=(WIDTH, 2.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(effects), squeeze=False)[0]
    for axes, (name, found) in zip(panels, effects.items(), strict=True):
        axes.hist(found.random, bins=40, density=True, color=SKY, label="random directions")
        edge = max(float(np.abs(found.random).max()), abs(found.gradient))
        points = np.linspace(-edge, edge, 600)
        axes.plot(points, norm.pdf(points, scale=found.expected_std), color=BLUE, label="expected of them")
        axes.axvline(found.gradient, color=VERMILION, linewidth=2, label="down the gradient")
        axes.set(xlabel="change of the loss", yticks=[])
        axes.set_title(f"{name}: d = {found.dimensions:,}", fontsize="medium", loc="left")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def plot_settings(
    learning_rates: npt.NDArray[np.float64],
    momenta: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    best: Mapping[str, Settings],
) -> Figure:
    """Draw how many updates each rate and momentum need; what never arrives stays white.

    Args:
        learning_rates: Rates, in ascending order, shape (k,).
        momenta: Momenta, in ascending order, shape (m,).
        steps: Updates needed, shape (m, k).
        best: Settings that theory names, by name, marked on the map.
    """
    allowed = f"of shape ({len(momenta)}, {len(learning_rates)})"
    check(steps.shape == (len(momenta), len(learning_rates)), "steps", f"of shape {steps.shape}", allowed)
    figure = Figure(figsize=(WIDTH, 3.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.isfinite(steps), np.maximum(steps, 1), np.nan)
    mesh = axes.pcolormesh(
        learning_rates, momenta, shown, norm=LogNorm(), cmap="viridis_r", shading="nearest"
    )
    figure.colorbar(mesh, ax=axes, label="updates needed")
    for (name, settings), mark in zip(best.items(), "o*s^", strict=False):
        spot = (settings.learning_rate, settings.momentum)
        axes.plot(*spot, mark, color=VERMILION, markersize=13, markeredgecolor="white", label=name)
    axes.set(xscale="log", xlabel="learning rate", ylabel="momentum")
    axes.legend(frameon=True, fontsize="small", loc="lower left")
    return figure


def plot_conditioning(
    condition_numbers: Sequence[float],
    measured: Mapping[str, npt.NDArray[np.float64]],
    expected: Mapping[str, npt.NDArray[np.float64]],
) -> Figure:
    """Draw updates that are needed against the condition number, on log scales: dots on lines of theory.

    Args:
        condition_numbers: Condition numbers (κ), shape (k,).
        measured: Updates that were needed, by name, shape (k,).
        expected: What theory says of the same names, shape (k,).
    """
    figure = Figure(figsize=(WIDTH, 3.0), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (name, steps), colour in zip(measured.items(), COLOURS, strict=False):
        axes.plot(condition_numbers, steps, "o", color=colour, markersize=5, label=name)
        axes.plot(condition_numbers, expected[name], color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="condition number", ylabel="updates needed")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
    return figure


def plot_basins(
    function: Function, span: Span, ends: Mapping[str, Path], minima: npt.ArrayLike, reach: float = 0.1
) -> Figure:
    """Draw where starts on a square grid of the plane lead: a colour for each minimum.

    Args:
        function: The function of two coordinates.
        span: What the grid covers; the first coordinate is that of the columns.
        ends: Ways by name, with a panel for each, that began at `grid_starts(span, n)`.
        minima: The minima, shape (m, 2).
        reach: Within what distance of a minimum a lane has reached it; others are white.
    """
    check(len(ends) > 0, "ends", ends, "at least one")
    places = np.asarray(minima, dtype=np.float64)
    check(
        places.ndim == 2 and places.shape[1] == 2, "minima", f"of shape {places.shape}", "of shape (m, 2)"
    )
    figure = Figure(figsize=(WIDTH, 0.3 + WIDTH / len(ends)), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(ends), sharex=True, sharey=True, squeeze=False)[0]
    # Paler than in lines, so that the marks stand out.
    colours = np.array([to_rgb(COLOURS[number % len(COLOURS)]) for number in range(len(places))])
    colours = 0.7 * colours + 0.3
    (first, second), heights = _heights(function, span, 120)
    levels = np.quantile(heights, (0.15, 0.4))
    for axes, (name, path) in zip(panels, ends.items(), strict=True):
        size = round(path.points.shape[1] ** 0.5)
        check(size**2 == path.points.shape[1], "ends", f"{path.points.shape[1]} lanes", "a square number")
        distance = np.linalg.norm(path.points[-1][:, None] - places, axis=2)
        reached = distance.min(1) < reach  # NaN is no distance
        image = np.where(reached[:, None], colours[np.nan_to_num(distance, nan=np.inf).argmin(1)], 1.0)
        image = image.reshape(size, size, 3)
        axes.imshow(image, origin="lower", extent=(*span[0], *span[1]), interpolation="nearest")
        axes.contour(first, second, heights, levels=levels, colors="white", linewidths=0.6)
        axes.plot(places[:, 0], places[:, 1], "o", color="white", markeredgecolor=BLACK, markersize=5)
        axes.set_title(name, fontsize="medium", loc="left")
    return figure


def grid_starts(span: Span, size: int) -> torch.Tensor:
    """Returns the points of a square grid, float64, shape (size², 2), row after row."""
    columns, rows = (torch.linspace(*ends, size, dtype=torch.float64) for ends in span)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)


def _heights(
    function: Function, span: Span, size: int
) -> tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """Returns the coordinates of a grid and the function's heights on it, (rows, columns)."""
    points = grid_starts(span, size)
    heights = function(points).reshape(size, size).numpy()
    return (np.linspace(*span[0], size), np.linspace(*span[1], size)), heights
