"""Networks with normalisations, by name and in an environment."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agents.runs.plain import read_plain, write_plain
from autotrain_env import CNN, MLP, AutoTrainVectorEnv, Normalized, Task
from autotrain_env.training.classifiers import as_classifier
from tests.helpers import assert_same, tiny


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cnn-8-16", CNN((8, 16))),
        ("mlp+batch_norm", Normalized(MLP(), "batch_norm")),
        ("mlp-9-7+layer_norm", Normalized(MLP((9, 7)), "layer_norm")),
        ("cnn+layer_norm", Normalized(CNN(), "layer_norm")),
        ("cnn-4+batch_norm", Normalized(CNN((4,)))),
    ],
)
def test_names(name: str, expected: Any, tmp_path: Any):
    assert as_classifier(name) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected
    write_plain(tmp_path, expected)
    assert read_plain(tmp_path) == expected


@pytest.mark.parametrize(
    "name", ["mlp+norm", "resnet18+batch_norm", "linear+layer_norm", "cnn-0", "+batch_norm"]
)
def test_unknown_names(name: str):
    with pytest.raises(ValueError, match="is not a known name"):
        as_classifier(name)


def test_wrong_kinds():
    with pytest.raises(ValueError, match="kind='group'.*batch_norm"):
        Normalized(MLP(), "group")
    with pytest.raises(TypeError, match="must be an MLP or a CNN"):
        Normalized(Normalized(MLP()))  # type: ignore[arg-type]


def test_a_normalisation_stands_before_every_relu():
    kinds = [
        [type(layer) for layer in Normalized(network, kind).build((1, 8, 8), 3)]
        for network, kind in (
            (MLP((5, 4)), "layer_norm"),
            (CNN((2,)), "batch_norm"),
            (CNN((2,)), "layer_norm"),
        )
    ]
    dense = [nn.Linear, nn.LayerNorm, nn.ReLU]
    assert kinds[0] == [nn.Flatten, *dense, *dense, nn.Linear]
    ends = [nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear]
    assert kinds[1] == [nn.Conv2d, nn.BatchNorm2d, *ends] and kinds[2] == [nn.Conv2d, nn.GroupNorm, *ends]
    network = Normalized(MLP((6,)), "batch_norm").build((10,), 3)
    assert network(torch.zeros(4, 10)).shape == (4, 3)


@pytest.mark.parametrize("network", ["mlp-12+batch_norm", "mlp-12+layer_norm"])
def test_lanes_do_not_depend_on_each_other_and_learn(network: str):
    arguments = tiny(classifier=network, optimizer="adam", label_noise=0.0, initial_learning_rate=0.02)
    envs = AutoTrainVectorEnv(3, autoreset_mode="Disabled", **arguments)
    single = AutoTrainVectorEnv(1, autoreset_mode="Disabled", **arguments)
    observations, _ = envs.reset(seed=1)
    assert_same(single.reset(seed=2)[0][0], observations[1])
    before = envs.core.lanes.score.copy()
    for action in (2, 2, 7, 2, 2):
        observations = envs.step(np.full(3, action))[0]
        assert_same(single.step(np.full(1, action))[0][0], observations[1])
    assert (envs.core.lanes.score > before).all()
    assert envs.backends == ("looped",)


def test_flat_networks_take_pictures_and_vectors_alike():
    assert Normalized(MLP()).flattens and not Normalized(CNN()).flattens
    task = Task(classifier="mlp-4+layer_norm", dataset="digits", budget=20)
    envs = AutoTrainVectorEnv(2)
    envs.reset(seed=0, options={"task": [task, Task(classifier="mlp-4+layer_norm", dataset="synthetic")]})
    first, second = envs.core.episodes
    assert first is not None and second is not None and first.architecture is second.architecture
