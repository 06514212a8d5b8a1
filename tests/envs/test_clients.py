"""Software of others on the environment as it is.

Gymnasium's wrappers, single-file algorithms, torchrl, RL Baselines3 Zoo, Tianshou, RLlib and d3rlpy; those
that are not installed are left out. Gymnasium's RecordEpisodeStatistics is tried in test_env.py and
test_vector_env.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env
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


@pytest.mark.parametrize("env_id", ["AutoTrain-v0", "AutoTrainFlat-v0", "AutoTrainContinuous-v0"])
def test_gymnasiums_checker_plays_whole_episodes(env_id: str):
    """It compares the last information of two short episodes."""
    check_env(gymnasium.make(env_id, budget=20).unwrapped, skip_render_check=True)


def test_information_as_tensors():
    pytest.importorskip("array_api_compat")
    env = wrappers.NumpyToTorch(gymnasium.make("AutoTrain-v0", **tiny()))
    env.reset(seed=0)
    over = False
    while not over:
        *_, over, _, info = env.step(torch.tensor(2))
    assert 0 <= info["test_accuracy"] <= 1


def test_vector_information_as_tensors():
    pytest.importorskip("array_api_compat")
    env = vector_wrappers.NumpyToTorch(make_vec(AutoresetMode.NEXT_STEP))
    env.reset(seed=0)
    for _ in range(8):  # past the end of the episodes
        *_, info = env.step(torch.tensor([2, 2, 2]))
    assert isinstance(info["action"], torch.Tensor)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_lanes_of_gymnasiums_own_vector_environments(mode: AutoresetMode):
    """Each is the lane of ours, whose final information they stack."""
    envs = gymnasium.make_vec(
        "AutoTrain-v0",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **tiny(),
    )
    ours = make_vec(mode, 2)
    for made in (envs, ours):
        made.reset(seed=3)
    for _ in range(8):
        found, expected = envs.step([2, 2]), ours.step(np.array([2, 2]))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        info, final = found[4], "final_info" if mode == AutoresetMode.SAME_STEP else None
        last = info.get(final, {}) if final else info
        if "test_accuracy" in last:
            wanted = expected[4][final] if final else expected[4]
            np.testing.assert_array_equal(last["test_accuracy"], wanted["test_accuracy"])


# --- others ---


FLAT = ["AutoTrainFlat-v0", "AutoTrainContinuousFlat-v0"]


def test_a_single_file_ppo_takes_an_id():
    """As CleanRL's: observations go into a linear layer as they are."""
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: wrappers.RecordEpisodeStatistics(gymnasium.make(FLAT[0])) for _ in range(2)]
    )
    network = torch.nn.Linear(
        int(np.prod(envs.single_observation_space.shape)), int(envs.single_action_space.n)
    )
    observations, _ = envs.reset(seed=1)
    for _ in range(33):
        logits = network(torch.tensor(observations))
        actions = torch.distributions.Categorical(logits=logits).sample().numpy()
        observations, rewards, *_ = envs.step(actions)
        assert rewards.shape == (2,)


def test_a_single_file_td3_takes_an_id():
    """As CleanRL's: observations and actions of a replay buffer are put side by side."""
    from stable_baselines3.common.buffers import ReplayBuffer

    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(FLAT[1])])
    spaces = envs.single_observation_space, envs.single_action_space
    buffer = ReplayBuffer(100, *spaces, "cpu", handle_timeout_termination=False)
    critic = torch.nn.Linear(sum(int(np.prod(space.shape)) for space in spaces), 1)
    observations, _ = envs.reset(seed=1)
    for _ in range(33):
        actions = envs.action_space.sample()
        following, rewards, terminated, _, info = envs.step(actions)
        buffer.add(observations, following, actions, rewards, terminated, info)
        observations = following
    sample = buffer.sample(16)
    assert critic(torch.cat([sample.observations, sample.actions], 1)).isfinite().all()


@pytest.mark.clients
@pytest.mark.parametrize("kind", ["DummyVectorEnv", "SubprocVectorEnv"])
@pytest.mark.parametrize("env_id", ["AutoTrain-v0", *FLAT])
def test_tianshou_collects_into_its_buffer(env_id: str, kind: str):
    """Whole episodes, whose information stacks: nothing is missing, nothing is an object."""
    pytest.importorskip("tianshou.algorithm")
    from tianshou.algorithm.algorithm_base import Policy
    from tianshou.data import Batch, Collector, VectorReplayBuffer, to_torch
    from tianshou.env import venvs

    class Random(Policy):
        def forward(self, batch: Batch, state: object = None, **_: object) -> Batch:
            return Batch(act=np.stack([self.action_space.sample() for _ in range(len(batch.obs))]))

    envs = getattr(venvs, kind)([lambda: gymnasium.make(env_id, **tiny()) for _ in range(2)])
    single = gymnasium.make(env_id, **tiny())
    policy = Random(action_space=single.action_space, observation_space=single.observation_space)
    buffer = VectorReplayBuffer(200, 2)
    collector = Collector(policy, envs, buffer)
    collector.reset()
    assert collector.collect(n_step=40).n_collected_steps == 40
    leaves = {name: value for name, value in buffer.info.items() if not isinstance(value, Batch)}
    assert "learning_rate" in leaves and "test_accuracy" in leaves
    for name, value in leaves.items():
        assert value.dtype != object, name
        assert not np.isnan(value[:20]).any(), name
    to_torch(buffer.sample(16)[0])
    envs.close()


@pytest.mark.clients
@pytest.mark.parametrize(
    ("env_id", "runners"),
    [
        (FLAT[0], {}),
        (FLAT[1], {}),
        (FLAT[0], {"num_envs_per_env_runner": 2}),
        (FLAT[0], {"num_envs_per_env_runner": 2, "gym_env_vectorize_mode": "vector_entry_point"}),
    ],
    ids=str,
)
def test_rllib_trains_on_an_id(env_id: str, runners: dict):
    pytest.importorskip("ray.rllib.algorithms.ppo")
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    config = PPOConfig().environment(env_id).env_runners(num_env_runners=0, **runners)
    config = config.training(train_batch_size=64, minibatch_size=32, num_epochs=1)
    algorithm = config.build_algo()
    assert algorithm.train()["env_runners"]["num_env_steps_sampled"] >= 64
    algorithm.stop()
    ray.shutdown()


@pytest.mark.clients
@pytest.mark.parametrize("env_id", FLAT)
def test_d3rlpy_trains_on_an_id(env_id: str):
    d3rlpy = pytest.importorskip("d3rlpy")
    env = gymnasium.make(env_id)
    config = d3rlpy.algos.DQNConfig if env_id == FLAT[0] else d3rlpy.algos.SACConfig
    algorithm = config(batch_size=16).create(device="cpu")
    algorithm.fit_online(
        env,
        d3rlpy.dataset.create_fifo_replay_buffer(1000, env=env),
        n_steps=60,
        n_steps_per_epoch=60,
        update_start_step=20,
        save_interval=10**6,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )


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
