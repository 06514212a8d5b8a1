"""Trained policies on networks that different backends compute."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from autotrain_env import evaluate_policy, load_policy
from autotrain_env.training.native import engine


@pytest.mark.slow
def test_a_policy_that_was_trained_before_behaves_alike_on_both_backends(monkeypatch: pytest.MonkeyPatch):
    """Trajectories part where products round differently; what comes out may not, on the whole."""
    accuracies, losses = [], []
    for backend in ("native", "torch"):
        if backend == "torch":
            monkeypatch.setattr(engine, "why_not_native", lambda *arguments: "the test wants torch")
        envs = gymnasium.make_vec(
            "AutoTrain-v0", num_envs=50, observation_layout="flat", autoreset_mode="Disabled"
        )
        results = evaluate_policy(envs, load_policy("many"), 200)
        assert envs.unwrapped.backends == ("native" if backend == "native" else "stacked",)
        accuracies.append(np.asarray(results["test_accuracy"]))
        losses.append(np.asarray(results["test_loss"]))
    assert (losses[0] != losses[1]).all()  # they were not computed alike to the last bit
    differences = accuracies[0] - accuracies[1]
    resampled = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert low <= 0 <= high and high - low < 0.02, (low, high)
