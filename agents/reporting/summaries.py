"""Summaries of records: plain numbers, and tables made of them."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import rich.box
from rich.table import Table

from agents.comparing.plan import CONFIGURATION
from agents.comparing.records import Record
from agents.comparing.targets import SEEN, TARGETS
from agents.reporting.statistics import bootstrap, compare, interquartile_mean, normalized, worst_share

REFERENCE = (CONFIGURATION, "cosine")
"""Its mean is 1 in normalised scores."""

SHOWN = ("method", "mean", "IQM", "worst 5%", "best kept", "gap", "lead", "first is")
"""Columns of a table in a terminal; a table in Markdown has all."""

INTERVAL, LEAD = "{mean:.1f} [{low:.1f}, {high:.1f}]", "{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def by_method(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Returns the records of one target by kind and method."""
    methods: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        methods.setdefault(record.label, []).append(record)
    return methods


def stacked(records: list[Record], column: str) -> np.ndarray:
    """Returns a column of all training seeds, shape (seeds, episodes)."""
    return np.stack([np.asarray(record.columns[column], np.float64) for record in records])


def summarize(records: list[Record]) -> list[dict[str, Any]]:
    """Returns plain numbers of every method on one target; differences are the first one's lead over each.

    A method with fewer episodes than the first (a search) is held against the first ones.
    """
    methods = by_method(records)
    first = stacked(next(iter(methods.values())), "test_accuracy")
    reference = None
    if REFERENCE in methods:
        reference = float(stacked(methods[REFERENCE], "test_accuracy").mean())
    return [_summary(label, found, first, reference) for label, found in methods.items()]


def _summary(
    label: tuple[str, str], found: list[Record], first: np.ndarray, reference: float | None
) -> dict[str, Any]:
    """Returns plain numbers of a method.

    Args:
        label: Kind and name of the method.
        found: Records of the method, one for each training seed.
        first: Test accuracies of the first method, shape (seeds, episodes).
        reference: Mean test accuracy that counts as 1 in normalised scores, if there is one.
    """
    accuracy = stacked(found, "test_accuracy")
    train_score = stacked(found, "train_score")
    episodes = accuracy.shape[1]
    compared = compare(first[:, :episodes], accuracy)
    row = {
        "method": label[1],
        "kind": label[0],
        "seeds": len(found),
        "episodes": episodes,
        "chosen": found[0].chosen,
        "test_accuracy": dataclasses.asdict(bootstrap(accuracy)),
        "interquartile_mean": interquartile_mean(accuracy),
        "median": float(np.median(accuracy)),
        "worst_5_percent": worst_share(accuracy),
        "best_holdout_test_accuracy": float(stacked(found, "best_holdout_test_accuracy").mean()),
        "train_accuracy": float(train_score.mean()),
        "generalization_gap": float((train_score - accuracy).mean()),
        "updates": float(stacked(found, "updates").mean()),
        "cost": {
            name: float(np.mean([record.cost.get(name, 0.0) for record in found]))
            for name in ("updates_to_choose", "train_updates", "train_minutes", "seconds")
        },
        "lead_of_first": dataclasses.asdict(compared.difference),
        "probability_that_first_is_better": dataclasses.asdict(compared.probability),
        "first_is": compared.verdict,
        "backends": sorted({backend for record in found for backend in record.backends}),
    }
    if reference is not None:
        chance, one = np.full(episodes, found[0].chance), np.full(episodes, reference)
        row["normalized"] = float(normalized(accuracy, chance, one).mean())
    return row


def summarize_groups(records: dict[str, list[Record]]) -> list[dict[str, Any]]:
    """Returns the first method's lead over every other, over all targets of a group together.

    Args:
        records: Records by target. Methods that lack a target of the group, or have fewer episodes or other
            numbers of training seeds there, are left out.
    """
    groups: dict[str, list[str]] = {}
    for name in records:
        groups.setdefault(TARGETS[name].group if name in TARGETS else SEEN, []).append(name)
    rows = []
    for group, names in groups.items():
        tables = [by_method(records[name]) for name in names]
        first = next(iter(tables[0]))
        for label in tables[0]:
            joined = _joined(tables, first, label)
            if joined is not None:
                rows.append({"group": group, "targets": names, **_group_summary(label, *joined)})
    return rows


def _joined(
    tables: list[dict[tuple[str, str], list[Record]]], first: tuple[str, str], label: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Returns test accuracies of two methods on all targets of a group, and the target of each episode.

    Those are of shapes (seeds, episodes), (other seeds, episodes) and (episodes,); `None` where the methods
    cannot be compared on all of the targets.
    """
    if not all(label in table and first in table for table in tables):
        return None
    mine = [stacked(table[first], "test_accuracy") for table in tables]
    others = [stacked(table[label], "test_accuracy") for table in tables]
    same_seeds = len({(len(one), len(other)) for one, other in zip(mine, others, strict=True)}) == 1
    episodes = [accuracy.shape[1] for accuracy in mine]
    if not same_seeds or episodes != [accuracy.shape[1] for accuracy in others]:
        return None
    targets = np.repeat(np.arange(len(tables)), episodes)
    return np.concatenate(mine, 1), np.concatenate(others, 1), targets


def _group_summary(
    label: tuple[str, str], mine: np.ndarray, others: np.ndarray, targets: np.ndarray
) -> dict[str, Any]:
    compared = compare(mine, others, targets)
    return {
        "kind": label[0],
        "method": label[1],
        "test_accuracy": float(others.mean()),
        "lead_of_first": dataclasses.asdict(compared.difference),
        "first_is": compared.verdict,
    }


def backends_note(summaries: list[dict[str, Any]]) -> str:
    """Returns a warning where the networks of one target were computed in different ways, or nothing."""
    methods: dict[str, list[str]] = {}
    for row in summaries:
        methods.setdefault(" and ".join(row["backends"]) or "a backend not recorded", []).append(
            row["method"]
        )
    if len(methods) < 2:
        return ""
    listed = "; ".join(f"by {backend}: {', '.join(names)}" for backend, names in methods.items())
    return f"Networks were computed by different backends, which round differently: {listed}."


def numbers_of(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Returns rows such as those of `summarize` as one table, nested numbers as columns of their own."""
    return pd.json_normalize([{**row, "backends": " ".join(row["backends"])} for row in rows], sep="_")


def _percent(numbers: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in numbers.items()}


def _chosen(row: dict[str, Any], *, brief: bool) -> str:
    """Returns what was chosen for a method, and on how many episodes it was tried, in words."""
    rate, parts = row["chosen"].get("learning_rate"), row["chosen"].items()
    if not brief:
        words = ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in parts)
        return f" ({words})" if words else ""
    if rate is not None:
        return f" ({rate:.2g})"
    return f" × {row['seeds']}" if row["seeds"] > 1 else ""


def cells_of(summaries: list[dict[str, Any]], *, brief: bool = False) -> pd.DataFrame:
    """Returns the summary of one target as text, percentages but for "normalised", a row for each method.

    "Best kept" is of the weights that were best on the holdout, "gap" train minus test accuracy.

    Args:
        summaries: Summaries from `summarize`.
        brief: Whether only the rate is said of what was chosen.
    """
    first = summaries[0]
    rows = []
    for row in summaries:
        few = f", {row['episodes']} episodes" if row["episodes"] != first["episodes"] else ""
        to_choose = row["cost"]["updates_to_choose"] or row["cost"]["train_updates"]
        cells = {
            "method": f"{row['method'].replace('_', ' ')}{_chosen(row, brief=brief)}{few}",
            "seeds": str(row["seeds"]),
            "mean": INTERVAL.format(**_percent(row["test_accuracy"])),
            "normalised": f"{row['normalized']:.3f}" if "normalized" in row else "",
            "IQM": f"{100 * row['interquartile_mean']:.1f}",
            "median": f"{100 * row['median']:.1f}",
            "worst 5%": f"{100 * row['worst_5_percent']:.1f}",
            "best kept": f"{100 * row['best_holdout_test_accuracy']:.1f}",
            "gap": f"{100 * row['generalization_gap']:.1f}",
            "updates": f"{row['updates']:,.0f}{f' + {to_choose:,.0f}' if to_choose else ''}",
        }
        cells |= dict.fromkeys(("lead", "first is", "P"), "")
        if row is not first:
            cells["lead"] = LEAD.format(**_percent(row["lead_of_first"]))
            cells["first is"] = row["first_is"]
            cells["P"] = f"{row['probability_that_first_is_better']['mean']:.2f}"
        rows.append(cells)
    return pd.DataFrame(rows, index=pd.Index([row["kind"] for row in summaries], name="kind"))


def as_table(target: str, summaries: list[dict[str, Any]]) -> Table:
    """Returns the summary of one target as a table for a terminal."""
    first = summaries[0]
    title = (
        f"{target}: test accuracy [%], {first['episodes']} paired episodes; the lead of {first['method']}"
    )
    table = Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in SHOWN:
        left = name in ("method", "first is")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "first is")
    cells = cells_of(summaries, brief=True)
    for kind, rows in cells[list(SHOWN)].groupby("kind", sort=False):
        table.add_row(f"[bold]{kind}")
        for method, *rest in rows.itertuples(index=False):
            table.add_row(f" {method}", *rest)
    return table


def as_markdown(target: str, summaries: list[dict[str, Any]]) -> str:
    """Returns the summary of one target as a table in Markdown, with a line before each kind of methods."""
    first = summaries[0]
    cells = cells_of(summaries)
    parts = []
    for kind, rows in cells.groupby("kind", sort=False):
        heading = dict.fromkeys(cells, "") | {"method": f"**{kind}**"}
        parts += [pd.DataFrame([heading]), rows]
    explained = (
        f"{first['episodes']} paired episodes a training seed; lead of {first['method']}; "
        "P: share of episodes in which it is better, ties counted half; "
        "gap: train − test. Updates: for a network, of all runs that it was chosen from, and once for "
        "tuning, or for training the policy."
    )
    note = backends_note(summaries)
    if note:
        explained += f"\n\n{note}"
    return f"### {target}\n\n{explained}\n\n{_markdown(pd.concat(parts))}"


def groups_as_markdown(groups: list[dict[str, Any]]) -> str:
    """Returns what `summarize_groups` returns as a table in Markdown, percentages."""
    rows = []
    for row in groups:
        is_first = (row["kind"], row["method"]) == (groups[0]["kind"], groups[0]["method"])
        cells = {
            "group": row["group"],
            "targets": ", ".join(row["targets"]),
            "method": f"{row['method'].replace('_', ' ')} ({row['kind']})",
            "mean": f"{100 * row['test_accuracy']:.1f}",
            "lead": "" if is_first else LEAD.format(**_percent(row["lead_of_first"])),
            "first is": "" if is_first else row["first_is"],
        }
        rows.append(cells)
    explained = "All targets of a group together; methods that played all of them."
    return f"### by group\n\n{explained}\n\n{_markdown(pd.DataFrame(rows))}"


def _markdown(table: pd.DataFrame) -> str:
    """Returns a table of text in Markdown, every cell as it is."""
    return table.to_markdown(index=False, tablefmt="pipe", disable_numparse=True) + "\n"
