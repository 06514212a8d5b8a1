"""Arguments: defaults, what is derived from them, and their documentation."""

import dataclasses
import pickle
import re
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from autotrain_env import ENVIRONMENTS, AutoTrainConfig, Choice, Dataset, TaskDistribution
from autotrain_env.process.config import TASK_FIELDS, make_config
from autotrain_env.process.rewards import REWARD_TERMS
from autotrain_env.process.task_presets import TASK_PRESETS
from tests.helpers import tiny, tiny_data

FIELDS = {field.name: field for field in dataclasses.fields(AutoTrainConfig)}


def test_defaults_are_those_of_the_design():
    config = AutoTrainConfig()
    assert (config.inner_steps, config.history_length, config.num_snapshots) == (20, 5, 4)
    assert (config.score, config.reward, config.reward_split) == ("accuracy", "delta", "validation")
    assert config.lr_bounds == (1e-4, 100.0)
    assert config.lr_factors == (0.2, 0.8, 1.0, 1.2, 1.8)
    assert (config.max_lr_factor, config.rewind_sampling) == (5.0, "sample")
    assert config.thresholdout and config.thresholdout_budget is None
    assert (config.thresholdout_threshold, config.thresholdout_sigma) == (0.04, 0.01)
    assert (config.terminal_state, config.initial_states) == ("last", "random_inits")
    assert config.reinit_learning_rate == "keep" and config.truncate_after is None
    assert config.reinit and config.stop and config.action_type == "discrete"
    assert config.task_distribution is TASK_PRESETS["default"]
    assert config.torch_dtype is torch.float32
    assert AutoTrainConfig(dtype="float64").torch_dtype is torch.float64


def test_the_ids_differ_from_the_first_as_documented():
    prototype = AutoTrainConfig(**ENVIRONMENTS["AutoTrainPrototype-v0"])  # type: ignore[arg-type]
    assert prototype.lr_factors == (0.9, 1.0, 1.1)
    assert (prototype.reward, prototype.reward_split, prototype.thresholdout) == ("sign", "holdout", False)
    risa = AutoTrainConfig(**ENVIRONMENTS["AutoTrainRISA-v0"])  # type: ignore[arg-type]
    assert (risa.reward, risa.num_rewinds, risa.num_snapshots) == ("risa", 1, 4)
    continuous = AutoTrainConfig(**ENVIRONMENTS["AutoTrainContinuous-v0"])  # type: ignore[arg-type]
    assert continuous.action_type == "continuous"
    assert ENVIRONMENTS["AutoTrain-v0"] == {}
    for kwargs in ENVIRONMENTS.values():
        for name in FIELDS.keys() - kwargs.keys() - {"num_rewinds"}:
            assert getattr(AutoTrainConfig(**kwargs), name) == getattr(AutoTrainConfig(), name)  # type: ignore[arg-type]


def test_every_argument_is_documented_and_no_other():
    described = AutoTrainConfig.__doc__.split("Args:")[1].split("Raises:")[0]
    assert re.findall(r"^ {8}(\w+): ", described, flags=re.M) == list(FIELDS)


def test_the_fields_of_a_task_stand_in_the_same_order():
    names = [name for name in FIELDS if name in TASK_FIELDS]
    assert tuple(names) == TASK_FIELDS
    assert all(FIELDS[name].default is None for name in TASK_FIELDS)


def test_the_configuration_is_frozen_and_compares_by_value():
    config = AutoTrainConfig(lr_factors=[1, 2], budget=40)  # type: ignore[arg-type]
    assert config == AutoTrainConfig(lr_factors=(1.0, 2.0), budget=40)
    assert config != AutoTrainConfig(lr_factors=(1.0, 2.0), budget=60)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget = 20  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, num_snapshots=2, num_rewinds=None).num_rewinds == 2


def test_num_rewinds_is_h_where_it_is_not_given():
    assert AutoTrainConfig(num_snapshots=6).num_rewinds == 6
    assert AutoTrainConfig(num_snapshots=6, num_rewinds=1).num_rewinds == 1


def test_a_users_data_become_a_handle():
    images, labels = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    config = AutoTrainConfig(dataset=(images, labels), batch_size=8)
    assert isinstance(config.dataset, Dataset) and config.dataset.num_classes == 2
    items = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    assert isinstance(AutoTrainConfig(dataset=items, batch_size=8).dataset, Dataset)
    assert AutoTrainConfig(dataset=tiny_data(), batch_size=8).dataset is tiny_data()
    assert AutoTrainConfig(dataset="digits").dataset == "digits"
    assert AutoTrainConfig(dataset=Choice(("digits", tiny_data()))).dataset.values[1] is tiny_data()


@pytest.mark.parametrize("kind", ["arrays", "torch", "handle"])
def test_a_users_data_train_an_environment(kind: str):
    handle = tiny_data()
    images, labels = handle.images[: handle.pool_size], handle.labels[: handle.pool_size].copy()
    dataset = {
        "arrays": (images.numpy(), labels),
        "torch": torch.utils.data.TensorDataset(images, torch.from_numpy(labels)),
        "handle": Dataset.from_arrays(images, labels),
    }[kind]
    env = gymnasium.make("AutoTrain-v0", **tiny(dataset=dataset))
    env.reset(seed=0)
    for _ in range(6):
        *_, info = env.step(2)
    assert 0 <= info["test_accuracy"] <= 1


def test_every_argument_can_be_given_to_make():
    given = {
        name: getattr(AutoTrainConfig(), name) for name in FIELDS if name not in ("log_path", "baseline")
    }
    env = gymnasium.make("AutoTrain-v0", **given).unwrapped
    assert env.config == AutoTrainConfig()
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=2, **given).unwrapped
    assert env.config == AutoTrainConfig()


def test_unknown_arguments_are_named_with_the_nearest_known_one():
    message = "keyword argument 'snapshots'; did you mean 'num_snapshots'"
    for make in (
        lambda: make_config({"snapshots": 3}),
        lambda: gymnasium.make("AutoTrain-v0", snapshots=3),
        lambda: gymnasium.make_vec("AutoTrain-v0", num_envs=2, snapshots=3),
    ):
        with pytest.raises(TypeError, match=message):
            make()


def test_a_reward_may_be_any_mapping_of_terms():
    weights = {name: 0.5 for name in REWARD_TERMS}
    assert AutoTrainConfig(reward=weights, baseline=([0], [0.0])).reward == weights
    assert AutoTrainConfig(reward={}).reward == {}


@pytest.mark.parametrize(
    ("kwargs", "fields"),
    [
        ({}, {}),
        ({"tasks": "mixed"}, {}),
        ({"tasks": TaskDistribution(budget=40)}, {"budget": 40}),
        ({"tasks": TaskDistribution(budget=40), "budget": 60}, {"budget": 60}),
        ({"label_noise": 0.0, "split_seed": 0}, {"label_noise": 0.0, "split_seed": 0}),
    ],
)
def test_fields_given_as_arguments_go_before_those_of_the_tasks(kwargs: Any, fields: dict[str, Any]):
    distribution = AutoTrainConfig(**kwargs).task_distribution
    for name, value in fields.items():
        assert getattr(distribution, name) == value
