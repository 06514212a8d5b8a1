"""Actions: spaces, the decisions they decode to, masks, and their words."""

import dataclasses
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from autotrain_env import (
    ENVIRONMENTS,
    AutoTrainConfig,
    AutoTrainEnv,
    Constant,
    Cosine,
    Decisions,
    evaluate_policy,
    make_evaluation_env,
)
from autotrain_env.process.actions import Executed, check_actions
from tests.helpers import tiny

RATES = np.array([1.0, 0.25, 3.0])


def make(env_id: str = "AutoTrain-v0", **kwargs: Any) -> Any:
    return AutoTrainConfig(**(ENVIRONMENTS[env_id] | kwargs)).make_action_type()


def decode(actions_type: Any, actions: Any, rewindable: Any = None, seed: int = 0) -> Decisions:
    """Decode actions of some lanes."""
    actions = np.asarray(actions)
    count = len(actions)
    if rewindable is None:
        rewindable = np.ones((count, getattr(actions_type, "num_rewinds", 1)), bool)
    generators = [np.random.default_rng([seed, lane]) for lane in range(count)]
    return actions_type.decode(actions, rewindable, generators)


def table(actions_type: Any) -> list[tuple[float, int, bool, bool]]:
    """What each discrete action decodes to: factor, rewind, re-init, stop."""
    found = decode(actions_type, np.arange(actions_type.num_actions))
    columns = (found.lr_factor, found.rewind, found.reinit, found.stop)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# Discrete ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "kwargs", "factors", "rewinds", "size"),
    [
        ("AutoTrain-v0", {}, (0.2, 0.8, 1, 1.2, 1.8), 4, 22),
        ("AutoTrain-v0", {"num_snapshots": 7}, (0.2, 0.8, 1, 1.2, 1.8), 7, 37),
        ("AutoTrain-v0", {"num_snapshots": 1}, (0.2, 0.8, 1, 1.2, 1.8), 1, 7),
        ("AutoTrain-v0", {"num_rewinds": 2}, (0.2, 0.8, 1, 1.2, 1.8), 2, 12),
        ("AutoTrainPrototype-v0", {}, (0.9, 1, 1.1), 4, 14),
        ("AutoTrainPrototype-v0", {"num_snapshots": 10}, (0.9, 1, 1.1), 10, 32),
        ("AutoTrainRISA-v0", {}, (0.2, 0.8, 1, 1.2, 1.8), 1, 7),
        ("AutoTrainRISA-v0", {"num_snapshots": 9}, (0.2, 0.8, 1, 1.2, 1.8), 1, 7),
    ],
)
def test_one_rule_gives_every_discrete_table(
    env_id: str, kwargs: dict[str, Any], factors: tuple[float, ...], rewinds: int, size: int
):
    actions = make(env_id, **kwargs)
    expected = [(factor, rewind, False, False) for rewind in range(rewinds) for factor in factors]
    expected += [(1, 0, True, False), (1, 0, False, True)]
    assert len(expected) == size == len(factors) * rewinds + 2
    assert actions.space() == spaces.Discrete(size)
    assert table(actions) == expected


def test_the_first_form_of_risa_has_five_buttons():
    actions = make("AutoTrainRISA-v0", lr_factors=(0.2, 0.8, 1.2, 1.8), stop=False)
    assert actions.space() == spaces.Discrete(5)
    assert table(actions) == [
        (0.2, 0, False, False),
        (0.8, 0, False, False),
        (1.2, 0, False, False),
        (1.8, 0, False, False),
        (1.0, 0, True, False),
    ]


def test_reinit_and_stop_can_be_switched_off():
    assert table(make(num_snapshots=1, lr_factors=(0.5, 2), reinit=False)) == [
        (0.5, 0, False, False),
        (2.0, 0, False, False),
        (1.0, 0, False, True),
    ]
    assert table(make(num_snapshots=1, lr_factors=(0.5,), reinit=False, stop=False)) == [
        (0.5, 0, False, False)
    ]


def test_a_decision_carries_the_factor_of_its_action():
    actions = make()
    found = actions.decode(np.array([0, 8, 20]), np.ones((3, 4), bool), [])
    assert found.lr_factor.tolist() == [0.2, 1.2, 1.0] and found.learning_rate is None
    assert found.rewind.tolist() == [0, 1, 0]


@pytest.mark.parametrize("rows", list(itertools.product([False, True], repeat=3)))
def test_masks_follow_the_rows_that_exist(rows: tuple[bool, ...]):
    rewindable = np.array([rows, (True, True, True)])
    first = [True, *rows[1:]]  # not to rewind is always possible
    for kwargs, per_rewind in (({}, 5), ({"lr_factors": (0.9, 1, 1.1)}, 3)):
        expected = [exists for exists in first for _ in range(per_rewind)] + [True, True]
        masks = make(num_snapshots=3, **kwargs).masks(rewindable)
        assert masks.dtype == bool and masks.tolist() == [expected, [True] * len(expected)]
    fewer = make(num_snapshots=3, num_rewinds=2, lr_factors=(1,), stop=False).masks(rewindable)
    assert fewer.tolist() == [[True, rows[1], True], [True] * 3]


# Annealing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_type", ["discrete", "multi_discrete", "continuous"])
def test_the_action_that_keeps_a_rate_makes_a_straight_line_to_0(action_type: str):
    actions = make(action_type=action_type, annealing="linear")
    keep = {"discrete": 2, "multi_discrete": [2, 0, 0], "continuous": [0.0] * 7}[action_type]
    given = np.array([keep]), np.array([[True, False, False, False]]), [np.random.default_rng(0)]
    for whole in (1, 2, 30):
        for begun in range(whole):
            rate, rates = 1.0, []
            for left in range(whole - begun, 0, -1):
                found = actions.decide(*given, np.array([left]))
                rate *= found.lr_factor[0]
                rates.append(rate)
            line = (np.arange(whole - begun, 0, -1) - 0.5) / (whole - begun + 0.5)
            np.testing.assert_allclose(rates, line, rtol=1e-12)


def test_factors_depart_from_the_line():
    plain, falling = make(), make(annealing="linear")
    every, rewindable, left = np.arange(22), np.ones((22, 4), bool), np.full(22, 7)
    expected = plain.decide(every, rewindable, [], left)
    np.testing.assert_array_equal(expected.lr_factor, table_of_factors(plain))
    found = falling.decide(every, rewindable, [], left)
    np.testing.assert_allclose(found.lr_factor, expected.lr_factor * 6.5 / 7.5)
    for name in ("rewind", "reinit", "stop"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def table_of_factors(actions_type: Any) -> list[float]:
    return [factor for factor, *_ in table(actions_type)]


def test_annealing_in_an_environment():
    arguments = tiny(annealing="linear", budget=40, initial_learning_rate=0.4)
    env = AutoTrainEnv(**arguments)
    env.reset(seed=0)
    steps = 40 // arguments["inner_steps"]
    rates = [env.step(2)[-1]["learning_rate"] for _ in range(steps)]
    np.testing.assert_allclose(rates, 0.4 * (np.arange(steps, 0, -1) - 0.5) / (steps + 0.5), rtol=1e-12)


@pytest.mark.parametrize("schedule", [Constant(0.3), Cosine(0.3)])
def test_schedules_set_their_rates_whatever_actions_do(schedule: Any):
    rates = []
    for annealing in ("none", "linear"):
        env = make_evaluation_env("AutoTrain-v0", 1, **tiny(annealing=annealing, budget=40))
        evaluate_policy(env, schedule, 1)
        rates.append(env.unwrapped.core.lineage.learning_rate[0])
    assert rates[0] == rates[1]


def test_annealing_that_is_none():
    with pytest.raises(ValueError, match="annealing='cosine' is not a known name"):
        make(annealing="cosine")
    with pytest.raises(ValueError, match="annealing='linear' is not allowed.*set the rate itself"):
        make(annealing="linear", action_type="learning_rate")


# Multi-discrete ------------------------------------------------------------------------------------


def test_multi_discrete_is_factor_rewind_and_verb():
    actions = make(action_type="multi_discrete", num_snapshots=3, lr_factors=(0.5, 1, 2, 4))
    space = actions.space()
    assert space == spaces.MultiDiscrete([4, 3, 3])
    all_actions = np.array(list(itertools.product(range(4), range(3), range(3))))
    found = decode(actions, all_actions)
    assert found.lr_factor.tolist() == [(0.5, 1, 2, 4)[factor] for factor, _, _ in all_actions]
    assert found.rewind.tolist() == all_actions[:, 1].tolist()
    assert found.reinit.tolist() == [verb == 1 for _, _, verb in all_actions]
    assert found.stop.tolist() == [verb == 2 for _, _, verb in all_actions]


@pytest.mark.parametrize(("reinit", "stop"), list(itertools.product([False, True], repeat=2)))
def test_multi_discrete_leaves_out_verbs_that_are_switched_off(reinit: bool, stop: bool):
    actions = make(action_type="multi_discrete", reinit=reinit, stop=stop)
    count = 1 + reinit + stop
    assert actions.space() == spaces.MultiDiscrete([5, 4, count])
    found = decode(actions, [[2, 0, verb] for verb in range(count)])
    assert found.reinit.tolist() == ([False] + [True] * reinit + [False] * stop)
    assert found.stop.tolist() == ([False] + [False] * reinit + [True] * stop)
    assert actions.masks(np.ones((1, 4), bool)).shape == (1, 5 + 4 + count)


def test_multi_discrete_masks_are_concatenated():
    actions = make(action_type="multi_discrete", num_snapshots=3, lr_factors=(1, 2))
    masks = actions.masks(np.array([[False, False, True], [True, True, False]]))
    assert masks.tolist() == [
        [True, True, True, False, True, True, True, True],
        [True, True, True, True, False, True, True, True],
    ]


# Continuous ----------------------------------------------------------------------------------------


def continuous(actions: list[float] | np.ndarray, rows: int = 4, **kwargs: Any) -> Decisions:
    made = make("AutoTrainContinuous-v0", num_snapshots=rows, **kwargs)
    return decode(made, np.atleast_2d(np.asarray(actions, np.float32)))


def test_continuous_space_is_a_box_of_h_plus_3():
    for rows in (1, 4, 6):
        space = make("AutoTrainContinuous-v0", num_snapshots=rows).space()
        assert space == spaces.Box(-1, 1, (rows + 3,), np.float32)
    assert make(action_type="continuous").space().shape == (7,)


@pytest.mark.parametrize("largest", [5.0, 2.0])
def test_continuous_factor_is_a_power_of_the_largest(largest: float):
    levels = np.array([-1, -0.5, 0, 0.25, 1])
    actions = np.zeros((5, 7), np.float32)
    actions[:, 0], actions[:, 1] = levels, 1
    found = continuous(actions, max_lr_factor=largest)
    assert found.lr_factor == pytest.approx(largest**levels)
    default = continuous(actions)
    assert default.lr_factor == pytest.approx(5.0**levels)


def test_continuous_thresholds_are_exact():
    above = {0.9: np.nextafter(np.float32(0.9), 1), 0.95: np.nextafter(np.float32(0.95), 1)}
    below = {0.9: np.nextafter(np.float32(0.9), 0), 0.95: np.nextafter(np.float32(0.95), 0)}
    rows = []
    for reinit, stop in itertools.product((below[0.9], above[0.9], 1), (below[0.95], above[0.95], 1)):
        rows.append([0, 1, -1, -1, -1, reinit, stop])
    found = continuous(rows)
    assert found.stop.tolist() == [False, True, True] * 3
    assert found.reinit.tolist() == [False] * 3 + [True, False, False] * 2  # stop goes before re-init
    silent = continuous(rows, stop=False, reinit=False)
    assert not silent.stop.any() and not silent.reinit.any()
    assert continuous(rows, stop=False).reinit.tolist() == [False] * 3 + [True] * 6


def test_continuous_rewinds_are_drawn_from_the_softmax_over_existing_rows():
    draws = 40_000
    logits = np.array([0.05, -0.1, 0.2, 0.1], np.float32)
    made = make("AutoTrainContinuous-v0")
    action = np.concatenate(([0], logits, [0, 0])).astype(np.float32)
    generator = np.random.default_rng(0)
    for exists in (
        [True] * 4,
        [True, False, True, False],
        [True, False, False, True],
        [True, True, False, False],
    ):
        rewindable = np.tile(exists, (draws, 1))
        found = made.decode(np.tile(action, (draws, 1)), rewindable, [generator] * draws).rewind
        expected = np.exp(10 * logits.astype(float)) * exists
        expected /= expected.sum()
        frequencies = np.bincount(found, minlength=4) / draws
        assert frequencies[~np.array(exists)].sum() == 0
        # five standard deviations of a binomial share
        assert np.all(np.abs(frequencies - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws))


def test_a_draw_comes_from_the_lanes_own_stream():
    made = make("AutoTrainContinuous-v0")
    actions = np.zeros((3, 7), np.float32)
    rewindable = np.ones((3, 4), bool)
    streams = [np.random.default_rng(seed) for seed in (5, 6, 7)]
    together = [made.decode(actions, rewindable, streams).rewind for _ in range(20)]
    for lane, seed in enumerate((5, 6, 7)):
        stream = [np.random.default_rng(seed)]
        alone = [made.decode(actions[:1], rewindable[:1], stream).rewind[0] for _ in range(20)]
        assert alone == [drawn[lane] for drawn in together]
    assert len({drawn[0] for drawn in together}) > 1


def test_continuous_argmax_takes_the_likeliest_existing_row_and_draws_nothing():
    made = make("AutoTrainContinuous-v0", rewind_sampling="argmax")
    action = np.array([[0, -1, 0.4, 0.5, 0.3, 0, 0]], np.float32)
    for exists, expected in (
        ([True, True, True, True], 2),
        ([True, True, False, True], 1),
        ([True, False, False, True], 3),
        ([True, False, False, False], 0),
        ([False, False, False, False], 0),
        ([False, True, False, False], 1),
    ):
        found = made.decode(action, np.array([exists]), [])
        assert found.rewind.tolist() == [expected]


def test_sharpness_makes_a_clear_preference_nearly_certain():
    actions = np.tile(np.array([0, -1, 1, -1, -1, 0, 0], np.float32), (500, 1))
    assert (continuous(actions).rewind == 1).all()  # odds of exp(-20)


@pytest.mark.parametrize("action_type", ["continuous", "learning_rate"])
def test_actions_without_masks_say_so(action_type: str, tiny_env: Any):
    with pytest.raises(TypeError, match=f"action_masks: action_type='{action_type}' has no masks"):
        make(action_type=action_type).masks(np.ones((1, 4), bool))
    env = tiny_env(action_type=action_type)
    env.reset(seed=0)
    with pytest.raises(TypeError, match="has no masks"):
        env.action_masks()


# Learning rate -------------------------------------------------------------------------------------


def test_learning_rate_actions_are_the_rate_on_a_log_scale():
    actions = make(action_type="learning_rate", lr_bounds=(1e-4, 100.0))
    assert actions.space() == spaces.Box(-1, 1, (1,), np.float32)
    found = decode(actions, np.array([[-1], [-0.5], [0], [0.5], [1]], np.float32))
    assert found.learning_rate == pytest.approx([1e-4, 10**-2.5, 0.1, 10**0.5, 100])
    assert not found.rewind.any() and not found.reinit.any() and not found.stop.any()


def test_a_learning_rate_action_does_not_depend_on_the_rate_before(tiny_env: Any):
    env = tiny_env(action_type="learning_rate", lr_bounds=(1e-3, 10.0))
    env.reset(seed=0)
    for action, rate in ((0.0, 0.1), (1.0, 10.0), (-1.0, 1e-3), (0.0, 0.1)):
        info = env.step(np.array([action], np.float32))[-1]
        assert info["learning_rate"] == pytest.approx(rate, rel=1e-9)


# Decisions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_decisions", [Decisions.scale, Decisions.set_rate])
def test_nothing_is_decided_but_rates(make_decisions: Any):
    decisions = make_decisions(RATES)
    is_rate = make_decisions == Decisions.set_rate
    assert decisions.lr_factor.tolist() == ([1, 1, 1] if is_rate else RATES.tolist())
    assert decisions.learning_rate is None or decisions.learning_rate.tolist() == RATES.tolist()
    assert (decisions.learning_rate is not None) == is_rate
    assert decisions.rewind.dtype == np.int64 and not decisions.rewind.any()
    assert not decisions.reinit.any() and not decisions.stop.any()
    assert make_decisions(np.array([1, 2])).lr_factor.dtype == np.float64


@pytest.mark.parametrize("action_type", ["discrete", "multi_discrete", "continuous", "learning_rate"])
def test_decisions_have_their_types(action_type: str):
    made = make(action_type=action_type)
    space = gymnasium.vector.utils.batch_space(made.space(), 3)
    found = decode(made, space.sample())
    for name, kind in (
        ("lr_factor", np.float64),
        ("rewind", np.int64),
        ("reinit", np.bool_),
        ("stop", np.bool_),
    ):
        array = getattr(found, name)
        assert array.shape == (3,) and array.dtype == kind, name


def test_check_actions_gives_an_array_of_the_spaces_type():
    space = gymnasium.vector.utils.batch_space(spaces.Discrete(4), 3)
    assert check_actions(space, [0, 1, 3]).dtype == np.int64
    assert check_actions(space, np.array([0, 1, 3], np.uint8)).tolist() == [0, 1, 3]
    box = gymnasium.vector.utils.batch_space(spaces.Box(-1, 1, (2,)), 1)
    assert check_actions(box, [[0.5, 1]]).dtype == np.float32
    assert check_actions(box, np.array([[0, 1]])).dtype == np.float32


# In words ------------------------------------------------------------------------------------------


def test_words_say_what_was_done():
    executed = Executed(
        lr_factor=np.array([1, 0.8, 1.2, 1, 3, 1]),
        rewind=np.array([0, 0, 2, 3, 0, 0]),
        rewind_impossible=np.zeros(6, bool),
        reinit=np.array([False, False, False, False, True, True]),
        stop=np.zeros(6, bool),
    )
    words = executed.in_words()
    assert words.tolist() == [
        "lr kept",
        "lr x0.8",
        "rewind 2, lr x1.2",
        "rewind 3, lr kept",
        "reinit, lr x3",
        "reinit, lr kept",
    ]
    stopped = dataclasses.replace(Executed.nothing(1), stop=np.ones(1, bool))
    assert stopped.in_words().tolist() == ["stop"] and stopped.numbers().tolist() == [3]


def test_words_in_the_information_tell_the_factor_that_was_left_by_the_bounds():
    env = gymnasium.make("AutoTrain-v0", **tiny(lr_bounds=(0.1, 1.0), initial_learning_rate=0.8))
    env.reset(seed=0)
    for action in (4, 4, 0, 0, 7, 15):
        env.step(action)
    words = env.unwrapped.history()["action"].tolist()[1:]
    assert words == ["lr x1.25", "lr kept", "lr x0.2", "lr x0.5", "rewind 1, lr kept", "reinit, lr kept"]
    env.reset(seed=0)
    env.step(2)
    env.step(16)
    assert env.unwrapped.history()["action"].tolist() == ["reset", "lr kept", "stop"]
    env.reset(seed=0, options=None)
    env.step(16)


def test_every_action_of_the_table_is_carried_out(tiny_env: Any):
    """The whole way from the index to the information, for all indices."""
    env = tiny_env(initial_learning_rate=0.1)
    for action in range(17):
        env.reset(seed=0)
        env.step(2)
        before = env.step(2)[-1]
        _, _, terminated, _, info = env.step(action)
        rewind, factor = divmod(action, 5)
        assert terminated == (action == 16)
        if action < 15:
            assert info["rewind"] == rewind and not info["rewind_impossible"]
            rate = before["learning_rate"] * (0.2, 0.8, 1, 1.2, 1.8)[factor]
            assert info["learning_rate"] == pytest.approx(rate)
        elif action == 15:
            assert info["holdout_queries"] - before["holdout_queries"] == 3
            assert info["learning_rate"] == before["learning_rate"]
        else:
            assert info["updates"] == before["updates"] == 8
