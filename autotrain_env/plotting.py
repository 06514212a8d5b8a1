"""Pictures of training runs and of comparisons, and a run in a few lines of text.

Nothing here touches `matplotlib.pyplot`: figures belong to the caller and are gone when dropped.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from autotrain_env.errors import check, unknown_name
from autotrain_env.mdp_log import read_rows

History = Mapping[str, np.ndarray]

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"

EPISODE_SIZE = (7.2, 6.4)  # [inches]
COMPARISON_WIDTH = 7.2  # [inches]
ROW_HEIGHT = 0.26  # of a comparison [inches]
GROUP_COLOURS = {"agent": VERMILION, "random initial rates": BLUE, "best of grid": GREEN}
OTHER_COLOURS = (PURPLE, ORANGE, SKY, BLACK)
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40  # [characters]


def as_image(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the content of an image file.

    Args:
        figure: The figure.
        kind: Ending of the file, such as `"png"` or `"pdf"`.

    Raises:
        ValueError: If the kind is not known.
    """
    check_image_kind("kind", kind)
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else None
    figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    return buffer.getvalue()


def check_image_kind(argument: str, kind: str) -> None:
    """Raise a `ValueError` unless a figure can be written as a file with this ending."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if kind not in known:
        raise unknown_name(argument, kind, known)


# --- one run ---


def plot_episode(
    history: History, figure: Figure | SubFigure | None = None, score_label: str = "validation"
) -> Figure:
    """Draw a controlled run: actions, loss, scores and learning rate over the updates of the budget used.

    Vertical lines mark rewinds, re-inits and stop in every panel; the top panel says how far each rewind
    went. Env steps in which the network had diverged are shaded.

    Args:
        history: What `info["history"]` holds; see `EpisodeHistory`. Missing values may be NaN.
        figure: Figure or subfigure to draw into; `None` for a new one.
        score_label: What the reward's score was computed on.

    Returns:
        The figure, or the one that the subfigure is part of.
    """
    figure = _figure(figure, EPISODE_SIZE)
    actions, loss, score, rate = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [0.75, 3, 3, 2]}
    )
    run = _Run(history)
    _draw_actions(actions, run)
    _draw_loss(loss, run)
    _draw_scores(score, run, score_label)
    _draw_learning_rate(rate, run)
    for axes in (actions, loss, score, rate):
        _mark_events(axes, run)
        tidy(axes)
    rate.set_xlabel("updates of the budget used")
    rate.set_xlim(-0.01 * run.end, 1.01 * run.end)
    figure.align_ylabels([actions, loss, score, rate])
    return _whole(figure)


class _Run:
    """A history with the positions that its marks are drawn at.

    Args:
        history: What `info["history"]` holds.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self.updates = np.asarray(history["updates"], dtype=np.float64)
        # A decision is taken where the step before it ended.
        self.decided_at = np.concatenate((self.updates[:1], self.updates[:-1]))
        self.rewind = np.asarray(history["rewind"], dtype=np.int64)
        self.reinit = np.asarray(history["reinit"], dtype=bool)
        self.stop = np.asarray(history["stop"], dtype=bool)
        self.diverged = np.asarray(history["diverged"], dtype=bool)
        self.end = max(float(self.updates[-1]), 1.0)
        trains = ~self.stop  # stopping makes no update, so that its row repeats the one before
        self.at, self.trains = self.updates[trains], trains

    def column(self, name: str) -> np.ndarray:
        """A column without the row of a stop."""
        return np.asarray(self.history[name], dtype=np.float64)[self.trains]

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of all windows [updates], and their mean minibatch losses; the state at reset first."""
        loss = self.column("loss")  # (rows, K)
        shares = np.arange(1, loss.shape[1] + 1) / loss.shape[1]
        ends = self.at[:-1, None] + np.diff(self.at)[:, None] * shares
        return np.append(self.at[0], ends.ravel()), np.append(loss[0, -1], loss[1:].ravel())


def _draw_actions(axes: Axes, run: _Run) -> None:
    """Rewinds as stems as high as their distance; re-inits, stop and divergence in a legend."""
    rewinds = run.rewind > 0
    at, distance = run.decided_at[rewinds], run.rewind[rewinds]
    axes.vlines(at, 0, distance, color=PURPLE, linewidth=1.2)
    axes.plot(at, distance, "o", color=PURPLE, markersize=3.5)
    axes.set_ylim(0, max(3, distance.max(initial=0)) + 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_ylabel("rewind\n[env steps]", fontsize="small")
    axes.legend(
        handles=_event_handles(run),
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        fontsize="small",
        borderaxespad=0.1,
        handlelength=1.4,
    )


def _event_handles(run: _Run) -> list[Any]:
    """What the legend of marks says: each with its number, those that happened alone."""
    divergences = np.count_nonzero(run.diverged & np.append(True, ~run.diverged[:-1]))
    handles: list[Any] = []
    for count, name, style in (
        (np.count_nonzero(run.rewind), "rewind", {"color": PURPLE, "marker": "o", "markersize": 3.5}),
        (np.count_nonzero(run.reinit), "re-init", {"color": BLACK, "linestyle": "--"}),
        (np.count_nonzero(run.stop), "stop", {"color": BLACK, "linewidth": 2.0}),
        (divergences, "diverged", {"color": VERMILION, "linewidth": 7, "alpha": 0.3}),
    ):
        if count:
            times = f" ×{count}" if count > 1 else ""
            handles.append(Line2D([], [], label=name + times, **style))
    return handles or [Line2D([], [], linestyle="none", label="no rewind, re-init or stop")]


def _mark_events(axes: Axes, run: _Run) -> None:
    faint = 0.5 if np.count_nonzero(run.rewind) < 25 else 0.25
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        (run.rewind > 0, {"color": PURPLE, "linewidth": 0.8, "alpha": faint}),
        (run.reinit, {"color": BLACK, "linewidth": 1.0, "linestyle": "--"}),
        (run.stop, {"color": BLACK, "linewidth": 2.0}),
    ]
    for happened, style in styles:
        at, whole_height = run.decided_at[happened], axes.get_xaxis_transform()
        axes.vlines(at, 0, 1, transform=whole_height, zorder=1, **style)
    for first, last in _spans(run.diverged & run.trains):
        axes.axvspan(run.decided_at[first], run.updates[last], color=VERMILION, alpha=0.2, linewidth=0)


def _spans(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(int)))
    return [(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)]


def _draw_loss(axes: Axes, run: _Run) -> None:
    at, loss = run.windows()
    axes.plot(at, np.where(loss > 0, loss, np.nan), color=BLUE, linewidth=1.4, marker=_dot(at))
    _log_axis(axes)
    axes.set_ylabel("minibatch loss\n[nats]")


def _draw_scores(axes: Axes, run: _Run, score_label: str) -> None:
    handles = [
        _line(axes, run, "train_score", "train", color=SKY, linestyle="-"),
        _line(axes, run, "holdout_score", "holdout (guarded)", color=ORANGE, linestyle="--"),
    ]
    axes.set_ylim(0, 1.02)
    # Minus the log loss is below 0, and has an axis of its own: the other two are mapped to [0, 1].
    if np.nanmin(run.column("score"), initial=0.0) < 0:
        axes.set_ylabel("score, 0 to 1")
        other = axes.twinx()
        other.set_ylabel(f"{score_label}:\nminus log loss [nats]")
        other.spines["top"].set_visible(False)
        handles.append(_line(other, run, "score", score_label, color=BLACK, linestyle="-"))
    else:
        axes.set_ylabel("accuracy")
        handles.append(_line(axes, run, "score", score_label, color=BLACK, linestyle="-"))
    _legend_above(axes, handles)


def _legend_above(axes: Axes, handles: list[Line2D]) -> None:
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        frameon=False,
        fontsize="small",
        borderaxespad=0.1,
        handlelength=1.8,
    )


def _line(axes: Axes, run: _Run, name: str, label: str, **style: Any) -> Line2D:
    (line,) = axes.plot(run.at, run.column(name), label=label, linewidth=1.4, marker=_dot(run.at), **style)
    return line


def _dot(at: np.ndarray) -> str:
    """A marker where a line would have too few points to be seen."""
    return "." if len(at) < 4 else ""


def _draw_learning_rate(axes: Axes, run: _Run) -> None:
    """The rate of every env step, as a staircase."""
    rate = run.column("learning_rate")
    if len(rate) == 1:
        axes.plot(run.at, rate, color=GREEN, marker=".")
    else:
        axes.stairs(rate[1:], run.at, baseline=None, color=GREEN, linewidth=1.6)
        axes.plot(run.at[:1], rate[:1], ".", color=GREEN)
    _log_axis(axes)
    axes.set_ylabel("learning rate")


def _log_axis(axes: Axes) -> None:
    """A log scale with plain numbers, and more of them where it spans few decades."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 5:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes) -> None:
    """Faint horizontal lines, no box: how all pictures look."""
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _figure(figure: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """The figure to draw into, laid out so that nothing overlaps."""
    if figure is None:
        return Figure(figsize=size, dpi=100, layout="constrained")
    if isinstance(figure, Figure) and figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    return figure


def _whole(figure: Figure | SubFigure) -> Figure:
    whole = figure.get_figure(root=True)
    assert isinstance(whole, Figure)
    return whole


# --- a comparison ---


def plot_comparison(
    rows: Iterable[Mapping[str, Any]],
    figure: Figure | SubFigure | None = None,
    label: str = "test accuracy [%], mean and 95% interval",
) -> Figure:
    """Draw methods beside each other: a point and its interval for each, by group, the best on top.

    Args:
        rows: For each method `method` (its name), `group` (such as `"agent"`, `"random initial rates"` or
            `"best of grid"`; groups stand in the order of their first rows) and `mean`, `low` and `high`
            (in [0, 1]).
        figure: Figure or subfigure to draw into; `None` for a new one, as high as the rows need.
        label: Of the axis.

    Returns:
        The figure, or the one that the subfigure is part of.

    Raises:
        ValueError: If there is no row, or one lacks a value.
    """
    groups = _grouped(rows)
    heights = sum(len(members) + 1 for members in groups.values())
    figure = _figure(figure, (COMPARISON_WIDTH, 0.9 + ROW_HEIGHT * heights))
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
    return _whole(figure)


def _grouped(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by group, the highest mean first."""
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


# --- from an MDP log ---


def plot_log(
    log: str | PathLike[str] | Any,
    episode_seed: int | None = None,
    figure: Figure | SubFigure | None = None,
    score_label: str = "validation",
) -> Figure:
    """Draw an episode of an MDP log as `plot_episode` does.

    Args:
        log: A `.jsonl` or `.csv` file, or a pandas table of one.
        episode_seed: Which episode; may be `None` where there is only one. Of several runs of it the last
            is drawn.
        figure: Figure or subfigure to draw into; `None` for a new one.
        score_label: What the reward's score was computed on.

    Returns:
        The figure, or the one that the subfigure is part of.

    Raises:
        ValueError: If there is no such episode, or more than one and none was chosen.
        FileNotFoundError: If there is no such file.
    """
    return plot_episode(history_of_log(log, episode_seed), figure, score_label)


def history_of_log(
    log: str | PathLike[str] | Any, episode_seed: int | None = None
) -> dict[str, np.ndarray]:
    """Columns of an episode of an MDP log, as `plot_episode` takes them.

    The log has no row for the state at reset, whose values are missing (NaN), and one loss per env step.

    Args:
        log: A `.jsonl` or `.csv` file, or a pandas table of one.
        episode_seed: Which episode; see `plot_log`.
    """
    rows = log.to_dict("records") if hasattr(log, "to_dict") else read_log(log)
    seeds = sorted({int(row["episode_seed"]) for row in rows})
    check(len(seeds) > 0, "log", log, "an MDP log with at least one row")
    if episode_seed is None:
        check(len(seeds) == 1, "episode_seed", episode_seed, f"one of {_some(seeds)}")
        episode_seed = seeds[0]
    check(episode_seed in seeds, "episode_seed", episode_seed, f"one of {_some(seeds)}")
    run = _last_run([row for row in rows if int(row["episode_seed"]) == episode_seed])
    numbers = ("learning_rate", "score", "train_score", "holdout_score", "reward")
    history = {name: np.array([np.nan, *(float(row[name]) for row in run)]) for name in numbers}
    history |= {name: np.array([0, *(int(row[name]) for row in run)]) for name in ("updates", "rewind")}
    history |= {
        name: np.array([False, *(bool(row[name]) for row in run)])
        for name in ("reinit", "stop", "diverged")
    }
    history["loss"] = np.array([np.nan, *(float(row["loss"]) for row in run)])[:, None]
    history["action"] = np.array(["reset", *(row["action"] for row in run)], dtype=object)
    return history


def read_log(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Rows of an MDP log, with values of their own types; `None` where a value is missing.

    Args:
        path: A `.jsonl` or `.csv` file.

    Raises:
        ValueError: If the ending is not known, or a line is damaged.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    check(path.suffix in (".jsonl", ".csv"), "log", str(path), "a .jsonl or .csv file, or a table")
    if path.suffix == ".jsonl":
        return list(read_rows(path))
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: _parse(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _parse(text: str) -> Any:
    """A value of a CSV file: a flag, a number, nothing, or else a text."""
    if text in ("True", "False", ""):
        return {"True": True, "False": False, "": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _last_run(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The last of several runs of one episode: a run begins where a lane's env steps do not rise."""
    runs: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        lane = int(row["lane"])
        if lane not in runs or row["step"] <= runs[lane][-1]["step"]:
            runs.pop(lane, None)
            runs[lane] = []
        runs[lane].append(row)
    return list(runs.values())[-1]


def _some(seeds: list[int]) -> str:
    """The first few of a list, in words."""
    return ", ".join(map(str, seeds[:5])) + (f" or {len(seeds) - 5} more" if len(seeds) > 5 else "")


# --- rendering ---


def render_rgb(history: History) -> np.ndarray:
    """A picture of the run so far, uint8, shape (height, width, 3); see `plot_episode`."""
    figure = plot_episode(history)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def render_ansi(history: History) -> str:
    """The run so far in five lines of text."""
    last = {name: column[-1] for name, column in history.items()}
    steps, rewinds = len(history["updates"]) - 1, np.count_nonzero(history["rewind"])
    reinits = np.count_nonzero(history["reinit"])
    state = "  DIVERGED" if last["diverged"] else ""
    scores = (f"{name} {last[key]:.3f}" for name, key in _SCORE_COLUMNS)
    return "\n".join(
        (
            f"step {steps}, {last['updates']} updates: {last['action']}{state}",
            f"learning rate {last['learning_rate']:.3g}   loss {last['loss'][-1]:.3g}   "
            f"rewinds {rewinds}   re-inits {reinits}",
            "   ".join(scores),
            f"loss   {sparkline(np.log(np.maximum(history['loss'].mean(1), 1e-12)))}",
            f"score  {sparkline(history['score'])}",
        )
    )


_SCORE_COLUMNS = (("train", "train_score"), ("holdout", "holdout_score"), ("score", "score"))


def sparkline(values: np.ndarray) -> str:
    """Numbers as a line of small bars, the lowest number the lowest bar.

    Args:
        values: Shape (n,); where there are more than `SPARKLINE_WIDTH`, neighbours are averaged.
    """
    if len(values) > SPARKLINE_WIDTH:
        values = np.array([part.mean() for part in np.array_split(values, SPARKLINE_WIDTH)])
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return "".join(SPARKS[level] for level in np.rint(share * (len(SPARKS) - 1)).astype(int))
