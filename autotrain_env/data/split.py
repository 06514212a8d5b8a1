"""The four-way split of a data set: train, holdout, validation and test part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotrain_env.data.dataset import Dataset, SplitSizes, check_sizes
from autotrain_env.data.sampling import add_label_noise, stratified_order
from autotrain_env.errors import check


@dataclass(frozen=True, eq=False)
class Split:
    """One division of a data set into train, holdout, validation and test part.

    Attributes:
        train_index: Positions of the train part in `Dataset.images`, int32, shape (train,); the next three
            are such positions, too.
        holdout_index: Positions of the holdout part, shape (holdout,).
        validation_index: Positions of the validation part, shape (validation,).
        test_index: Positions of the test part, shape (test_size,); the same for all splits of a data set.
        train_labels: Labels after label noise, int64, shape (train,).
        holdout_labels: Labels after label noise, int64, shape (holdout,).
        validation_labels: Clean labels, int64, shape (validation,).
        test_labels: Clean labels, int64, read-only, shape (test_size,).
        mean: Mean of the train images, float32: one value per channel, shape (channels, 1, 1), or
            per feature, shape (features,).
        std: Their standard deviation in the same shape, 1 where they do not vary.
        train_subset: Which positions in the train part form the fixed subset as large as the
            holdout (or all of train where that is smaller).
    """

    train_index: npt.NDArray[np.int32]
    holdout_index: npt.NDArray[np.int32]
    validation_index: npt.NDArray[np.int32]
    test_index: npt.NDArray[np.int32]
    train_labels: npt.NDArray[np.int64]
    holdout_labels: npt.NDArray[np.int64]
    validation_labels: npt.NDArray[np.int64]
    test_labels: npt.NDArray[np.int64]
    mean: torch.Tensor
    std: torch.Tensor
    train_subset: slice

    def with_holdout_in_train(self) -> Split:
        """Returns the split with the holdout's images and labels appended to the train part."""
        return replace(
            self,
            train_index=np.concatenate((self.train_index, self.holdout_index)),
            train_labels=np.concatenate((self.train_labels, self.holdout_labels)),
        )


def split_dataset(dataset: Dataset, sizes: SplitSizes, seed: int, label_noise: float = 0.0) -> Split:
    """Divide the pool of a data set at random, stratified by class.

    The seed puts the whole pool in an order of which every stretch is stratified; validation,
    holdout and train are taken from it one after the other. So another train size changes neither
    holdout nor validation, and of two train parts the smaller is the beginning of the larger, label
    noise included. No global random generator is used.

    Args:
        dataset: The data set.
        sizes: Numbers of images, each at least 1, together at most the pool.
        seed: Seed of the division and of the label noise, which have separate streams.
        label_noise: Probability in [0, 1] with which a label of train or holdout becomes one of
            the other classes, each as likely as the next. With the same seed, the labels
            that a smaller probability changes are among those that a larger one does.

    Returns:
        The split. Statistics are those of its train images alone.

    Raises:
        InvalidTypeError: If a size is not an integer.
        InvalidValueError: If the sizes or the label noise are out of range.
    """
    sizes = check_sizes("sizes", sizes, dataset.name, dataset.pool_size, dataset.test_size)
    check(0 <= label_noise <= 1, "label_noise", label_noise, "in [0, 1]")
    order_seed, noise_seed = np.random.SeedSequence(seed).spawn(2)
    order = stratified_order(
        dataset.labels[: dataset.pool_size], dataset.num_classes, np.random.default_rng(order_seed)
    ).astype(np.int32)
    validation, noisy = np.split(order[: sizes.total], [sizes.validation])
    holdout, train = np.split(noisy, [sizes.holdout])
    noisy_labels = dataset.labels[noisy]
    if label_noise > 0:
        noise = np.random.default_rng(noise_seed).random(len(noisy))
        noisy_labels = add_label_noise(noisy_labels, noise, label_noise, dataset.num_classes)
    mean, std = _statistics(dataset, train)
    return Split(
        train_index=train,
        holdout_index=holdout,
        validation_index=validation,
        test_index=np.arange(dataset.pool_size, len(dataset.labels), dtype=np.int32),
        train_labels=noisy_labels[sizes.holdout :],
        holdout_labels=noisy_labels[: sizes.holdout],
        validation_labels=dataset.labels[validation],
        test_labels=dataset.labels[dataset.pool_size :],
        mean=mean,
        std=std,
        train_subset=slice(0, min(sizes.train, sizes.holdout)),
    )


def _statistics(dataset: Dataset, index: npt.NDArray[np.int32]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute mean and standard deviation of some pool images, per channel or per feature.

    The moments of single images are kept, so that the cost does not depend on their pixels; for
    feature vectors it does.
    """
    if len(dataset.image_shape) == 1:
        mean, variance = _mean_and_variance(dataset.images.numpy(), index)
    else:
        means, variances = dataset._pixel_moments
        mean, variance_between = _mean_and_variance(means, index)
        variance = variance_between + variances[index].mean(axis=0)
    std = np.sqrt(variance)
    resolution = np.finfo(np.float32)
    # Rounding errors are no variation, and a subnormal number is not to be divided by.
    constant = (std <= resolution.eps * np.abs(mean)) | (std < resolution.tiny)
    shape = (-1,) + (1,) * (len(dataset.image_shape) - 1)
    mean_tensor, std_tensor = (
        torch.from_numpy(values.astype(np.float32).reshape(shape))
        for values in (mean, np.where(constant, 1.0, std))
    )
    return mean_tensor, std_tensor


def _mean_and_variance(
    rows: npt.NDArray[Any], index: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute both per column, of some rows, in float64 and one pass.

    Differences from one of these rows are summed: they are no larger than the spread asks for, and
    exactly 0 where nothing varies.
    """
    first = rows[index[0]].astype(np.float64)
    total, total_squared = np.zeros_like(first), np.zeros_like(first)
    chunk = 1 + 50_000 // len(first)  # stays in the cache
    for start in range(0, len(index), chunk):
        differences = rows[index[start : start + chunk]] - first
        total += differences.sum(axis=0)
        total_squared += np.einsum("nf,nf->f", differences, differences)
    mean = total / len(index)
    variance = np.maximum(total_squared / len(index) - mean**2, 0)
    return first + mean, variance
