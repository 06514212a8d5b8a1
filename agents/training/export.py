"""From a model of Stable-Baselines3 to a policy that needs none."""

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from agents.training.extractors import AttentionExtractor, NormalizeExtractor
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.layers import Normalize, StateAttention
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import TrainedPolicy
from autotrain_env.process.observations import NUM_METRICS


def export_policy(model: BaseAlgorithm, environment: Mapping[str, Any] | None = None) -> TrainedPolicy:
    """Returns a model's policy, free of Stable-Baselines3; it acts on observations as `model.predict` does.

    Args:
        model: Model of an algorithm in the table, with a policy of its default kind.
        environment: Id and keyword arguments of the environment, for the record.

    Raises:
        InvalidValueError: If its network is of another kind.
    """
    head, modules, exploration = network_of(model)
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


def network_of(model: BaseAlgorithm) -> tuple[str, list[nn.Module], float]:
    """Returns head, modules from the flat observation to the head, and probability of random actions."""
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
    """Returns what comes before a network's own layers; all policies begin with flattening."""
    extractor = getattr(owner, "pi_features_extractor", None) or owner.features_extractor
    if isinstance(extractor, AttentionExtractor):
        return [extractor.attention]
    if isinstance(extractor, NormalizeExtractor):
        return [extractor.normalize]
    if isinstance(extractor, FlattenExtractor):
        return []
    raise InvalidValueError(f"a policy with the features extractor {extractor} cannot be exported")


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
        names = ["rows", "windows", "width", "heads"]
        names += ["metrics"] * (module.metrics != NUM_METRICS)
        return {"type": "state_attention", **{name: getattr(module, name) for name in names}}
    if isinstance(module, Normalize):
        return {"type": "normalize", "size": len(module.mean)}
    for kind, known in (("tanh", nn.Tanh), ("relu", nn.ReLU)):
        if isinstance(module, known):
            return {"type": kind}
    raise InvalidValueError(
        f"a policy with {module} cannot be exported; known are linear, lstm, tanh, relu layers and "
        "attention over states"
    )
