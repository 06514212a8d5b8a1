"""Random search over schedules."""

import numpy as np

from agents.comparing.schedule_tuning import GRID, VARIANTS, Environment, Results, best_run
from agents.runs.progress import Reporter
from agents.runs.seeds import TUNING_SEED
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.protocol import EpisodeCounter
from autotrain_env.policies.schedules import SCHEDULES, BudgetSchedule, Schedule
from autotrain_env.process.situation import Situation


class RateTable(Schedule):
    """Rates of every env step of every episode, as they stand in a table.

    Args:
        rates: Float64, shape (episodes, env steps).
    """

    def __init__(self, rates: np.ndarray) -> None:
        self.rates = rates
        self.counter = EpisodeCounter()

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Go on to the next episode in the given lanes."""
        self.counter.reset(situation, lanes)

    def learning_rates(self, situation: Situation) -> np.ndarray:
        """Returns the table's rates for the coming env step."""
        episode = np.minimum(self.counter.episode, len(self.rates) - 1)
        return self.rates[episode, np.minimum(situation.steps, self.rates.shape[1] - 1)]

    def with_learning_rate(self, learning_rate: float | None) -> "RateTable":
        """Raise a `NotImplementedError`: a table's rates are as they are."""
        raise NotImplementedError("a table's rates are as they are")


SEARCHED = ("constant", "step", "exponential", "cosine", "one_cycle", "warmup_cosine")


def random_schedule(generator: np.random.Generator, num_steps: int) -> np.ndarray:
    """Returns rates of a schedule of random kind, parameters and peak rate, float64, shape (num_steps,)."""
    name = SEARCHED[generator.integers(len(SEARCHED))]
    own = VARIANTS[name][generator.integers(len(VARIANTS[name]))] if VARIANTS[name] else {}
    schedule = SCHEDULES[name](**own)  # type: ignore[arg-type]
    assert isinstance(schedule, BudgetSchedule)
    peak = np.exp(generator.uniform(np.log(GRID[0]), np.log(GRID[-1])))
    return peak * schedule.factors(np.arange(num_steps), np.full(num_steps, num_steps))


def search_schedules(
    env: Environment, episodes: int, updates: int, budget: int, seed: int, report: Reporter
) -> Results:
    """Search schedules at random, for each episode anew, and keep the run that is best on validation.

    Args:
        env: Vector environment in autoreset mode `DISABLED`.
        episodes: Number of episodes.
        updates: Updates to spend on all episodes together.
        budget: Updates of a run.
        seed: Seed of the first episode.
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
    return best_run({name: values.reshape(episodes, trials) for name, values in results.items()})
