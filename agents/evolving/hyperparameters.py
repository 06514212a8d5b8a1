"""Hyperparameters of evolution: read, replaced and checked."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium import spaces

from agents.evolving.members import FITNESS
from agents.training.models import action_bias
from autotrain_env import AutoTrainConfig
from autotrain_env.errors import InvalidValueError, UserError, check, check_whole, unknown_name
from autotrain_env.evolution import (
    CMAES,
    Decay,
    EvolutionStrategy,
    Novelty,
    RandomSearch,
    SearchState,
    SearchStrategy,
    Shaping,
    SparseEvolutionStrategy,
    init,
)
from autotrain_env.evolution.noise import StudentTNoise
from autotrain_env.evolution.updates import UPDATES
from autotrain_env.policies.spec import PolicySpec
from autotrain_env.policies.stacked import make_spec, policy_layout

STRATEGIES: dict[str, type[Any]] = {
    "evolution": EvolutionStrategy,
    "sparse": SparseEvolutionStrategy,
    "cma_es": CMAES,
    "random_search": RandomSearch,
}
OF_THE_RUN = ("n_envs", "n_timesteps")
POLICIES = ("linear", "mlp", "gru")


@dataclass(frozen=True)
class EvolutionHyperparameters:
    """What `hyperparams/es.yml` says beside the strategy's own arguments.

    Args:
        strategy: One of `STRATEGIES`.
        policy: `"linear"`, `"mlp"`, or `"gru"` (a GRU of the first width, then hidden layers).
        net_arch: Widths of layers.
        normalize: Whether observations are normalised, with moments of all that members saw before this
            generation.
        masked: Whether impossible discrete actions are masked out.
        deterministic: Whether members take the likeliest actions, or draw them; the policy that is
            evaluated takes the likeliest.
        fitness: `"return"` or `"score"` (final, on the reward's split).
        episodes: Episodes that each member plays in a generation.
        block_size: Policies evaluated at once.
        threads: Threads of torch in every process; more than one pay where there are more CPUs than
            processes.
    """

    strategy: str = "evolution"
    policy: str = "mlp"
    net_arch: tuple[int, ...] = (16,)
    normalize: bool = True
    masked: bool = False
    deterministic: bool = True
    fitness: str = "return"
    episodes: int = 1
    block_size: int = 32
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        for name, known in (("strategy", STRATEGIES), ("policy", POLICIES), ("fitness", FITNESS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name in ("episodes", "block_size", "threads"):
            check_whole(name, getattr(self, name), 1)
        listed = isinstance(self.net_arch, (list, tuple))
        check(listed, "net_arch", self.net_arch, "a list of widths")
        object.__setattr__(self, "net_arch", tuple(self.net_arch))
        wanted = {"linear": 0, "mlp": 1, "gru": 1}[self.policy]
        fits = len(self.net_arch) >= wanted and (wanted > 0 or not self.net_arch)
        check(fits, "net_arch", self.net_arch, "empty for a linear policy, else at least one width")

    def describe_policy(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **record: Any
    ) -> PolicySpec:
        """Returns what policies are evolved, for the spaces of one lane.

        Raises:
            InvalidValueError: If such a policy cannot act in them.
        """
        recurrent = self.policy == "gru"
        return make_spec(
            observation_space,
            action_space,
            self.net_arch[1:] if recurrent else self.net_arch,
            recurrent=self.net_arch[0] if recurrent else None,
            normalize=self.normalize,
            masked=self.masked,
            sampled=not self.deterministic,
            **record,
        )


def begin_search(
    strategy: SearchStrategy, spec: PolicySpec, env_config: AutoTrainConfig, seed: int
) -> SearchState:
    """Returns the state of a search before its first generation.

    The last layer begins at zero, so that members are alike but for their noise, and its biases where those
    of the algorithms of Stable-Baselines3 begin.

    Args:
        strategy: Strategy of the search.
        spec: Specification of the policies.
        env_config: Configuration of the environment.
        seed: Training seed.

    Raises:
        InvalidValueError: If the strategy does not fit the policy.
    """
    layout = policy_layout(spec)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for entry in layout.entries:
        weights[entry.name] = torch.zeros(entry.shape)
        if len(entry.shape) == 2:
            weights[entry.name].normal_(0, 1 / math.sqrt(entry.shape[1]), generator=generator)
    last = f"layers.{len(spec.layers) - 1}"
    weights[f"{last}.weight"].zero_()
    if spec.head == "categorical":
        weights[f"{last}.bias"] = torch.from_numpy(action_bias(env_config))
    return init(strategy, layout.join(weights) if isinstance(strategy, CMAES) else weights, seed)


def check_tasks(env_config: AutoTrainConfig) -> None:
    """Raise an `InvalidValueError` if tasks have levels, which evolution does not rise through."""
    levels = len(env_config.task_distribution.levels)
    check(levels == 1, "tasks", f"of {levels} levels", "of one level: es follows no curriculum")


def read_hyperparameters(given: Mapping[str, Any]) -> tuple[EvolutionHyperparameters, SearchStrategy]:
    """Returns the hyperparameters of a run as checked settings.

    Args:
        given: Hyperparameters as in `hyperparams/es.yml`. `distribution`, `shaping`, `optimizer`, `novelty`
            may be a name, or a mapping of it (`name`, or `kind` of novelty) and arguments; a learning rate
            or standard deviation may be a mapping of the arguments of `Decay`.

    Raises:
        InvalidValueError: If a name or an argument is unknown, or a value is not allowed.
    """
    own = field_names(EvolutionHyperparameters)
    settings = EvolutionHyperparameters(**{name: given[name] for name in given if name in own})
    kind = STRATEGIES[settings.strategy]
    left = {name: given[name] for name in given if name not in own and name not in OF_THE_RUN}
    return settings, read_strategy(kind, left, f"strategy={settings.strategy!r}", own)


def read_strategy(
    kind: type[SearchStrategy], given: Mapping[str, Any], owner: str, beside: Iterable[str]
) -> Any:
    """Returns a strategy of given arguments, written as for `read_hyperparameters`.

    Args:
        kind: Class of the strategy.
        given: Its arguments.
        owner: Whose hyperparameters they are, for the error.
        beside: Names of further hyperparameters, for the error.

    Raises:
        InvalidValueError: If a name or an argument is unknown, or a value is not allowed.
    """
    for name in given:
        if name not in field_names(kind):
            raise unknown_name(f"hyperparameter of {owner}", name, [*beside, *field_names(kind)])
    values = {
        name: _allowed(functools.partial(_read_value, name, value), name, value)
        for name, value in given.items()
    }
    return _allowed(lambda: kind(**values), "hyperparameters", given)


def replace_hyperparameters(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns hyperparameters with others in place of some, without those that the strategy does not have.

    Args:
        known: Hyperparameters from `hyperparams/es.yml`.
        given: Hyperparameters that replace them.

    Raises:
        InvalidValueError: If there is no such strategy.
    """
    strategy = given.get("strategy", known["strategy"])
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    had = {*OF_THE_RUN, *field_names(EvolutionHyperparameters), *field_names(STRATEGIES[strategy])}
    return {**{name: value for name, value in known.items() if name in had}, **given}


def field_names(kind: type[Any]) -> list[str]:
    """Returns the names of a dataclass' fields."""
    return [field.name for field in dataclasses.fields(kind)]


def _allowed(make: Callable[[], Any], argument: str, value: Any) -> Any:
    """Returns what a function makes; of arguments that are unknown or of another kind it says so."""
    try:
        return make()
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"{argument}={value!r} is not allowed: {error}") from error


def _read_value(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return Novelty(value) if name == "novelty" and isinstance(value, str) else value
    arguments = dict(value)
    if name in ("learning_rate", "perturbation_std", "std_learning_rate"):
        return Decay(**arguments)
    if name == "novelty":
        return Novelty(**arguments)
    if name == "shaping":
        return Shaping(**arguments)
    if name == "distribution":
        check(arguments.pop("name", None) == "student_t", name, value, "a name, or student_t and degrees")
        return StudentTNoise(**arguments)
    if name in ("optimizer", "std_optimizer"):
        rule = arguments.pop("name", None)
        if rule not in UPDATES:
            raise unknown_name(name, rule, UPDATES)
        return replace(UPDATES[rule], **arguments)
    return value
