"""The reusable holdout against its pseudo-code, and what it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_env.process.thresholdout import Thresholdout
from tests.helpers.reference import PublishedThresholdout

ONE = np.array([0])  # the only lane


class Guard:
    """Thresholdout of one lane, asked with plain numbers."""

    def __init__(
        self,
        generator: np.random.Generator,
        threshold: float,
        sigma: float,
        budget: int | None = None,
        enabled: bool = True,
    ) -> None:
        self.lanes = Thresholdout(1, threshold, sigma, budget, enabled)
        self.lanes.begin(ONE, [generator])

    def query(self, train_score: float, holdout_score: float) -> float:
        return float(self.lanes.query(ONE, np.array([train_score]), np.array([holdout_score]))[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lanes, name)[0]


scores = st.floats(0, 1)
questions = st.lists(st.tuples(scores, scores), max_size=140)


@given(
    questions=questions,
    seed=st.integers(0, 2**32 - 1),
    threshold=st.sampled_from([0.0, 0.04, 0.3]),
    sigma=st.sampled_from([0.0, 0.01, 0.1]),
    budget=st.sampled_from([None, 0, 1, 3]),
)
def test_answers_are_those_of_the_pseudo_code(
    questions: list[tuple[float, float]], seed: int, threshold: float, sigma: float, budget: int | None
):
    """On the same noise, bit for bit; after the budget's end the train score stands for "⊥"."""
    ours = Guard(np.random.default_rng(seed), threshold, sigma, budget)
    theirs = PublishedThresholdout(
        np.random.default_rng(seed), threshold, sigma, np.inf if budget is None else budget
    )
    for count, (train, holdout) in enumerate(questions, start=1):
        assert ours.exhausted == (theirs.B < 1)
        expected = theirs(train, holdout)
        answer = ours.query(train, holdout)
        assert answer == (train if expected is None else expected)
        assert ours.queries == count
    assert ours.exhausted == (theirs.B < 1)


def test_the_pseudo_code_worked_by_hand():
    """Noise that is known in advance: each number goes where Figure 1 says."""

    class Noise:
        def laplace(self, size: int) -> np.ndarray:
            return np.array([0.5, 0.125, -0.3125, 0.25, 0.75, 4.5] + [0.0] * (size - 6))

    guard = Guard(Noise(), threshold=0.25, sigma=0.5, budget=2)  # type: ignore[arg-type]
    # 2 sigma is 1, and so the noisy threshold 0.75. Then eta is of scale 2, xi of scale 0.5:
    assert guard.query(0.0, 1.0) == 0.0  # eta: 1 <= 0.75 + 0.25, so the train score
    assert guard.query(0.5, 0.75) == 0.875  # eta: 0.25 > 0.75 - 0.625, so 0.75 + xi
    assert guard._noisy_threshold == 1.0  # a new gamma of 0.75
    assert guard.query(0.0, 0.9) == 0.0  # eta of 9
    assert (guard.queries, guard.disagreements, guard.exhausted) == (3, 1, False)


def test_noise_has_the_scales_of_the_paper():
    """Laplace noise of scale b has a mean absolute value of b: sigma on answers, 2, 4 elsewhere."""
    draws = 20_000
    guards = Thresholdout(2_000, 0.04, 0.01)
    guards.begin(np.arange(2_000), [np.random.default_rng(seed) for seed in range(2_000)])
    threshold_noise = guards._noisy_threshold - 0.04
    assert np.abs(threshold_noise).mean() == pytest.approx(0.02, rel=0.1)
    guard = Guard(np.random.default_rng(0), 0.04, 0.01)
    answers = np.array([guard.query(1.0, 0.25) for _ in range(draws)])
    assert guard.disagreements == draws
    assert np.abs(answers - 0.25).mean() == pytest.approx(0.01, rel=0.03)
    assert answers.mean() == pytest.approx(0.25, abs=5e-4)
    # Beside one noisy threshold, only the comparison's noise decides: beyond it by 4 sigma, P = 1 / 2e.
    agreed = 0
    for _ in range(draws):
        guard.lanes._noisy_threshold[0] = 0.5
        agreed += guard.query(0.0, 0.5 + 0.04) == 0.0
    assert agreed / draws == pytest.approx(0.5 * np.exp(-1), rel=0.05)


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_budget_counts_disagreements_alone(budget: int):
    guard = Guard(np.random.default_rng(0), 0.04, 0.0, budget)
    for _ in range(30):
        assert guard.query(0.5, 0.51) == 0.5
    assert not guard.exhausted or budget == 0
    for i in range(10):
        assert guard.exhausted == (i >= budget)
        assert guard.query(0.5, 0.75) == (0.75 if i < budget else 0.5)
    assert guard.disagreements == budget and guard.queries == 40


def test_after_the_budget_nothing_depends_on_the_holdout():
    guards = [Guard(np.random.default_rng(0), 0.04, 0.01, budget=2) for _ in range(2)]
    for guard in guards:
        while not guard.exhausted:
            guard.query(0.9, 0.1)
    generator = np.random.default_rng(1)
    for train in generator.random(200):
        first, second = (guard.query(train, generator.random()) for guard in guards)
        assert first == second == train


def test_without_a_budget_it_answers_for_ever():
    guard = Guard(np.random.default_rng(0), 0.04, 0.01)
    assert all(abs(guard.query(0.9, 0.1) - 0.1) < 0.3 for _ in range(5_000))
    assert guard.disagreements == 5_000 and not guard.exhausted


def test_every_lane_is_guarded_as_if_it_were_alone():
    """Whatever the others do: asked in other steps, another stream, a new beginning."""
    together = Thresholdout(3, 0.04, 0.02, budget=40)
    alone = [Guard(np.random.default_rng(lane), 0.04, 0.02, 40) for lane in range(3)]
    together.begin(np.arange(3), [np.random.default_rng(lane) for lane in range(3)])
    generator = np.random.default_rng(7)
    for step in range(300):
        if step == 150:
            alone[1] = Guard(np.random.default_rng(9), 0.04, 0.02, 40)
            together.begin(np.array([1]), [np.random.default_rng(9)])
        lanes = np.flatnonzero(generator.random(3) < 0.7)
        train, holdout = generator.random((2, len(lanes))) * 0.2
        expected = [alone[lane].query(*both) for lane, *both in zip(lanes, train, holdout, strict=True)]
        assert together.query(lanes, train, holdout).tolist() == expected
    assert together.queries.tolist() == [guard.queries for guard in alone]
    assert together.exhausted.tolist() == [guard.exhausted for guard in alone] == [True, False, True]


def test_switched_off_it_answers_truly_and_counts():
    generator = np.random.default_rng(0)
    guard = Guard(generator, 0.04, 0.01, budget=0, enabled=False)
    for i in range(100):
        assert guard.query(i / 100, 1 - i / 100) == 1 - i / 100
    assert guard.queries == 100 and not guard.exhausted and guard.disagreements == 0


# --- what it is for ---


def attack(ask: Callable[[float, float], float], seed: int) -> tuple[float, ...]:
    """The experiment of the paper's section 5: labels are coins, features are noise.

    An analyst asks for the accuracy of every feature, keeps those that train and holdout agree on, and
    asks for the accuracy of their vote.

    Returns:
        Accuracy of the vote on the holdout, what the analyst was told of it, and on fresh data.
    """
    size, features = 1_000, 1_000
    generator = np.random.default_rng(seed)
    data = generator.standard_normal((3, size, features))
    labels = generator.choice([-1.0, 1.0], (3, size))
    train, holdout, fresh = range(3)

    def accuracy(part: int, weights: np.ndarray) -> float:
        return float(((data[part] @ weights > 0) == (labels[part] > 0)).mean())

    hits = (np.sign(data) == labels[:, :, None]).mean(1)  # (3, features)
    on_train = hits[train]
    told = np.array([ask(*both) for both in zip(on_train, hits[holdout], strict=True)])
    lift = 0.5 / np.sqrt(size)  # a standard deviation
    up = (on_train - 0.5 > lift) & (told - 0.5 > lift)
    down = (on_train - 0.5 < -lift) & (told - 0.5 < -lift)
    weights = up.astype(float) - down
    seen = accuracy(holdout, weights)
    return seen, ask(accuracy(train, weights), seen), accuracy(fresh, weights)


def test_it_limits_an_adaptive_attacker():
    """Truth is 50%. Without a guard the holdout seems to show far more; with it, it shows the truth."""
    runs: dict[str, list[tuple[float, ...]]] = {"bare": [], "guarded": []}
    for seed in range(6):
        runs["bare"].append(attack(lambda train, holdout: holdout, seed))
        guard = Guard(np.random.default_rng(100 + seed), 0.04, 0.01)
        runs["guarded"].append(attack(guard.query, seed))
        assert guard.queries == 1_001
    bare, guarded = (np.array(runs[kind]).mean(0) for kind in ("bare", "guarded"))
    assert abs(bare[2] - 0.5) < 0.02 and abs(guarded[2] - 0.5) < 0.02  # the truth
    assert bare[0] - 0.5 > 0.08 and bare[1] - 0.5 > 0.08
    assert abs(guarded[0] - 0.5) < 0.4 * (bare[0] - 0.5)  # the holdout keeps its worth
    assert abs(guarded[1] - 0.5) < 0.4 * (bare[1] - 0.5)  # and so does the answer
