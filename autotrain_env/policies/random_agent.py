"""An agent that draws its actions."""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import check_whole
from autotrain_env.process.actions import Decisions


@dataclass(frozen=True)
class RandomAgent:
    """Actions drawn uniformly from those that are possible.

    Each episode has a stream of its own, made of `seed` and the episode's seed; so what is drawn does not
    depend on the number of lanes.

    Args:
        seed: Of all streams.
    """

    seed: int = 0
    _spaces: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the seed."""
        check_whole("seed", self.seed, 0)

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        """Begin new streams in the given lanes."""
        for lane in np.flatnonzero(lanes).tolist():
            episode = env.core.episodes[lane]
            assert episode is not None
            seed = np.random.SeedSequence([self.seed, episode.seed]).generate_state(1)[0]
            self._spaces[lane] = copy.deepcopy(env.single_action_space)
            self._spaces[lane].seed(int(seed))

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        """Draw an action in every lane."""
        discrete = env.config.action_type in ("discrete", "multi_discrete")
        masks = env.action_masks().astype(np.int8) if discrete else [None] * env.num_envs
        actions = [self._draw(self._spaces[lane], masks[lane]) for lane in range(env.num_envs)]
        return env.core.decode(np.stack(actions))

    @staticmethod
    def _draw(space: Any, mask: np.ndarray | None) -> np.ndarray:
        parts = getattr(space, "nvec", None)
        if mask is None or parts is None:
            return space.sample(mask=mask)
        return space.sample(mask=tuple(np.split(mask, np.cumsum(parts)[:-1])))
