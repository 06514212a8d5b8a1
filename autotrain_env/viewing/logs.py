"""Pictures from an MDP log."""

import csv
import io
import math
import sys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from autotrain_env.errors import InvalidValueError, check
from autotrain_env.process.config import MOST_SNAPSHOTS
from autotrain_env.process.log import read_rows
from autotrain_env.process.record import HISTORY, LOG, Column, columns_of
from autotrain_env.schemas import (
    MIB,
    Kind,
    anything,
    conform,
    flag,
    number,
    optional,
    read_limited,
    structure,
    text,
    whole,
)
from autotrain_env.viewing.run import plot_episode

LARGEST_LOG = 4096 * MIB


def plot_log(
    log: str | PathLike[str] | Any,
    episode_seed: int | None = None,
    figure: Figure | SubFigure | None = None,
    score_label: str = "validation",
) -> Figure:
    """Draw an episode of an MDP log as `plot_episode` does.

    Args:
        log: A `.jsonl` or `.csv` file, or a pandas table of one.
        episode_seed: Which episode; may be `None` where there is only one. Of several runs of it the last
            is drawn.
        figure: Figure or subfigure to draw into; `None` for a new one.
        score_label: What the reward's score was computed on.

    Returns:
        The figure, or the one that the subfigure is part of.

    Raises:
        InvalidValueError: If there is no such episode, or more than one and none was chosen.
        FileNotFoundError: If there is no such file.
    """
    return plot_episode(history_of_log(log, episode_seed), figure, score_label)


def history_of_log(
    log: str | PathLike[str] | Any, episode_seed: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the columns of an episode of an MDP log, as `plot_episode` takes them.

    The log has no row for the state at reset, whose values are missing (NaN), and one loss per env step.

    Args:
        log: A `.jsonl` or `.csv` file, or a pandas table of one.
        episode_seed: Which episode; see `plot_log`.

    Raises:
        InvalidValueError: If there is no such episode, or more than one and none was chosen.
        FileNotFoundError: If there is no such file.
    """
    if hasattr(log, "to_dict"):
        rows = [_checked(_plain_row(row), "log", at) for at, row in enumerate(log.to_dict("records"), 1)]
    else:
        rows = read_log(log)
    for row in rows:
        check(set(_NEEDED) <= set(row), "log", row, f"an MDP log, with {', '.join(_NEEDED)} in every row")
    seeds = sorted({int(row["episode_seed"]) for row in rows})
    check(len(seeds) > 0, "log", log, "an MDP log with at least one row")
    if episode_seed is None:
        check(len(seeds) == 1, "episode_seed", episode_seed, f"one of {_some(seeds)}")
        episode_seed = seeds[0]
    check(episode_seed in seeds, "episode_seed", episode_seed, f"one of {_some(seeds)}")
    return history_of_rows(last_run([row for row in rows if int(row["episode_seed"]) == episode_seed]))


def history_of_rows(run: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the columns of one run of an episode, as `history_of_log` does, of its rows in a log."""
    return {
        column.name: _history_column(column, run) for column in columns_of(HISTORY) if LOG in column.places
    }


_EARLIER_NAMES = {"holdout_answer": "holdout_score"}
_MISSING: dict[Any, Any] = {np.float64: np.nan, np.int64: 0, bool: False, object: ""}
_AT_RESET: dict[Any, Any] = {np.float64: np.nan, np.int64: 0, bool: False, object: "reset"}


def _history_column(column: Column, run: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns a column of a history, the state at reset first; NaN where an earlier log lacks it."""
    earlier = _EARLIER_NAMES.get(column.name, column.name)
    values = [row.get(column.name, row.get(earlier)) for row in run]
    missing = _MISSING[column.dtype]
    values = [missing if value is None else value for value in values]
    found: np.ndarray = np.array([_AT_RESET[column.dtype], *values], column.dtype)
    return found[:, None] if column.per_window else found


def read_log(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Returns the rows of an MDP log, with values of their own types; `None` where a value is missing.

    Args:
        path: A `.jsonl` or `.csv` file.

    Raises:
        InvalidValueError: If the ending is not known, or a line is damaged.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    check(path.suffix in (".jsonl", ".csv"), "log", str(path), "a .jsonl or .csv file, or a table")
    if path.suffix == ".jsonl":
        found = list(read_rows(path))
    else:
        found = _read_csv(path)
    return [_checked(row, str(path), at) for at, row in enumerate(found, 1)]


def _read_csv(path: Path) -> list[dict[str, Any]]:
    try:
        lines = io.StringIO(read_limited(path, LARGEST_LOG).decode(), newline="")
        rows = list(csv.DictReader(lines, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidValueError(f"{path} is damaged: {error}") from error
    for at, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise InvalidValueError(f"{path} is damaged: row {at} has more or fewer entries than the first")
    return [{name: _parse(text) for name, text in row.items()} for row in rows]


def _kind_of(column: Column) -> Kind:
    """Returns what a column of the log may hold; earlier logs lack some, and missing values are null."""
    kinds: dict[Any, Kind] = {np.int64: whole(0), np.float64: number(missing=True), bool: flag}
    special = {
        "episode_seed": whole(0, 2**64),
        "lane": whole(0),
        "step": whole(0),
        "rewind": optional(whole(0, MOST_SNAPSHOTS)),
    }
    return special.get(column.name, optional(kinds.get(column.dtype, text(200))))


_NEEDED = ("episode_seed", "lane", "step", "learning_rate")
_KINDS: dict[str, Kind] = {column.name: _kind_of(column) for column in columns_of(LOG)}
_KINDS["learning_rate"] = number(sys.float_info.min, missing=True)  # which pictures show on a log scale
_ROW: Kind = structure({}, _KINDS, others=anything)


def _checked(row: dict[str, Any], source: str, number_: int) -> dict[str, Any]:
    """Returns a row of a log, if it holds what rows hold."""
    conform(row, _ROW, f"{source}, row {number_},", "row")
    return row


def _plain_row(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a row of a pandas table with Python's own values, whole numbers restored."""
    plain = {
        str(name): value.item() if isinstance(value, np.generic) else value for name, value in row.items()
    }
    for name in plain.keys() & _KINDS.keys():
        value = plain[name]
        if isinstance(value, float) and not math.isfinite(value):
            plain[name] = None
        elif isinstance(value, float) and value.is_integer() and name not in _FLOATS:
            plain[name] = int(value)
    return plain


_FLOATS = {column.name for column in columns_of(LOG) if column.dtype is np.float64}


def _parse(text: str) -> Any:
    """Returns a value of a CSV file: a flag, a number, nothing, or else a text."""
    if text in ("True", "False", ""):
        return {"True": True, "False": False, "": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def last_run(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the last of several runs of an episode; a run begins where a lane's env steps do not rise."""
    runs: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        lane = int(row["lane"])
        if lane not in runs or row["step"] <= runs[lane][-1]["step"]:
            runs.pop(lane, None)
            runs[lane] = []
        runs[lane].append(row)
    return list(runs.values())[-1]


def _some(seeds: list[int]) -> str:
    """Returns the first few of a list, in words."""
    return ", ".join(map(str, seeds[:5])) + (f" or {len(seeds) - 5} more" if len(seeds) > 5 else "")
