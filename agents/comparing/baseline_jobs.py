"""Baselines as jobs: schedules, tuned in each of the ways, and methods that follow no schedule."""

import json
from typing import Any

import numpy as np

from agents.comparing.jobs import Job, Setting, described, timed, vector_env_of
from agents.comparing.plan import CONFIGURATION, EPISODE, ONE, OTHER, OWN, WAYS, WITH_HOLDOUT
from agents.comparing.populations import Populations, train_populations
from agents.comparing.schedule_search import SEARCHED, search_schedules
from agents.comparing.schedule_tuning import VARIANTS, Environment, Tuned, best_of_rates, tune
from agents.comparing.targets import DEFAULT_RATE
from agents.comparing.torch_optimizers import TORCH_OPTIMIZERS, run_optimizer, tune_optimizer
from agents.runs.progress import Reporter, portion
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import Constant, Schedule, as_schedule

SEARCH_EPISODES = 5
BATCH = 64
"""Networks trained side by side, at most, when tuning for all training tasks."""


class BaselineJob(Job):
    """A baseline on the first run's environment, whose holdout it reads unguarded; the base of them all.

    Args:
        setting: The target, and what is played there.
        name: Name of the baseline.
        kind: Kind of the record.
        more: Arguments of the environment, in place of others.
    """

    def __init__(self, setting: Setting, name: str, kind: str, **more: Any) -> None:
        super().__init__(setting, name.replace("_", " ") if kind == OTHER else name, kind)
        self.name = name
        self.env_id, self.kwargs = setting.baseline_env(**more)

    @property
    def trials(self) -> int:
        """Returns the number of episodes of each trial of tuning."""
        return 0

    @property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, and how many episodes each trial has."""
        return self.setting.setup(self.env_id, self.kwargs, tuning_episodes=self.trials)

    @property
    def work(self) -> float:
        """Returns one unit for each episode that is played."""
        return self.setting.episodes

    def make(self, num_envs: int | None = None) -> Environment:
        """Returns an environment, by default with as many lanes as the target says."""
        return self.setting.make(self.env_id, self.kwargs, num_envs)


class ScheduleJob(BaselineJob):
    """A schedule at the rate of each task; the base of schedules whose rate is chosen.

    Args:
        setting: The target, and what is played there.
        name: Name of the schedule.
        way: Way in which its rate is chosen.
    """

    def __init__(self, setting: Setting, name: str, way: str = OWN) -> None:
        super().__init__(setting, name, way, **({"train_on_holdout": True} if way == WITH_HOLDOUT else {}))
        schedule = as_schedule(name)
        assert isinstance(schedule, Schedule)
        self.schedule = schedule
        for name in ("lr_factors", "annealing"):  # schedules set rates, whatever the agents' buttons
            self.kwargs.pop(name, None)

    @property
    def grid(self) -> np.ndarray:
        """Returns the rates that are tried."""
        return self.setting.target.grid

    def play(self, report: Reporter) -> dict[str, Any]:
        """Play at each task's own rate."""
        env = self.make()
        return described(env, *self.setting.play(env, self.schedule, report))


class BestOfRatesJob(ScheduleJob):
    """A schedule at the best of 8 rates, chosen for every episode anew."""

    @property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, and the rates that are tried."""
        return super().setup | {"tried": {"rates": self.grid.tolist(), "parameters": []}}

    @property
    def work(self) -> float:
        """Returns one unit for each episode at each rate, since all are played."""
        return len(self.grid) * self.setting.episodes

    def play(self, report: Reporter) -> dict[str, Any]:
        """Play at all rates, and keep the best run of each episode."""
        env, setting = self.make(), self.setting
        numbers = setting.episodes, setting.plan.seed
        played = timed(best_of_rates, env, self.schedule, *numbers, report, self.grid)
        return described(env, *played)


class TunedJob(ScheduleJob):
    """A schedule whose rate and own parameters are tuned beforehand, on other episodes of the target."""

    @property
    def trials(self) -> int:
        """Returns the number of episodes of each trial."""
        return self.setting.plan.configuration_episodes

    @property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, and what is tried how often."""
        tried = {"rates": self.grid.tolist(), "parameters": VARIANTS[self.name] if self.trials else []}
        return super().setup | {"tried": tried}

    @property
    def tuning_work(self) -> float:
        """Returns roughly how many episodes tuning takes."""
        return self.trials * (len(VARIANTS[self.name]) * 3 + len(self.grid))

    @property
    def work(self) -> float:
        """Returns the work of tuning, and one unit for each episode that is played."""
        return self.tuning_work + self.setting.episodes

    def tune(self, report: Reporter) -> Tuned:
        """Returns the schedule with the parameters that were best."""
        env = self.make(min(self.trials, self.setting.num_envs))
        return tune(env, self.name, self.trials, report, VARIANTS[self.name], self.grid)

    def play(self, report: Reporter) -> dict[str, Any]:
        """Tune, and play with what was best."""
        env = self.make()
        tuned = self.tune(portion(report, 0, self.tuning_work, self.work))
        part = portion(report, self.tuning_work, self.setting.episodes, self.work)
        played = self.setting.play(env, tuned.schedule, part)
        chosen = {"learning_rate": tuned.learning_rate, **tuned.parameters}
        return described(env, *played, tuned.updates) | {"chosen": chosen}


class TunedForAllJob(TunedJob):
    """A schedule tuned once for all tasks that agents were trained on."""

    @property
    def trials(self) -> int:
        """Returns the number of episodes of each trial."""
        return self.setting.plan.one_episodes

    @property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, what is tried how often, and on what."""
        return super().setup | {"tuned_on": self.setting.training_env()}

    def tune(self, report: Reporter) -> Tuned:
        """Returns the schedule with the parameters that were best; what is known is not tuned again."""
        env = self.setting.training_env()
        known, key = self.setting.tuned, json.dumps([env, self.name, self.trials])
        if key not in known:
            made = self.setting.make(env.pop("id"), env, min(self.trials, BATCH))
            known[key] = tune(made, self.name, self.trials, report, VARIANTS[self.name])
        return known[key]


_KINDS = {
    OWN: ScheduleJob,
    ONE: TunedForAllJob,
    CONFIGURATION: TunedJob,
    EPISODE: BestOfRatesJob,
    WITH_HOLDOUT: TunedJob,
}


def schedule_jobs(setting: Setting, name: str) -> list[Job]:
    """Returns a schedule's jobs, one for each of the plan's ways."""
    ways = [WAYS[way] for way in setting.plan.ways]
    return [_KINDS[way](setting, name, way) for way in ways if way != WITH_HOLDOUT or name in SEARCHED]


class PolicyJob(BaselineJob):
    """A policy that needs nothing: a random one, the task's own rate, or the optimiser's default rate."""

    def play(self, report: Reporter) -> dict[str, Any]:
        """Play the target's episodes."""
        env = self.make()
        policy: Policy = RandomAgent()
        if self.name != "random":
            policy = Constant(DEFAULT_RATE if self.name == "default_rate" else None)
        return described(env, *self.setting.play(env, policy, report))


class OptimizerJob(BaselineJob):
    """An optimiser of torch's interface, at the rate that was best on other episodes of the target."""

    @property
    def trials(self) -> int:
        """Returns the number of episodes of each trial."""
        return self.setting.plan.configuration_episodes

    @property
    def tuning_work(self) -> int:
        """Returns how many episodes are played for tuning."""
        return self.trials * len(TORCH_OPTIMIZERS[self.name].rates)

    @property
    def work(self) -> float:
        """Returns 8 units for each episode, since networks are trained one by one."""
        return 8.0 * (self.setting.episodes + self.tuning_work)

    def play(self, report: Reporter) -> dict[str, Any]:
        """Tune the rate, and play with the best."""
        env, setting = self.make(1), self.setting
        total = self.tuning_work + setting.episodes
        tuning = portion(report, 0, self.tuning_work, total)
        rate, updates = tune_optimizer(env, self.name, self.trials, tuning)
        part = portion(report, self.tuning_work, setting.episodes, total)
        played = timed(run_optimizer, env, self.name, rate, setting.episodes, setting.plan.seed, part)
        return described(env, *played, updates) | {"chosen": {"learning_rate": rate}}


class PopulationJob(BaselineJob):
    """Population-based training of 8 networks for every episode."""

    @property
    def work(self) -> float:
        """Returns one unit for each episode of each member, since all play it."""
        return float(Populations.SIZE * self.setting.episodes)

    def play(self, report: Reporter) -> dict[str, Any]:
        """Train the populations, and keep the best member of each."""
        setting, size = self.setting, Populations.SIZE
        env = self.make(max(size, setting.num_envs // size * size))
        played = timed(train_populations, env, setting.episodes, setting.plan.seed, report)
        return described(env, *played)


class SearchJob(BaselineJob):
    """Random search over schedules, for every one of a few episodes anew."""

    @property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, and the updates that may be spent."""
        return super().setup | {"search_updates": self.setting.search_updates()}

    @property
    def work(self) -> float:
        """Returns as many episodes as the updates would train at the default budget."""
        return self.setting.search_updates() / 600

    def play(self, report: Reporter) -> dict[str, Any]:
        """Search, and keep the best run of each episode."""
        setting = self.setting
        env = self.make()
        parts = vector_env_of(env).config.task_distribution.levels[0].parts
        played = timed(
            search_schedules,
            env,
            min(SEARCH_EPISODES, setting.episodes),
            setting.search_updates(),
            int(max(budget for part in parts for budget in part.possible("budget"))),
            setting.plan.seed,
            report,
        )
        return described(env, *played)


def other_job(setting: Setting, name: str) -> Job:
    """Returns the job of a baseline that follows no schedule."""
    if name in TORCH_OPTIMIZERS:
        return OptimizerJob(setting, name, OTHER)
    if name == "population":
        return PopulationJob(setting, name, EPISODE)
    return SearchJob(setting, name, EPISODE) if name == "search" else PolicyJob(setting, name, OTHER)
