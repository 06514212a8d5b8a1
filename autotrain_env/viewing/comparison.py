"""Pictures of methods beside each other."""

from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from autotrain_env.errors import check
from autotrain_env.viewing.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    make_figure,
    tidy,
    whole_figure,
)

COMPARISON_WIDTH = 7.2  # [inches]
ROW_HEIGHT = 0.26  # of a comparison [inches]
GROUP_COLOURS = {"agent": VERMILION, "random initial rates": BLUE, "best of grid": GREEN}
OTHER_COLOURS = (PURPLE, ORANGE, SKY, BLACK)


def plot_comparison(
    rows: Iterable[Mapping[str, Any]],
    figure: Figure | SubFigure | None = None,
    label: str = "test accuracy [%], mean and 95% interval",
) -> Figure:
    """Draw methods beside each other: a point and its interval for each, by group, the best on top.

    Args:
        rows: One for each method: `method` (its name), `group` (such as `"agent"`, `"random initial rates"`
            or `"best of grid"`; groups stand in the order of their first rows) and `mean`, `low` and `high`
            (in [0, 1]).
        figure: Figure or subfigure to draw into; `None` for a new one, as high as the rows need.
        label: Label of the axis.

    Returns:
        The figure, or the one that the subfigure is part of.

    Raises:
        InvalidValueError: If there is no row, or one lacks a value.
    """
    groups = _grouped(rows)
    heights = sum(len(members) + 1 for members in groups.values())
    figure = make_figure(figure, (COMPARISON_WIDTH, 0.9 + ROW_HEIGHT * heights))
    axes = figure.subplots()
    others = iter(OTHER_COLOURS * (1 + len(groups)))
    position, ticks, names = 0, [], []
    for group, members in groups.items():
        colour = GROUP_COLOURS.get(group) or next(others)
        axes.text(
            0.01,
            position,
            group,
            color=colour,
            fontweight="bold",
            va="center",
            transform=axes.get_yaxis_transform(),
        )
        for row in members:
            position += 1
            _draw_row(axes, position, row, colour)
            ticks.append(position)
            names.append(str(row["method"]))
        position += 1
    axes.set_yticks(ticks, names)
    axes.set_ylim(position - 0.4, -0.6)
    axes.margins(x=0.04)
    axes.set_xlabel(label)
    tidy(axes)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    return whole_figure(figure)


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns rows by group, the highest mean first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name in ("method", "group", "mean", "low", "high"):
            check(name in row, "rows", dict(row), f"mappings with an entry {name!r}")
        groups.setdefault(str(row["group"]), []).append(row)
    check(len(groups) > 0, "rows", rows, "at least one row")
    return {
        group: sorted(members, key=lambda row: -float(row["mean"])) for group, members in groups.items()
    }


def _draw_row(axes: Axes, position: int, row: Mapping[str, Any], colour: str) -> None:
    mean, low, high = (100 * float(row[name]) for name in ("mean", "low", "high"))
    axes.hlines(position, low, high, color=colour, linewidth=2.2, alpha=0.55)
    axes.plot(mean, position, "o", color=colour, markersize=5.5)
    axes.annotate(
        f"{mean:.1f}",
        (1, position),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
        color=colour,
        annotation_clip=False,
    )
