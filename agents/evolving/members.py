"""The members of a generation, evaluated: what a worker does, on whichever machine."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from autotrain_env.errors import check
from autotrain_env.evolution.sparse import SparseState
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.stacked import StackedPolicies

BEHAVIOR_POINTS = 8
FITNESS = ("return", "score")
ENOUGH_MEMBERS = 64
"""Policies that are evaluated side by side about as fast as many."""


@dataclass(frozen=True)
class Trial:
    """How members are tried; the same for a whole run.

    Args:
        env_id: Id of the environment.
        env: Arguments of the environment, as JSON can hold them.
        spec: What policies they are, as `PolicySpec.as_json` writes it.
        episodes: Episodes that each member plays, the same tasks for all.
        block_size: Policies evaluated at once.
        fitness: `"return"` or `"score"`: mean over a member's episodes.
        deterministic: Whether the likeliest actions are taken.
        behaviors: Whether to tell what members did.
        threads: Threads of torch, since how sums are split may show in the last bits.
    """

    env_id: str
    env: dict[str, Any]
    spec: dict[str, Any]
    episodes: int
    block_size: int
    fitness: str
    deterministic: bool
    behaviors: bool
    threads: int

    @property
    def enough_members(self) -> int:
        """Returns how many members make a task worth sending to a worker."""
        return ENOUGH_MEMBERS

    def evaluate(self, generation: "Generation", members: range) -> "Outcome":
        """Evaluate some members; see `evaluate_members`."""
        return evaluate_members(self, generation, members)

    def join(self, outcomes: list["Outcome"]) -> "Outcome":
        """Returns the outcome of all members together; see `join_outcomes`."""
        return join_outcomes(outcomes)


@dataclass(frozen=True)
class Generation:
    """What workers need to know of a generation, beside the numbers of the members that they evaluate.

    Args:
        number: Number of the generation, from 0 on.
        task_seeds: Seeds of the episodes that every member plays.
        source: What members are made of: a state with the means to make some of them, or, for searches
            that cannot, the parameters of all.
        moments: Moments of observations, which they are normalised with.
        seed: Seed of drawn actions.
    """

    number: int
    task_seeds: tuple[int, ...]
    source: EvolutionState | SparseState | Tensor
    moments: Moments
    seed: int

    def parameters(self, members: range) -> Tensor:
        """Returns the parameters of some members, float32, shape (len(members), d)."""
        if isinstance(self.source, Tensor):
            return self.source[members.start : members.stop]
        return self.source.members(members)


@dataclass(frozen=True)
class Outcome:
    """What became of some members.

    Args:
        fitness: Fitness, rounded to float32 so that what rounding alone parts ties, float64, shape (n,).
        score: Mean final score of the networks, shape (n,).
        env_steps: Env steps that all took together.
        updates: Updates of all networks together.
        blocks: Moments of what each block observed.
        behaviors: What members did, float64, shape (n, b); `None` where nobody asked.
    """

    fitness: np.ndarray
    score: np.ndarray
    env_steps: int
    updates: int
    blocks: list[Moments]
    behaviors: np.ndarray | None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Returns a context in which torch computes by so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate_members(trial: Trial, generation: Generation, members: range) -> Outcome:
    """Evaluate some members, in one vectorised rollout.

    What comes out does not depend on which other members are evaluated along with them, provided that the
    first one begins a block.

    Args:
        trial: How members are evaluated.
        generation: Which generation it is.
        members: Numbers of the members; the first is a multiple of the block size.
    """
    check(
        members.start % trial.block_size == 0, "members", members, f"from a multiple of {trial.block_size}"
    )
    with threads(trial.threads):
        env = _environment(trial.env_id, json.dumps(trial.env, sort_keys=True), len(members))
        policies = StackedPolicies(
            PolicySpec.from_json(trial.spec),
            generation.parameters(members),
            generation.moments,
            trial.block_size,
            deterministic=trial.deterministic,
            seed=generation.seed,
            generation=generation.number,
        )
        seeds = np.repeat(generation.task_seeds, len(members)).tolist()
        results = evaluate_policy(env, policies, len(seeds), seeds, history=trial.behaviors)
    by_episode = {
        name: results[name].reshape(trial.episodes, len(members)) for name in (*FITNESS, "steps", "updates")
    }
    return Outcome(
        # Sums of rewards that differ in their last bits alone are to tie.
        fitness=by_episode[trial.fitness].mean(0).astype(np.float32).astype(np.float64),
        score=by_episode["score"].mean(0).astype(np.float64),
        env_steps=int(by_episode["steps"].sum()),
        updates=int(by_episode["updates"].sum()),
        blocks=policies.moments,
        behaviors=_behaviors(results["history"], len(members)) if trial.behaviors else None,
    )


def join_outcomes(outcomes: list[Outcome]) -> Outcome:
    """Returns the outcome of all members together, in their order."""
    behaviors = [outcome.behaviors for outcome in outcomes if outcome.behaviors is not None]
    return Outcome(
        fitness=np.concatenate([outcome.fitness for outcome in outcomes]),
        score=np.concatenate([outcome.score for outcome in outcomes]),
        env_steps=sum(outcome.env_steps for outcome in outcomes),
        updates=sum(outcome.updates for outcome in outcomes),
        blocks=[block for outcome in outcomes for block in outcome.blocks],
        behaviors=np.concatenate(behaviors) if behaviors else None,
    )


def _behaviors(histories: np.ndarray, members: int) -> np.ndarray:
    """Returns curves of rate [decades] and score over each member's episodes, shape (members, b)."""
    curves = np.stack([_behavior(history) for history in histories])
    return np.concatenate(np.split(curves, len(curves) // members), axis=1)


def _behavior(history: dict[str, Any]) -> np.ndarray:
    steps = np.arange(len(history["learning_rate"]))
    points = np.linspace(0, steps[-1], BEHAVIOR_POINTS)
    rates = np.interp(points, steps, np.log10(history["learning_rate"]))
    return np.concatenate((rates, np.interp(points, steps, history["score"])))


@functools.lru_cache(maxsize=4)
def _environment(env_id: str, arguments: str, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """Returns an environment, kept from one generation to the next, since it is costly to make."""
    return make_evaluation_env(env_id, num_envs, **json.loads(arguments))


def without_memory(state: EvolutionState | SparseState) -> EvolutionState | SparseState:
    """Returns a state as members are made of, without what only its updates need: less to send."""
    if isinstance(state, SparseState):
        return dataclasses.replace(
            state, parents=dataclasses.replace(state.parents, accumulators=()), report={}
        )
    centre = dataclasses.replace(state.centre, accumulators=())
    return dataclasses.replace(state, centre=centre, asked=None, novelty=None, report={})
