"""Train agents on AutoTrain, evaluate them, compare them with schedules, replay an episode."""

import sys
from typing import Annotated, Any

import rich.markup
import tyro
from rich.console import Console

from agents.commands.compare import Compare
from agents.commands.demo import Demo
from agents.commands.evaluate import Evaluate
from agents.commands.evolve import Evolve
from agents.commands.final import Final
from agents.commands.list import List
from agents.commands.replay import Replay
from agents.commands.report import Report
from agents.commands.train import Train
from agents.commands.tune import Tune
from agents.training.algorithms import find_algorithm
from autotrain_env.errors import UserError

Command: Any = (
    Annotated[Train, tyro.conf.subcommand("train", description="Train an agent in a run folder.")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Evolve, tyro.conf.subcommand("evolve")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Final, tyro.conf.subcommand("final")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> None:
    """Carry out a command.

    Mistakes of the user's end it with a message and status 2, Ctrl-C with 130.

    Args:
        arguments: The words of the command; by default those that the program was called with.
    """
    words = sys.argv[1:] if arguments is None else arguments
    console = Console(width=None if sys.stdout.isatty() else 120)
    errors = Console(stderr=True)
    try:
        if len(words) > 1 and words[0] == "train" and not words[1].startswith("-"):
            find_algorithm(words[1])  # names the nearest one, which the parser would not
        command: Any = tyro.cli(Command, args=words, prog="python -m agents", description=__doc__)
        command.run(console)
    except KeyboardInterrupt:
        errors.print("Interrupted. What was finished is kept.")
        sys.exit(130)
    except (UserError, OSError) as error:  # what the system refuses is the user's to mend, too
        errors.print(f"[bold red]error:[/] {rich.markup.escape(str(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
