"""The MDP log: one row per decision, written while it runs."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from autotrain_env.errors import InvalidValueError, check
from autotrain_env.process.record import log_columns
from autotrain_env.schemas import Kind, anything, parse_json, read_json_lines, structure


class MDPLog:
    """Writes rows to a `.jsonl` or `.csv` file, which pandas reads; `record.COLUMNS` says what is in them.

    Each reward term has a column of its own, named `reward_` and the term. Rows are on disk when `write`
    returns. An existing file is continued; one with other columns is refused.

    Args:
        path: The file.
        reward_terms: Names of the reward terms.
        further: Names of columns beyond those of `record.COLUMNS`.

    Raises:
        InvalidValueError: If the ending is not known or the file has other columns.
        OSError: If the file cannot be written.
    """

    def __init__(
        self, path: str | PathLike[str], reward_terms: tuple[str, ...], further: tuple[str, ...] = ()
    ) -> None:
        self.path = Path(path)
        self.columns = (*log_columns(reward_terms), *further)
        check(self.path.suffix in (".jsonl", ".csv"), "log_path", str(path), "a .jsonl or .csv file")
        try:
            self._file: TextIO = self.path.open("a+", newline="", encoding="utf-8")
        except OSError as error:
            raise type(error)(f"log_path={str(path)!r} cannot be written: {error}") from error
        self._check_columns()

    def _check_columns(self) -> None:
        self._file.seek(0)
        first = self._file.readline()
        self._file.seek(0, 2)
        if self.path.suffix == ".csv":
            if not first:
                csv.writer(self._file).writerow(self.columns)
                self._file.flush()
                return
            found = tuple(next(csv.reader([first])))
        else:
            if not first:
                return
            found = _json_names(first)
        check(found == self.columns, "log_path", str(self.path), f"a file with columns {self.columns}")

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; they are on disk when it returns.

        Args:
            rows: One mapping for each decision, with a value for every column.
        """
        ordered = [{name: _plain(row[name]) for name in self.columns} for row in rows]
        if self.path.suffix == ".csv":
            csv.DictWriter(self._file, self.columns).writerows(ordered)
        else:
            self._file.writelines(json.dumps(row) + "\n" for row in ordered)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "MDPLog":
        """Returns itself, to be closed at the end of a `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def read_rows(
    path: Path, needed: Mapping[str, Kind] | None = None, *, whole: bool = False
) -> Iterator[dict[str, Any]]:
    """Returns an iterator over the rows of a file with a JSON object in each line.

    Args:
        path: The file.
        needed: What every row must hold: kinds of values by name.
        whole: Whether nobody writes it any more; otherwise a last line without an end, of a process that
            is still at work or was killed, is left out if it is not a row yet.

    Raises:
        FileNotFoundError: If there is no such file.
        InvalidValueError: If a line is damaged; the message names the file and the line.
    """
    return read_json_lines(path, structure(needed or {}, others=anything), whole=whole)


def _json_names(line: str) -> tuple[str, ...]:
    """Returns the names in a line of JSON, none where it is something else."""
    try:
        row = parse_json(line, "line")
    except InvalidValueError:
        return ()
    return tuple(row) if isinstance(row, dict) else ()


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
