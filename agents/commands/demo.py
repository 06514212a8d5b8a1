"""`python -m agents demo`: an agent learns to train networks, and is compared with schedules."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import BaseCallback

import autotrain_env
from agents.comparing.schedule_tuning import Tuned, tune
from agents.runs.progress import Reporter, bars, portion
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
from autotrain_env.policies.trained import TrainedPolicy
from autotrain_env.viewing.comparison import plot_comparison
from autotrain_env.viewing.run import plot_episode
from autotrain_env.viewing.style import as_image

ALIASES = {"fashion": "fashion_mnist"}
ENV_ID = "AutoTrain-v0"
COMPARED_SCHEDULES = ("constant", "step", "cosine", "reduce_on_plateau")


@dataclass(frozen=True)
class Row:
    """One method's results.

    Args:
        method: Name of the method.
        group: `"agent"`, or a schedule's initial rate: `"random initial rates"` or `"best of grid"`.
        learning_rate: The tuned rate, if any.
        results: What `evaluate_policy` returned.
    """

    method: str
    group: str
    learning_rate: float | None
    results: dict[str, np.ndarray]


Method = tuple[str, str, float | None, Policy]
"""Name, group, tuned rate and policy of a row to come."""


class ReportProgress(BaseCallback):
    """Tells a progress bar how far training is.

    Args:
        report: Called with a share, 0 to 1.
        total: Env steps in all.
    """

    def __init__(self, report: Reporter, total: int) -> None:
        super().__init__()
        self.report = report
        self.total = total

    def _on_step(self) -> bool:
        self.report(self.num_timesteps / self.total)
        return True


@dataclass
class Demo:
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

    @property
    def dataset_name(self) -> str:
        """Returns the dataset's name in the library."""
        return ALIASES.get(self.dataset, self.dataset)

    @property
    def steps(self) -> int:
        """Returns the env steps that the agent is trained for."""
        return self.train_steps or (115_200 if self.dataset_name == "digits" else 38_400)

    def run(self, console: Console) -> None:
        """Run the demonstration, and print its table."""
        rows = self.play(console)
        console.print(table(rows))
        files = "comparison.png, episode.png, policy.*, results.json"
        console.print(f"Written to {self.output}/: {files}", soft_wrap=True)

    def play(self, console: Console) -> list[Row]:
        """Train, tune and evaluate; write the figures, the agent and the numbers.

        Args:
            console: Console that shows progress.

        Returns:
            A row for each method, the agent's first.
        """
        kwargs = {"dataset": self.dataset_name, "download": True, "observation_layout": "flat"}
        env = make_evaluation_env(ENV_ID, self.num_envs, **kwargs)
        self.output.mkdir(parents=True, exist_ok=True)
        with bars(console) as bar:
            with bar("training the agent") as report:
                agent = self._train(kwargs, report)
                agent.save(self.output)
            with bar("tuning schedules") as report:
                parts = [
                    portion(report, i, 1, len(COMPARED_SCHEDULES)) for i in range(len(COMPARED_SCHEDULES))
                ]
                tuned = {
                    name: tune(env, name, self.tuning_episodes, part)
                    for name, part in zip(COMPARED_SCHEDULES, parts, strict=True)
                }
            with bar("evaluating") as report:
                rows = self._evaluate(env, list(_methods(agent, tuned)), report)
        write(rows, self)
        return rows

    def _train(self, kwargs: dict[str, Any], report: Reporter) -> TrainedPolicy:
        env = make_sb3_env(ENV_ID, self.num_envs, reward=REWARD, **kwargs)
        model = make_model("ppo", env, load_hyperparameters("ppo", ENV_ID), self.seed)
        env.seed(training_seed(self.seed, self.num_envs))
        model.learn(self.steps, callback=ReportProgress(report, self.steps))
        return export_policy(model, {"id": ENV_ID, "kwargs": {**kwargs, "reward": REWARD}})

    def _evaluate(
        self, env: VectorEnv[Any, Any, Any], methods: list[Method], report: Reporter
    ) -> list[Row]:
        """Play the same episodes with every method; the agent's are kept whole, for its picture."""
        rows = []
        for i, (name, group, rate, policy) in enumerate(methods):
            part = portion(report, i, 1, len(methods))
            results = evaluate_policy(
                env, policy, self.episodes, DEVELOPMENT_SEED, history=i == 0, progress=part
            )
            rows.append(Row(name, group, rate, results))
        return rows


def _methods(agent: TrainedPolicy, tuned: dict[str, Tuned]) -> Iterator[Method]:
    """Yields name, group, tuned rate and policy of every row of the table."""
    yield "PPO", "agent", None, agent
    yield "random agent", "random initial rates", None, RandomAgent()
    for name in COMPARED_SCHEDULES:
        yield name.replace("_", " "), "random initial rates", None, as_schedule(name)
    for name, best in tuned.items():
        yield name.replace("_", " "), "best of grid", best.learning_rate, best.schedule


def summary(rows: list[Row]) -> list[dict[str, Any]]:
    """Returns plain numbers of every row: mean test accuracy, its interval, and the agent's paired lead."""
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
    """Returns the comparison as a table, 80 characters wide."""
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


def write(rows: list[Row], arguments: Demo) -> None:
    """Write figures and numbers."""
    output = arguments.output
    summaries = summary(rows)
    replace_file(output / "comparison.png", as_image(plot_comparison(summaries)))
    agent = rows[0].results
    shown = int(np.argmax(agent["initial_learning_rate"]))  # the run with the worst start
    replace_file(output / "episode.png", as_image(plot_episode(agent["history"][shown])))
    given = dataclasses.asdict(arguments) | {"output": str(output), "train_steps": arguments.steps}
    numbers = {
        "version": autotrain_env.__version__,
        "arguments": given,
        "summary": summaries,
        "episodes": [
            {"method": row.method, "group": row.group}
            | {name: array.tolist() for name, array in row.results.items() if name != "history"}
            for row in rows
        ],
    }
    (output / "results.json").write_text(json.dumps(numbers, indent=1))
