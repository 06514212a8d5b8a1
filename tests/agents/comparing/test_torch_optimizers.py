"""Optimisers of torch's interface on the environment's own networks, data and minibatches."""

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.comparing import torch_optimizers
from agents.comparing.torch_optimizers import (
    TORCH_OPTIMIZERS,
    HypergradientSGD,
    TorchOptimizer,
    run_optimizer,
    tune_optimizer,
)
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env import AutoTrainVectorEnv
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.schedules import Constant
from tests.helpers.comparing import make_env, silent


def test_plain_sgd_makes_the_very_runs_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    sgd = TorchOptimizer(lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9), (0.05,))
    monkeypatch.setitem(torch_optimizers.TORCH_OPTIMIZERS, "sgd", sgd)
    found = run_optimizer(make_env(1), "sgd", 0.05, 4, DEVELOPMENT_SEED, silent)
    expected = evaluate_policy(make_env(4), Constant(0.05), 4, DEVELOPMENT_SEED, history=True)
    for name in ("initial_train_score", "updates"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("test_accuracy", "best_holdout_test_accuracy", "score", "train_score"):
        np.testing.assert_allclose(found[name], expected[name], atol=0.02, err_msg=name)
    for mine, theirs in zip(found["history"], expected["history"], strict=True):
        np.testing.assert_array_equal(mine["updates"], theirs["updates"])
        np.testing.assert_allclose(mine["score"], theirs["score"], atol=0.04)


@pytest.mark.parametrize("name", TORCH_OPTIMIZERS)
def test_every_optimizer_learns(name: str):
    rate = 0.05 if name != "prodigy" else 1.0
    env = make_env(1, budget=120)
    results = run_optimizer(env, name, rate, 3, DEVELOPMENT_SEED, silent)
    assert results["test_accuracy"].mean() > 0.4 > results["initial_train_score"].mean()


def test_the_rate_is_tuned_by_validation(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(
        torch_optimizers.TORCH_OPTIMIZERS,
        "hypergradient",
        TorchOptimizer(HypergradientSGD, (1e-5, 0.05)),
    )
    assert tune_optimizer(make_env(1), "hypergradient", 2, silent) == (0.05, 2 * 2 * 40)
    assert tune_optimizer(make_env(1), "prodigy", 2, silent) == (1.0, 0)


@pytest.mark.parametrize(("start", "rises"), [(1e-3, True), (0.45, False)])
def test_the_hypergradient_raises_a_low_rate_and_lowers_a_high_one(start: float, rises: bool):
    """On x²/2 · 10, where the iteration with Nesterov's momentum overshoots at high rates."""
    x = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = HypergradientSGD([x], start)
    for _ in range(5):
        optimizer.zero_grad()
        (5 * x.square()).sum().backward()
        optimizer.step()
    assert (optimizer.param_groups[0]["lr"] > start) == rises


def test_a_diverged_network_counts_as_guessing():
    env = AutoTrainVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, budget=40, lr_bounds=(1e-3, 1e30))
    results = run_optimizer(env, "schedulefree", 1e30, 1, DEVELOPMENT_SEED, silent)
    assert results["test_accuracy"].tolist() == [0.1]
    with pytest.raises(ValueError, match="num_envs=2"):
        run_optimizer(make_env(2), "prodigy", 1.0, 1, DEVELOPMENT_SEED, silent)


@pytest.mark.gpu
def test_optimizers_train_on_the_environments_device():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    here, there = (
        run_optimizer(make_env(1, budget=120, device=device), "prodigy", 1.0, 2, DEVELOPMENT_SEED, silent)
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there["test_accuracy"], here["test_accuracy"], atol=0.05)
