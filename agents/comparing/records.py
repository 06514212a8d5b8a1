"""Records: what one method, with one training seed, reached on one target.

All records of a comparison are lines of JSON in one compressed file, small enough to be committed; tables,
figures and pages are made from records alone, and grow with them. A record's path is its folder, its target
and its name, as if it were a file of its own: `runs/comparison/default/agent.ppo.0`.
"""

import dataclasses
import gzip
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from agents.runs.folder import RunFolder, as_plain
from autotrain_env import __version__
from autotrain_env.errors import InvalidValueError, check
from autotrain_env.files import replace_file
from autotrain_env.process.config import MOST_SNAPSHOTS
from autotrain_env.process.log import read_rows
from autotrain_env.schemas import (
    LARGEST_LINE,
    MIB,
    Kind,
    anything,
    column,
    file_part,
    flag,
    gunzip_limited,
    listed,
    mapping,
    number,
    one_of,
    optional,
    parse_json,
    plain_name,
    read_json_lines,
    read_limited,
    structure,
    text,
    whole,
)

FILE = "records.jsonl.gz"
SINGLE = "*.*.json"
"""Pattern of the files that held one record each; the first part of their names is the kind."""

RECORD_FORMAT = 1
ANSWER = "holdout_answer"
"""The column of a history that holds Thresholdout's answers."""

ANSWER_NAMES = ("holdout_answer", "holdout_score")
"""What that column is called in records, the older name last."""

RECORD_COLUMNS = (
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
    ANSWER,
    "score",
    "rewind",
    "reinit",
    "stop",
    "diverged",
)
ACTIONS = ("lower the rate", "keep it", "raise it", "rewind", "re-init", "stop")
"""What records say of actions."""
LARGEST_PACKED, LARGEST_UNPACKED = 64 * MIB, 512 * MIB
DIGITS = 6  # significant ones that are kept


@dataclass(frozen=True)
class Record:
    """One method with one training seed on one target.

    Args:
        method: Name of the method.
        kind: `"agent"`, a way of tuning (see `plan.WAYS`), or what else it is.
        seed: Training seed; `None` for what is not trained.
        target: Name of the target.
        setup: Everything that decides the results; a record is made anew where it differs.
        chance: Accuracy of guessing.
        cost: `updates_to_choose`, which tuning took; `train_updates` and `train_minutes`, which training
            the policy took; `seconds` that one episode took, several side by side.
        chosen: Rate and own parameters of a schedule.
        columns: What `evaluate_policy` returns, arrays of shape (episodes,).
        curve: Means over episodes at each env step: `updates`, `train_score`, `score`, `learning_rate`
            (geometric).
        actions: Share of episodes at each env step that took an action, by its name.
        learning_curve: Evaluations while the policy was trained.
        training: Scores of the episodes of training, in the order in which they ended, in at most 300
            groups of equal size: `episodes` so far, and the mean `score` at their ends.
        examples: Histories of the episodes with the highest and the median initial rate.
        backends: How the networks were computed, as the environment names it; empty where it was not kept.
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
    backends: list[str] = field(default_factory=list)

    @property
    def label(self) -> tuple[str, str]:
        """Returns kind and method: what records of several training seeds have in common."""
        return self.kind, self.method

    @property
    def name(self) -> str:
        """Returns target, kind, method and seed, as a path."""
        parts = [self.kind, self.method, *([] if self.seed is None else [str(self.seed)])]
        return f"{self.target}/" + ".".join(
            re.sub(r"[^A-Za-z0-9]+", "_", part).strip("_") for part in parts
        )

    def as_line(self) -> bytes:
        """Returns the record as one line of JSON."""
        content = {"format": RECORD_FORMAT, "version": __version__, **dataclasses.asdict(self)}
        return json.dumps(rounded(content), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes, source: str) -> "Record":
        """Returns the record that a line of JSON stands for.

        Args:
            content: What `as_line` returned.
            source: Place where it was found, for the error's message.

        Raises:
            InvalidValueError: If it is damaged or of another format.
        """
        try:
            found = parse_json(content, "it")
            if isinstance(found, dict) and "format" in found:
                check(found["format"] == RECORD_FORMAT, "format", found["format"], f"{RECORD_FORMAT}")
            parts = _RECORD("content", found)
            columns = parts["columns"]
            _check_one_length("columns", columns)
        except InvalidValueError as error:
            raise InvalidValueError(f"{source} is no record: {error}") from error
        return cls(**{name: value for name, value in parts.items() if name not in ("format", "version")})


def _check_one_length(field: str, columns: dict[str, Any]) -> None:
    lengths = {name: len(values) for name, values in columns.items()}
    check(len(set(lengths.values())) <= 1, field, lengths, "of one length")


def _of_one_length(inner: Kind) -> Kind:
    """Returns the kind of columns, lists or arrays by name, that all have one length."""

    def kind(field: str, value: Any) -> dict[str, Any]:
        columns = inner(field, value)
        _check_one_length(field, columns)
        return columns

    return kind


def _all_or_none(*names: str, others: Kind | None = None) -> Kind:
    """Returns the kind of columns of finite numbers, as lists: all of these names, or none."""
    full = _of_one_length(structure(dict.fromkeys(names, listed(number())), others=others))
    return lambda field, value: {} if value == {} else full(field, value)


def _example(field: str, value: Any) -> dict[str, list[Any]]:
    """Returns an example, the holdout's answers under their name in histories; as a `Kind`."""
    check(isinstance(value, dict), field, value, "an object")
    named = {ANSWER if name in ANSWER_NAMES else name: values for name, values in value.items()}
    example: dict[str, list[Any]] = _EXAMPLE(field, named)
    widths = {len(row) for row in example["loss"]}
    check(len(widths) == 1 and 0 not in widths, f"{field}.loss", example["loss"], "lists of one length")
    _check_one_length(field, example)
    return example


def _flag_or_0(field: str, value: Any) -> Any:
    whole(0, 1)(field, int(value) if isinstance(value, bool) else value)
    return value


_EXAMPLE: Kind = structure(
    {
        **dict.fromkeys(PICTURED, listed(number(missing=True), least=1)),
        "updates": listed(number(0), least=1),
        "loss": listed(listed(number(missing=True)), least=1),
        "rewind": listed(whole(0, MOST_SNAPSHOTS), least=1),
        **{name: listed(_flag_or_0, least=1) for name in ("reinit", "stop", "diverged")},
    }
)
_NEEDED_COLUMNS = RECORD_COLUMNS[: RECORD_COLUMNS.index("updates") + 1]
_RECORD: Kind = structure(
    {
        "format": one_of(RECORD_FORMAT),
        "version": text(200),
        "method": plain_name,
        "kind": plain_name,
        "seed": optional(whole(0)),
        "target": file_part,
        "setup": structure({"env": mapping(anything)}, others=anything),
        "chance": number(0, 1),
        "columns": structure(dict.fromkeys(_NEEDED_COLUMNS, column(object)), others=column(object)),
    },
    {
        "cost": mapping(number(0)),
        "chosen": mapping(number()),
        "curve": _all_or_none("updates", "train_score", "score", "learning_rate"),
        "actions": _all_or_none(*ACTIONS),
        "learning_curve": listed(structure({"train_steps": number(0), "score": number()}, others=number())),
        "training": _all_or_none("episodes", "score"),
        "examples": listed(_example, 10),
        "backends": listed(plain_name),
    },
)


class RecordFile:
    """The records of one folder.

    Folders made before hold one file for each record, `TARGET/NAME.json`; these are read, too, and stay as
    they are. What is added goes into the one file, and stands for an older one of its name.

    Args:
        folder: The folder; it need not exist before something is added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE

    def load(self) -> dict[str, Record]:
        """Returns all records by name, in the order of their names.

        Raises:
            InvalidValueError: If one is damaged; the message names the file and the line.
        """
        records = {}
        for path in self.folder.glob(f"*/{SINGLE}"):
            records[path.relative_to(self.folder).with_suffix("").as_posix()] = _load_single(path)
        records |= {name: record for name, (record, _) in self._read().items()}
        return {name: records[name] for name in sorted(records, key=_sorting)}

    def add(self, record: Record) -> None:
        """Write a record, in place of one of the same name; the file is replaced whole or not at all.

        What other processes have added in the meantime is kept.

        Raises:
            InvalidValueError: If a record in the file is damaged; the file is left as it is.
        """
        lines = {name: line for name, (_, line) in self._read().items()} | {record.name: record.as_line()}
        content = io.BytesIO()
        with gzip.GzipFile("", "wb", fileobj=content, mtime=0) as file:  # the same bytes at any time
            file.write(b"".join(lines[name] for name in sorted(lines, key=_sorting)))
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, content.getvalue())

    def _read(self) -> dict[str, tuple[Record, bytes]]:
        """Returns the records of the file, and their lines, by name."""
        if not self.path.exists():
            return {}
        packed = read_limited(self.path, LARGEST_PACKED)
        lines = gunzip_limited(packed, str(self.path), LARGEST_UNPACKED).splitlines(keepends=True)
        found = {}
        for at, line in enumerate(lines, 1):
            record = Record.parse(line, f"{self.path}, line {at},")
            found[record.name] = (record, line)
        return found


def _sorting(name: str) -> list[str]:
    return name.split("/")


def _load_single(path: Path) -> Record:
    return Record.parse(read_limited(path, LARGEST_LINE), str(path))


def load_records(paths: Iterable[Path]) -> list[Record]:
    """Returns the records of some paths.

    Args:
        paths: Folders, in which and below which all records are read; files; and paths of records or of all
            records of a target, which may hold wildcards (`runs/comparison/default/agent.ppo.*`).

    Returns:
        The records, path by path, in the order of their names.

    Raises:
        FileNotFoundError: If a path does not exist, or there is no record.
        InvalidValueError: If a record is damaged.
    """
    paths = list(paths)
    records = [record for path in paths for record in _find(path)]
    if not records:
        raise FileNotFoundError(f"no records ({FILE}, or *.json of before) in {', '.join(map(str, paths))}")
    return records


def load_record(path: Path) -> Record:
    """Returns the one record of a path; see `load_records`.

    Raises:
        FileNotFoundError: If there is no such record.
        InvalidValueError: If it is damaged, or there are several.
    """
    records = load_records([path])
    names = [record.name for record in records]
    check(len(records) == 1, "record", str(path), f"the path of one record; there are {', '.join(names)}")
    return records[0]


def _find(path: Path) -> list[Record]:
    """Returns the records of one path."""
    if path.is_dir():
        path = path.resolve()
        folders = {file.parent for file in path.rglob(FILE)}
        folders |= {file.parents[1] for file in path.rglob(SINGLE)}
        return [record for folder in sorted(folders) for record in _of_folder(folder, path)]
    if path.name == FILE:
        return list(RecordFile(path.parent).load().values())
    if path.is_file():
        return [_load_single(path)]
    for folder in path.parents:
        if (folder / FILE).exists():
            return _of_folder(folder, path)
    raise FileNotFoundError(f"{path} does not exist")


def _of_folder(folder: Path, path: Path) -> list[Record]:
    """Returns the records of a folder that lie at a path or below it."""
    records = RecordFile(folder).load()
    if folder.is_relative_to(path):
        return list(records.values())
    pattern = path.relative_to(folder).as_posix()
    found = [
        record
        for name, record in records.items()
        if fnmatchcase(name, pattern) or name.startswith(f"{pattern}/")
    ]
    if not found:
        raise FileNotFoundError(f"{path} does not exist: {folder / FILE} holds no record of that name")
    return found


def describe(results: dict[str, np.ndarray], *, examples: bool) -> dict[str, Any]:
    """Returns the parts of a record that come from an evaluation with histories.

    Args:
        results: What `evaluate_policy(..., history=True)` returned.
        examples: Whether actions and single episodes are kept.
    """
    histories = results["history"]
    parts: dict[str, Any] = {
        "columns": {name: results[name] for name in RECORD_COLUMNS if name in results},
        "curve": _mean_curve(histories),
    }
    if examples:
        parts["actions"] = _shares_of_actions(histories)
        order = np.argsort(results["initial_learning_rate"], kind="stable")
        shown = dict.fromkeys((int(order[-1]), int(order[len(order) // 2])))
        parts["examples"] = [{name: histories[k][name].tolist() for name in PICTURED} for k in shown]
    return parts


def training_scores(run: RunFolder, groups: int = 300) -> dict[str, list[float]]:
    """Returns final scores of the networks that a run trained on the way; see `Record.training`.

    Args:
        run: Run whose MDP log holds the ended episodes; of evolution, all members of a generation count.
        groups: Largest number of groups.

    Raises:
        InvalidValueError: If the log is damaged.
    """
    scores, each = [], 1
    if run.generations.exists():
        generations = read_generations(run)
        scores = [row["score"] for row in generations]
        each = generations[0]["episodes"] if generations else 1
    else:
        needed = {"terminated": flag, "truncated": flag, "score": number()}
        rows = read_rows(run.decisions, needed, whole=run.finished)
        scores = [row["score"] for row in rows if row["terminated"] or row["truncated"]]
    size = max(1, -(-len(scores) // groups))
    ends = range(size, len(scores) + 1, size)
    return {
        "episodes": [float(end * each) for end in ends],
        "score": [float(np.mean(scores[end - size : end])) for end in ends],
    }


def read_generations(run: RunFolder) -> list[dict[str, Any]]:
    """Returns the rows of a run's `generations.jsonl`."""
    kinds = {"episodes": whole(1), "score": number(-1e100, 1e100)}
    return list(read_json_lines(run.generations, structure(kinds, others=_report), whole=run.finished))


def _report(field: str, value: Any) -> Any:
    """Takes what a strategy reports of a generation, a number or a flag; as a `Kind`."""
    return value if isinstance(value, bool) else number(-1e100, 1e100, missing=True)(field, value)


def _mean_curve(histories: np.ndarray) -> dict[str, list[float]]:
    """Returns means at each env step; an episode that has ended keeps its last values."""
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
    """Returns the share of all episodes that took each action, by env step.

    The shares of one step add up to the share of episodes that went on until then.
    """
    steps = max(len(history["updates"]) for history in histories) - 1
    counts = np.zeros((len(ACTIONS), steps))
    for history in histories:
        factor = history["lr_factor"][1:]
        verbs = (history["stop"][1:], history["reinit"][1:], history["rewind"][1:] > 0)
        stop, reinit, rewind = (np.asarray(verb, bool) for verb in verbs)
        other = stop | reinit | rewind
        taken = (~other & (factor < 1), ~other & (factor == 1), ~other & (factor > 1), rewind, reinit, stop)
        counts[:, : len(stop)] += taken
    return {name: (row / len(histories)).tolist() for name, row in zip(ACTIONS, counts, strict=True)}


def rounded(value: Any) -> Any:
    """Returns what JSON can hold of a value, its numbers cut to the digits that are kept."""
    if isinstance(value, dict):
        return {str(name): rounded(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}")
    return as_plain(value)
