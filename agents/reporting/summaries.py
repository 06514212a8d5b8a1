"""Tables, made from records."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import rich.box
from rich.table import Table

from agents.comparing.players import CONFIGURATION
from agents.comparing.records import Record
from agents.comparing.targets import SEEN, TARGETS
from agents.reporting.statistics import bootstrap, compare, interquartile_mean, normalized, worst_share

REFERENCE = (CONFIGURATION, "cosine")
"""Its mean is 1 in normalised scores."""

MARKDOWN_COLUMNS = (
    *("method", "seeds", "mean", "normalised", "IQM", "median", "worst 5%"),
    *("best kept", "gap", "updates", "lead", "first is", "P"),
)


def by_method(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records of one target by kind and method."""
    methods: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        methods.setdefault(record.label, []).append(record)
    return methods


def stacked(records: list[Record], column: str) -> np.ndarray:
    """A column of all training seeds, (seeds, episodes)."""
    return np.stack([np.asarray(record.columns[column], np.float64) for record in records])


def summarize(records: list[Record]) -> list[dict[str, Any]]:
    """Plain numbers of every method on one target; differences are the first method's lead over each.

    A method with fewer episodes than the first (a search) is held against the first ones.
    """
    methods = by_method(records)
    first = stacked(next(iter(methods.values())), "test_accuracy")
    reference = methods.get(REFERENCE)
    summaries = []
    for (kind, name), found in methods.items():
        accuracy = stacked(found, "test_accuracy")
        compared = compare(first[:, : accuracy.shape[1]], accuracy)
        chance = found[0].chance
        row = {
            "method": name,
            "kind": kind,
            "seeds": len(found),
            "episodes": accuracy.shape[1],
            "chosen": found[0].chosen,
            "test_accuracy": dataclasses.asdict(bootstrap(accuracy)),
            "interquartile_mean": interquartile_mean(accuracy),
            "median": float(np.median(accuracy)),
            "worst_5_percent": worst_share(accuracy),
            "best_holdout_test_accuracy": float(stacked(found, "best_holdout_test_accuracy").mean()),
            "train_accuracy": float(stacked(found, "train_score").mean()),
            "generalization_gap": float((stacked(found, "train_score") - accuracy).mean()),
            "updates": float(stacked(found, "updates").mean()),
            "cost": {
                key: float(np.mean([record.cost.get(key, 0.0) for record in found]))
                for key in ("updates_to_choose", "train_updates", "train_minutes", "seconds")
            },
            "lead_of_first": dataclasses.asdict(compared.difference),
            "probability_that_first_is_better": dataclasses.asdict(compared.probability),
            "first_is": compared.verdict,
        }
        if reference is not None:
            mean = np.full(accuracy.shape[1], stacked(reference, "test_accuracy").mean())
            row["normalized"] = float(normalized(accuracy, np.full_like(mean, chance), mean).mean())
        summaries.append(row)
    return summaries


def summarize_groups(records: dict[str, list[Record]]) -> list[dict[str, Any]]:
    """The first method's lead over every other, over all targets of a group together.

    Args:
        records: By target. Methods that lack a target of the group, or have fewer episodes or other numbers
            of training seeds there, are left out.
    """
    groups: dict[str, list[str]] = {}
    for name in records:
        groups.setdefault(TARGETS[name].group if name in TARGETS else SEEN, []).append(name)
    rows = []
    for group, names in groups.items():
        tables = [by_method(records[name]) for name in names]
        first = next(iter(tables[0]))
        for label in tables[0]:
            if not all(label in table and first in table for table in tables):
                continue
            mine: list[np.ndarray] = []
            others: list[np.ndarray] = []
            members: list[np.ndarray] = []
            for number, table in enumerate(tables):
                accuracy, other = (stacked(table[key], "test_accuracy") for key in (first, label))
                seeds = (len(mine[0]), len(others[0])) if mine else (len(accuracy), len(other))
                if accuracy.shape[1] != other.shape[1] or (len(accuracy), len(other)) != seeds:
                    break
                mine.append(accuracy)
                others.append(other)
                members.append(np.full(accuracy.shape[1], number))
            else:
                compared = compare(
                    np.concatenate(mine, 1), np.concatenate(others, 1), np.concatenate(members)
                )
                rows.append(
                    {
                        "group": group,
                        "targets": names,
                        "kind": label[0],
                        "method": label[1],
                        "test_accuracy": float(np.concatenate(others, 1).mean()),
                        "lead_of_first": dataclasses.asdict(compared.difference),
                        "first_is": compared.verdict,
                    }
                )
    return rows


def as_table(target: str, summaries: list[dict[str, Any]]) -> Table:
    """The summary of one target as a table of percentages.

    "Best kept" is of the weights that were best on the holdout, "gap" train minus test accuracy.
    """
    first = summaries[0]
    title = (
        f"{target}: test accuracy [%], {first['episodes']} paired episodes; the lead of {first['method']}"
    )
    table = Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in ("method", "mean", "IQM", "worst 5%", "best kept", "gap", "lead", "first is"):
        left = name in ("method", "first is")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "first is")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in summaries:
        kinds.setdefault(row["kind"], []).append(row)
    for kind, rows in kinds.items():
        table.add_row(f"[bold]{kind}")
        for row in rows:
            mean, lead = (
                {k: 100 * v for k, v in row[k].items()} for k in ("test_accuracy", "lead_of_first")
            )
            is_first = row is first
            rate = row["chosen"].get("learning_rate")
            detail = (
                f" ({rate:.2g})" if rate is not None else f" × {row['seeds']}" if row["seeds"] > 1 else ""
            )
            few = f", {row['episodes']} episodes" if row["episodes"] != first["episodes"] else ""
            table.add_row(
                f" {row['method'].replace('_', ' ')}{detail}{few}",
                "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**mean),
                f"{100 * row['interquartile_mean']:.1f}",
                f"{100 * row['worst_5_percent']:.1f}",
                f"{100 * row['best_holdout_test_accuracy']:.1f}",
                f"{100 * row['generalization_gap']:.1f}",
                "" if is_first else "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**lead),
                "" if is_first else row["first_is"],
            )
    return table


def as_markdown(target: str, summaries: list[dict[str, Any]]) -> str:
    """The summary of one target as a table in Markdown, percentages but for "normalised"."""
    first = summaries[0]
    lines = [
        f"### {target}",
        "",
        f"{first['episodes']} paired episodes a training seed; lead of {first['method']}; "
        "P: share of episodes in which it is better, ties counted half; "
        "gap: train − test. Updates: for a network, of all runs that it was chosen from, and once for "
        "tuning, or for training the policy.",
        "",
        f"| {' | '.join(MARKDOWN_COLUMNS)} |",
        "|" + "---|" * len(MARKDOWN_COLUMNS),
    ]
    kind = ""
    for row in summaries:
        if row["kind"] != kind:
            kind = row["kind"]
            lines.append(f"| **{kind}** |" + " |" * (len(MARKDOWN_COLUMNS) - 1))
        mean, lead = ({k: 100 * v for k, v in row[k].items()} for k in ("test_accuracy", "lead_of_first"))
        chosen = ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in row["chosen"].items())
        few = f", {row['episodes']} episodes" if row["episodes"] != first["episodes"] else ""
        to_choose = row["cost"]["updates_to_choose"] or row["cost"]["train_updates"]
        cells = (
            f"{row['method'].replace('_', ' ')}{f' ({chosen})' if chosen else ''}{few}",
            str(row["seeds"]),
            "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**mean),
            f"{row['normalized']:.3f}" if "normalized" in row else "",
            f"{100 * row['interquartile_mean']:.1f}",
            f"{100 * row['median']:.1f}",
            f"{100 * row['worst_5_percent']:.1f}",
            f"{100 * row['best_holdout_test_accuracy']:.1f}",
            f"{100 * row['generalization_gap']:.1f}",
            f"{row['updates']:,.0f}{f' + {to_choose:,.0f}' if to_choose else ''}",
            "" if row is first else "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**lead),
            "" if row is first else row["first_is"],
            "" if row is first else f"{row['probability_that_first_is_better']['mean']:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def groups_as_markdown(groups: list[dict[str, Any]]) -> str:
    """What `summarize_groups` returns as a table in Markdown, percentages."""
    lines = [
        "### by group",
        "",
        "All targets of a group together; methods that played all of them.",
        "",
        "| group | targets | method | mean | lead | first is |",
        "|---|---|---|---|---|---|",
    ]
    for row in groups:
        lead = {name: 100 * value for name, value in row["lead_of_first"].items()}
        is_first = (row["kind"], row["method"]) == (groups[0]["kind"], groups[0]["method"])
        cells = (
            row["group"],
            ", ".join(row["targets"]),
            f"{row['method'].replace('_', ' ')} ({row['kind']})",
            f"{100 * row['test_accuracy']:.1f}",
            "" if is_first else "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**lead),
            "" if is_first else row["first_is"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
