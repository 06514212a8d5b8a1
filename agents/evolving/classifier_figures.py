"""The picture of a classifier's evolution."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from autotrain_env.viewing.evolved import first_units, plot_units
from autotrain_env.viewing.style import BLUE, GREY, VERMILION, tidy


def plot_evolved_classifier(
    evaluations: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
    image_shape: tuple[int, ...],
) -> Figure:
    """Draw accuracy against generations, and what changed in the first layer.

    Args:
        evaluations: Rows of `evaluations.jsonl`.
        result: What `result.json` holds.
        weights: Weights of the network that was chosen.
        initial: Weights at the beginning.
        image_shape: Shape of an image; units are drawn where each sees all of it.
    """
    units = first_units(weights, image_shape, initial)
    figure = Figure(figsize=(5.4 if units is None else 9.6, 4.0), dpi=100, layout="constrained")
    if units is None:
        _draw_curve(figure.subplots(), evaluations, result)
        return figure
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5.4, 4.2))[0]
    _draw_curve(left.subplots(), evaluations, result)
    right.suptitle("what the first layer has learned")
    plot_units(units, figure=right)
    return figure


def _draw_curve(axes: Axes, evaluations: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    generations = [row["generation"] for row in evaluations]
    axes.plot(generations, [100 * row["accuracy"] for row in evaluations], color=BLUE, label="validation")
    test = 100 * result["test"]["accuracy"]
    label = f"test, the chosen one: {test:.2f}"
    axes.plot(result["chosen_generation"], test, "o", color=VERMILION, label=label)
    axes.axhline(test, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(title="classifier by evolution", xlabel="generations", ylabel="accuracy [%]")
    axes.legend(frameon=False, loc="lower right")
    tidy(axes)
