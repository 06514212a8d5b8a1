"""What agents are compared with: schedules tuned in three ways, populations, random search.

Everything here is chosen by the validation score at the end of a run. Every result says how many updates it
cost to find (`updates_to_choose`), and to make (`updates`, for each episode, of all runs that it was chosen
from).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from agents.progress import Report, portion
from agents.seeds import TUNING_SEED
from autotrain_env.actions import Decisions
from autotrain_env.errors import check
from autotrain_env.evaluation import EpisodeCounter, evaluate_policy
from autotrain_env.schedules import SCHEDULES, BudgetSchedule, Schedule, as_schedule
from autotrain_env.vector_env import AutoTrainVectorEnv

GRID = np.geomspace(1e-3, 10, 8)
"""Learning rates, over the range that tasks of the default preset start from."""


def _combinations(**values: Sequence[float]) -> tuple[dict[str, float], ...]:
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values()))


VARIANTS: dict[str, tuple[dict[str, float], ...]] = {
    "constant": (),
    "step": _combinations(factor=(0.1, 0.3), every=(0.2, 1 / 3, 0.5)),
    "exponential": _combinations(final_factor=(0.1, 0.01, 0.001)),
    "cosine": _combinations(final_factor=(0.0, 0.01, 0.1)),
    "one_cycle": _combinations(rise=(0.1, 0.3, 0.5)),
    "warmup_cosine": _combinations(warmup=(0.05, 0.1, 0.2)),
    "reduce_on_plateau": _combinations(factor=(0.1, 0.3), patience=(1, 3, 5)),
    "early_stopping": _combinations(patience=(3, 5, 10)),
}
"""A schedule's own parameters that are tried beside its default ones."""

Results = dict[str, np.ndarray]
Environment = gymnasium.vector.VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class Tuned:
    """A schedule with the parameters that were best.

    Args:
        schedule: With these parameters.
        learning_rate: Its peak rate.
        parameters: Its own parameters, where others than the default ones were tried.
        updates: Updates that all trials took.
    """

    schedule: Schedule
    learning_rate: float
    parameters: Mapping[str, float]
    updates: int


def tune(
    env: Environment,
    name: str,
    episodes: int,
    report: Report,
    variants: Sequence[Mapping[str, float]] = (),
) -> Tuned:
    """Tune a schedule on seeds of its own: the rate, then the own parameters at it and the two beside it.

    Args:
        env: In autoreset mode `DISABLED`.
        name: Of the schedule.
        episodes: Episodes of each trial, on tuning seeds.
        report: Told how far it is.
        variants: Own parameters to try; none for the default ones alone.
    """
    plain = as_schedule(name)
    check(isinstance(plain, Schedule), "schedule", name, "one that has a learning rate")
    assert isinstance(plain, Schedule)
    total = len(GRID) + 3 * len(variants)
    trials: dict[tuple[int, int], float] = {}
    updates = 0

    def candidate(rate: int, variant: int) -> Schedule:
        own = variants[variant] if variant >= 0 else {}
        return dataclasses.replace(plain, **own).with_learning_rate(float(GRID[rate]))  # type: ignore[type-var]

    def attempt(rate: int, variant: int) -> None:
        nonlocal updates
        part = portion(report, len(trials), 1, total)
        results = evaluate_policy(env, candidate(rate, variant), episodes, TUNING_SEED, progress=part)
        trials[rate, variant] = float(results["score"].mean())
        updates += int(results["updates"].sum())

    for rate in range(len(GRID)):
        attempt(rate, -1)
    best_rate = max(trials, key=lambda key: trials[key])[0]
    for rate in range(max(best_rate - 1, 0), min(best_rate + 2, len(GRID))):
        for variant in range(len(variants)):
            attempt(rate, variant)
    rate, variant = max(trials, key=lambda key: trials[key])
    own = variants[variant] if variant >= 0 else {}
    return Tuned(candidate(rate, variant), float(GRID[rate]), own, updates)


def best_of_rates(
    env: Environment, schedule: Schedule, episodes: int, seed: int, report: Report
) -> Results:
    """Run each very episode at the 8 rates of the grid, and keep the run that is best on validation.

    Args:
        env: In autoreset mode `DISABLED`.
        schedule: To follow.
        episodes: How many.
        seed: Of the first.
        report: Told how far it is.
    """
    runs = []
    for i, rate in enumerate(GRID):
        part = portion(report, i, 1, len(GRID))
        tried = schedule.with_learning_rate(float(rate))
        runs.append(evaluate_policy(env, tried, episodes, seed, history=True, progress=part))
    return _best({name: np.stack([run[name] for run in runs], axis=1) for name in runs[0]})


def _best(results: Results) -> Results:
    """Of results of shape (episodes, runs), the run with the best validation score; updates of all runs."""
    chosen = results["score"].argmax(axis=1)
    best = {name: values[np.arange(len(values)), chosen] for name, values in results.items()}
    return best | {"updates": results["updates"].sum(axis=1)}


@dataclass(frozen=True)
class Populations:
    """Population-based training of the learning rate (Jaderberg et al., arXiv:1711.09846) as a policy.

    Lanes 8 j … 8 j + 7 are a population, which begins at the 8 rates of the grid. After every interval,
    each member among the worst quarter by validation score becomes a copy of one among the best quarter,
    weights, optimiser state and all, and multiplies its rate by 0.8 or 1.25.

    Args:
        interval: Env steps between two exchanges.
        seed: Of the choices.
    """

    interval: int = 3
    seed: int = 0

    SIZE = len(GRID)

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Nothing is kept of lanes: their rates are those of the environment."""
        check(env.num_envs % self.SIZE == 0, "num_envs", env.num_envs, f"a multiple of {self.SIZE}")

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """Exchange members where it is time, and go on."""
        core = env.core
        state = core.lanes
        rates = np.where(state.steps == 0, np.resize(GRID, env.num_envs), state.learning_rate)
        for first in range(0, env.num_envs, self.SIZE):
            members = np.arange(first, first + self.SIZE)
            step = int(state.steps[first])
            if state.running[members].all() and step > 0 and step % self.interval == 0:
                self._exchange(env, members, rates)
        return Decisions.train(np.clip(rates, *env.config.lr_bounds))

    def _exchange(self, env: AutoTrainVectorEnv, members: np.ndarray, rates: np.ndarray) -> None:
        state = env.core.lanes
        order = members[np.argsort(state.score[members], kind="stable")]
        quarter = self.SIZE // 4
        first = env.core.episodes[int(members[0])]
        assert first is not None
        generator = np.random.default_rng([self.seed, first.seed, int(state.steps[members[0]])])
        for worse in order[:quarter].tolist():
            better = int(generator.choice(order[-quarter:]))
            env.core.copy_lane(better, worse)
            rates[worse] = rates[better] * generator.choice((0.8, 1.25))


def train_populations(env: Environment, episodes: int, seed: int, report: Report) -> Results:
    """Train a population of 8 on each episode, and keep the member that is best on validation.

    Args:
        env: In autoreset mode `DISABLED`; its number of lanes is a multiple of 8.
        episodes: How many.
        seed: Of the first.
        report: Told how far it is.
    """
    policy = Populations()
    seeds = np.repeat(seed + np.arange(episodes), policy.SIZE).tolist()
    results = evaluate_policy(env, policy, len(seeds), seeds, history=True, progress=report)
    return _best({name: values.reshape(episodes, policy.SIZE) for name, values in results.items()})


class RateTable(Schedule):
    """Rates of every env step of every episode, as they stand in a table.

    Args:
        rates: Float64, shape (episodes, env steps).
    """

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates
        self.counter = EpisodeCounter()

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes."""
        self.counter.reset(env, lanes)

    def learning_rates(self, env: AutoTrainVectorEnv) -> np.ndarray:
        """The table's."""
        episode = np.minimum(self.counter.episode, len(self.rates) - 1)
        return self.rates[episode, np.minimum(env.core.lanes.steps, self.rates.shape[1] - 1)]

    def with_learning_rate(self, learning_rate: float | None) -> "RateTable":
        """Not possible."""
        raise NotImplementedError("a table's rates are as they are")


SEARCHED = ("constant", "step", "exponential", "cosine", "one_cycle", "warmup_cosine")


def random_schedule(generator: np.random.Generator, num_steps: int) -> np.ndarray:
    """Rates of a schedule of random kind, parameters and peak rate, float64, shape (num_steps,)."""
    name = SEARCHED[generator.integers(len(SEARCHED))]
    own = VARIANTS[name][generator.integers(len(VARIANTS[name]))] if VARIANTS[name] else {}
    schedule = SCHEDULES[name](**own)  # type: ignore[arg-type]
    assert isinstance(schedule, BudgetSchedule)
    peak = np.exp(generator.uniform(np.log(GRID[0]), np.log(GRID[-1])))
    return peak * schedule.factors(np.arange(num_steps), np.full(num_steps, num_steps))


def search_schedules(
    env: Environment, episodes: int, updates: int, budget: int, seed: int, report: Report
) -> Results:
    """Random search over schedules, for each episode anew: the run that is best on validation.

    Args:
        env: In autoreset mode `DISABLED`.
        episodes: How many.
        updates: Updates to spend on all episodes together.
        budget: Updates of a run.
        seed: Of the first.
        report: Told how far it is.
    """
    trials = max(1, updates // (episodes * budget))
    generator = np.random.default_rng([TUNING_SEED, seed])
    inner_steps = env.unwrapped.config.inner_steps  # type: ignore[attr-defined]
    rates = [random_schedule(generator, budget // inner_steps) for _ in range(episodes * trials)]
    seeds = np.repeat(seed + np.arange(episodes), trials).tolist()
    results = evaluate_policy(
        env, RateTable(np.stack(rates)), len(seeds), seeds, history=True, progress=report
    )
    return _best({name: values.reshape(episodes, trials) for name, values in results.items()})
