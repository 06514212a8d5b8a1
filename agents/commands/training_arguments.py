"""What training has in common, whatever trains: the run's configuration and its folder."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from agents.commands.agent_arguments import AgentArguments
from agents.runs.folder import RUNS, RunConfig, RunFolder
from agents.runs.lifecycle import Interrupted
from agents.runs.progress import Reporter, bars
from agents.runs.seeds import training_seed
from agents.training.algorithms import find_algorithm
from agents.training.hyperparameters import load_hyperparameters
from autotrain_env import AutoTrainEnv
from autotrain_env.errors import check, check_whole

Trainer = Callable[[RunConfig, RunFolder, Reporter], dict[str, Any]]
"""Trains in a run folder, and returns what is written to `result.json`."""


@dataclass
class Training(AgentArguments, ABC):
    """Arguments of every kind of training."""

    algorithm: tyro.conf.Suppress[tyro.conf.Fixed[str]] = ""
    """Its name, which the command line has as a word of its own."""

    seed: int = 0
    """Training seed: of the agent's weights and exploration and of the tasks it meets."""

    train_steps: int | None = None
    """Env steps to train for, over all lanes; by default what the hyperparameters say."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/, each as NAME=VALUE."""

    checkpoint_steps: int = 19_200
    """Env steps between two checkpoints, each with an evaluation."""

    evaluation_episodes: int = 64
    """Episodes of each evaluation while training, on development seeds."""

    output: Path | None = None
    """Run folder; by default runs/agents/ALGORITHM-ID-SEED."""

    resume: bool = False
    """Go on from the newest checkpoint of a run with this very configuration; begin it if there is none.
    Checkpoints are plain data, which run no code when they are read."""

    of_others: bool = False
    """Go on with a run that another account has written, too."""

    overwrite: bool = False
    """Replace a run that is there."""

    @abstractmethod
    def trainer(self, console: Console) -> AbstractContextManager[Trainer]:
        """Returns a context that gives what trains.

        Args:
            console: Console to say on what was begun for that.
        """

    @abstractmethod
    def replace_hyperparameters(self, known: dict[str, Any]) -> dict[str, Any]:
        """Returns the hyperparameters of the run.

        Args:
            known: Hyperparameters of the algorithm's file.

        Raises:
            InvalidValueError: If one is not allowed.
        """

    @abstractmethod
    def check(self, config: RunConfig, env: AutoTrainEnv) -> None:
        """Check that training can begin.

        Args:
            config: What is to be trained.
            env: The environment.

        Raises:
            InvalidValueError: If it cannot.
        """

    def more(self, env: AutoTrainEnv) -> dict[str, Any]:
        """Returns those entries of the configuration that only some algorithms have."""
        return {}

    def run(self, console: Console) -> None:
        """Train, and say where the run was written."""
        config = self.configuration()
        folder = RunFolder(self.output or RUNS / f"{config.algorithm}-{config.env_id}-{config.seed}")
        if folder.path.exists() and not folder.path.is_dir():
            raise FileExistsError(f"{folder.path} is no folder")
        with self.trainer(console) as train, folder.locked():
            self._begin(folder, config)
            if self.resume and not folder.checkpoints():
                console.print(f"No checkpoint yet in {folder.path}: it begins anew.", soft_wrap=True)
            try:
                with bars(console) as bar, bar(f"training {config.algorithm}") as report:
                    result = train(config, folder, report)
            except Interrupted:
                console.print(
                    f"Saved. Go on with the same command and --resume: {folder.path}", soft_wrap=True
                )
                sys.exit(130)
        score = result["evaluation"]["score"]
        console.print(
            f"Trained {result['steps']:,} env steps; mean validation score of the networks {score:.4f} on "
            f"development seeds. Written to {folder.path}/",
            soft_wrap=True,
        )

    def configuration(self) -> RunConfig:
        """Returns everything that decides what is computed, checked.

        Raises:
            InvalidValueError: If something is not allowed.
        """
        algorithm = find_algorithm(self.algorithm)
        env_id, kwargs, env = self.environment(algorithm)
        hyperparameters = self.replace_hyperparameters(load_hyperparameters(algorithm.name, env_id))
        steps = hyperparameters["n_timesteps"] if self.train_steps is None else self.train_steps
        num_envs = hyperparameters["n_envs"] if self.num_envs is None else self.num_envs
        check_whole("train_steps", steps, 1)
        check_whole("checkpoint_steps", self.checkpoint_steps, 1)
        check_whole("evaluation_episodes", self.evaluation_episodes, 1)
        training_seed(self.seed, num_envs)
        config = RunConfig(
            algorithm=algorithm.name,
            env_id=env_id,
            env=kwargs,
            num_envs=num_envs,
            seed=self.seed,
            train_steps=int(steps),
            checkpoint_steps=self.checkpoint_steps,
            evaluation_episodes=self.evaluation_episodes,
            hyperparameters=hyperparameters,
            **self.more(env),
        )
        self.check(config, env)
        return config

    def _begin(self, folder: RunFolder, config: RunConfig) -> None:
        """Make a run's folder, unless there is a run that can be gone on with; see `RunFolder.open`."""
        if not (self.resume and folder.exists):
            _check_not_replaced(config.start_from, folder)
        folder.open(config, resume=self.resume, overwrite=self.overwrite, of_others=self.of_others)


def _check_not_replaced(start_from: str | None, folder: RunFolder) -> None:
    """Raise an `InvalidValueError` if a new run would replace the policy that it begins with."""
    if start_from is None:
        return
    begins_with = Path(start_from).resolve()
    check(
        folder.path.resolve() not in (begins_with, *begins_with.parents),
        "output",
        str(folder.path),
        "another folder than that of start_from, which would be replaced",
    )
