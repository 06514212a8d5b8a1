"""The order of minibatches, and label noise at its limits. (Stratified orders: see test_dataset.py.)"""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_env.data.sampling import EpochSampler, add_label_noise


class OneLane:
    """A sampler of one lane, whose items are the numbers below `size`."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self.lanes = EpochSampler(1)
        self.lanes.begin(0, np.random.default_rng(seed), np.arange(size))

    def draw(self, count: int) -> np.ndarray:
        return self.lanes.draw(np.array([0]), count)[0]


def sampler(size: int, seed: int = 0) -> OneLane:
    return OneLane(size, seed)


@settings(max_examples=150)
@given(st.integers(1, 40), st.lists(st.integers(0, 130), max_size=12), st.integers(0, 2**64))
def test_draws_are_permutations_however_they_are_cut(size: int, counts: list[int], seed: int):
    in_parts, at_once = sampler(size, seed), sampler(size, seed)
    drawn = [in_parts.draw(count) for count in counts]
    assert [part.shape for part in drawn] == [(count,) for count in counts]
    together = np.concatenate([np.empty(0, dtype=np.int64), *drawn])
    assert together.dtype == np.int64
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
def test_a_copy_of_a_sampler_goes_on_alike_and_apart(duplicate: Callable[..., OneLane]):
    original = sampler(10)
    original.draw(13)
    twin = duplicate(original)
    expected = original.draw(40)
    np.testing.assert_array_equal(twin.draw(40), expected)
    assert len(pickle.dumps(original)) < 50_000


def test_drawn_positions_can_be_written_without_harm():
    written, untouched = sampler(10), sampler(10)
    written.draw(3)[:] = 9
    untouched.draw(3)
    np.testing.assert_array_equal(written.draw(30), untouched.draw(30))


def test_an_epoch_is_what_the_generator_permutes():
    """The stream is part of what a seed means: it must stay as it is, however it is drawn."""
    generator = np.random.default_rng(3)
    items = np.array([5, -2, 7, 2**40, 0])
    lane = EpochSampler(1)
    lane.begin(0, np.random.default_rng(3), items)
    expected = np.concatenate([items[generator.permutation(5)] for _ in range(3)])
    np.testing.assert_array_equal(lane.draw(np.array([0]), 15)[0], expected)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sets(st.integers(0, 2)), st.integers(0, 5_000)), max_size=12))
def test_a_lane_draws_what_it_would_alone(script: list[tuple[set[int], int]]):
    """Whichever lanes draw, in whatever portions; a copied lane goes on as its source would."""
    sizes, together = (3, 400, 4_097), EpochSampler(3)
    alone = [sampler(size, seed) for seed, size in enumerate(sizes)]
    for lane, size in enumerate(sizes):
        together.begin(lane, np.random.default_rng(lane), np.arange(size))
    for chosen, count in script:
        lanes = np.array(sorted(chosen), dtype=np.int64)
        drawn = together.draw(lanes, count)
        assert drawn.shape == (len(lanes), count)
        for lane, items in zip(lanes, drawn, strict=True):
            np.testing.assert_array_equal(items, alone[lane].draw(count))
    together.copy_lane(1, 2)
    for lane in (1, 2):
        np.testing.assert_array_equal(
            together.draw(np.array([lane]), 900)[0], copy.deepcopy(alone[1]).draw(900)
        )


def test_a_stream_goes_back_to_a_position_as_often_as_wanted():
    lanes, one = sampler(7).lanes, np.array([0])
    lanes.draw(one, 5)
    position = lanes.position(0)
    expected = lanes.draw(one, 10_000)
    for _ in range(2):
        lanes.go_to(0, position)
        np.testing.assert_array_equal(lanes.draw(one, 10_000), expected)


def test_a_sampler_without_items_is_refused():
    with pytest.raises(ValueError, match=r"len\(items\)=0 is not allowed: .* at least 1"):
        sampler(0)


def test_the_largest_random_number_still_gives_another_class():
    labels = np.zeros(1, dtype=np.int64)
    for probability in (1.0, 0.3, 1e-300):
        noise = np.array([np.nextafter(probability, 0)])
        for num_classes in range(2, 1000):
            noisy = add_label_noise(labels, noise, probability, num_classes)
            assert 1 <= noisy[0] <= num_classes - 1
