"""What policies decide on: a copy of what is known, the same for one environment and for many."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from autotrain_env import Situation
from tests.helpers import assert_same

ARRAYS = [field.name for field in dataclasses.fields(Situation) if field.type is np.ndarray]


def arrays(situation: Situation) -> dict[str, np.ndarray]:
    return {name: getattr(situation, name).copy() for name in ARRAYS}


def test_later_steps_leave_a_situation_as_it_is(tiny_vec: Any):
    env = tiny_vec(3, autoreset_mode="Disabled", initial_learning_rate=0.1).unwrapped
    env.reset(seed=0)
    situation = env.situation()
    before = arrays(situation)
    assert len(ARRAYS) == 13
    env.step(np.array([0, 3, 15]))  # another rate, and new networks
    env.step(np.array([16, 5, 3]))  # a stop, and a rewind
    assert_same(arrays(situation), before)
    after = arrays(env.situation())
    same = {name for name in ARRAYS if np.array_equal(before[name], after[name])}
    assert same <= {
        "budget",
        "inner_steps",
        "can_reinit",
        "initial_learning_rate",
        "episode_seed",
        "exists",
        "rewindable",
    }


def test_it_says_what_the_environment_says(tiny_env: Any, tiny_vec: Any):
    single, many = tiny_env(observation_layout="flat"), tiny_vec(2, observation_layout="flat").unwrapped
    observation, info = single.reset(seed=4)
    many.reset(seed=4)
    for _ in range(2):
        found, others = single.situation(), many.situation()
        assert_same(found.observation[0], observation)
        assert_same(found.action_masks[0], single.action_masks())
        for name in ("learning_rate", "updates", "holdout_answer"):
            assert getattr(found, name)[0] == info[name]
        for name in ARRAYS:
            assert_same(getattr(found, name)[0], getattr(others, name)[0])
        assert found.observation_space == single.observation_space
        assert found.action_type.space() == single.action_space
        observation, *_, info = single.step(7)
        many.step(np.array([7, 7]))


@pytest.mark.parametrize("action_type", ["continuous", "learning_rate"])
def test_continuous_actions_have_no_masks(tiny_env: Any, action_type: str):
    env = tiny_env(action_type=action_type)
    env.reset(seed=0)
    assert env.situation().action_masks is None
