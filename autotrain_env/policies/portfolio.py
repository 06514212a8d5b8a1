"""A portfolio: several policies train a network each, side by side, and the best one counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from autotrain_env.errors import check, check_name, check_number, check_whole
from autotrain_env.policies.evaluation import episode_seeds, evaluate_policy
from autotrain_env.policies.protocol import Policy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation


@dataclass(frozen=True)
class FromRate:
    """A policy that begins at a learning rate of its own, whatever the task's.

    Args:
        learning_rate: Rate of the first updates, above 0; the policy's first factor multiplies it.
        policy: What decides.

    Raises:
        InvalidValueError: If the rate is not above 0.
    """

    learning_rate: float
    policy: Policy

    def __post_init__(self) -> None:
        """Check the rate."""
        check_number("learning_rate", self.learning_rate, lambda rate: rate > 0, "above 0")

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new episodes as the policy does."""
        self.policy.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        """Decide as the policy does, but for the rate of the first env step."""
        decisions = self.policy.decide(situation)
        later = np.nan if decisions.learning_rate is None else decisions.learning_rate
        first = self.learning_rate * decisions.lr_factor
        return replace(decisions, learning_rate=np.where(situation.steps == 0, first, later))


class Portfolio:
    """Policies over groups of lanes: of K members, the first decides in lanes 0, K, 2 K, …, and so on.

    Each member sees its own lanes alone. The lanes of a group play the same episode where they are seeded
    alike, as by `evaluate_portfolio`.

    Args:
        members: The policies, two or more. Each is an object of its own, since it keeps what it knows of
            its lanes.

    Raises:
        InvalidValueError: If there are fewer than two, or one is there twice.
    """

    def __init__(self, members: Sequence[Policy]) -> None:
        self.members = tuple(members)
        check(len(self.members) > 1, "members", self.members, "two policies or more")
        different = len({id(member) for member in self.members}) == len(self.members)
        check(different, "members", self.members, "objects of their own, none of them twice")

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new episodes as the members do.

        Raises:
            InvalidValueError: If the lanes cannot be divided among the members.
        """
        count = len(self.members)
        check(situation.num_envs % count == 0, "num_envs", situation.num_envs, f"a multiple of {count}")
        for number, member in enumerate(self.members):
            own = np.arange(number, situation.num_envs, count)
            member.reset(situation.of_lanes(own), lanes[own])

    def decide(self, situation: Situation) -> Decisions:
        """Decide as each member does in its lanes; see `Policy.decide`."""
        count = len(self.members)
        joint = Decisions.scale(np.ones(situation.num_envs))
        joint = replace(joint, learning_rate=np.full(situation.num_envs, np.nan))
        for number, member in enumerate(self.members):
            own = np.arange(number, situation.num_envs, count)
            for name, values in vars(member.decide(situation.of_lanes(own))).items():
                if values is not None:
                    getattr(joint, name)[own] = values
        return joint


def evaluate_portfolio(
    env: VectorEnv[Any, Any, Any],
    members: Sequence[Policy],
    episodes: int,
    seed: int | Sequence[int] = 0,
    *,
    by: str = "holdout_answer",
    history: bool = False,
    progress: Callable[[float], object] | None = None,
) -> dict[str, np.ndarray]:
    """Play each of a fixed set of episodes with all members, and keep the best.

    Args:
        env: As for `evaluate_policy`; its number of lanes is a multiple of the number of members.
        members: The policies; see `Portfolio`.
        episodes: How many episodes to play.
        seed: Seed of the first one, or a seed for each.
        by: What tells which is best: `"holdout_answer"`, which the guard has made coarse, or `"score"`, on
            images that no policy has seen.
        history: Whether to keep histories.
        progress: Called after each env step with the share of the work that is done, 0 to 1.

    Returns:
        What `evaluate_policy` returns, of the member that is best at the end (the first of those that are
        equal), but `updates` of all members together; and `member`, its number, int64. All of shape
        (episodes,).

    Raises:
        InvalidTypeError: As `evaluate_policy`.
        InvalidValueError: As `evaluate_policy`, if `by` is another name, or if members or lanes do not fit;
            see `Portfolio`.
    """
    check_whole("episodes", episodes, 1)
    check_name("by", by, ("holdout_answer", "score"))
    portfolio = Portfolio(members)
    count = len(portfolio.members)
    seeds = np.repeat(episode_seeds(seed, episodes), count).tolist()
    found = evaluate_policy(env, portfolio, len(seeds), seeds, history=history, progress=progress)
    groups = {name: values.reshape(episodes, count) for name, values in found.items()}
    best = groups[by].argmax(1)
    chosen = {name: values[np.arange(episodes), best] for name, values in groups.items()}
    return chosen | {"updates": groups["updates"].sum(1), "member": best}
