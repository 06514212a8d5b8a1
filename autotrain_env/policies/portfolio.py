"""A portfolio: several policies train a network each, side by side, and the best one counts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotrain_env.errors import check, check_number
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
        decisions = _with_rates(self.policy.decide(situation))
        assert decisions.learning_rate is not None and decisions.scaled is not None
        first = situation.steps == 0
        rates = np.where(first, self.learning_rate * decisions.lr_factor, decisions.learning_rate)
        return replace(decisions, learning_rate=rates, scaled=decisions.scaled & ~first)


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
        joint = _with_rates(Decisions.scale(np.ones(situation.num_envs)))
        for number, member in enumerate(self.members):
            own = np.arange(number, situation.num_envs, count)
            for name, values in vars(_with_rates(member.decide(situation.of_lanes(own)))).items():
                getattr(joint, name)[own] = values
        return joint


def _with_rates(decisions: Decisions) -> Decisions:
    """Returns the same decisions with rates, and with the lanes in which factors count."""
    rates, scaled, count = decisions.learning_rate, decisions.scaled, len(decisions.lr_factor)
    return replace(
        decisions,
        learning_rate=np.ones(count) if rates is None else rates,
        scaled=np.full(count, rates is None) if scaled is None else scaled,
    )
