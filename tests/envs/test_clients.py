"""Software of others on the environment as it is: Gymnasium's wrappers, torchrl, RL Baselines3 Zoo.

Gymnasium's RecordEpisodeStatistics is tried in test_env.py and test_vector_env.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as vector_wrappers

from agents.training.hyperparameters import HYPERPARAMETERS
from tests.helpers import tiny

ROOT = Path(__file__).resolve().parents[2]
# Those that Gymnasium's own wrappers of observations can do.
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]


def make_vec(mode: AutoresetMode, num_envs: int = 3) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec("AutoTrain-v0", num_envs=num_envs, autoreset_mode=mode, **tiny())


def play(env: gymnasium.Env, seed: int = 0) -> tuple[list[float], dict]:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    rewards, over = [], False
    while not over:
        _, reward, terminated, truncated, info = env.step(2)  # train on at the same rate
        rewards.append(float(reward))
        over = terminated or truncated
    return rewards, info


# --- Gymnasium ---


@pytest.mark.parametrize("layout", ["stacked", "flat"])
def test_flat_observations(layout: str):
    plain = gymnasium.make("AutoTrain-v0", **tiny(observation_layout=layout))
    flat = wrappers.FlattenObservation(gymnasium.make("AutoTrain-v0", **tiny(observation_layout=layout)))
    expected, found = plain.reset(seed=3)[0], flat.reset(seed=3)[0]
    assert flat.observation_space.shape == (np.prod(plain.observation_space.shape),)
    np.testing.assert_array_equal(found, expected.ravel())
    assert flat.observation_space.contains(flat.step(2)[0])


def test_normalized_observations():
    env = wrappers.NormalizeObservation(gymnasium.make("AutoTrain-v0", **tiny()))
    seen = []
    for seed in range(20):
        env.reset(seed=seed)
        for _ in range(2):
            seen.append(env.step(2)[0])
    late = np.stack(seen[20:])
    assert np.isfinite(late).all() and abs(late.mean()) < 0.3


def test_a_time_limit():
    env = wrappers.TimeLimit(gymnasium.make("AutoTrain-v0", **tiny()), max_episode_steps=2)
    rewards, info = play(env)
    assert len(rewards) == 2 and "test_accuracy" in info


@pytest.mark.parametrize("mode", MODES)
def test_vector_flat_observations(mode: AutoresetMode):
    env, plain = vector_wrappers.FlattenObservation(make_vec(mode)), make_vec(mode)
    np.testing.assert_array_equal(env.reset(seed=1)[0], plain.reset(seed=1)[0].reshape(3, -1))
    for _ in range(2):
        found, expected = env.step(np.full(3, 2))[0], plain.step(np.full(3, 2))[0]
        np.testing.assert_array_equal(found, expected.reshape(3, -1))
    assert env.observation_space.contains(found.astype(np.float32))


def test_vector_normalized_observations():
    env = vector_wrappers.NormalizeObservation(make_vec(AutoresetMode.NEXT_STEP))
    env.reset(seed=0)
    seen = np.stack([env.step(np.full(3, 2))[0] for _ in range(20)])
    assert np.isfinite(seen).all() and abs(seen[5:].mean()) < 0.5


# --- others ---


@pytest.mark.clients
@pytest.mark.parametrize("layout", ["stacked", "flat"])
def test_torchrl_accepts_the_environment(layout: str):
    envs = pytest.importorskip("torchrl.envs")
    kwargs = tiny(observation_layout=layout)
    kwargs.pop(
        "batch_size"
    )  # torchrl has an argument of that name; GymWrapper(gymnasium.make(...)) has not
    env = envs.GymEnv("autotrain_env:AutoTrain-v0", **kwargs | {"train_size": 64})
    envs.check_env_specs(env)
    rollout = env.rollout(10)
    assert rollout["next", "done"][-1].item() and rollout["next", "reward"].isfinite().all()


@pytest.mark.clients
@pytest.mark.parametrize("num_envs", [1, 3])
def test_torchrl_accepts_the_vector_environment(num_envs: int):
    """In the mode in which torchrl resets by itself; in others it cannot read nested infos."""
    envs = pytest.importorskip("torchrl.envs")
    env = envs.GymWrapper(make_vec(AutoresetMode.DISABLED, num_envs))
    envs.check_env_specs(env)
    assert env.batch_size == (num_envs,)
    rollout = env.rollout(10, break_when_any_done=False)
    assert rollout.batch_size == (num_envs, 10) and rollout["next", "done"].any()


@pytest.mark.clients
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_the_zoo_trains_with_the_shipped_hyperparameters(algorithm: str, tmp_path: Path):
    pytest.importorskip("rl_zoo3")
    command = [
        *(sys.executable, "-m", "rl_zoo3.train", "--algo", algorithm, "--env", "AutoTrain-v0"),
        *("--gym-packages", "autotrain_env", "--conf-file", str(HYPERPARAMETERS / f"{algorithm}.yml")),
        *("--n-timesteps", "200", "--log-folder", str(tmp_path), "--eval-freq", "-1", "--seed", "1"),
        *("--hyperparams", "n_envs:2", "--env-kwargs", "budget:60", "observation_layout:'flat'"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("AutoTrain-v0.zip"))
