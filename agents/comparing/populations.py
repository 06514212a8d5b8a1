"""Population-based training of the learning rate."""

from dataclasses import dataclass

import numpy as np

from agents.comparing.schedule_tuning import GRID, Environment, Results, best_run
from agents.runs.progress import Report
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.process.actions import Decisions


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
    return best_run({name: values.reshape(episodes, policy.SIZE) for name, values in results.items()})
