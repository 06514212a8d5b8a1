"""`python -m agents list`: algorithms, environments, targets and runs."""

from dataclasses import dataclass
from pathlib import Path

import rich.box
import rich.markup
from rich.console import Console
from rich.table import Table

import autotrain_env
from agents.comparing.targets import TARGETS
from agents.runs.folder import RUNS, RunFolder, find_runs
from agents.training.algorithms import TRAINABLE
from autotrain_env.errors import UserError


@dataclass
class List:
    """List algorithms, environments, targets and runs."""

    folder: Path = RUNS
    """Where to look for runs."""

    def run(self, console: Console) -> None:
        """Print algorithms, environments, targets and runs."""
        console.print(_algorithms())
        console.print("environments: " + ", ".join(autotrain_env.ENVIRONMENTS))
        console.print(_targets())
        runs = Table("run", "env steps", "state", "validation score", box=rich.box.SIMPLE_HEAD)
        for folder in find_runs(self.folder):
            try:
                runs.add_row(str(folder.path), *_state_of(folder))
            except (UserError, OSError) as error:
                console.print(f"[bold red]error:[/] {rich.markup.escape(str(error))}", soft_wrap=True)
        console.print(runs if runs.row_count else f"no runs in {self.folder}")


def _algorithms() -> Table:
    table = Table("algorithm", "acts in", "trained on by default", box=rich.box.SIMPLE_HEAD)
    for algorithm in TRAINABLE.values():
        table.add_row(algorithm.name, " or ".join(algorithm.actions), algorithm.env_id)
    return table


def _targets() -> Table:
    table = Table("target", "stage", "to policies of the tasks many", box=rich.box.SIMPLE_HEAD)
    for target in TARGETS.values():
        table.add_row(target.name, target.stage, target.group)
    return table


def _state_of(folder: RunFolder) -> tuple[str, str, str]:
    """Returns env steps, state and validation score of a run, in words."""
    steps = f"{folder.config().train_steps:,}"
    if folder.finished:
        return steps, "finished", f"{folder.result()['evaluation']['score']:.4f}"
    checkpoints = folder.checkpoints()
    return steps, f"unfinished, {int(checkpoints[-1].name):,} saved" if checkpoints else "unfinished", ""
