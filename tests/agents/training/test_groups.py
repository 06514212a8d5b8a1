"""Lanes in groups that meet the same tasks, and what their advantages are compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.runs.folder import RunConfig
from agents.training.callbacks import Keeper
from agents.training.groups import GROUPED, check_groups, less_common
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from agents.training.session import train
from autotrain_env import AutoTrainConfig
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.errors import InvalidValueError
from tests.helpers import assert_same, tiny
from tests.helpers.runs import SMALL, assert_same_runs, begun, draw_elsewhere, silent


def lanes(group_size: int, **more: Any) -> Any:
    kwargs = tiny(observation_layout="flat", stop=False, tasks="default") | more
    return make_sb3_env("AutoTrain-v0", 6, group_size=group_size, **kwargs)


def test_lanes_of_a_group_meet_the_same_tasks_in_step():
    env = lanes(3)
    env.seed(4)
    first = env.reset()
    core = env.get_attr("core")[0]
    generator = np.random.default_rng(0)
    seeds = set()
    for step in range(25):
        episodes = [(episode.seed, episode.task.initial_learning_rate) for episode in core.episodes]
        assert episodes[0:3] == episodes[:1] * 3 and episodes[3:6] == episodes[3:4] * 3
        assert episodes[0] != episodes[3]
        assert len({*core.lanes.steps[:3].tolist()}) == len({*core.lanes.steps[3:].tolist()}) == 1
        seeds |= {seed for seed, _ in episodes}
        observations, _, dones, _ = env.step(generator.integers(0, 16, 6))
        assert step or len(np.unique(observations[:3], axis=0)) > 1
        assert dones[:3].all() or not dones[:3].any()
    assert len(seeds) > 4
    assert_same(first[0], first[1])
    assert not np.array_equal(first[0], first[3])


def test_the_first_lanes_of_groups_are_seeded_as_lanes_without_groups():
    alone, grouped = lanes(1), lanes(2)
    for env in (alone, grouped):
        env.seed(9)
    assert_same(grouped.reset()[::2], alone.reset()[:3])


def test_what_a_group_has_in_common_is_taken_off():
    advantages = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    shared = np.repeat(np.random.default_rng(1).normal(size=(5, 2)) * 100, 3, axis=1)
    found = less_common(advantages, 3)
    assert found.shape == (5, 6)
    np.testing.assert_allclose(found[:, :3].sum(1), 0, atol=1e-6)
    np.testing.assert_allclose(less_common(advantages + shared, 3), found, atol=1e-4)
    expected = advantages[2, 4] - advantages[2, 3:].mean()
    np.testing.assert_allclose(found[2, 4], expected, rtol=1e-5)


@pytest.mark.parametrize("algorithm", GROUPED)
def test_a_rollout_is_compared_and_the_critic_keeps_its_targets(algorithm: str):
    given = {"n_steps": 8, "batch_size": 16, "normalize_advantage": False, "n_epochs": 1}
    rollouts = []
    for group_size in (1, 3):
        env = lanes(3)
        known = load_hyperparameters(algorithm, "AutoTrain-v0")
        model = make_model(algorithm, env, known, seed=0, group_size=group_size, **given)
        model.learn(48)
        rollouts.append(model.rollout_buffer)
    plain, grouped = (
        {name: getattr(buffer, name) for name in ("advantages", "returns")} for buffer in rollouts
    )
    np.testing.assert_array_equal(grouped["returns"], plain["returns"])
    # flattened by then: all steps of a lane, lane after lane
    expected = less_common(plain["advantages"].reshape(6, 8).T, 3).T.reshape(-1, 1)
    np.testing.assert_allclose(grouped["advantages"], expected, atol=1e-6)
    assert np.abs(grouped["advantages"] - plain["advantages"]).max() > 1e-3


@pytest.mark.parametrize(
    ("algorithm", "group_size", "stop", "message"),
    [
        ("ppo", 4, False, "group_size=4 is not allowed: it must be a divisor of num_envs=6"),
        ("ppo", 3, True, "group_size=3 is not allowed: it must be 1 unless env.stop=False"),
        ("dqn", 3, False, "group_size=3 is not allowed: it must be 1 but for ppo, maskable_ppo"),
        ("ppo", 0, False, "group_size=0 is not allowed"),
    ],
)
def test_groups_that_cannot_be(algorithm: str, group_size: int, stop: bool, message: str):
    with pytest.raises(InvalidValueError, match=message):
        check_groups(algorithm, group_size, 6, AutoTrainConfig(stop=stop))


def test_a_model_compares_no_lanes_that_met_different_tasks():
    known = load_hyperparameters("ppo", "AutoTrain-v0")
    with pytest.raises(InvalidValueError, match="group_size=3 .* that of the environment's lanes, 1"):
        make_model("ppo", lanes(1), known, group_size=3, n_steps=8, batch_size=16)


def test_an_environment_refuses_groups_that_are_not_whole():
    with pytest.raises(InvalidValueError, match="group_size=4 is not allowed: .* a divisor of num_envs=6"):
        lanes(4)


@pytest.mark.parametrize("algorithm", GROUPED)
def test_a_resumed_run_in_groups_equals_an_uninterrupted_one(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = RunConfig(
        algorithm=algorithm,
        env_id="AutoTrain-v0",
        env=SMALL | {"stop": False},
        num_envs=4,
        seed=3,
        train_steps=96,
        checkpoint_steps=24,
        evaluation_episodes=2,
        hyperparameters={
            **{"policy": "MlpPolicy", "n_steps": 6, "gamma": 1.0},
            **{"batch_size": 6, "n_epochs": 2, "group_size": 2},
        },
    )
    whole, parts = begun(tmp_path / "whole", config), begun(tmp_path / "parts", config)
    train(config, whole, silent)
    on_step = Keeper._on_step

    def fail(self: Keeper) -> bool:
        if self.model.num_timesteps >= 60:
            raise RuntimeError("the power went off")
        return on_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_on_step", fail)
        with pytest.raises(RuntimeError, match="power"):
            train(config, parts, silent)
    draw_elsewhere()
    train(config, parts, silent, resume=True)
    assert_same_runs(whole, parts)
