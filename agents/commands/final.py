"""`python -m agents final`: a look at final targets, which is counted."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agents.commands.comparison_arguments import ComparisonArguments
from agents.comparing.collecting import parse_targets
from agents.comparing.looks import note_look
from agents.comparing.targets import FINAL, RUNS
from agents.runs.seeds import FINAL_SEED
from autotrain_env.errors import check


@dataclass
class Final(ComparisonArguments):
    """Evaluate runs on final targets. Every look is counted, in looks.jsonl of the output folder."""

    targets: tuple[str, ...] = tuple(target.name for target in RUNS)
    """Final targets: by default the twelve for policies of the tasks real_runs; `list` names all."""

    output: Path = Path("agents/results/final")
    """Folder for the records and for looks.jsonl."""

    def run(self, console: Console) -> None:
        """Count the look, and take it."""
        targets = parse_targets(self.targets)
        other = [target.name for target in targets if target.stage != FINAL]
        check(not other, "targets", other, "final targets")
        jobs = self.jobs(targets, FINAL_SEED, self.output)  # complains before the look is counted
        count = note_look(self.output / "looks.jsonl", list(self.runs), self.targets)
        console.print(f"Look number {count} at final targets; noted in {self.output}/looks.jsonl")
        self.play(jobs, self.output, console)
