"""Policies in tests: models of Stable-Baselines3, trained shortly, and the same policies without it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS, MaskablePPO, RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.training.export import export_policy
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.stacked import make_spec, policy_layout, single_policy
from autotrain_env.policies.trained import TrainedPolicy, load_policy
from tests.helpers import tiny

# Enough to have been updated once.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"n_steps": 8, "batch_size": 16} for name in ("ppo", "maskable_ppo", "trpo")},
    **{name: {"learning_starts": 8, "batch_size": 8} for name in ("dqn", "qrdqn", "sac", "td3")},
    "recurrent_ppo": {"n_steps": 8, "batch_size": 16, "n_epochs": 2},
    "a2c": {"n_steps": 8},
    "ars": {"n_delta": 2, "n_top": 1, "n_eval_episodes": 2},
}


def untrained(name: str, env_id: str, layout: str = "flat", **replaced: Any) -> BaseAlgorithm:
    """A model in a small environment, with hyperparameters for a short training."""
    env = make_sb3_env(env_id, 2, **tiny(observation_layout=layout))
    return make_model(name, env, load_hyperparameters(name, env_id), seed=1, **SHORT[name] | replaced)


def found_by_evolution(env: Any, hidden: tuple[int, ...], **more: Any) -> TrainedPolicy:
    """A policy such as `train es` finds: normalised observations, linear layers."""
    spec = make_spec(env.observation_space, env.action_space, hidden, **more)
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(policy_layout(spec).size, generator=generator)
    seen = np.random.default_rng(0).normal(0.3, 2, (50, *env.observation_space.shape))
    return single_policy(spec, parameters, Moments.of(seen))


def assert_alike(model: BaseAlgorithm, env_id: str, folder: Path, varied: bool = True) -> None:
    """A model's policy, exported to a folder and loaded again, takes the actions of the model."""
    export_policy(model, {"id": env_id, "kwargs": {}}).save(folder)
    policy = load_policy(folder)
    assert policy.spec.environment == {"id": env_id, "kwargs": {}}
    generator = np.random.default_rng(0)
    space = model.observation_space
    state, other_state, differ = None, None, set()
    for step in range(20):
        observation = generator.uniform(space.low, space.high, (2, *space.shape)).astype(np.float32)
        starts = np.array([step % 5 == 0, step == 7])
        kwargs: dict[str, Any] = {}
        mask = None
        if isinstance(model, MaskablePPO):
            mask = generator.random((2, model.action_space.n)) < 0.5
            mask[:, 0] = True
            kwargs["action_masks"] = mask
        if isinstance(model, RecurrentPPO):
            kwargs |= {"state": other_state, "episode_start": starts}
        expected, next_state = model.predict(observation, deterministic=True, **kwargs)
        actions, state = policy.predict(observation, mask, state, starts)
        other_state = next_state
        np.testing.assert_allclose(actions, expected, atol=1e-6)
        assert actions.dtype == (np.float32 if "Continuous" in env_id else np.int64)
        differ.add(actions.tobytes())
    if varied and not isinstance(model, ARS):  # which may still prefer one action whatever it sees
        assert len(differ) > 1
