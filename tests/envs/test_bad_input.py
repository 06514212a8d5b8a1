"""Bad input: an error at once that names the argument, its value and what is allowed."""

import dataclasses
import gzip
import itertools
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from torch import nn

import autotrain_env
from autotrain_env import (
    MLP,
    AutoTrainConfig,
    AutoTrainEnv,
    AutoTrainVectorEnv,
    Choice,
    Curriculum,
    Dataset,
    LogUniform,
    Task,
    TaskDistribution,
    load_dataset,
    synthetic,
)
from tests.helpers import ACTION_TYPES, assert_same, tiny, tiny_data, weights

NAN, INF = float("nan"), float("inf")


def must(argument: str, value: Any, allowed: str) -> str:
    """Pattern of the usual message."""
    return re.escape(f"{argument}={value!r} is not allowed: it must be {allowed}")


def unknown(argument: str, value: str, nearest: str) -> str:
    """Pattern of the message for an unknown name."""
    hint = re.escape(f"{argument}={value!r} is not a known name; the nearest known one is {nearest!r}. ")
    return hint + rf"Allowed: .*{re.escape(repr(nearest))}"


# Arguments of the environment -----------------------------------------------------------------------

ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    # K and T, H, N, budgets
    ({"inner_steps": 20, "history_length": 3}, must("history_length", 3, "a divisor of inner_steps=20")),
    ({"inner_steps": 4, "history_length": 8}, must("history_length", 8, "a divisor of inner_steps=4")),
    ({"history_length": 0}, must("history_length", 0, "a whole number, at least 1")),
    ({"inner_steps": 0}, must("inner_steps", 0, "a whole number, at least 1")),
    ({"inner_steps": 20.0}, must("inner_steps", 20.0, "a whole number, at least 1")),
    ({"inner_steps": True}, must("inner_steps", True, "a whole number, at least 1")),
    ({"num_snapshots": 0}, must("num_snapshots", 0, "a whole number, at least 1")),
    ({"num_snapshots": -2}, must("num_snapshots", -2, "a whole number, at least 1")),
    ({"num_snapshots": "4"}, must("num_snapshots", "4", "a whole number, at least 1")),
    ({"num_rewinds": 0}, must("num_rewinds", 0, "a whole number, at least 1")),
    ({"num_rewinds": 4}, must("num_rewinds", 4, "at most num_snapshots=3")),
    ({"budget": 30}, must("budget", 30, "a multiple of inner_steps=4")),
    ({"budget": 0}, must("budget", 0, "a whole number, at least 1")),
    ({"budget": Choice((24, 30))}, must("budget", 30, "a multiple of inner_steps=4")),
    ({"truncate_after": 0}, must("truncate_after", 0, "a whole number, at least 1")),
    # rates and factors
    ({"lr_bounds": (0.0, 1.0)}, must("lr_bounds", (0.0, 1.0), "finite numbers above 0")),
    ({"lr_bounds": (-1.0, 1.0)}, must("lr_bounds", (-1.0, 1.0), "finite numbers above 0")),
    ({"lr_bounds": (1e-4, INF)}, must("lr_bounds", (1e-4, INF), "finite numbers above 0")),
    ({"lr_bounds": (1.0, 0.1)}, must("lr_bounds", (1.0, 0.1), "(lowest, highest) with lowest < highest")),
    ({"lr_bounds": (1.0, 1.0)}, must("lr_bounds", (1.0, 1.0), "(lowest, highest) with lowest < highest")),
    (
        {"lr_bounds": (1, 2, 3)},
        must("lr_bounds", (1.0, 2.0, 3.0), "(lowest, highest) with lowest < highest"),
    ),
    ({"lr_factors": (1.0, 0.0)}, must("lr_factors", (1.0, 0.0), "finite numbers above 0")),
    ({"lr_factors": (1.0, -0.5)}, must("lr_factors", (1.0, -0.5), "finite numbers above 0")),
    ({"lr_factors": ()}, must("lr_factors", (), "finite numbers above 0")),
    ({"lr_factors": (NAN,)}, r"lr_factors=\(nan,\) is not allowed: it must be finite numbers above 0"),
    ({"max_lr_factor": 1.0}, must("max_lr_factor", 1.0, "finite and above 1")),
    ({"max_lr_factor": INF}, must("max_lr_factor", INF, "finite and above 1")),
    ({"initial_learning_rate": 0.0}, must("initial_learning_rate", 0.0, "finite and above 0")),
    ({"initial_learning_rate": -0.1}, must("initial_learning_rate", -0.1, "finite and above 0")),
    ({"initial_learning_rate": NAN}, must("initial_learning_rate", NAN, "finite and above 0")),
    ({"reinit_learning_rate": 0.0}, must("reinit_learning_rate", 0.0, '"keep", "initial" or above 0')),
    # numbers of the reward and of Thresholdout
    ({"thresholdout_sigma": -0.1}, must("thresholdout_sigma", -0.1, "finite, at least 0")),
    ({"thresholdout_threshold": NAN}, must("thresholdout_threshold", NAN, "finite, at least 0")),
    ({"thresholdout_budget": -1}, must("thresholdout_budget", -1, "a whole number, at least 0")),
    ({"inter_reward": -1.0}, must("inter_reward", -1.0, "finite, at least 0")),
    ({"final_reward_scale": INF}, must("final_reward_scale", INF, "finite, at least 0")),
    ({"divergence_penalty": -1.0}, must("divergence_penalty", -1.0, "finite, at least 0")),
    ({"time_cost": -1.0}, must("time_cost", -1.0, "finite, at least 0")),
    ({"step_cost": -1.0}, must("step_cost", -1.0, "finite, at least 0")),
    ({"reward": {"improvement": NAN}}, must("reward['improvement']", NAN, "finite")),
    ({"reward": "baseline"}, must("baseline", None, "a recorded curve where reward='baseline'")),
    ({"rewind_noise": -0.1}, must("rewind_noise", -0.1, "finite, at least 0")),
    # unknown names, with the nearest known one
    ({"score": "acuracy"}, unknown("score", "acuracy", "accuracy")),
    ({"tasks": "mixt"}, unknown("tasks", "mixt", "mixed")),
    ({"dataset": "digit"}, unknown("dataset", "digit", "digits")),
    ({"dataset": "fashion-mnist"}, unknown("dataset", "fashion-mnist", "fashion_mnist")),
    ({"classifier": "lineer"}, unknown("classifier", "lineer", "linear")),
    ({"classifier": "mlp-0"}, unknown("classifier", "mlp-0", "mlp")),
    ({"optimizer": "adamW2"}, unknown("optimizer", "adamW2", "adamw")),
    ({"initialization": "kaiming"}, unknown("initialization", "kaiming", "kaiming_normal")),
    ({"action_type": "Discrete"}, unknown("action_type", "Discrete", "discrete")),
    ({"rewind_sampling": "argmin"}, unknown("rewind_sampling", "argmin", "argmax")),
    (
        {"rewind_minibatches": "old"},
        r"rewind_minibatches='old' is not a known name.*Allowed: 'fresh', 'same'\.",
    ),
    ({"reinit_learning_rate": "kept"}, unknown("reinit_learning_rate", "kept", "keep")),
    ({"annealing": "liner"}, unknown("annealing", "liner", "linear")),
    ({"initial_states": "zero"}, unknown("initial_states", "zero", "zeros")),
    ({"metrics": "basics"}, unknown("metrics", "basics", "basic")),
    ({"measured": "holdouts"}, unknown("measured", "holdouts", "holdout")),
    ({"observation_layout": "flatt"}, unknown("observation_layout", "flatt", "flat")),
    ({"reward": "deltas"}, unknown("reward", "deltas", "delta")),
    ({"reward": {"improvements": 1.0}}, unknown("reward", "improvements", "improvement")),
    ({"reward_split": "valid"}, unknown("reward_split", "valid", "validation")),
    (
        {"reward_split": "test"},
        r"reward_split='test' is not a known name.*Allowed: 'holdout', 'validation'\.",
    ),
    ({"terminal_state": "best_holdouts"}, unknown("terminal_state", "best_holdouts", "best_holdout")),
    (
        {"backend": "vmap"},
        r"backend='vmap' is not a known name.*Allowed: 'auto', 'looped', 'native', 'stacked'\.",
    ),
    ({"dtype": "float16"}, r"dtype='float16' is not a known name.*Allowed: 'float32', 'float64'\."),
    # sizes and data
    (
        {"train_size": 300},
        re.escape(
            "train_size, holdout_size, validation_size=(300, 40, 40) is not allowed: it must be at most "
            "320 in all, which is what 'synthetic' has beside its test part"
        ),
    ),
    ({"validation_size": 1_000_000}, ".*at most 320 in all"),
    ({"holdout_size": Choice((40, 400))}, ".*at most 320 in all"),
    ({"train_size": 0}, must("train_size", 0, "a whole number, at least 1")),
    ({"holdout_size": -5}, must("holdout_size", -5, "a whole number, at least 1")),
    ({"validation_size": 2.5}, must("validation_size", 2.5, "a whole number, at least 1")),
    ({"batch_size": 49}, must("batch_size", 49, "at most train_size=48")),
    ({"batch_size": Choice((8, 64))}, must("batch_size", 64, "at most train_size=48")),
    ({"batch_size": 0}, must("batch_size", 0, "a whole number, at least 1")),
    ({"label_noise": 1.01}, must("label_noise", 1.01, "in [0, 1]")),
    ({"label_noise": -0.01}, must("label_noise", -0.01, "in [0, 1]")),
    ({"label_noise": NAN}, must("label_noise", NAN, "in [0, 1]")),
    ({"split_seed": -1}, must("split_seed", -1, "a whole number, at least 0")),
    # a device that is not there
    ({"device": "cuda:99"}, r"device='cuda:99' is not there \(there is: cpu"),
    ({"device": "gpu"}, r"device='gpu' is not there \(there is: cpu"),
    # networks
    (
        {"classifier": "cnn"},
        r"classifier=CNN\(.*\) needs images \(channels, height, width\), but .* \(8,\)",
    ),
]


@pytest.mark.parametrize(
    ("kwargs", "message"), ARGUMENTS, ids=lambda v: None if isinstance(v, str) else str(v)[:60]
)
def test_a_wrong_argument_is_an_error_when_the_environment_is_made(kwargs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{message}"):
        gymnasium.make("AutoTrain-v0", **tiny(**kwargs))
    with pytest.raises(ValueError, match=f"^{message}"):
        gymnasium.make_vec("AutoTrain-v0", num_envs=2, **tiny(**kwargs))


def test_the_table_covers_every_argument_that_can_be_wrong():
    """A new argument needs a row here."""
    covered = {name for kwargs, _ in ARGUMENTS for name in kwargs}
    others = {
        # any value is right, or it is checked elsewhere
        "data_root",
        "download",
        "reinit",
        "stop",
        "can_reinit",
        "epochs_known",
        "thresholdout",
        "train_on_holdout",
        "baseline",
        "log_path",
        "history_in_info",
        "keep_before_divergence",
    }
    assert set(AutoTrainConfig.__dataclass_fields__) - covered == others


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": 7}, "tasks=7 must be a name, a TaskDistribution, a Mixture or a Curriculum"),
        ({"dataset": 7}, "dataset=.*7: must be a name, a Dataset, a tuple"),
        ({"classifier": nn.Linear(8, 4)}, r"classifier=Linear\(.*\) must be a name, .* or a function that"),
        ({"classifier": 7}, "classifier=7 must be a name"),
        ({"classifier": lambda: "no network"}, "classifier: the factory returned 'no network'"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_a_type_error(kwargs: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        gymnasium.make("AutoTrain-v0", **tiny(**kwargs))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("learning_rate", "'initial_learning_rate'"),
        ("lr", "'initial_learning_rate'"),
        ("num_snapshot", "'num_snapshots'"),
        ("batchsize", "'batch_size'"),
        ("batch", "'batch_size'"),
        ("label_noice", "'label_noise'"),
        ("Dataset", "'dataset'"),
        ("initialisation", "'initialization'"),
        ("render_mod", "'render_mode'"),
        ("max_episode_step", "'max_episode_steps'"),
        ("reward_scale", "'final_reward_scale'"),
        ("model", "'classifier'"),
        ("momentum", "'optimizer'"),
        ("epochs", "'budget'"),
        ("seed", "reset(seed=...)"),
        ("test_size", "test_images"),
        ("frobnicate", None),
    ],
)
@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_an_unknown_keyword_names_what_is_near(make: Any, name: str, near: str | None):
    with pytest.raises(TypeError, match="unexpected keyword argument") as caught:
        make("AutoTrain-v0", **tiny(**{name: 3}))
    text = str(caught.value).split(" was raised from")[0]
    if near is None:
        assert "did you mean" not in text
    else:
        assert near in text.split("did you mean")[1].split(" or ")[0]
    assert "AutoTrainConfig" in text and len(text) < 250  # not all names


@pytest.mark.parametrize("num_envs", [0, -1, 2.5, "2", None, True])
def test_the_number_of_lanes_must_be_a_whole_one(num_envs: Any):
    with pytest.raises(ValueError, match=must("num_envs", num_envs, "a whole number, at least 1")):
        AutoTrainVectorEnv(num_envs=num_envs, **tiny())


@pytest.mark.parametrize("make", [AutoTrainEnv, AutoTrainVectorEnv])
def test_the_render_mode_must_be_known(make: Any):
    message = r"render_mode='text' is not a known name.*Allowed: 'ansi', 'human', 'rgb_array'\."
    with pytest.raises(ValueError, match=message):
        make(render_mode="text", **tiny())


def test_arguments_of_the_vector_environment():
    with pytest.raises(ValueError, match=r"autoreset_mode='same_step' is not a known name.*'SameStep'"):
        AutoTrainVectorEnv(num_envs=2, autoreset_mode="same_step", **tiny())
    for name in ("max_episode_steps", "truncate_after"):
        with pytest.raises(ValueError, match=must(name, 0, "a whole number")):
            AutoTrainVectorEnv(num_envs=2, **{name: 0}, **tiny())


# Data and networks ---------------------------------------------------------------------------------


def good_arrays() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).random((60, 5)), np.arange(60) % 3


def with_value(array: np.ndarray, position: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[position] = value
    return array


@pytest.mark.parametrize("kind", ["arrays", "torch"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (with_value(x, (7, 2), NAN), y), r"(?i)image.*nan"),
        (lambda x, y: (with_value(x, (7, 2), INF), y), r"(?i)image.*inf"),
        (lambda x, y: (x, with_value(y, 3, -1)), r"labels.*-1"),
    ],
)
def test_images_with_nan_and_labels_outside_the_classes(kind: str, change: Any, message: str):
    images, labels = change(*good_arrays())
    dataset: Any = (images, labels)
    if kind == "torch":
        dataset = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    with pytest.raises(ValueError, match=message):
        gymnasium.make("AutoTrain-v0", dataset=dataset, batch_size=4)


def test_labels_above_the_number_of_classes():
    images, labels = good_arrays()
    with pytest.raises(
        ValueError, match=r"labels.*2.*num_classes=2|num_classes=2.*labels|labels.*\[0, 1\]|labels.*0 … 1"
    ):
        Dataset.from_arrays(images, labels, num_classes=2)


def test_numbers_of_images_and_labels_must_agree():
    images, labels = good_arrays()
    with pytest.raises(ValueError, match=r"labels.*59.*60|labels.*60.*59"):
        gymnasium.make("AutoTrain-v0", dataset=(images, labels[:-1]), batch_size=4)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "cifar10"])
def test_a_missing_data_folder_says_where_it_looked_and_how_to_get_the_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for kwargs in ({"data_root": tmp_path / "nowhere"}, {}):
        monkeypatch.setenv("AUTOTRAIN_DATA", str(tmp_path / "nowhere"))
        with pytest.raises(FileNotFoundError) as caught:
            gymnasium.make("AutoTrain-v0", dataset=name, **kwargs)
        text = str(caught.value)
        assert name in text and str(tmp_path / "nowhere") in text
        for way in ("download=True", "data_root", "AUTOTRAIN_DATA"):
            assert way in text


def idx_files(folder: Path, damage: str) -> None:
    """MNIST's four files with a few images, one of them damaged."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = struct.pack(">IIII", 0x803, count, 28, 28) + bytes(count * 784)
        labels = struct.pack(">II", 0x801, count) + bytes(count)
        if part == "train":
            if damage == "truncated":
                images = images[:-5000]
            elif damage == "wrong":
                images = b"these are no images" + images[19:]
            elif damage == "empty":
                labels = b""
            elif damage == "another count":
                labels = struct.pack(">II", 0x801, 5) + bytes(5)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        with gzip.open(raw / f"{part}-images-idx3-ubyte.gz", "wb", compresslevel=0) as file:
            file.write(images[:100])


@pytest.mark.parametrize("damage", ["truncated", "wrong", "empty", "another count"])
def test_a_damaged_data_file_is_named(damage: str, tmp_path: Path):
    idx_files(tmp_path, damage)
    kind = "labels" if damage in ("empty", "another count") else "images"
    with pytest.raises(ValueError, match=rf"train-{kind}-idx"):
        gymnasium.make("AutoTrain-v0", dataset="mnist", data_root=tmp_path)


def test_a_factory_whose_networks_differ_in_shape():
    widths = itertools.count(3)

    def factory() -> nn.Module:
        width = next(widths)
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4))

    with pytest.raises(
        ValueError, match=r"classifier=.*: two networks it made differ in shape: .*3.* and .*4"
    ):
        gymnasium.make("AutoTrain-v0", **tiny(classifier=factory))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: nn.Linear(9, 4), r"classifier=.* does not take images of shape \(8,\)"),
        (lambda: nn.Linear(8, 5), r"classifier=.* returns shape \(2, 5\) for 2 images; expected \(2, 4\)"),
        (lambda: nn.Flatten(), "a network with parameters"),
        (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4)), "layer '0' is Dropout.*not supported"),
    ],
)
def test_a_factory_whose_networks_do_not_fit(factory: Any, message: str):
    with pytest.raises(ValueError, match=message):
        gymnasium.make("AutoTrain-v0", **tiny(classifier=factory))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic("teachers"), unknown("kind", "teachers", "teacher")),
        (lambda: synthetic(difficulty=1.5), "difficulty=1.5"),
        (lambda: synthetic(num_classes=1), "num_classes=1"),
        (lambda: load_dataset("mnits"), unknown("dataset", "mnits", "mnist")),
        (lambda: MLP((0,)), must("hidden_sizes", (0,), "positive whole numbers")),
        (lambda: autotrain_env.CNN(()), must("channels", (), "positive whole numbers")),
        (lambda: TaskDistribution(classifier="mlpp"), unknown("classifier", "mlpp", "mlp")),
        (lambda: Curriculum(()), "at least one TaskDistribution"),
    ],
)
def test_parts_check_their_arguments_too(call: Any, message: str):
    with pytest.raises(ValueError, match=message):
        call()


# Actions -------------------------------------------------------------------------------------------

BAD_ACTIONS: dict[str, list[tuple[Any, type[Exception], str]]] = {
    "discrete": [
        (17, ValueError, r"action=17 is outside the action space Discrete\(17\)"),
        (-1, ValueError, r"action=-1 is outside the action space Discrete\(17\)"),
        (1.0, TypeError, r"action=1\.0 has dtype float64; the action space needs int64"),
        ("1", TypeError, r"action='1' has dtype <U1; the action space needs int64"),
        (None, TypeError, r"action=None has dtype object; the action space needs int64"),
        ([1], ValueError, r"action=\[1\] has shape \(1,\); it must be \(\)"),
        (np.array([1, 2]), ValueError, r"action=array\(\[1, 2\]\) has shape \(2,\); it must be \(\)"),
        ([1, [2]], ValueError, r"action=\[1, \[2\]\] is not an array of shape \(\)"),
    ],
    "multi_discrete": [
        ([5, 0, 0], ValueError, r"action=\[5, 0, 0\] is outside the action space MultiDiscrete"),
        ([0, 3, 0], ValueError, "is outside the action space"),
        ([0, 0, -1], ValueError, "is outside the action space"),
        ([0, 0], ValueError, r"has shape \(2,\); it must be \(3,\)"),
        (0, ValueError, r"action=0 has shape \(\); it must be \(3,\)"),
        ([0.0, 0.0, 0.0], TypeError, "has dtype float64; the action space needs int64"),
    ],
    "continuous": [
        ([0, 0, 0, 0, 0, 1.5], ValueError, "is outside the action space Box"),
        ([0, 0, 0, 0, 0, NAN], ValueError, "is outside the action space Box"),
        ([0, 0, 0, 0, 0, -INF], ValueError, "is outside the action space Box"),
        (np.zeros(7), ValueError, r"has shape \(7,\); it must be \(6,\)"),
        (np.zeros((1, 6)), ValueError, r"has shape \(1, 6\); it must be \(6,\)"),
        (["a"] * 6, TypeError, "the action space needs float32"),
        (np.zeros(6, complex), TypeError, "has dtype complex128; the action space needs float32"),
    ],
    "learning_rate": [
        ([1.01], ValueError, "is outside the action space Box"),
        (0.5, ValueError, r"action=0\.5 has shape \(\); it must be \(1,\)"),
        ([NAN], ValueError, "is outside the action space Box"),
        ([None], TypeError, "the action space needs float32"),
    ],
}
CASES = [(kind, *case) for kind, cases in BAD_ACTIONS.items() for case in cases]


@pytest.mark.parametrize(("action_type", "action", "error", "message"), CASES)
def test_a_wrong_action_is_refused_and_nothing_has_changed(
    tiny_env: Any, action_type: str, action: Any, error: type[Exception], message: str
):
    env, other = tiny_env(action_type=action_type), tiny_env(action_type=action_type)
    good = [env.action_space.sample() * 0 for _ in range(2)]
    for made in (env, other):
        made.reset(seed=0)
        made.step(good[0])
    with pytest.raises(error, match=message):
        env.step(action)
    assert_same(env.step(good[1]), other.step(good[1]))


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_wrong_actions_of_a_vector_environment(tiny_vec: Any, action_type: str):
    env, other = tiny_vec(3, action_type=action_type), tiny_vec(3, action_type=action_type)
    env.reset(seed=0)
    other.reset(seed=0)
    good = env.action_space.sample() * 0
    shape, kind = re.escape(str(good.shape)), good.dtype
    outside = good.copy()
    outside[1] = 17
    for actions, error, message in (
        (good[:2], ValueError, rf"(?s)action=array.* has shape .*; it must be {shape}"),
        (good[None], ValueError, rf"it must be {shape}"),
        (good[0], ValueError, rf"it must be {shape}"),
        (outside, ValueError, "is outside the action space"),
        (None, TypeError, f"action=None has dtype object; the action space needs {kind}"),
        (["a", "b", "c"], TypeError, f"the action space needs {kind}"),
        ([[0], [0, 1], [0]], ValueError, rf"is not an array of shape {shape}"),
    ):
        with pytest.raises(error, match=message):
            env.step(actions)
    if action_type in ("discrete", "multi_discrete"):
        with pytest.raises(TypeError, match="has dtype float64; the action space needs int64"):
            env.step(good.astype(float))
    assert_same(list(env.step(good)), list(other.step(good)))


def test_wrong_decisions_are_refused(tiny_vec: Any):
    env = tiny_vec(2)
    env.reset(seed=0)
    good = autotrain_env.Decisions.set_rate(np.array([0.1, 0.1]))
    for change, message in (
        ({"learning_rate": np.array([0.1, 0.0])}, r"decisions.learning_rate=.* must be above 0"),
        ({"learning_rate": np.array([0.1, NAN])}, r"decisions.learning_rate=.* must be above 0"),
        ({"learning_rate": np.array([0.1])}, r"decisions.learning_rate=.* must be of shape \(2,\)"),
        ({"rewind": np.array([0, -1])}, r"decisions.rewind=.* must be at least 0"),
        ({"stop": np.zeros((2, 1), bool)}, r"(?s)decisions.stop=.* must be of shape \(2,\)"),
    ):
        decisions = autotrain_env.Decisions(**(vars(good) | change))
        with pytest.raises(ValueError, match=message):
            env.unwrapped.step_decisions(decisions)
    assert env.unwrapped.core.lineage.updates.tolist() == [0, 0]


# Steps out of order --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_step_before_reset_of_a_vector_environment(tiny_vec: Any, mode: str):
    env = tiny_vec(3, autoreset_mode=mode)
    with pytest.raises(ResetNeeded, match="before every lane was reset"):
        env.step(np.array([2, 2, 2]))
    env.reset(seed=0, options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match="before every lane was reset"):
        env.step(np.array([2, 2, 2]))
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(np.array([2, 2, 2]))


def test_step_with_all_lanes_ended(tiny_vec: Any):
    env = tiny_vec(2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(np.array([16, 2]))
    env.step(np.array([2, 16]))
    with pytest.raises(ResetNeeded, match="all lanes ended; reset some of them first"):
        env.step(np.array([2, 2]))
    env.reset(options={"reset_mask": np.array([True, False])})
    env.step(np.array([2, 2]))


@pytest.mark.parametrize("num_envs", [None, 2])
def test_render_before_reset(num_envs: int | None):
    arguments = tiny(render_mode="ansi")
    if num_envs is None:
        env = gymnasium.make("AutoTrain-v0", **arguments).unwrapped
    else:
        env = gymnasium.make_vec("AutoTrain-v0", num_envs=num_envs, **arguments)
    with pytest.raises(ResetNeeded, match="before reset"):
        env.render()


# Options of reset ----------------------------------------------------------------------------------

FITS = {
    "dataset": tiny_data(),
    "train_size": 48,
    "holdout_size": 40,
    "validation_size": 40,
    "batch_size": 8,
}
BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tsk": Task()}, ValueError, unknown("options", "tsk", "task")),
    ({"task": "digits"}, TypeError, r"options\['task'\]='digits' must be an autotrain_env.Task"),
    ({"task": {"budget": 40}}, TypeError, r"options\['task'\]=.* must be an autotrain_env.Task"),
    ({"task": Task(**FITS, budget=30)}, ValueError, must("budget", 30, "a multiple of inner_steps=4")),
    ({"task": Task(**(FITS | {"train_size": 300}), budget=24)}, ValueError, "at most 320 in all"),
    (
        {"task": Task(**(FITS | {"batch_size": 64}), budget=24)},
        ValueError,
        must("batch_size", 64, "at most"),
    ),
    ({"task": Task(dataset="digts", budget=24)}, ValueError, unknown("dataset", "digts", "digits")),
    ({"task": Task(**FITS, classifier="cnn", budget=24)}, ValueError, r"classifier=CNN\(.* needs images"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
@pytest.mark.parametrize("seed", [None, 5])
def test_after_a_bad_task_nothing_has_changed(
    tiny_env: Any, options: dict[str, Any], error: type[Exception], message: str, seed: int | None
):
    env, other = tiny_env(), tiny_env()
    for made in (env, other):
        made.reset(seed=0)
        made.step(2)
    before = weights(env)
    with pytest.raises(error, match=message):
        env.reset(seed=seed, options=options)
    assert_same(weights(env), before)
    assert_same(env.step(7), other.step(7))  # the episode goes on
    assert_same(env.reset(), other.reset())  # and the next one is that which would have come
    assert_same(env.step(2), other.step(2))


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
@pytest.mark.parametrize("seed", [None, 5])
def test_after_a_bad_task_nothing_has_changed_in_any_lane(
    tiny_vec: Any, options: dict[str, Any], error: type[Exception], message: str, seed: int | None
):
    env, other = tiny_vec(3, autoreset_mode="Disabled"), tiny_vec(3, autoreset_mode="Disabled")
    for made in (env, other):
        made.reset(seed=0)
        made.step(np.array([2, 2, 16]))
    if "task" in options:
        options = {"task": [Task(**FITS, classifier="mlp-6", budget=24), None, options["task"]]}
    with pytest.raises(error, match=message):
        env.reset(seed=seed, options=options)
    assert_same(list(env.step(np.array([7, 2, 2]))), list(other.step(np.array([7, 2, 2]))))
    assert_same(list(env.reset()), list(other.reset()))
    assert_same(list(env.step(np.array([2, 2, 2]))), list(other.step(np.array([2, 2, 2]))))


def test_other_options_of_a_vector_reset(tiny_vec: Any):
    env = tiny_vec(3)
    mask = "options['reset_mask']"
    for kwargs, error, message in (
        ({"options": {"reset_mask": [True, False, True]}}, TypeError, "must be a numpy array of bool"),
        ({"options": {"reset_mask": np.array([1, 0, 1])}}, TypeError, "must be a numpy array of bool"),
        ({"options": {"reset_mask": np.array([True])}}, ValueError, re.escape(mask) + r".*of shape \(3,\)"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, ValueError, "with at least one lane to reset"),
        ({"options": {"task": [None, None]}}, ValueError, r"options\['task'\]=.* must be one task, or 3"),
        (
            {"options": {"mask": None}},
            ValueError,
            r"options='mask' is not a known name.*Allowed: 'reset_mask', 'task'",
        ),
        (
            {"seed": [1, 2]},
            ValueError,
            r"seed=\[1, 2\] is not allowed: it must be one number, or a list of 3",
        ),
    ):
        with pytest.raises(error, match=message):
            env.reset(**kwargs)


OTHERS: dict[str, Any] = {
    "history_in_info": True,
    "inner_steps": 8,
    "history_length": 4,
    "num_snapshots": 6,
    "score": "neg_log_loss",
    "tasks": "rates",
    "dataset": lambda: tiny_data(seed=5),
    "split_seed": 3,
    "train_size": 47,
    "holdout_size": 41,
    "validation_size": 41,
    "label_noise": 0.1,
    "classifier": "mlp-7",
    "optimizer": "adam",
    "batch_size": 9,
    "initial_learning_rate": LogUniform(1e-3, 9.0),
    "initialization": "orthogonal",
    "budget": 48,
    "measured": "holdout",
    "can_reinit": False,
    "epochs_known": False,
    "train_on_holdout": True,
    "lr_bounds": (1e-3, 100.0),
    "action_type": "multi_discrete",
    "lr_factors": (0.2, 0.8, 1.0, 1.2, 1.7),
    "num_rewinds": 2,
    "annealing": "linear",
    "max_lr_factor": 4.0,
    "rewind_sampling": "argmax",
    "rewind_minibatches": "same",
    "rewind_noise": 0.1,
    "reinit": False,
    "keep_before_divergence": True,
    "stop": False,
    "reinit_learning_rate": 0.5,
    "initial_states": "zeros",
    "observation_layout": "flat",
    "metrics": "extended",
    "thresholdout": False,
    "thresholdout_threshold": 0.05,
    "thresholdout_sigma": 0.02,
    "thresholdout_budget": 3,
    "reward": {"improvement": 2.0},
    "reward_split": "holdout",
    "terminal_state": "best_holdout",
    "inter_reward": 2.0,
    "final_reward_scale": 9.0,
    "step_cost": 0.1,
    "divergence_penalty": 1.0,
    "time_cost": 0.1,
    "baseline": (np.array([0, 24]), np.array([0.1, 0.5])),
    "truncate_after": 3,
    "backend": "looped",
    "device": "cuda",
    "dtype": "float64",
}
ELSEWHERE = {"data_root": "elsewhere", "download": True, "log_path": "log.csv"}


def test_every_argument_is_tried_below():
    named = OTHERS.keys() | ELSEWHERE
    assert named >= {field.name for field in dataclasses.fields(AutoTrainConfig)}


@pytest.mark.parametrize("name", OTHERS)
def test_states_of_an_environment_with_another_argument_are_refused(tiny_vec: Any, name: str):
    if name == "device" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    value = OTHERS[name]
    other = value() if name == "dataset" else value
    saved, env = tiny_vec(2, **{name: other}).unwrapped, tiny_vec(2).unwrapped
    saved.reset(seed=1)
    env.reset(seed=0)
    before = env.core.observation()
    with pytest.raises(ValueError, match=rf"other arguments: (.*; )?{name} is .* there and .* here"):
        env.load_state_dict(saved.state_dict())
    assert_same(env.core.observation(), before)
    env.step(np.array([2, 2]))
    twin = tiny_vec(2, **{name: other}).unwrapped
    twin.load_state_dict(pickle.loads(pickle.dumps(saved.state_dict())))
    assert_same(twin.core.observation(), saved.core.observation())


def test_states_may_come_from_where_files_lie_elsewhere(tiny_vec: Any, tmp_path: Path):
    elsewhere = ELSEWHERE | {"log_path": str(tmp_path / "log.csv")}
    saved, env = tiny_vec(2, **elsewhere).unwrapped, tiny_vec(2).unwrapped
    saved.reset(seed=1)
    env.load_state_dict(saved.state_dict())
    assert_same(env.core.observation(), saved.core.observation())


@pytest.mark.parametrize("modes", [*itertools.permutations(("NextStep", "SameStep", "Disabled"), 2)])
def test_states_of_another_autoreset_mode_are_refused(tiny_vec: Any, modes: tuple[str, str]):
    saved, env = (tiny_vec(2, autoreset_mode=mode).unwrapped for mode in modes)
    saved.reset(seed=1)
    message = "autoreset_mode is {} there and {} here".format(*modes)
    with pytest.raises(ValueError, match=message):
        env.load_state_dict(saved.state_dict())


def test_states_of_another_environment_are_refused(tiny_vec: Any):
    env, other = tiny_vec(2).unwrapped, tiny_vec(3).unwrapped
    env.reset(seed=0)
    other.reset(seed=0)
    state = env.state_dict()
    with pytest.raises(ValueError, match="state='2 lanes' is not allowed: it must be of 3 lanes"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="must be what state_dict"):
        env.load_state_dict({"core": state["core"]})
    with pytest.raises(ValueError, match="must be with entries"):
        env.load_state_dict(state | {"core": {}})
    other.step(np.array([2, 2, 2]))  # as it was
    env.step(np.array([2, 2]))
