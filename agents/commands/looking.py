"""`evaluate`, `replay` and `list`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import rich.box
import rich.markup
import tyro
from rich.console import Console
from rich.table import Table

import autotrain_env
from agents.algorithms import (
    TRAINABLE,
)
from agents.arguments import EnvArguments, given
from agents.commands.learning import RUNS
from agents.progress import bars
from agents.runs import RunFolder, check_environment, find_runs
from agents.seeds import DEVELOPMENT_SEED, check_development
from agents.targets import TARGETS
from autotrain_env.errors import check, check_whole
from autotrain_env.evaluation import evaluate_policy, make_evaluation_env, mean_interval
from autotrain_env.plotting import as_image, check_image_kind, plot_episode
from autotrain_env.policies import TrainedPolicy, load_policy, replace_file


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
        check_whole("episodes", self.episodes, 1)
        check_whole("num_envs", self.num_envs, 1)
        check_development(self.seed, self.episodes)
        RunFolder(self.run_folder).check_finished()
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
        kind = self.output.suffix[1:].lower() or "png"
        check_image_kind("ending of output", kind)
        check_development(self.seed, 1)
        RunFolder(self.run_folder).check_finished()
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
        replace_file(self.output, as_image(plot_episode(history), kind))
        console.print(f"Written to {self.output}", soft_wrap=True)


def environment_of(
    policy: TrainedPolicy, overrides: dict[str, Any], num_envs: int
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """The environment that a policy was trained in, some arguments replaced, for an evaluation.

    Raises:
        ValueError: If the policy does not say which it was, or it is none of this project's.
    """
    trained = policy.spec.environment
    check(
        set(trained) == {"id", "kwargs"}, "policy.json: environment", dict(trained), "an id and its kwargs"
    )
    check_environment(trained["id"], trained["kwargs"])
    kwargs = trained["kwargs"] | overrides
    return make_evaluation_env(trained["id"], num_envs, **kwargs)


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
