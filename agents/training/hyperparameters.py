"""Hyperparameters of the algorithms: read, replaced and checked."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm

from autotrain_env.errors import InvalidValueError, check, unknown_name

HYPERPARAMETERS = Path(__file__).parents[1] / "hyperparams"
RATES = ("learning_rate", "clip_range")
LINEAR = "lin_"  # before a rate that falls to 0 during training, as RL Baselines3 Zoo writes it
# Hyperparameters beside those of the algorithm's class, and what users do not give to that.
OF_RUNS = ("n_envs", "n_timesteps")
OF_THIS_PROJECT = (
    *("extractor", "noise_type", "noise_std", "rewind_bias", "lr_factor_bias", "group_size"),
    *("critic_steps", "start_temperature"),
)
_NOT_GIVEN = ("env", "seed", "device", "_init_setup_model")


def load_hyperparameters(name: str, env_id: str) -> dict[str, Any]:
    """Returns hyperparameters from `hyperparams/NAME.yml`, in the layout of RL Baselines3 Zoo.

    Args:
        name: Name of the algorithm.
        env_id: Id of the environment, the file's key.

    Raises:
        InvalidValueError: If there are none for it.
    """
    entries = yaml.safe_load((HYPERPARAMETERS / f"{name}.yml").read_text())
    if env_id not in entries:
        raise InvalidValueError(
            f"hyperparams/{name}.yml has no entry for {env_id}; it has {', '.join(entries)}"
        )
    return entries[env_id]


def replaced_hyperparameters(given: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns hyperparameters from words such as `learning_rate=lin_0.001`, the values written as YAML.

    Args:
        given: The words.
        known: The hyperparameters that they replace or add to.

    Raises:
        InvalidValueError: If a word has no `=`, or its value is no YAML.
    """
    hyperparameters = dict(known)
    for word in given:
        name, equals, value = word.partition("=")
        check(bool(name and equals), "hyperparameters", word, "NAME=VALUE")
        try:
            hyperparameters[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InvalidValueError(f"hyperparameters={word!r}: the value must be YAML: {error}") from error
    return hyperparameters


def check_hyperparameters(model_class: type[BaseAlgorithm], hyperparameters: Mapping[str, Any]) -> None:
    """Check the names, and that there is no text where the class's default is a number."""
    parameters = inspect.signature(model_class).parameters
    known = {*OF_RUNS, *OF_THIS_PROJECT, *parameters} - {*_NOT_GIVEN}
    for name, value in hyperparameters.items():
        if name not in known:
            raise unknown_name("hyperparameter", name, known)
        default = parameters[name].default if name in parameters else None
        is_rate = name in RATES and str(value).startswith(LINEAR)
        wrong = isinstance(default, (int, float)) and isinstance(value, str) and not is_rate
        check(not wrong, name, value, "a number, or true or false")


def linear_start(name: str, value: str) -> float:
    """Returns the rate at the start of one that falls linearly, such as 0.001 of `"lin_0.001"`.

    Raises:
        InvalidValueError: If it is no number.
    """
    try:
        return float(value.removeprefix(LINEAR))
    except ValueError as error:
        raise InvalidValueError(
            f"{name}={value!r} is not allowed: it must be a number, or {LINEAR} and one"
        ) from error
