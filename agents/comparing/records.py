"""Records: what one method, with one training seed, reached on one target.

A record is a JSON file of some 20 kB, so that it can be committed; tables, figures and pages are made from
records alone, and grow with them.
"""

import dataclasses
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.folder import RunFolder, as_plain
from autotrain_env import __version__
from autotrain_env.errors import InvalidValueError, check
from autotrain_env.files import replace_file
from autotrain_env.process.log import read_rows

FORMAT = 1
COLUMNS = (
    "test_accuracy",
    "best_holdout_test_accuracy",
    "score",
    "train_score",
    "initial_train_score",
    "updates",
    "rewinds",
    "reinits",
    "divergences",
    "stopped",
)
PICTURED = (
    "updates",
    "learning_rate",
    "loss",
    "train_score",
    "holdout_answer",
    "score",
    "rewind",
    "reinit",
    "stop",
    "diverged",
)
DIGITS = 6  # significant ones that are kept


@dataclass(frozen=True)
class Record:
    """One method with one training seed on one target.

    Args:
        method: Its name.
        kind: `"agent"`, a way of tuning (see `players.WAYS`), or what else it is.
        seed: Training seed; `None` for what is not trained.
        target: Name of the target.
        setup: Everything that decides the results; a record is made anew where it differs.
        chance: Accuracy of guessing.
        cost: `updates_to_choose`: by tuning; `train_updates`, `train_minutes`: of a policy; `seconds`: of
            one episode, several side by side.
        chosen: Rate and own parameters of a schedule.
        columns: What `evaluate_policy` returns, arrays of shape (episodes,).
        curve: Means over episodes at each env step: `updates`, `train_score`, `score`, `learning_rate`
            (geometric).
        actions: Share of episodes at each env step that took an action, by its name.
        learning_curve: Evaluations while the policy was trained.
        training: Of the episodes of training, in the order in which they ended, in at most 300 groups of
            equal size: `episodes` so far, and the mean `score` at their ends.
        examples: Histories of the episodes with the highest and the median initial rate.
    """

    method: str
    kind: str
    seed: int | None
    target: str
    setup: dict[str, Any]
    chance: float
    columns: dict[str, np.ndarray]
    cost: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)
    actions: dict[str, list[float]] = field(default_factory=dict)
    learning_curve: list[dict[str, float]] = field(default_factory=list)
    training: dict[str, list[float]] = field(default_factory=dict)
    examples: list[dict[str, list[Any]]] = field(default_factory=list)

    @property
    def label(self) -> tuple[str, str]:
        """Kind and method: what records of several training seeds have in common."""
        return self.kind, self.method

    @property
    def file_name(self) -> str:
        """Target, kind, method and seed, as a path."""
        parts = [self.kind, self.method, *([] if self.seed is None else [str(self.seed)])]
        name = ".".join(re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts)
        return f"{self.target}/{name}.json"

    def save(self, folder: Path) -> Path:
        """Write it below a folder, whole or not at all."""
        path = folder / self.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "version": __version__, **dataclasses.asdict(self)}
        replace_file(path, (json.dumps(rounded(content), separators=(",", ":")) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Read one.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or of another format.
        """
        try:
            content = json.loads(path.read_bytes())
            version = content.pop("format")
            content.pop("version")
            content["columns"] = {name: np.array(values) for name, values in content["columns"].items()}
            record = cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidValueError(f"{path} is no record: {error!r}") from error
        check(version == FORMAT, f"{path}: format", version, f"{FORMAT}")
        lengths = {len(values) for values in record.columns.values()}
        check(len(lengths) == 1, f"{path}: columns", lengths, "of one length")
        return record


def load_records(paths: Iterable[Path]) -> list[Record]:
    """Records in files, and in folders and all below them, in the order of their paths.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no record.
        ValueError: If a file is no record.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        files += sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"no records (*.json) in {', '.join(map(str, paths))}")
    return [Record.load(path) for path in files]


def describe(results: dict[str, np.ndarray], *, examples: bool) -> dict[str, Any]:
    """The parts of a record that come from an evaluation with histories.

    Args:
        results: From `evaluate_policy(..., history=True)`.
        examples: Whether actions and single episodes are kept.
    """
    histories = results["history"]
    parts: dict[str, Any] = {
        "columns": {name: results[name] for name in COLUMNS if name in results},
        "curve": _mean_curve(histories),
    }
    if examples:
        parts["actions"] = _shares_of_actions(histories)
        order = np.argsort(results["initial_learning_rate"], kind="stable")
        shown = dict.fromkeys((int(order[-1]), int(order[len(order) // 2])))
        parts["examples"] = [{name: histories[k][name].tolist() for name in PICTURED} for k in shown]
    return parts


def training_scores(run: RunFolder, groups: int = 300) -> dict[str, list[float]]:
    """Final scores of the networks that a run trained on the way; see `Record.training`.

    Args:
        run: Of whose MDP log the ended episodes are taken, or, of evolution, all members of a generation.
        groups: How many at most.

    Raises:
        ValueError: If the log is damaged.
    """
    scores, each = [], 1
    if run.generations.exists():
        generations = read_generations(run)
        scores = [row["score"] for row in generations]
        each = generations[0]["episodes"] if generations else 1
    else:
        rows = read_rows(run.decisions, ("terminated", "truncated", "score"), whole=run.finished)
        scores = [row["score"] for row in rows if row["terminated"] or row["truncated"]]
    size = max(1, -(-len(scores) // groups))
    ends = range(size, len(scores) + 1, size)
    return {
        "episodes": [float(end * each) for end in ends],
        "score": [float(np.mean(scores[end - size : end])) for end in ends],
    }


def read_generations(run: RunFolder) -> list[dict[str, Any]]:
    """The rows of a run's `generations.jsonl`."""
    return list(read_rows(run.generations, ("episodes", "score"), whole=run.finished))


def _mean_curve(histories: np.ndarray) -> dict[str, list[float]]:
    """Means at each env step; an episode that has ended keeps its last values."""
    steps = max(len(history["updates"]) for history in histories)
    columns: dict[str, Any] = {
        "updates": np.mean,
        "train_score": np.mean,
        "score": np.mean,
        "learning_rate": _geometric,
    }
    curve = {}
    for name, mean in columns.items():
        table = np.stack([_extended(np.asarray(history[name], float), steps) for history in histories])
        curve[name] = [float(mean(column)) for column in table.T]
    longest = max(histories, key=lambda history: len(history["updates"]))
    return curve | {"updates": [float(value) for value in longest["updates"]]}


def _geometric(values: np.ndarray) -> float:
    return float(np.exp(np.log(values).mean()))


def _extended(values: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate((values, np.repeat(values[-1:], length - len(values), axis=0)))


def _shares_of_actions(histories: np.ndarray) -> dict[str, list[float]]:
    """By env step, of all episodes; the shares of one step add up to those that went on until then."""
    steps = max(len(history["updates"]) for history in histories) - 1
    names = ("lower the rate", "keep it", "raise it", "rewind", "re-init", "stop")
    counts = np.zeros((len(names), steps))
    for history in histories:
        factor = history["lr_factor"][1:]
        verbs = (history["stop"][1:], history["reinit"][1:], history["rewind"][1:] > 0)
        stop, reinit, rewind = (np.asarray(verb, bool) for verb in verbs)
        other = stop | reinit | rewind
        taken = (~other & (factor < 1), ~other & (factor == 1), ~other & (factor > 1), rewind, reinit, stop)
        counts[:, : len(stop)] += taken
    return {name: (row / len(histories)).tolist() for name, row in zip(names, counts, strict=True)}


def rounded(value: Any) -> Any:
    """What JSON can hold, its numbers cut to the digits that are kept."""
    if isinstance(value, dict):
        return {str(name): rounded(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}")
    return as_plain(value)
