"""`compare`, `final` and `report`."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from agents.arguments import EnvArguments, given
from agents.comparing import collect, group_runs, parse_targets, plan_jobs
from agents.final import note_look
from agents.players import Job, Plan
from agents.progress import bars
from agents.records import load_records
from agents.reporting import write_report
from agents.runs import RunFolder
from agents.seeds import DEVELOPMENT_SEED, FINAL_SEED, check_development
from agents.summaries import as_table, summarize
from agents.targets import FINAL, TARGETS, Target
from autotrain_env.errors import check, check_whole


@dataclass
class Comparison:
    """What `compare` and `final` have in common."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs; those that differ in their training seed alone are one method, named after
    its folders without the seed at their end. The first method's lead over every other is reported."""

    baselines: tuple[str, ...] = ("constant", "step", "cosine", "reduce_on_plateau", "random")
    """Schedules, and do_nothing, random, hypergradient, schedulefree, prodigy, population, search."""

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
        """What is to be played, checked.

        Raises:
            ValueError: If something is not allowed.
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
            env=given(self.env),
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
            console.print(as_table(target, summarize(found)))
        console.print(f"Records in {folder}/", soft_wrap=True)


@dataclass
class Compare(Comparison):
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
        """Compare."""
        targets = parse_targets(self.targets)
        final = [target.name for target in targets if target.stage == FINAL]
        check(
            not final, "targets", final, "development targets; final ones are for `python -m agents final`"
        )
        check_development(self.seed, self.episodes or max(target.episodes for target in targets))
        self.play(self.jobs(targets, self.seed, self.output), self.output, console)


@dataclass
class Final(Comparison):
    """Evaluate runs on final targets. Every look is counted, in looks.jsonl of the output folder."""

    targets: tuple[str, ...] = tuple(target.name for target in TARGETS.values() if target.stage == FINAL)
    """Final targets."""

    output: Path = Path("agents/results/final")
    """Folder for the records and for looks.jsonl."""

    def run(self, console: Console) -> None:
        """Look."""
        targets = parse_targets(self.targets)
        other = [target.name for target in targets if target.stage != FINAL]
        check(not other, "targets", other, "final targets")
        jobs = self.jobs(targets, FINAL_SEED, self.output)  # complains before the look is counted
        count = note_look(self.output / "looks.jsonl", list(self.runs), self.targets)
        console.print(f"Look number {count} at final targets; noted in {self.output}/looks.jsonl")
        self.play(jobs, self.output, console)


@dataclass
class Report:
    """Write a page (HTML), figures (PNG), numbers (CSV) and tables (Markdown) from records and runs."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("agents/results/default_task"),)
    """Records or folders of records, as compare writes them, and run folders, whose training is shown."""

    first: str | None = None
    """Method whose lead over the others is reported; by default the agent with the most training seeds."""

    output: Path = Path("runs/report")
    """Folder for index.html, the figures, numbers.csv and tables.md."""

    def run(self, console: Console) -> None:
        """Write the report."""
        runs = [RunFolder(path) for path in self.paths if RunFolder(path).exists]
        others = [path for path in self.paths if not RunFolder(path).exists]
        check(len(self.paths) > 0, "paths", self.paths, "records, or run folders")
        records = load_records(others) if others else []
        page = write_report(records, self.output, self.first, runs)
        console.print(
            f"Written to {page}, with the figures, numbers.csv and tables.md beside it", soft_wrap=True
        )
