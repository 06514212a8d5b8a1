"""The order of minibatches, and label noise at its limits. (Stratified orders: see test_dataset.py.)"""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_env.data.sampling import EpochSampler, add_label_noise


def sampler(size: int, seed: int = 0) -> EpochSampler:
    return EpochSampler(np.random.default_rng(seed), size)


@settings(max_examples=150)
@given(st.integers(1, 40), st.lists(st.integers(0, 130), max_size=12), st.integers(0, 2**64))
def test_draws_are_permutations_however_they_are_cut(size: int, counts: list[int], seed: int):
    in_parts, at_once = sampler(size, seed), sampler(size, seed)
    drawn = [in_parts.draw(count) for count in counts]
    assert [part.shape for part in drawn] == [(count,) for count in counts]
    together = np.concatenate([np.empty(0, dtype=np.int32), *drawn])
    assert together.dtype == np.int32
    np.testing.assert_array_equal(together, at_once.draw(sum(counts)))
    whole = len(together) // size * size
    for epoch in together[:whole].reshape(-1, size):
        assert sorted(epoch) == [*range(size)]
    rest = together[whole:]
    assert len(set(rest)) == len(rest) and set(rest) <= set(range(size))


def test_epochs_differ_and_every_place_gets_every_position():
    epochs = sampler(5).draw(5 * 8000).reshape(8000, 5)
    assert not np.array_equal(epochs[0], epochs[1]) or not np.array_equal(epochs[1], epochs[2])
    for place in epochs.T:
        assert np.abs(np.bincount(place, minlength=5) / 8000 - 0.2).max() < 4.5 * 0.4 / 8000**0.5
    # Each of the 120 orders is as likely as the next: about 67 of each.
    orders = np.unique(epochs, axis=0, return_counts=True)[1]
    assert len(orders) == 120 and np.abs(orders - 8000 / 120).max() < 5 * np.sqrt(8000 / 120)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_of_a_sampler_goes_on_alike_and_apart(duplicate: Callable[..., EpochSampler]):
    original = sampler(10)
    original.draw(13)
    twin = duplicate(original)
    expected = original.draw(40)
    np.testing.assert_array_equal(twin.draw(40), expected)
    assert len(pickle.dumps(original)) < 20_000


def test_drawn_positions_can_be_written_without_harm():
    written, untouched = sampler(10), sampler(10)
    written.draw(3)[:] = 9
    untouched.draw(3)
    np.testing.assert_array_equal(written.draw(30), untouched.draw(30))


def test_wrong_sampler_arguments_are_reported():
    with pytest.raises(ValueError, match="size=0 is not allowed: .* at least 1"):
        sampler(0)
    with pytest.raises(ValueError, match="count=-1 is not allowed: .* at least 0"):
        sampler(3).draw(-1)


def test_the_largest_random_number_still_gives_another_class():
    labels = np.zeros(1, dtype=np.int64)
    for probability in (1.0, 0.3, 1e-300):
        noise = np.array([np.nextafter(probability, 0)])
        for num_classes in range(2, 1000):
            noisy = add_label_noise(labels, noise, probability, num_classes)
            assert 1 <= noisy[0] <= num_classes - 1
