"""Descriptions of arguments: equal where they mean the same, different where they do not."""

import copy
import functools
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrain_env import (
    CNN,
    MLP,
    AutoTrainConfig,
    Choice,
    LogUniform,
    Task,
    TaskDistribution,
    load_dataset,
    register_dataset,
)
from autotrain_env.process.descriptions import describe
from autotrain_env.training.classifiers import as_classifier
from tests.helpers import tiny_data, user_arrays


def made(width: int) -> Any:
    """A factory of one's own, as a closure."""
    return lambda: nn.Sequential(nn.Linear(3, width), nn.Linear(width, 4))


def with_network(seed: int) -> Any:
    torch.manual_seed(seed)
    given = nn.Linear(3, 4)
    return lambda: copy.deepcopy(given)


SAME: list[tuple[Any, Any]] = [
    (1, 1.0),
    (0.1, np.float64(0.1)),
    ((1, 2), [1, 2]),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    (MLP((3,)), as_classifier("mlp-3")),
    (made(3), made(3)),
    (with_network(0), with_network(0)),
    (functools.partial(made, 3), functools.partial(made, 3)),
    (tiny_data(), tiny_data()),
    (load_dataset(user_arrays()), load_dataset(user_arrays())),
    (np.arange(3), np.arange(3)),
    (TaskDistribution(), TaskDistribution()),
    (Task(), copy.deepcopy(Task())),
]
DIFFERENT: list[tuple[Any, Any]] = [
    (1, 2),
    (1, True),
    (1, "1"),
    (None, "None"),
    (1e-3, 1.0000001e-3),
    (2**60, 2**60 + 1),
    ((1, 2), (2, 1)),
    ({"a": 1}, {"a": 2}),
    (MLP((3,)), MLP((3, 3))),
    (MLP((3,)), CNN((3,))),
    (made(3), made(4)),
    (with_network(0), with_network(1)),
    (functools.partial(made, 3), functools.partial(made, 4)),
    (lambda: nn.Linear(3, 4), lambda: nn.Linear(3, 4, bias=False)),
    (lambda x: x + 1, lambda x: x - 1),
    (nn.Linear, nn.Bilinear),
    (tiny_data(), tiny_data(seed=1)),
    (load_dataset(user_arrays()), load_dataset(user_arrays(seed=1))),
    (np.arange(3), np.arange(3.0)),
    (LogUniform(1, 2), LogUniform(1, 3)),
    (Choice((1, 2)), Choice((2, 1))),
    (TaskDistribution(), TaskDistribution(budget=40)),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_what_means_the_same_is_described_alike(left: Any, right: Any):
    assert describe(left) == describe(right)
    assert " at 0x" not in describe(left)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_what_differs_is_described_differently(left: Any, right: Any):
    assert describe(left) != describe(right)


def test_labels_belong_to_the_digest():
    images, labels = user_arrays()
    assert load_dataset((images, labels)).digest != load_dataset((images, (labels + 1) % 4)).digest
    handle = load_dataset((images, labels))
    assert pickle.loads(pickle.dumps(handle)).digest == handle.digest


def test_a_registered_name_stands_for_what_is_registered():
    def described() -> str:
        return AutoTrainConfig(dataset="described data").descriptions["dataset"]

    register_dataset("described data", user_arrays(size=400), overwrite=True)
    first = described()
    assert described() == first
    register_dataset("described data", user_arrays(size=400, seed=1), overwrite=True)
    assert described() != first


def test_descriptions_hold_in_another_process():
    code = (
        "from tests.process.test_descriptions import SAME, describe\n"
        "print([describe(value) for pair in SAME for value in pair])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == str([describe(value) for pair in SAME for value in pair])
