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
from agents.training.hyperparameters import LINEAR, OF_RUNS, RATES, check_hyperparameters, linear_start
from autotrain_env import AutoTrainConfig
from autotrain_env.errors import InvalidValueError, check, unknown_name
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.trained import TrainedPolicy

# An untrained policy that stops or re-initialises at random never sees the end of an episode.
REWIND_BIAS, REINIT_BIAS, STOP_BIAS = -1.5, -3.0, -4.0


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
    check_hyperparameters(model_class, arguments)
    for of_the_run in OF_RUNS:
        arguments.pop(of_the_run, None)
    for rate in RATES:
        if str(arguments.get(rate)).startswith(LINEAR):
            arguments[rate] = LinearSchedule(linear_start(rate, arguments[rate]), 0.0, 1.0)
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
        start_from.check_meaning(config.make_action_type())
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
        raise InvalidValueError(
            f"hyperparameters={dict(hyperparameters)} are not allowed: {error!r}"
        ) from error
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
        for number, module in enumerate(network_of(model)[1], start=1):
            for name, tensor in module.state_dict().items():
                tensor.copy_(weights[f"layers.{number}.{name}"])


def action_bias(config: AutoTrainConfig) -> np.ndarray:
    """Initial logits of the discrete actions, float32, shape (number of actions,)."""
    assert config.num_rewinds is not None
    rewinds = np.full(config.num_rewinds, REWIND_BIAS)
    rewinds[0] = 0.0
    verbs = [REINIT_BIAS] * config.reinit + [STOP_BIAS] * config.stop
    return np.concatenate((np.repeat(rewinds, len(config.lr_factors)), verbs)).astype(np.float32)
