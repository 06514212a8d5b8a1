"""A run in a few lines of text."""

from collections.abc import Mapping

import numpy as np

SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 40  # [characters]


def render_ansi(history: Mapping[str, np.ndarray]) -> str:
    """Describe the run so far in five lines of text."""
    last = {name: column[-1] for name, column in history.items()}
    steps, rewinds = len(history["updates"]) - 1, np.count_nonzero(history["rewind"])
    reinits = np.count_nonzero(history["reinit"])
    state = "  DIVERGED" if last["diverged"] else ""
    scores = (f"{name} {last[key]:.3f}" for name, key in _SCORE_COLUMNS if np.isfinite(last[key]))
    judged = history["score"] if np.isfinite(last["score"]) else history["holdout_answer"]
    return "\n".join(
        (
            f"step {steps}, {last['updates']} updates: {last['action']}{state}",
            f"learning rate {last['learning_rate']:.3g}   loss {last['loss'][-1]:.3g}   "
            f"rewinds {rewinds}   re-inits {reinits}",
            "   ".join(scores),
            f"loss   {sparkline(np.log(np.maximum(history['loss'].mean(1), 1e-12)))}",
            f"score  {sparkline(judged)}",
        )
    )


_SCORE_COLUMNS = (("train", "train_score"), ("holdout", "holdout_answer"), ("score", "score"))


def sparkline(values: np.ndarray) -> str:
    """Draw numbers as a line of small bars, the lowest number the lowest bar.

    Args:
        values: Numbers, shape (n,). Those that are missing (NaN) are left out; where there are more than
            `SPARKLINE_WIDTH`, neighbours are averaged.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    if len(values) > SPARKLINE_WIDTH:
        values = np.array([part.mean() for part in np.array_split(values, SPARKLINE_WIDTH)])
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else np.zeros(len(values))
    return "".join(SPARKS[level] for level in np.rint(share * (len(SPARKS) - 1)).astype(int))
