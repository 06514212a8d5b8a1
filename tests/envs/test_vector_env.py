"""The vector environment: lanes against scalar environments, autoreset modes, states, mixtures."""

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from packaging.version import Version

from autotrain_env import (
    CNN,
    SGD,
    AutoTrainEnv,
    AutoTrainVectorEnv,
    Choice,
    Curriculum,
    Dataset,
    LogUniform,
    Task,
    TaskDistribution,
    Uniform,
    synthetic,
)
from tests.helpers import (
    ACTION_TYPES,
    IDS,
    Actions,
    assert_same,
    lane_of,
    leaves,
    tiny,
    tiny_data,
    user_arrays,
    weights,
)

MODES = ("SameStep", "NextStep", "Disabled")
modes = pytest.mark.parametrize("mode", MODES)


def with_modes(cases: list[tuple[Any, ...]]) -> list[Any]:
    """Pair the first case with every autoreset mode, the others with one mode each, in turn."""
    paired = [(*cases[0], mode) for mode in MODES]
    return paired + [(*case, MODES[i % len(MODES)]) for i, case in enumerate(cases[1:])]


def first_of(space: Any, actions: list[Any]) -> np.ndarray:
    """Actions of all lanes as one batch of the space's dtype."""
    return np.asarray(actions, dtype=space.dtype)


# Lane i of N against N = 1 ---------------------------------------------------------------------------


class Record:
    """What one lane went through: (observation, reward, terminated, truncated, info, weights) in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def add(self, *entry: Any) -> None:
        self.entries.append(entry)


def scalar_record(
    env: AutoTrainEnv, seed: int, episodes: int = 2
) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Play episodes of random actions; returns what was seen, and the actions by episode."""
    record, draw, actions = Record(), Actions(env, seed), []
    for episode in range(episodes):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        record.add("reset", observation, info, weights(env))
        script: list[Any] = []
        ended = False
        while not ended:
            script.append(draw())
            observation, reward, terminated, truncated, info = env.step(script[-1])
            record.add("step", observation, reward, terminated, truncated, info, weights(env))
            ended = terminated or truncated
        actions.append(script)
    return record.entries, actions


def lane_records(
    env: AutoTrainVectorEnv, seed: int, scripts: list[list[list[Any]]]
) -> list[list[tuple[Any, ...]]]:
    """Play the same scripts in the lanes of a vector environment; the same form, weights where visible."""
    count, mode = env.num_envs, env.autoreset_mode
    records = [Record() for _ in range(count)]
    observations, info = env.reset(seed=seed)
    for lane in range(count):
        records[lane].add("reset", observations[lane], lane_of(info, lane), weights(env, lane))
    episode, position = np.zeros(count, int), np.zeros(count, int)
    due = np.zeros(count, bool)  # lanes that the next step resets (NEXT_STEP)
    filler = env.single_action_space.sample()
    while (episode < len(scripts[0])).any():
        actions = [
            scripts[lane][episode[lane]][position[lane]] if episode[lane] < 2 and not due[lane] else filler
            for lane in range(count)
        ]
        observations, rewards, terminated, truncated, info = env.step(first_of(env.action_space, actions))
        ended = terminated | truncated
        for lane in range(count):
            if episode[lane] >= 2:
                continue
            if due[lane]:
                assert rewards[lane] == 0 and not ended[lane]
                records[lane].add("reset", observations[lane], lane_of(info, lane), weights(env, lane))
                due[lane] = False
                continue
            shown, entry = observations[lane], lane_of(info, lane)
            now: Any = weights(env, lane)
            if ended[lane] and mode == AutoresetMode.SAME_STEP:
                shown, entry, now = info["final_obs"][lane], lane_of(info["final_info"], lane), None
            records[lane].add(
                "step",
                shown,
                float(rewards[lane]),
                bool(terminated[lane]),
                bool(truncated[lane]),
                entry,
                now,
            )
            position[lane] += 1
            if ended[lane]:
                episode[lane] += 1
                position[lane] = 0
                if episode[lane] == 2:
                    continue
                if mode == AutoresetMode.SAME_STEP:
                    reset_info = {
                        key: value
                        for key, value in lane_of(info, lane).items()
                        if key not in ("final_obs", "final_info")
                    }
                    records[lane].add("reset", observations[lane], reset_info, weights(env, lane))
                due[lane] = mode == AutoresetMode.NEXT_STEP
        if mode == AutoresetMode.DISABLED:
            mask = ended & (episode == 1) & (position == 0)
            mask &= ~env.core.lanes.running
            if mask.any():
                observations, info = env.reset(options={"reset_mask": mask})
                for lane in np.flatnonzero(mask):
                    records[lane].add("reset", observations[lane], lane_of(info, lane), weights(env, lane))
    return [record.entries for record in records]


LANE_CASES: list[tuple[int, str, dict[str, Any]]] = [
    *((count, "AutoTrain-v0", {}) for count in (5, 1, 2)),
    (5, "AutoTrainPrototype-v0", {}),
    (5, "AutoTrainRISA-v0", {"optimizer": "adam"}),
    (5, "AutoTrainContinuous-v0", {"optimizer": "rmsprop"}),
    (5, "AutoTrainContinuous-v0", {"lr_bounds": (1e-4, 1e30), "max_lr_factor": 1e12}),
    (
        5,
        "AutoTrain-v0",
        {"action_type": "multi_discrete", "score": "neg_log_loss", "observation_layout": "flat"},
    ),
    (
        5,
        "AutoTrain-v0",
        {"action_type": "learning_rate", "truncate_after": 3, "terminal_state": "best_holdout"},
    ),
    (2, "AutoTrain-v0", {"backend": "looped"}),
    (5, "AutoTrain-v0", {"dataset": "digits", "classifier": CNN((3,)), "inner_steps": 2, "budget": 8}),
]
# Enough lanes for everything to happen.
MANY_LANES: list[tuple[int, str, dict[str, Any]]] = [
    (33, "AutoTrain-v0", {}),
    (33, "AutoTrainContinuous-v0", {"lr_bounds": (1e-4, 1e30), "max_lr_factor": 1e12}),
]


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize(
    ("count", "env_id", "kwargs", "mode"),
    [
        *with_modes(LANE_CASES),
        *(
            pytest.param(*case, mode, marks=pytest.mark.slow)
            for case in (*LANE_CASES, *MANY_LANES)
            for mode in MODES
            if (*case, mode) not in with_modes(LANE_CASES)
        ),
    ],
    ids=lambda v: str(v)[:60],
)
def test_lane_i_is_the_scalar_environment_seeded_seed_plus_i(
    count: int, env_id: str, kwargs: dict[str, Any], mode: str
):
    """Another script of random actions in every lane, two episodes, bit for bit, histories included."""
    arguments = tiny(history_in_info=True, **kwargs)
    expected, scripts = [], []
    for lane in range(count):
        entries, actions = scalar_record(gymnasium.make(env_id, **arguments).unwrapped, 100 + lane)
        expected.append(entries)
        scripts.append(actions)
    env = gymnasium.make_vec(env_id, num_envs=count, autoreset_mode=mode, **arguments).unwrapped
    found = lane_records(env, 100, scripts)
    for lane in range(count):
        assert len(found[lane]) == len(expected[lane])
        for step, (mine, other) in enumerate(zip(found[lane], expected[lane], strict=True)):
            if mine[-1] is None:  # the last weights of an episode are gone after SAME_STEP's reset
                mine, other = mine[:-1], other[:-1]
            assert_same(mine, other, f"lane {lane}, entry {step}")
    if count == 33:
        infos = [entry[5] for entries in expected for entry in entries if entry[0] == "step"]
        assert {info["action"] for info in infos} == {0, 1, 2, 3}
        assert len({len(actions) for script in scripts for actions in script}) > 1
        assert any(info["diverged"] for info in infos) == ("max_lr_factor" in kwargs)


@modes
def test_methods_with_the_same_seed_meet_the_same_second_tasks(tiny_vec: Any, mode: str):
    """Whatever they did in the first episode, also stopping early."""
    met = []
    for method in range(3):
        env = tiny_vec(3, autoreset_mode=mode, initial_learning_rate=LogUniform(1e-3, 1.0)).unwrapped
        env.reset(seed=9)
        second: list[Any] = [None] * 3
        first_tasks = [env.core.task(lane) for lane in range(3)]
        draws = [Actions(env, 10 * method + lane) for lane in range(3)]
        while any(task is None for task in second):
            ended = ~env.core.lanes.running
            if mode == "Disabled" and ended.any():
                env.reset(options={"reset_mask": ended})
            else:
                env.step(np.array([draw() for draw in draws]))
            for lane in range(3):
                if second[lane] is None and env.core.task(lane) != first_tasks[lane]:
                    # row 0 shows the task's network and split, too
                    second[lane] = (env.core.task(lane), env.core.observation()[lane])
        met.append(second)
    for lane in range(3):
        for other in met[1:]:
            assert other[lane][0] == met[0][lane][0]
            assert_same(other[lane][1], met[0][lane][1])


# Autoreset modes against Gymnasium's own vector environment ------------------------------------------


def without_history(info: dict[str, Any]) -> dict[str, Any]:
    """Leave out the histories, which Gymnasium cannot put side by side; see below."""
    kept = {key: value for key, value in info.items() if key not in ("history", "_history")}
    if "final_info" in kept:
        kept["final_info"] = without_history(kept["final_info"])
    return kept


def assert_same_info(found: dict[str, Any], expected: dict[str, Any], count: int) -> None:
    """The same keys, masks and types; the same values wherever a mask is true."""
    assert found.keys() == expected.keys(), set(found) ^ set(expected)
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_same_info(found[key], value, count)
        else:
            assert isinstance(found[key], np.ndarray), key
            assert found[key].dtype == value.dtype and found[key].shape == value.shape, key
            if key.startswith("_"):
                assert_same(found[key], value, key)
    for lane in range(count):
        assert_same(lane_of(found, lane), lane_of(expected, lane))


def scripted(step: int, count: int) -> np.ndarray:
    """Actions that end the lanes' episodes at different steps, with rewinds and re-inits between."""
    actions = (np.arange(count) * 7 + step * 5) % 16
    for lane in range(count):
        if step % (2 * count + 1) == 2 * lane + 1:
            actions[lane] = 16  # stop
    return actions


@modes
def test_autoreset_is_that_of_gymnasiums_sync_vector_env(mode: str):
    count = 3
    arguments = tiny(initial_learning_rate=LogUniform(1e-3, 1.0))
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=count, autoreset_mode=mode, **arguments)
    sync = SyncVectorEnv([lambda: AutoTrainEnv(**arguments)] * count, autoreset_mode=AutoresetMode(mode))
    assert env.unwrapped.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    assert env.observation_space == sync.observation_space and env.action_space == sync.action_space
    assert env.single_observation_space == sync.single_observation_space
    found, expected = env.reset(seed=3), sync.reset(seed=3)
    assert_same(found[0], expected[0])
    assert_same_info(found[1], expected[1], count)
    ends = resets = 0
    for step in range(25):
        actions = scripted(step, count)
        found, expected = env.step(actions), sync.step(actions)
        for mine, other in zip(found[:4], expected[:4], strict=True):
            assert_same(mine, other)
        assert_same_info(without_history(found[4]), without_history(expected[4]), count)
        ended = found[2] | found[3]
        ends += ended.sum()
        if mode == "Disabled" and ended.any():
            resets += ended.sum()
            found = env.reset(options={"reset_mask": ended.copy()})
            expected = sync.reset(options={"reset_mask": ended.copy()})
            assert_same(found[0], expected[0])
            assert_same_info(found[1], expected[1], count)
    assert ends >= 8 and (mode != "Disabled" or resets == ends)


@modes
def test_autoreset_at_the_end_of_the_budget_of_all_lanes(mode: str):
    count = 4
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=count, autoreset_mode=mode, **tiny())
    sync = SyncVectorEnv([lambda: AutoTrainEnv(**tiny())] * count, autoreset_mode=AutoresetMode(mode))
    env.reset(seed=3)
    sync.reset(seed=3)
    for step in range(1, 15):
        found, expected = env.step(np.full(count, 2)), sync.step(np.full(count, 2))
        for mine, other in zip(found[:4], expected[:4], strict=True):
            assert_same(mine, other)
        assert_same_info(without_history(found[4]), without_history(expected[4]), count)
        assert found[2].all() == (step in ((6, 13) if mode == "NextStep" else (6, 12)))
        if mode == "Disabled" and found[2].all():
            assert_same(env.reset()[0], sync.reset()[0])


def test_gymnasiums_own_vector_environment_takes_lanes_that_end_together_after_unequal_lengths():
    sync = gymnasium.make_vec(
        "AutoTrain-v0",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        **tiny(),
    )
    sync.reset(seed=0)
    assert sync.step(np.array([16, 2]))[2].tolist() == [True, False]
    assert sync.step(np.array([16, 16]))[2].tolist() == [True, True]


def test_same_step_hands_over_the_end_of_the_old_episode(tiny_vec: Any, tiny_env: Any):
    assert tiny_vec(2).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP  # the default
    env = tiny_vec(2, autoreset_mode="SameStep")
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([2, 2]))
    assert not any("final" in key for key in info)
    observations, rewards, terminated, _, info = env.step(np.array([16, 2]))
    assert terminated.tolist() == [True, False]
    assert info["final_obs"].dtype == object and info["final_obs"][1] is None
    assert info["_final_obs"].tolist() == info["_final_info"].tolist() == [True, False]
    single = tiny_env()
    single.reset(seed=0)
    single.step(2)
    observation, reward, _, _, final = single.step(16)
    assert_same(info["final_obs"][0], observation)
    assert rewards[0] == reward
    assert_same(lane_of(info["final_info"], 0), final)
    assert_same(observations[0], single.reset()[0])
    assert info["action"].tolist() == [-1, 0]
    assert info["updates"].tolist() == [0, 8]


def test_next_step_resets_whatever_the_action(tiny_vec: Any):
    env = tiny_vec(2, autoreset_mode="NextStep")
    env.reset(seed=0)
    env.step(np.array([16, 2]))
    observations, rewards, terminated, truncated, info = env.step(np.array([16, 2]))
    assert rewards[0] == 0 and not terminated[0] and not truncated[0]
    assert info["action"].tolist() == [-1, 0]
    assert not observations[0, 0, :, 5].any()  # nothing of the budget is used
    assert env.step(np.array([2, 2]))[4]["updates"].tolist() == [4, 12]


def test_in_disabled_mode_an_ended_lane_idles(tiny_vec: Any):
    env = tiny_vec(3, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(np.array([2, 2, 2]))
    first, _, terminated, truncated, _ = env.step(np.array([2, 16, 2]))
    before = weights(env, 1)
    assert terminated.tolist() == [False, True, False]
    for action in (2, 15, 16):
        observations, rewards, terminated, truncated, info = env.step(np.array([2, action, 2]))
        assert rewards[1] == 0 and terminated[1] and not truncated[1]
        assert_same(observations[1], first[1])
        assert_same(weights(env, 1), before)
        assert all(not mask[1] for key, mask in info.items() if key.startswith("_"))
        assert all(mask[0] for key, mask in info.items() if key.startswith("_"))
    observations, info = env.reset(options={"reset_mask": np.array([False, True, False])})
    assert info["_updates"].tolist() == [False, True, False]
    assert not env.unwrapped.core.lanes.terminated.any()
    assert env.step(np.array([2, 2, 2]))[4]["updates"].tolist() == [24, 4, 24]


def test_a_truncated_lane_keeps_its_flag_while_it_idles(tiny_vec: Any):
    env = tiny_vec(2, autoreset_mode="Disabled", truncate_after=2)
    env.reset(seed=0)
    env.step(np.array([2, 2]))
    env.reset(options={"reset_mask": np.array([False, True])})
    assert env.step(np.array([2, 2]))[3].tolist() == [True, False]
    assert env.step(np.array([2, 2]))[3].tolist() == [True, True]


@modes
def test_reset_with_a_mask_leaves_other_lanes_alone_in_every_mode(tiny_vec: Any, mode: str):
    env, other = tiny_vec(3, autoreset_mode=mode), tiny_vec(3, autoreset_mode=mode)
    for made in (env, other):
        made.reset(seed=0)
        made.step(np.array([2, 2, 2]))
    observations, info = env.reset(seed=50, options={"reset_mask": np.array([False, True, False])})
    assert_same(observations[[0, 2]], other.unwrapped.core.observation()[[0, 2]])
    fresh = tiny_vec(3, autoreset_mode=mode)
    expected, expected_info = fresh.reset(seed=50)
    assert_same(observations[1], expected[1])
    assert_same(lane_of(info, 1), lane_of(expected_info, 1))
    assert lane_of(info, 0) == {}
    found, kept = env.step(np.array([2, 2, 2])), other.step(np.array([2, 2, 2]))
    assert_same(found[0][[0, 2]], kept[0][[0, 2]])


@modes
def test_gymnasiums_statistics_work_and_have_their_key_to_themselves(tiny_vec: Any, mode: str):
    if mode == "SameStep" and Version(gymnasium.__version__) < Version("1.4"):
        pytest.skip("before 1.4 Gymnasium's wrapper miscounts the steps after a reset in the same step")
    env = RecordEpisodeStatistics(tiny_vec(3, autoreset_mode=mode))
    env.reset(seed=0)
    assert "episode" not in env.unwrapped.step(np.array([2, 2, 2]))[4]
    env.reset(seed=0)
    total, length, seen = np.zeros(3), np.zeros(3, int), []
    resetting = np.zeros(3, bool)
    for step in range(12):
        actions = np.array([2, 16 if step % 4 == 1 else 2, 16 if step % 5 == 2 else 7])
        _, rewards, terminated, truncated, info = env.step(actions)
        total += np.where(resetting, 0, rewards)
        length += ~resetting
        ended = terminated | truncated
        if ended.any():
            assert info["_episode"].tolist() == ended.tolist()
            for lane in np.flatnonzero(ended):
                assert info["episode"]["r"][lane] == pytest.approx(total[lane])
                assert info["episode"]["l"][lane] == length[lane]
                seen.append(length[lane])
            total[ended], length[ended] = 0, 0
        else:
            assert "episode" not in info
        resetting = ended & (mode == "NextStep")
        if mode == "Disabled" and ended.any():
            env.reset(options={"reset_mask": ended})
    assert len(seen) >= 4 and len(set(seen)) > 1
    assert list(env.length_queue) == seen


# Reset's arguments ----------------------------------------------------------------------------------


def test_seeds_may_be_a_list(tiny_vec: Any, tiny_env: Any):
    env = tiny_vec(3)
    observations, _ = env.reset(seed=[7, 3, 7])
    for lane, seed in enumerate((7, 3, 7)):
        assert_same(observations[lane], tiny_env().reset(seed=seed)[0])
    assert env.unwrapped.np_random_seed == (7, 3, 7)
    observations, _ = env.reset(seed=[None, 3, None])  # those lanes go on with their stream
    goes_on = tiny_env()
    goes_on.reset(seed=7)
    assert_same(observations[0], goes_on.reset()[0])
    assert_same(observations[1], tiny_env().reset(seed=3)[0])
    assert_same(env.reset(seed=np.int64(4))[0][1], tiny_env().reset(seed=5)[0])
    assert env.unwrapped.np_random_seed == (4, 5, 6)


def test_without_a_seed_lanes_differ(tiny_vec: Any):
    env = tiny_vec(3)
    observations, _ = env.reset()
    assert len({row.tobytes() for row in observations}) == 3
    assert len(set(env.unwrapped.np_random_seed)) == 3 and min(env.unwrapped.np_random_seed) >= 0


def tiny_task(**kwargs: Any) -> Task:
    base = {name: tiny()[name] for name in ("dataset", "train_size", "holdout_size", "validation_size")}
    return Task(**(base | {"batch_size": 8, "classifier": "mlp-6", "budget": 24} | kwargs))


def test_tasks_may_be_one_or_a_list(tiny_vec: Any, tiny_env: Any):
    env = tiny_vec(3)
    one, two = tiny_task(budget=8), tiny_task(budget=4, optimizer="adam")
    for tasks, expected in (
        (one, [one] * 3),
        ([one, None, two], [one, None, two]),
        ((two,) * 3, [two] * 3),
    ):
        observations, _ = env.reset(seed=1, options={"task": tasks})
        for lane, task in enumerate(expected):
            single = tiny_env()
            options = None if task is None else {"task": task}
            assert_same(observations[lane], single.reset(seed=1 + lane, options=options)[0])
            assert env.unwrapped.core.task(lane) == single.core.task(0)
    # with a mask, entries of the other lanes are not used
    env.reset(seed=1)
    kept = [env.unwrapped.core.task(lane) for lane in (0, 1)]
    env.reset(options={"reset_mask": np.array([False, False, True]), "task": [one, one, two]})
    assert [env.unwrapped.core.task(lane) for lane in range(3)] == [*kept, two]


def test_a_given_task_holds_for_one_episode(tiny_vec: Any):
    env, other = (tiny_vec(2, autoreset_mode="SameStep") for _ in range(2))
    env.reset(seed=1, options={"task": tiny_task(budget=8)})
    other.reset(seed=1)
    env.step(np.array([2, 2]))
    assert env.step(np.array([2, 2]))[2].all()
    for _ in range(6):
        other.step(np.array([2, 2]))
    for lane in range(2):
        assert env.unwrapped.core.task(lane) == other.unwrapped.core.task(lane)
    assert_same(env.unwrapped.core.observation(), other.unwrapped.core.observation())


def test_max_episode_steps_is_another_name_of_truncate_after():
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=2, max_episode_steps=2, **tiny())
    named = gymnasium.make_vec("AutoTrain-v0", num_envs=2, truncate_after=2, **tiny())
    both = AutoTrainVectorEnv(num_envs=2, max_episode_steps=2, truncate_after=3, **tiny())
    other = AutoTrainVectorEnv(num_envs=2, max_episode_steps=3, truncate_after=2, **tiny())
    for made in (env, named, both, other):
        assert made.unwrapped.config.truncate_after == 2
        made.reset(seed=0)
        assert not made.step(np.array([2, 2]))[3].any()
        _, _, terminated, truncated, info = made.step(np.array([2, 16]))
        assert truncated.tolist() == [True, False] and terminated.tolist() == [False, True]
        assert (info["test_accuracy"] > 0).all()


# Information ----------------------------------------------------------------------------------------


def all_arrays(info: dict[str, Any]) -> list[np.ndarray]:
    return [
        array
        for value in info.values()
        for array in (all_arrays(value) if isinstance(value, dict) else [value])
    ]


@modes
def test_vector_information_is_arrays_that_no_later_step_touches(tiny_vec: Any, mode: str):
    env, spoiled = tiny_vec(3, autoreset_mode=mode), tiny_vec(3, autoreset_mode=mode)

    def spoil(data: Any) -> None:
        if isinstance(data, Mapping):
            for value in data.values():
                spoil(value)
            data.clear()
        elif isinstance(data, np.ndarray) and data.dtype == object:
            for value in data:
                spoil(value)
            data[...] = None
        elif isinstance(data, np.ndarray):
            data[...] = 1

    expected, found = env.reset(seed=0), spoiled.reset(seed=0)
    for step in range(20):
        assert_same(list(found), list(expected))
        for array in all_arrays(expected[-1]):
            assert isinstance(array, np.ndarray) and array.shape == (3,)
        kept = copy.deepcopy(expected)
        shown = expected
        for part in found:
            spoil(part)
        running = env.unwrapped.core.lanes.running
        if mode == "Disabled" and not running.all():
            mask = ~running
            expected = env.reset(options={"reset_mask": mask.copy()})
            found = spoiled.reset(options={"reset_mask": mask.copy()})
        else:
            actions = scripted(step, 3)
            expected, found = env.step(actions), spoiled.step(actions)
        assert_same(list(shown), list(kept))  # what was returned before is as it was


@pytest.mark.parametrize("env_id", IDS)
def test_nothing_in_vector_information_is_nan(env_id: str):
    env = gymnasium.make_vec(env_id, num_envs=8, **tiny(lr_bounds=(1e-4, 1e30), initial_learning_rate=1e29))
    env.action_space.seed(0)
    observations, info = env.reset(seed=0)
    diverged = 0
    for _ in range(15):
        for leaf in leaves(info):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
                assert np.isfinite(leaf).all()
            assert not (isinstance(leaf, float) and not np.isfinite(leaf))
        assert np.isfinite(observations).all()
        observations, rewards, _, _, info = env.step(env.action_space.sample())
        assert np.isfinite(rewards).all() and rewards.dtype == np.float64
        diverged += info["diverged"].sum()
    assert diverged > 10


@pytest.mark.parametrize("action_type", ["discrete", "multi_discrete"])
def test_masks_are_those_of_the_scalar_environments(action_type: str, tiny_vec: Any, tiny_env: Any):
    env = tiny_vec(3, action_type=action_type, initial_states="zeros")
    singles = [tiny_env(action_type=action_type, initial_states="zeros") for _ in range(3)]
    env.reset(seed=0)
    for lane, single in enumerate(singles):
        single.reset(seed=lane)
    draws = [Actions(env, lane, stop=False) for lane in range(3)]
    for _ in range(5):
        masks = env.unwrapped.action_masks()
        for lane, single in enumerate(singles):
            assert_same(masks[lane], single.action_masks())
        actions = [draw() for draw in draws]
        env.step(np.array(actions))
        for single, action in zip(singles, actions, strict=True):
            single.step(action)


def test_rendering_gives_one_picture_per_lane(tiny_vec: Any, tiny_env: Any):
    assert tiny_vec(2).render() is None
    env = tiny_vec(2, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.array([2, 15]))
    texts = env.render()
    assert isinstance(texts, tuple) and len(texts) == 2
    for lane, action in enumerate((2, 15)):
        single = tiny_env(render_mode="ansi")
        single.reset(seed=lane)
        single.step(action)
        assert texts[lane] == single.render()


# States ---------------------------------------------------------------------------------------------


STATE_CASES: list[dict[str, Any]] = [
    {},
    {"optimizer": "adam", "action_type": "continuous"},
    {
        "tasks": "mixed",
        "dataset": None,
        "train_size": None,
        "holdout_size": 40,
        "validation_size": 40,
        "classifier": None,
        "batch_size": None,
    },
    {"dataset": "digits", "classifier": CNN((3,)), "inner_steps": 2, "budget": 8},
]


def play(env: Any, steps: int, seed: int) -> list[Any]:
    """Random steps; in DISABLED mode ended lanes are reset."""
    draws = [Actions(env, 1000 * seed + lane) for lane in range(env.num_envs)]
    results: list[Any] = []
    for _ in range(steps):
        ended = ~env.unwrapped.core.lanes.running
        if env.unwrapped.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            results.append(list(env.reset(options={"reset_mask": ended})))
        results.append(list(env.step(first_of(env.action_space, [draw() for draw in draws]))))
        results.append([weights(env, lane) for lane in range(env.num_envs)])
    return results


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize(("kwargs", "mode"), with_modes([(case,) for case in STATE_CASES]), ids=str)
def test_a_state_continues_bit_for_bit(kwargs: dict[str, Any], mode: str):
    """In the same environment, in a fresh one, and after pickling."""

    def make() -> Any:
        return gymnasium.make_vec(
            "AutoTrain-v0", num_envs=4, autoreset_mode=mode, **tiny(**kwargs)
        ).unwrapped

    env = make()
    env.reset(seed=2)
    play(env, 4, seed=0)
    state = env.state_dict()
    pickled = pickle.dumps(state)
    expected = play(env, 8, seed=1)
    play(env, 3, seed=2)
    env.load_state_dict(state)
    assert_same(play(env, 8, seed=1), expected)
    env.load_state_dict(state)  # it was not used up
    assert_same(play(env, 8, seed=1), expected)
    fresh = make()
    fresh.load_state_dict(pickle.loads(pickled))
    assert_same(play(fresh, 8, seed=1), expected)
    used = make()
    used.reset(seed=77)
    play(used, 5, seed=5)
    used.load_state_dict(state)
    assert_same(play(used, 8, seed=1), expected)


def test_a_state_holds_the_level_and_the_seeds(tiny_vec: Any):
    tasks = Curriculum([TaskDistribution(label_noise=noise) for noise in (0.0, 0.3)])
    env, other = tiny_vec(2, tasks=tasks).unwrapped, tiny_vec(2, tasks=tasks).unwrapped
    env.reset(seed=3)
    env.set_task_level(1)
    other.reset(seed=40)
    other.load_state_dict(env.state_dict())
    other.reset()
    env.reset()
    assert [other.core.task(lane) for lane in range(2)] == [env.core.task(lane) for lane in range(2)]
    assert other.core.task(0).label_noise == 0.3
    assert other.np_random_seed == env.np_random_seed == (3, 4)


@modes
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_of_the_whole_environment_continue_identically(tiny_vec: Any, clone: Any, mode: str):
    env = tiny_vec(3, autoreset_mode=mode)
    env.reset(seed=1)
    play(env, 3, seed=0)
    twin = clone(env)
    assert_same(play(twin, 8, seed=1), play(env, 8, seed=1))


def test_copy_lane_keeps_the_targets_seed_for_later_episodes(tiny_vec: Any):
    env, other = (tiny_vec(2, autoreset_mode="SameStep").unwrapped for _ in range(2))
    for made in (env, other):
        made.reset(seed=0)
        made.step(np.array([2, 5]))
    env.copy_lane(0, 1)
    assert env.core.task(1) == env.core.task(0) != other.core.task(1)
    for _ in range(2):
        found = env.step(np.array([7, 7]))
        other.step(np.array([7, 7]))
        assert_same(found[0][0], found[0][1])
    found, expected = env.step(np.array([16, 16])), other.step(np.array([16, 16]))
    assert_same(lane_of(found[4]["final_info"], 0), lane_of(found[4]["final_info"], 1))
    assert_same(found[0][1], expected[0][1])  # the next episode is the target's own
    assert env.core.task(1) == other.core.task(1) != env.core.task(0)


# Mixtures -------------------------------------------------------------------------------------------

SETS = (
    tiny_data(),
    tiny_data(seed=3),
    synthetic(num_classes=3, num_features=5, size=400, difficulty=0.1),
    "digits",
)
MIXTURE = TaskDistribution(
    dataset=Choice(SETS),
    train_size=Choice((48, 64)),
    holdout_size=Choice((30, 40)),
    validation_size=Choice((40, 50)),
    label_noise=Uniform(0.0, 0.3),
    classifier=Choice(("linear", "mlp-6", "mlp-4-3")),
    optimizer=Choice(("sgd", "momentum", SGD(momentum=0.5), "nesterov", "rmsprop", "adam", "adamw")),
    batch_size=Choice((8, 16)),
    initialization=Choice(("orthogonal", "module_default", "zero_last_layer")),
    budget=Choice((8, 16, 24)),
)
SHAPE = {"inner_steps": 4, "history_length": 2, "num_snapshots": 3}


@pytest.mark.parametrize(
    ("tasks", "mode"),
    [(MIXTURE, "SameStep"), (MIXTURE, "Disabled"), ("mixed", "NextStep")],
    ids=["mixture", "mixture, disabled", "mixed"],
)
def test_lanes_of_a_mixture_are_the_scalar_environments_with_their_tasks(tasks: Any, mode: str):
    """Different data, sizes, budgets, batches, optimisers and networks side by side, bit for bit."""
    count = 12
    arguments = SHAPE | {"tasks": tasks} | ({"budget": 24} if tasks == "mixed" else {})
    expected, scripts, met = [], [], []
    for lane in range(count):
        single = gymnasium.make("AutoTrain-v0", **arguments).unwrapped
        entries, actions = scalar_record(single, 300 + lane)
        expected.append(entries)
        scripts.append(actions)
        single.reset(seed=300 + lane)
        met.append(single.core.task(0))
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=count, autoreset_mode=mode, **arguments).unwrapped
    found = lane_records(env, 300, scripts)
    for lane in range(count):
        for mine, other in zip(found[lane], expected[lane], strict=True):
            if mine[-1] is None:
                mine, other = mine[:-1], other[:-1]
            assert_same(mine, other, f"lane {lane}")
    for name in ("dataset", "classifier", "optimizer", "batch_size", "train_size", "label_noise"):
        assert len({getattr(task, name) for task in met}) > 1, name
    assert len(env.core.stacks.stacks) > 3


def test_images_and_vectors_with_any_momentum_are_trained_in_one_stack(tiny_vec: Any, tiny_env: Any):
    """As long as the numbers of features and of classes are the same; and bit for bit as alone."""
    images = Dataset.from_arrays(*user_arrays(240, (2, 2, 2)))
    tasks = [
        tiny_task(dataset=images),
        tiny_task(optimizer=SGD(momentum=0.5)),
        tiny_task(dataset=images, optimizer=SGD(momentum=0.99)),
        tiny_task(),
    ]
    env = tiny_vec(4, autoreset_mode="Disabled").unwrapped
    observations, _ = env.reset(seed=3, options={"task": tasks})
    (stack,) = env.core.stacks.stacks.values()
    assert stack.lane_values[env.core.stacks.slot, 0].tolist() == [0.9, 0.5, 0.99, 0.9]
    steps = [env.step(np.full(4, action)) for action in (3, 2, 7, 2)]  # one rewinds
    for lane, task in enumerate(tasks):
        single = tiny_env()
        assert_same(observations[lane], single.reset(seed=3 + lane, options={"task": task})[0])
        for (expected, rewards, *_), action in zip(steps, (3, 2, 7, 2), strict=True):
            observation, reward, *_ = single.step(action)
            assert_same(expected[lane], observation)
            assert rewards[lane] == reward
        assert_same(weights(env, lane), weights(single))
        assert env.network(lane)(single.core.stacks.episode(0).dataset.images[:5]).shape == (5, 4)
    env.reset(options={"task": tiny_task(optimizer="sgd"), "reset_mask": np.arange(4) == 0})
    assert len(env.core.stacks.stacks) == 2  # without momentum there is nothing to remember


def test_a_lane_may_change_its_network_with_every_episode(tiny_vec: Any, tiny_env: Any):
    """Places in stacks are given back and taken again."""
    tasks = [
        tiny_task(classifier=network, optimizer=optimizer, budget=4)
        for network in ("linear", "mlp-6", "mlp-3")
        for optimizer in ("sgd", "adam")
    ]
    env = tiny_vec(3, autoreset_mode="Disabled").unwrapped
    generator = np.random.default_rng(0)
    for seed in range(12):
        chosen = [tasks[generator.integers(len(tasks))] for _ in range(3)]
        mask = generator.random(3) < 0.6
        mask[generator.integers(3)] = True
        if seed == 0:
            mask[:] = True
        observations, _ = env.reset(
            seed=[seed, seed + 50, seed + 100], options={"task": chosen, "reset_mask": mask}
        )
        results = env.step(np.array([2, 2, 2]))
        for lane in np.flatnonzero(mask):
            single = tiny_env()
            first, _ = single.reset(seed=seed + 50 * int(lane), options={"task": chosen[lane]})
            assert_same(observations[lane], first)
            observation, reward, *_ = single.step(2)
            assert_same(results[0][lane], observation)
            assert results[1][lane] == reward
            assert_same(weights(env, int(lane)), weights(single))
    slots = sum(len(stack.state) for stack in env.core.stacks.stacks.values())
    assert slots <= 6 * 4  # they do not pile up


# Many random episodes --------------------------------------------------------------------------------


def random_configuration(generator: np.random.Generator) -> dict[str, Any]:
    """Arguments of an environment whose episodes take three to five env steps."""

    def pick(*values: Any) -> Any:
        return values[generator.integers(len(values))]

    windows = int(generator.integers(1, 4))
    inner_steps = windows * int(generator.integers(1, 4))
    rows = int(generator.integers(1, 5))
    reward = pick("delta", "sign", "risa", "terminal", "baseline", {"divergence": 1.0, "elapsed_cost": 0.1})
    env_id = pick(*IDS)
    if env_id.startswith("AutoTrainRuns"):
        rows = max(rows, 2)  # a movement is between two
    return {
        "env_id": env_id,
        "inner_steps": inner_steps,
        "history_length": windows,
        "num_snapshots": rows,
        "num_rewinds": int(generator.integers(1, rows + 1)),
        "score": pick("accuracy", "neg_log_loss"),
        "dataset": pick(*SETS[:3], Choice(SETS[:3])),
        "train_size": int(generator.integers(32, 80)),
        "holdout_size": int(generator.integers(5, 60)),
        "validation_size": int(generator.integers(5, 60)),
        "label_noise": pick(0.0, 0.2, 1.0),
        "classifier": pick("linear", "mlp-5", "mlp-4-3", Choice(("linear", "mlp-4"))),
        "optimizer": pick(
            "sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", Choice(("sgd", "adam"))
        ),
        "batch_size": int(generator.integers(1, 32)),
        "initial_learning_rate": pick(LogUniform(1e-3, 10.0), 1e-4, 1e5),
        "initialization": pick(
            "kaiming_uniform", "orthogonal", "module_default", "zero_last_layer", "lecun_normal"
        ),
        "budget": inner_steps * int(generator.integers(3, 6)),
        "lr_bounds": pick((1e-4, 100.0), (1e-6, 1e30)),
        "action_type": pick(*ACTION_TYPES),
        "annealing": "none",  # that of AutoTrainRuns goes with some of these alone
        "lr_factors": pick((0.2, 0.8, 1.0, 1.2, 1.8), (1.0,), (1e-9, 1.0, 1e9)),
        "max_lr_factor": pick(5.0, 1e9),
        "rewind_sampling": pick("sample", "argmax"),
        "rewind_minibatches": pick("fresh", "same"),
        "rewind_noise": pick(0.0, 0.1),
        "reinit": pick(True, True, False),
        "stop": pick(True, True, False),
        "reinit_learning_rate": pick("keep", "initial", 0.1),
        "initial_states": pick("random_inits", "zeros"),
        "observation_layout": pick("stacked", "flat"),
        "thresholdout": pick(True, True, False),
        "thresholdout_sigma": pick(0.0, 0.01, 0.5),
        "thresholdout_budget": pick(None, 0, 3),
        "reward": reward,
        "baseline": ((0, 10), (0.2, 0.5)),
        "reward_split": pick("validation", "holdout"),
        "terminal_state": pick("last", "best_holdout"),
        "divergence_penalty": pick(0.0, 1.0),
        "time_cost": pick(0.0, 0.01),
        "truncate_after": pick(None, None, 2),
        "backend": pick("auto", "auto", "looped", "stacked"),
        "dtype": pick("float32", "float32", "float64"),
        "autoreset_mode": pick("SameStep", "NextStep"),
    }


@pytest.mark.parametrize("numbers", [range(40, 50), pytest.param(range(50), marks=pytest.mark.slow)])
def test_random_episodes_over_random_configurations(numbers: range):
    """No exception, nothing that is not finite, nothing outside the space."""
    episodes = diverged = recovered = 0
    for number in numbers:
        generator = np.random.default_rng(number)
        arguments = random_configuration(generator)
        lanes = 20
        env = gymnasium.make_vec(arguments.pop("env_id"), num_envs=lanes, **arguments)
        env.action_space.seed(number)
        observations, info = env.reset(seed=1000 * number)
        ended = np.zeros(lanes, int)
        before = np.zeros(lanes, bool)
        while ended.sum() < 2 * lanes:
            assert observations in env.observation_space, arguments
            assert np.isfinite(observations).all()
            observations, rewards, terminated, truncated, info = env.step(env.action_space.sample())
            assert np.isfinite(rewards).all(), arguments
            assert not (terminated & truncated).any()
            for leaf in leaves(info):
                if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
                    assert np.isfinite(leaf).all(), arguments
            ended += terminated | truncated
            diverged += info["diverged"].sum()
            recovered += (before & ~info["diverged"] & (info["updates"] > 0)).sum()
            before = info["diverged"]
        episodes += ended.sum()
        env.close()
    assert episodes >= 40 * len(numbers)
    assert diverged > 2 * len(numbers) and recovered > 0  # it was not all plain sailing


@pytest.mark.parametrize("num_envs", [None, 2])
def test_the_backends_in_use_are_told(each_backend: str, num_envs: int | None):
    kwargs = tiny()
    env: Any = AutoTrainEnv(**kwargs) if num_envs is None else AutoTrainVectorEnv(num_envs, **kwargs)
    assert env.backends == () and "backends=()" in repr(env)
    env.reset(seed=0)
    expected = "native" if each_backend == "native" else "stacked"
    assert env.backends == (expected,) and f"backends=('{expected}',)" in repr(env)
