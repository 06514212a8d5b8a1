"""An agent that draws its actions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotrain_env.errors import check_whole
from autotrain_env.process.actions import Decisions
from autotrain_env.process.situation import Situation


@dataclass(frozen=True)
class RandomAgent:
    """An agent whose actions are drawn uniformly from those that are possible.

    Each episode has a stream of its own, made of `seed` and the episode's seed; so what is drawn does not
    depend on the number of lanes.

    Args:
        seed: Seed of all streams.
    """

    seed: int = 0
    _spaces: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the seed."""
        check_whole("seed", self.seed, 0)

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        """Begin new streams in the given lanes (bool, shape (N,))."""
        for lane in np.flatnonzero(lanes).tolist():
            entropy = [self.seed, int(situation.episode_seed[lane])]
            self._spaces[lane] = situation.action_type.space()
            self._spaces[lane].seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def decide(self, situation: Situation) -> Decisions:
        """Draw a possible action in every lane."""
        count, possible = situation.num_envs, situation.action_masks
        masks = [None] * count if possible is None else possible.astype(np.int8)
        return situation.decode(
            np.stack([self._draw(self._spaces[lane], masks[lane]) for lane in range(count)])
        )

    @staticmethod
    def _draw(space: Any, mask: np.ndarray | None) -> np.ndarray:
        parts = getattr(space, "nvec", None)
        if mask is None or parts is None:
            return space.sample(mask=mask)
        return space.sample(mask=tuple(np.split(mask, np.cumsum(parts)[:-1])))
