"""`python -m agents compare`: runs beside each other and beside baselines."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.commands.comparison_arguments import ComparisonArguments
from agents.comparing.collecting import parse_targets
from agents.comparing.targets import FINAL
from agents.runs.seeds import DEVELOPMENT_SEED, check_development
from autotrain_env.errors import check


@dataclass
class Compare(ComparisonArguments):
    """Compare runs with each other and with baselines, on the same episodes.

    Every method leaves a record in the output folder; what has one there already is not played again.
    """

    targets: tuple[str, ...] = ("own",)
    """What to compare on: own (the tasks that the first run was trained on), or development targets such as
    default or mnist_noisy; `list` names them."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the first episode."""

    output: Path = Path("runs/comparison")
    """Folder for the records."""

    def run(self, console: Console) -> None:
        """Compare, on development targets and seeds."""
        targets = parse_targets(self.targets)
        final = [target.name for target in targets if target.stage == FINAL]
        check(
            not final, "targets", final, "development targets; final ones are for `python -m agents final`"
        )
        check_development(self.seed, self.episodes or max(target.episodes for target in targets))
        self.play(self.jobs(targets, self.seed, self.output), self.output, console)
