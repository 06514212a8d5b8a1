"""The algorithms that agents are trained with."""

import importlib
from dataclasses import dataclass
from typing import Any

from autotrain_env.errors import InvalidValueError, unknown_name

# The default reward, scaled so that value targets are of order 1.
REWARD = {"improvement": 5.0}


@dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Args:
        name: Name as users write it.
        location: Module and class.
        actions: Kinds of action spaces that it can act in.
        env_id: The environment it is trained on where none is named.
    """

    name: str
    location: str
    actions: tuple[str, ...] = ("Discrete", "Box")
    env_id: str = "AutoTrain-v0"

    @property
    def model_class(self) -> Any:
        """Returns the class of models; a subclass of `BaseAlgorithm`."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(module), name)


_CONTINUOUS: dict[str, Any] = {"actions": ("Box",), "env_id": "AutoTrainContinuous-v0"}
ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("ppo", "stable_baselines3:PPO"),
        Algorithm("a2c", "stable_baselines3:A2C"),
        Algorithm("dqn", "stable_baselines3:DQN", ("Discrete",)),
        Algorithm("sac", "stable_baselines3:SAC", **_CONTINUOUS),
        Algorithm("td3", "stable_baselines3:TD3", **_CONTINUOUS),
        Algorithm("maskable_ppo", "sb3_contrib:MaskablePPO", ("Discrete",)),
        Algorithm("recurrent_ppo", "sb3_contrib:RecurrentPPO"),
        Algorithm("qrdqn", "sb3_contrib:QRDQN", ("Discrete",)),
        Algorithm("trpo", "sb3_contrib:TRPO"),
        Algorithm("ars", "agents.training.resumable_ars:ResumableARS"),
    )
}
EVOLUTION = Algorithm("es", "autotrain_env.evolution:EvolutionStrategy")
"""Evolution strategies, which have no model of Stable-Baselines3; see `agents.evolving`."""
IMITATION = Algorithm("dagger", "agents.imitating.imitation:Imitation", ("Discrete",), "AutoTrainRuns-v0")
"""Imitation of what would have been best in hindsight, which has none either; see `agents.imitating`."""
TRAINABLE = {**ALGORITHMS, EVOLUTION.name: EVOLUTION, IMITATION.name: IMITATION}


def find_algorithm(name: str) -> Algorithm:
    """Returns the algorithm of a name, evolution among them.

    Raises:
        InvalidValueError: If there is none.
    """
    if name not in TRAINABLE:
        raise unknown_name("algorithm", name, TRAINABLE)
    return TRAINABLE[name]


def check_action_space(algorithm: Algorithm, space: Any, env_id: str) -> None:
    """Raise an `InvalidValueError` unless an algorithm can act in an action space."""
    kind = type(space).__name__
    if kind not in algorithm.actions:
        able = [name for name, other in TRAINABLE.items() if kind in other.actions] or ["none here"]
        raise InvalidValueError(
            f"algorithm={algorithm.name!r} cannot act in {env_id}, whose action space is {space}: it needs "
            f"{' or '.join(algorithm.actions)}. Algorithms that can: {', '.join(able)}"
        )
