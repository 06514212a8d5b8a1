"""`python -m agents train`: an agent in a run folder."""

import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import tyro
from rich.console import Console

import autotrain_env
from agents.commands.arguments import EnvArguments, given
from agents.evolving.evolution import evolve
from agents.evolving.hyperparameters import (
    begin_search,
    check_tasks,
    read_hyperparameters,
    replace_hyperparameters,
)
from agents.evolving.workers import Backend, make_backend
from agents.runs.folder import RunConfig, RunFolder
from agents.runs.progress import bars
from agents.runs.seeds import training_seed
from agents.runs.session import Interrupted
from agents.training.algorithms import EVOLUTION, REWARD, Algorithm, check_actions, find_algorithm
from agents.training.hyperparameters import load_hyperparameters, replaced_hyperparameters
from agents.training.session import begin_model, train
from autotrain_env import AutoTrainEnv
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.evolution.sparse import TOPOLOGIES

RUNS = Path("runs/agents")
STARTABLE = ("ppo", "a2c", "trpo", "maskable_ppo")
"""Algorithms that can begin with another policy: actor-critics without a memory."""


@dataclass
class Agent:
    """What is trained, and where."""

    algorithm: tyro.conf.Positional[str]
    """One of: ppo, a2c, dqn, sac, td3, maskable_ppo, recurrent_ppo, qrdqn, trpo, ars, es (not for tune)."""

    id: str | None = None
    """Id of the environment; by default AutoTrain-v0, or AutoTrainContinuous-v0 for sac and td3."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment."""

    num_envs: int | None = None
    """Networks trained side by side; by default what the hyperparameters say."""

    def environment(self) -> tuple[Algorithm, str, dict[str, Any], AutoTrainEnv]:
        """The algorithm, and the environment's id and keyword arguments, checked, and one of them.

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
        check_actions(algorithm, probe.action_space, env_id)
        assert isinstance(probe.unwrapped, AutoTrainEnv)
        return algorithm, env_id, kwargs, probe.unwrapped


@dataclass
class Train(Agent):
    """Train an agent in a run folder."""

    seed: int = 0
    """Training seed: of the agent's weights and exploration and of the tasks it meets."""

    train_steps: int | None = None
    """Env steps to train for, over all lanes; by default what the hyperparameters say."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/, such as learning_rate=lin_0.001 (falls to
    0) or extractor=attention (over an observation's states; default flat)."""

    success_score: float = 0.85
    """Final score from which an episode counts as a success: decides when a curriculum's level rises."""

    checkpoint_steps: int = 19_200
    """Env steps between two checkpoints, each with an evaluation."""

    evaluation_episodes: int = 64
    """Episodes of each evaluation while training, on development seeds."""

    start_from: Path | None = None
    """Folder of a policy that training begins with: of a run of es, for ppo, a2c, trpo or maskable_ppo."""

    topology: str | None = None
    """Of es: full (one centre), ring or erdos-renyi (parents on a graph); by default what the
    hyperparameters say."""

    density: float | None = None
    """Of es on an Erdős-Rényi graph: share of pairs of parents that are joined, in (0, 1]."""

    backend: str = "serial"
    """Of es: where members are evaluated: serial, processes or ray; changes no result."""

    workers: int | None = None
    """Of es: processes, or CPUs of a Ray cluster begun here; by default as many as there are CPUs."""

    ray_address: str | None = None
    """Of es: a running Ray cluster, such as auto or HOST:6379; by default one is begun here."""

    output: Path | None = None
    """Run folder; by default runs/agents/ALGORITHM-ID-SEED."""

    resume: bool = False
    """Go on from the newest checkpoint of a run with this very configuration; begin it if there is none."""

    overwrite: bool = False
    """Replace a run that is there."""

    def run(self, console: Console) -> None:
        """Train."""
        config = self.configuration()
        with ExitStack() as stack:
            backend = self.make_backend(console)
            if backend is not None:
                stack.callback(backend.close)
            folder = self._begun_folder(config)
            try:
                with bars(console) as bar, bar(f"training {config.algorithm}") as report:
                    if backend is None:
                        result = train(config, folder, report, resume=self.resume)
                    else:
                        result = evolve(config, folder, report, backend, resume=self.resume)
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

    def _begun_folder(self, config: RunConfig) -> RunFolder:
        """The run's folder, made, or found as a run that can be gone on with.

        Raises:
            FileExistsError: If something is there that is not to be overwritten, or is finished.
            ValueError: If the run there was begun with another configuration.
        """
        folder = RunFolder(self.output or RUNS / f"{config.algorithm}-{config.env_id}-{config.seed}")
        if not (self.resume and folder.exists):
            begins_with = None if self.start_from is None else self.start_from.resolve()
            check(
                begins_with is None or folder.path.resolve() not in (begins_with, *begins_with.parents),
                "output",
                str(folder.path),
                "another folder than that of start_from, which would be replaced",
            )
            folder.begin(config, self.overwrite)
            return folder
        folder.remove_leftovers()
        differences = config.differences(folder.config())
        if differences:
            raise InvalidValueError(
                f"{folder.path} was begun otherwise (now, and then): {'; '.join(differences)}"
            )
        if folder.finished:
            raise FileExistsError(f"{folder.path} holds a finished run: nothing is left to resume")
        return folder

    def _topology(self) -> dict[str, Any]:
        """The hyperparameters that topology and density stand for."""
        check(
            self.density is None or self.topology == "erdos-renyi",
            "density",
            self.density,
            "None but for topology='erdos-renyi'",
        )
        if self.topology is None:
            return {}
        if self.topology not in TOPOLOGIES:
            raise unknown_name("topology", self.topology, TOPOLOGIES)
        if self.topology == "full":
            return {"strategy": "evolution"}
        density = {} if self.density is None else {"density": self.density}
        return {"strategy": "sparse", "topology": self.topology, **density}

    def make_backend(self, console: Console) -> Backend | None:
        """Where members of es are evaluated; `None` for other algorithms.

        Raises:
            ValueError: If an argument is not allowed, or is of es while another algorithm is trained.
        """
        if self.algorithm == EVOLUTION.name:
            return make_backend(self.backend, self.workers, self.ray_address, console.print)
        for name in ("topology", "density", "workers", "ray_address"):
            check(getattr(self, name) is None, name, getattr(self, name), "left out but for es")
        check(self.backend == "serial", "backend", self.backend, "left out but for es")
        return None

    def configuration(self) -> RunConfig:
        """Everything that decides what is computed, checked.

        Raises:
            ValueError: If something is not allowed.
        """
        algorithm, env_id, kwargs, env = self.environment()
        known = load_hyperparameters(algorithm.name, env_id)
        hyperparameters = replaced_hyperparameters(self.hyperparameters, known)
        if self.start_from is not None:
            able = algorithm.name in STARTABLE
            check(able, "start_from", str(self.start_from), f"left out but for {', '.join(STARTABLE)}")
        if algorithm is EVOLUTION:
            given_ones = replaced_hyperparameters(self.hyperparameters, {}) | self._topology()
            hyperparameters = replace_hyperparameters(known, given_ones)
            settings, strategy = read_hyperparameters(hyperparameters)
            check_tasks(env.config)
            spec = settings.describe_policy(env.observation_space, env.action_space)
            begin_search(strategy, spec, env.config, self.seed)  # says so if it cannot
        steps = hyperparameters["n_timesteps"] if self.train_steps is None else self.train_steps
        num_envs = hyperparameters["n_envs"] if self.num_envs is None else self.num_envs
        for name, value in (
            ("train_steps", steps),
            ("checkpoint_steps", self.checkpoint_steps),
            ("evaluation_episodes", self.evaluation_episodes),
        ):
            check_whole(name, value, 1)
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
            success_score=self.success_score if len(env.config.task_distribution.levels) > 1 else None,
            start_from=None if self.start_from is None else str(self.start_from),
        )
        if algorithm is not EVOLUTION:
            with closing(make_sb3_env(config.env_id, config.num_envs, **config.env)) as lanes:
                begin_model(config, lanes)  # says so if it cannot
        return config
