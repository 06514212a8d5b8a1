"""Saved policies: their files, what is refused, and acting in an environment."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from gymnasium import spaces

from autotrain_env import AutoTrainConfig, LogUniform
from autotrain_env.files import replace_file
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import PRETRAINED, TrainedPolicy, load_policy
from tests.helpers import tiny

LOW_HIGH = spaces.Box(-1, 1, (2, 3))


def spec(**kwargs: Any) -> PolicySpec:
    layers = [
        {"type": "flatten"},
        {"type": "linear", "in": 6, "out": 5},
        {"type": "tanh"},
        {"type": "linear", "in": 5, "out": 4},
    ]
    given = {"observation_space": LOW_HIGH, "action_space": spaces.Discrete(4), "layers": layers}
    return PolicySpec(**({"head": "categorical"} | given | kwargs))


def policy(**kwargs: Any) -> TrainedPolicy:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "layers.1.weight": torch.randn(5, 6, generator=generator),
        "layers.1.bias": torch.randn(5, generator=generator),
        "layers.3.weight": torch.randn(4, 5, generator=generator),
        "layers.3.bias": torch.randn(4, generator=generator),
    }
    return TrainedPolicy(spec(**kwargs), weights)


def recurrent_policy(action_space: spaces.Discrete | None = None, inputs: int = 6) -> TrainedPolicy:
    actions = action_space or spaces.Discrete(4)
    layers = [
        {"type": "flatten"},
        {"type": "lstm", "in": inputs, "hidden": 3},
        {"type": "linear", "in": 3, "out": int(actions.n)},
    ]
    box = spaces.Box(-1, 1, (inputs,)) if inputs != 6 else LOW_HIGH
    made = spec(observation_space=box, layers=layers, action_space=actions)
    torch.manual_seed(0)
    lstm, linear = torch.nn.LSTM(inputs, 3), torch.nn.Linear(3, int(actions.n))
    weights = {f"layers.1.{name}": tensor for name, tensor in lstm.state_dict().items()}
    weights |= {f"layers.2.{name}": tensor for name, tensor in linear.state_dict().items()}
    return TrainedPolicy(made, weights)


def test_the_policy_that_comes_with_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trained = load_policy("many")
    env = make_evaluation_env("AutoTrain-v0", 16, observation_layout="flat")
    results = evaluate_policy(env, trained, 16, seed=5)
    assert results["test_accuracy"].mean() > 0.85 and results["test_accuracy"].min() > 0.7
    assert np.ptp(np.log(results["initial_learning_rate"])) > 4
    policy().save("many")  # a folder of that name comes first
    assert load_policy("many").spec.as_json() == policy().spec.as_json()


def test_the_policy_for_real_runs_that_comes_with_the_package():
    trained = load_policy("real_runs")
    assert sum(path.stat().st_size for path in PRETRAINED["real_runs"].iterdir()) < 1_000_000
    assert trained.spec.environment["decisions"] == 30
    kwargs = {"observation_layout": "flat", "budget": 600, "inner_steps": 20}
    for optimizer, rates in (("adamw", (1e-5, 0.1)), ("momentum", (1e-3, 10))):
        rate = LogUniform(*rates)
        task = kwargs | {"optimizer": optimizer, "initial_learning_rate": rate, "label_noise": 0.0}
        for measured in ("train_and_holdout", "nothing"):
            env = make_evaluation_env("AutoTrainRuns-v0", 16, **task, measured=measured)
            results = evaluate_policy(env, trained, 16, seed=5)
            assert results["test_accuracy"].mean() > 0.9 and results["test_accuracy"].min() > 0.75


# --- predict ---


def test_one_lane_and_many():
    observations = np.random.default_rng(0).uniform(-1, 1, (7, 2, 3)).astype(np.float32)
    actions, state = policy().predict(observations)
    assert actions.shape == (7,) and actions.dtype == np.int64 and state is None
    weights = policy().network.state_dict()
    values = observations.reshape(7, 6)
    for layer in (1, 3):
        weight, bias = (weights[f"layers.{layer}.{name}"].numpy() for name in ("weight", "bias"))
        values = values @ weight.T + bias
        logits, values = values, np.tanh(values)
    np.testing.assert_array_equal(actions, logits.argmax(1))
    for observation, action in zip(observations, actions, strict=True):
        assert policy().predict(observation)[0] == action


def test_masked_actions_are_never_taken():
    observations = np.zeros((200, 2, 3), np.float32)
    best = int(policy().predict(observations[0])[0])
    mask = np.ones(4, bool)
    mask[best] = False
    assert policy().predict(observations[0], mask)[0] != best
    drawn = policy().predict(observations, np.tile(mask, (200, 1)), deterministic=False)[0]
    assert best not in drawn and len(set(drawn.tolist())) > 1


def test_a_recurrent_policy_remembers_until_an_episode_starts():
    made = recurrent_policy()
    generator = np.random.default_rng(0)
    observations = generator.uniform(-1, 1, (5, 2, 2, 3)).astype(np.float32)
    _, fresh = made.predict(observations[1])
    _, state = made.predict(observations[0])
    assert state is not None and fresh is not None and state[0].shape == (2, 3)
    _, remembered = made.predict(observations[1], state=state)
    _, half = made.predict(observations[1], state=state, episode_start=np.array([False, True]))
    assert remembered is not None and half is not None
    np.testing.assert_array_equal(half[0][0], remembered[0][0])
    np.testing.assert_array_equal(half[0][1], fresh[0][1])
    assert not np.array_equal(fresh[0][0], remembered[0][0])


def test_a_recurrent_policy_plays_the_same_episodes_in_any_number_of_lanes():
    kwargs = tiny(observation_layout="flat")
    results = []
    for count in (1, 2, 5):
        env = gymnasium.make_vec("AutoTrain-v0", num_envs=count, autoreset_mode="Disabled", **kwargs)
        inputs = env.single_observation_space.shape[0]
        made = recurrent_policy(env.single_action_space, inputs)
        object.__setattr__(made.spec, "observation_space", env.single_observation_space)
        results.append(evaluate_policy(env, made, 5, seed=3))
    for result in results[1:]:
        for name, values in result.items():
            np.testing.assert_array_equal(values, results[0][name])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"observation": np.zeros((2, 4), np.float32)}, r"observation=\(2, 4\).*of shape \(2, 3\)"),
        ({"mask": np.ones((1, 3), bool)}, r"mask=\(1, 3\).*\(1, 4\)"),
        ({"mask": np.zeros((1, 4), bool)}, "mask=.*with a possible action"),
    ],
)
def test_shapes_that_do_not_fit(kwargs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        policy().predict(**({"observation": np.zeros((1, 2, 3), np.float32)} | kwargs))


def test_episode_starts_are_of_every_lane():
    made = recurrent_policy()
    lanes = np.zeros((3, *made.spec.observation_space.shape), np.float32)
    with pytest.raises(ValueError, match=r"episode_start=\(1,\).*of shape \(3,\)"):
        made.predict(lanes, episode_start=np.array([True]))


# --- files ---


def test_files_give_the_policy_back(tmp_path: Path):
    first = policy(masked=True, exploration=0.25, environment={"id": "x"}, versions={"torch": "2"})
    first.save(tmp_path / "deep" / "folder")
    second = load_policy(tmp_path / "deep" / "folder")
    assert second.spec.as_json() == first.spec.as_json()
    assert second.spec.observation_space == LOW_HIGH and second.spec.action_space == spaces.Discrete(4)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor)
    assert {path.name for path in (tmp_path / "deep" / "folder").iterdir()} == {
        "policy.json",
        "policy.safetensors",
    }


class Malicious:
    """Unpickling it would leave a trace."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("trace"),))


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_pickle_dressed_as_a_policy_is_refused_unread(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("trace").exists()  # it does what it threatens
    Path("trace").unlink()
    policy().save(tmp_path)
    for write in (pickle.dumps, lambda content: _torch_bytes(content, tmp_path)):
        (tmp_path / name).write_bytes(write(Malicious()))
        with pytest.raises(ValueError, match=name):
            load_policy(tmp_path)
        assert not Path("trace").exists()


def _torch_bytes(content: Any, folder: Path) -> bytes:
    torch.save(content, folder / "other")
    return (folder / "other").read_bytes()


@pytest.mark.parametrize("name", ["policy.json", "policy.safetensors"])
def test_a_missing_file_is_named(name: str, tmp_path: Path):
    policy().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format=2.*must be 1"),
        ({"head": "categorial"}, "nearest known one is 'categorical'"),
        ({"head": "gaussian"}, "action_space=Discrete.*a Box"),
        ({"layers": [{"type": "linear", "in": 5, "out": 4}]}, "linear layer's input=5.*must be 6"),
        ({"layers": ["linear"]}, r"layers\[0\]='linear'.*an object"),
        ({"layers": None}, "layers=None.*a list"),
        ({"layers": [{"type": "linear", "in": 6, "out": -4}]}, r"layers\[0\].out=-4.*at least 1"),
        ({"layers": [{"type": "linear", "in": 6}]}, r"layers\[0\]'s entries=.*with 'out'"),
        (
            {"layers": [{"type": "state_attention", "rows": 2, "windows": 3, "width": 4, "heads": 2}]},
            r"rows, windows=\(2, 3\).*6 numbers with 9 metrics",
        ),
        ({"layers": [{"type": "gelu"}]}, "layer='gelu' is not a known name"),
        ({"layers": [{"type": "flatten"}]}, "last layer's output=6.*must be 4"),
        ({"action_space": {"type": "Discrete", "n": 5, "start": 0}}, "last layer's output=4.*must be 5"),
        ({"action_space": {"type": "Text"}}, "space='Text'"),
        ({"exploration": 2.0}, "exploration=2.0"),
        ({"masked": "no"}, "masked='no'.*True or False"),
        ({"environment": None}, "environment=None.*an object"),
        ({"haed": "values"}, "entry='haed'.*nearest known one is 'head'"),
    ],
)
def test_a_description_that_does_not_hold_is_refused(change: dict[str, Any], message: str, tmp_path: Path):
    policy().save(tmp_path)
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"policy.json is no description of a policy.*{message}"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.9.bias": torch.zeros(2)}, "layers.9.bias.*no more and no less"),
        ({"layers.1.bias": torch.zeros(4)}, r"layers.1.bias.*torch.float32 \(4,\)"),
        ({"layers.1.bias": torch.zeros(5, dtype=torch.float64)}, "layers.1.bias.*torch.float64"),
        ({"layers.1.bias": None}, "layers.1.bias.*no more and no less"),
        ({"layers.1.bias": torch.full((5,), torch.nan)}, "layers.1.bias.*NaN or infinite.*finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path):
    made = policy()
    made.save(tmp_path)
    weights = {**made.network.state_dict(), **change}
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    (tmp_path / "policy.safetensors").write_bytes(safetensors.torch.save(weights))
    with pytest.raises(ValueError, match=f"policy.safetensors does not fit.*{message}"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (60_000, "policy.safetensors does not fit.*60000"),
        (10**12, r"policy.json.*layers\[1\].out=1000000000000 .* at most 65536"),
        (10**30, r"policy.json.*layers\[1\].out=10+ .* at most 65536"),
        (64.0, r"policy.json.*layers\[1\].out=64.0 .* a whole number"),
    ],
)
def test_a_description_that_asks_for_too_much_memory_takes_none(width: Any, message: str, tmp_path: Path):
    policy().save(tmp_path)
    path = tmp_path / "policy.json"
    huge = [
        {"type": "flatten"},
        {"type": "linear", "in": 6, "out": width},
        {"type": "tanh"},
        {"type": "linear", "in": width, "out": 4},
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers": huge}))
    with pytest.raises(ValueError, match=message):
        load_policy(tmp_path)


def test_an_environment_with_other_spaces_is_refused():
    kwargs = tiny()
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=2, autoreset_mode="Disabled", **kwargs)
    with pytest.raises(
        ValueError, match=r"env.observation_space=.*\(3, 2, 9\).*\(2, 3\): the policy was trained for that"
    ):
        evaluate_policy(env, policy(), 2)
    flat = spaces.flatten_space(env.single_observation_space).shape[0]
    layers = [{"type": "flatten"}, {"type": "linear", "in": flat, "out": 4}]
    weights = {"layers.1.weight": torch.zeros(4, flat), "layers.1.bias": torch.zeros(4)}
    other = TrainedPolicy(spec(observation_space=env.single_observation_space, layers=layers), weights)
    with pytest.raises(ValueError, match=r"env.action_space=.*Discrete\(17\).*Discrete\(4\)"):
        evaluate_policy(env, other, 2)


@pytest.mark.parametrize(
    ("trained", "other", "name"),
    [
        ({}, {"lr_factors": (0.1, 0.5, 1.0, 2.0, 10.0)}, "lr_factors"),
        ({"reinit": False}, {"stop": False}, "reinit"),
        (
            {"lr_factors": [0.5, 2.0], "num_rewinds": 3},
            {"lr_factors": (0.5, 1, 2), "num_rewinds": 2},
            "lr_f",
        ),
        ({}, {"max_lr_factor": 3.0}, None),
        ({}, {"lr_bounds": (1e-4, 1.0), "budget": 60}, None),
        (
            {"action_type": "continuous"},
            {"action_type": "continuous", "max_lr_factor": 3.0},
            "max_lr_factor",
        ),
        ({"action_type": "continuous"}, {"action_type": "continuous", "lr_factors": (0.5, 2.0)}, None),
        (
            {"action_type": "learning_rate"},
            {"action_type": "learning_rate", "lr_bounds": (1e-4, 1)},
            "lr_b",
        ),
    ],
)
def test_an_environment_in_which_actions_mean_something_else_is_refused(
    trained: dict[str, Any], other: dict[str, Any], name: str | None
):
    box = {"continuous": spaces.Box(-1, 1, (7,)), "learning_rate": spaces.Box(-1, 1, (1,))}
    actions = box.get(trained.get("action_type", ""), spaces.Discrete(4))
    head = "deterministic" if isinstance(actions, spaces.Box) else "categorical"
    count = 4 if head == "categorical" else int(np.prod(actions.shape))
    layers = [{"type": "flatten"}, {"type": "linear", "in": 6, "out": count}]
    made = spec(action_space=actions, head=head, layers=layers)
    environment = {"id": "AutoTrain-v0", "kwargs": trained}
    weights = {"layers.1.weight": torch.zeros(count, 6), "layers.1.bias": torch.zeros(count)}
    policy = TrainedPolicy(dataclasses.replace(made, environment=environment), weights)
    policy.check_meaning(AutoTrainConfig(**trained).make_action_type())
    if name is None:
        policy.check_meaning(AutoTrainConfig(**other).make_action_type())
    else:
        with pytest.raises(ValueError, match=f"env.{name}.*: the policy was trained for that"):
            policy.check_meaning(AutoTrainConfig(**other).make_action_type())


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
