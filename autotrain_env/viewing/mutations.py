"""Tables and pictures of descent with mutations: of runs, and of records of `benchmarks/mutations.py`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autotrain_env.errors import InvalidValueError, check
from autotrain_env.evolution.descent import Curves
from autotrain_env.evolution.mutation_rules import Mutation
from autotrain_env.viewing.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, tidy

COLOURS = (GREY, VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)
WIDTH = 7.2  # [inches]

Records = dict[str, dict[str, Any]]
"""Records by the JSON of their case."""


def read_mutation_records(path: str | Path) -> Records:
    """Returns the records of a file, by the JSON of their case; none where there is no file.

    Args:
        path: A file of one JSON a line.

    Raises:
        InvalidValueError: If a line is no record.
    """
    path = Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    records = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records[json.dumps(record["case"], sort_keys=True)] = record
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidValueError(f"{path}: line {number} is no record: {error}") from error
    return records


def curves_of(record: Mapping[str, Any]) -> Curves:
    """Returns the curves of a record, without what single offspring measured."""
    mutations = [
        [
            Mutation(_number(before), (), _number(after), taken, backed_off)
            for before, after, taken, backed_off in zip(*lanes, strict=True)
        ]
        for lanes in zip(*(record[key] for key in ("before", "after", "taken", "backed_off")), strict=True)
    ]
    losses = {part: np.array(rows) for part, rows in record["losses"].items()}
    accuracies = {part: np.array(rows) for part, rows in record["accuracies"].items()}
    return Curves(losses, accuracies, list(record["evolved"]), mutations)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


# --- pairs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95% interval, of Student's t."""

    values: np.ndarray
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Difference":
        """Returns the mean of paired differences, shape (n,) with n at least 2, and its interval."""
        check(len(values) > 1, "values", values, "at least two")
        mean = float(values.mean())
        half = float(scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1))
        return cls(values, mean, mean - half, mean + half)

    def text(self, factor: float = 1.0, digits: int = 1) -> str:
        """Returns the difference times a factor, with its interval, signed."""
        numbers = [round(value * factor, digits) + 0.0 for value in (self.mean, self.low, self.high)]
        mean, low, high = (f"{number:+.{digits}f}".replace("-", "−") for number in numbers)
        return f"{mean} [{low}, {high}]"


@dataclass(frozen=True)
class Pair:
    """A run with something added, and bare descent with the same seeds."""

    name: str
    record: Mapping[str, Any]
    bare: Mapping[str, Any]

    def difference(self, of: Callable[[Mapping[str, Any]], np.ndarray]) -> Difference:
        """Returns by how much a figure of each seed, shape (n,), is higher than that of bare descent."""
        return Difference.of(np.asarray(of(self.record)) - np.asarray(of(self.bare)))

    def at_equal_descent(self) -> Difference:
        """Returns by how much validation accuracy is higher than bare descent's after as many updates."""
        own = np.array(self.record["accuracies"]["validation"])
        descents = len(own) - 1 - sum(self.record["evolved"])
        bare = np.array(self.bare["accuracies"]["validation"])
        return Difference.of(own[-1] - bare[descents])

    def changes_of_train_loss(self) -> np.ndarray:
        """Returns by how much each evolution raised the train loss, shape (evolutions, n)."""
        loss = np.array(self.record["losses"]["train"])
        return np.diff(loss, axis=0)[np.array(self.record["evolved"][1:], bool)]


def pairs_of(records: Records) -> list[Pair]:
    """Returns every run of records beside its bare descent: of the same network, rate and data.

    Runs on development seeds have none, and are left out. Bare descent on more images is held against bare
    descent, too.
    """
    final = {record["case"]["name"]: record for record in records.values() if _is_final(record)}
    pairs = []
    for name, record in final.items():
        if name == "bare" or name.startswith("bare, ") and "images" not in name:
            continue
        bare = final.get(f"bare, {name}", final.get("bare"))
        if bare is not None:
            pairs.append(Pair(name, record, bare))
    return pairs


def _is_final(record: Mapping[str, Any]) -> bool:
    return min(record["case"]["seeds"]) < 100


def final_accuracy(record: Mapping[str, Any]) -> np.ndarray:
    """Returns the test accuracy of each seed after the last epoch."""
    return np.array(record["test_accuracy"])


def best_epochs(record: Mapping[str, Any]) -> np.ndarray:
    """Returns after which epoch each seed's validation loss was lowest."""
    return curves_of(record).best_epochs


def descents_to_best(record: Mapping[str, Any]) -> np.ndarray:
    """Returns how many epochs of descent each seed's validation loss was lowest after."""
    return np.cumsum(~np.array(record["evolved"]))[best_epochs(record)] - 1


def at_the_end(kind: str, part: str) -> Callable[[Mapping[str, Any]], np.ndarray]:
    """Returns a function of records: `"losses"` or `"accuracies"` of a part after the last epoch."""
    return lambda record: np.array(record[kind][part][-1])


def mutation_table(records: Records) -> str:
    """Returns two tables in Markdown: differences in test accuracy, and what else was claimed."""
    results = [
        "| | bare | with it | difference | best kept | after as many updates (validation) | took over |",
        "|---|---|---|---|---|---|---|",
    ]
    claims = [
        "| | train loss rises at | by | train accuracy | train loss | validation loss | lowest at epoch "
        "| less bare's | in epochs of descent |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs_of(records):
        results.append(_result_row(pair))
        claims.append(_claim_row(pair))
    return "\n".join((*results, "", *claims))


def _result_row(pair: Pair) -> str:
    taken = np.array(pair.record["taken"])
    best = pair.difference(lambda record: np.array(record["best_test_accuracy"]))
    columns = (
        f"{100 * final_accuracy(pair.bare).mean():.1f}",
        f"{100 * final_accuracy(pair.record).mean():.1f}",
        pair.difference(final_accuracy).text(100),
        best.text(100),
        pair.at_equal_descent().text(100) if taken.size else "",
        f"{np.mean(taken > 0):.0%}" if taken.size else "",
    )
    return f"| {pair.name} | " + " | ".join(columns) + " |"


def _claim_row(pair: Pair) -> str:
    changes = pair.changes_of_train_loss()
    columns = (
        f"{np.mean(changes > 0):.0%}" if changes.size else "",
        f"{changes.mean():+.4f}".replace("-", "−") if changes.size else "",
        pair.difference(at_the_end("accuracies", "train")).text(100),
        pair.difference(at_the_end("losses", "train")).text(1, 3),
        pair.difference(at_the_end("losses", "validation")).text(1, 3),
        f"{best_epochs(pair.record).mean():.1f}",
        pair.difference(best_epochs).text(),
        pair.difference(descents_to_best).text(),
    )
    return f"| {pair.name} | " + " | ".join(columns) + " |"


# --- pictures ------------------------------------------------------------------------------------------


def plot_mutation_differences(records: Records) -> Figure:
    """Draw the paired differences in test accuracy: every seed, the mean, and its 95% interval.

    Args:
        records: What `read_mutation_records` returned.
    """
    pairs = pairs_of(records)
    check(len(pairs) > 0, "records", f"{len(records)} records", "some with their bare descent")
    figure = Figure(figsize=(WIDTH, 0.6 + 0.32 * len(pairs)), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, linewidth=0.8)
    for row, pair in enumerate(reversed(pairs)):
        found = pair.difference(final_accuracy)
        axes.plot(100 * found.values, np.full(len(found.values), row), ".", color=GREY, alpha=0.5)
        apart = found.low > 0 or found.high < 0
        axes.plot([100 * found.low, 100 * found.high], [row, row], color=VERMILION if apart else BLUE)
        axes.plot(100 * found.mean, row, "o", color=VERMILION if apart else BLUE, markersize=5)
    axes.set_yticks(range(len(pairs)), [pair.name for pair in reversed(pairs)])
    axes.set_xlabel("test accuracy less that of bare descent [points]; red: 0 lies outside")
    tidy(axes)
    return figure


def plot_mutation_curves(curves: Mapping[str, Curves], *, first: int = 1) -> Figure:
    """Draw losses against epochs, means over the lanes; bands mark evolutions.

    Args:
        curves: What `LaneDescent.run` returned, by name.
        first: The first epoch that is drawn.
    """
    figure = Figure(figsize=(WIDTH, 2.8), dpi=90, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, part in zip(panels, ("train", "validation"), strict=True):
        for (name, found), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
            loss = found.losses[part].mean(1)
            axes.plot(np.arange(first, len(loss)), loss[first:], color=colour, label=name, linewidth=1.4)
        _mark_evolutions(axes, curves)
        axes.set_title(f"log loss on {part} images", fontsize="medium", loc="left")
        axes.set_xlabel("epoch")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def _mark_evolutions(axes: Axes, curves: Mapping[str, Curves]) -> None:
    epochs = {epoch for found in curves.values() for epoch, evolved in enumerate(found.evolved) if evolved}
    for epoch in epochs:
        axes.axvspan(epoch - 1, epoch, color=ORANGE, alpha=0.12, linewidth=0)


def plot_offspring(curves: Mapping[str, Curves]) -> Figure:
    """Draw what every offspring measured, less what its parent did, against the number of the evolution.

    Args:
        curves: What `LaneDescent.run` returned, by name, with a panel for each.
    """
    figure = Figure(figsize=(WIDTH, 2.6), dpi=90, layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, found) in zip(panels, curves.items(), strict=True):
        axes.axhline(0, color=BLACK, linewidth=0.8)
        for number, lanes in enumerate(found.mutations, 1):
            changes = [value - m.before for m in lanes for value in m.offspring]
            places = number + np.linspace(-0.3, 0.3, len(changes))
            axes.plot(places, changes, ".", color=BLUE, markersize=2, alpha=0.5)
            after = [m.after - m.before for m in lanes]
            axes.plot(np.full(len(after), number), after, "_", color=VERMILION, markersize=14)
        axes.set_title(name, fontsize="medium", loc="left")
        axes.set_xlabel("evolution")
        tidy(axes)
    panels[0].set_ylabel("loss less the parent's")
    return figure
