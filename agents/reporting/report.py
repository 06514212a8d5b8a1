"""The report: one self-contained page, its figures as PNG, its numbers as CSV and Markdown tables."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

import autotrain_env
from agents.comparing.collecting import check_pairing
from agents.comparing.plan import AGENT, CONFIGURATION, EPISODE, ONE, OTHER, OWN, WITH_HOLDOUT
from agents.comparing.records import Record, read_generations, training_scores
from agents.comparing.targets import SEEN, TARGETS
from agents.reporting.figures import (
    Label,
    plot_actions,
    plot_examples,
    plot_generations,
    plot_learning_curves,
    plot_profiles,
    plot_progress,
    plot_training,
)
from agents.reporting.summaries import (
    as_markdown,
    backends_note,
    by_method,
    groups_as_markdown,
    numbers_of,
    summarize,
    summarize_groups,
)
from agents.runs.folder import RunFolder
from autotrain_env.errors import check
from autotrain_env.files import replace_file
from autotrain_env.viewing.comparison import plot_comparison
from autotrain_env.viewing.logs import plot_log, read_log
from autotrain_env.viewing.style import as_image

TEMPLATE = Path(__file__).with_name("report.html")
KINDS_IN_ORDER = (
    AGENT,
    CONFIGURATION,
    ONE,
    EPISODE,
    WITH_HOLDOUT,
    OTHER,
    OWN,
)  # then controls, as tables list them
CURVES = 8  # methods in a figure at most
TUNED_RATES = 8  # what a person would try instead of a policy


def write_report(
    records: Sequence[Record], output: Path, first: str | None = None, runs: Sequence[RunFolder] = ()
) -> Path:
    """Write `index.html`, `numbers.csv`, `tables.md` and the figures.

    Args:
        records: Records of any methods, seeds and targets.
        output: Folder of the report.
        first: Method whose lead over the others is reported; by default the agent with the most seeds.
        runs: Runs whose training is to be shown.

    Returns:
        The page.

    Raises:
        InvalidValueError: If there is no such method, or methods did not meet the same tasks.
    """
    leader, ordered = _ordered(records, first)
    output.mkdir(parents=True, exist_ok=True)
    trainings = [_training(run, output) for run in runs]
    sections = []
    for name, found in ordered.items():
        sections.append(_section(name, found, output))
    groups = summarize_groups(ordered) if len(ordered) > 1 else []
    page = jinja2.Template(TEMPLATE.read_text(), autoescape=True).render(
        version=autotrain_env.__version__,
        first=leader[1],
        groups=groups,
        targets=sections,
        runs=trainings,
    )
    rows = [{"target": section["name"], **row} for section in sections for row in section["rows"]]
    numbers = numbers_of(rows).drop(columns="is_first", errors="ignore")
    replace_file(output / "numbers.csv", numbers.to_csv(index=False).encode())
    tables = _tables({section["name"]: section["rows"] for section in sections}, groups)
    replace_file(output / "tables.md", tables.encode())
    replace_file(output / "index.html", page.encode())
    return output / "index.html"


def make_tables(records: Sequence[Record], first: str | None = None) -> str:
    """Returns what `write_report` writes to `tables.md`; see there."""
    _, ordered = _ordered(records, first)
    groups = summarize_groups(ordered) if len(ordered) > 1 else []
    return _tables({name: summarize(found) for name, found in ordered.items()}, groups)


def _tables(rows: dict[str, list[dict[str, Any]]], groups: list[dict[str, Any]]) -> str:
    tables = [as_markdown(name, found) for name, found in rows.items()]
    return "\n".join(tables + ([groups_as_markdown(groups)] if groups else []))


def _ordered(records: Sequence[Record], first: str | None) -> tuple[Label, dict[str, list[Record]]]:
    """Returns the method whose lead is reported, and the records of its targets, its own first."""
    targets: dict[str, list[Record]] = {}
    for record in records:
        targets.setdefault(record.target, []).append(record)
    leader = _leader(records, first) if records else ("", "")
    ordered = {
        name: sorted(found, key=lambda record: (record.label != leader, _place(record.kind)))
        for name, found in targets.items()
        if any(record.label == leader for record in found)
    }
    for found in ordered.values():
        check_pairing(found)
    return leader, ordered


def _place(kind: str) -> int:
    return KINDS_IN_ORDER.index(kind) if kind in KINDS_IN_ORDER else len(KINDS_IN_ORDER)


def _leader(records: Sequence[Record], first: str | None) -> Label:
    labels = {label: len(found) for label, found in by_method(records).items()}
    if first is not None:
        named = [label for label in labels if label[1] == first]
        check(bool(named), "first", first, f"one of {', '.join(sorted({name for _, name in labels}))}")
        return next((label for label in named if label[0] == AGENT), named[0])
    agents = {label: count for label, count in labels.items() if label[0] == AGENT}
    candidates = agents or labels
    return max(candidates, key=lambda label: candidates[label])


def _training(run: RunFolder, output: Path) -> dict[str, Any]:
    """Returns what a run's own files tell: the networks that it trained on the way, and the last one."""
    config = run.config()
    name = run.path.name
    scores = training_scores(run)
    pictures = [
        ("training", "Score of the networks at the end of each episode.", plot_training({name: scores}))
    ]
    logged = read_log(run.decisions) if run.decisions.exists() else []
    if logged:
        last = int(logged[-1]["episode_seed"])
        rewarded = {**autotrain_env.ENVIRONMENTS[config.env_id], **config.env}.get("reward_split")
        figure = plot_log(run.decisions, last, score_label=rewarded or "validation")
        pictures.append(("log", "The last episode in the MDP log.", figure))
    generations = read_generations(run) if run.generations.exists() else []
    if generations:
        caption = "What evolution did, generation by generation."
        pictures.append(("generations", caption, plot_generations(generations)))
    return {
        "name": name,
        "config": config,
        "state": "finished" if run.finished else "unfinished",
        "figures": [
            _kept(output / f"{name}_{title}.png", text, figure) for title, text, figure in pictures
        ],
    }


def _kept(path: Path, caption: str, figure: Figure) -> dict[str, str]:
    """Write a figure, and return it with its caption for the page."""
    data = as_image(figure)
    replace_file(path, data)
    return {"caption": caption, "data": base64.b64encode(data).decode()}


def _section(name: str, records: list[Record], output: Path) -> dict[str, Any]:
    rows = summarize(records)
    for number, row in enumerate(rows):
        row["is_first"] = number == 0
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    figures = [
        _kept(output / f"{name}_{title}.png", caption, figure)
        for title, caption, figure in _figures(records, rows)
    ]
    return {
        "name": name,
        "group": TARGETS[name].group if name in TARGETS else SEEN,
        "episodes": rows[0]["episodes"],
        "env": ", ".join(f"{key}={value}" for key, value in records[0].setup["env"].items()),
        "kinds": kinds,
        "rows": rows,
        "figures": figures,
        "cost": _cost(rows[0]),
        "backends": backends_note(rows),
    }


def _figures(records: list[Record], rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, Figure]]:
    """Yields file names, captions and figures of a section."""
    points = [
        {"method": row["method"].replace("_", " "), "group": row["kind"], **row["test_accuracy"]}
        for row in rows
        if row["kind"] != OWN
    ]
    yield (
        "comparison",
        "Mean test accuracy with its interval; own rates are left out.",
        plot_comparison(points),
    )
    shown = _shown(rows)
    yield (
        "profiles",
        "Share of episodes above each accuracy; bands are 95% intervals.",
        plot_profiles(records, shown),
    )
    yield (
        "progress",
        "Means over episodes. Seconds are those of this evaluation, many networks side by side.",
        plot_progress(records, shown),
    )
    agents = [label for label in by_method(records) if label[0] == AGENT]
    if not agents:
        return
    yield (
        "learning",
        "Validation accuracy of networks, on development seeds.",
        plot_learning_curves(records),
    )
    training = {
        f"{record.method}, seed {record.seed}": record.training
        for record in by_method(records)[agents[0]]
        if record.training
    }
    if training:
        caption = "Score of the networks that it was trained on, at the ends of their episodes."
        yield "training", caption, plot_training(training)
    yield "actions", "What the policy did, and when.", plot_actions(records, agents[0])
    for number, figure in enumerate(plot_examples(by_method(records)[agents[0]][0])):
        rate = ("highest", "median")[number]
        caption = f"A run controlled by {agents[0][1]}: the episode with the {rate} initial rate."
        yield f"episode_{rate}", caption, figure


def _shown(rows: list[dict[str, Any]]) -> list[Label]:
    """Returns methods for figures of curves: the first, agents, and the best of the tuned schedules."""
    others = [row for row in rows[1:] if row["kind"] in (CONFIGURATION, ONE, EPISODE)]
    others.sort(key=lambda row: (row["kind"] != CONFIGURATION, -row["test_accuracy"]["mean"]))
    agents = [row for row in rows[1:] if row["kind"] == AGENT]
    chosen = [rows[0], *agents[: CURVES // 2], *others]
    return [(row["kind"], row["method"]) for row in chosen[:CURVES]]


def _cost(row: dict[str, Any]) -> str:
    """Returns what training the policy cost, and when it has paid."""
    cost = row["cost"]
    if not cost["train_updates"]:
        return ""
    took = (
        f"Training {row['method']} took {cost['train_updates']:,.0f} updates and "
        f"{cost['train_minutes']:.1f} minutes a seed"
    )
    saved = (TUNED_RATES - 1) * row["updates"]
    if not saved:
        return f"{took}; it trains no network."
    return (
        f"{took}; against runs at {TUNED_RATES} rates for every new network it has paid after "
        f"{cost['train_updates'] / saved:,.0f} networks, counted in updates."
    )
