"""Figures of a report, made from records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.comparing.records import Record
from agents.reporting.statistics import bootstrap
from agents.reporting.summaries import by_method, stacked
from autotrain_env.viewing.run import plot_episode
from autotrain_env.viewing.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, tidy

SIZE = (7.2, 4.0)  # [inches]
COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
ACTION_COLOURS = {
    "lower the rate": BLUE,
    "keep it": "#D0D0D0",
    "raise it": ORANGE,
    "rewind": PURPLE,
    "re-init": BLACK,
    "stop": VERMILION,
}
Label = tuple[str, str]


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    tidy(axes)
    return figure, axes


def _name(label: Label) -> str:
    kind, method = label
    return method.replace("_", " ") if kind == "agent" else f"{method.replace('_', ' ')}, {kind}"


def plot_profiles(records: Sequence[Record], shown: Sequence[Label]) -> Figure:
    """Draw performance profiles: the share of episodes above each accuracy, with 95% bands of agents.

    Args:
        records: Records of one target.
        shown: Methods to draw.
    """
    methods = by_method(records)
    figure, axes = _axes("performance profiles", "test accuracy τ [%]", "share of episodes above τ")
    everything = np.concatenate([stacked(methods[label], "test_accuracy").ravel() for label in shown])
    low = float(np.quantile(everything, 0.02))
    thresholds = np.linspace(max(low - 0.05, 0), min(float(everything.max()) + 0.01, 1), 80)
    for label, colour in zip(shown, COLOURS * len(shown), strict=False):
        accuracy = stacked(methods[label], "test_accuracy")
        shares = np.array([(accuracy > threshold).mean() for threshold in thresholds])
        axes.plot(100 * thresholds, shares, color=colour, label=_name(label), linewidth=1.6)
        if len(accuracy) > 1:
            ends = [bootstrap((accuracy > threshold).astype(float)) for threshold in thresholds]
            band = np.array([(end.low, end.high) for end in ends]).T
            axes.fill_between(100 * thresholds, *band, color=colour, alpha=0.2, linewidth=0)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    return figure


def plot_learning_curves(records: Sequence[Record]) -> Figure:
    """Draw the validation score while agents were trained, a line for each training seed."""
    agents = {
        label: found for label, found in by_method(records).items() if any(r.learning_curve for r in found)
    }
    figure, axes = _axes("agents while they learn", "env steps of training", "validation accuracy [%]")
    for (label, found), colour in zip(agents.items(), COLOURS * len(agents), strict=False):
        for number, record in enumerate(found):
            steps = [point["train_steps"] for point in record.learning_curve]
            scores = [100 * point["score"] for point in record.learning_curve]
            name = _name(label) if number == 0 else None
            axes.plot(steps, scores, color=colour, label=name, linewidth=1.2, marker=".")
    axes.set_xlim(left=0)
    if agents:
        axes.legend(frameon=False, fontsize="small", loc="lower right", ncols=2)
    return figure


def plot_training(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw final scores of the networks that agents were trained on, episode by episode.

    Args:
        found: What `records.training_scores` returned, by name; drawn pale, with a moving mean over a
            fifteenth of the episodes.
    """
    figure, axes = _axes("networks trained by agents that still learn", "episode", "score at its end")
    for (name, scores), colour in zip(found.items(), COLOURS * len(found), strict=False):
        episodes, values = np.asarray(scores["episodes"]), np.asarray(scores["score"])
        if not len(values):  # no episode has ended yet
            continue
        width = max(1, len(values) // 15)
        means = np.convolve(values, np.full(width, 1 / width), "valid")
        axes.plot(episodes, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(episodes[width - 1 :], means, color=colour, label=name, linewidth=1.6)
    axes.set_xlim(left=0)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small", loc="best", ncols=2)
    return figure


def plot_generations(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw fitness, deviation, movement and novelty of an evolving policy, by generation.

    Args:
        rows: Rows from `records.read_generations`; what a strategy does not report is left out.
    """
    panels = [
        ("fitness", ("best", "mean", "worst")),
        ("deviation", ("std",)),
        ("length of\nthe update", ("update_norm",)),
        ("cosine between\nupdates", ("cosine",)),
        ("distance from the\nmean parent", ("spread",)),
        ("novelty", ("novelty",)),
        ("weight of\nfitness", ("fitness_weight",)),
    ]
    shown = [(label, names) for label, names in panels if any(names[0] in row for row in rows)]
    figure = Figure(figsize=(SIZE[0], 1.6 * len(shown) + 0.4), dpi=100, layout="constrained")
    column = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    generations = [row.get("generation", at) for at, row in enumerate(rows, 1)]
    for axes, (label, names) in zip(column, shown, strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            values = [row.get(name, np.nan) for row in rows]
            axes.plot(generations, values, color=colour, label=name, linewidth=1.2)
        axes.set_ylabel(label)
        tidy(axes)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize="small", loc="lower right", ncols=3)
    column[-1].set_xlabel("generation")
    return figure


def plot_progress(records: Sequence[Record], shown: Sequence[Label]) -> Figure:
    """Draw validation accuracy and learning rate of the networks, over updates and over seconds.

    Args:
        records: Records of one target.
        shown: Methods to draw.
    """
    methods = by_method(records)
    figure = Figure(figsize=(SIZE[0], 6.0), dpi=100, layout="constrained")
    over_updates, over_seconds, rates = figure.subplots(3, 1)
    ends = []
    for label, colour in zip(shown, COLOURS * len(shown), strict=False):
        found = [record for record in methods[label] if record.curve and record.curve["updates"]]
        if not found:
            continue
        longest = max((record.curve for record in found), key=lambda curve: len(curve["updates"]))
        updates = np.array(longest["updates"])
        padded = {
            name: np.mean([_padded(record.curve[name], len(updates)) for record in found], axis=0)
            for name in ("score", "learning_rate")
        }
        share = updates / max(updates[-1], 1.0)  # a policy may stop before the first update
        seconds = np.mean([record.cost.get("seconds", 0.0) for record in found]) * share
        over_updates.plot(updates, 100 * padded["score"], color=colour, label=_name(label), linewidth=1.5)
        trained = seconds > 0
        over_seconds.plot(seconds[trained], 100 * padded["score"][trained], color=colour, linewidth=1.5)
        ends.append(100 * padded["score"][-1])
        rates.plot(updates, padded["learning_rate"], color=colour, linewidth=1.5)
    for axes in (over_updates, over_seconds):
        axes.set_ylabel("validation\naccuracy [%]")
        axes.set_ylim(min(ends, default=12) - 12, max(ends, default=98) + 2)
    if any(len(line.get_xdata()) for line in over_seconds.lines):
        over_seconds.set_xscale("log")
    over_seconds.set_xlabel("seconds for one network, all runs that it was chosen from included")
    rates.set(xlabel="updates of one run", ylabel="learning rate\n(geometric mean)", yscale="log")
    for axes in (over_updates, over_seconds, rates):
        tidy(axes)
    figure.legend(
        *over_updates.get_legend_handles_labels(),
        frameon=False,
        fontsize="small",
        loc="outside upper left",
        ncols=2,
    )
    return figure


def _padded(values: Sequence[float], length: int) -> np.ndarray:
    array = np.asarray(values, float)
    return np.concatenate((array, np.repeat(array[-1:], length - len(array))))


def plot_actions(records: Sequence[Record], label: Label) -> Figure:
    """Draw how often a policy took each action, and when."""
    found = [record for record in by_method(records)[label] if record.actions]
    steps = max((len(next(iter(record.actions.values()))) for record in found), default=0)
    shares = []
    for name in ACTION_COLOURS:
        rows = [np.asarray(record.actions[name], float) for record in found]
        padded = [np.pad(row, (0, steps - len(row))) for row in rows]
        shares.append(np.mean(padded, axis=0) if padded else np.zeros(0))
    figure, axes = _axes(f"actions of {_name(label)}", "env step", "share of episodes")
    axes.stackplot(
        np.arange(steps),
        *shares,
        labels=list(ACTION_COLOURS),
        colors=list(ACTION_COLOURS.values()),
        step="post",
    )
    axes.set(xlim=(0, max(steps - 1, 1)), ylim=(0, 1))
    axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=6)
    return figure


def plot_examples(record: Record) -> list[Figure]:
    """Draw controlled runs of a record: those with the highest and the median initial rate."""
    return [
        plot_episode({name: np.asarray(values) for name, values in example.items()})
        for example in record.examples
    ]
