"""The demonstration: an agent learns to train networks, and is compared with schedules.

Run by `make demo`, or `python -m agents demo --help`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import tyro
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback

import autotrain_env
from agents.comparing.schedule_tuning import tune
from agents.runs.progress import Report, bars, portion
from agents.runs.seeds import DEVELOPMENT_SEED, training_seed
from agents.training.algorithms import REWARD
from agents.training.export import export_policy
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.files import replace_file
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env, mean_interval
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import as_schedule
from autotrain_env.viewing.comparison import plot_comparison
from autotrain_env.viewing.run import plot_episode
from autotrain_env.viewing.style import as_image

ALIASES = {"fashion": "fashion_mnist"}
SCHEDULES = ("constant", "step", "cosine", "reduce_on_plateau")


@dataclass
class Arguments:
    """Train PPO on AutoTrain-v0 and compare it with learning-rate schedules."""

    dataset: str = "digits"
    """Data to train networks on: digits, mnist, fashion, kmnist or cifar10. All but digits are downloaded
    where they are missing."""

    train_steps: int | None = None
    """Env steps that the agent is trained for; by default 115,200, and 38,400 on larger images."""

    episodes: int = 128
    """Paired episodes per row of the table."""

    tuning_episodes: int = 32
    """Episodes on which each of the 8 rates is tried, on seeds of their own."""

    num_envs: int = 64
    """Networks trained side by side."""

    seed: int = 0
    """Seed of the agent's training."""

    output: Path = Path("runs/demo")
    """Folder for the figures, the agent and the numbers."""


@dataclass(frozen=True)
class Row:
    """One method's results.

    Args:
        method: Its name.
        group: `"agent"`, or a schedule's initial rate: `"random initial rates"` or `"best of grid"`.
        learning_rate: The tuned rate, if any.
        results: What `evaluate_policy` returned.
    """

    method: str
    group: str
    learning_rate: float | None
    results: dict[str, np.ndarray]


class ReportProgress(BaseCallback):
    """Tells a progress bar how far training is.

    Args:
        report: Called with a share, 0 to 1.
        total: Env steps in all.
    """

    def __init__(self, report: Report, total: int) -> None:
        super().__init__()
        self.report = report
        self.total = total

    def _on_step(self) -> bool:
        self.report(self.num_timesteps / self.total)
        return True


def run(arguments: Arguments, console: Console) -> list[Row]:
    """Train, tune and evaluate; writes the figures, the agent and the numbers.

    Args:
        arguments: What to do.
        console: Where progress is shown.

    Returns:
        A row for each method, the agent's first.
    """
    dataset = ALIASES.get(arguments.dataset, arguments.dataset)
    steps = arguments.train_steps or (115_200 if dataset == "digits" else 38_400)
    kwargs: dict[str, Any] = {"dataset": dataset, "download": True, "observation_layout": "flat"}
    env = make_evaluation_env("AutoTrain-v0", arguments.num_envs, **kwargs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with bars(console) as bar:
        with bar("training the agent") as report:
            train_env = make_sb3_env("AutoTrain-v0", arguments.num_envs, reward=REWARD, **kwargs)
            hyperparameters = load_hyperparameters("ppo", "AutoTrain-v0")
            model = make_model("ppo", train_env, hyperparameters, arguments.seed)
            train_env.seed(training_seed(arguments.seed, arguments.num_envs))
            model.learn(steps, callback=ReportProgress(report, steps))
            agent = export_policy(model, {"id": "AutoTrain-v0", "kwargs": {**kwargs, "reward": REWARD}})
            agent.save(arguments.output)
        with bar("tuning schedules") as report:
            parts = [portion(report, i, 1, len(SCHEDULES)) for i in range(len(SCHEDULES))]
            tuned = {
                name: tune(env, name, arguments.tuning_episodes, part)
                for name, part in zip(SCHEDULES, parts, strict=True)
            }
        methods: list[tuple[str, str, float | None, Policy]] = [
            ("PPO", "agent", None, agent),
            ("random agent", "random initial rates", None, RandomAgent()),
        ]
        for name in SCHEDULES:
            methods.append((name.replace("_", " "), "random initial rates", None, as_schedule(name)))
        for name, best in tuned.items():
            methods.append((name.replace("_", " "), "best of grid", best.learning_rate, best.schedule))
        with bar("evaluating") as report:
            for i, (name, group, rate, policy) in enumerate(methods):
                results = evaluate_policy(
                    env,
                    policy,
                    arguments.episodes,
                    DEVELOPMENT_SEED,
                    history=i == 0,
                    progress=portion(report, i, 1, len(methods)),
                )
                rows.append(Row(name, group, rate, results))
    write(rows, arguments, steps)
    return rows


def summary(rows: list[Row]) -> list[dict[str, Any]]:
    """Plain numbers of every row: mean test accuracy, its interval, and the agent's paired lead."""
    agent = rows[0].results["test_accuracy"]
    summaries = []
    for row in rows:
        accuracy = row.results["test_accuracy"]
        mean, low, high = mean_interval(accuracy)
        lead, lead_low, lead_high = mean_interval(agent - accuracy)
        summaries.append(
            {
                "method": row.method,
                "group": row.group,
                "learning_rate": row.learning_rate,
                "mean": mean,
                "low": low,
                "high": high,
                "worst": float(accuracy.min()),
                "best_on_holdout_mean": float(row.results["best_holdout_test_accuracy"].mean()),
                "agent_lead": lead,
                "agent_lead_low": lead_low,
                "agent_lead_high": lead_high,
            }
        )
    return summaries


def table(rows: list[Row]) -> Table:
    """The comparison as a table, 80 characters wide."""
    count = len(rows[0].results["test_accuracy"])
    title = f"test accuracy [%], {count} paired episodes a row, with 95% intervals"
    view = Table(title=title, box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("method", "rate", "test accuracy", "worst", "agent's lead"):
        view.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    group = ""
    for numbers in summary(rows):
        if numbers["group"] != group:
            group = numbers["group"]
            view.add_row(f"[bold]{group}[/bold]")
        percent = {name: 100 * value for name, value in numbers.items() if isinstance(value, float)}
        rate = numbers["learning_rate"]
        lead = "{agent_lead:+.1f} [{agent_lead_low:+.1f}, {agent_lead_high:+.1f}]".format(**percent)
        view.add_row(
            f" {numbers['method']}",
            "" if rate is None else f"{rate:.2g}",
            "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**percent),
            f"{percent['worst']:.1f}",
            "" if group == "agent" else lead,
        )
    return view


def write(rows: list[Row], arguments: Arguments, steps: int) -> None:
    """Write figures and numbers."""
    output = arguments.output
    summaries = summary(rows)
    replace_file(output / "comparison.png", as_image(plot_comparison(summaries)))
    agent = rows[0].results
    shown = int(np.argmax(agent["initial_learning_rate"]))  # the run with the worst start
    replace_file(output / "episode.png", as_image(plot_episode(agent["history"][shown])))
    numbers = {
        "version": autotrain_env.__version__,
        "arguments": dataclasses.asdict(arguments) | {"output": str(output), "train_steps": steps},
        "summary": summaries,
        "episodes": [
            {"method": row.method, "group": row.group}
            | {name: array.tolist() for name, array in row.results.items() if name != "history"}
            for row in rows
        ],
    }
    (output / "results.json").write_text(json.dumps(numbers, indent=1))


def main() -> None:
    """Run the demonstration and print its table."""
    arguments = tyro.cli(Arguments)
    console = Console()
    rows = run(arguments, console)
    console.print(table(rows))
    console.print(f"Written to {arguments.output}/: comparison.png, episode.png, policy.*, results.json")


if __name__ == "__main__":
    main()
