"""Rows of metrics: how they are made of measurements, how they move, and their space."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_env.process.observations import (
    METRICS,
    NUM_METRICS,
    Measurement,
    make_rows,
    observation_space,
)
from tests.helpers import Actions, assert_same

NAMES = list(METRICS)
K = 2


def measurement(**values: Any) -> Measurement:
    """One lane, two windows."""
    arguments: dict[str, Any] = {
        "losses": [[1.0, 2.0]],
        "accuracies": [[0.5, 0.75]],
        "learning_rates": [0.1],
        "holdout_answers": [0.25],
        "train_scores": [0.75],
        "updates": [[10, 20]],
        "lineage_updates": [[5, 15]],
        "diverged": [False],
        "holdout_missing": [False],
        "train_missing": [False],
        "movements": [0.01],
        "epochs": [100.0],
    }
    return Measurement(**{name: np.array(value) for name, value in (arguments | values).items()})


def rows_of(num_classes: int = 10, budget: int = 40, bounds: Any = (1e-4, 100.0), **values: Any) -> Any:
    """The row of one lane by metric, each of shape (K,)."""
    rows = make_rows(measurement(**values), np.array([num_classes]), np.array([budget]), bounds)
    assert rows.shape == (1, K, NUM_METRICS) and rows.dtype == np.float32
    return {name: rows[0, :, i] for i, name in enumerate(NAMES)}


def test_a_row_by_hand():
    row = rows_of()
    expected = {
        "log_loss_ratio": np.log([1 / np.log(10), 2 / np.log(10)]),
        "batch_accuracy": [0.5, 0.75],
        "learning_rate": [0, 0],  # the middle of 1e-4 and 100 on a log scale
        "holdout_answer": [0.25, 0.25],
        "generalization_gap": [0.5, 0.5],  # train score minus the same answer
        "budget_used": [0.25, 0.5],
        "lineage_updates": [0.125, 0.375],
        "diverged": [0, 0],
        "exists": [1, 1],
    }
    assert row.keys() == expected.keys()
    for name, values in expected.items():
        assert row[name] == pytest.approx(values, abs=1e-6), name


@pytest.mark.parametrize(
    ("rate", "bounds", "expected"),
    [
        (1e-4, (1e-4, 100.0), -1),
        (100.0, (1e-4, 100.0), 1),
        (1e-2, (1e-4, 1.0), 0),
        (1.0, (1e-2, 10.0), 1 / 3),
        (5.0, (1e-2, 1.0), 1),  # clipped
    ],
)
def test_the_rate_is_mapped_from_its_bounds_on_a_log_scale(rate: float, bounds: Any, expected: float):
    assert rows_of(learning_rates=[rate], bounds=bounds)["learning_rate"] == pytest.approx(
        expected, abs=1e-6
    )


def test_guessing_has_loss_ratio_zero_for_every_number_of_classes():
    for classes in (2, 4, 10, 1000):
        row = rows_of(num_classes=classes, losses=[[np.log(classes)] * 2])
        assert row["log_loss_ratio"] == pytest.approx(0, abs=1e-6)


def test_extremes_are_clipped_to_the_bounds():
    row = rows_of(losses=[[0.0, 1e300]], holdout_answers=[1.5], train_scores=[-3.0], updates=[[80, 90]])
    assert row["log_loss_ratio"].tolist() == [-8, 8]
    assert row["holdout_answer"].tolist() == [1, 1]
    assert row["generalization_gap"].tolist() == [-1, -1]
    assert row["budget_used"].tolist() == [1, 1]
    assert rows_of(holdout_answers=[-0.2])["holdout_answer"].tolist() == [0, 0]
    assert rows_of(diverged=[True])["diverged"].tolist() == [1, 1]


@given(
    losses=st.lists(st.floats(0, 1e308), min_size=2, max_size=2),
    rate=st.floats(1e-4, 100),
    scores=st.lists(st.floats(-2, 2), min_size=2, max_size=2),
    updates=st.lists(st.integers(0, 100), min_size=2, max_size=2),
)
def test_rows_lie_in_the_space_whatever_was_measured(
    losses: list[float], rate: float, scores: list[float], updates: list[int]
):
    rows = make_rows(
        measurement(
            losses=[losses],
            learning_rates=[rate],
            holdout_answers=[scores[0]],
            train_scores=[scores[1]],
            updates=[updates],
        ),
        np.array([3]),
        np.array([40]),
        (1e-4, 100.0),
    )
    assert rows[0][None] in observation_space(1, K, "stacked")


def test_the_space_has_the_bounds_of_the_metrics():
    space = observation_space(4, 5, "stacked")
    assert space.shape == (4, 5, 9) and space.dtype == np.float32
    for i, (low, high) in enumerate(METRICS.values()):
        assert (space.low[..., i] == low).all() and (space.high[..., i] == high).all()
    flat = observation_space(4, 5, "flat")
    assert flat.shape == (180,)
    assert_same(flat.low, space.low.reshape(-1))
    assert_same(flat.high, space.high.reshape(-1))


def test_a_missing_row_lies_in_the_space():
    assert np.zeros((4, 5, 9), np.float32) in observation_space(4, 5, "stacked")


# In the environment --------------------------------------------------------------------------------


def test_the_flat_layout_is_the_other_one_reshaped(tiny_env: Any):
    stacked, flat = tiny_env(), tiny_env(observation_layout="flat")
    draw = Actions(stacked, 1, stop=False)
    assert_same(stacked.reset(seed=1)[0].reshape(-1), flat.reset(seed=1)[0])
    for _ in range(6):
        action = draw()
        assert_same(stacked.step(action)[0].reshape(-1), flat.step(action)[0])


def test_row_0_follows_the_current_state_over_three_times_h_steps(tiny_env: Any):
    """The prototype returned the first H states, so that its observation froze."""
    rows, steps = 3, 9
    env = tiny_env(num_snapshots=rows, budget=4 * steps, thresholdout=False, initial_learning_rate=0.1)
    observation, info = env.reset(seed=0)
    seen = [observation[0]]
    for step in range(1, steps + 1):
        observation, _, _, _, info = env.step(1)  # the rate falls in every step
        row = {name: observation[0, :, i] for i, name in enumerate(NAMES)}
        loss = env.core.history.of(0)["loss"][-1]
        assert row["log_loss_ratio"] == pytest.approx(np.log(loss / np.log(4)), rel=1e-5)
        assert row["learning_rate"] == pytest.approx(2 * (np.log10(0.1 * 0.8**step) + 4) / 6 - 1, rel=1e-5)
        assert row["holdout_answer"] == pytest.approx(info["holdout_answer"])
        assert row["generalization_gap"] == pytest.approx(
            info["train_score"] - info["holdout_answer"], abs=1e-6
        )
        used = [(4 * step - 2) / 36, 4 * step / 36]
        assert row["budget_used"] == pytest.approx(used) and row["lineage_updates"] == pytest.approx(used)
        seen.append(observation[0])
        for i in range(1, rows):  # and the others follow it
            if step >= i:
                assert_same(observation[i], seen[step - i])
    assert len({row.tobytes() for row in seen}) == len(seen)


def test_windows_are_means_over_consecutive_updates_the_newest_last(tiny_env: Any):
    """Six windows of two updates against twelve windows of one, in the same run."""
    coarse = tiny_env(inner_steps=12, history_length=6, budget=48)
    fine = tiny_env(inner_steps=12, history_length=12, budget=48)
    coarse.reset(seed=0)
    fine.reset(seed=0)
    for _ in range(2):
        coarse.step(2)
        fine.step(2)
        for name in ("loss", "batch_accuracy"):
            single = fine.core.history.of(0)[name][-1]
            windows = coarse.core.history.of(0)[name][-1]
            assert windows == pytest.approx(single.reshape(6, 2).mean(1), rel=1e-12)
            assert len(set(single)) > 1
