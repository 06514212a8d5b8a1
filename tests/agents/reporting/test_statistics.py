"""Statistics of paired results, against cases computed by hand."""

import numpy as np
import pytest

from agents.reporting import statistics
from agents.reporting.statistics import (
    Comparison,
    Interval,
    bootstrap,
    compare,
    interquartile_mean,
    normalized,
    worst_share,
)


def test_means_by_hand():
    values = np.array([[4.0, 1.0, 100.0, 3.0], [2.0, -50.0, 5.0, 6.0]])
    assert interquartile_mean(values) == (2 + 3 + 4 + 5) / 4
    assert worst_share(values) == -50
    assert worst_share(np.arange(100)) == 2
    assert bootstrap(values).mean == values.mean()
    np.testing.assert_allclose(
        normalized(np.array([[0.1, 0.55, 1.0]]), np.full(3, 0.1), np.full(3, 0.55)), [[0, 1, 2]]
    )


def test_equal_methods_do_not_differ():
    results = np.random.default_rng(0).random((3, 40))
    found = compare(results, results)
    assert found.difference == Interval(0.0, 0.0, 0.0)
    assert found.verdict == "not worse"
    probability = found.probability
    assert (probability.mean, probability.low, probability.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_planted_difference_is_found():
    generator = np.random.default_rng(1)
    hardness = generator.random(200)
    other = hardness + 0.01 * generator.standard_normal((5, 200))
    method = hardness + 0.02 + 0.01 * generator.standard_normal((5, 200))
    found = compare(method, other)
    assert found.difference.low < 0.02 < found.difference.high and found.verdict == "better"
    assert found.difference.high - found.difference.low < 0.01  # pairing takes the tasks' hardness out
    assert found.probability.mean > 0.8
    assert compare(other, method).verdict == "worse"
    assert compare(method[:1], other[:1]).verdict == "better"


def test_intervals_are_those_of_theory():
    """One seed: standard error sd / sqrt(tasks). Seeds that differ: that of their means is added."""
    generator = np.random.default_rng(2)
    one = generator.standard_normal((1, 400))
    width = np.ptp([bootstrap(one).low, bootstrap(one).high])
    assert width == pytest.approx(2 * 1.96 * one.std() / 20, rel=0.08)
    seeds = np.repeat(generator.standard_normal((8, 1)), 50, axis=1)
    found = bootstrap(seeds)
    assert found.high - found.low == pytest.approx(2 * 1.96 * seeds[:, 0].std() / np.sqrt(8), rel=0.1)


def test_coverage():
    """Of 95% intervals about 95% hold the truth, seeds and tasks both varying."""
    generator = np.random.default_rng(3)
    held = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "RESAMPLES", 300)
        for _ in range(100):
            results = 0.1 * generator.standard_normal((10, 1)) + generator.standard_normal((1, 60))
            found = bootstrap(results + 0.1 * generator.standard_normal((10, 60)))
            held += found.low <= 0 <= found.high
    assert 85 <= held <= 99


def test_unequal_numbers_of_seeds_are_held_against_each_other():
    """Every seed of one against every seed of the other; each side's seeds are drawn by themselves."""
    method = np.repeat([[0.0], [4.0]], 50, axis=1)
    other = np.repeat([[1.0], [1.0], [4.0]], 50, axis=1)
    found = compare(method, other)
    assert found.difference.mean == pytest.approx(0.0)
    assert found.probability.mean == pytest.approx((0 + 0 + 0 + 1 + 1 + 0.5) / 6)
    assert (found.difference.low, found.difference.high) == pytest.approx((-3, 3))


def test_groups_keep_their_size():
    results = np.array([[0.0] * 10 + [1.0] * 30])
    groups = np.repeat([0, 1], [10, 30])
    held = bootstrap(results, groups)
    assert (held.mean, held.low, held.high) == pytest.approx((0.75, 0.75, 0.75))
    loose = bootstrap(results)
    assert loose.low < 0.7 and loose.high > 0.8


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.1, "better"),
        (0.0, 0.1, "not worse"),
        (-0.005, 0.1, "not worse"),
        (-0.006, 0.1, "undecided"),
        (-0.1, -0.006, "worse"),
        (-0.1, -0.004, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, verdict: str):
    interval = Interval((low + high) / 2, low, high)
    assert Comparison(interval, interval).verdict == verdict


@pytest.mark.parametrize(
    ("method", "other", "message"),
    [
        (np.zeros((2, 5)), np.zeros((2, 4)), r"other=\(2, 4\).*of 5 tasks"),
        (np.zeros(5), np.zeros((1, 5)), r"method=\(5,\).*of shape \(seeds, tasks\)"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), "method=.*finite"),
    ],
)
def test_results_that_do_not_fit(method: np.ndarray, other: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        compare(method, other)
