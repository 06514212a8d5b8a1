"""Portfolios: each member plays as it would alone, and the best one is kept."""

from typing import Any

import numpy as np
import pytest

from autotrain_env import Constant, Cosine, Decisions, Situation, load_policy
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.evaluation import evaluate_policy, evaluate_portfolio, make_evaluation_env
from autotrain_env.policies.portfolio import FromRate, Portfolio
from autotrain_env.policies.random_agent import RandomAgent

SMALL: dict[str, Any] = {
    "tasks": "default",
    "classifier": "mlp-16",
    "train_size": 80,
    "holdout_size": 60,
    "validation_size": 60,
    "batch_size": 20,
    "budget": 60,
    "inner_steps": 10,
}


def make_env(num_envs: int, **kwargs: Any) -> Any:
    return make_evaluation_env("AutoTrainRuns-v0", num_envs, observation_layout="flat", **SMALL, **kwargs)


class Doubles:
    """Doubles the rate, and notes how many lanes it was shown."""

    def __init__(self) -> None:
        self.lanes: set[int] = set()

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        self.lanes.add(len(lanes))

    def decide(self, situation: Situation) -> Decisions:
        self.lanes.add(situation.num_envs)
        return Decisions.scale(np.full(situation.num_envs, 2.0))


@pytest.mark.parametrize(("num_envs", "by"), [(3, "holdout_answer"), (6, "holdout_answer"), (3, "score")])
def test_each_member_plays_as_alone_and_the_best_is_kept(num_envs: int, by: str) -> None:
    def members() -> list[Any]:
        return [load_policy("real_runs"), Cosine(0.05), FromRate(0.01, load_policy("real_runs"))]

    episodes = 5
    alone = [evaluate_policy(make_env(2), member, episodes, seed=7) for member in members()]
    found = evaluate_portfolio(make_env(num_envs), members(), episodes, seed=7, by=by)
    answers = np.stack([results[by] for results in alone], 1)
    np.testing.assert_array_equal(found["member"], answers.argmax(1))
    assert len(set(found["member"].tolist())) > 1  # or nothing would be shown
    for name in alone[0]:
        if name != "updates":
            columns = np.stack([results[name] for results in alone], 1)
            np.testing.assert_array_equal(found[name], columns[np.arange(episodes), found["member"]], name)
    np.testing.assert_array_equal(found["updates"], sum(results["updates"] for results in alone))


def test_a_member_sees_its_own_lanes_alone() -> None:
    member = Doubles()
    evaluate_policy(make_env(6), Portfolio([member, Constant(0.1), RandomAgent()]), 6)
    assert member.lanes == {2}


def test_rates_and_factors_stand_side_by_side() -> None:
    results = evaluate_policy(
        make_env(2), Portfolio([Doubles(), Constant(0.25)]), 2, seed=[3, 3], history=True
    )
    doubled, constant = (past["learning_rate"] for past in results["history"])
    wanted = np.minimum(doubled[0] * 2.0 ** np.arange(1, len(doubled)), 100)
    np.testing.assert_allclose(doubled[1:], wanted)
    np.testing.assert_array_equal(constant[1:], 0.25)


def test_a_policy_begins_at_a_rate_of_its_own() -> None:
    results = evaluate_policy(make_env(1), FromRate(0.01, Doubles()), 1, history=True)
    rates = results["history"][0]["learning_rate"]
    np.testing.assert_allclose(rates[1:], 0.01 * 2.0 ** np.arange(1, len(rates)))


def test_bad_members_and_lanes_are_named() -> None:
    with pytest.raises(InvalidValueError, match="members=.*two policies or more"):
        Portfolio([Constant()])
    with pytest.raises(InvalidValueError, match="members=.*none of them twice"):
        Portfolio([same := Constant(), same])
    with pytest.raises(InvalidValueError, match="num_envs=3.*a multiple of 2"):
        evaluate_portfolio(make_env(3), [Constant(), Cosine()], 3)
    with pytest.raises(InvalidValueError, match="episodes=0"):
        evaluate_portfolio(make_env(2), [Constant(), Cosine()], 0)
    with pytest.raises(InvalidValueError, match="by='train_score'"):
        evaluate_portfolio(make_env(2), [Constant(), Cosine()], 2, by="train_score")
    with pytest.raises(InvalidValueError, match="learning_rate=0"):
        FromRate(0, Constant())
