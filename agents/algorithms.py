"""The algorithms that agents are trained with, their hyperparameters, and how to get a policy out."""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from gymnasium import spaces
from sb3_contrib import ARS
from sb3_contrib.ars.policies import ARSPolicy
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.vec_env import AsyncEval
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from autotrain_env import AutoTrainConfig
from autotrain_env.errors import check, unknown_name
from autotrain_env.policies import Normalize, PolicySpec, StateAttention, TrainedPolicy

HYPERPARAMETERS = Path(__file__).with_name("hyperparams")

_RATES = ("learning_rate", "clip_range")
_LINEAR = "lin_"  # before a rate that falls to 0 during training, as RL Baselines3 Zoo writes it

# Hyperparameters beside those of the algorithm's class, and what users do not give to that.
_OF_RUNS = ("n_envs", "n_timesteps")
_OF_THIS_PROJECT = ("extractor", "noise_type", "noise_std")
_NOT_GIVEN = ("env", "seed", "device", "_init_setup_model")

# The default reward, scaled so that value targets are of order 1.
REWARD = {"improvement": 5.0}

# An untrained policy that stops or re-initialises at random never sees the end of an episode.
REWIND_BIAS, REINIT_BIAS, STOP_BIAS = -1.5, -3.0, -4.0


@dataclass(frozen=True)
class Algorithm:
    """A row of the table.

    Args:
        name: As users write it.
        location: Module and class.
        actions: Kinds of action spaces that it can act in.
        env_id: The environment it is trained on where none is named.
    """

    name: str
    location: str
    actions: tuple[str, ...] = ("Discrete", "Box")
    env_id: str = "AutoTrain-v0"

    @property
    def model_class(self) -> Any:
        """The class of models; a subclass of `BaseAlgorithm`."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(module), name)


EXTRACTORS = ("flat", "attention")
"""How a network takes its observation: `flat` as it is, `attention` with a `StateAttention` before it."""


class AttentionExtractor(BaseFeaturesExtractor):
    """`StateAttention` as Stable-Baselines3 takes it.

    Args:
        observation_space: Flat or of shape (H, K, M).
        rows: States (H).
        windows: Samples of each metric (K).
        width: Numbers that stand for a state.
    """

    def __init__(self, observation_space: spaces.Box, rows: int, windows: int, width: int = 32) -> None:
        super().__init__(observation_space, rows * width)
        self.attention = StateAttention(rows, windows, width)

    def forward(self, observations: Tensor) -> Tensor:
        """Features, shape (n, H * width)."""
        return self.attention(observations)


class NormalizeExtractor(BaseFeaturesExtractor):
    """`Normalize` as Stable-Baselines3 takes it; its moments are those of another policy and stay so.

    Args:
        observation_space: Flat or of shape (H, K, M).
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        size = int(np.prod(observation_space.shape))
        super().__init__(observation_space, size)
        self.normalize = Normalize(size)

    def forward(self, observations: Tensor) -> Tensor:
        """Features, shape (n, H * K * M)."""
        return self.normalize(observations.flatten(1))


class ResumableARS(ARS):
    """ARS that tells its callback of a rollout's start before it draws candidates, for resuming there.

    It counts the env steps of each lane, too, where the original counts all lanes for every single one.
    """

    under_way = False

    def _do_one_update(self, callback: BaseCallback, async_eval: AsyncEval | None) -> None:
        callback.on_rollout_start()
        self.under_way = True
        super()._do_one_update(callback, async_eval)
        self.under_way = False

    def _trigger_callback(
        self, _locals: dict[str, Any], _globals: dict[str, Any], callback: BaseCallback, n_envs: int
    ) -> None:
        super()._trigger_callback(_locals, _globals, callback, n_envs=1)


_CONTINUOUS: dict[str, Any] = {"actions": ("Box",), "env_id": "AutoTrainContinuous-v0"}

ALGORITHMS = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("ppo", "stable_baselines3:PPO"),
        Algorithm("a2c", "stable_baselines3:A2C"),
        Algorithm("dqn", "stable_baselines3:DQN", ("Discrete",)),
        Algorithm("sac", "stable_baselines3:SAC", **_CONTINUOUS),
        Algorithm("td3", "stable_baselines3:TD3", **_CONTINUOUS),
        Algorithm("maskable_ppo", "sb3_contrib:MaskablePPO", ("Discrete",)),
        Algorithm("recurrent_ppo", "sb3_contrib:RecurrentPPO"),
        Algorithm("qrdqn", "sb3_contrib:QRDQN", ("Discrete",)),
        Algorithm("trpo", "sb3_contrib:TRPO"),
        Algorithm("ars", "agents.algorithms:ResumableARS"),
    )
}


EVOLUTION = Algorithm("es", "autotrain_env.evolution:EvolutionStrategy")
"""Evolution strategies, which have no model of Stable-Baselines3; see `agents.evolving`."""

TRAINABLE = {**ALGORITHMS, EVOLUTION.name: EVOLUTION}


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of a name, evolution among them.

    Raises:
        ValueError: If there is none.
    """
    if name not in TRAINABLE:
        raise unknown_name("algorithm", name, TRAINABLE)
    return TRAINABLE[name]


def check_actions(algorithm: Algorithm, space: Any, env_id: str) -> None:
    """Raise a `ValueError` unless an algorithm can act in an action space."""
    kind = type(space).__name__
    if kind not in algorithm.actions:
        able = [name for name, other in TRAINABLE.items() if kind in other.actions] or ["none here"]
        raise ValueError(
            f"algorithm={algorithm.name!r} cannot act in {env_id}, whose action space is {space}: it needs "
            f"{' or '.join(algorithm.actions)}. Algorithms that can: {', '.join(able)}"
        )


def load_hyperparameters(name: str, env_id: str) -> dict[str, Any]:
    """Hyperparameters from `hyperparams/NAME.yml`, in the layout of RL Baselines3 Zoo.

    Args:
        name: Of the algorithm.
        env_id: Of the environment, the file's key.

    Raises:
        ValueError: If there are none for it.
    """
    entries = yaml.safe_load((HYPERPARAMETERS / f"{name}.yml").read_text())
    if env_id not in entries:
        raise ValueError(f"hyperparams/{name}.yml has no entry for {env_id}; it has {', '.join(entries)}")
    return entries[env_id]


def replaced_hyperparameters(given: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters from words such as `learning_rate=lin_0.001`, the values written as YAML.

    Args:
        given: The words.
        known: The hyperparameters that they replace or add to.

    Raises:
        ValueError: If a word has no `=`, or its value is no YAML.
    """
    hyperparameters = dict(known)
    for word in given:
        name, equals, value = word.partition("=")
        check(bool(name and equals), "hyperparameters", word, "NAME=VALUE")
        try:
            hyperparameters[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"hyperparameters={word!r}: the value must be YAML: {error}") from error
    return hyperparameters


def _check_hyperparameters(model_class: type[BaseAlgorithm], hyperparameters: Mapping[str, Any]) -> None:
    """Check the names, and that there is no text where the class's default is a number."""
    parameters = inspect.signature(model_class).parameters
    known = {*_OF_RUNS, *_OF_THIS_PROJECT, *parameters} - {*_NOT_GIVEN}
    for name, value in hyperparameters.items():
        if name not in known:
            raise unknown_name("hyperparameter", name, known)
        default = parameters[name].default if name in parameters else None
        is_rate = name in _RATES and str(value).startswith(_LINEAR)
        wrong = isinstance(default, (int, float)) and isinstance(value, str) and not is_rate
        check(not wrong, name, value, "a number, or true or false")


def _linear_start(name: str, value: str) -> float:
    try:
        return float(value.removeprefix(_LINEAR))
    except ValueError as error:
        raise ValueError(
            f"{name}={value!r} is not allowed: it must be a number, or {_LINEAR} and one"
        ) from error


def make_model(
    name: str,
    env: VecEnv,
    hyperparameters: Mapping[str, Any],
    seed: int = 0,
    start_from: TrainedPolicy | None = None,
    **replaced: Any,
) -> BaseAlgorithm:
    """Make a model that is untrained, or acts as another policy.

    Args:
        name: Of the algorithm.
        env: Where it is trained; from `make_sb3_env`.
        hyperparameters: From `load_hyperparameters`.
        seed: Of the policy's weights and its exploration, and of the environment's tasks.
        start_from: A policy, such as `train es` finds, that the model begins with; the widths of its layers
            take the place of those in the hyperparameters, which are then the critic's alone.
        replaced: Hyperparameters to use instead.

    Raises:
        ValueError: If a hyperparameter is not allowed, or the model cannot act as the other policy does.
    """
    arguments = {**hyperparameters, **replaced}
    model_class = find_algorithm(name).model_class
    _check_hyperparameters(model_class, arguments)
    for of_the_run in _OF_RUNS:
        arguments.pop(of_the_run, None)
    for rate in _RATES:
        if str(arguments.get(rate)).startswith(_LINEAR):
            arguments[rate] = LinearSchedule(_linear_start(rate, arguments[rate]), 0.0, 1.0)
    extractor = arguments.pop("extractor", "flat")
    if extractor not in EXTRACTORS:
        raise unknown_name("extractor", extractor, EXTRACTORS)
    config = env.get_attr("config")[0]
    if extractor == "attention":
        arguments["policy_kwargs"] = arguments.get("policy_kwargs", {}) | {
            "features_extractor_class": AttentionExtractor,
            "features_extractor_kwargs": {"rows": config.num_snapshots, "windows": config.history_length},
        }
    if start_from is not None:
        for which in ("observation_space", "action_space"):
            mine, other = getattr(env, which), getattr(start_from.spec, which)
            check(mine == other, "start_from", f"a policy with {which} {other}", f"one for {mine}")
        start_from.check_meanings(config)
        check(extractor == "flat", "extractor", extractor, "flat with start_from")
        arguments["policy_kwargs"] = _networks_like(start_from.spec, arguments.get("policy_kwargs", {}))
    policy = arguments.pop("policy")
    noise = arguments.pop("noise_std", None)
    if arguments.pop("noise_type", None) == "normal":
        is_box = isinstance(env.action_space, spaces.Box)
        check(is_box, "noise_type", "normal", "left out where actions are discrete")
        shape = env.action_space.shape
        assert shape is not None
        arguments["action_noise"] = NormalActionNoise(np.zeros(shape), np.full(shape, float(noise)))
    try:
        model: BaseAlgorithm = model_class(policy, env, seed=seed, device="cpu", **arguments)
    except Exception as error:  # what a library raises of a value may be anything
        raise ValueError(f"hyperparameters={dict(hyperparameters)} are not allowed: {error!r}") from error
    actor_critic = isinstance(model.policy, (ActorCriticPolicy, MaskableActorCriticPolicy))
    if actor_critic and config.action_type == "discrete":
        with torch.no_grad():
            assert isinstance(model.policy.action_net, nn.Linear)
            model.policy.action_net.bias.copy_(torch.from_numpy(action_bias(config)))
    if start_from is not None:
        _copy_policy(start_from, model)
    return model


def _networks_like(spec: PolicySpec, known: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an actor-critic policy whose actor has the layers of another policy."""
    critic = known.get("net_arch", [64, 64])
    if isinstance(critic, dict):
        check("vf" in critic, "net_arch", critic, "a list, or an object with a list named vf")
        critic = critic["vf"]
    actor = [layer["out"] for layer in spec.layers if layer["type"] == "linear"][:-1]
    normalized = any(layer["type"] == "normalize" for layer in spec.layers)
    extractor = {"features_extractor_class": NormalizeExtractor} if normalized else {}
    return {**known, "net_arch": {"pi": actor, "vf": critic}, **extractor}


def _copy_policy(policy: TrainedPolicy, model: BaseAlgorithm) -> None:
    made = export_policy(model).spec
    mine, others = ([spec.head, *map(dict, spec.layers)] for spec in (made, policy.spec))
    check(mine == others, "start_from", f"a policy of {others}", f"made as the model's: {mine}")
    weights = policy.network.state_dict()
    with torch.no_grad():
        for number, module in enumerate(_network(model)[1], start=1):
            for name, tensor in module.state_dict().items():
                tensor.copy_(weights[f"layers.{number}.{name}"])


def action_bias(config: AutoTrainConfig) -> np.ndarray:
    """Initial logits of the discrete actions, float32, shape (number of actions,)."""
    assert config.num_rewinds is not None
    rewinds = np.full(config.num_rewinds, REWIND_BIAS)
    rewinds[0] = 0.0
    verbs = [REINIT_BIAS] * config.reinit + [STOP_BIAS] * config.stop
    return np.concatenate((np.repeat(rewinds, len(config.lr_factors)), verbs)).astype(np.float32)


# --- from a model to a policy -----------------------------------------------------------------------


def export_policy(model: BaseAlgorithm, environment: Mapping[str, Any] | None = None) -> TrainedPolicy:
    """The policy of a model, free of Stable-Baselines3; it acts on observations as `model.predict` does.

    Args:
        model: Of an algorithm in the table, with a policy of its default kind.
        environment: Id and keyword arguments of the environment, for the record.

    Raises:
        ValueError: If its network is of another kind.
    """
    head, modules, exploration = _network(model)
    layers: list[dict[str, Any]] = [{"type": "flatten"}]
    weights: dict[str, Tensor] = {}
    for module in map(_with_bias, modules):
        layer = _describe(module)
        for name, tensor in module.state_dict().items():
            weights[f"layers.{len(layers)}.{name}"] = tensor.detach().clone()
        layers.append(layer)
    if head == "gaussian":
        assert isinstance(model.policy, ActorCriticPolicy)
        weights["log_std"] = model.policy.log_std.detach().clone()
    assert isinstance(model.observation_space, spaces.Box)
    assert isinstance(model.action_space, (spaces.Discrete, spaces.Box))
    spec = PolicySpec(
        observation_space=model.observation_space,
        action_space=model.action_space,
        layers=layers,
        head=head,
        masked=isinstance(model.policy, MaskableActorCriticPolicy),
        exploration=exploration,
        environment=environment or {},
        versions={name: version(name) for name in ("autotrain-env", "stable-baselines3", "torch")},
    )
    return TrainedPolicy(spec, weights)


def _network(model: BaseAlgorithm) -> tuple[str, list[nn.Module], float]:
    """Head, modules from the flat observation to the head, and probability of random actions."""
    policy = model.policy
    if isinstance(policy, DQNPolicy):
        rate = float(model.exploration_rate)  # type: ignore[attr-defined]
        return "values", [*_features(policy.q_net), *_flat(policy.q_net.q_net)], rate
    if isinstance(policy, QRDQNPolicy):
        rate = float(model.exploration_rate)  # type: ignore[attr-defined]
        network = policy.quantile_net
        return "quantiles", [*_features(network), *_flat(network.quantile_net)], rate
    if isinstance(policy, SACPolicy):
        both = _side_by_side(policy.actor.mu, policy.actor.log_std)  # type: ignore[arg-type]
        layers = [*_features(policy.actor), *_flat(policy.actor.latent_pi), both]
        return "squashed_gaussian", layers, 0.0
    if isinstance(policy, TD3Policy):
        return "deterministic", [*_features(policy.actor), *_flat(policy.actor.mu)], 0.0
    if isinstance(policy, ARSPolicy):
        head = "values" if isinstance(model.action_space, spaces.Discrete) else "deterministic"
        return head, [*_features(policy), *_flat(policy.action_net)], 0.0
    assert isinstance(policy, (ActorCriticPolicy, MaskableActorCriticPolicy))
    recurrent = [policy.lstm_actor] if isinstance(policy, RecurrentActorCriticPolicy) else []
    hidden = _flat(policy.mlp_extractor.policy_net)
    head = "categorical" if isinstance(model.action_space, spaces.Discrete) else "gaussian"
    return head, [*_features(policy), *recurrent, *hidden, policy.action_net], 0.0


def _features(owner: nn.Module) -> list[nn.Module]:
    """What comes before a network's own layers; flattening apart, which all policies begin with."""
    extractor = getattr(owner, "pi_features_extractor", None) or owner.features_extractor
    if isinstance(extractor, AttentionExtractor):
        return [extractor.attention]
    if isinstance(extractor, NormalizeExtractor):
        return [extractor.normalize]
    if isinstance(extractor, FlattenExtractor):
        return []
    raise ValueError(f"a policy with the features extractor {extractor} cannot be exported")


def _flat(network: nn.Module) -> list[nn.Module]:
    def leaves(module: nn.Module) -> Iterator[nn.Module]:
        children = list(module.children())
        for child in children:
            yield from leaves(child)
        if not children and not isinstance(module, nn.Sequential):
            yield module

    return list(leaves(network))


def _side_by_side(left: nn.Linear, right: nn.Linear) -> nn.Linear:
    both = nn.Linear(left.in_features, left.out_features + right.out_features)
    with torch.no_grad():
        both.weight.copy_(torch.cat((left.weight, right.weight)))
        both.bias.copy_(torch.cat((left.bias, right.bias)))
    return both


def _with_bias(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.Linear) or "bias" in module.state_dict():
        return module
    other = nn.Linear(module.in_features, module.out_features)
    with torch.no_grad():
        other.weight.copy_(module.weight)
        other.bias.zero_()
    return other


def _describe(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.Linear):
        return {"type": "linear", "in": module.in_features, "out": module.out_features}
    if isinstance(module, nn.LSTM) and module.num_layers == 1:
        return {"type": "lstm", "in": module.input_size, "hidden": module.hidden_size}
    if isinstance(module, StateAttention):
        names = ("rows", "windows", "width", "heads")
        return {"type": "state_attention", **{name: getattr(module, name) for name in names}}
    if isinstance(module, Normalize):
        return {"type": "normalize", "size": len(module.mean)}
    for kind, known in (("tanh", nn.Tanh), ("relu", nn.ReLU)):
        if isinstance(module, known):
            return {"type": kind}
    raise ValueError(
        f"a policy with {module} cannot be exported; known are linear, lstm, tanh, relu layers and "
        "attention over states"
    )
