"""`python -m agents train ALGORITHM`: an agent in a run folder."""

import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console

from agents.commands.training_arguments import Trainer, Training
from agents.evolving.evolution import evolve
from agents.evolving.hyperparameters import (
    begin_search,
    check_tasks,
    read_hyperparameters,
    replace_hyperparameters,
)
from agents.evolving.workers import Workers, make_workers
from agents.imitating.hyperparameters import check_imitated, read_imitation_hyperparameters
from agents.imitating.imitation import imitate
from agents.runs.folder import RunConfig
from agents.training.algorithms import ALGORITHMS, EVOLUTION, IMITATION
from agents.training.hyperparameters import replaced_hyperparameters
from agents.training.session import begin_model, make_lanes, train
from autotrain_env import AutoTrainEnv
from autotrain_env.errors import check, unknown_name
from autotrain_env.evolution.sparse import TOPOLOGIES

STARTABLE = ("ppo", "a2c", "trpo", "maskable_ppo")
"""Algorithms that can begin with another policy: actor-critics without a memory."""


@dataclass
class TrainAgent(Training):
    """Train an agent in a run folder."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/, such as learning_rate=lin_0.001 (falls to
    0) or extractor=attention (over an observation's states; default flat)."""

    success_score: float = 0.85
    """Final score from which an episode counts as a success: decides when a curriculum's level rises."""

    @contextmanager
    def trainer(self, console: Console) -> Iterator[Trainer]:
        """Returns a context that gives the training by Stable-Baselines3."""
        yield functools.partial(train, resume=self.resume)

    def replace_hyperparameters(self, known: dict[str, Any]) -> dict[str, Any]:
        """Returns the hyperparameters of the run; the algorithm checks them."""
        return replaced_hyperparameters(self.hyperparameters, known)

    def more(self, env: AutoTrainEnv) -> dict[str, Any]:
        """Returns what counts as a success, where tasks have levels."""
        levels = len(env.config.task_distribution.levels)
        return {"success_score": self.success_score if levels > 1 else None}

    def check(self, config: RunConfig, env: AutoTrainEnv) -> None:
        """Make a model, which says so if it cannot be made."""
        with closing(make_lanes(config)) as lanes:
            begin_model(config, lanes)


@dataclass
class TrainStartableAgent(TrainAgent):
    """Train an agent in a run folder, from scratch or from another policy on."""

    start_from: Path | None = None
    """Folder of a policy that training begins with, such as a run of es."""

    def more(self, env: AutoTrainEnv) -> dict[str, Any]:
        """Returns the policy that training begins with, too."""
        start_from = None if self.start_from is None else str(self.start_from)
        return {**super().more(env), "start_from": start_from}


@dataclass
class TrainByWorkers(Training):
    """Training whose episodes are played by workers."""

    workers: str = "serial"
    """Where episodes are played: serial, processes or ray; changes no result."""

    num_workers: int | None = None
    """Processes, or CPUs of a Ray cluster begun here; by default as many as there are CPUs."""

    ray_address: str | None = None
    """Address of a running Ray cluster, such as auto or HOST:6379; by default one is begun here."""

    @contextmanager
    def made_workers(self, console: Console) -> Iterator[Workers]:
        """Returns a context that gives the workers, which end with it."""
        with closing(make_workers(self.workers, self.num_workers, self.ray_address, console.print)) as made:
            yield made


@dataclass
class TrainEvolution(TrainByWorkers):
    """Evolve a policy in a run folder, by an evolution strategy."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/es.yml, such as policy=gru or
    optimizer=clipup; of a strategy=cma_es, those that it has."""

    topology: str | None = None
    """One of full (one centre), ring and erdos-renyi (parents on a graph); by default what the
    hyperparameters say."""

    density: float | None = None
    """Share of pairs of parents that are joined on an Erdős-Rényi graph, in (0, 1]."""

    @contextmanager
    def trainer(self, console: Console) -> Iterator[Trainer]:
        """Returns a context that gives evolution by workers, which end with it."""
        with self.made_workers(console) as made:
            yield functools.partial(evolve, workers=made, resume=self.resume)

    def replace_hyperparameters(self, known: dict[str, Any]) -> dict[str, Any]:
        """Returns the hyperparameters of the run, those of the chosen strategy alone."""
        given = replaced_hyperparameters(self.hyperparameters, {}) | self._topology()
        return replace_hyperparameters(known, given)

    def check(self, config: RunConfig, env: AutoTrainEnv) -> None:
        """Begin a search, which says so if it cannot be begun."""
        settings, strategy = read_hyperparameters(config.hyperparameters)
        check_tasks(env.config)
        spec = settings.describe_policy(env.observation_space, env.action_space)
        begin_search(strategy, spec, env.config, self.seed)

    def _topology(self) -> dict[str, Any]:
        """Returns the hyperparameters that topology and density stand for."""
        fits = self.density is None or self.topology == "erdos-renyi"
        check(fits, "density", self.density, "None but for topology='erdos-renyi'")
        if self.topology is None:
            return {}
        if self.topology not in TOPOLOGIES:
            raise unknown_name("topology", self.topology, TOPOLOGIES)
        if self.topology == "full":
            return {"strategy": "evolution"}
        density = {} if self.density is None else {"density": self.density}
        return {"strategy": "sparse", "topology": self.topology, **density}


@dataclass
class TrainImitation(TrainByWorkers):
    """Train a policy to do what would have been best in hindsight (DAgger); every round is evaluated."""

    hyperparameters: tuple[str, ...] = ()
    """Hyperparameters in place of those in agents/hyperparams/dagger.yml, such as tasks_per_round=48."""

    @contextmanager
    def trainer(self, console: Console) -> Iterator[Trainer]:
        """Returns a context that gives imitation by workers, which end with it."""
        with self.made_workers(console) as made:
            yield functools.partial(imitate, workers=made, resume=self.resume)

    def replace_hyperparameters(self, known: dict[str, Any]) -> dict[str, Any]:
        """Returns the hyperparameters of the run."""
        return replaced_hyperparameters(self.hyperparameters, known)

    def check(self, config: RunConfig, env: AutoTrainEnv) -> None:
        """Read the hyperparameters, and see whether hindsight can tell what would have been best."""
        read_imitation_hyperparameters(config.hyperparameters)
        check_imitated(env.config)


def _kind_of(name: str) -> type[Training]:
    if name == EVOLUTION.name:
        return TrainEvolution
    if name == IMITATION.name:
        return TrainImitation
    return TrainStartableAgent if name in STARTABLE else TrainAgent


_KINDS = [
    Annotated[kind, tyro.conf.subcommand(name, default=kind(algorithm=name))]
    for name in (*ALGORITHMS, EVOLUTION.name, IMITATION.name)
    for kind in (_kind_of(name),)
]
Train: Any = Union[tuple(_KINDS)]  # noqa: UP007
"""Any algorithm, each with its own arguments, named by the word after `train`."""
