"""Moments merged over any split are those of all rows together."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from autotrain_env.policies.moments import Moments

rows = arrays(
    np.float64, st.tuples(st.integers(2, 40), st.just(3)), elements=st.floats(-1e3, 1e3, width=32)
)


@given(rows, st.lists(st.integers(0, 40), max_size=5))
def test_any_split_merges_to_the_pooled_moments(values: np.ndarray, cuts: list[int]):
    merged = Moments.empty(3)
    for part in np.split(values, sorted(min(cut, len(values)) for cut in cuts)):
        merged = merged.merge(Moments.of(part))
    assert merged.count == len(values)
    np.testing.assert_allclose(merged.mean, values.mean(0), atol=1e-9)
    np.testing.assert_allclose(merged.squares, values.var(0) * len(values), atol=1e-6, rtol=1e-9)
    np.testing.assert_allclose(merged.deviation(), np.maximum(values.std(0), 1e-2), atol=1e-6)


def test_a_large_mean_does_not_swamp_a_small_variance():
    values = 1e8 + np.random.default_rng(0).normal(size=(10_000, 1))
    merged = Moments.empty(1)
    for part in np.split(values, 100):
        merged = merged.merge(Moments.of(part))
    assert merged.deviation()[0] == pytest.approx(values.std(), rel=1e-6)


def test_few_rows():
    assert Moments.empty(2).deviation().tolist() == [1, 1]
    one = Moments.of(np.ones((1, 2), np.float32))
    assert one.deviation().tolist() == [1, 1] and one.mean.dtype == np.float64
    assert Moments.of(np.ones((0, 2))).count == 0
    assert one.merge(Moments.empty(2)) is one and Moments.empty(2).merge(one) is one
    with pytest.raises(ValueError, match=r"other=\(3,\).*shape \(2,\)"):
        one.merge(Moments.empty(3))
