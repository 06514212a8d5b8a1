"""Train agents on AutoTrain, evaluate them, compare them with schedules, replay an episode."""

import sys
from typing import Annotated, Any

import rich.markup
import tyro
from rich.console import Console

from agents.commands.judging import Compare, Final, Report
from agents.commands.learning import Train, Tune
from agents.commands.looking import Evaluate, List, Replay

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Tune, tyro.conf.subcommand("tune")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Final, tyro.conf.subcommand("final")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[List, tyro.conf.subcommand("list")]
)


def main(arguments: list[str] | None = None) -> None:
    """Carry out a command; mistakes of the user end it with a message and status 2."""
    command: Any = tyro.cli(Command, args=arguments, prog="python -m agents", description=__doc__)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        command.run(console)
    except (ValueError, TypeError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {rich.markup.escape(str(error))}", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
