"""The batched environment as clients start it, by its id alone: Gymnasium's vector wrappers, a sampler."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import vector

from tests.helpers import Actions, assert_same, tiny

Wrap = Callable[[Any], Any]
# Every wrapper of gymnasium.wrappers.vector but those for observations that are images or dictionaries, and
# those that need another library (jax, array_api_compat, pygame, MoviePy).
WRAPPERS: dict[str, Wrap] = {
    "ClipReward": lambda env: vector.ClipReward(env, -1.0, 1.0),
    "DictInfoToList": vector.DictInfoToList,
    "DtypeObservation": lambda env: vector.DtypeObservation(env, np.float64),
    "FlattenObservation": vector.FlattenObservation,
    "NormalizeObservation": vector.NormalizeObservation,
    "NormalizeReward": vector.NormalizeReward,
    "RecordEpisodeStatistics": vector.RecordEpisodeStatistics,
    "RescaleObservation": lambda env: vector.RescaleObservation(env, np.float32(0), np.float32(1)),
    "ReshapeObservation": lambda env: vector.ReshapeObservation(env, (54,)),
    "TransformAction": lambda env: vector.TransformAction(env, lambda actions: actions),
    "TransformObservation": lambda env: vector.TransformObservation(env, lambda rows: rows),
    "TransformReward": lambda env: vector.TransformReward(env, lambda rewards: 2 * rewards),
    "VectorizeTransformAction": lambda env: vector.VectorizeTransformAction(
        env, wrappers.TransformAction, func=lambda action: action, action_space=None
    ),
    "VectorizeTransformObservation": lambda env: vector.VectorizeTransformObservation(
        env, wrappers.TransformObservation, func=lambda rows: rows, observation_space=None
    ),
    "VectorizeTransformReward": lambda env: vector.VectorizeTransformReward(
        env, wrappers.TransformReward, func=lambda reward: 2 * reward
    ),
}
# Those that only know what to do where the step after the last one resets (or nothing does).
NEED_THE_DEFAULT = {
    *("DtypeObservation", "FlattenObservation", "NormalizeObservation", "RescaleObservation"),
    *("ReshapeObservation", "TransformObservation", "VectorizeTransformObservation"),
}


def make(**kwargs: Any) -> VectorEnv[Any, Any, Any]:
    return gymnasium.make_vec(
        "AutoTrain-v0", num_envs=2, vectorization_mode="vector_entry_point", **tiny(**kwargs)
    )


@pytest.mark.parametrize("name", WRAPPERS)
def test_gymnasiums_wrappers_take_the_environment_as_it_is(name: str):
    env, plain = WRAPPERS[name](make()), make()
    assert_same(env.unwrapped.core.observation(), plain.unwrapped.core.observation())
    observations, _ = env.reset(seed=3)
    plain.reset(seed=3)
    assert env.observation_space.shape == observations.shape
    ended = 0
    for _ in range(15):
        observations, _, terminated, _, _ = env.step(np.full(2, 2))
        plain.step(np.full(2, 2))
        assert_same(env.unwrapped.core.observation(), plain.unwrapped.core.observation())
        assert np.isfinite(observations).all() and observations.shape == env.observation_space.shape
        ended += terminated.sum()
    assert ended == 4
    if name in NEED_THE_DEFAULT:
        with pytest.raises(ValueError, match="autoreset_mode.*SAME_STEP"):
            WRAPPERS[name](make(autoreset_mode="SameStep"))


def test_the_default_is_gymnasiums_own():
    env = make()
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    own = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert own.metadata["autoreset_mode"] is env.metadata["autoreset_mode"]


def test_a_sampler_as_rllibs_gets_every_step_of_every_episode():
    """It never looks at the mode: the step after an episode's last one brings the next one's first
    observation.

    So does `SingleAgentEnvRunner` of RLlib with `gym_env_vectorize_mode="vector_entry_point"`.
    """
    env, draws = vector.DictInfoToList(make()), [Actions(make().unwrapped, lane) for lane in range(2)]
    observations, _ = env.reset(seed=5)
    done: list[list[list[Any]]] = [[], []]
    ongoing: list[list[Any] | None] = [[observations[lane]] for lane in range(2)]
    while min(map(len, done)) < 3:
        actions = np.array([draw() for draw in draws])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for lane in range(2):
            episode = ongoing[lane]
            if episode is None:  # was reset in this step
                ongoing[lane] = [observations[lane]]
                continue
            episode += [actions[lane], rewards[lane], infos[lane]["score"], observations[lane]]
            if terminated[lane] or truncated[lane]:
                done[lane].append(episode)
                ongoing[lane] = None
    for lane in range(2):
        single = gymnasium.make("AutoTrain-v0", **tiny())
        observation, _ = single.reset(seed=5 + lane)
        for episode in done[lane]:
            assert_same(episode[0], observation)
            for action, reward, score, after in zip(*(episode[i::4] for i in (1, 2, 3, 4)), strict=True):
                observation, expected, terminated, _, info = single.step(action)
                assert (reward, score) == (expected, info["score"])
                assert_same(after, observation)
            assert terminated
            observation, _ = single.reset()
