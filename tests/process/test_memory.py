"""What is kept for ever: nothing that a task brought which no lane plays any more."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrain_env import SGD, AutoTrainVectorEnv, Choice, Dataset, Task
from autotrain_env.training.optimizers import OPTIMIZERS
from autotrain_env.training.stack import LaneStack
from tests.helpers import assert_same, lane_of, tiny, user_arrays

SIZES: dict[str, Any] = {
    "train_size": 20,
    "holdout_size": 10,
    "validation_size": 10,
    "batch_size": 5,
    "budget": 24,
}


def given(number: int, features: int = 8, size: int = 60) -> Task:
    """A task with data, a network and an optimiser of its own."""
    data = Dataset.from_arrays(*user_arrays(size, (features,), seed=number), name=f"set {number}")
    return Task(
        dataset=data, classifier=lambda: nn.Linear(features, 4), optimizer=SGD(1e-6 * number), **SIZES
    )


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("sizes", [(60, 60), (60, 90, 50, 120)])
def test_handles_of_tasks_that_were_given_are_let_go(num_envs: int, sizes: tuple[int, ...]):
    env = AutoTrainVectorEnv(num_envs, autoreset_mode="Disabled", **tiny())
    env.reset(seed=0)
    handles, networks, room = [], [], []
    for number in range(12):
        tasks = [
            given(num_envs * number + lane, size=sizes[number % len(sizes)]) for lane in range(num_envs)
        ]
        handles += [weakref.ref(task.dataset) for task in tasks]
        env.reset(options={"task": tasks})
        networks.append(weakref.ref(env.core.episodes[0].architecture))
        env.step(np.full(num_envs, 2))
        room.append(len(env.core.maker.pool(8)))
        del tasks
    gc.collect()
    assert sum(handle() is not None for handle in handles) == num_envs
    assert sum(network() is not None for network in networks) <= 1 + num_envs
    assert len(env.core.stacks.stacks) == num_envs
    assert max(room) <= 400 + 2 * num_envs * max(sizes) + sum(sizes)
    env.reset()
    gc.collect()
    assert not any(handle() is not None for handle in handles)
    assert len(env.core.maker._architectures) <= 1 + num_envs and len(env.core.stacks.stacks) == 1


def test_lanes_that_keep_their_task_see_the_same_images_when_others_go():
    """Gaps in the pool move nobody's images."""
    env = AutoTrainVectorEnv(3, autoreset_mode="Disabled", **tiny())
    alone = AutoTrainVectorEnv(1, autoreset_mode="Disabled", **tiny())
    kept = given(99, size=90)
    env.reset(seed=[7, 8, 9], options={"task": [given(0), kept, given(1, size=120)]})
    alone.reset(seed=8, options={"task": kept})
    for number in range(5):
        infos = env.step(np.full(3, 2))[4], alone.step(np.full(1, 2))[4]
        assert_same(*(lane_of(info, lane) for info, lane in zip(infos, (1, 0), strict=True)))
        mask = np.array([True, False, number % 2 == 0])
        tasks = [given(10 + number, size=50 + 10 * number), None, given(20 + number, size=200)]
        env.reset(options={"task": tasks, "reset_mask": mask})


def test_groups_that_were_met_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autotrain_env.process.episodes.MOST_GROUPS", 10)
    env = AutoTrainVectorEnv(2, autoreset_mode="Disabled", **tiny())
    env.reset(seed=0)
    numbers = set()
    for number in range(20):
        env.reset(options={"task": [given(number), None], "reset_mask": np.array([True, False])})
        numbers |= set(env.core.episodes[0].groups)
        env.step(np.full(2, 2))
    assert len(env.core.maker._groups) <= 14
    assert len(numbers) == 20 * len(env.core.episodes[0].groups)  # none was given twice


def stacks_of(env: AutoTrainVectorEnv) -> list[LaneStack]:
    return list(env.core.stacks.stacks.values())


def test_stacks_hold_no_more_than_the_lanes_need():
    """With six optimisers, memory does not grow with the number of kinds that were met."""
    many = Choice(tuple(OPTIMIZERS))
    env = AutoTrainVectorEnv(
        4,
        autoreset_mode="SameStep",
        **tiny(optimizer=many, classifier=Choice(("mlp-6", "linear")), budget=4),
    )
    env.reset(seed=0)
    met: set[int] = set()
    for _ in range(60):
        env.step(np.full(4, 2))
        met |= set(env.core.stacks.stacks)
        assert len(stacks_of(env)) <= 4
        assert all(len(stack.free) < len(stack.state) for stack in stacks_of(env))
        assert sum(len(stack.state) for stack in stacks_of(env)) <= 2 * 4
    assert len(met) > 6


def test_the_pool_of_float64_has_gaps_too():
    env = AutoTrainVectorEnv(2, autoreset_mode="Disabled", **tiny(dtype="float64"))
    env.reset(seed=0, options={"task": [given(0), given(1)]})
    env.reset(options={"task": [given(2, size=30 + 25), None], "reset_mask": np.array([True, False])})
    assert env.core.maker.pool(8).dtype == torch.float64
    env.step(np.full(2, 2))
