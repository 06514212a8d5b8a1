"""The table of algorithms: each trains, and its policy acts alike without the library that trained it."""

from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.commands.train import STARTABLE
from agents.training.algorithms import ALGORITHMS, TRAINABLE, Algorithm, check_action_space, find_algorithm
from agents.training.export import export_policy
from agents.training.hyperparameters import HYPERPARAMETERS, load_hyperparameters
from agents.training.models import action_bias, make_model
from autotrain_env import ENVIRONMENTS, AutoTrainConfig
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.policies.trained import load_policy
from autotrain_env.process.observations import METRIC_SETS
from tests.helpers import tiny
from tests.helpers.policies import SHORT, assert_alike, found_by_evolution, untrained

DISCRETE, BOX = "AutoTrain-v0", "AutoTrainContinuous-v0"
USUAL = [(name, algorithm.env_id) for name, algorithm in ALGORITHMS.items()] + [("ppo", BOX)]
"""Every algorithm once, and every kind of head."""
RARE = [(name, BOX) for name in ("a2c", "recurrent_ppo", "trpo", "ars")]
CASES = [
    pytest.param(*case, marks=[pytest.mark.xdist_group(f"{case}"), *marks])
    for cases, marks in ((USUAL, []), (RARE, [pytest.mark.slow]))
    for case in cases
]
Trained = Callable[[str, str], BaseAlgorithm]


@pytest.fixture(scope="session")
def trained() -> Trained:
    """Gives models that were trained for 40 env steps, each trained once."""
    models: dict[tuple[str, str], BaseAlgorithm] = {}

    def get(name: str, env_id: str) -> BaseAlgorithm:
        if (name, env_id) not in models:
            models[name, env_id] = untrained(name, env_id).learn(40)
        return models[name, env_id]

    return get


@pytest.mark.parametrize(("name", "env_id"), CASES)
def test_the_policy_acts_as_the_model_does(name: str, env_id: str, trained: Trained, tmp_path: Path):
    assert_alike(trained(name, env_id), env_id, tmp_path)


@pytest.mark.parametrize(("name", "env_id"), CASES)
def test_training_changes_the_policy(name: str, env_id: str, trained: Trained):
    before = export_policy(untrained(name, env_id)).network.state_dict()
    after = export_policy(trained(name, env_id)).network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "env_id", "layout"),
    [
        ("ppo", DISCRETE, "flat"),
        ("ppo", BOX, "stacked"),
        ("maskable_ppo", DISCRETE, "stacked"),
        ("maskable_ppo", "AutoTrainRuns-v0", "flat"),
        ("recurrent_ppo", DISCRETE, "flat"),
        ("dqn", DISCRETE, "stacked"),
        ("qrdqn", DISCRETE, "flat"),
        ("sac", BOX, "stacked"),
        ("td3", BOX, "flat"),
    ],
)
def test_attention_over_states_is_exported_too(name: str, env_id: str, layout: str, tmp_path: Path):
    model = untrained(name, env_id, layout, extractor="attention")
    assert_alike(model, env_id, tmp_path, varied=False)
    described = load_policy(tmp_path).spec.layers[1]
    config = model.get_env().get_attr("config")[0]
    shape = {"rows": config.num_snapshots, "windows": config.history_length}
    if config.metrics != "basic":
        shape["metrics"] = len(METRIC_SETS[config.metrics])
    assert described == {"type": "state_attention", **shape, "width": 32, "heads": 4}


def test_an_unknown_extractor_names_the_nearest():
    with pytest.raises(ValueError, match="extractor='atention'.*'attention'"):
        untrained("ppo", DISCRETE, extractor="atention")


def test_attention_gives_the_very_logits_of_the_model():
    model = untrained("ppo", DISCRETE, extractor="attention").learn(40)
    network = export_policy(model).network
    space = model.observation_space
    observation = torch.rand(6, *space.shape) * 2 - 1
    with torch.no_grad():
        expected = model.policy.get_distribution(observation).distribution.logits
        found = network(observation, None)[0].log_softmax(1)
        others = network(torch.zeros_like(observation), None)[0].log_softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (others - found).abs().max() > 1e-3


@pytest.mark.parametrize(("name", "hidden"), [*((name, (5, 4)) for name in STARTABLE), ("ppo", ())])
def test_a_model_begins_as_another_policy(name: str, hidden: tuple[int, ...]):
    env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
    policy = found_by_evolution(env, hidden)
    hyperparameters = load_hyperparameters(name, "AutoTrain-v0") | SHORT[name]
    model = make_model(name, env, hyperparameters, 1, policy)
    observation = torch.rand(6, *env.observation_space.shape) * 2 - 1
    with torch.no_grad():
        found = model.policy.get_distribution(observation).distribution.logits
        expected = policy.network(observation, None)[0].log_softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    fresh = make_model(name, env, hyperparameters, 1)
    critics = [str(each.policy.mlp_extractor.value_net) for each in (model, fresh)]
    assert critics[0] == critics[1]  # that of the hyperparameters
    model.learn(40)
    after = export_policy(model)
    weights = policy.network.state_dict()
    for layer, tensor in after.network.state_dict().items():
        moments = layer.endswith((".mean", ".deviation"))
        assert torch.equal(tensor, weights[layer]) == moments, layer


def test_a_model_begins_with_the_odds_of_another_policy_made_more_even():
    env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
    policy = found_by_evolution(env, (5, 4))
    known = load_hyperparameters("ppo", "AutoTrain-v0") | SHORT["ppo"]
    model = make_model("ppo", env, known, 1, policy, start_temperature=2.5)
    observation = torch.rand(6, *env.observation_space.shape) * 2 - 1
    with torch.no_grad():
        found = model.policy.get_distribution(observation).distribution.logits
        expected = (policy.network(observation, None)[0] / 2.5).log_softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="start_temperature=0 is not allowed: it must be greater than 0"):
        make_model("ppo", env, known, 1, policy, start_temperature=0)
    with pytest.raises(ValueError, match=r"start_temperature=2.5 .* 1 without start_from, or where"):
        make_model("ppo", env, known, 1, start_temperature=2.5)
    env = make_sb3_env("AutoTrainContinuous-v0", 2, **tiny(observation_layout="flat"))
    with pytest.raises(ValueError, match=r"start_temperature=2.5 .* where actions are not discrete"):
        make_model("ppo", env, known, 1, found_by_evolution(env, (5, 4)), start_temperature=2.5)
    with pytest.raises(ValueError, match="critic_steps=8 .* 0 but for ppo, a2c, maskable_ppo"):
        make_model("trpo", env, load_hyperparameters("trpo", "AutoTrain-v0"), 1, critic_steps=8)


def test_policies_that_a_model_cannot_begin_as_are_refused():
    env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
    hyperparameters = load_hyperparameters("ppo", "AutoTrain-v0")
    with pytest.raises(ValueError, match=r"start_from=.a policy of .*'gru'.*made as the model"):
        make_model("ppo", env, hyperparameters, 0, found_by_evolution(env, (), recurrent=3))
    with pytest.raises(ValueError, match="extractor='attention'.*flat with start_from"):
        make_model("ppo", env, hyperparameters | {"extractor": "attention"}, 0, found_by_evolution(env, ()))
    other = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat", stop=False))
    with pytest.raises(ValueError, match=r"start_from=.a policy with action_space Discrete\(\d+\)"):
        make_model("ppo", other, hyperparameters, 0, found_by_evolution(env, ()))


@pytest.mark.xdist_group(f"{('ppo', DISCRETE)}")
def test_drawn_actions_follow_the_models_distribution(trained: Trained):
    model = trained("ppo", DISCRETE)
    policy = export_policy(model)
    observation = np.full((1, *model.observation_space.shape), 0.3, np.float32)
    repeated = np.repeat(observation, 4000, axis=0)
    counts = np.bincount(policy.predict(repeated, deterministic=False)[0], minlength=17) / 4000
    with torch.no_grad():
        wanted = model.policy.get_distribution(torch.from_numpy(observation)).distribution.probs[0].numpy()
    assert np.abs(counts - wanted).max() < 5 * np.sqrt(0.25 / 4000)
    policy.seed(3)
    first = policy.predict(repeated, deterministic=False)[0]
    policy.seed(3)
    np.testing.assert_array_equal(first, policy.predict(repeated, deterministic=False)[0])


@pytest.mark.xdist_group(f"{('dqn', DISCRETE)}")
def test_drawn_values_explore_as_often_as_they_are_to(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    model = trained("dqn", DISCRETE)
    monkeypatch.setattr(model, "exploration_rate", 0.5)
    policy = export_policy(model)
    observation = np.full((4000, *model.observation_space.shape), 0.3, np.float32)
    mask = np.zeros((4000, 17), bool)
    mask[:, 3:7] = True
    best = policy.predict(observation[0], mask[0])[0]
    actions = policy.predict(observation, mask, deterministic=False)[0]
    assert set(actions) == {3, 4, 5, 6}
    assert abs((actions == best).mean() - (0.5 + 0.5 / 4)) < 0.05


@pytest.mark.parametrize("name", ALGORITHMS)
def test_shipped_hyperparameters(name: str):
    """Whole episodes count, so gamma is 1; every id that an algorithm can act in has an entry."""
    for env_id, kwargs in ENVIRONMENTS.items():
        kind = "Box" if kwargs.get("action_type") == "continuous" else "Discrete"
        if kind in ALGORITHMS[name].actions:
            entry = load_hyperparameters(name, env_id)
            assert entry.get("gamma", 1.0 if name == "ars" else None) == 1.0
            assert entry["n_timesteps"] > 0 and entry["n_envs"] > 0
        else:
            with pytest.raises(ValueError, match=f"{name}.yml has no entry for {env_id}"):
                load_hyperparameters(name, env_id)
    assert {path.stem for path in HYPERPARAMETERS.glob("*")} == set(TRAINABLE)


def test_initial_logits_follow_the_action_table():
    bias = action_bias(AutoTrainConfig())
    assert bias.tolist() == [0.0] * 5 + [-1.5] * 15 + [-3.0, -4.0]
    assert len(action_bias(AutoTrainConfig(num_rewinds=1, stop=False))) == 6
    for name in ("ppo", "a2c", "trpo", "maskable_ppo", "recurrent_ppo"):
        env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
        model = make_model(name, env, load_hyperparameters(name, "AutoTrain-v0"))
        last = model.policy.action_net.bias.detach().numpy()
        np.testing.assert_array_equal(last, action_bias(env.get_attr("config")[0]))


def test_initial_logits_that_keep_to_a_rate():
    config = AutoTrainConfig(lr_factors=(0.1, 1, 10), num_rewinds=2, stop=False)
    bias = action_bias(config, rewind_bias=-3, lr_factor_bias=-2)
    assert bias.tolist() == [-2.0, 0.0, -2.0, -5.0, -3.0, -5.0, -3.0]
    env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
    known = load_hyperparameters("ppo", "AutoTrain-v0")
    model = make_model("ppo", env, known, rewind_bias=-3, lr_factor_bias=-2)
    last = model.policy.action_net.bias.detach().numpy()
    np.testing.assert_array_equal(last, action_bias(env.get_attr("config")[0], -3, -2))


def test_an_unknown_algorithm():
    with pytest.raises(ValueError, match="algorithm='pppo'.*nearest known one is 'ppo'"):
        find_algorithm("pppo")


@pytest.mark.parametrize(
    ("algorithm", "env_id", "able"),
    [("sac", "AutoTrain-v0", "ppo, a2c, dqn"), ("dqn", "AutoTrainContinuous-v0", "ppo, a2c, sac, td3")],
)
def test_an_algorithm_that_cannot_act(algorithm: str, env_id: str, able: str):
    space = gymnasium.make(env_id).action_space
    with pytest.raises(
        ValueError, match=f"'{algorithm}' cannot act in {env_id}.*Algorithms that can: {able}"
    ):
        check_action_space(ALGORITHMS[algorithm], space, env_id)


def test_a_network_of_another_kind_is_refused():
    env = make_sb3_env("AutoTrain-v0", 2, **tiny(observation_layout="flat"))
    kwargs = {"net_arch": [8], "activation_fn": torch.nn.ELU}
    model = make_model("ppo", env, load_hyperparameters("ppo", "AutoTrain-v0"), policy_kwargs=kwargs)
    with pytest.raises(ValueError, match="ELU.*cannot be exported"):
        export_policy(model)


def test_the_table_names_classes_that_are_there():
    for algorithm in ALGORITHMS.values():
        assert isinstance(algorithm, Algorithm) and issubclass(algorithm.model_class, BaseAlgorithm)
