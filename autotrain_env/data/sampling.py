"""Random orders: stratified ones, to divide images by, and the epochs of minibatches; label noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autotrain_env.errors import check_whole

_TEST_PART_SEED = 0


def stratified_order(
    labels: npt.NDArray[np.int64], num_classes: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw an order of all images of which every stretch is stratified.

    The images of a class with count n stand at (0 + u)/n, (1 + u)/n, … of the way, with one random
    number u in [0, 1) per class, and images of a class are in random order. So a stretch holds of
    each class its share to within one image where classes are equally large, and to within a few
    otherwise.

    Args:
        labels: Labels of the images, shape (n,).
        num_classes: Number of classes.
        generator: Generator of the random numbers.

    Returns:
        Positions of the images, shape (n,).
    """
    small_labels = labels.astype(np.min_scalar_type(num_classes))  # 16 bits are sorted in linear time
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(small_labels[shuffled], kind="stable")]
    counts = np.bincount(labels, minlength=num_classes)
    spacing = 1 / np.maximum(counts, 1)
    offsets = generator.random(num_classes) * spacing
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    places = rank * np.repeat(spacing, counts) + np.repeat(offsets, counts)
    return by_class[np.argsort(places, kind="stable")]


def cut_off_test_part(
    labels: npt.NDArray[np.int64], num_classes: int, test_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose a test part: stratified, and always the same.

    Args:
        labels: Labels of all images.
        num_classes: Number of classes.
        test_size: How many images to cut off.

    Returns:
        Positions of the pool and of the test part, each in ascending order.
    """
    order = stratified_order(labels, num_classes, np.random.default_rng(_TEST_PART_SEED))
    return np.sort(order[test_size:]), np.sort(order[:test_size])


def add_label_noise(
    labels: npt.NDArray[np.int64],
    noise: npt.NDArray[np.float64],
    probability: float,
    num_classes: int,
) -> npt.NDArray[np.int64]:
    """Exchange the labels whose noise, uniform in [0, 1), lies below the probability.

    Given that it does, noise / probability is uniform again, and chooses among the other classes:
    it is 1 − 2⁻⁵³ at most, so that its product with an integer never rounds up to that integer.

    Args:
        labels: Labels, shape (n,).
        noise: Random numbers, shape (n,).
        probability: Probability of an exchange, above 0, at most 1.
        num_classes: Number of classes.

    Returns:
        The new labels.
    """
    changed = np.flatnonzero(noise < probability)
    choice = (noise[changed] / probability * (num_classes - 1)).astype(np.int64)
    noisy_labels = labels.copy()
    noisy_labels[changed] = (labels[changed] + 1 + choice) % num_classes
    return noisy_labels


_REFILL = 2048  # items drawn at least at a time: fewer calls for small sets


def permute_rows(generator: np.random.Generator, rows: npt.NDArray[np.int64]) -> None:
    """Permute every row by itself, in place.

    Args:
        generator: Generator of the permutations; it advances.
        rows: Items, int64, shape (rows, items in a row).
    """
    generator.permuted(rows, axis=1, out=rows)  # fastest with int64


class EpochSampler:
    """Draws items for the minibatches of N lanes, one permutation of all of a lane's items per epoch.

    A lane's stream of items is its permutations one after the other: a minibatch may begin in one epoch
    and end in the next. How many items a call asks for does not change the stream.

    Args:
        num_lanes: Number of lanes (N).
        permute: What permutes rows as `permute_rows` does, to the last bit.
    """

    def __init__(
        self,
        num_lanes: int,
        permute: Callable[[np.random.Generator, npt.NDArray[np.int64]], None] = permute_rows,
    ) -> None:
        self._permute = permute
        self._generators: list[np.random.Generator | None] = [None] * num_lanes
        self._items: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)] * num_lanes
        self._drawn = np.empty((num_lanes, 0), np.int64)  # permutations; of each lane's those that follow:
        self._next = np.zeros(num_lanes, np.int64)  # the first item that was not handed out, and
        self._end = np.zeros(num_lanes, np.int64)  # where the last permutation ends
        self.taken = np.zeros(num_lanes, np.int64)  # how many items were handed out

    def begin(self, lane: int, generator: np.random.Generator, items: npt.NDArray[np.int64]) -> None:
        """Begin a stream in a lane.

        Args:
            lane: Number of the lane.
            generator: Generator of the permutations; it is used for nothing else.
            items: What is drawn, int64, shape (size,).

        Raises:
            InvalidValueError: If there is no item.
        """
        check_whole("len(items)", len(items), 1)
        self._generators[lane], self._items[lane] = generator, items
        self._next[lane] = self._end[lane] = 0

    def draw(self, lanes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
        """Draw the next items of some lanes.

        Args:
            lanes: Which lanes, int64, shape (n,), each at most once.
            count: How many items, at least 0.

        Returns:
            The items, int64, shape (n, count).
        """
        start = self._next[lanes]
        short = self._end[lanes] - start < count
        if short.any():
            for lane in lanes[short].tolist():
                self._refill(lane, count)
            start = self._next[lanes]
        self._next[lanes] = start + count
        self.taken[lanes] += count
        num_lanes, room = self._drawn.shape
        # All stretches of so many items, a view: so they are copied whole, and not number by number.
        stretches = np.ndarray(
            (num_lanes, max(0, room - count + 1), count),
            np.int64,
            self._drawn,
            strides=(self._drawn.strides[0], self._drawn.itemsize, self._drawn.itemsize),
        )
        return stretches[lanes, start]

    def _refill(self, lane: int, count: int) -> None:
        """Draw epochs until there are `count` items; what is left of the last ones comes first."""
        generator, items = self._generators[lane], self._items[lane]
        assert generator is not None, f"lane {lane} never began"
        rest = self._drawn[lane, self._next[lane] : self._end[lane]].copy()
        num_epochs = math.ceil(max(count - len(rest), _REFILL) / len(items))
        end = len(rest) + num_epochs * len(items)
        if end > self._drawn.shape[1]:
            more = count + num_epochs * len(items) - self._drawn.shape[1]
            self._drawn = np.pad(self._drawn, ((0, 0), (0, more)))
        epochs = self._drawn[lane, len(rest) : end].reshape(num_epochs, len(items))
        epochs[:] = items
        self._permute(generator, epochs)
        self._drawn[lane, : len(rest)] = rest
        self._next[lane], self._end[lane] = 0, end

    def put_back(self, taken: npt.NDArray[np.int64]) -> None:
        """Take items back, so that they come again: those that the last draw of each lane handed out.

        Args:
            taken: How many a lane had handed out before, int64, shape (N,).
        """
        self._next -= self.taken - taken
        self.taken = taken.copy()

    def position(self, lane: int) -> StreamPosition:
        """Returns how far a lane's stream is, to be given to `go_to`."""
        ready = self._drawn[lane, self._next[lane] : self._end[lane]].copy()
        return copy.deepcopy(self._generators[lane]), ready

    def go_to(self, lane: int, position: StreamPosition) -> None:
        """Let a lane's stream go on from an earlier position of its own."""
        generator, ready = position
        self._generators[lane] = copy.deepcopy(generator)
        self._drawn[lane, : len(ready)] = ready
        self._next[lane], self._end[lane] = 0, len(ready)

    def copy_lane(self, source: int, target: int) -> None:
        """Copy everything of lane `source` to lane `target`."""
        self._items[target] = self._items[source]
        self.go_to(target, self.position(source))


StreamPosition = tuple[np.random.Generator | None, npt.NDArray[np.int64]]
"""The state of a lane's generator, and the items that it has drawn ahead."""
