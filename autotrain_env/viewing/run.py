"""Pictures of a controlled run."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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

EPISODE_SIZE = (7.2, 6.4)  # [inches]
FRAME_TIME = 450  # [ms]
LAST_FRAME_TIME = 4000  # [ms]


def plot_episode(
    history: Mapping[str, np.ndarray],
    figure: Figure | SubFigure | None = None,
    score_label: str = "validation",
) -> Figure:
    """Draw a controlled run: actions, loss, scores and learning rate over the updates of the budget used.

    Vertical lines mark rewinds, re-inits and stop in every panel; the top panel says how far each rewind
    went. Env steps in which the network had diverged are shaded.

    Args:
        history: What the environment's `history` returns; see
            `autotrain_env.process.record.EpisodeHistory`. Missing values may be NaN.
        figure: Figure or subfigure to draw into; `None` for a new one.
        score_label: What the reward's score was computed on.

    Returns:
        The figure, or the one that the subfigure is part of.
    """
    figure = make_figure(figure, EPISODE_SIZE)
    panels = make_panels(figure)
    actions, loss, score, rate = panels
    run = Run(history)
    _draw_actions(actions, run)
    _draw_loss(loss, run)
    log_loss = _draw_scores(score, run, score_label)
    _draw_learning_rate(rate, run)
    label_panels(panels, score_label, log_loss)
    for axes in panels:
        _mark_events(axes, run)
    for axes in (loss, rate):
        _space_ticks(axes)
    rate.set_xlim(-0.01 * run.end, 1.01 * run.end)
    return whole_figure(figure)


def make_panels(figure: Figure | SubFigure) -> list[Axes]:
    """Returns four panels, one above the other: actions, loss, scores and learning rate."""
    panels = figure.subplots(4, 1, sharex=True, gridspec_kw={"height_ratios": [0.75, 3, 3, 2]})
    return list(panels)


def label_panels(panels: list[Axes], score_label: str, log_loss: Axes | None) -> None:
    """Name what the panels show, and give them their scales.

    Args:
        panels: What `make_panels` returned.
        score_label: What the reward's score was computed on.
        log_loss: Axes of minus the log loss, where that is the score.
    """
    actions, loss, score, rate = panels
    actions.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    actions.set_ylabel("rewind\n[env steps]", fontsize="small")
    loss.set_ylabel("minibatch loss\n[nats]")
    score.set_ylabel("accuracy" if log_loss is None else "score, 0 to 1")
    if log_loss is not None:
        log_loss.set_ylabel(f"{score_label}:\nminus log loss [nats]")
        log_loss.spines["top"].set_visible(False)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("updates of the budget used")
    for axes in (loss, rate):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axes in panels:
        tidy(axes)
    figure = actions.figure
    figure.align_ylabels(panels)


class Run:
    """A history with the positions that its marks are drawn at.

    Args:
        history: What the environment's `history` returns.
    """

    def __init__(self, history: Mapping[str, np.ndarray]) -> None:
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
        """Returns a column without the row of a stop."""
        return np.asarray(self.history[name], dtype=np.float64)[self.trains]

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ends of all windows [updates], the reset first, and their mean minibatch losses."""
        loss = self.column("loss")  # (rows, K)
        shares = np.arange(1, loss.shape[1] + 1) / loss.shape[1]
        ends = self.at[:-1, None] + np.diff(self.at)[:, None] * shares
        return np.append(self.at[0], ends.ravel()), np.append(loss[0, -1], loss[1:].ravel())


def _draw_actions(axes: Axes, run: Run) -> None:
    """Draw rewinds as stems as high as their distance, and a legend of re-inits, stop and divergence."""
    rewinds = run.rewind > 0
    at, distance = run.decided_at[rewinds], run.rewind[rewinds]
    axes.vlines(at, 0, distance, color=PURPLE, linewidth=1.2)
    axes.plot(at, distance, "o", color=PURPLE, markersize=3.5)
    axes.set_ylim(0, max(3, distance.max(initial=0)) + 0.6)
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


def event_keys() -> list[Line2D]:
    """Returns what a legend shows of rewinds, re-inits, stop and divergence."""
    styles: dict[str, dict[str, Any]] = {
        "rewind": {"color": PURPLE, "marker": "o", "markersize": 3.5},
        "re-init": {"color": BLACK, "linestyle": "--"},
        "stop": {"color": BLACK, "linewidth": 2.0},
        "diverged": {"color": VERMILION, "linewidth": 7, "alpha": 0.3},
    }
    return [Line2D([], [], label=name, **style) for name, style in styles.items()]


def _event_handles(run: Run) -> list[Any]:
    """Returns what the legend of marks says: each that happened, with its number."""
    divergences = run.diverged & np.append(True, ~run.diverged[:-1])
    handles: list[Any] = []
    for key, happened in zip(event_keys(), (run.rewind, run.reinit, run.stop, divergences), strict=True):
        if count := np.count_nonzero(happened):
            key.set_label(f"{key.get_label()} ×{count}" if count > 1 else key.get_label())
            handles.append(key)
    return handles or [Line2D([], [], linestyle="none", label="no rewind, re-init or stop")]


def _mark_events(axes: Axes, run: Run) -> None:
    faint = 0.5 if np.count_nonzero(run.rewind) < 25 else 0.25
    styles: list[tuple[np.ndarray, dict[str, Any]]] = [
        (run.rewind > 0, {"color": PURPLE, "linewidth": 0.8, "alpha": faint}),
        (run.reinit, {"color": BLACK, "linewidth": 1.0, "linestyle": "--"}),
        (run.stop, {"color": BLACK, "linewidth": 2.0}),
    ]
    for happened, style in styles:
        at, whole_height = run.decided_at[happened], axes.get_xaxis_transform()
        axes.vlines(at, 0, 1, transform=whole_height, zorder=1, **style)
    for first, last in spans(run.diverged & run.trains):
        axes.axvspan(run.decided_at[first], run.updates[last], color=VERMILION, alpha=0.2, linewidth=0)


def spans(flags: np.ndarray) -> list[tuple[int, int]]:
    """Returns the first and last position of each run of true flags."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(int)))
    return [(int(first), int(after) - 1) for first, after in edges.reshape(-1, 2)]


def _draw_loss(axes: Axes, run: Run) -> None:
    at, loss = run.windows()
    axes.plot(at, np.where(loss > 0, loss, np.nan), color=BLUE, linewidth=1.4, marker=_dot(at))


def _draw_scores(axes: Axes, run: Run, score_label: str) -> Axes | None:
    """Draw the scores; returns the axes of minus the log loss, where that is one of them."""
    handles = [
        _line(axes, run, "train_score", "train", color=SKY, linestyle="-"),
        _line(axes, run, "holdout_answer", "holdout (guarded)", color=ORANGE, linestyle="--"),
    ]
    axes.set_ylim(0, 1.02)
    if np.isnan(run.column("score")).all():  # nothing was kept aside to be judged by
        legend_above(axes, handles)
        return None
    # Minus the log loss is below 0, and has an axis of its own: the other two are mapped to [0, 1].
    log_loss = axes.twinx() if np.nanmin(run.column("score"), initial=0.0) < 0 else None
    handles.append(_line(log_loss or axes, run, "score", score_label, color=BLACK, linestyle="-"))
    legend_above(axes, handles)
    return log_loss


def legend_above(axes: Axes, handles: list[Line2D]) -> None:
    """Put a legend over a panel, at its right end."""
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=4,
        frameon=False,
        fontsize="small",
        borderaxespad=0.1,
        handlelength=1.8,
    )


def _line(axes: Axes, run: Run, name: str, label: str, **style: Any) -> Line2D:
    (line,) = axes.plot(run.at, run.column(name), label=label, linewidth=1.4, marker=_dot(run.at), **style)
    return line


def _dot(at: np.ndarray) -> str:
    """Returns a marker where a line would have too few points to be seen."""
    return "." if len(at) < 4 else ""


def _draw_learning_rate(axes: Axes, run: Run) -> None:
    """Draw the rate of every env step, as a staircase."""
    rate = run.column("learning_rate")
    if len(rate) == 1:
        axes.plot(run.at, rate, color=GREEN, marker=".")
    else:
        axes.stairs(rate[1:], run.at, baseline=None, color=GREEN, linewidth=1.6)
        axes.plot(run.at[:1], rate[:1], ".", color=GREEN)


def _space_ticks(axes: Axes) -> None:
    """Give a log scale more numbers where it spans few decades."""
    low, high = axes.get_ylim()
    if high / low < 5:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 50 else (1,)))


def animate_episode(history: Mapping[str, np.ndarray]) -> bytes:
    """Draw a controlled run as it unfolds.

    Every frame is the picture of `plot_episode`, with what is still to come covered, and says what was
    decided last.

    Args:
        history: What the environment's `history` returns; see `EpisodeHistory`.

    Returns:
        The content of a GIF file, one frame for each decision.
    """
    figure = plot_episode(history)
    title = figure.suptitle("reset", x=0.01, ha="left", family="monospace")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves from frame to frame
    run = Run(history)
    curtains = [
        Rectangle((0, 0), 1, 1, transform=axes.get_xaxis_transform(), color="white", zorder=10)
        for axes in figure.axes
    ]
    for axes, curtain in zip(figure.axes, curtains, strict=True):
        axes.add_patch(curtain)
    frames = []
    for updates, action in zip(run.updates, history["action"], strict=True):
        title.set_text(f"update {updates:5.0f}  {action}")
        for curtain in curtains:
            curtain.set_x(updates + 0.006 * run.end)
            curtain.set_width(1.1 * run.end)
        frames.append(PIL.Image.fromarray(pixels(figure)))
    palette = frames[-1].quantize(64, PIL.Image.Quantize.FASTOCTREE, dither=PIL.Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=PIL.Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    times = [FRAME_TIME] * (len(frames) - 1) + [LAST_FRAME_TIME]
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True
    )
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """Returns the drawn figure, uint8, shape (height, width, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
