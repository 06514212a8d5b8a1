"""The scalar environment as Gymnasium and Stable-Baselines3 see it, and its `info`."""

import copy
import math
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

import autotrain_env
from autotrain_env import AutoTrainEnv, Task
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.observations import METRICS
from autotrain_env.process.record import History
from tests.helpers import ACTION_TYPES, IDS, Actions, assert_same, lane_of, leaves, tiny, weights

# All ids, and all action types that they do not have by themselves.
VARIANTS = [(env_id, {}) for env_id in IDS]
VARIANTS += [("AutoTrain-v0", {"action_type": name}) for name in ACTION_TYPES[1:]]
VARIANTS += [("AutoTrainPrototype-v0", {"action_type": "multi_discrete"})]
VARIANTS += [("AutoTrainRISA-v0", {"lr_factors": (0.2, 0.8, 1.2, 1.8), "stop": False})]
variants = pytest.mark.parametrize(
    ("env_id", "kwargs"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
layouts = pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [*VARIANTS, ("AutoTrain-v0", {"observation_layout": "flat"})],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
clones = pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])

STEP_KEYS = {
    "score": float,
    "train_score": float,
    "holdout_answer": float,
    "learning_rate": float,
    "lr_factor": float,
    "updates": int,
    "holdout_queries": int,
    "holdout_exhausted": bool,
    "diverged": bool,
    "rewind": int,
    "rewind_impossible": bool,
    "reinit": bool,
    "stop": bool,
    "action": int,
    "reward_terms": dict,
}
END_KEYS = {
    "test_accuracy": float,
    "test_loss": float,
    "test_balanced_accuracy": float,
    "best_holdout_test_balanced_accuracy": float,
    "best_holdout_test_accuracy": float,
    "best_holdout_test_loss": float,
}


# Gymnasium and Stable-Baselines3 -------------------------------------------------------------------


@layouts
def test_gymnasiums_checker_has_nothing_to_say(env_id: str, kwargs: dict[str, Any]):
    env = gymnasium.make(env_id, **tiny(**kwargs)).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)


@pytest.mark.parametrize("env_id", ["AutoTrain-v0", "AutoTrainContinuous-v0"])
def test_gymnasiums_checker_has_nothing_to_say_of_pictures(env_id: str):
    env = gymnasium.make(env_id, **tiny()).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_a_checked_environment_renders_after_reset_and_after_every_step(render_mode: str):
    env = gymnasium.make("AutoTrain-v0", render_mode=render_mode, **tiny())
    env.reset(seed=0)
    for action in (2, 5, 15, 16):  # train, rewind, re-init, stop
        picture = env.render()
        if render_mode == "ansi":
            assert isinstance(picture, str) and picture
        else:
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        env.step(action)
    assert env.render() is not None


@variants
def test_stable_baselines3s_checker_has_nothing_to_say_of_the_flat_layout(
    env_id: str, kwargs: dict[str, Any]
):
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env = gymnasium.make(env_id, **tiny(observation_layout="flat", **kwargs)).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_for_sb3(env)


@pytest.mark.parametrize("env_id", [name for name in IDS if "Flat" in name])
def test_stable_baselines3s_checker_has_nothing_to_say_of_flat_ids(env_id: str):
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_for_sb3(gymnasium.make(env_id))


@pytest.mark.parametrize(("env_id", "kwargs"), [case for case in VARIANTS if "Flat" not in case[0]])
def test_stable_baselines3s_checker_remarks_only_on_shape_in_the_other_layout(
    env_id: str, kwargs: dict[str, Any]
):
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    remarks = (
        r"your observation  is an image but its `dtype` is \(float32\)",
        r"your observation space  is an image but the upper and lower bounds are not in \[0, 255\]",
        r"The minimal resolution for an image is 36x36",
        r"Treating image space as channels-last",
        r"has an unconventional shape \(neither an image, nor a 1D vector\)",
    )
    env = gymnasium.make(env_id, **tiny(**kwargs)).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_for_sb3(env)
    assert caught  # else the flat layout would not be needed
    for warning in caught:
        assert any(re.search(remark, str(warning.message)) for remark in remarks), warning.message


@layouts
def test_spaces_contain_what_is_returned(env_id: str, kwargs: dict[str, Any]):
    env = gymnasium.make(env_id, **tiny(**kwargs))
    draw = Actions(env, 0)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            assert observation in env.observation_space and np.isfinite(observation).all()
            observation, reward, terminated, truncated, _ = env.step(draw())
            assert type(reward) is float and math.isfinite(reward)
            assert type(terminated) is bool and truncated is False
            ended = terminated
        assert observation in env.observation_space


@pytest.mark.usefixtures("each_backend")
@variants
def test_the_same_seed_and_actions_give_the_same_rollout(env_id: str, kwargs: dict[str, Any]):
    def rollout() -> list[Any]:
        env = gymnasium.make(env_id, **tiny(**kwargs))
        draw = Actions(env, 3, stop=False)
        results: list[Any] = [env.reset(seed=11)]
        for _ in range(15):
            results.append(env.step(draw()))
            if results[-1][2]:
                results.append(env.reset())  # the second episode follows from the seed, too
        return [*results, weights(env)]

    first, second = rollout(), rollout()
    assert_same(first, second)
    assert any(len(result) == 2 for result in first[1:-1])  # an episode ended


def test_another_seed_gives_another_episode(tiny_env: Any):
    env = tiny_env()
    observations = [env.reset(seed=seed)[0] for seed in (0, 1)] + [env.reset()[0]]
    for i in range(3):
        assert not np.array_equal(observations[i], observations[i - 1])


@clones
@pytest.mark.parametrize(
    ("env_id", "kwargs"), [("AutoTrain-v0", {}), ("AutoTrainContinuous-v0", {}), ("AutoTrainRISA-v0", {})]
)
def test_a_copy_made_in_mid_episode_continues_identically(env_id: str, kwargs: dict[str, Any], clone: Any):
    env = gymnasium.make(env_id, **tiny(**kwargs)).unwrapped
    env.reset(seed=4)
    draw = Actions(env, 4, stop=False)
    for _ in range(3):
        env.step(draw())
    twin = clone(env)
    assert twin.core is not env.core
    steps = 0
    for _ in range(9):  # past the end of the episode, into the next
        action = draw()
        mine, others = env.step(action), twin.step(action)
        assert_same(mine, others)
        assert_same(weights(env), weights(twin))
        if mine[2]:
            assert_same(env.reset(), twin.reset())
        steps += 1
    assert steps == 9


def test_copies_share_the_data_but_no_state(tiny_env: Any):
    env = tiny_env()
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    assert twin.core.episodes[0].dataset is env.core.episodes[0].dataset
    before = weights(env)
    twin.step(2)
    assert_same(weights(env), before)
    assert any(not np.array_equal(before[name], value) for name, value in weights(twin).items())


def test_every_registered_spec_makes_both_kinds_and_round_trips():
    specs = [spec for spec in gymnasium.registry.values() if "autotrain_env" in str(spec.entry_point)]
    assert {spec.id for spec in specs} == set(IDS) and len(IDS) == 7
    for spec in specs:
        env = gymnasium.make(pickle.loads(pickle.dumps(spec)))
        assert isinstance(env.unwrapped, AutoTrainEnv)
        num_metrics = 12 if spec.id == "AutoTrainRuns-v0" else len(METRICS)
        shape = (4 * 5 * num_metrics,) if "Flat" in spec.id else (4, 5, num_metrics)
        assert env.reset(seed=0)[0].shape == shape
        vector_env = gymnasium.make_vec(spec, num_envs=3)
        assert vector_env.reset(seed=0)[0].shape == (3, *shape)
        assert isinstance(vector_env.unwrapped, autotrain_env.AutoTrainVectorEnv)
        again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        assert_same(again.reset(seed=0), env.reset(seed=0))


def test_make_imports_the_package_by_itself_and_pictures_leave_pyplot_alone():
    script = (
        "import gymnasium, sys\n"
        "assert 'autotrain_env' not in sys.modules\n"
        "env = gymnasium.make('autotrain_env:AutoTrain-v0', render_mode='rgb_array')\n"
        "vec = gymnasium.make_vec('autotrain_env:AutoTrain-v0', num_envs=2)\n"
        "print(env.reset(seed=0)[0].shape, vec.reset(seed=0)[0].shape, env.render().shape)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(autotrain_env.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout.strip()) == (0, "(4, 5, 9) (2, 4, 5, 9) (640, 720, 3)"), (
        done.stderr
    )


TERMINAL = {"reward": {"improvement": 1.0, "terminal_score": 2.0}, "history_in_info": True}


def make_limited(way: str, steps: int) -> gymnasium.Env:
    """An environment that ends after so many steps, by another way each."""
    if way == "make":
        return gymnasium.make("AutoTrain-v0", max_episode_steps=steps, **tiny(**TERMINAL))
    if way == "spec":
        spec = copy.deepcopy(gymnasium.spec("AutoTrain-v0"))
        spec.max_episode_steps = steps
        return gymnasium.make(spec, **tiny(**TERMINAL))
    if way == "wrapper":
        return TimeLimit(RecordEpisodeStatistics(AutoTrainEnv(**tiny(**TERMINAL))), steps)
    if way == "two wrappers":
        return TimeLimit(gymnasium.make("AutoTrain-v0", max_episode_steps=steps, **tiny(**TERMINAL)), 9)
    if way == "both":
        kwargs = tiny(**TERMINAL, truncate_after=5)
        return gymnasium.make("AutoTrain-v0", max_episode_steps=steps, **kwargs)
    if way == "class":
        return AutoTrainEnv(max_episode_steps=steps, **tiny(**TERMINAL))
    return gymnasium.make("AutoTrain-v0", truncate_after=steps, **tiny(**TERMINAL))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    "way", ["make", "spec", "wrapper", "two wrappers", "both", "class", "truncate_after"]
)
def test_max_episode_steps_has_one_meaning(way: str, steps: int):
    """That of the vector environment, whose last step it is compared with: final figures and all."""
    envs = gymnasium.make_vec(
        "AutoTrain-v0",
        num_envs=1,
        max_episode_steps=steps,
        autoreset_mode="Disabled",
        **tiny(**TERMINAL),
    )
    envs.reset(seed=5)
    env = make_limited(way, steps)
    for seed in (5, None):
        env.reset(seed=seed)
        for step in range(steps):
            *_, reward, terminated, truncated, info = env.step(2)
            assert (terminated, truncated) == (False, step == steps - 1)
            if seed is not None:
                *_, expected = envs.step(np.array([2]))
        assert END_KEYS.keys() | {"history"} < info.keys()
        if seed is not None:
            info.pop("episode", None)
            assert_same(info, lane_of(expected, 0))
    with pytest.raises(ResetNeeded):
        env.unwrapped.step(2)


def test_a_time_limit_taken_off_again_is_forgotten(tiny_env: Any):
    env = tiny_env()
    TimeLimit(env, 2).reset(seed=0)
    env.step(2)
    assert env.step(2)[3]
    env.reset(seed=0)
    assert [env.step(2)[2:4] for _ in range(6)] == [(False, False)] * 5 + [(True, False)]
    gymnasium.make_vec("AutoTrain-v0", max_episode_steps=-1, **tiny()).reset()  # as `make` has it


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize("steps", [0, -2, 2.5])
def test_an_impossible_time_limit_is_refused(make: Any, steps: Any):
    with pytest.raises((ValueError, TypeError), match="max_episode_steps"):
        make("AutoTrain-v0", max_episode_steps=steps, **tiny())


def test_truncate_after_truncates_with_final_figures(tiny_env: Any):
    env = tiny_env(truncate_after=2)
    env.reset(seed=0)
    assert env.step(2)[2:4] == (False, False)
    *_, terminated, truncated, info = env.step(2)
    assert (terminated, truncated) == (False, True)
    assert END_KEYS.keys() < info.keys()
    with pytest.raises(ResetNeeded):
        env.step(2)
    env.reset()
    env.step(2)
    assert env.step(16)[2:4] == (True, False)  # stop in the last step: terminated alone
    env = tiny_env(truncate_after=6)
    env.reset(seed=0)
    ends = [env.step(2)[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(True, False)]  # the budget goes before truncation


def test_record_episode_statistics_has_its_key_to_itself(tiny_env: Any):
    env = RecordEpisodeStatistics(gymnasium.make("AutoTrain-v0", **tiny()))
    env.reset(seed=0)
    rewards, info, ended = [], {}, False
    while not ended:
        assert "episode" not in info
        _, reward, ended, _, info = env.step(2)
        rewards.append(reward)
    assert info["episode"]["l"] == 6
    assert info["episode"]["r"] == pytest.approx(sum(rewards))


def test_plain_make_vec_env_with_dummy_vec_env_works():
    from stable_baselines3.common.env_util import make_vec_env

    kwargs = tiny(observation_layout="flat")
    env = make_vec_env("AutoTrain-v0", n_envs=3, seed=5, env_kwargs=kwargs)
    single = gymnasium.make("AutoTrain-v0", **kwargs)
    assert_same(env.reset()[1], single.reset(seed=6)[0])
    for _ in range(5):
        env.step([2, 2, 2])
        single.step(2)
    _, _, dones, infos = env.step([2, 2, 2])
    observation, _, terminated, _, info = single.step(2)
    assert dones.all() and terminated
    assert_same(infos[1]["terminal_observation"], observation)
    assert infos[1]["test_accuracy"] == info["test_accuracy"]
    assert infos[1]["TimeLimit.truncated"] is False
    assert infos[1]["episode"]["l"] == 6  # the monitor's


@pytest.mark.slow
def test_plain_make_vec_env_with_subproc_vec_env_equals_dummy_vec_env():
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    def rollout(kind: Any) -> list[Any]:
        kwargs = tiny(observation_layout="flat")
        env = make_vec_env("AutoTrain-v0", n_envs=2, seed=5, env_kwargs=kwargs, vec_env_cls=kind)
        results: list[Any] = [env.reset()]
        for _ in range(8):
            observations, rewards, dones, infos = env.step([2, 7])
            for info in infos:
                info.get("episode", {}).pop("t", None)  # the monitor's clock
            results.append([observations, rewards.astype(np.float32), dones, list(infos)])
        env.close()
        return results

    assert_same(rollout(SubprocVecEnv), rollout(DummyVecEnv))


# Reset and the end of episodes ---------------------------------------------------------------------


def test_step_before_reset_and_after_the_end_needs_a_reset(tiny_env: Any):
    env = tiny_env()
    with pytest.raises(ResetNeeded, match=r"before reset.*or after the end"):
        env.step(2)
    env.reset(seed=0)
    env.step(16)
    with pytest.raises(ResetNeeded, match=r"before reset.*or after the end"):
        env.step(2)
    with pytest.raises(ResetNeeded):
        gymnasium.make("AutoTrain-v0", **tiny()).step(2)
    env.reset()
    env.step(2)


def test_reset_makes_no_update_and_fills_the_rows(tiny_env: Any):
    env = tiny_env()
    observation, info = env.reset(seed=0)
    assert info["updates"] == 0 and info["holdout_queries"] == 3 and info["action"] == -1
    names = list(METRICS)
    for row in observation:
        assert (row == row[0]).all()  # one measurement, repeated
        assert row[0, names.index("exists")] == 1 and row[0, names.index("diverged")] == 0
        assert row[0, names.index("budget_used")] == row[0, names.index("lineage_updates")] == 0
    assert len({row.tobytes() for row in observation}) == 3  # different networks


def test_initial_states_zeros_leaves_rows_missing(tiny_env: Any):
    env = tiny_env(initial_states="zeros")
    observation, info = env.reset(seed=0)
    assert info["holdout_queries"] == 1
    assert observation[0, 0, -1] == 1 and not observation[1:].any()
    assert env.action_masks().tolist() == [True] * 5 + [False] * 10 + [True] * 2


def test_a_task_given_to_reset_holds_for_that_episode_alone(tiny_env: Any):
    task = Task(
        dataset="digits",
        train_size=50,
        holdout_size=30,
        validation_size=30,
        classifier="linear",
        batch_size=10,
        initial_learning_rate=0.5,
        budget=8,
    )
    env, other = tiny_env(), tiny_env()
    env.reset(seed=3, options={"task": task})
    assert env.core.task(0) == task
    assert weights(env)["1.weight"].shape == (10, 64)
    assert [env.step(2)[2] for _ in range(2)] == [False, True]
    other.reset(seed=3)
    assert_same(env.reset(), other.reset())
    assert env.core.task(0).dataset is other.core.task(0).dataset
    for _ in range(3):
        assert_same(env.step(2), other.step(2))


def test_the_learning_rate_of_a_given_task_is_clipped_to_the_bounds(tiny_env: Any):
    env = tiny_env(lr_bounds=(0.01, 1.0))
    for rate, expected in ((5.0, 1.0), (1e-5, 0.01), (0.3, 0.3)):
        task = Task(
            **{name: tiny()[name] for name in ("dataset", "train_size", "holdout_size")},
            validation_size=40,
            batch_size=8,
            budget=24,
            initial_learning_rate=rate,
        )
        assert env.reset(seed=0, options={"task": task})[1]["learning_rate"] == expected


def test_two_methods_meet_the_same_second_task_whatever_they_did(tiny_env: Any):
    second = []
    for actions in ([16], [2, 16], [15, 15, 16], [5, 10, 4, 4, 4, 4], [0] * 6):
        env = tiny_env(initial_learning_rate=autotrain_env.LogUniform(1e-3, 10.0))
        env.reset(seed=7)
        ended = [env.step(action)[2] for action in actions]
        assert ended[-1] and not any(ended[:-1])
        first_task = env.core.task(0)
        second.append([env.reset(), env.core.task(0), env.step(2)])
        assert env.core.task(0) != first_task
    for other in second[1:]:
        assert_same(other[0], second[0][0])
        assert other[1] == second[0][1]
        assert_same(other[2], second[0][2])  # minibatches and holdout noise, too


# Information ---------------------------------------------------------------------------------------


def check_keys(info: dict[str, Any], ended: bool) -> None:
    expected = STEP_KEYS | (END_KEYS if ended else {})
    assert info.keys() == expected.keys()
    for key, kind in expected.items():
        assert type(info[key]) is kind, key


@variants
def test_information_has_the_documented_keys_and_types(env_id: str, kwargs: dict[str, Any]):
    env = gymnasium.make(env_id, **tiny(**kwargs)).unwrapped
    assert all(f"`{key}`" in AutoTrainEnv.__doc__ for key in [*STEP_KEYS, *END_KEYS])
    draw = Actions(env, 2, stop=False)
    for _ in range(3):
        _, info = env.reset(seed=2)
        check_keys(info, ended=False)
        ended = False
        while not ended:
            _, reward, ended, _, info = env.step(draw())
            check_keys(info, ended)
            assert reward == pytest.approx(sum(info["reward_terms"].values()), abs=1e-12)
            assert info["reward_terms"].keys() == env.config.reward_settings().weights().keys()


def test_the_history_at_the_end_repeats_what_was_shown(tiny_env: Any):
    env = tiny_env(history_in_info=True)
    with pytest.raises(ResetNeeded):
        env.history()
    _, first = env.reset(seed=2)
    shown, rewards = [first], [0.0]
    for action in (2, 5, 15, 4, 7, 16):
        _, reward, ended, _, info = env.step(action)
        shown.append(info)
        rewards.append(reward)
    assert ended
    history = info["history"]
    assert isinstance(history, History) and history == env.history()
    for key in ("score", "train_score", "holdout_answer", "learning_rate", "updates", "rewind", "diverged"):
        assert history[key].tolist() == [step[key] for step in shown], key
    assert [step["action"] for step in shown] == [-1, 0, 1, 2, 0, 1, 3]
    words = ["reset", "lr kept", "rewind 1, lr x0.2", "reinit, lr kept", "lr x1.8", "rewind 1, lr kept"]
    assert history["action"].tolist() == [*words, "stop"]
    assert history["reward"].tolist() == rewards
    assert history["reinit"].tolist() == [False, False, False, True, False, False, False]
    assert history["stop"].tolist() == [False] * 6 + [True]
    assert history["rewind"].tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert history["updates"].tolist() == [0, 4, 8, 12, 16, 20, 20]
    assert history["loss"].shape == history["batch_accuracy"].shape == (7, 2)


def test_information_at_the_end_is_of_the_last_and_of_the_best_weights(tiny_env: Any):
    env = tiny_env(thresholdout=False, initial_learning_rate=0.5)
    _, info = env.reset(seed=1)
    dataset = env.core.episodes[0].dataset
    mean, std = (env.core.episodes[0].split.mean, env.core.episodes[0].split.std)

    def figures_by_hand() -> tuple[float, float]:
        """Test accuracy and loss, computed here."""
        named = env.core.stacks.weights_of(0)
        images = (dataset.images[dataset.pool_size :] - mean) / std
        hidden = (images @ named["1.weight"].T + named["1.bias"]).clip(min=0)
        logits = (hidden @ named["3.weight"].T + named["3.bias"]).double().numpy()
        labels = dataset.labels[dataset.pool_size :]
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
        return float((logits.argmax(1) == labels).mean()), float(losses.mean())

    best, figures = info["holdout_answer"], figures_by_hand()
    for action in (4, 4, 4, 15, 0, 0):
        *_, info = env.step(action)
        if info["holdout_answer"] > best:
            best, figures = info["holdout_answer"], figures_by_hand()
    last = figures_by_hand()
    assert last != figures  # else nothing is seen
    assert (info["test_accuracy"], info["test_loss"]) == pytest.approx(last, rel=1e-5)
    found = (info["best_holdout_test_accuracy"], info["best_holdout_test_loss"])
    assert found == pytest.approx(figures, rel=1e-5)


def no_nan_and_no_clock(info: dict[str, Any]) -> None:
    for leaf in leaves(info):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
            assert np.isfinite(leaf).all()
        elif isinstance(leaf, float):
            assert math.isfinite(leaf)
        else:
            assert leaf is not None


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
def test_nothing_in_the_information_is_nan_even_in_divergence(tiny_env: Any, score: str):
    env = tiny_env(score=score, lr_bounds=(1e-4, 1e30), action_type="learning_rate", divergence_penalty=1.0)
    _, info = env.reset(seed=0)
    no_nan_and_no_clock(info)
    for rate in (1.0, 1.0, -0.8, 1.0, -1.0, 1.0):
        *_, ended, _, info = env.step(np.float32([rate]))
        no_nan_and_no_clock(info)
    assert ended and info["diverged"] and env.history()["diverged"].sum() >= 5


def test_what_was_returned_can_be_changed_without_consequences(tiny_env: Any):
    def spoil(data: Any) -> None:
        if isinstance(data, Mapping):
            for value in data.values():
                spoil(value)
            data.clear()
        elif isinstance(data, np.ndarray):
            data[...] = 77

    env, spoiled = tiny_env(history_in_info=True), tiny_env(history_in_info=True)
    draw = Actions(env, 8, stop=False)
    for episode in range(2):
        expected, found = env.reset(seed=episode), spoiled.reset(seed=episode)
        ended = False
        while not ended:
            assert_same(found, expected)
            for part in found:
                spoil(part)
            action = draw()
            expected, found = env.step(action), spoiled.step(action)
            ended = expected[2]
        assert "history" in expected[4]
        spoil(spoiled.history())
        assert spoiled.history() == env.history()
        assert_same(found, expected)


# The specification ---------------------------------------------------------------------------------


def table_rows(heading: str) -> list[list[str]]:
    """Cells of the first table of the class docstring after a line."""
    lines = [line.strip() for line in AutoTrainEnv.__doc__.split(heading, 1)[1].splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_the_specification_states_the_bounds_of_every_metric():
    rows = table_rows("## Observation space")
    assert [int(row[0]) for row in rows] == list(range(len(METRICS)))
    for row, (low, high) in zip(rows, METRICS.values(), strict=True):
        assert {float(number) for number in re.findall(r"-?\d+", row[2])} == {low, high}


def test_the_specification_names_every_reward_preset():
    presets = [row[0].strip('`"') for row in table_rows("## Rewards")]
    for preset in presets:
        baseline = ((0, 1), (0.0, 1.0)) if preset == "baseline" else None
        AutoTrainConfig(reward=preset, baseline=baseline)
    assert presets == ["delta", "sign", "risa", "terminal", "baseline"]


def test_the_specification_names_every_id_and_the_size_of_its_actions():
    rows = {row[0].strip("`"): row[2] for row in table_rows("## Arguments")}
    assert rows.keys() | {"AutoTrain-v0"} == set(IDS)
    sizes = {env_id: gymnasium.make(env_id).action_space for env_id in IDS}
    assert sizes["AutoTrain-v0"].n == 5 * 4 + 2
    assert rows["AutoTrainPrototype-v0"] == "3 H + 2" and sizes["AutoTrainPrototype-v0"].n == 14
    assert rows["AutoTrainRISA-v0"] == "7" and sizes["AutoTrainRISA-v0"].n == 7
    assert rows["AutoTrainContinuous-v0"] == "Box of H + 3"
    assert sizes["AutoTrainContinuous-v0"].shape == (7,)
