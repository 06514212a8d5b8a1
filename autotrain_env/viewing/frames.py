"""Frames of a run as it unfolds: axes stand still, and only what changed is drawn."""

import functools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D

from autotrain_env.viewing.run import (
    EPISODE_SIZE,
    Run,
    event_keys,
    label_panels,
    legend_above,
    make_panels,
    spans,
)
from autotrain_env.viewing.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    make_figure,
    whole_figure,
)

LOSS_LIMITS = (1e-3, 1e2)  # [nats]; what lies beyond is drawn at the edge


@dataclass(frozen=True)
class Scales:
    """What the axes of a run's frames span, from its first frame to its last.

    Args:
        budget: Updates of the budget.
        lr_bounds: Smallest and largest learning rate.
        num_snapshots: States that can be rewound to, the current one included (H).
        num_classes: Number of classes (C).
        score: What is maximised, `"accuracy"` or `"neg_log_loss"`.
        score_label: What the reward's score is computed on.
    """

    budget: int
    lr_bounds: tuple[float, float]
    num_snapshots: int
    num_classes: int
    score: str
    score_label: str


def render_rgb(history: Mapping[str, np.ndarray], scales: Scales) -> np.ndarray:
    """Draw the run so far.

    Args:
        history: What the environment's `history` returns.
        scales: What the axes span.

    Returns:
        A picture, uint8, shape (height, width, 3).
    """
    return _canvas(scales).draw(history)


@functools.lru_cache(maxsize=16)
def _canvas(scales: Scales) -> "_FrameCanvas":
    return _FrameCanvas(scales)


class _FrameCanvas:
    """A picture of the axes alone, and what is drawn onto it for each frame.

    Args:
        scales: What the axes span.
    """

    def __init__(self, scales: Scales) -> None:
        self.scales = scales
        self._lock = threading.Lock()
        figure = whole_figure(make_figure(None, EPISODE_SIZE))
        self._canvas = FigureCanvasAgg(figure)
        self._panels = make_panels(figure)
        actions, loss, score, rate = self._panels
        scores = _score_axes(score, scales)
        label_panels(self._panels, scales.score_label, None if scores is score else scores)
        _set_limits(self._panels, scores, scales)
        loss.minorticks_off()
        self._marks = [_Marks(axes) for axes in self._panels]
        self._stems = _lines(actions, color=PURPLE, linewidth=1.2)
        self._heads = _curve(actions, color=PURPLE, marker="o", markersize=3.5, linestyle="none")
        self._loss = _curve(loss, color=BLUE)
        self._train = _curve(score, color=SKY, label="train")
        self._holdout = _curve(score, color=ORANGE, linestyle="--", label="holdout (guarded)")
        self._score = _curve(scores, color=BLACK, label=scales.score_label)
        self._rate = _curve(rate, color=GREEN, drawstyle="steps-pre", linewidth=1.6)
        legend_above(score, [_key(line) for line in (self._train, self._holdout, self._score)])
        legend_above(actions, event_keys())
        self._words = figure.suptitle("reset", x=0.01, ha="left", family="monospace", fontsize="small")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # nothing moves from frame to frame
        self._words.set_animated(True)
        self._canvas.draw()
        self._background = self._canvas.copy_from_bbox(figure.bbox)

    def draw(self, history: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the picture of a run so far, uint8, shape (height, width, 3)."""
        with self._lock:
            self._update(Run(history))
            self._canvas.restore_region(self._background)
            for artist in self._artists():
                self._canvas.figure.draw_artist(artist)
            return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def _artists(self) -> list[Artist]:
        marks = [artist for of_panel in self._marks for artist in of_panel.artists]
        curves = (self._stems, self._heads, self._loss, self._train, self._holdout, self._score, self._rate)
        return [*marks, *curves, self._words]

    def _update(self, run: Run) -> None:
        history = run.history
        self._words.set_text(f"update {int(run.updates[-1]):6d}   {history['action'][-1]}")
        for marks in self._marks:
            marks.update(run)
        rewound = run.rewind > 0
        at, distance = run.decided_at[rewound], run.rewind[rewound]
        self._stems.set_segments([((x, 0), (x, y)) for x, y in zip(at, distance, strict=True)])
        self._heads.set_data(at, distance)
        ends, losses = run.windows()
        _set_curve(self._loss, ends, np.clip(np.nan_to_num(losses, nan=np.inf), *LOSS_LIMITS))
        _set_curve(self._train, run.at, run.column("train_score"))
        _set_curve(self._holdout, run.at, run.column("holdout_answer"))
        _set_curve(self._score, run.at, run.column("score"))
        _set_curve(self._rate, run.at, run.column("learning_rate"))


class _Marks:
    """Vertical lines at rewinds, re-inits and stop, and shades over divergence, in one panel.

    Args:
        axes: The panel.
    """

    def __init__(self, axes: Axes) -> None:
        whole_height: dict[str, Any] = {"transform": axes.get_xaxis_transform()}
        self._diverged = PolyCollection(
            [], color=VERMILION, alpha=0.2, linewidth=0, animated=True, **whole_height
        )
        axes.add_collection(self._diverged, autolim=False)
        self._rewinds = _lines(axes, color=PURPLE, linewidth=0.8, alpha=0.5, **whole_height)
        self._reinits = _lines(axes, color=BLACK, linewidth=1.0, linestyle="--", **whole_height)
        self._stops = _lines(axes, color=BLACK, linewidth=2.0, **whole_height)
        self.artists: list[Artist] = [self._diverged, self._rewinds, self._reinits, self._stops]

    def update(self, run: Run) -> None:
        """Mark what a run has had so far."""
        for lines, happened in (
            (self._rewinds, run.rewind > 0),
            (self._reinits, run.reinit),
            (self._stops, run.stop),
        ):
            lines.set_segments([((x, 0), (x, 1)) for x in run.decided_at[happened]])
        edges = [
            (run.decided_at[first], run.updates[last]) for first, last in spans(run.diverged & run.trains)
        ]
        self._diverged.set_verts([[(a, 0), (b, 0), (b, 1), (a, 1)] for a, b in edges])


def _score_axes(score: Axes, scales: Scales) -> Axes:
    """Returns the axes of the rewarded score: minus the log loss is below 0, and has some of its own."""
    return score if scales.score == "accuracy" else score.twinx()


def _set_limits(panels: list[Axes], scores: Axes, scales: Scales) -> None:
    actions, loss, score, rate = panels
    actions.set_ylim(0, max(3, scales.num_snapshots - 1) + 0.6)
    loss.set_ylim(LOSS_LIMITS[0] / 1.2, LOSS_LIMITS[1] * 1.2)
    score.set_ylim(0, 1.02)
    if scores is not score:
        lowest = -4 * np.log(scales.num_classes)
        scores.set_ylim(1.02 * lowest, 0.02 * -lowest)
    low, high = scales.lr_bounds
    rate.set_ylim(low / 1.3, high * 1.3)
    rate.set_xlim(-0.01 * scales.budget, 1.01 * scales.budget)


def _lines(axes: Axes, **style: Any) -> LineCollection:
    lines = LineCollection([], animated=True, **style)
    axes.add_collection(lines, autolim=False)
    return lines


def _curve(axes: Axes, **style: Any) -> Line2D:
    (line,) = axes.plot([], [], animated=True, **{"linewidth": 1.4} | style)
    return line


def _set_curve(line: Line2D, x: np.ndarray, y: np.ndarray) -> None:
    line.set_data(x, y)
    line.set_marker("." if len(x) < 4 else "")  # too few points for a line to be seen


def _key(line: Line2D) -> Line2D:
    """Returns what a legend shows of a curve that has no points yet."""
    return Line2D(
        [], [], color=line.get_color(), linestyle=line.get_linestyle(), label=str(line.get_label())
    )
