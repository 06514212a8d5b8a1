"""What agents are compared with: chosen by validation, on the very episodes, at the cost reported."""

from typing import Any

import numpy as np
import pytest

from agents.comparing import populations
from agents.comparing.populations import Populations, train_populations
from agents.comparing.schedule_search import RateTable, random_schedule, search_schedules
from agents.comparing.schedule_tuning import GRID, best_of_rates, tune
from agents.runs.seeds import DEVELOPMENT_SEED, TUNING_SEED
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.schedules import Constant, Cosine
from tests.helpers.comparing import make_env, silent


def score_at(schedule: Any, episodes: int, seed: int) -> np.ndarray:
    return evaluate_policy(make_env(4), schedule, episodes, seed)["score"]


def test_a_schedule_is_tuned_by_validation_on_tuning_seeds():
    tuned = tune(make_env(4), "cosine", 4, silent)
    means = [score_at(Cosine(float(rate)), 4, TUNING_SEED).mean() for rate in GRID]
    assert tuned.schedule == Cosine(float(GRID[int(np.argmax(means))]))
    assert tuned.updates == 8 * 4 * 40 and tuned.parameters == {}
    assert tuned.learning_rate == GRID[int(np.argmax(means))]


def test_own_parameters_are_tuned_at_the_best_rate_and_beside_it():
    variants = ({"final_factor": 0.5}, {"final_factor": 0.01})
    tuned = tune(make_env(4), "cosine", 4, silent, variants)
    means = [score_at(Cosine(float(rate)), 4, TUNING_SEED).mean() for rate in GRID]
    best = int(np.argmax(means))
    around = range(max(best - 1, 0), min(best + 2, len(GRID)))
    tried = {Cosine(float(GRID[i]), **own): None for i in around for own in variants}
    scores = {schedule: score_at(schedule, 4, TUNING_SEED).mean() for schedule in tried}
    scores[Cosine(float(GRID[best]))] = means[best]
    assert scores[tuned.schedule] == max(scores.values())
    assert tuned.updates == (8 + len(tried)) * 4 * 40
    with pytest.raises(ValueError, match="schedule='random'"):
        tune(make_env(4), "random", 4, silent)


def test_best_of_rates_keeps_the_run_with_the_best_validation_score():
    results = best_of_rates(make_env(3), Constant(), 5, DEVELOPMENT_SEED, silent)
    scores = [score_at(Constant(float(rate)), 5, DEVELOPMENT_SEED) for rate in GRID]
    np.testing.assert_array_equal(results["score"], np.max(scores, axis=0))
    np.testing.assert_array_equal(results["updates"], np.full(5, 8 * 40))
    chosen = np.argmax(scores, axis=0)
    for episode, rate in enumerate(GRID[chosen]):
        assert results["history"][episode]["learning_rate"][-1] == pytest.approx(rate)


def test_a_population_without_exchange_is_the_best_of_8(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(populations, "Populations", lambda: Populations(interval=1000))
        alone = train_populations(make_env(16), 3, DEVELOPMENT_SEED, silent)
    expected = best_of_rates(make_env(3), Constant(), 3, DEVELOPMENT_SEED, silent)
    for name in ("score", "test_accuracy", "updates", "initial_train_score"):
        np.testing.assert_array_equal(alone[name], expected[name])
    exchanged = train_populations(make_env(16), 3, DEVELOPMENT_SEED, silent)
    assert any(exchanged["score"] != alone["score"])
    again = train_populations(make_env(8), 3, DEVELOPMENT_SEED, silent)
    for name in ("score", "test_accuracy"):
        np.testing.assert_array_equal(exchanged[name], again[name])
    with pytest.raises(ValueError, match="num_envs=12"):
        train_populations(make_env(12), 3, DEVELOPMENT_SEED, silent)


def test_the_worst_of_a_population_become_copies_of_the_best():
    env, policy = make_env(8), Populations(interval=2)
    env.reset(seed=[DEVELOPMENT_SEED] * 8)
    policy.reset(env.situation(), np.ones(8, bool))
    for _ in range(2):
        policy.exchange(env)
        env.step_decisions(policy.decide(env.situation()))
    score = env.core.lanes.score.copy()
    before = [env.core.stacks.weights_of(lane)["1.weight"] for lane in range(8)]
    policy.exchange(env)
    decisions = policy.decide(env.situation())
    order = np.argsort(score, kind="stable")
    for lane in range(8):
        now = env.core.stacks.weights_of(lane)["1.weight"]
        sources = [other for other in range(8) if bool((before[other] == now).all())]
        assert sources and (lane in sources) == (lane not in order[:2])
        if lane in order[:2]:
            assert sources[0] in order[-2:]
            factor = decisions.learning_rate[lane] / decisions.learning_rate[sources[0]]
            assert factor == pytest.approx(0.8) or factor == pytest.approx(1.25)


@pytest.mark.parametrize("num_envs", [2, 5])
def test_a_table_of_rates_is_followed_episode_by_episode(num_envs: int):
    rates = np.random.default_rng(0).uniform(0.001, 0.1, (7, 10))
    env = make_env(num_envs)
    for _ in range(2):  # a table serves one evaluation; another one starts anew
        results = evaluate_policy(env, RateTable(rates), 7, DEVELOPMENT_SEED, history=True)
        for episode, history in enumerate(results["history"]):
            np.testing.assert_allclose(history["learning_rate"][1:], rates[episode])


def test_random_search_spends_its_updates_and_keeps_the_best():
    env = make_env(6)
    results = search_schedules(env, 2, 500, 40, DEVELOPMENT_SEED, silent)
    assert results["updates"].tolist() == [6 * 40] * 2  # 500 // (2 * 40) runs of each
    more = search_schedules(env, 2, 4000, 40, DEVELOPMENT_SEED, silent)
    assert more["updates"].tolist() == [50 * 40] * 2 and more["score"].mean() > results["score"].mean()
    np.testing.assert_array_equal(
        results["initial_train_score"],
        evaluate_policy(env, Constant(), 2, DEVELOPMENT_SEED)["initial_train_score"],
    )


def test_random_schedules_vary():
    generator = np.random.default_rng(0)
    drawn = np.stack([random_schedule(generator, 30) for _ in range(200)])
    assert (drawn >= 0).all()
    peaks = drawn.max(axis=1)
    assert GRID[0] <= peaks.min() < 0.01 and 1 < peaks.max() <= GRID[-1]
    shapes = {tuple(np.round(row / row.max(), 6)) for row in drawn}
    assert len(shapes) == 1 + 6 + 3 + 3 + 3 + 3  # one for each combination of own parameters
