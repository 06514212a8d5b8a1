"""Sweeps: every task played at many rates side by side, and by the policy as far as it has come.

Lanes of a task begin with the same network and the same minibatches. The first ones keep to a line to 0
from a rate each, which tells what that rate is worth; in the others the policy decides, so that it learns
of states that it gets into itself (DAgger: Ross, Gordon and Bagnell, arXiv:1011.0686).
"""

import dataclasses
import functools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.evolving.members import threads
from agents.imitating.hindsight import Played, advantages, stabilized
from autotrain_env import SGD, AutoTrainCore, AutoTrainVectorEnv, Task
from autotrain_env.policies.evaluation import make_evaluation_env
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import TrainedPolicy
from autotrain_env.process.actions import DiscreteActions

RATES = {True: (1e-3, 10.0), False: (1e-5, 0.1)}
"""Smallest and largest rate of a sweep, for SGD and for rules that scale updates themselves."""
REWINDS_SHARE, DIVERGED_SHARE = 0.1, 0.8
"""Of random actions, those that rewind; and how often a diverged lane that explores rewinds."""


@dataclass(frozen=True)
class States:
    """States that a policy is fitted to; what was best to do in each, in hindsight.

    Args:
        observations: Observations, float16, shape (n, H * K * M).
        masks: Which actions were possible, bool, shape (n, number of actions).
        advantages: What each action is worth beside keeping the rate, float16, likewise.
        weights: How much each state counts, float32, shape (n,).
    """

    observations: np.ndarray
    masks: np.ndarray
    advantages: np.ndarray
    weights: np.ndarray

    @classmethod
    def join(cls, parts: list["States"]) -> "States":
        """Returns the states of all parts, one after another."""
        names = [entry.name for entry in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        """Returns the number of states."""
        return len(self.weights)


@dataclass(frozen=True)
class Round:
    """What workers need to know of a round.

    Args:
        number: Its number, from 0 on.
        seed: Training seed.
        weights: Weights of the policy that walks; `None` in the first round, where rates are kept.
    """

    number: int
    seed: int
    weights: dict[str, Tensor] | None


@dataclass(frozen=True)
class Swept:
    """What some tasks have told.

    Args:
        states: Their states.
        env_steps: Env steps of all lanes.
        updates: Updates of all networks.
        best: Final score at the best rate of each task, float64, shape (t,).
        walked: Final score of the first walker, likewise.
    """

    states: States
    env_steps: int
    updates: int
    best: np.ndarray
    walked: np.ndarray


@dataclass(frozen=True)
class SweepTrial:
    """How tasks are swept; the same for a whole run.

    Args:
        env_id: Id of the environment.
        env: Its arguments, as JSON can hold them.
        spec: What policy walks, as `PolicySpec.as_json` writes it.
        rates: Lanes that keep to a line, each from a rate of its own.
        walkers: Lanes in which the policy decides; every other one explores.
        explore: Probability of a random action there.
        states_per_task: States kept of every task.
        block_size: Tasks played side by side.
        threads: Threads of torch.
    """

    env_id: str
    env: dict[str, Any]
    spec: dict[str, Any]
    rates: int
    walkers: int
    explore: float
    states_per_task: int
    block_size: int
    threads: int

    @property
    def lanes(self) -> int:
        """Returns the number of lanes of a task."""
        return self.rates + self.walkers

    @property
    def enough_members(self) -> int:
        """Returns how many tasks are worth sending to a worker."""
        return self.block_size

    def evaluate(self, generation: Round, members: range) -> Swept:
        """Sweep some tasks of a round."""
        policy = None
        if generation.weights is not None:
            policy = TrainedPolicy(PolicySpec.from_json(self.spec), generation.weights)
        numbers, blocks = list(members), []
        with threads(self.threads):
            for start in range(0, len(numbers), self.block_size):
                tasks = numbers[start : start + self.block_size]
                blocks.append(_Block(self, generation, tasks, policy).sweep())
        return self.join(blocks)

    def join(self, outcomes: list[Swept]) -> Swept:
        """Returns what all tasks together have told."""
        return Swept(
            States.join([outcome.states for outcome in outcomes]),
            sum(outcome.env_steps for outcome in outcomes),
            sum(outcome.updates for outcome in outcomes),
            np.concatenate([outcome.best for outcome in outcomes]),
            np.concatenate([outcome.walked for outcome in outcomes]),
        )


class _Block:
    """Some tasks of a round, side by side.

    Args:
        trial: How tasks are swept.
        round_: Which round it is.
        numbers: Numbers of the tasks within it.
        policy: What walks; `None` to keep the rate.
    """

    def __init__(
        self, trial: SweepTrial, round_: Round, numbers: list[int], policy: TrainedPolicy | None
    ) -> None:
        self.trial, self.policy = trial, policy
        self.generators = [np.random.default_rng([round_.seed, round_.number, task]) for task in numbers]
        env = _environment(trial.env_id, json.dumps(trial.env), len(numbers) * trial.lanes)
        self.core: AutoTrainCore = env.core
        action_type = self.core.action_type
        assert isinstance(action_type, DiscreteActions)
        self.actions = action_type
        self.keep = action_type.lr_factors.index(1.0)
        far = np.abs(np.log10(action_type.lr_factors))
        self.random_factors = np.exp(-far) / np.exp(-far).sum()

    def sweep(self) -> Swept:
        """Play all lanes to their ends, and label their states."""
        core, trial = self.core, self.trial
        begun = core.lineage.all_updates.sum()
        rates = np.stack([self._begin(number) for number in range(len(self.generators))])
        tracks: list[dict[str, np.ndarray]] = []
        env_steps, test = 0, np.zeros(core.num_envs)
        while core.lanes.running.any():
            actions = self._act()
            tracks.append(
                {
                    "observations": core.observation().reshape(core.num_envs, -1).astype(np.float16),
                    "masks": core.action_masks(),
                    "rates": core.lineage.learning_rate.copy(),
                    "scores": core.lanes.score.copy(),
                    "actions": actions,
                    "running": core.lanes.running.copy(),
                }
            )
            env_steps += int(core.lanes.running.sum())
            result = core.step(core.decode(actions))
            ended = result.ran & result.terminated
            if ended.any():
                test[ended] = result.final[f"test_{core.config.score}"][ended]
        whole = {name: np.stack([track[name] for track in tracks]) for name in tracks[0]}
        final, tested = (scores.reshape(-1, trial.lanes) for scores in (core.lanes.score, test))
        return Swept(
            States.join(
                [
                    self._label(task, whole, final[task], tested[task], rates[task])
                    for task in range(len(final))
                ]
            ),
            env_steps,
            int(core.lineage.all_updates.sum() - begun),
            final[:, : trial.rates].max(1),
            final[:, trial.rates].copy(),
        )

    def _begin(self, number: int) -> np.ndarray:
        """Reset the lanes of a task, and return the initial rates that are swept, shape (rates,)."""
        trial, generator = self.trial, self.generators[number]
        seed = int(generator.integers(2**63))
        task = self.core.maker.make(seed, None).task
        rates = np.geomspace(*RATES[isinstance(task.optimizer, SGD)], trial.rates)
        other = generator.choice(rates, trial.walkers) * 10 ** generator.uniform(-0.7, 0.7, trial.walkers)
        # the first half of the walkers begin as the task says
        walked = [None if lane < (trial.walkers + 1) // 2 else rate for lane, rate in enumerate(other)]
        tasks = [_at_rate(task, rate) for rate in (*rates, *walked)]
        lanes = np.arange(number * trial.lanes, (number + 1) * trial.lanes)
        self.core.reset(lanes, [seed] * trial.lanes, list(tasks))
        return rates

    def _act(self) -> np.ndarray:
        """Returns an action for every lane, int64, shape (N,)."""
        core, trial = self.core, self.trial
        masks = core.action_masks()
        walked = np.full(core.num_envs, self.keep)
        if self.policy is not None:
            walked = self.policy.predict(core.observation(), masks)[0]
        actions = np.full(core.num_envs, self.keep)
        for lane in core.lanes.running.nonzero()[0].tolist():
            task, number = divmod(lane, trial.lanes)
            walker = number - trial.rates
            if walker < 0:
                continue
            explores = walker % 2 == 1 or self.policy is None
            actions[lane] = walked[lane]
            if explores:
                actions[lane] = self._explore(task, lane, masks[lane], int(walked[lane]))
        return actions

    def _explore(self, task: int, lane: int, mask: np.ndarray, walked: int) -> int:
        """Returns the policy's action, or one in its place that tells more."""
        generator, actions = self.generators[task], self.actions
        lowest = int(np.argmin(actions.lr_factors))
        back = len(actions.lr_factors) + lowest
        if self.core.lineage.diverged[lane] and back < len(mask) and generator.random() < DIVERGED_SHARE:
            return back if mask[back] else lowest
        if generator.random() >= self.trial.explore:
            # an episode that has ended tells no more
            return walked if not actions.stop or walked < actions.num_actions - 1 else self.keep
        factor = int(generator.choice(len(actions.lr_factors), p=self.random_factors))
        distance = 0
        if generator.random() < REWINDS_SHARE and actions.num_rewinds > 1:
            distance = int(generator.integers(1, actions.num_rewinds))
        action = distance * len(actions.lr_factors) + factor
        return action if mask[action] else factor

    def _label(
        self,
        number: int,
        whole: dict[str, np.ndarray],
        final: np.ndarray,
        test: np.ndarray,
        rates: np.ndarray,
    ) -> States:
        """Returns some states of a task's lanes, with the advantages of all actions.

        Final scores are those of validation and test images together, since few images are noisy; nothing
        is judged by the test images of tasks that are trained on.
        """
        trial, core, generator = self.trial, self.core, self.generators[number]
        lanes = slice(number * trial.lanes, (number + 1) * trial.lanes)
        episode = core.stacks.episode(lanes.start)
        steps = episode.task.budget // episode.inner_steps
        track = {name: values[:steps, lanes] for name, values in whole.items()}
        images = len(episode.split.validation_labels), len(episode.split.test_labels)
        played = Played(
            **{name: track[name] for name in ("rates", "actions", "masks", "running")},
            scores=stabilized(track["scores"]),
            rows=track["observations"].reshape(steps, trial.lanes, *core.lineage.rows.shape[1:]),
            final=stabilized(np.average([final, test], axis=0, weights=images)),
            initial_rates=rates,
            chance=float(stabilized(1 / episode.dataset.num_classes)),
            metrics=core.config.metrics,
            keep_before_divergence=core.config.keep_before_divergence,
        )
        worth = advantages(played, self.actions)
        step, lane = track["running"].nonzero()
        weights = np.where(np.arange(trial.lanes) < trial.rates, 1.0, 3.0)[lane]
        count = min(trial.states_per_task, len(step))
        drawn = generator.choice(len(step), count, replace=False, p=weights / weights.sum())
        step, lane = step[drawn], lane[drawn]
        return States(
            track["observations"][step, lane],
            track["masks"][step, lane],
            worth[step, lane].astype(np.float16),
            (0.2 + 0.8 * (1 - step / steps)).astype(np.float32),
        )


def _at_rate(task: Task, rate: float | None) -> Task:
    return task if rate is None else dataclasses.replace(task, initial_learning_rate=float(rate))


@functools.lru_cache(maxsize=4)
def _environment(env_id: str, arguments: str, num_envs: int) -> AutoTrainVectorEnv:
    """Returns an environment, kept from one round to the next, since it is costly to make."""
    env = make_evaluation_env(env_id, num_envs, **json.loads(arguments)).unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    return env


def as_tensors(states: States) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns observations, masks, advantages and weights as tensors that share memory with the arrays."""
    arrays = (states.observations, states.masks, states.advantages, states.weights)
    observations, masks, worth, weights = (torch.from_numpy(array) for array in arrays)
    return observations, masks, worth, weights
