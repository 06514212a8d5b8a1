"""Settings and fixtures of all tests."""

from typing import Any

import gymnasium
import pytest
from hypothesis import settings

from tests.helpers import tiny

settings.register_profile("autotrain", deadline=None, derandomize=True)
settings.load_profile("autotrain")


@pytest.fixture
def tiny_env() -> Any:
    """Makes small scalar environments."""
    return lambda env_id="AutoTrain-v0", **kwargs: gymnasium.make(env_id, **tiny(**kwargs)).unwrapped


@pytest.fixture
def tiny_vec() -> Any:
    """Makes small vector environments."""
    return lambda num_envs, env_id="AutoTrain-v0", **kwargs: gymnasium.make_vec(
        env_id, num_envs=num_envs, **tiny(**kwargs)
    )
