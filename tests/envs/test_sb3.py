"""Stable-Baselines3 on the batched core."""

import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

import autotrain_env
from agents.training.callbacks import CurriculumCallback
from agents.training.export import export_policy
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from autotrain_env import Curriculum, TaskDistribution
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import Constant
from autotrain_env.process.actions import ACTION_NUMBERS
from tests.helpers import tiny

SMALL = {"budget": 60, "observation_layout": "flat"}


def test_lanes_are_those_of_the_vector_environment() -> None:
    env = make_sb3_env(num_envs=3, **SMALL)
    plain = gymnasium.make_vec("AutoTrain-v0", num_envs=3, autoreset_mode="SameStep", **SMALL)
    env.seed(5)
    observations, _ = plain.reset(seed=5)
    np.testing.assert_array_equal(env.reset(), observations)
    generator = np.random.default_rng(0)
    for _ in range(7):
        actions = generator.integers(0, 20, size=3)
        observations, rewards, terminated, truncated, _ = plain.step(actions)
        sb3_observations, sb3_rewards, dones, _ = env.step(actions)
        np.testing.assert_array_equal(sb3_observations, observations)
        np.testing.assert_array_equal(sb3_rewards, rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, terminated | truncated)


def test_the_end_of_an_episode_and_its_statistics() -> None:
    env = make_sb3_env(num_envs=2, **SMALL)
    assert isinstance(env, VecMonitor)
    env.seed(0)
    env.reset()
    stop = env.action_space.n - 1
    rewards = []
    for actions in ([2, 2], [2, stop]):
        observations, reward, dones, infos = env.step(np.array(actions))
        rewards.append(reward)
    assert dones.tolist() == [False, True]
    end = infos[1]
    assert end["action"] == ACTION_NUMBERS["stop"] and 0 <= end["test_accuracy"] <= 1
    assert end["terminal_observation"].shape == env.observation_space.shape
    assert not np.array_equal(end["terminal_observation"], observations[1])
    assert end["TimeLimit.truncated"] is False
    assert end["episode"]["l"] == 2
    assert end["episode"]["r"] == pytest.approx(rewards[0][1] + rewards[1][1], abs=1e-5)
    assert "episode" not in infos[0] and "test_accuracy" not in infos[0]
    assert env.venv.reset_infos[1]["action"] == ACTION_NUMBERS["reset"]


def test_truncation_is_told_from_termination() -> None:
    env = make_sb3_env(num_envs=2, truncate_after=1, **SMALL)
    env.reset()
    _, _, dones, infos = env.step(np.array([2, env.action_space.n - 1]))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]


def test_attributes_and_methods_of_lanes() -> None:
    env = make_sb3_env(num_envs=3, **SMALL)
    env.reset()
    masks = np.stack(env.env_method("action_masks"))
    assert masks.shape == (3, env.action_space.n) and masks.all()
    assert len(env.env_method("action_masks", indices=[1])) == 1
    np.testing.assert_array_equal(env.get_attr("action_masks")[2](), masks[2])
    assert env.get_attr("config", indices=0)[0].budget == 60
    with pytest.raises(NotImplementedError, match="set_attr"):
        env.set_attr("config", None)


def test_tasks_by_options() -> None:
    from autotrain_env import Task

    env = make_sb3_env(num_envs=2, **SMALL)
    env.set_options({"task": Task(initial_learning_rate=0.25, budget=60)})
    env.reset()
    assert [info["learning_rate"] for info in env.venv.reset_infos] == [0.25, 0.25]


@pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, pytest.param(SubprocVecEnv, marks=pytest.mark.slow)])
def test_plain_make_vec_env(vec_env_cls: type) -> None:
    env_id = "autotrain_env:AutoTrain-v0"  # so that a child process, too, imports the package
    env = make_vec_env(env_id, n_envs=2, seed=3, env_kwargs=SMALL, vec_env_cls=vec_env_cls)
    ours = make_sb3_env(num_envs=2, **SMALL)
    ours.seed(3)
    np.testing.assert_array_equal(env.reset(), ours.reset())
    for action in (0, 7, 2, 3):
        observations, rewards, dones, infos = env.step(np.array([action, action]))
        our_observations, our_rewards, our_dones, our_infos = ours.step(np.array([action, action]))
        np.testing.assert_array_equal(observations, our_observations)
        np.testing.assert_array_equal(rewards.astype(np.float32), our_rewards)
        np.testing.assert_array_equal(dones, our_dones)
        assert [info["action"] for info in infos] == [info["action"] for info in our_infos]
    env.close()


def test_maskable_ppo_never_takes_an_impossible_action() -> None:
    env = make_sb3_env(num_envs=4, **SMALL)
    impossible = []

    class Watch(CurriculumCallback):
        def _on_step(self) -> bool:
            impossible.extend(info.get("rewind_impossible", False) for info in self.locals["infos"])
            return True

    model = MaskablePPO("MlpPolicy", env, n_steps=8, batch_size=32, gamma=1.0, seed=0, device="cpu")
    model.learn(128, callback=Watch(Curriculum((TaskDistribution(budget=60),)), 0.5))
    assert len(impossible) >= 128 and not any(impossible)


def test_the_curriculum_follows_success() -> None:
    easy, hard = TaskDistribution(budget=60, initial_learning_rate=0.05), TaskDistribution(budget=60)
    curriculum = Curriculum((easy, hard))
    env = make_sb3_env(num_envs=4, tasks=curriculum, observation_layout="flat")
    model = PPO("MlpPolicy", env, n_steps=6, batch_size=24, seed=0, device="cpu")
    callback = CurriculumCallback(curriculum, success_score=0.0, window=4)
    model.learn(24, callback=callback)
    assert callback.level == 1
    assert env.get_attr("core")[0].maker.task_level == 1


@pytest.mark.parametrize(
    ("kwargs", "n_steps", "train_steps"),
    [
        (tiny(initial_learning_rate=0.01, validation_size=80), 6, 1920),
        pytest.param({"budget": 200}, 10, 12_800, marks=pytest.mark.slow),
    ],
    ids=["low rates", "digits"],
)
def test_ppo_learns(kwargs: dict[str, Any], n_steps: int, train_steps: int) -> None:
    """On a small task a little training beats acting at random and leaving the rate alone."""
    kwargs = kwargs | {"reward": {"improvement": 5.0}, "observation_layout": "flat"}
    env = make_sb3_env(num_envs=32, **kwargs)
    hyperparameters = load_hyperparameters("ppo", "AutoTrain-v0")
    model = make_model("ppo", env, hyperparameters, 0, n_steps=n_steps, batch_size=32 * n_steps)
    model.learn(train_steps)
    target = gymnasium.make_vec("AutoTrain-v0", num_envs=32, autoreset_mode="Disabled", **kwargs)
    scores = {
        name: evaluate_policy(target, policy, 64, seed=10**6)["score"]
        for name, policy in {
            "agent": export_policy(model),
            "random": RandomAgent(),
            "constant": Constant(),
        }.items()
    }
    for other in ("random", "constant"):
        lead = scores["agent"] - scores[other]
        standard_error = lead.std() / np.sqrt(len(lead))
        assert lead.mean() > 2 * standard_error, (other, lead.mean(), standard_error)


def test_without_stable_baselines3_the_public_name_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.vec_env", None)
    monkeypatch.delitem(sys.modules, "autotrain_env.envs.sb3")
    with pytest.raises(ImportError, match="needs Stable-Baselines3: install it with `pip install"):
        autotrain_env.make_sb3_env  # noqa: B018


def test_without_stable_baselines3_everything_else_is_there() -> None:
    """Also where all names are imported at once."""
    script = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "hidden = 'stable_baselines3'\n"
        "importlib.util.find_spec = lambda name, *a: None if name == hidden else found(name, *a)\n"
        "sys.modules[hidden] = None\n"
        "from autotrain_env import *\n"
        "assert load_policy and 'make_sb3_env' not in dir()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
