"""Many policies at once: policy i of a stack is the single policy i."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from autotrain_env import AutoTrainVectorEnv, Situation
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.stacked import StackedPolicies, make_spec, policy_layout, single_policy
from autotrain_env.policies.trained import load_policy
from tests.helpers import spaces_of, tiny

KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": (6, 5)},
    "gru": {"recurrent": 4},
    "gru_mlp": {"recurrent": 4, "hidden": (3,)},
    "plain": {"hidden": (4,), "normalize": False},
    "masked": {"hidden": (4,), "masked": True},
}
everywhere = pytest.mark.parametrize("kind", KINDS)


def make_env(count: int, env_id: str = "AutoTrain-v0", **more: Any) -> AutoTrainVectorEnv:
    kwargs = tiny(observation_layout="flat", **more)
    env = gymnasium.make_vec(env_id, num_envs=count, autoreset_mode="Disabled", **kwargs)
    assert isinstance(env.unwrapped, AutoTrainVectorEnv)
    return env.unwrapped


def some(spec: PolicySpec, count: int, seed: int = 0) -> tuple[Tensor, Moments]:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(count, policy_layout(spec).size, generator=generator)
    size = int(np.prod(spec.observation_space.shape))
    return parameters, Moments.of(np.random.default_rng(seed).normal(0.3, 2, (50, size)))


def play(stack: StackedPolicies, env: AutoTrainVectorEnv, seeds: list[int]) -> dict[str, np.ndarray]:
    """Every policy plays the episodes of all seeds."""
    return evaluate_policy(env, stack, len(seeds) * stack.count, np.repeat(seeds, stack.count).tolist())


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], episodes: Any) -> None:
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name][episodes], values, err_msg=name)


@everywhere
@pytest.mark.parametrize("env_id", ["AutoTrain-v0", "AutoTrainContinuous-v0"])
def test_policy_i_of_a_stack_is_the_single_policy_i(kind: str, env_id: str):
    if kind == "masked" and env_id != "AutoTrain-v0":
        pytest.skip("continuous actions have no masks")
    env = make_env(5, env_id)
    spec = make_spec(*spaces_of(env), **KINDS[kind])
    parameters, moments = some(spec, 5)
    results = play(StackedPolicies(spec, parameters, moments, block_size=3), env, [7, 8])
    for i in range(5):
        alone = evaluate_policy(make_env(1, env_id), single_policy(spec, parameters[i], moments), 2, [7, 8])
        for name in ("score", "updates", "learning_rate", "rewinds", "stopped", "initial_train_score"):
            np.testing.assert_allclose(results[name][[i, i + 5]], alone[name], rtol=1e-5, err_msg=name)
    assert len(np.unique(results["learning_rate"])) > 2  # they are not all alike


@everywhere
def test_what_a_policy_does_depends_on_its_block_alone(kind: str):
    spec = make_spec(*spaces_of(make_env(1)), **KINDS[kind])
    parameters, moments = some(spec, 6)
    together = StackedPolicies(spec, parameters, moments, block_size=2)
    results = play(together, make_env(6), [1, 2])
    for block in range(3):
        members = slice(2 * block, 2 * block + 2)
        apart = StackedPolicies(spec, parameters[members], moments, block_size=2)
        assert_same(
            results,
            play(apart, make_env(2), [1, 2]),
            [2 * block, 2 * block + 1, 2 * block + 6, 2 * block + 7],
        )
        assert_moments_equal(apart.moments[0], together.moments[block])
    padded = StackedPolicies(spec, parameters[4:5], moments, block_size=2)
    assert_same(results, play(padded, make_env(1), [1, 2]), [4, 10])


def assert_moments_equal(first: Moments, second: Moments) -> None:
    assert first.count == second.count > 0
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.squares, second.squares)


def test_moments_are_those_of_every_observation_that_was_decided_on():
    env = make_env(3)
    spec = make_spec(*spaces_of(env))
    parameters, moments = some(spec, 3)
    seen: list[np.ndarray] = []

    class Spy(StackedPolicies):
        def decide(self, situation: Situation) -> Any:
            seen.append(situation.observation[situation.running].copy())
            return super().decide(situation)

    stack = Spy(spec, parameters, moments, block_size=2)
    results = play(stack, env, [1, 2])
    pooled = Moments.of(np.concatenate(seen))
    merged = stack.moments[0].merge(stack.moments[1])
    assert merged.count == pooled.count == results["steps"].sum()
    np.testing.assert_allclose(merged.mean, pooled.mean, atol=1e-9)
    np.testing.assert_allclose(merged.squares, pooled.squares, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("env_id", ["AutoTrain-v0", "AutoTrainContinuous-v0"])
def test_drawn_actions_are_common_random_numbers(env_id: str):
    env = make_env(4, env_id)
    spec = make_spec(*spaces_of(env), sampled=True)
    parameters, moments = some(spec, 1)
    equal = (parameters * 0.1).expand(4, -1)
    results = [
        play(StackedPolicies(spec, equal, moments, 2, deterministic=False, generation=g), env, [3, 3])
        for g in (0, 0, 1)
    ]
    for name in ("learning_rate", "score"):
        assert len(np.unique(results[0][name][:4])) == 1  # equal policies act alike
        np.testing.assert_array_equal(results[0][name], results[1][name])
    rates = [result["learning_rate"] for result in results]  # scores may tie by chance
    assert (rates[0][:4] != rates[0][4:]).all()  # not so in the second episode
    assert (rates[0] != rates[2]).any()  # nor in the next generation


def test_frequencies_of_drawn_actions_are_those_of_the_softmax():
    env = make_env(1)
    spec = make_spec(*spaces_of(env), normalize=False)
    stack = StackedPolicies(spec, torch.zeros(1, policy_layout(spec).size), Moments.empty(1), 1)
    logits = torch.log(torch.arange(1.0, spec.num_actions + 1))[None]
    counts = np.zeros(spec.num_actions)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        counts[stack._act(0, logits, None, torch.rand(logits.shape, generator=generator))] += 1
    wanted = np.arange(1, spec.num_actions + 1) / np.arange(1, spec.num_actions + 1).sum()
    assert np.abs(counts / 4000 - wanted).max() < 4 * np.sqrt(0.25 / 4000)


def test_single_policies_are_saved_with_their_normalisation(tmp_path: Any):
    env = make_env(1)
    spec = make_spec(*spaces_of(env), (4,), recurrent=3)
    parameters, moments = some(spec, 1)
    policy = single_policy(spec, parameters[0], moments)
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    observation, _ = env.reset(seed=0)
    first, second = policy.predict(observation), loaded.predict(observation)
    assert first[0] == second[0] and first[1] is not None and second[1] is not None
    np.testing.assert_array_equal(first[1][0], second[1][0])
    assert len(first[1]) == 1  # a GRU has no cell


def test_mistakes_are_named():
    env = make_env(2)
    spec = make_spec(*spaces_of(env), (4,))
    parameters, moments = some(spec, 2)
    with pytest.raises(ValueError, match=r"parameters=\(2, 3\)"):
        StackedPolicies(spec, parameters[:, :3], moments)
    with pytest.raises(ValueError, match="block_size=0"):
        StackedPolicies(spec, parameters, moments, 0)
    with pytest.raises(ValueError, match="env.num_envs=2.*3, one for each"):
        play(StackedPolicies(spec, parameters[[0, 1, 0]], moments), env, [0])
    with pytest.raises(ValueError, match="env.action_space"):
        play(StackedPolicies(spec, parameters, moments), make_env(2, stop=False), [0])
    with pytest.raises(ValueError, match="masked=True.*continuous"):
        make_spec(*spaces_of(make_env(1, "AutoTrainContinuous-v0")), masked=True)
    with pytest.raises(ValueError, match="width of a layer=0"):
        make_spec(*spaces_of(env), (0,))
    attention = {"type": "state_attention", "rows": 1, "windows": 1, "width": 4, "heads": 1}
    strange = make_spec(*spaces_of(env))
    object.__setattr__(strange, "layers", [attention])
    with pytest.raises(ValueError, match="layer='state_attention'.*to be stacked"):
        StackedPolicies(strange, parameters, moments)
