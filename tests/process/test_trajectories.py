"""Whole episodes of the environments against the oracle in `reference.py`.

Kernels that round differently drift apart while they train, faster the higher the learning rate. So
equality is tested in float64 at rates below 0.1 (to which the first action goes down), and in float32
on the first observation and on a few steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrain_env import (
    CNN,
    MLP,
    SGD,
    Adam,
    AdamW,
    AutoTrainEnv,
    AutoTrainVectorEnv,
    Choice,
    Dataset,
    LogUniform,
    RMSprop,
    Task,
    TaskDistribution,
)
from tests.helpers import reference
from tests.helpers.reference import OPTIMIZERS, Plan, Reference

FACTORS = (0.2, 0.8, 1.0, 1.2, 1.8)
HIGHEST_RATE = 0.1
SETTINGS: dict[str, Any] = {"inner_steps": 4, "history_length": 2, "num_snapshots": 4, "dtype": "float64"}
TASK = Task(
    split_seed=3,
    train_size=60,
    holdout_size=37,
    validation_size=41,
    classifier=MLP((9,)),
    batch_size=16,
    initial_learning_rate=0.3,
    budget=4 * 18,
)
PLAN = Plan(network=reference.mlp(9))


def batch_norm_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4 * 36, 12, bias=False),  # one would have a gradient of rounding errors alone
        nn.BatchNorm1d(12, momentum=0.3),
        nn.ReLU(),
        nn.Linear(12, 10),
    )


class Stateful(nn.Module):
    """A network with state of every kind: a frozen layer, masks, a counter, a mean that is made anew."""

    mean: torch.Tensor
    order: torch.Tensor
    mask: torch.Tensor
    updates: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)
        self.between = nn.Linear(12, 12).requires_grad_(False)
        self.register_buffer("order", torch.randperm(64))
        self.register_buffer("mask", torch.rand(12) < 0.8)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.between(torch.tanh(self.first(x.flatten(1)[:, self.order]))) * self.mask
        if self.training:
            self.updates += 1
            self.mean = 0.9 * self.mean + 0.1 * hidden.detach().mean(0)
        return self.last(torch.tanh(hidden - self.mean)) / (1 + 0.01 * self.updates)


def assert_same(
    observation: np.ndarray, info: dict[str, Any], oracle: Reference, tolerance: float = 1e-9
) -> None:
    """Compare an observation and information with what the oracle says."""
    expected = oracle.observation()
    assert observation.dtype == np.float32 and observation.shape == expected.shape
    # Two float64 numbers that agree to 1e-9 may be rounded to neighbouring float32 ones.
    np.testing.assert_allclose(observation, expected, rtol=0, atol=max(tolerance, 1e-6))
    for name, value in oracle.info().items():
        if isinstance(value, float):
            assert info[name] == pytest.approx(value, abs=tolerance, rel=tolerance), name
        else:
            assert info[name] == value, name


def assert_same_weights(weights: dict[str, torch.Tensor], oracle: Reference, tolerance: float) -> None:
    """Compare parameters and buffers, by position: names are each one's own."""
    expected = reference.held_by(oracle.network)
    for (name, ours), theirs in zip(weights.items(), expected, strict=True):
        theirs = theirs.detach().to(ours.dtype)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)


def random_action(generator: np.random.Generator, oracle: Reference) -> int:
    """Draw an action; rewinds may be impossible, and the learning rate stays low."""
    low = [i for i, factor in enumerate(FACTORS) if oracle.learning_rate * factor < HIGHEST_RATE]
    kind = generator.random()
    if kind < 0.06 and low:
        return len(FACTORS) * oracle.H
    if kind < 0.09 and oracle.steps > 5:
        return len(FACTORS) * oracle.H + 1
    rewind = int(generator.integers(oracle.H)) if kind < 0.5 and low else 0
    return rewind * len(FACTORS) + int(generator.choice(low or [0]))


def check_play(
    env: AutoTrainEnv,
    oracle: Reference,
    task: Task,
    plan: Plan,
    *,
    episodes: int = 2,
    seed: int = 0,
    script: list[int] | None = None,
    tolerance: float = 1e-9,
    max_steps: int = 10**6,
) -> list[dict[str, Any]]:
    """Play whole episodes, comparing every step; returns the information of every step."""
    generator, infos = np.random.default_rng(seed), []
    for episode in range(episodes):
        first_seed = {"seed": seed} if episode == 0 else {}
        observation, info = env.reset(options={"task": task}, **first_seed)
        oracle.reset(task, plan)
        assert_same(observation, info, oracle, tolerance)
        actions = iter(script) if script else None
        ended = False
        while not ended and oracle.steps < max_steps:
            action = next(actions) if actions else random_action(generator, oracle)
            observation, reward, terminated, truncated, info = env.step(action)
            oracle.step(action)
            if not oracle.diverged:
                assert_same_weights(env.core.stacks.weights_of(0), oracle, tolerance)
            assert_same(observation, info, oracle, tolerance)
            assert reward == pytest.approx(oracle.improvement, abs=tolerance)
            assert (terminated, truncated) == (oracle.terminated, oracle.truncated)
            infos.append(info)
            ended = terminated or truncated
        if ended:
            assert set(oracle.final) <= set(info) and len(oracle.final) == 6
    return infos


def check_case(
    task: Task, plan: Plan, seed: int = 0, backend: str = "auto", **settings: Any
) -> list[dict[str, Any]]:
    settings = SETTINGS | settings
    env = AutoTrainEnv(backend=backend, **settings)
    return check_play(env, Reference(seed, **settings), task, plan, seed=seed)


# --- optimisers ---

# A rule, and the same in torch.
RULES: dict[str, tuple[Any, Any]] = {
    **{name: (name, make) for name, make in OPTIMIZERS.items()},
    "sgd with weight decay": (
        SGD(weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.05),
    ),
    "momentum with weight decay": (
        SGD(momentum=0.7, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.7, weight_decay=0.05),
    ),
    "nesterov with weight decay": (
        SGD(momentum=0.8, nesterov=True, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.8, nesterov=True, weight_decay=0.02),
    ),
    "rmsprop with weight decay": (
        RMSprop(alpha=0.9, eps=1e-6, weight_decay=0.02),
        lambda p: torch.optim.RMSprop(p, lr=1.0, alpha=0.9, eps=1e-6, weight_decay=0.02),
    ),
    "adam with weight decay": (
        Adam(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.02),
        lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.02),
    ),
    "adamw with another decay": (
        AdamW(weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0.2),
    ),
}


# Rules with weight decay are held to torch's in test_optimizers.py, update by update.
@pytest.mark.parametrize("rule", [*OPTIMIZERS, "adam with weight decay", "momentum with weight decay"])
def test_every_optimizer_follows_the_oracle(rule: str):
    optimizer, make = RULES[rule]
    infos = check_case(replace(TASK, optimizer=optimizer), replace(PLAN, optimizer=make))
    assert any(info["rewind"] > 0 for info in infos)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
def test_clipped_gradients_follow_the_oracle(rule: str):
    optimizer = {"sgd": SGD, "momentum": lambda **k: SGD(momentum=0.9, **k), "adam": Adam}[rule]
    plan = replace(PLAN, optimizer=OPTIMIZERS[rule], max_grad_norm=0.4)
    task = replace(TASK, optimizer=optimizer(max_grad_norm=0.4))
    check_case(task, plan)
    with pytest.raises(AssertionError):  # the bound is not so wide that it does nothing
        check_case(task, replace(plan, max_grad_norm=None))


# --- networks ---


@pytest.mark.parametrize(
    "classifier, network, backend",
    [
        ("linear", reference.mlp(), "auto"),
        ("mlp", reference.mlp(32), "auto"),
        ("mlp-12-7-5", reference.mlp(12, 7, 5), "auto"),
        ("mlp-12-7-5", reference.mlp(12, 7, 5), "looped"),
    ],
)
def test_every_perceptron_follows_the_oracle(classifier: str, network: Any, backend: str):
    check_case(replace(TASK, classifier=classifier), replace(PLAN, network=network), 1, backend)


@pytest.mark.parametrize(
    "classifier, network, optimizer, backend",
    [
        (CNN((3, 5)), reference.cnn(3, 5), "momentum", "stacked"),
        (CNN((3, 5)), reference.cnn(3, 5), "adam", "looped"),
        (batch_norm_network, reference.user(batch_norm_network), "adam", "stacked"),
        (batch_norm_network, reference.user(batch_norm_network), "momentum", "looped"),
        (Stateful, reference.user(Stateful), "adam", "stacked"),
        (Stateful, reference.user(Stateful), "momentum", "looped"),
    ],
    ids=[
        *("cnn", "cnn, looped", "batch normalisation", "batch normalisation, looped"),
        *("state of every kind", "state of every kind, looped"),
    ],
)
def test_every_module_follows_the_oracle(classifier: Any, network: Any, optimizer: str, backend: str):
    task = replace(TASK, classifier=classifier, optimizer=optimizer, budget=4 * 8)
    check_case(task, Plan(network, OPTIMIZERS[optimizer]), 2, backend)


def small_images(shape: tuple[int, ...], num_classes: int, size: int = 40) -> Dataset:
    generator = np.random.default_rng(0)
    labels = np.arange(size) % num_classes
    images = generator.standard_normal((size, *shape)) + labels.reshape(-1, *(1 for _ in shape))
    return Dataset.from_arrays(
        images[:-8], labels[:-8], test_images=images[-8:], test_labels=labels[-8:], num_classes=num_classes
    )


@pytest.mark.slow
def test_resnet18_follows_the_oracle():
    task = Task(
        dataset=small_images((3, 8, 8), 3),
        train_size=12,
        holdout_size=6,
        validation_size=6,
        classifier="resnet18",
        optimizer="sgd",
        batch_size=6,
        initial_learning_rate=0.05,
        budget=3,
    )
    settings = SETTINGS | {"inner_steps": 1, "history_length": 1, "num_snapshots": 2}
    plan = Plan(reference.resnet18, OPTIMIZERS["sgd"])
    infos = check_play(
        AutoTrainEnv(**settings), Reference(0, **settings), task, plan, episodes=1, script=[2, 5, 0]
    )
    assert infos[1]["rewind"] == 1


def test_feature_vectors_of_colour_and_odd_sizes_follow_the_oracle():
    for shape in ((5,), (3, 4, 5)):
        task = replace(TASK, dataset=small_images(shape, 3, 200), batch_size=7)
        check_case(task, PLAN, 5)


# --- actions and options ---


def test_every_action_follows_the_oracle():
    """Every entry of the table, with rewinds that are impossible before and after a re-init."""
    reinit, stop = 20, 21
    # The rate goes down from 0.3. To the last untrained row, which then is the only one, and beyond it.
    script, rate = [0, 15, 12, 17], 0.3 * 0.2 * 0.2
    for entry in range(20):
        for _ in range(entry // 5 + 1):  # so that there is a row to go back to
            script.append(4 if rate < 0.02 else 1)
            rate *= FACTORS[script[-1]]
        script.append(entry)
        rate *= FACTORS[entry % 5]
    script += [reinit, 2, reinit, reinit, 15, 17, stop]
    settings = SETTINGS | {"observation_layout": "flat"}
    env, oracle = AutoTrainEnv(**settings), Reference(7, **settings)
    infos = check_play(env, oracle, replace(TASK, budget=4 * 200), PLAN, seed=7, script=script)
    assert set(script) == set(range(22))
    assert {info["rewind"] for info in infos} == {0, 1, 2, 3}
    assert any(info["rewind_impossible"] for info in infos)
    rates = [info["learning_rate"] for info in infos]
    assert min(rates) > 0.002 and max(rates) < HIGHEST_RATE


OPTIONS: dict[str, dict[str, Any]] = {
    "one row": {"num_snapshots": 1},
    "two rows, one window": {"num_snapshots": 2, "history_length": 1},
    "more rows than schemes, a window per update": {"num_snapshots": 9, "history_length": 4},
    "one update": {"inner_steps": 1, "history_length": 1},
    "zeros, flat": {"initial_states": "zeros", "observation_layout": "flat"},
    "zeros, one row": {"initial_states": "zeros", "num_snapshots": 1},
    "log loss": {"score": "neg_log_loss"},
    "balanced accuracy": {"score": "balanced_accuracy"},
    "balanced accuracy on the holdout": {"score": "balanced_accuracy", "reward_split": "holdout"},
    "log loss on the holdout, unguarded": {
        "score": "neg_log_loss",
        "reward_split": "holdout",
        "thresholdout": False,
    },
    "holdout, no noise": {"reward_split": "holdout", "thresholdout_sigma": 0.0},
    "three answers": {"thresholdout_budget": 3, "thresholdout_threshold": 0.0},
    "no answers": {"thresholdout_budget": 0},
    "much noise": {"thresholdout_sigma": 0.3, "thresholdout_threshold": 0.0},
    "best weights": {"terminal_state": "best_holdout", "thresholdout": False},
    "best weights, truncated": {"terminal_state": "best_holdout", "truncate_after": 7},
    "truncated at the end of the budget": {"truncate_after": 18},
    "rate after re-init": {"reinit_learning_rate": 0.02},
    "rate after re-init out of bounds": {"reinit_learning_rate": 1.0, "lr_bounds": (1e-3, 0.09)},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_follows_the_oracle(option: str):
    infos = check_case(TASK, PLAN, 11, **OPTIONS[option])
    assert any(info["holdout_exhausted"] for info in infos) == ("answers" in option)


def test_initial_rate_after_a_reinit_follows_the_oracle():
    settings = SETTINGS | {"reinit_learning_rate": "initial"}
    task = replace(TASK, initial_learning_rate=0.07)
    script = [1, 0, 20, 2, 6, 20, 7, 21]
    check_play(AutoTrainEnv(**settings), Reference(0, **settings), task, PLAN, script=script)


@pytest.mark.parametrize("scheme", [*reference.SCHEMES, "module_default"])
def test_every_initialization_follows_the_oracle(scheme: str):
    task = replace(TASK, initialization=scheme, budget=4 * 3)
    check_case(task, PLAN, 1)


def test_other_tasks_follow_the_oracle():
    """Batches larger than an epoch's rest, a train part smaller than the holdout, no noise, all noise."""
    for changes in (
        {"train_size": 20, "batch_size": 20},
        {"train_size": 23, "batch_size": 17, "holdout_size": 50},
        {"label_noise": 0.0},
        {"label_noise": 1.0},
        {"batch_size": 1},
        {"dataset": "synthetic", "train_size": None, "holdout_size": None, "validation_size": None},
    ):
        check_case(replace(TASK, **changes), PLAN, 3)


# --- divergence ---

# Rates at which weights overflow within a step, and back: the outcome does not depend on rounding.
UP, DOWN, SAME = 0, 1, 2
HUGE: dict[str, Any] = {"lr_factors": (1e154, 1e-156, 1.0), "lr_bounds": (1e-4, 1e154)}


@pytest.mark.parametrize(
    "score, initial_states, num_snapshots",
    [
        ("accuracy", "random_inits", 3),
        ("neg_log_loss", "random_inits", 1),
        ("neg_log_loss", "zeros", 3),
        ("accuracy", "zeros", 1),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_divergence_follows_the_oracle(score: str, initial_states: str, num_snapshots: int, kept: bool):
    def act(factor: int, rewind: int = 0) -> int:
        return rewind * 3 + factor

    reinit, stop, far = 3 * num_snapshots, 3 * num_snapshots + 1, num_snapshots - 1
    script = [act(SAME), act(SAME), act(UP)]  # diverges
    script += [act(DOWN), act(SAME)]  # skipped updates
    script += [act(SAME, min(1, far)), act(SAME)]  # back
    script += [act(UP), act(DOWN, far), act(SAME, far), act(SAME)]  # diverges, back, back
    script += [act(UP), act(UP, far), act(UP, far), act(DOWN, far)]  # diverges at once
    script += [act(UP, far), act(DOWN, far), act(SAME, far)]  # until nothing is left
    script += [reinit, act(SAME), act(UP), reinit, act(DOWN), reinit, act(UP), act(DOWN), stop]
    settings = SETTINGS | HUGE | {"num_snapshots": num_snapshots, "score": score}
    settings |= {"initial_states": initial_states, "keep_before_divergence": kept}
    task = replace(TASK, initial_learning_rate=0.05, optimizer=SGD(weight_decay=0.01), budget=4 * 100)
    plan = replace(PLAN, optimizer=lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.01))
    env, oracle = AutoTrainEnv(**settings), Reference(4, **settings)
    infos = check_play(env, oracle, task, plan, seed=4, script=script)
    diverged = [info["diverged"] for info in infos]
    assert diverged[:5] == [False, False, True, True, True] and not all(diverged[5:])
    assert infos[-1]["test_accuracy"] == 0.1 and infos[-1]["test_loss"] == pytest.approx(np.log(10))


def test_the_last_update_may_diverge():
    """One update per step: its loss is finite still, and so are the weights, but not the logits."""

    def deep_and_linear() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, 9), nn.Linear(9, 10))

    settings = SETTINGS | HUGE | {"inner_steps": 1, "history_length": 1}
    task = replace(TASK, initial_learning_rate=0.05, optimizer="sgd", classifier=deep_and_linear, budget=6)
    plan = Plan(reference.user(deep_and_linear), OPTIMIZERS["sgd"])
    env, oracle = AutoTrainEnv(**settings), Reference(0, **settings)
    infos = check_play(env, oracle, task, plan, script=[SAME, UP, DOWN, 3 + SAME, SAME, SAME])
    assert [info["diverged"] for info in infos[:6]] == [False, True, True, False, False, False]
    assert np.isfinite(env.core.history.of(0)["score"]).all()


# --- lanes of a vector environment ---

NAMES: dict[str, tuple[Any, Any]] = {
    "linear": ("linear", reference.mlp()),
    "mlp": (MLP((9,)), reference.mlp(9)),
    "deeper": (MLP((8, 6)), reference.mlp(8, 6)),
    "cnn": (CNN((3, 4)), reference.cnn(3, 4)),
}
DRAWN = TaskDistribution(
    dataset=Choice(("digits",)),
    train_size=Choice((48, 60)),
    holdout_size=30,
    validation_size=30,
    label_noise=Choice((0.0, 0.3)),
    classifier=Choice(tuple(classifier for classifier, _ in NAMES.values())),
    optimizer=Choice(tuple(OPTIMIZERS)),
    batch_size=Choice((9, 16)),
    initial_learning_rate=LogUniform(0.01, 0.09),
    initialization=Choice(("orthogonal", "kaiming_normal")),
    budget=Choice((24, 40)),
)


def drawn_plan(task: Task) -> Plan:
    classifiers = {Task(classifier=ours).classifier: theirs for ours, theirs in NAMES.values()}
    optimizers = {Task(optimizer=name).optimizer: make for name, make in OPTIMIZERS.items()}
    return Plan(classifiers[task.classifier], optimizers[task.optimizer])


@pytest.mark.parametrize("score", [pytest.param("accuracy", marks=pytest.mark.slow), "neg_log_loss"])
def test_every_lane_with_its_own_tasks_follows_the_oracle(score: str):
    """Tasks of every kind, drawn by the environment; more than two episodes in every lane."""
    settings = SETTINGS | {"score": score}
    lanes, seed = 5, 20
    env = AutoTrainVectorEnv(lanes, autoreset_mode="SameStep", tasks=DRAWN, **settings)
    oracles = [Reference(seed + lane, **settings) for lane in range(lanes)]
    generators = [np.random.default_rng(lane) for lane in range(lanes)]
    observations, info = env.reset(seed=seed)
    for lane, oracle in enumerate(oracles):
        oracle.reset(DRAWN.sample, drawn_plan)
        assert env.core.task(lane) == oracle.task
        assert_same(observations[lane], of_lane(info, lane), oracle)
    episodes = np.ones(lanes, int)
    while episodes.min() < 3:
        actions = [random_action(*both) for both in zip(generators, oracles, strict=True)]
        observations, rewards, terminated, truncated, info = env.step(np.array(actions))
        for lane, oracle in enumerate(oracles):
            oracle.step(actions[lane])
            assert rewards[lane] == pytest.approx(oracle.improvement, abs=1e-9)
            assert (terminated[lane], truncated[lane]) == (oracle.terminated, oracle.truncated)
            if oracle.terminated:
                assert_same(info["final_obs"][lane], of_lane(info["final_info"], lane), oracle)
                oracle.reset(DRAWN.sample, drawn_plan)
                episodes[lane] += 1
            assert_same(observations[lane], of_lane(info, lane), oracle)
            assert_same_weights(env.core.stacks.weights_of(lane), oracle, 1e-9)


def of_lane(info: dict[str, Any], lane: int) -> dict[str, Any]:
    values = {name: value for name, value in info.items() if not name.startswith(("_", "final"))}
    assert all(info[f"_{name}"][lane] for name in values)
    return {name: value[lane] for name, value in values.items() if not isinstance(value, dict)}


# --- float32, and the defaults ---


@pytest.mark.parametrize("classifier", ["linear", "mlp", "mlp-64-32", "cnn"])
def test_the_first_observation_in_float32(classifier: str):
    networks = {
        "linear": reference.mlp(),
        "mlp": reference.mlp(32),
        "mlp-64-32": reference.mlp(64, 32),
        "cnn": reference.cnn(16, 32),
    }
    for seed in range(3):
        task = replace(Task(split_seed=seed), classifier=classifier)
        env, oracle = AutoTrainEnv(), Reference(seed)
        observation, info = env.reset(seed=seed, options={"task": task})
        oracle.reset(task, Plan(networks[classifier]))
        assert_same(observation, info, oracle, 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_few_steps_in_float32(optimizer: str):
    settings = SETTINGS | {"dtype": "float32"}
    task = replace(TASK, initial_learning_rate=0.01, optimizer=optimizer)
    plan = replace(PLAN, optimizer=OPTIMIZERS[optimizer])
    env, oracle = AutoTrainEnv(**settings), Reference(1, **settings)
    check_play(env, oracle, task, plan, seed=1, tolerance=1e-4, max_steps=4)


def test_the_default_environment_follows_the_oracle_for_a_whole_episode():
    """AutoTrain-v0 as it is, but in float64: digits, 30 steps of 20 updates."""
    env, oracle = AutoTrainEnv(dtype="float64"), Reference(0, dtype="float64")
    infos = check_play(env, oracle, Task(initial_learning_rate=0.2), Plan(), episodes=1, seed=0)
    assert infos[-1]["updates"] > 100


# --- the oracle itself ---


def test_the_oracle_would_notice():
    """A few wrong environments: none of them passes for the right one."""
    settings = dict(SETTINGS)
    for wrong in (
        {"lr_factors": (0.2, 0.8, 1.0, 1.2, 1.9)},
        {"thresholdout_sigma": 0.011},
        {"initial_states": "zeros"},
        {"score": "neg_log_loss"},
        {"reward_split": "holdout"},
    ):
        with pytest.raises(AssertionError):
            check_play(AutoTrainEnv(**settings | wrong), Reference(0, **settings), TASK, PLAN, episodes=1)
    for other in (
        replace(PLAN, optimizer=OPTIMIZERS["nesterov"]),
        replace(PLAN, max_grad_norm=1.0),
    ):
        with pytest.raises(AssertionError):
            check_play(AutoTrainEnv(**settings), Reference(0, **settings), TASK, other, episodes=1)
