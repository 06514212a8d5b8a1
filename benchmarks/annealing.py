"""When must a rate fall? Four shapes of schedule on training sets, each at its best rate.

Run by `python -m benchmarks.annealing --help`. It tells which sets teach an agent to lower the rate early,
and which to hold it: `constant` never lowers it, `cosine` late, `early` from 30% of the budget on to 3%
of the peak, `exponential` from the beginning, to 3% too. Validation accuracy, momentum 0.9.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console

from agents.comparing.schedule_tuning import GRID
from agents.runs.seeds import TUNING_SEED
from autotrain_env import Choice, TaskDistribution
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies.schedules import BudgetSchedule, Constant, Cosine, Exponential
from autotrain_env.process.task_distributions import PRESETS


@dataclass(frozen=True)
class Early(BudgetSchedule):
    """The peak rate for 30% of the budget, then an exponential decay to 3% of it."""

    def factors(self, step: np.ndarray, num_steps: np.ndarray) -> np.ndarray:
        return 0.03 ** np.clip((step / num_steps - 0.3) / 0.7, 0, 1)


SHAPES: dict[str, BudgetSchedule] = {
    "constant": Constant(),
    "cosine": Cosine(),
    "early": Early(),
    "exponential": Exponential(final_factor=0.03),
}


def _sets_of_many() -> tuple[str, ...]:
    many = PRESETS["many"]
    assert isinstance(many, TaskDistribution) and isinstance(many.dataset, Choice)
    return tuple(dict.fromkeys(many.dataset.values))


@dataclass
class Arguments:
    """Compare four shapes of schedule on training sets."""

    datasets: tuple[str, ...] = _sets_of_many()
    """Names of sets; by default those of the preset `many`."""

    networks: tuple[str, ...] = ("mlp", "mlp-128-64", "mlp-48-48-48")
    """Classifiers, each on every set."""

    label_noise: float = 0.0
    """Probability that a train label is wrong."""

    train_size: int | None = None
    """Images to train on; by default the set's own number."""

    episodes: int = 16
    """Of each shape at each of six rates, on tuning seeds, side by side."""

    output: Path = Path("runs/bench/annealing.json")
    """File for the numbers."""


def best_scores(arguments: Arguments, dataset: str, network: str) -> dict[str, tuple[float, float]]:
    """Mean validation accuracy [%] of every shape at its best rate, and that rate."""
    env = make_evaluation_env(
        "AutoTrain-v0",
        arguments.episodes,
        dataset=dataset,
        classifier=network,
        label_noise=arguments.label_noise,
        train_size=arguments.train_size,
        holdout_size=300,
        validation_size=400,
    )
    best = {}
    for name, shape in SHAPES.items():
        scores = {
            rate: evaluate_policy(env, shape.with_learning_rate(rate), arguments.episodes, TUNING_SEED)
            for rate in GRID[:6].tolist()
        }
        means = {rate: 100 * float(results["score"].mean()) for rate, results in scores.items()}
        rate = max(means, key=lambda rate: means[rate])
        best[name] = (means[rate], rate)
    env.close()
    return best


def main() -> None:
    arguments, console = tyro.cli(Arguments), Console()
    torch.set_num_threads(1)
    numbers = []
    for dataset in arguments.datasets:
        for network in arguments.networks:
            best = best_scores(arguments, dataset, network)
            numbers.append({"dataset": dataset, "network": network, "best": best})
            said = ", ".join(
                f"{name} {score:.1f} (rate {rate:.2g})" for name, (score, rate) in best.items()
            )
            console.print(f"{dataset}, {network}: {said}", soft_wrap=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
