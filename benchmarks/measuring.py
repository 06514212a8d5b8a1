"""Measuring things side by side, and reporting what came out.

On a shared machine times drift, so that only ratios count: what is compared runs in turn, round after
round, and each round gives one ratio.
"""

import json
import os
import platform
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import torch
from rich.console import Console
from rich.table import Table


def alternate(*functions: Callable[[], Any], rounds: int) -> np.ndarray:
    """Call functions in turn (A B C, A B C, ...), after one round that is not measured.

    Args:
        functions: What to measure; each leaves nothing to do on an accelerator, or waits for it.
        rounds: Measured rounds.

    Returns:
        Seconds of every call, shape (functions, rounds).
    """
    seconds = np.empty((len(functions), rounds + 1))
    for i in range(rounds + 1):
        for j, function in enumerate(functions):
            start = time.perf_counter()
            function()
            seconds[j, i] = time.perf_counter() - start
    return seconds[:, 1:]


def finish(device: torch.device) -> None:
    """Wait until a device has done everything it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class CannotInstall(Exception):
    """Another package could not be installed; the text says why."""


def peer_python(folder: Path, requirements: Sequence[str]) -> Path:
    """Python of an environment with other packages, which is made where it is missing.

    Args:
        folder: Of the environment.
        requirements: What is installed there, as pip takes it.

    Raises:
        CannotInstall: If pip fails.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "installed"
    wanted = "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    venv.create(folder, clear=True, with_pip=True)
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CannotInstall("\n".join(done.stderr.splitlines()[-15:]))
    stamp.write_text(wanted)
    return python


@dataclass(frozen=True)
class Spread:
    """Median of the rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """Sum up the values of all rounds."""
        return cls(float(np.median(values)), float(np.min(values)), float(np.max(values)))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


@dataclass(frozen=True)
class Figure:
    """One figure of the table.

    Args:
        work: What was done.
        measured: The ratio.
        goal: What it is to be, `None` for a figure that is only reported.
        at_least: Whether the goal is the least or the most that it may be.
        beside: Absolute times (or sizes), medians, in words.
        device: Where it was measured.
        numbers: Everything else for the JSON.
    """

    work: str
    measured: Spread
    goal: float | None = None
    at_least: bool = True
    beside: str = ""
    device: str = "cpu"
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the goal, `None` where there is none."""
        if self.goal is None:
            return None
        return self.measured.median >= self.goal if self.at_least else self.measured.median <= self.goal


def table(title: str, figures: list[Figure]) -> Table:
    """All figures as a table."""
    result = Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    result.add_column("work", ratio=5)
    result.add_column("on", no_wrap=True)
    result.add_column("goal", no_wrap=True)
    result.add_column("measured", no_wrap=True)
    result.add_column("met", no_wrap=True)
    result.add_column("beside", ratio=4)
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≥' if figure.at_least else '≤'} {figure.goal:g}"
        met = {None: "", True: "[green]yes", False: "[red]no"}[figure.met]
        result.add_row(figure.work, figure.device, goal, str(figure.measured), met, figure.beside)
    return result


def make_console() -> Console:
    """The terminal, or text of a readable width."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def machine() -> dict[str, Any]:
    """What it was measured on."""
    packages = ("torch", "numpy", "gymnasium", "autotrain-env")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "load_average_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "torch_threads": torch.get_num_threads(),
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def cpu_model() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, found: dict[str, Any], rows: dict[str, list[Figure]]) -> None:
    """Write every number.

    Args:
        path: The file; its folder is made.
        found: What `machine` returned, and anything else that holds for all rows.
        rows: Figures by row.
    """
    figures = {name: [asdict(figure) | {"met": figure.met} for figure in row] for name, row in rows.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found | {"rows": figures}, indent=2) + "\n")
