"""Population-based training of the learning rate."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from agents.comparing.schedule_tuning import GRID, Environment, Results, best_run
from agents.runs.progress import Reporter
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation


@dataclass
class Populations:
    """Population-based training of the learning rate (Jaderberg et al., arXiv:1711.09846).

    Lanes 8 j … 8 j + 7 are a population, which begins at the 8 rates of the grid. After every interval,
    each member among the worst quarter by validation score becomes a copy of one among the best quarter,
    weights, optimiser state and all, and multiplies its rate by 0.8 or 1.25.

    It is a driver of the environment (`exchange`), since it copies lanes and reads validation scores, and
    the policy that sets the rates.

    Args:
        interval: Env steps between two exchanges.
        seed: Seed of the choices.
    """

    interval: int = 3
    seed: int = 0
    rates: np.ndarray = field(default_factory=lambda: np.empty(0))

    SIZE: ClassVar[int] = len(GRID)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Let the given lanes (bool, shape (N,)) begin at the rates of the grid."""
        count = situation.num_envs
        check(count % self.SIZE == 0, "num_envs", count, f"a multiple of {self.SIZE}")
        if len(self.rates) != count:
            self.rates = np.empty(count)
        self.rates[lanes] = np.resize(GRID, count)[lanes]

    def decide(self, situation: Situation) -> Decisions:
        """Go on at each member's rate."""
        self.rates = np.clip(self.rates, *situation.lr_bounds)
        return Decisions.set_rate(self.rates)

    def exchange(self, env: AutoTrainVectorEnv) -> None:
        """Exchange members of the populations for which it is time; called before each decision."""
        situation = env.situation()
        for first in range(0, env.num_envs, self.SIZE):
            members = np.arange(first, first + self.SIZE)
            step = int(situation.steps[first])
            if situation.running[members].all() and step > 0 and step % self.interval == 0:
                seed = int(situation.episode_seed[first])
                self._exchange_members(env, members, np.random.default_rng([self.seed, seed, step]))

    def _exchange_members(
        self, env: AutoTrainVectorEnv, members: np.ndarray, generator: np.random.Generator
    ) -> None:
        score = env.core.lanes.score  # on validation images, which policies do not see
        order = members[np.argsort(score[members], kind="stable")]
        quarter = self.SIZE // 4
        for worse in order[:quarter].tolist():
            better = int(generator.choice(order[-quarter:]))
            env.copy_lane(better, worse)
            self.rates[worse] = self.rates[better] * generator.choice((0.8, 1.25))


def train_populations(env: Environment, episodes: int, seed: int, report: Reporter) -> Results:
    """Train a population of 8 on each episode, and keep the member that is best on validation.

    Args:
        env: A vector environment in autoreset mode `DISABLED`; its number of lanes is a multiple of 8.
        episodes: Number of episodes.
        seed: Seed of the first.
        report: Told how far it is.
    """
    driver = Populations()
    seeds = np.repeat(seed + np.arange(episodes), driver.SIZE).tolist()
    results = evaluate_policy(
        env, driver, len(seeds), seeds, history=True, progress=report, before_step=driver.exchange
    )
    return best_run({name: values.reshape(episodes, driver.SIZE) for name, values in results.items()})
