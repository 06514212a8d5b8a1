"""What a controlled run is: which policy, which decision process, how many updates between decisions."""

import dataclasses
import itertools
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import SCHEDULES, BudgetSchedule, Schedule, as_schedule
from autotrain_env.policies.trained import PRETRAINED, TrainedPolicy, load_policy
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.task_distributions import Mixture, TaskDistribution

DECISIONS = 30
"""Decisions of a run where the policy's file names none."""

PROCESS = (
    *("history_length", "num_snapshots", "score", "lr_bounds", "observation_layout", "metrics"),
    *("action_type", "lr_factors", "num_rewinds", "annealing", "max_lr_factor", "rewind_sampling"),
    *("reinit", "stop", "reinit_learning_rate", "keep_before_divergence"),
    *("thresholdout", "thresholdout_threshold", "thresholdout_sigma", "thresholdout_budget"),
)
"""Arguments of `AutoTrainConfig` that say what the decision process is, apart from the task."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """When decisions are taken, and what may be decided.

    Args:
        policy: What decides.
        name: The policy in a few words.
        config: The decision process: that of the environment which the policy was trained in.
        total_updates: Optimiser updates of the whole run; those beyond the last multiple of
            `config.inner_steps` are made at the end, before the last measurement.
    """

    policy: Policy
    name: str
    config: AutoTrainConfig
    total_updates: int

    @property
    def decisions(self) -> int:
        """Returns the number of decisions, the first one before any update."""
        return self.total_updates // self.config.inner_steps

    @property
    def budget(self) -> int:
        """Returns the updates that the decision process knows of, a multiple of `inner_steps`."""
        return self.decisions * self.config.inner_steps

    @property
    def rest(self) -> int:
        """Returns how many updates the last interval is longer than the others."""
        return self.total_updates - self.budget


def make_plan(
    policy: str | PathLike[str] | Policy,
    total_updates: int,
    decisions: int | None,
    process: dict[str, Any],
) -> Plan:
    """Returns the plan of a run.

    Args:
        policy: A policy, its folder, or the name of one.
        total_updates: Optimiser updates of the whole run.
        decisions: How many decisions to take, as near as whole windows allow; `None` for as many as the
            policy was trained with.
        process: Arguments of `PROCESS` that take the place of the policy's own.

    Raises:
        InvalidTypeError: If the policy is none.
        InvalidValueError: If a name is unknown, or there are fewer updates than decisions.
    """
    for name in process:
        if name not in PROCESS:
            raise unknown_name("argument", name, PROCESS)
    found = as_policy(policy)
    trained = (found.environment_arguments() if isinstance(found, TrainedPolicy) else None) or {}
    arguments: dict[str, Any] = {"keep_before_divergence": True}  # nobody wants a run that is lost at once
    arguments |= {name: trained[name] for name in PROCESS if name in trained}
    if isinstance(found, Schedule):
        arguments["num_snapshots"] = 1  # it never looks back
    arguments |= process
    if decisions is None:
        decisions = named_decisions(found) or trained_decisions(trained)
    check_whole("decisions", decisions, 1)
    check_whole("total_updates", total_updates, 1)
    check(
        total_updates >= decisions,
        "total_updates",
        total_updates,
        f"at least the number of decisions, {decisions}: pass decisions= for fewer",
    )
    windows = arguments.get("history_length", AutoTrainConfig.history_length)
    check_whole("history_length", windows, 1)
    check(total_updates >= windows, "total_updates", total_updates, f"at least history_length={windows}")
    inner_steps = max(1, round(total_updates / decisions / windows)) * windows
    inner_steps = min(inner_steps, total_updates // windows * windows)
    budget = total_updates // inner_steps * inner_steps
    config = AutoTrainConfig(**arguments, inner_steps=inner_steps, budget=budget)
    name = str(policy) if isinstance(policy, (str, PathLike)) else describe(policy)
    return Plan(found, name, config, int(total_updates))


def named_decisions(policy: Policy) -> int | None:
    """Returns how many decisions a policy's file says that a run is to have, if it does."""
    said = policy.spec.environment.get("decisions") if isinstance(policy, TrainedPolicy) else None
    if said is not None:
        check_whole("decisions in the policy's file", said, 1)
    return said


def trained_decisions(environment: dict[str, Any]) -> int:
    """Returns how many decisions an episode had in the environment that a policy was trained in.

    Args:
        environment: Arguments of the environment, by name; of several budgets the largest counts, and in a
            mixture the median of its tasks.
    """
    names = ("inner_steps", "history_length", "tasks", "budget")
    given = {name: environment[name] for name in names if name in environment}
    if not given:
        return DECISIONS
    try:
        config = AutoTrainConfig(**given)
        distribution = config.task_distribution.levels[-1]
    except (InvalidValueError, TypeError):
        return DECISIONS
    if not isinstance(distribution, Mixture):
        return max(_lengths(distribution, config.inner_steps), default=DECISIONS)
    lengths: list[int] = []
    weights: list[float] = []
    for part, share in zip(distribution.parts, distribution.shares, strict=True):
        possible = _lengths(part, config.inner_steps)
        lengths += possible
        weights += [share / len(possible) for _ in possible]  # of samplers of one's own none is known
    if not lengths:
        return DECISIONS
    return int(np.quantile(lengths, 0.5, weights=weights, method="inverted_cdf"))


def _lengths(distribution: TaskDistribution, inner_steps: int) -> list[int]:
    """Returns how many decisions episodes of a distribution may have, one for each pair of values."""
    return [
        budget // (steps or inner_steps)
        for budget, steps in itertools.product(
            distribution.possible("budget"), distribution.possible("inner_steps")
        )
    ]


def as_policy(policy: str | PathLike[str] | Policy) -> Policy:
    """Look a policy up: one that comes with the package, a folder, a schedule by name, or a policy.

    Args:
        policy: `"many"`, `"real_runs"`, a folder that `TrainedPolicy.save` wrote, a name of `SCHEDULES`, or
            a policy, which is returned as it is.

    Raises:
        InvalidTypeError: If it is something else.
        InvalidValueError: If the name is unknown.
    """
    if isinstance(policy, (str, PathLike)):
        if str(policy) in PRETRAINED or Path(policy).is_dir():
            return load_policy(policy)
        if str(policy) not in SCHEDULES:
            raise unknown_name("policy", str(policy), (*PRETRAINED, *SCHEDULES))
        return as_schedule(str(policy))
    return as_schedule(policy)


def describe(policy: Policy) -> str:
    """Returns a policy in a few words."""
    text = repr(policy)
    return type(policy).__name__ if " object at 0x" in text or len(text) > 100 else text


def needs_holdout(policy: Policy) -> bool:
    """Returns whether a policy decides by what is measured on the holdout; unknown ones are taken to.

    One whose file names metrics that say what is missing was trained to do without.
    """
    if isinstance(policy, TrainedPolicy):
        return (policy.environment_arguments() or {}).get("metrics", "basic") == "basic"
    return not isinstance(policy, (BudgetSchedule, RandomAgent))
