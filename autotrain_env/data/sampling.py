"""Random orders: stratified ones, to divide images by, and the epochs of minibatches; label noise."""

from __future__ import annotations

import math

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


_REFILL = 4096  # positions drawn at least at a time: fewer calls for small sets


class EpochSampler:
    """Draws positions for minibatches, one permutation of all of them per epoch.

    The stream of positions is the permutations one after the other: a minibatch may begin in one
    epoch and end in the next. How many positions a call asks for does not change the stream.

    Args:
        generator: Generator of the permutations; it advances with the draws.
        size: Number of positions in an epoch, at least 1.

    Raises:
        InvalidValueError: If `size` is below 1.
    """

    def __init__(self, generator: np.random.Generator, size: int) -> None:
        check_whole("size", size, 1)
        self.generator = generator
        self.size = size
        self.pending = np.empty(0, dtype=np.min_scalar_type(size - 1))  # drawn, but not handed out

    def draw(self, count: int) -> npt.NDArray[np.unsignedinteger]:
        """Draw the next positions.

        Args:
            count: How many positions.

        Returns:
            Positions in [0, size), of the smallest unsigned type that holds them, shape (count,).

        Raises:
            InvalidValueError: If `count` is negative.
        """
        check_whole("count", count, 0)
        missing = count - len(self.pending)
        if missing > 0:
            epochs = np.empty((math.ceil(max(missing, _REFILL) / self.size), self.size), dtype=np.int64)
            epochs[:] = np.arange(self.size)
            self.generator.permuted(epochs, axis=1, out=epochs)  # fastest with int64
            self.pending = np.concatenate([self.pending, epochs.ravel().astype(self.pending.dtype)])
        drawn, self.pending = self.pending[:count], self.pending[count:]
        return drawn
