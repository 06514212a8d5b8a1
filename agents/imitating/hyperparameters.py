"""Hyperparameters of `train dagger`: read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.evolving.hyperparameters import OF_THE_RUN, field_names
from autotrain_env import AutoTrainConfig
from autotrain_env.errors import check, check_number, check_whole, unknown_name


@dataclass(frozen=True)
class ImitationHyperparameters:
    """What `hyperparams/dagger.yml` says.

    Args:
        net_arch: Widths of the policy's hidden layers.
        tasks_per_round: Tasks that are played between two fits.
        rates: Initial rates that every task is played at, with a line to 0 after each.
        walkers: Lanes besides in which the policy of the last round decides; every other one explores.
        explore: Probability of a random action in each env step of a lane that explores.
        states_per_task: States that are kept of every task, drawn from all its lanes; those of walkers
            count three times.
        fit_steps: Optimiser updates of every fit, which begins anew.
        batch_size: States in a minibatch.
        learning_rate: Largest rate of a fit, by AdamW on a one-cycle schedule.
        weight_decay: Weight decay of a fit.
        temperature: What advantages are divided by, so that their softmax is what a fit begins with.
        entropy: Weight of the policy's entropy beside its advantage.
        abstention: Distance from the observations of training beyond which the policy keeps the rate to its
            line; see `Familiarity`.
        block_size: Tasks played side by side.
        threads: Threads of torch in every process.
    """

    net_arch: tuple[int, ...] = (192, 96)
    tasks_per_round: int = 260
    rates: int = 9
    walkers: int = 4
    explore: float = 0.2
    states_per_task: int = 400
    fit_steps: int = 10000
    batch_size: int = 1024
    learning_rate: float = 0.002
    weight_decay: float = 0.1
    temperature: float = 0.03
    entropy: float = 0.003
    abstention: float = 2.0
    block_size: int = 8
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        listed = isinstance(self.net_arch, (list, tuple)) and len(self.net_arch) > 0
        check(listed, "net_arch", self.net_arch, "a list of widths, at least one")
        object.__setattr__(self, "net_arch", tuple(self.net_arch))
        for width in self.net_arch:
            check_whole("net_arch", width, 1)
        least = {"rates": 3, "walkers": 1, "states_per_task": 1}
        for name in ("tasks_per_round", *least, "fit_steps", "batch_size", "block_size", "threads"):
            check_whole(name, getattr(self, name), least.get(name, 1))
        check_number("explore", self.explore, lambda number: 0 <= number <= 1, "between 0 and 1")
        for name in ("weight_decay", "entropy"):
            check_number(name, getattr(self, name), lambda number: 0 <= number < 1, "at least 0, below 1")
        for name in ("learning_rate", "temperature"):
            check_number(name, getattr(self, name), lambda number: 0 < number < 1, "above 0 and below 1")
        check_number("abstention", self.abstention, lambda number: number > 0, "above 0")


def read_imitation_hyperparameters(given: Mapping[str, Any]) -> ImitationHyperparameters:
    """Returns the hyperparameters of a run, checked.

    Args:
        given: Hyperparameters as in `hyperparams/dagger.yml`.

    Raises:
        InvalidValueError: If a name is unknown or a value is not allowed.
    """
    names = field_names(ImitationHyperparameters)
    for name in given:
        if name not in (*names, *OF_THE_RUN):
            raise unknown_name("hyperparameter of dagger", name, names)
    return ImitationHyperparameters(**{name: given[name] for name in given if name in names})


def check_imitated(config: AutoTrainConfig) -> None:
    """Check that hindsight can tell what would have been best in an environment.

    Args:
        config: The environment's arguments.

    Raises:
        InvalidValueError: If it cannot: actions are no table of factors with 1 among them, rates do not
            fall by themselves, or the score is no accuracy.
    """
    check(config.action_type == "discrete", "action_type", config.action_type, "'discrete' for dagger")
    check(config.annealing == "linear", "annealing", config.annealing, "'linear' for dagger")
    check(
        1.0 in config.lr_factors, "lr_factors", config.lr_factors, "factors with 1 among them, for dagger"
    )
    below = min(config.lr_factors) < 1 < max(config.lr_factors)
    check(below, "lr_factors", config.lr_factors, "factors below and above 1, for dagger")
    check(config.score != "neg_log_loss", "score", config.score, "an accuracy for dagger")
    levels = len(config.task_distribution.levels)
    check(levels == 1, "tasks", f"a curriculum of {levels} levels", "of one level for dagger")
