"""Settings and fixtures of all tests."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest
import torch
from hypothesis import settings

from autotrain_env.training.native import engine
from autotrain_env.training.native.build import BuildError
from autotrain_env.training.native.library import best_library
from tests.helpers import tiny

settings.register_profile("autotrain", deadline=None, derandomize=True)
settings.load_profile("autotrain")

# One thread in each process, those that tests start included: tests run side by side, and on small networks
# more threads cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


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


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads until the test is over."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.fixture(params=["native", "torch"])
def each_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lets the test run with networks that the compiled engine computes, and again with torch's."""
    if request.param == "torch":
        monkeypatch.setattr(engine, "why_not_native", lambda *arguments: "the test wants torch")
    elif isinstance(best_library(), BuildError):
        pytest.skip(f"no compiled engine: {best_library()}")
    return request.param
