"""Runs to draw, and what is wrong with a drawing."""

import itertools
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

SMALL: dict[str, Any] = {
    "inner_steps": 4,
    "history_length": 2,
    "classifier": "mlp-16",
    "train_size": 80,
    "holdout_size": 60,
    "validation_size": 60,
    "batch_size": 20,
    "budget": 80,
}
REINIT, STOP = 20, 21
WILD = {"lr_factors": (1e-9, 0.5, 1.0, 2.0, 1e30), "lr_bounds": (1e-30, 1e30)}

# Reset; one step; stop at once; a bit of everything; divergence; a rewind in every step; a long run.
RUNS: dict[str, tuple[list[int], dict[str, Any]]] = {
    "reset": ([], {}),
    "one step": ([2], {}),
    "stop at once": ([STOP], {}),
    "everything": ([2, 2, 3, 7, 14, 2, REINIT, 2, 1, STOP], {}),
    "divergence": ([2, 2, 4, 2, 7, 0, 2, 4, REINIT, 4, 2, STOP], WILD),
    "many rewinds": ([7] * 20, {}),
    "log loss": ([2, 7, 2, STOP], {"score": "neg_log_loss"}),
    "long": ([2, 3, 7] * 100, {"budget": 1200}),
}


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of visible texts that overlap, or reach beyond the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    width, height = canvas.get_width_height()
    boxes = []
    for axes in figure.axes:
        low, high = axes.get_window_extent().extents[[0, 1]], axes.get_window_extent().extents[[2, 3]]
        for label in (*axes.get_xticklabels(which="both"), *axes.get_yticklabels(which="both")):
            centre = np.array(label.get_window_extent().extents).reshape(2, 2).mean(0)
            along = 0 if label in axes.get_xticklabels(which="both") else 1
            shown = low[along] - 1 <= centre[along] <= high[along] + 1
            if not shown and label in texts:
                texts.remove(label)  # a tick outside the axis' limits, which is not drawn
    for text in texts:
        boxes.append((text.get_text(), text.get_window_extent()))
    bad = [
        (first, second)
        for (first, a), (second, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]
    for name, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1:
            bad.append((name, "the edge"))
    return bad
