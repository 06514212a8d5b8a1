"""The evaluation loop: the same tasks for every policy, and the same results for every number of lanes."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from autotrain_env import AutoTrainEnv, AutoTrainVectorEnv, Choice, Decisions, Situation
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env, mean_interval
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import EarlyStopping, as_schedule

SMALL: dict[str, Any] = {
    "inner_steps": 4,
    "history_length": 2,
    "classifier": "mlp-16",
    "train_size": 80,
    "holdout_size": 60,
    "validation_size": 60,
    "batch_size": 20,
    "budget": Choice((12, 24, 40)),
}


def make_env(num_envs: int, **kwargs: Any) -> AutoTrainVectorEnv:
    return AutoTrainVectorEnv(num_envs, autoreset_mode=AutoresetMode.DISABLED, **SMALL | kwargs)


class Script:
    """An agent whose actions depend on nothing but the env step; notes which lanes were reset."""

    def __init__(self, actions: list[int]) -> None:
        self.actions = actions
        self.resets: list[list[int]] = []

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        self.resets.append(np.flatnonzero(lanes).tolist())

    def decide(self, situation: Situation) -> Decisions:
        return situation.decode(np.array(self.actions)[situation.steps % len(self.actions)])


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        if name != "history":
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize(
    ("policy", "kwargs"),
    [
        ("cosine", {}),
        ("reduce_on_plateau", {}),
        (EarlyStopping("one_cycle", patience=2), {}),
        ("random", {}),
        ("random", {"action_type": "continuous"}),
    ],
    ids=str,
)
def test_number_of_lanes_changes_nothing(policy: Any, kwargs: dict[str, Any]) -> None:
    episodes = 9
    results = [
        evaluate_policy(make_env(num_envs, **kwargs), as_schedule(policy), episodes, seed=11)
        for num_envs in (1, 4, 9, 12)
    ]
    assert all(len(column) == episodes for column in results[0].values())
    assert len(np.unique(results[0]["updates"])) > 1  # or else lanes would stay in step
    for other in results[1:]:
        assert_same(results[0], other)


def test_every_policy_meets_the_same_tasks() -> None:
    env = make_env(3, initial_learning_rate=Choice((0.01, 0.1, 1.0)))
    constant = evaluate_policy(env, as_schedule("constant"), 8, seed=2, history=True)
    random = evaluate_policy(env, RandomAgent(), 8, seed=2, history=True)
    assert not np.array_equal(constant["updates"], random["updates"])
    for first, second in zip(constant["history"], random["history"], strict=True):
        for name, column in first.items():
            np.testing.assert_array_equal(column[0], second[name][0], err_msg=name)  # the state at reset


def test_an_episode_is_that_of_the_scalar_environment() -> None:
    actions = [4, 0, 7, 2, 12, 20, 4, 4, 4, 4]  # rewinds and a re-init among them
    found = evaluate_policy(make_env(2), Script(actions), 5, seed=30, history=True)
    for episode in range(5):
        env = AutoTrainEnv(**SMALL)
        env.reset(seed=30 + episode)
        total, terminated, steps = 0.0, False, 0
        while not terminated:
            _, reward, terminated, _, info = env.step(np.int64(actions[steps]))
            total, steps = total + reward, steps + 1
        for name in ("test_accuracy", "test_loss", "best_holdout_test_accuracy", "score", "updates"):
            assert found[name][episode] == info[name], name
        past = env.history()
        assert found["return"][episode] == total
        assert found["steps"][episode] == steps
        assert found["initial_learning_rate"][episode] == past["learning_rate"][0]
        assert found["rewinds"][episode] == (past["rewind"] > 0).sum()
        assert found["reinits"][episode] == past["reinit"].sum()
        for name, column in past.items():
            np.testing.assert_array_equal(found["history"][episode][name], column)


def test_lanes_start_their_next_episode_as_soon_as_they_can() -> None:
    agent = Script([2])
    evaluate_policy(make_env(2, budget=12), agent, 5)
    assert agent.resets == [[0, 1], [0, 1], [0]]
    agent, env = Script([2]), make_env(4, budget=12)
    evaluate_policy(env, agent, 2)
    assert agent.resets == [[0, 1, 2, 3]]
    np.testing.assert_array_equal(env.core.lineage.updates, [12, 12, 0, 0])  # two have nothing to play


def test_stop_and_divergence_are_counted() -> None:
    found = evaluate_policy(make_env(2, budget=40), Script([2, 21]), 3)
    assert found["stopped"].all()
    np.testing.assert_array_equal(found["updates"], 4)
    np.testing.assert_array_equal(found["steps"], 2)

    # Momentum at a rate of 1e30 is lost in one step; a re-init and another loss, then a rewind and a third.
    wild = {"budget": 40, "initial_learning_rate": 1e30, "lr_bounds": (1e-4, 1e30)}
    found = evaluate_policy(make_env(2, **wild), Script([2, 2, 20, 2, 7, 2, 2, 2, 2, 2]), 2)
    np.testing.assert_array_equal(found["divergences"], 3)
    assert not found["stopped"].any()
    np.testing.assert_allclose(found["test_loss"], np.log(10))


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    evaluate_policy(make_env(2), as_schedule("random"), 5, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] > 0
    assert shares[-1] == 1


def test_histories_only_on_request() -> None:
    found = evaluate_policy(make_env(2), as_schedule("constant"), 2)
    assert "history" not in found
    assert all(column.dtype != object for column in found.values())


def test_an_evaluation_draws_the_hardest_tasks_of_a_curriculum() -> None:
    env = make_evaluation_env("AutoTrain-v0", 4, tasks="curriculum", classifier="mlp-4")
    results = evaluate_policy(env, as_schedule("constant"), 12, 3, history=True)
    hardest = make_evaluation_env("AutoTrain-v0", 4, tasks="default", classifier="mlp-4")
    expected = evaluate_policy(hardest, as_schedule("constant"), 12, 3)
    np.testing.assert_array_equal(results["initial_learning_rate"], expected["initial_learning_rate"])
    np.testing.assert_array_equal(results["test_accuracy"], expected["test_accuracy"])


def test_environment_of_gymnasium() -> None:
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=2, autoreset_mode=AutoresetMode.DISABLED, **SMALL)
    found = evaluate_policy(env, as_schedule("constant"), 3)
    assert_same(found, evaluate_policy(make_env(2), as_schedule("constant"), 3))


def test_episodes_of_one_seed_differ_in_the_decisions_alone() -> None:
    results = evaluate_policy(make_env(3), RandomAgent(), 6, [7, 7, 9, 7, 9, 11], history=True)
    first = results["initial_train_score"]
    assert first[0] == first[1] == first[3] and first[2] == first[4] and len(set(first)) == 3
    single = evaluate_policy(make_env(2), as_schedule("constant"), 3, 7)
    several = evaluate_policy(make_env(2), as_schedule("constant"), 3, [9, 7, 8])
    for name in single:
        np.testing.assert_array_equal(several[name], single[name][[2, 0, 1]], err_msg=name)
    with pytest.raises(ValueError, match="seed='2 seeds'"):
        evaluate_policy(make_env(2), RandomAgent(), 3, [1, 2])
    with pytest.raises(ValueError, match="seed=-1"):
        evaluate_policy(make_env(2), RandomAgent(), 2, [1, -1])


def test_bad_input() -> None:
    policy = as_schedule("constant")
    with pytest.raises(ValueError, match="autoreset_mode=.*DISABLED"):
        evaluate_policy(AutoTrainVectorEnv(2, **SMALL), policy, 3)
    with pytest.raises(TypeError, match="must be an AutoTrainVectorEnv"):
        evaluate_policy(AutoTrainEnv(**SMALL), policy, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="episodes=0"):
        evaluate_policy(make_env(2), policy, 0)
    with pytest.raises(ValueError, match="seed=-1"):
        evaluate_policy(make_env(2), policy, 3, seed=-1)


def test_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, size=200)
    mean, low, high = mean_interval(values)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.15)
    assert mean_interval(np.full(5, 0.3)) == (0.3, 0.3, 0.3)
    with pytest.raises(ValueError, match="values="):
        mean_interval(np.array([]))
