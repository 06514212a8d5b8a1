"""Data handles, their four-way splits with label noise and statistics, and pools of images."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_env import Dataset, SplitSizes, load_dataset, synthetic
from autotrain_env.data.pool import image_pool
from autotrain_env.data.split import Split, split_dataset
from tests.helpers import rows, tiny_data, user_arrays


def test_a_handle_is_its_own_copy_and_compares_by_identity():
    handle = Dataset.from_arrays(*user_arrays())
    assert copy.copy(handle) is handle
    assert copy.deepcopy({"dataset": [handle]})["dataset"][0] is handle
    assert load_dataset(handle) is handle
    assert handle != Dataset.from_arrays(*user_arrays())


def test_labels_of_a_handle_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        load_dataset("digits").labels[0] = 1


def test_repr_says_what_it_is():
    assert repr(load_dataset("digits")) == (
        "Dataset('digits': 1,100 + 697 test images of shape (1, 8, 8), 10 classes)"
    )


def test_a_fixed_stratified_fifth_becomes_the_test_part():
    images, labels = user_arrays(size=200)
    first, second = Dataset.from_arrays(images, labels), Dataset.from_arrays(images, labels)
    assert (first.pool_size, first.test_size) == (160, 40)
    assert np.bincount(first.labels[160:]).tolist() == [10, 10, 10, 10]
    assert torch.equal(first.images, second.images)
    assert not rows(first.images[:160]) & rows(first.images[160:])
    assert rows(first.images) == rows(torch.from_numpy(images))
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert [label_of[image.numpy().tobytes()] for image in first.images] == first.labels.tolist()


def test_a_given_test_part_follows_the_pool_unchanged():
    images, labels = user_arrays(size=20)
    test_images, test_labels = user_arrays(size=8, num_classes=5, seed=1)
    handle = Dataset.from_arrays(
        images, labels, test_images=test_images, test_labels=test_labels, name="mine"
    )
    assert (handle.name, handle.pool_size, handle.test_size) == ("mine", 20, 8)
    assert handle.num_classes == 5  # one of them occurs in the test part alone
    np.testing.assert_array_equal(handle.images.numpy(), np.concatenate([images, test_images]))
    np.testing.assert_array_equal(handle.labels, np.concatenate([labels, test_labels]))


@pytest.mark.parametrize(
    ("size", "expected"),
    [(4, (1, 1, 1)), (125, (40, 27, 33)), (10_000, (6000, 1000, 1000))],
)
def test_default_sizes_are_shares_of_the_pool_with_a_bound(size: int, expected: tuple):
    handle = Dataset.from_arrays(*user_arrays(size=size))
    assert handle.default_sizes == SplitSizes(*expected)
    assert handle.default_sizes.total == handle.pool_size == size - handle.test_size


def test_default_sizes_can_be_given():
    sizes = SplitSizes(10, 5, 6)
    assert Dataset.from_arrays(*user_arrays(), default_sizes=sizes).default_sizes == sizes


# Splits --------------------------------------------------------------------------------------------


def unbalanced(counts: list[int], shape: tuple[int, ...] = (2,)) -> Dataset:
    """Make a set whose pool has the given numbers of images per class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    images = np.random.default_rng(1).standard_normal((len(labels), *shape))
    return Dataset.from_arrays(
        images, labels, test_images=images[:2], test_labels=labels[:2], num_classes=len(counts)
    )


class_counts = st.lists(st.integers(0, 60), min_size=2, max_size=7).filter(lambda counts: sum(counts) >= 3)


@st.composite
def datasets_and_sizes(draw: st.DrawFn) -> tuple[Dataset, SplitSizes]:
    dataset = unbalanced(draw(class_counts))
    train = draw(st.integers(1, dataset.pool_size - 2))
    holdout = draw(st.integers(1, dataset.pool_size - train - 1))
    validation = draw(st.integers(1, dataset.pool_size - train - holdout))
    return dataset, SplitSizes(train, holdout, validation)


seeds = st.integers(0, 2**64)


PARTS = ("train", "holdout", "validation", "test")


@settings(max_examples=100)
@given(datasets_and_sizes(), seeds, st.floats(0, 1))
def test_parts_are_disjoint_of_the_sizes_asked_for_and_clean_where_they_must_be(
    dataset_and_sizes: tuple[Dataset, SplitSizes], seed: int, label_noise: float
):
    dataset, sizes = dataset_and_sizes
    split = split_dataset(dataset, sizes, seed, label_noise)
    indices = [getattr(split, f"{part}_index") for part in PARTS]
    labels = [getattr(split, f"{part}_labels") for part in PARTS]
    assert [len(index) for index in indices] == [*sizes, dataset.test_size]
    assert [len(part) for part in labels] == [*sizes, dataset.test_size]
    assert {index.dtype for index in indices} == {np.dtype(np.int32)}
    assert {part.dtype for part in labels} == {np.dtype(np.int64)}
    together = np.concatenate(indices)
    assert len(np.unique(together)) == len(together)
    assert np.concatenate(indices[:3]).max() < dataset.pool_size
    assert indices[3].tolist() == [*range(dataset.pool_size, len(dataset.labels))]
    for index, part in zip(indices[2:], labels[2:], strict=True):
        np.testing.assert_array_equal(part, dataset.labels[index])
    for part in labels[:2]:
        assert part.min() >= 0 and part.max() < dataset.num_classes
    assert split.train_subset == slice(0, min(sizes.train, sizes.holdout))


@settings(max_examples=100)
@given(datasets_and_sizes(), seeds)
def test_every_part_is_stratified(dataset_and_sizes: tuple[Dataset, SplitSizes], seed: int):
    dataset, sizes = dataset_and_sizes
    split = split_dataset(dataset, sizes, seed)
    shares = np.bincount(dataset.labels[: dataset.pool_size], minlength=dataset.num_classes)
    shares = shares / dataset.pool_size
    # With e_c < 1 the error of a class on the way, its error in number is e_c - share · Σ e.
    bound = 1 - shares + shares * (dataset.num_classes - 1)
    subset = split.train_index[split.train_subset]
    for index in (split.train_index, split.holdout_index, split.validation_index, subset):
        counts = np.bincount(dataset.labels[index], minlength=dataset.num_classes)
        assert (np.abs(counts - shares * len(index)) <= bound + 1e-9).all()


@settings(max_examples=50)
@given(st.integers(2, 8), st.integers(3, 20), seeds, st.data())
def test_equally_large_classes_differ_by_one_image_at_most(
    num_classes: int, class_size: int, seed: int, choice: st.DataObject
):
    dataset = unbalanced([class_size] * num_classes)
    train = choice.draw(st.integers(1, dataset.pool_size - 2))
    split = split_dataset(dataset, SplitSizes(train, 1, 1), seed)
    counts = np.bincount(dataset.labels[split.train_index], minlength=num_classes)
    assert counts.max() - counts.min() <= 1


@settings(max_examples=60)
@given(datasets_and_sizes(), seeds, st.floats(0, 1), st.data())
def test_a_smaller_train_part_is_the_beginning_of_a_larger_one(
    dataset_and_sizes: tuple[Dataset, SplitSizes],
    seed: int,
    label_noise: float,
    choice: st.DataObject,
):
    dataset, sizes = dataset_and_sizes
    small = choice.draw(st.integers(1, sizes.train))
    larger = split_dataset(dataset, sizes, seed, label_noise)
    smaller = split_dataset(dataset, sizes._replace(train=small), seed, label_noise)
    for part in ("holdout", "validation", "test"):
        for kind in ("index", "labels"):
            name = f"{part}_{kind}"
            np.testing.assert_array_equal(getattr(smaller, name), getattr(larger, name))
    np.testing.assert_array_equal(smaller.train_index, larger.train_index[:small])
    np.testing.assert_array_equal(smaller.train_labels, larger.train_labels[:small])


def test_the_seed_alone_decides_a_split():
    digits = load_dataset("digits")
    first, again, other = (split_dataset(digits, digits.default_sizes, seed, 0.2) for seed in (7, 7, 8))
    for name in first.__dataclass_fields__:
        one, two = getattr(first, name), getattr(again, name)
        assert one == two if isinstance(one, slice) else np.array_equal(one, two)
    for part in PARTS[:3]:
        assert set(getattr(first, f"{part}_index")) != set(getattr(other, f"{part}_index"))
    np.testing.assert_array_equal(first.test_index, other.test_index)


def test_every_image_of_the_pool_gets_everywhere_equally_often():
    dataset = unbalanced([30, 10])
    sizes, num_splits = SplitSizes(20, 10, 10), 2000
    found = np.zeros((3, 40))
    for seed in range(num_splits):
        split = split_dataset(dataset, sizes, seed)
        for row, part in enumerate(PARTS[:3]):
            found[row, getattr(split, f"{part}_index")] += 1
    expected = np.array(sizes)[:, None] / 40
    std = np.sqrt(expected * (1 - expected) / num_splits)
    assert np.abs((found / num_splits - expected) / std).max() < 4.5


def test_global_generators_are_untouched():
    digits = load_dataset("digits")
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    split_dataset(digits, digits.default_sizes, 0, 0.5)
    synthetic(seed=11)
    Dataset.from_arrays(*user_arrays())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 300, 400), ValueError, "sizes: train=0; must be at least 1"),
        ((400, -1, 400), ValueError, "sizes: holdout=-1; must be at least 1"),
        ((400, 300, 0), ValueError, "sizes: validation=0; must be at least 1"),
        ((400, 300.0, 400), TypeError, "sizes: holdout=300.0; must be an integer"),
        ((400, 300, True), TypeError, "sizes: validation=True; must be an integer"),
        (
            (401, 300, 400),
            ValueError,
            "train=401, holdout=300 and validation=400 are 1,101 images, but dataset 'digits' has "
            r"1,100 to divide \(besides its 697 test images\)",
        ),
    ],
)
def test_wrong_sizes_are_reported(sizes: tuple, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        split_dataset(load_dataset("digits"), SplitSizes(*sizes), 0)


def test_the_whole_pool_can_be_used():
    split = split_dataset(load_dataset("digits"), SplitSizes(400, np.int64(300), 400), 0)
    drawn = np.concatenate([split.train_index, split.holdout_index, split.validation_index])
    assert sorted(drawn) == [*range(1100)]


# Label noise ---------------------------------------------------------------------------------------


def test_label_noise_has_its_rate_and_spreads_over_the_other_classes():
    dataset = synthetic(size=50_000, num_features=1, num_classes=5)
    sizes = SplitSizes(30_000, 6000, 4000)
    split = split_dataset(dataset, sizes, 0, label_noise=0.3)
    for index, labels in (
        (split.train_index, split.train_labels),
        (split.holdout_index, split.holdout_labels),
    ):
        clean = dataset.labels[index]
        changed = labels != clean
        assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(labels))
        shift = np.bincount((labels - clean)[changed] % 5, minlength=5)
        assert shift[0] == 0
        expected = changed.sum() / 4
        assert np.abs(shift[1:] - expected).max() < 4 * np.sqrt(expected)


def test_noise_of_zero_and_one_are_exact():
    digits = load_dataset("digits")
    none, all_wrong = (split_dataset(digits, digits.default_sizes, 3, p) for p in (0.0, 1.0))
    for part in ("train", "holdout"):
        clean = digits.labels[getattr(none, f"{part}_index")]
        np.testing.assert_array_equal(getattr(none, f"{part}_labels"), clean)
        assert (getattr(all_wrong, f"{part}_labels") != clean).all()


def test_more_noise_adds_to_less_and_moves_no_image():
    digits = load_dataset("digits")
    less, more = (split_dataset(digits, digits.default_sizes, 3, p) for p in (0.2, 0.4))
    np.testing.assert_array_equal(less.train_index, more.train_index)
    clean = digits.labels[less.train_index]
    changed_less, changed_more = less.train_labels != clean, more.train_labels != clean
    assert changed_more[changed_less].all() and changed_more.sum() > changed_less.sum() > 40


def test_noise_has_a_random_stream_of_its_own():
    digits = load_dataset("digits")
    split = split_dataset(digits, digits.default_sizes, 3, 0.2)
    noise_seed = np.random.SeedSequence(3).spawn(2)[1]
    noisy = np.random.default_rng(noise_seed).random(700) < 0.2
    index = np.concatenate([split.holdout_index, split.train_index])
    labels = np.concatenate([split.holdout_labels, split.train_labels])
    np.testing.assert_array_equal(labels != digits.labels[index], noisy)


@pytest.mark.parametrize("label_noise", [-0.1, 1.01, float("nan")])
def test_label_noise_outside_its_range_is_reported(label_noise: float):
    digits = load_dataset("digits")
    with pytest.raises(ValueError, match=rf"label_noise={label_noise} is not allowed: .* in \[0, 1\]"):
        split_dataset(digits, digits.default_sizes, 0, label_noise)


# Statistics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (1, 5, 4), (3, 7, 2)])
def test_mean_and_std_are_those_of_the_train_images(shape: tuple[int, ...]):
    images, labels = user_arrays(size=1000, shape=shape)
    images = images * 3 + 50 + np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    dataset = Dataset.from_arrays(images, labels)
    split = split_dataset(dataset, SplitSizes(300, 100, 100), 5)
    train = dataset.images[split.train_index].double()
    axes = (0, *range(2, train.ndim))
    std, mean = torch.std_mean(train, dim=axes, correction=0, keepdim=True)
    assert split.mean.shape == split.std.shape == (shape[0], *[1] * (len(shape) - 1))
    assert split.mean.dtype == split.std.dtype == torch.float32
    torch.testing.assert_close(split.mean, mean[0].float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(split.std, std[0].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6,), (2, 5, 4)])
def test_no_other_image_changes_a_bit_of_the_statistics(shape: tuple[int, ...]):
    images, labels = user_arrays(size=1000, shape=shape)
    test_images, test_labels = user_arrays(size=100, shape=shape, seed=1)

    def split_of(images: np.ndarray, test_images: np.ndarray) -> Split:
        dataset = Dataset.from_arrays(images, labels, test_images=test_images, test_labels=test_labels)
        return split_dataset(dataset, SplitSizes(300, 300, 300), 5)

    before = split_of(images, test_images)
    others = np.setdiff1d(np.arange(1000), before.train_index)
    changed = images.copy()
    changed[others] = np.random.default_rng(2).standard_normal(changed[others].shape) * 100
    after = split_of(changed, test_images * 1000)
    assert torch.equal(before.mean, after.mean) and torch.equal(before.std, after.std)
    changed[before.train_index[0]] += 1  # and those of train do
    assert not torch.equal(split_of(changed, test_images).mean, before.mean)


@pytest.mark.parametrize(
    ("value", "spread"), [(0, 0), (0.1, 0), (-1e30, 0), (0, 1e-42), (1, 2**-23), (-100, 2**-17)]
)
@pytest.mark.parametrize("shape", [(3,), (3, 4, 4)])
def test_std_is_one_where_nothing_varies_but_the_last_bit(
    value: float, spread: float, shape: tuple[int, ...]
):
    images, labels = user_arrays(shape=shape)
    images[:, 1] = value
    images[::2, 1] += np.float32(spread)
    split = split_dataset(Dataset.from_arrays(images, labels), SplitSizes(30, 5, 5), 0)
    std = split.std.flatten()
    assert std[1] == 1 and 0.5 < std[0] < 1.5 and 0.5 < std[2] < 1.5
    torch.testing.assert_close(split.mean.flatten()[1], torch.tensor(float(value)))


def test_a_small_spread_around_a_large_value_is_measured():
    images, labels = user_arrays(size=1000, shape=(1, 4, 4))
    dataset = Dataset.from_arrays(images + 1000, labels)
    split = split_dataset(dataset, SplitSizes(400, 100, 100), 0)
    expected = dataset.images[split.train_index].double().std(correction=0)
    torch.testing.assert_close(split.std.double().squeeze(), expected, rtol=1e-6, atol=0)


# Several data sets in one tensor -------------------------------------------------------------------


def test_the_pool_of_one_data_set_is_no_copy():
    digits = load_dataset("digits")
    for datasets, expected in (((digits,), (0,)), ((digits, digits), (0, 0))):
        pool, offsets = image_pool(datasets, torch.float32, torch.device("cpu"))
        assert pool.data_ptr() == digits.images.data_ptr() and offsets == expected
        assert pool.shape == (len(digits.labels), 64)


def test_a_pool_holds_each_data_set_once_at_its_offset():
    first, second = (Dataset.from_arrays(*user_arrays(seed=seed)) for seed in (1, 2))
    pool, offsets = image_pool((first, second, first), torch.float64, torch.device("cpu"))
    assert offsets == (0, 60, 0) and pool.shape == (120, 3) and pool.dtype == torch.float64
    assert torch.equal(pool[:60], first.images.double())
    assert torch.equal(pool[60:], second.images.double())


def test_a_pool_is_shared_while_it_is_used_and_then_freed():
    datasets = tuple(Dataset.from_arrays(*user_arrays(seed=seed)) for seed in (1, 2))
    pool, _ = image_pool(datasets, torch.float32, torch.device("cpu"))
    assert image_pool(datasets, torch.float32, "cpu")[0] is pool
    assert image_pool(datasets, torch.float64, "cpu")[0] is not pool
    assert image_pool(datasets[::-1], torch.float32, "cpu")[0] is not pool
    references = [weakref.ref(item) for item in (pool, *datasets)]
    del pool
    gc.collect()
    assert references[0]() is None and references[1]() is datasets[0]
    del datasets
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_images_and_feature_vectors_share_a_pool():
    shapes = (1, 4, 3), (12,), (3, 2, 2)
    datasets = tuple(Dataset.from_arrays(*user_arrays(shape=shape)) for shape in shapes)
    pool, offsets = image_pool(datasets, torch.float32, torch.device("cpu"))
    assert pool.shape == (180, 12) and offsets == (0, 60, 120)
    for dataset, offset in zip(datasets, offsets, strict=True):
        assert torch.equal(pool[offset : offset + 60].view_as(dataset.images), dataset.images)


def test_data_sets_of_other_numbers_of_features_share_no_pool():
    first, second = (Dataset.from_arrays(*user_arrays(shape=shape)) for shape in ((3,), (4,)))
    with pytest.raises(ValueError, match=r"equally many features.*'custom': \(3,\).*\(4,\)"):
        image_pool((first, second), torch.float32, torch.device("cpu"))
    with pytest.raises(ValueError, match="one or more"):
        image_pool((), torch.float32, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_pool_on_the_gpu_is_one_copy():
    digits = load_dataset("digits")
    pool, _ = image_pool((digits,), torch.float32, "cuda")
    assert pool.is_cuda and torch.equal(pool.cpu(), digits.images.flatten(1))
    assert image_pool((digits,), torch.float32, torch.device("cuda", 0))[0] is pool


def test_the_holdout_may_join_the_train_part():
    dataset = tiny_data()
    split = split_dataset(dataset, SplitSizes(60, 40, 50), seed=3, label_noise=0.3)
    joined = split.with_holdout_in_train()
    np.testing.assert_array_equal(joined.train_index[:60], split.train_index)
    np.testing.assert_array_equal(joined.train_index[60:], split.holdout_index)
    np.testing.assert_array_equal(joined.train_labels[60:], split.holdout_labels)
    assert joined.train_subset == split.train_subset and joined.mean is split.mean
    assert not set(joined.train_index) & (set(joined.validation_index) | set(joined.test_index))
