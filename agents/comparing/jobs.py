"""Jobs: what every method on one target has in common, from its setup to its record."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.comparing.plan import OWN_TASKS, Plan
from agents.comparing.records import Record, describe
from agents.comparing.schedule_tuning import Environment, Results, Tuned
from agents.comparing.targets import Target
from agents.runs.folder import RunFolder, as_plain, portable
from agents.runs.progress import Reporter
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.protocol import Policy
from autotrain_env.process.config import TASK_FIELDS


@dataclass(frozen=True)
class Setting:
    """One target of a plan: the episodes that all methods play, and the environments they play them in.

    Args:
        plan: What is compared.
        target: Target on which it is compared.
        first: The run whose environment is that of all baselines; `None` for the default one.
        tuned: Schedules tuned for all training tasks so far, by what they were tuned on; is added to.
    """

    plan: Plan
    target: Target
    first: RunFolder | None
    tuned: dict[str, Tuned]

    @property
    def episodes(self) -> int:
        """Returns how many episodes each method plays."""
        return self.plan.episodes or self.target.episodes

    @property
    def num_envs(self) -> int:
        """Returns how many networks are trained side by side."""
        return self.plan.num_envs or self.target.num_envs

    def kwargs(self, env: dict[str, Any]) -> dict[str, Any]:
        """Returns arguments of the environment: a run's, then the target's tasks, then the plan's."""
        tasks = ("tasks", *TASK_FIELDS) if self.target is not OWN_TASKS else ()
        kept = {name: value for name, value in portable(env).items() if name not in tasks}
        return {**kept, **self.target.env, **self.plan.env}

    def baseline_env(self, **more: Any) -> tuple[str, dict[str, Any]]:
        """Returns id and arguments for baselines: the first run's, but the holdout is read unguarded.

        Nor is the state before a divergence kept, so that their records serve agents of either kind.
        """
        env_id, env = self._env_of_first()
        kwargs = self.kwargs(env)
        kwargs.pop("keep_before_divergence", None)
        return env_id, {**kwargs, "thresholdout": False, **self.target.baseline_env, **more}

    def training_env(self) -> dict[str, Any]:
        """Returns id and arguments of the environment that agents were trained in."""
        env_id, env = self._env_of_first()
        own = self.plan.env if self.target is OWN_TASKS else {}
        return as_plain({"id": env_id, **portable(env), **own, "thresholdout": False})

    def _env_of_first(self) -> tuple[str, dict[str, Any]]:
        if self.first is None:
            return "AutoTrain-v0", {}
        config = self.first.config()
        return config.env_id, config.env

    def make(self, env_id: str, kwargs: dict[str, Any], num_envs: int | None = None) -> Environment:
        """Returns an environment for evaluations."""
        return make_evaluation_env(env_id, num_envs or self.num_envs, **kwargs)

    def setup(self, env_id: str, kwargs: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Returns what decides a method's results."""
        played = {"episodes": self.episodes, "episode_seed": self.plan.seed}
        return {"id": env_id, "env": kwargs, **played, **more}

    def play(self, env: Environment, policy: Policy, report: Reporter) -> tuple[Results, float]:
        """Returns the results of a policy on the target's episodes, and the seconds that each took."""
        return timed(
            evaluate_policy, env, policy, self.episodes, self.plan.seed, history=True, progress=report
        )

    def search_updates(self) -> int:
        """Returns the updates that a random search may spend."""
        if self.plan.search_updates is not None:
            return self.plan.search_updates
        check(self.first is not None, "search_updates", None, "given where there is no run")
        assert self.first is not None
        return self.first.cost()[0]


class Job(ABC):
    """One method with one training seed on one target: a record to be made.

    Args:
        setting: The target, and what is played there.
        method: The method's name.
        kind: Kind of the record.
        seed: Training seed; `None` for what is not trained.
    """

    def __init__(self, setting: Setting, method: str, kind: str, seed: int | None = None) -> None:
        self.setting = setting
        self.method, self.kind, self.seed = method, kind, seed

    @property
    @abstractmethod
    def setup(self) -> dict[str, Any]:
        """Returns what decides the results."""

    @property
    @abstractmethod
    def work(self) -> float:
        """Returns roughly how many episodes playing takes."""

    @abstractmethod
    def play(self, report: Reporter) -> dict[str, Any]:
        """Play, and return the record's other parts.

        Args:
            report: Told how far it is.
        """

    def check(self) -> None:  # noqa: B027 - most can always be played
        """Raise an error if this cannot be played."""

    @property
    def target(self) -> Target:
        """Returns the target that is played."""
        return self.setting.target

    @property
    def record(self) -> Record:
        """Returns the record, without results."""
        empty: dict[str, np.ndarray] = {}
        setup = as_plain(self.setup)
        return Record(self.method, self.kind, self.seed, self.target.name, setup, 0.0, empty)


def described(env: Environment, results: Results, seconds: float, updates: int = 0) -> dict[str, Any]:
    """Returns the parts of a record without examples.

    Args:
        env: Environment that was played in.
        results: Results with histories.
        seconds: Seconds of one episode.
        updates: Updates that choosing took.
    """
    cost = {"updates_to_choose": updates, "seconds": seconds}
    return {**facts(env), "cost": cost, **describe(results, examples=False)}


def facts(env: Environment) -> dict[str, Any]:
    """Returns what a record says of the environment that was played in."""
    return {"chance": chance(env), "backends": list(vector_env_of(env).backends)}


def timed(play: Callable[..., Results], *arguments: Any, **named: Any) -> tuple[Results, float]:
    """Returns the results of a function, and the seconds that each episode took."""
    start = time.monotonic()
    results = play(*arguments, **named)
    return results, (time.monotonic() - start) / len(results["score"])


def chance(env: Environment) -> float:
    """Returns the accuracy of guessing."""
    return float(np.mean(1 / vector_env_of(env).core.lineage.num_classes))


def vector_env_of(env: Environment) -> AutoTrainVectorEnv:
    """Returns the vector environment, whatever is wrapped around it."""
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    return vector_env
