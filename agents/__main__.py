"""Train agents on AutoTrain, evaluate them, compare them with schedules, replay an episode."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
import rich.box
import rich.markup
import tyro
from rich.console import Console
from rich.table import Table

import autotrain_env
from agents.algorithms import (
    ALGORITHMS,
    REWARD,
    check_actions,
    find_algorithm,
    load_hyperparameters,
    replaced_hyperparameters,
)
from agents.arguments import EnvArguments, given
from agents.comparing import Plan, collect, group_runs, parse_targets
from agents.final import note_look
from agents.progress import bars
from agents.records import load_records
from agents.reporting import write_report
from agents.runs import RunConfig, RunFolder, find_runs
from agents.seeds import DEVELOPMENT_SEED, FINAL_SEED, training_seed
from agents.summaries import as_table, summarize
from agents.targets import FINAL, TARGETS, Target
from agents.training import Interrupted, train
from agents.tuning import Study, open_study, run_study, write_hyperparameters
from autotrain_env.errors import check, check_whole, unknown_name
from autotrain_env.evaluation import evaluate_policy, make_evaluation_env, mean_interval
from autotrain_env.plotting import plot_episode
from autotrain_env.policies import TrainedPolicy, load_policy

RUNS = Path("runs/agents")


@dataclass
class Train:
    """Train an agent in a run folder."""

    algorithm: tyro.conf.Positional[str]
    """One of: ppo, a2c, dqn, sac, td3, maskable_ppo, recurrent_ppo, qrdqn, trpo, ars."""

    id: str | None = None
    """Id of the environment; by default AutoTrain-v0, or AutoTrainContinuous-v0 for sac and td3."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment."""

    seed: int = 0
    """Training seed: of the agent's weights and exploration and of the tasks it meets."""

    train_steps: int | None = None
    """Env steps to train for, over all lanes; by default what the hyperparameters say."""

    num_envs: int | None = None
    """Networks trained side by side; by default what the hyperparameters say."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/, such as learning_rate=0.001 n_epochs=4."""

    success_score: float = 0.85
    """Final score from which an episode counts as a success: decides when a curriculum's level rises."""

    checkpoint_steps: int = 19_200
    """Env steps between two checkpoints, each with an evaluation."""

    evaluation_episodes: int = 64
    """Episodes of each evaluation while training, on development seeds."""

    output: Path | None = None
    """Run folder; by default runs/agents/ALGORITHM-ID-SEED."""

    resume: bool = False
    """Go on from the newest checkpoint of a run with this very configuration; begin it if there is none."""

    overwrite: bool = False
    """Replace a run that is there."""

    def run(self, console: Console) -> None:
        """Train."""
        config = self.configuration()
        folder = RunFolder(self.output or RUNS / f"{config.algorithm}-{config.env_id}-{config.seed}")
        if self.resume and folder.exists:
            differences = config.differences(folder.config())
            if differences:
                raise ValueError(
                    f"{folder.path} was begun otherwise (now, and then): {'; '.join(differences)}"
                )
            if folder.finished:
                raise FileExistsError(f"{folder.path} holds a finished run: nothing is left to resume")
        else:
            folder.begin(config, self.overwrite)
        try:
            with bars(console) as bar, bar(f"training {config.algorithm}") as report:
                result = train(config, folder, report, resume=self.resume)
        except Interrupted:
            console.print(f"Saved. Go on with the same command and --resume: {folder.path}", soft_wrap=True)
            sys.exit(130)
        score = result["evaluation"]["score"]
        console.print(
            f"Trained {result['steps']:,} env steps; mean validation score of the networks {score:.4f} on "
            f"development seeds. Written to {folder.path}/",
            soft_wrap=True,
        )

    def configuration(self) -> RunConfig:
        """Everything that decides what is computed, checked.

        Raises:
            ValueError: If something is not allowed.
        """
        algorithm = find_algorithm(self.algorithm)
        env_id = self.id or algorithm.env_id
        if env_id not in autotrain_env.ENVIRONMENTS:
            raise unknown_name("id", env_id, autotrain_env.ENVIRONMENTS)
        kwargs: dict[str, Any] = {"observation_layout": "flat", **given(self.env)}
        if "reward" not in {**autotrain_env.ENVIRONMENTS[env_id], **kwargs}:
            kwargs["reward"] = REWARD
        probe = gymnasium.make(env_id, **kwargs)
        levels = probe.unwrapped.config.task_distribution.levels  # type: ignore[attr-defined]
        check_actions(algorithm, probe.action_space, env_id)
        hyperparameters = replaced_hyperparameters(
            self.hyperparameters, load_hyperparameters(algorithm.name, env_id)
        )
        steps = hyperparameters["n_timesteps"] if self.train_steps is None else self.train_steps
        num_envs = hyperparameters["n_envs"] if self.num_envs is None else self.num_envs
        for name, value in (
            ("train_steps", steps),
            ("checkpoint_steps", self.checkpoint_steps),
            ("evaluation_episodes", self.evaluation_episodes),
        ):
            check_whole(name, value, 1)
        training_seed(self.seed, num_envs)
        return RunConfig(
            algorithm=algorithm.name,
            env_id=env_id,
            env=kwargs,
            num_envs=num_envs,
            seed=self.seed,
            train_steps=int(steps),
            checkpoint_steps=self.checkpoint_steps,
            evaluation_episodes=self.evaluation_episodes,
            hyperparameters=hyperparameters,
            success_score=self.success_score if len(levels) > 1 else None,
        )


@dataclass
class Tune:
    """Tune hyperparameters with Optuna; the same command goes on with a study that was interrupted."""

    algorithm: tyro.conf.Positional[str]
    """One of: ppo, a2c, dqn, sac, td3, maskable_ppo, recurrent_ppo, qrdqn, trpo, ars."""

    id: str | None = None
    """Id of the environment, as for train."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment."""

    trials: int = 30
    """Trials in the study, pruned ones included."""

    train_steps: int = 57_600
    """Env steps of each trial, over all lanes."""

    num_envs: int | None = None
    """Networks trained side by side; by default what the hyperparameters say."""

    evaluations: int = 4
    """Evaluations of each trial, at which those that are worse than the median are pruned."""

    evaluation_episodes: int = 128
    """Episodes of each evaluation, on tuning seeds."""

    seed: int = 0
    """Seed of the sampler."""

    storage: Path | None = None
    """SQLite file of the study; by default runs/tuning/ALGORITHM-ID.db."""

    write: bool = False
    """Put the best hyperparameters into agents/hyperparams/, with the size of the study."""

    def run(self, console: Console) -> None:
        """Tune."""
        train_command = Train(
            algorithm=self.algorithm,
            id=self.id,
            env=self.env,
            train_steps=self.train_steps,
            num_envs=self.num_envs,
            evaluation_episodes=self.evaluation_episodes,
        )
        config = train_command.configuration()
        for name in ("trials", "evaluations"):
            check_whole(name, getattr(self, name), 1)
        study = Study(
            algorithm=config.algorithm,
            env_id=config.env_id,
            env=config.env,
            num_envs=config.num_envs,
            train_steps=config.train_steps,
            evaluations=self.evaluations,
            evaluation_episodes=self.evaluation_episodes,
            seed=self.seed,
        )
        storage = self.storage or Path("runs/tuning") / f"{config.algorithm}-{config.env_id}.db"
        made = open_study(study, storage)
        with bars(console) as bar, bar(f"tuning {config.algorithm}") as report:
            run_study(study, made, self.trials, report)
        console.print(f"best validation score {made.best_value:.4f} in {storage}, with")
        console.print_json(data=made.best_params)
        if self.write:
            console.print(f"Written to {write_hyperparameters(study, made)}", soft_wrap=True)


@dataclass
class Evaluate:
    """Evaluate a run's policy: test results over episodes that training never met."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a finished run, or any folder with a policy."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those that the policy was trained with."""

    episodes: int = 200
    """Episodes to play."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the first episode."""

    num_envs: int = 64
    """Networks trained side by side."""

    sample: bool = False
    """Draw actions instead of taking the likeliest."""

    def run(self, console: Console) -> None:
        """Evaluate."""
        policy = load_policy(self.run_folder, deterministic=not self.sample)
        env = environment_of(policy, given(self.env), self.num_envs)
        with bars(console) as bar, bar("evaluating") as report:
            results = evaluate_policy(env, policy, self.episodes, self.seed, progress=report)
        table = Table(
            box=rich.box.SIMPLE_HEAD, title=f"{self.episodes} episodes of {policy.spec.environment['id']}"
        )
        for name in ("", "mean", "95% interval", "lowest", "highest"):
            table.add_column(name, justify="left" if not name else "right")
        for name, values in results.items():
            mean, low, high = mean_interval(values)
            numbers = (mean, f"[{low:.4g}, {high:.4g}]", values.min(), values.max())
            table.add_row(name, *(n if isinstance(n, str) else f"{n:.4g}" for n in numbers))
        console.print(table)


@dataclass
class Replay:
    """Play an episode with a run's policy: print its decisions, draw the controlled run."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a finished run, or any folder with a policy."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those that the policy was trained with."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the episode."""

    sample: bool = False
    """Draw actions instead of taking the likeliest."""

    output: Path = Path("runs/replay.png")
    """File for the picture."""

    def run(self, console: Console) -> None:
        """Replay."""
        policy = load_policy(self.run_folder, deterministic=not self.sample)
        env = environment_of(policy, given(self.env), 1)
        results = evaluate_policy(env, policy, 1, self.seed, history=True)
        history = results["history"][0]
        table = Table("updates", "action", "learning rate", "loss", "train", "holdout", "score", "reward")
        table.box = rich.box.SIMPLE_HEAD
        for step in range(len(history["updates"])):
            numbers = ("learning_rate", "loss", "train_score", "holdout_score", "score", "reward")
            values = (float(np.ravel(history[name][step])[-1]) for name in numbers)
            table.add_row(
                str(history["updates"][step]),
                history["action"][step],
                *(f"{value:.3g}" for value in values),
            )
        console.print(table)
        accuracy = float(results["test_accuracy"][0])
        console.print(
            f"test accuracy {accuracy:.4f}; loss, train and holdout are those after each env step"
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        plot_episode(history).savefig(self.output, dpi=120)
        console.print(f"Written to {self.output}", soft_wrap=True)


def environment_of(
    policy: TrainedPolicy, overrides: dict[str, Any], num_envs: int
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """The environment that a policy was trained in, some arguments replaced, for an evaluation.

    Raises:
        ValueError: If the policy does not say which it was.
    """
    trained = policy.spec.environment
    check(
        set(trained) == {"id", "kwargs"}, "policy.json: environment", dict(trained), "an id and its kwargs"
    )
    kwargs = trained["kwargs"] | overrides
    return make_evaluation_env(trained["id"], num_envs, **kwargs)


@dataclass
class Compare:
    """Compare runs with each other and with baselines, on the same episodes.

    Every method leaves a record in the output folder; what has one there already is not played again.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs; those that differ in their training seed alone are one method. The first
    method's lead over every other is reported."""

    targets: tuple[str, ...] = ("own",)
    """What to compare on: own (the tasks that the first run was trained on), or development targets such as
    default or mnist_noisy; `list` names them."""

    baselines: tuple[str, ...] = ("constant", "step", "cosine", "reduce_on_plateau", "random")
    """Schedules, and do_nothing, random, hypergradient, schedulefree, prodigy, population, search."""

    ways: tuple[str, ...] = ("own", "one", "configuration")
    """Ways to choose a schedule's rate and own parameters: own (the task's initial rate), one (best for all
    training tasks), configuration (best on 20 other seeds of the target), episode (8 runs of every very
    episode, the best by validation), holdout (as configuration, trained on train + holdout)."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those of runs and targets."""

    episodes: int | None = None
    """Episodes of each run and baseline; by default as many as the target says."""

    configuration_episodes: int = 20
    """Episodes of each trial when tuning for a target, on seeds of their own."""

    one_episodes: int = 64
    """Episodes of each trial when tuning for all training tasks, on seeds of their own."""

    controls: bool = False
    """Evaluate every run under all controls, too: with the actions of other episodes, without each kind of
    action, without each part of the observation, and with changes of the environment."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the first episode."""

    num_envs: int | None = None
    """Networks trained side by side; by default as many as the target says."""

    output: Path = Path("runs/comparison")
    """Folder for the records."""

    def run(self, console: Console) -> None:
        """Compare."""
        check(len(self.runs) > 0, "runs", self.runs, "one or more run folders")
        targets = parse_targets(self.targets)
        final = [target.name for target in targets if target.stage == FINAL]
        check(
            not final, "targets", final, "development targets; final ones are for `python -m agents final`"
        )
        play_and_print(self, console, targets, self.seed)


@dataclass
class Final:
    """Evaluate runs on final targets. Every look is counted, in looks.jsonl of the output folder."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs, as for compare."""

    targets: tuple[str, ...] = tuple(target.name for target in TARGETS.values() if target.stage == FINAL)
    """Final targets."""

    baselines: tuple[str, ...] = ("constant", "step", "cosine", "reduce_on_plateau")
    """As for compare."""

    ways: tuple[str, ...] = ("own", "one", "configuration")
    """As for compare."""

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

    controls: bool = False
    """As for compare."""

    output: Path = Path("agents/results/final")
    """Folder for the records and for looks.jsonl."""

    def run(self, console: Console) -> None:
        """Look."""
        check(len(self.runs) > 0, "runs", self.runs, "one or more run folders")
        targets = parse_targets(self.targets)
        other = [target.name for target in targets if target.stage != FINAL]
        check(not other, "targets", other, "final targets")
        group_runs(list(self.runs))
        count = note_look(self.output / "looks.jsonl", list(self.runs), self.targets)
        console.print(f"Look number {count} at final targets; noted in {self.output}/looks.jsonl")
        play_and_print(self, console, targets, FINAL_SEED)


def play_and_print(
    command: Compare | Final, console: Console, targets: tuple[Target, ...], seed: int
) -> None:
    """Play what has no record yet, and print the tables."""
    for name in ("episodes", "num_envs"):
        if getattr(command, name) is not None:
            check_whole(name, getattr(command, name), 1)
    for name in ("configuration_episodes", "one_episodes"):
        check_whole(name, getattr(command, name), 1)
    plan = Plan(
        targets=targets,
        baselines=command.baselines,
        ways=command.ways,
        seed=seed,
        env=given(command.env),
        episodes=command.episodes,
        configuration_episodes=command.configuration_episodes,
        one_episodes=command.one_episodes,
        num_envs=command.num_envs,
        controls=command.controls,
    )
    groups = group_runs(list(command.runs))
    with bars(console) as bar, bar("playing episodes") as report:
        records = collect(groups, plan, command.output, report)
    for target, found in records.items():
        console.print(as_table(target, summarize(found)))
    console.print(f"Records in {command.output}/", soft_wrap=True)


@dataclass
class Report:
    """Write a page (HTML), figures (PNG) and numbers (CSV) from records, and from runs."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = (Path("agents/results/default"),)
    """Records or folders of records, as compare writes them, and run folders, whose training is shown."""

    first: str | None = None
    """Method whose lead over the others is reported; by default the agent with the most training seeds."""

    output: Path = Path("runs/report")
    """Folder for index.html, the figures and numbers.csv."""

    def run(self, console: Console) -> None:
        """Write the report."""
        runs = [RunFolder(path) for path in self.paths if RunFolder(path).exists]
        others = [path for path in self.paths if not RunFolder(path).exists]
        check(len(self.paths) > 0, "paths", self.paths, "records, or run folders")
        records = load_records(others) if others else []
        page = write_report(records, self.output, self.first, runs)
        console.print(f"Written to {page}, with the figures and numbers.csv beside it", soft_wrap=True)


@dataclass
class List:
    """List algorithms, environments and runs."""

    folder: Path = RUNS
    """Where to look for runs."""

    def run(self, console: Console) -> None:
        """List."""
        algorithms = Table("algorithm", "acts in", "trained on by default", box=rich.box.SIMPLE_HEAD)
        for algorithm in ALGORITHMS.values():
            algorithms.add_row(algorithm.name, " or ".join(algorithm.actions), algorithm.env_id)
        console.print(algorithms)
        console.print("environments: " + ", ".join(autotrain_env.ENVIRONMENTS))
        targets = Table("target", "stage", "to policies of the tasks many", box=rich.box.SIMPLE_HEAD)
        for target in TARGETS.values():
            targets.add_row(target.name, target.stage, target.group)
        console.print(targets)
        runs = Table("run", "env steps", "state", "validation score", box=rich.box.SIMPLE_HEAD)
        for folder in find_runs(self.folder):
            config = folder.config()
            checkpoints = folder.checkpoints()
            state, score = "finished", ""
            if folder.finished:
                score = f"{folder.result()['evaluation']['score']:.4f}"
            else:
                state = f"unfinished, {int(checkpoints[-1].name):,} saved" if checkpoints else "unfinished"
            runs.add_row(str(folder.path), f"{config.train_steps:,}", state, score)
        console.print(runs if runs.row_count else f"no runs in {self.folder}")


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
