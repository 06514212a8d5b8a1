"""`python -m agents list`: algorithms, environments, targets and runs."""

from dataclasses import dataclass
from pathlib import Path

import rich.box
import rich.markup
from rich.console import Console
from rich.table import Table

import autotrain_env
from agents.commands.train import RUNS
from agents.comparing.targets import TARGETS
from agents.runs.folder import RunFolder, find_runs
from agents.training.algorithms import TRAINABLE


@dataclass
class List:
    """List algorithms, environments and runs."""

    folder: Path = RUNS
    """Where to look for runs."""

    def run(self, console: Console) -> None:
        """List."""
        algorithms = Table("algorithm", "acts in", "trained on by default", box=rich.box.SIMPLE_HEAD)
        for algorithm in TRAINABLE.values():
            algorithms.add_row(algorithm.name, " or ".join(algorithm.actions), algorithm.env_id)
        console.print(algorithms)
        console.print("environments: " + ", ".join(autotrain_env.ENVIRONMENTS))
        targets = Table("target", "stage", "to policies of the tasks many", box=rich.box.SIMPLE_HEAD)
        for target in TARGETS.values():
            targets.add_row(target.name, target.stage, target.group)
        console.print(targets)
        runs = Table("run", "env steps", "state", "validation score", box=rich.box.SIMPLE_HEAD)
        for folder in find_runs(self.folder):
            try:
                runs.add_row(str(folder.path), *_state_of(folder))
            except (ValueError, OSError) as error:
                console.print(f"[bold red]error:[/] {rich.markup.escape(str(error))}", soft_wrap=True)
        console.print(runs if runs.row_count else f"no runs in {self.folder}")


def _state_of(folder: RunFolder) -> tuple[str, str, str]:
    """Env steps, state and validation score of a run, in words."""
    steps = f"{folder.config().train_steps:,}"
    if folder.finished:
        return steps, "finished", f"{folder.result()['evaluation']['score']:.4f}"
    checkpoints = folder.checkpoints()
    return steps, f"unfinished, {int(checkpoints[-1].name):,} saved" if checkpoints else "unfinished", ""
