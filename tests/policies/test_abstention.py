"""Abstention: far from what it was trained on, a policy leaves the decision to one action."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env import AutoTrainVectorEnv, Decisions, Situation
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.layers import Familiarity
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.stacked import StackedPolicies, make_spec, policy_layout
from autotrain_env.policies.trained import DIVERGED, TrainedPolicy, load_policy
from tests.helpers import tiny

KEEP, LOWER = 3, 0


def make_env(num_envs: int = 4) -> Any:
    kwargs = tiny(observation_layout="flat", budget=40, num_snapshots=2)
    return make_evaluation_env("AutoTrainRuns-v0", num_envs, **kwargs)


def spec_of(env: Any, distance: float | None) -> PolicySpec:
    spec = make_spec(env.single_observation_space, env.single_action_space, (4,), masked=True)
    abstention = None if distance is None else {"distance": distance, "action": KEEP}
    return dataclasses.replace(spec, abstention=abstention)


def lowering(env: Any, distance: float | None) -> TrainedPolicy:
    """Lowers the rate whatever it sees, and was trained on normal numbers of mean 0 and variance 1."""
    spec = spec_of(env, distance)
    size = env.single_observation_space.shape[0]
    weights = {
        "layers.1.mean": torch.zeros(size),
        "layers.1.deviation": torch.ones(size),
        "layers.2.weight": torch.zeros(4, size),
        "layers.2.bias": torch.zeros(4),
        "layers.4.weight": torch.zeros(spec.num_actions, 4),
        "layers.4.bias": torch.eye(spec.num_actions)[LOWER],
    }
    if distance is not None:
        weights |= {"familiarity.mean": torch.zeros(size), "familiarity.whitening": torch.eye(size)}
    return TrainedPolicy(spec, weights)


class Watched:
    """Takes note of what a policy saw, and of which factors it chose."""

    def __init__(self, policy: TrainedPolicy) -> None:
        self.policy = policy
        self.factors: list[np.ndarray] = []
        self.distances: list[np.ndarray] = []

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        self.policy.reset(situation, lanes)

    def decide(self, situation: Situation) -> Decisions:
        decisions = self.policy.decide(situation)
        left = situation.steps_left[situation.running]
        line = (left - 0.5) / (left + 0.5)
        self.factors.append(decisions.lr_factor[situation.running] / line)
        seen = situation.observation[situation.running]
        self.distances.append(np.sqrt((seen.astype(float) ** 2).mean(1)))
        return decisions


def test_the_distance_is_that_of_mahalanobis() -> None:
    generator = np.random.default_rng(0)
    known = generator.normal(size=(5000, 6)) @ generator.normal(size=(6, 6)) + 3
    mean, covariance = known.mean(0), np.cov(known.T, bias=True)
    made = Familiarity.of(torch.from_numpy(mean), torch.from_numpy(covariance))
    others = generator.normal(size=(10, 6)) * 5
    inverse = np.linalg.inv(covariance + 0.01 * np.eye(6))
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", others - mean, inverse, others - mean) / 6)
    np.testing.assert_allclose(made(torch.from_numpy(others).float()).numpy(), wanted, rtol=1e-4)
    own = made(torch.from_numpy(known).float()).square().mean().sqrt()
    assert 0.9 < own < 1
    assert made(torch.full((1, 6), 100.0)) > 5


def test_far_from_what_it_knows_a_policy_takes_the_action_it_names() -> None:
    plain = Watched(lowering(make_env(), None))
    evaluate_policy(make_env(), plain, 4)
    np.testing.assert_allclose(np.concatenate(plain.factors), 0.1)
    middle = float(np.median(np.concatenate(plain.distances)))
    for distance in (1e-3, middle, 100.0):
        watched = Watched(lowering(make_env(), distance))
        evaluate_policy(make_env(), watched, 4)
        far = np.concatenate(watched.distances) > distance
        np.testing.assert_allclose(np.concatenate(watched.factors), np.where(far, 1.0, 0.1))
        assert far.all() == (distance < middle) and far.any() == (distance < 100)


def test_a_diverged_network_stays_the_policys_own_business() -> None:
    env = make_env()
    policy = lowering(env, 1e-3)
    env.reset(seed=0)
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    situation = vector_env.situation()
    rows = situation.rows.copy()
    rows[1, 0, -1, DIVERGED] = 1
    situation = dataclasses.replace(situation, rows=rows)
    policy.reset(situation, np.ones(4, bool))
    np.testing.assert_array_equal(policy.abstains(situation), [True, False, True, True])
    assert not lowering(env, None).abstains(situation).any()


def test_files_give_it_back(tmp_path: Path) -> None:
    policy = lowering(make_env(), 1.5)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.spec.abstention == {"distance": 1.5, "action": KEEP}
    assert "abstention" not in lowering(make_env(), None).spec.as_json()
    content = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps(content | {"abstention": {"distance": 1.5}}))
    with pytest.raises(InvalidValueError, match="abstention's entries.*with 'action'"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"abstention": {"distance": 0, "action": 1}}, "abstention's distance=0.*above 0"),
        ({"abstention": {"distance": 1, "action": 99}}, "abstention's action=99"),
        ({"abstention": {"distance": 1, "act": 9}}, "abstention's entries.*action and distance"),
        ({"normalize": False}, "first layer=.*normalize, for abstention"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    env = make_env()
    spaces = env.single_observation_space, env.single_action_space
    spec = make_spec(*spaces, (4,), normalize=change.get("normalize", True))
    with pytest.raises(InvalidValueError, match=message):
        dataclasses.replace(spec, abstention=change.get("abstention", {"distance": 1.0, "action": 1}))


def test_stacks_have_none() -> None:
    spec = spec_of(make_env(), 1.0)
    parameters = torch.zeros(2, policy_layout(spec).size)
    with pytest.raises(InvalidValueError, match="abstention=.*None, to be stacked"):
        StackedPolicies(spec, parameters, Moments.empty(spec.observation_space.shape[0]))
