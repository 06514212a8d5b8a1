"""What is told of a controlled run: its log, TensorBoard, a line in the terminal, and a summary."""

import dataclasses
import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_env.errors import InvalidTypeError, MissingPackageError, check
from autotrain_env.process.log import MDPLog
from autotrain_env.process.record import StepRecord

PROBABILITIES = "probabilities"
"""Column of a log with the probability of each action, where the policy has any."""


class Reports:
    """Tells of every decision wherever it was asked to.

    Args:
        log: A `.jsonl` file, or `None`.
        writer: Something with `add_scalar`, or `None`.
        progress: Whether to show a line in the terminal; `None` for where there is one, and rich.
        leads: Whether this process is the one that tells.

    Raises:
        InvalidTypeError: If the writer cannot `add_scalar`.
        InvalidValueError: If the log has another ending, or other columns.
        MissingPackageError: If `progress` is true and rich is missing.
    """

    def __init__(
        self, log: str | PathLike[str] | None, writer: Any, progress: bool | None, leads: bool
    ) -> None:
        if writer is not None and not callable(getattr(writer, "add_scalar", None)):
            raise InvalidTypeError(f"writer={writer!r} has no add_scalar")
        self.writer = writer if leads else None
        self.log: MDPLog | None = None
        if log is not None:
            check(Path(log).suffix == ".jsonl", "log", str(log), "a .jsonl file")
            self.log = MDPLog(log, (), (PROBABILITIES,))
        self._line = TerminalLine() if leads and shows_line(progress) else None

    def tell(
        self, record: StepRecord, updates: int, total: int, probabilities: dict[str, float] | None
    ) -> None:
        """Tell of a step.

        Args:
            record: What the step was, in one lane.
            updates: Updates made so far.
            total: Updates of the whole run.
            probabilities: Probability of each action in words, or `None`.
        """
        (row,) = record.log_rows(np.array([0]), {"test_accuracy": np.array([None])})
        row = {name: _number_or_none(value) for name, value in row.items()}
        if self.log is not None:
            self.log.write([row | {PROBABILITIES: probabilities}])
        if self.writer is not None:
            for name in ("learning_rate", "loss", "train_score", "holdout_answer", "rewind"):
                if row[name] is not None:
                    self.writer.add_scalar(f"autotrain/{name}", row[name], updates)
        if self._line is not None:
            self._line.show(row, updates, total)

    def close(self) -> None:
        """End the line in the terminal; the log stays open for nobody."""
        if self._line is not None:
            self._line.close()
        if self.log is not None:
            self.log.close()

    def position(self) -> int | None:
        """Returns how long the log is by now [bytes]."""
        return None if self.log is None else self.log.path.stat().st_size

    def rewind(self, position: int | None) -> None:
        """Cut off what was logged after a state was taken; a shorter or other file is left alone."""
        if self.log is not None and position is not None and self.log.path.stat().st_size > position:
            os.truncate(self.log.path, position)


def shows_line(progress: bool | None) -> bool:
    """Returns whether to show a line in the terminal; see `Controller`."""
    there = importlib.util.find_spec("rich") is not None
    if progress and not there:
        raise MissingPackageError("progress=True needs rich: install it with `pip install rich`")
    return bool(progress) or (progress is None and there and sys.stderr.isatty())


class TerminalLine:
    """One line that says how far a run is."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=20), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        text = TextColumn("{task.description}")
        self._progress = Progress(*columns, text, console=Console(stderr=True), auto_refresh=False)
        self._task: Any = None

    def show(self, row: Mapping[str, Any], updates: int, total: int) -> None:
        """Show a step."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=total)
        text = (
            f"loss {row['loss']:.3g}  train {row['train_score']:.3f}  holdout {row['holdout_answer']:.3f}  "
            f"rate {row['learning_rate']:.3g}  {row['action']}{'  DIVERGED' if row['diverged'] else ''}"
        )
        self._progress.update(self._task, completed=updates, description=text)
        self._progress.refresh()

    def close(self) -> None:
        """Leave the line as it is."""
        self._progress.stop()


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a summary says beside the history."""

    policy: str
    total_updates: int
    updates: int
    decisions: int
    over: bool
    divergences: int
    impossible_reinits: int
    best_answer: float
    has_holdout: bool
    train_is_minibatch: bool
    queries: int
    overridden: int
    abstentions: int
    snapshots: int
    snapshot_bytes: int
    peak_bytes: int
    place: str
    seconds: float
    measuring_seconds: float


def summary(history: Mapping[str, np.ndarray], facts: RunFacts) -> str:
    """Returns a run in a few lines.

    Args:
        history: A row for each decision, the first look before.
        facts: What else there is to say.
    """
    rates = history["learning_rate"]
    ended = (
        "stopped by the policy" if history["stop"][-1] else "all updates made" if facts.over else "going on"
    )
    lines = [
        f"policy     {facts.policy}",
        f"updates    {facts.updates} of {facts.total_updates}, {facts.decisions} decisions: {ended}",
        f"rate       began at {rates[0]:.3g}, {rates.min():.3g} to {rates.max():.3g}, now {rates[-1]:.3g}",
        f"actions    {np.count_nonzero(history['rewind'])} rewinds, "
        f"{np.count_nonzero(history['reinit'])} re-inits, {facts.divergences} divergences",
        f"loss       {history['loss'][-1, -1]:.4g} on the last minibatches",
    ]
    if facts.has_holdout:
        train = " (of minibatches: no train= was given)" if facts.train_is_minibatch else ""
        lines.append(
            f"scores     train {history['train_score'][-1]:.3f}{train}, guarded holdout "
            f"{history['holdout_answer'][-1]:.3f}, at best {facts.best_answer:.3f}, "
            f"{facts.queries} questions"
        )
    else:
        lines.append("scores     nothing was held out")
    megabytes = 2**20
    lines += [
        f"memory     {facts.peak_bytes / megabytes:.2f} MiB at most: the best weights, and up to "
        f"{facts.snapshots} states of {facts.snapshot_bytes / megabytes:.2f} MiB on {facts.place}",
        f"time       {facts.seconds:.1f} s, of which {facts.measuring_seconds:.2f} s "
        f"({facts.measuring_seconds / max(facts.seconds, 1e-9):.1%}) for measuring and deciding",
    ]
    if facts.impossible_reinits:
        lines.append(
            f"note       {facts.impossible_reinits} re-inits could not be carried out: pass reinit="
        )
    if facts.overridden:
        lines.append(f"note       somebody else set the rate {facts.overridden} times; it was taken back")
    if facts.abstentions:
        lines.append(
            f"note       {facts.abstentions} decisions were left to a fixed action: what was seen lies far "
            "from what the policy was trained on"
        )
    if history["diverged"][-1]:
        lines.append("note       the network has diverged, and nothing has brought it back")
    return "\n".join(lines)


def _number_or_none(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
