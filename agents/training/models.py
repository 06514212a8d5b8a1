"""Models of Stable-Baselines3, made of hyperparameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from agents.training.algorithms import find_algorithm
from agents.training.export import export_policy, network_of
from agents.training.extractors import EXTRACTORS, AttentionExtractor, NormalizeExtractor
from agents.training.groups import buffer_arguments, check_groups
from agents.training.hyperparameters import (
    LINEAR,
    OF_RUNS,
    OF_THIS_PROJECT,
    RATES,
    check_hyperparameters,
    linear_start,
)
from autotrain_env import AutoTrainConfig
from autotrain_env.errors import InvalidValueError, check, check_number, check_whole, unknown_name
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import TrainedPolicy

# An untrained policy that stops or re-initialises at random never sees the end of an episode.
REWIND_BIAS, REINIT_BIAS, STOP_BIAS = -1.5, -3.0, -4.0
WITH_CRITIC = ("ppo", "a2c", "maskable_ppo")
"""Algorithms whose critic can be trained for a while before their actor is."""
BIASES = ("rewind_bias", "lr_factor_bias")
"""Hyperparameters that take the place of such."""


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
        name: Name of the algorithm.
        env: Environment where it is trained; from `make_sb3_env`.
        hyperparameters: Hyperparameters from `load_hyperparameters`.
        seed: Seed of the policy's weights and its exploration, and of the environment's tasks.
        start_from: A policy, such as `train es` finds, that the model begins with; the widths of its layers
            take the place of those in the hyperparameters, which are then the critic's alone.
        replaced: Hyperparameters to use instead.

    Raises:
        InvalidValueError: If a hyperparameter is not allowed, or the model cannot act as the other policy
            does.
    """
    model_class = find_algorithm(name).model_class
    config = env.get_attr("config")[0]
    given = {**hyperparameters, **replaced}
    check_hyperparameters(model_class, given)
    arguments = {
        name: _scheduled(name, value) if name in RATES else value
        for name, value in given.items()
        if name not in (*OF_RUNS, *OF_THIS_PROJECT)
    }
    arguments["policy_kwargs"] = _policy_kwargs(given, config)
    group_size = given.get("group_size", 1)
    check_groups(name, group_size, env.num_envs, config)
    of_lanes = getattr(env, "group_size", 1)
    allowed = f"1, or that of the environment's lanes, {of_lanes}"
    check(group_size in (1, of_lanes), "group_size", group_size, allowed)
    arguments |= buffer_arguments(name, group_size)
    _check_beginning(name, given, start_from, config)
    if start_from is not None:
        _check_fits(start_from, env, given.get("extractor", "flat"))
        arguments["policy_kwargs"] = _networks_like(start_from.spec, arguments["policy_kwargs"])
    if given.get("noise_type") == "normal":
        arguments["action_noise"] = _normal_noise(env.action_space, given.get("noise_std"))
    try:
        model: BaseAlgorithm = model_class(env=env, seed=seed, device="cpu", **arguments)
    except Exception as error:  # what a library raises of a value may be anything
        raise InvalidValueError(
            f"hyperparameters={dict(hyperparameters)} are not allowed: {error!r}"
        ) from error
    if config.action_type == "discrete":
        _set_action_bias(model, config, given)
    if start_from is not None:
        _copy_policy(start_from, model, given.get("start_temperature", 1.0))
    return model


def _scheduled(name: str, value: Any) -> Any:
    """Returns a rate as Stable-Baselines3 takes it: a number, or a schedule that falls to 0."""
    falls = str(value).startswith(LINEAR)
    return LinearSchedule(linear_start(name, value), 0.0, 1.0) if falls else value


def _policy_kwargs(given: Mapping[str, Any], config: AutoTrainConfig) -> dict[str, Any]:
    """Returns the arguments of the policy, those of its feature extractor among them."""
    extractor, known = given.get("extractor", "flat"), given.get("policy_kwargs") or {}
    if extractor not in EXTRACTORS:
        raise unknown_name("extractor", extractor, EXTRACTORS)
    if extractor == "flat":
        return known
    return known | {
        "features_extractor_class": AttentionExtractor,
        "features_extractor_kwargs": {"rows": config.num_snapshots, "windows": config.history_length},
    }


def _check_beginning(
    name: str, given: Mapping[str, Any], start_from: TrainedPolicy | None, config: AutoTrainConfig
) -> None:
    """Raise an `InvalidValueError` unless a model of an algorithm can begin so."""
    critic_steps, temperature = given.get("critic_steps", 0), given.get("start_temperature", 1.0)
    check_whole("critic_steps", critic_steps, 0)
    able = critic_steps == 0 or name in WITH_CRITIC
    check(able, "critic_steps", critic_steps, f"0 but for {', '.join(WITH_CRITIC)}")
    check_number("start_temperature", temperature, lambda value: value > 0, "greater than 0")
    able = temperature == 1 or (start_from is not None and config.action_type == "discrete")
    check(able, "start_temperature", temperature, "1 without start_from, or where actions are not discrete")


def _check_fits(policy: TrainedPolicy, env: VecEnv, extractor: str) -> None:
    """Raise an `InvalidValueError` unless a model in an environment can begin with a policy."""
    for which in ("observation_space", "action_space"):
        mine, other = getattr(env, which), getattr(policy.spec, which)
        check(mine == other, "start_from", f"a policy with {which} {other}", f"one for {mine}")
    policy.check_meaning(env.get_attr("config")[0].make_action_type())
    check(extractor == "flat", "extractor", extractor, "flat with start_from")


def _normal_noise(space: spaces.Space[Any], deviation: Any) -> NormalActionNoise:
    check(isinstance(space, spaces.Box), "noise_type", "normal", "left out where actions are discrete")
    shape = space.shape
    assert shape is not None
    return NormalActionNoise(np.zeros(shape), np.full(shape, float(deviation)))


def _set_action_bias(model: BaseAlgorithm, config: AutoTrainConfig, given: Mapping[str, Any]) -> None:
    """Set the initial logits of an actor-critic."""
    if isinstance(model.policy, (ActorCriticPolicy, MaskableActorCriticPolicy)):
        biases = {name: given[name] for name in BIASES if name in given}
        with torch.no_grad():
            assert isinstance(model.policy.action_net, nn.Linear)
            model.policy.action_net.bias.copy_(torch.from_numpy(action_bias(config, **biases)))


def _networks_like(spec: PolicySpec, known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of an actor-critic policy whose actor has the layers of another policy."""
    critic = known.get("net_arch", [64, 64])
    if isinstance(critic, dict):
        check("vf" in critic, "net_arch", critic, "a list, or an object with a list named vf")
        critic = critic["vf"]
    actor = [layer["out"] for layer in spec.layers if layer["type"] == "linear"][:-1]
    normalized = any(layer["type"] == "normalize" for layer in spec.layers)
    extractor = {"features_extractor_class": NormalizeExtractor} if normalized else {}
    return {**known, "net_arch": {"pi": actor, "vf": critic}, **extractor}


def _copy_policy(policy: TrainedPolicy, model: BaseAlgorithm, temperature: float) -> None:
    """Give a model's actor the weights of a policy.

    Args:
        policy: The policy.
        model: The model.
        temperature: What the policy's logits are divided by.

    Raises:
        InvalidValueError: If the policy is made otherwise.
    """
    made = export_policy(model).spec
    mine, others = ([spec.head, *map(dict, spec.layers)] for spec in (made, policy.spec))
    check(mine == others, "start_from", f"a policy of {others}", f"made as the model's: {mine}")
    weights = policy.network.state_dict()
    with torch.no_grad():
        for number, module in enumerate(network_of(model)[1], start=1):
            for name, tensor in module.state_dict().items():
                tensor.copy_(weights[f"layers.{number}.{name}"])
        assert isinstance(model.policy.action_net, nn.Linear)
        for tensor in model.policy.action_net.parameters():
            tensor.div_(temperature)


def action_bias(
    config: AutoTrainConfig, rewind_bias: float = REWIND_BIAS, lr_factor_bias: float = 0.0
) -> np.ndarray:
    """Returns initial logits of the discrete actions, float32, shape (number of actions,).

    Args:
        config: What the actions are.
        rewind_bias: Logit of a rewind, where that of none is 0.
        lr_factor_bias: Added for each decade that a factor changes the rate by.
    """
    assert config.num_rewinds is not None
    rewinds = np.full(config.num_rewinds, rewind_bias)
    rewinds[0] = 0.0
    factors = lr_factor_bias * np.abs(np.log10(config.lr_factors))
    verbs = [REINIT_BIAS] * config.reinit + [STOP_BIAS] * config.stop
    return np.concatenate(((rewinds[:, None] + factors).ravel(), verbs)).astype(np.float32)
