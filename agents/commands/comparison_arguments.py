"""What `compare` and `final` have in common: what is compared, and how."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from agents.commands.arguments import EnvArguments
from agents.comparing.collecting import collect, group_runs, plan_jobs
from agents.comparing.jobs import Job
from agents.comparing.plan import Plan
from agents.comparing.targets import Target
from agents.reporting.summaries import as_table, backends_note, summarize
from agents.runs.progress import bars
from autotrain_env.errors import check, check_whole


@dataclass
class ComparisonArguments:
    """Arguments of a comparison."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs; those that differ in their training seed alone are one method, named after
    its folders without the seed at their end. The first method's lead over every other is reported."""

    baselines: tuple[str, ...] = ("constant", "step", "cosine", "reduce_on_plateau", "random")
    """Schedules, and do_nothing, random, default_rate (torch's, 0.001), hypergradient,
    hypergradient_untuned (from 0.001), schedulefree, schedulefree_adamw, prodigy, population, search."""

    ways: tuple[str, ...] = ("own", "one", "configuration")
    """Ways to choose a schedule's rate and own parameters: own (the task's initial rate), one (best for all
    training tasks), configuration (best on 20 other seeds of the target), episode (8 runs of every very
    episode, the best by validation), holdout (as configuration, trained on train + holdout)."""

    controls: bool = False
    """Evaluate every run under all controls, too: with drawn actions, with those of other episodes, without
    each kind of action, without each part of the observation, and with changes of the environment."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those of runs and targets."""

    episodes: int | None = None
    """Episodes of each run and baseline; by default as many as the target says."""

    configuration_episodes: int = 20
    """Episodes of each trial when tuning for a target, on seeds of their own."""

    one_episodes: int = 64
    """Episodes of each trial when tuning for all training tasks, on seeds of their own."""

    num_envs: int | None = None
    """Networks trained side by side; by default as many as the target says."""

    def jobs(self, targets: tuple[Target, ...], seed: int, folder: Path) -> list[Job]:
        """Returns what is to be played, checked.

        Raises:
            InvalidValueError: If something is not allowed.
        """
        check(len(self.runs) > 0, "runs", self.runs, "one or more run folders")
        for name in ("episodes", "num_envs", "configuration_episodes", "one_episodes"):
            value = getattr(self, name)
            if value is not None:
                check_whole(name, value, 1)
        plan = Plan(
            targets=targets,
            baselines=self.baselines,
            ways=self.ways,
            seed=seed,
            env=self.env.given(),
            episodes=self.episodes,
            configuration_episodes=self.configuration_episodes,
            one_episodes=self.one_episodes,
            num_envs=self.num_envs,
            controls=self.controls,
        )
        return plan_jobs(group_runs(list(self.runs)), plan, folder)

    def play(self, jobs: list[Job], folder: Path, console: Console) -> None:
        """Play what has no record yet, and print the tables."""
        with bars(console) as bar, bar("playing episodes") as report:
            records = collect(jobs, folder, report)
        for target, found in records.items():
            rows = summarize(found)
            console.print(as_table(target, rows))
            if note := backends_note(rows):
                console.print(f"[yellow]{note}[/yellow]")
        console.print(f"Records in {folder}/", soft_wrap=True)
