"""Pictures of classifiers that are evolved: accuracy meanwhile, and what the first units look for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from autotrain_env.errors import unknown_name
from autotrain_env.evolution.curves import Point
from autotrain_env.viewing.searches import COLOURS, WIDTH
from autotrain_env.viewing.style import GREY, make_figure, tidy

LABELS = {"generation": "generations", "forward_passes": "forward passes of an image", "seconds": "seconds"}


def plot_accuracy(
    curves: Mapping[str, Sequence[Sequence[Point]]],
    against: str = "seconds",
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Draw validation accuracy while classifiers are trained.

    Args:
        curves: Measurements of each training, by method; those of one method have one colour.
        against: `"seconds"` or `"forward_passes"`, on a logarithmic scale, or `"generation"`.
        levels: Accuracies to draw as lines, by name.

    Raises:
        InvalidValueError: If it cannot be drawn against that.
    """
    if against not in LABELS:
        raise unknown_name("against", against, LABELS)
    figure = Figure(figsize=(WIDTH, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    for number, (name, trainings) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        for training, points in enumerate(trainings):
            across = [getattr(point, against) for point in points]
            accuracy = [100 * point.accuracy for point in points]
            label = None if training else name
            axes.plot(across, accuracy, color=colour, linewidth=1.4, label=label)
    for name, level in (levels or {}).items():
        axes.axhline(100 * level, color=GREY, linewidth=1.0, linestyle="--")
        axes.annotate(
            f"{name}: {100 * level:.1f}",
            (0.4, 100 * level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
    if against != "generation":
        axes.set_xscale("log")
    axes.set(xlabel=LABELS[against], ylabel="validation accuracy [%]", ylim=(0, 100))
    axes.legend(frameon=False, fontsize=8, loc="best")
    tidy(axes)
    return figure


def plot_fitness(fitness: Mapping[str, Tensor], level: float, name: str) -> Figure:
    """Draw the fitness of every member of some generations, one generation a row.

    Args:
        fitness: Fitness of the members, shape (n,), by the generation's name.
        level: A fitness to compare with, as a line.
        name: What has that fitness.
    """
    figure = Figure(figsize=(WIDTH, 0.6 * len(fitness) + 1.2), dpi=100, layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(fitness.values()):
        axes.plot(
            values, torch.full_like(values, row), "|", color=COLOURS[row % len(COLOURS)], markersize=14
        )
    axes.axvline(level, color=GREY, linewidth=1.0, linestyle="--", label=name)
    axes.set(xlabel="fitness", yticks=range(len(fitness)), ylim=(-0.6, len(fitness) - 0.4))
    axes.set_yticklabels(list(fitness))
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def plot_mends(alone: Mapping[str, float], together: Mapping[str, float], start: float) -> Figure:
    """Draw what each mend brings, by itself and after those before it.

    Args:
        alone: Accuracy with this mend alone, by name.
        together: Accuracy with this mend and all before it.
        start: Accuracy without any.
    """
    figure = Figure(figsize=(WIDTH, 0.42 * len(together) + 1.3), dpi=100, layout="constrained")
    axes = figure.subplots()
    places = range(len(together))
    for offset, values, label, colour in (
        (-0.2, alone, "alone", COLOURS[1]),
        (0.2, together, "and all above it", COLOURS[0]),
    ):
        bars = axes.barh(
            [place + offset for place in places],
            [100 * value for value in values.values()],
            height=0.38,
            color=colour,
            label=label,
        )
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.axvline(100 * start, color=GREY, linewidth=1.0, linestyle="--")
    axes.set(xlabel="validation accuracy [%]", xlim=(0, 108), yticks=list(places))
    axes.set_yticklabels(list(together))
    axes.invert_yaxis()
    figure.legend(frameon=False, fontsize=8, loc="outside upper right", ncols=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def first_units(
    weights: Mapping[str, Tensor], image_shape: tuple[int, ...], before: Mapping[str, Tensor] | None = None
) -> Tensor | None:
    """Returns first-layer weights as images, where its units see whole images.

    Args:
        weights: A network's tensors by name.
        image_shape: Shape of an image.
        before: The tensors at the beginning: then it is what has changed, most changed units first.

    Returns:
        Images, shape (units, height, width), mean of the channels; `None` where there are none.
    """
    name = next((name for name, tensor in weights.items() if tensor.ndim >= 2), None)
    if name is None or weights[name].ndim != 2 or len(image_shape) != 3:
        return None
    first = weights[name]
    if before is not None:
        first = first - before[name]
        first = first[first.norm(dim=1).argsort(descending=True, stable=True)]
    return first.view(-1, *image_shape).mean(1)


def plot_units(
    units: Tensor, columns: int = 5, count: int = 25, figure: Figure | SubFigure | None = None
) -> Any:
    """Draw what units look for: red where they want light, blue where they want dark.

    Args:
        units: Weights as images, shape (units, height, width).
        columns: Units in a row.
        count: Most units that are drawn, the first.
        figure: Figure to draw into; by default a new one.

    Returns:
        The figure.
    """
    shown = units[:count]
    rows = -(-count // columns)
    figure = make_figure(figure, (0.8 * columns, 0.8 * rows))
    for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.set_axis_off()
        if number < len(shown):
            limit = float(shown[number].abs().max()) or 1.0
            axes.imshow(
                torch.as_tensor(shown[number]).numpy(),
                cmap="RdBu_r",
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
            )
    return figure
