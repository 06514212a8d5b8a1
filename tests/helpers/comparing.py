"""What tests of baselines and controls share: a small environment for evaluations."""

from typing import Any

from gymnasium.vector import AutoresetMode

from autotrain_env import AutoTrainVectorEnv

SMALL: dict[str, Any] = {
    "inner_steps": 4,
    "history_length": 2,
    "classifier": "mlp-16",
    "train_size": 80,
    "holdout_size": 60,
    "validation_size": 60,
    "batch_size": 20,
    "budget": 40,
    "thresholdout": False,
}


def make_env(num_envs: int, **kwargs: Any) -> AutoTrainVectorEnv:
    """Lanes whose episodes, of ten env steps, take milliseconds."""
    return AutoTrainVectorEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **SMALL | kwargs)


def silent(share: float) -> None:
    """Report nothing."""
    assert 0 <= share <= 1
