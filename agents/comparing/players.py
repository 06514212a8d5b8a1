"""Playing: every agent, baseline and control on one target, each a job that makes a record."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.comparing.controls import DRAWN, Recorder, changed_env, control_names, make_control
from agents.comparing.populations import Populations, train_populations
from agents.comparing.records import Record, describe, training_scores
from agents.comparing.schedule_search import SEARCHED, search_schedules
from agents.comparing.schedule_tuning import (
    GRID,
    VARIANTS,
    Environment,
    Results,
    Tuned,
    best_of_rates,
    tune,
)
from agents.comparing.targets import DEVELOPMENT, SEEN, Target
from agents.comparing.torch_optimizers import OPTIMIZERS, run_optimizer, tune_optimizer
from agents.runs.folder import RunFolder, as_plain
from agents.runs.progress import Report, portion
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check, unknown_name
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import Schedule, as_schedule
from autotrain_env.policies.trained import load_policy
from autotrain_env.process.config import TASK_FIELDS
from autotrain_env.process.log import read_rows

AGENT, CONTROL, OTHER = "agent", "control", "no schedule"
OWN, ONE, CONFIGURATION, EPISODE, WITH_HOLDOUT = (
    "each task's own rate",
    "one for all training tasks",
    "tuned for this configuration",
    "best of 8 of each episode",
    "tuned, trained on train + holdout",
)
WAYS = {
    "own": OWN,
    "one": ONE,
    "configuration": CONFIGURATION,
    "episode": EPISODE,
    "holdout": WITH_HOLDOUT,
}
OTHERS = ("do_nothing", "random", *OPTIMIZERS, "population", "search")
BASELINES = (*VARIANTS, *OTHERS)
SEARCH_EPISODES = 5
OWN_TASKS = Target("own", DEVELOPMENT, SEEN)
"""The tasks that the first run was trained on."""


@dataclass(frozen=True)
class Plan:
    """What is to be compared.

    Args:
        targets: On which targets.
        baselines: Names; see `BASELINES`.
        ways: In which ways schedules are tuned; see `WAYS`.
        seed: Of the first episode.
        env: Arguments of the environment, in place of what runs and targets say.
        episodes: Of every method; `None` for as many as the target says.
        configuration_episodes: Episodes of each trial when tuning for a configuration.
        one_episodes: Episodes of each trial when tuning for all training tasks.
        num_envs: Networks trained side by side; `None` for as many as the target says.
        controls: Whether every run is evaluated under all controls, too.
        search_updates: Updates of the random search; `None` for what training the first policy took.
    """

    targets: tuple[Target, ...]
    baselines: tuple[str, ...]
    ways: tuple[str, ...]
    seed: int
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    episodes: int | None = None
    configuration_episodes: int = 20
    one_episodes: int = 64
    num_envs: int | None = None
    controls: bool = False
    search_updates: int | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        for argument in ("baselines", "ways"):
            names = getattr(self, argument)
            check(len(set(names)) == len(names), argument, names, "names that differ")
        check(len(self.ways) > 0, "ways", self.ways, f"one or more of {', '.join(WAYS)}")
        for name in self.baselines:
            if name not in BASELINES:
                raise unknown_name("baseline", name, BASELINES)
        for name in self.ways:
            if name not in WAYS:
                raise unknown_name("way", name, WAYS)


@dataclass(frozen=True)
class Job:
    """A record to be made.

    Args:
        method: As in a record, as are the next four.
        kind: What it is.
        seed: Training seed.
        target: The target.
        setup: What decides its results.
        play: Makes the record's other parts; told to whom to report.
        work: Roughly how many episodes that takes.
        check: Raises an error if it cannot be played.
    """

    method: str
    kind: str
    seed: int | None
    target: Target
    setup: dict[str, Any]
    play: Callable[[Report], dict[str, Any]]
    work: float
    check: Callable[[], None] = lambda: None

    @property
    def record(self) -> Record:
        """The record, without results."""
        empty: dict[str, np.ndarray] = {}
        setup = as_plain(self.setup)
        return Record(self.method, self.kind, self.seed, self.target.name, setup, 0.0, empty)


class Player:
    """Plays all methods on one target.

    Args:
        groups: Runs by method.
        plan: What to compare.
        target: On what.
        tuned: Schedules tuned for all training tasks so far, by what they were tuned on; is added to.
    """

    def __init__(
        self, groups: dict[str, list[RunFolder]], plan: Plan, target: Target, tuned: dict[str, Tuned]
    ) -> None:
        self.groups, self.plan, self.target, self.tuned = groups, plan, target, tuned
        self.episodes = plan.episodes or target.episodes
        self.first = next(iter(groups.values()))[0] if groups else None

    def kwargs(self, env: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the environment: the run's, the target's tasks, the plan's."""
        tasks = ("tasks", *TASK_FIELDS) if self.target is not OWN_TASKS else ()
        kept = {name: value for name, value in env.items() if name not in tasks}
        return {**kept, **self.target.env, **self.plan.env}

    def make(self, env_id: str, kwargs: dict[str, Any], num_envs: int | None = None) -> Environment:
        """An environment for evaluations."""
        count = num_envs or self.plan.num_envs or self.target.num_envs
        return make_evaluation_env(env_id, count, **kwargs)

    def jobs(self) -> Iterator[Job]:
        """Everything that is to be on record."""
        for name, runs in self.groups.items():
            for run in runs:
                yield self._agent(name, run)
        if self.plan.controls:
            for name, runs in self.groups.items():
                for run in runs:
                    yield from self._controls(name, run)
        for name in self.plan.baselines:
            if name in VARIANTS:
                yield from self._schedule(name)
            else:
                yield self._other(name)

    # --- agents ---

    def _agent(self, name: str, run: RunFolder) -> Job:
        config = run.config()
        kwargs = self.kwargs(config.env)
        setup = self._setup(config.env_id, kwargs, policy=run.policy_hash())

        @functools.cache
        def of_training() -> dict[str, Any]:
            kept = ("train_steps", "score", "return", "rewinds", "reinits", "steps", "learning_rate")
            curve = read_rows(run.evaluations, kept, whole=True)
            return {
                "learning_curve": [{key: point[key] for key in kept} for point in curve],
                "training": training_scores(run),
            }

        def check_playable() -> None:
            of_training()
            env = self.make(config.env_id, kwargs).unwrapped
            assert isinstance(env, AutoTrainVectorEnv)
            load_policy(run.path).check_fits(env.single_observation_space, env.core.action_type)

        def play(report: Report) -> dict[str, Any]:
            env = self.make(config.env_id, kwargs)
            results, seconds = self._play(env, load_policy(run.path), report)
            updates, minutes = run.cost()
            cost = {"seconds": seconds, "train_updates": updates, "train_minutes": minutes}
            described = describe(results, examples=True)
            return {"chance": _chance(env), "cost": cost, **of_training(), **described}

        work = self.episodes
        return Job(name, AGENT, config.seed, self.target, setup, play, work, check_playable)

    def _controls(self, name: str, run: RunFolder) -> Iterator[Job]:
        config = run.config()
        weights = run.policy_hash()

        @functools.cache
        def recorder() -> Recorder:
            recorded = Recorder(load_policy(run.path), self.episodes)
            env = self.make(config.env_id, self.kwargs(config.env))
            evaluate_policy(env, recorded, self.episodes, self.plan.seed)
            return recorded

        for control in control_names():
            kwargs = {**self.kwargs(config.env), **changed_env(control)}
            setup = self._setup(config.env_id, kwargs, policy=weights, control=control)

            def play(report: Report, control: str = control, kwargs: Any = kwargs) -> dict[str, Any]:
                env = self.make(config.env_id, kwargs)
                loaded = load_policy(run.path, deterministic=control != DRAWN)
                policy = make_control(control, loaded, recorder)
                return self._described(env, *self._play(env, policy, report))

            yield Job(control, f"{CONTROL}: {name}", config.seed, self.target, setup, play, self.episodes)

    def _setup(self, env_id: str, kwargs: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "id": env_id,
            "env": kwargs,
            "episodes": self.episodes,
            "episode_seed": self.plan.seed,
            **more,
        }

    # --- schedules ---

    def _baseline_env(self, **more: Any) -> tuple[str, dict[str, Any]]:
        """Id and arguments for baselines: the first run's, but the holdout is read unguarded."""
        env_id, env = ("AutoTrain-v0", {})
        if self.first is not None:
            env_id, env = self.first.config().env_id, self.first.config().env
        return env_id, {**self.kwargs(env), "thresholdout": False, **more}

    def _schedule(self, name: str) -> Iterator[Job]:
        for way in self.plan.ways:
            if way == "holdout" and name not in SEARCHED:
                continue
            yield self._tuned(name, WAYS[way])

    def _tuned(self, name: str, way: str) -> Job:
        plan = self.plan
        schedule = as_schedule(name)
        assert isinstance(schedule, Schedule)
        env_id, kwargs = self._baseline_env(**({"train_on_holdout": True} if way == WITH_HOLDOUT else {}))
        kwargs.pop("lr_factors", None)  # schedules set rates, whatever the agents' buttons
        trial_episodes = {
            CONFIGURATION: plan.configuration_episodes,
            WITH_HOLDOUT: plan.configuration_episodes,
        }
        trials = trial_episodes.get(way, plan.one_episodes if way == ONE else 0)
        setup = self._setup(env_id, kwargs, tuning_episodes=trials)
        if way != OWN:
            setup["tried"] = {"rates": GRID.tolist(), "parameters": VARIANTS[name] if trials else []}
        if way == ONE:
            setup["tuned_on"] = self._training_env()
        tuning_work = trials * (len(VARIANTS[name]) * 3 + 8)
        work = tuning_work + self.episodes * (8 if way == EPISODE else 1)

        def play(report: Report) -> dict[str, Any]:
            env = self.make(env_id, kwargs)
            part = portion(report, tuning_work, work - tuning_work, work)
            if way == EPISODE:
                return self._described(
                    env, *_timed(best_of_rates, env, schedule, self.episodes, plan.seed, part)
                )
            if way == OWN:
                return self._described(env, *self._play(env, schedule, part))
            tuning_report = portion(report, 0, tuning_work, work)
            if way == ONE:
                tuned = self._tuned_for_all(name, trials, tuning_report)
            else:
                few = self.make(env_id, kwargs, min(trials, plan.num_envs or self.target.num_envs))
                tuned = tune(few, name, trials, tuning_report, VARIANTS[name])
            chosen = {"learning_rate": tuned.learning_rate, **tuned.parameters}
            played = self._play(env, tuned.schedule, part)
            return self._described(env, *played, tuned.updates) | {"chosen": chosen}

        return Job(name, way, None, self.target, setup, play, work)

    def _training_env(self) -> dict[str, Any]:
        """Id and arguments of the environment that agents were trained in."""
        config = None if self.first is None else self.first.config()
        env_id, env = ("AutoTrain-v0", {}) if config is None else (config.env_id, config.env)
        own = self.plan.env if self.target is OWN_TASKS else {}
        return as_plain({"id": env_id, **env, **own, "thresholdout": False})

    def _tuned_for_all(self, name: str, episodes: int, report: Report) -> Tuned:
        env = self._training_env()
        key = json.dumps([env, name, episodes])
        if key not in self.tuned:
            made = self.make(env.pop("id"), env, min(episodes, 64))
            self.tuned[key] = tune(made, name, episodes, report, VARIANTS[name])
        return self.tuned[key]

    def _play(self, env: Environment, policy: Policy, report: Report) -> tuple[Results, float]:
        return _timed(
            evaluate_policy, env, policy, self.episodes, self.plan.seed, history=True, progress=report
        )

    def _described(
        self, env: Environment, results: Results, seconds: float, updates: int = 0
    ) -> dict[str, Any]:
        return {
            "chance": _chance(env),
            "cost": {"updates_to_choose": updates, "seconds": seconds},
            **describe(results, examples=False),
        }

    # --- the others ---

    def _other(self, name: str) -> Job:
        plan, episodes = self.plan, self.episodes
        env_id, kwargs = self._baseline_env()
        trials = plan.configuration_episodes if name in OPTIMIZERS else 0
        setup = self._setup(env_id, kwargs, tuning_episodes=trials)
        method = name.replace("_", " ")
        kind, work = OTHER, float(episodes)
        if name == "search":
            setup["search_updates"] = self._search_updates()
            kind, work = EPISODE, self._search_updates() / 600
        elif name == "population":
            kind, work = EPISODE, 8.0 * episodes
        elif name in OPTIMIZERS:
            work = 8.0 * (episodes + trials * len(OPTIMIZERS[name].rates))

        def play(report: Report) -> dict[str, Any]:
            if name in OPTIMIZERS:
                env = self.make(env_id, kwargs, 1)
                few = trials * len(OPTIMIZERS[name].rates)
                tuning = portion(report, 0, few, few + episodes)
                rate, updates = tune_optimizer(env, name, trials, tuning)
                part = portion(report, few, episodes, few + episodes)
                played = _timed(run_optimizer, env, name, rate, episodes, plan.seed, part)
                return self._described(env, *played, updates) | {"chosen": {"learning_rate": rate}}
            if name == "population":
                count = plan.num_envs or self.target.num_envs
                size = Populations.SIZE
                env = self.make(env_id, kwargs, max(size, count // size * size))
                return self._described(env, *_timed(train_populations, env, episodes, plan.seed, report))
            env = self.make(env_id, kwargs)
            if name == "search":
                tried = min(SEARCH_EPISODES, episodes)
                updates, budget = self._search_updates(), _budget(env)
                found = _timed(search_schedules, env, tried, updates, budget, plan.seed, report)
                return self._described(env, *found)
            policy = RandomAgent() if name == "random" else as_schedule("constant")
            return self._described(env, *self._play(env, policy, report))

        return Job(method, kind, None, self.target, setup, play, work)

    def _search_updates(self) -> int:
        if self.plan.search_updates is not None:
            return self.plan.search_updates
        check(self.first is not None, "search_updates", None, "given where there is no run")
        assert self.first is not None
        return self.first.cost()[0]


def _timed(play: Callable[..., Results], *arguments: Any, **named: Any) -> tuple[Results, float]:
    """Results, and the seconds that each episode took."""
    start = time.monotonic()
    results = play(*arguments, **named)
    return results, (time.monotonic() - start) / len(results["score"])


def _core_of(env: Environment) -> Any:
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    return vector_env.core


def _chance(env: Environment) -> float:
    return float(np.mean(1 / _core_of(env).lineage.num_classes))


def _budget(env: Environment) -> int:
    return int(max(_core_of(env).config.task_distribution.levels[0].possible("budget")))
