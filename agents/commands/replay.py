"""`python -m agents replay`: one episode, decision by decision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table

from agents.commands.policy_arguments import PolicyArguments, environment_of
from agents.runs.seeds import check_development
from autotrain_env.files import replace_file
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.viewing.run import animate_episode, plot_episode
from autotrain_env.viewing.style import as_image, check_image_kind


@dataclass
class Replay(PolicyArguments):
    """Play an episode with a run's policy: print its decisions, draw the controlled run."""

    output: Path = Path("runs/replay.png")
    """File for the picture; one that ends in .gif shows the run as it unfolds."""

    def run(self, console: Console) -> None:
        """Play, print and draw."""
        kind = self.output.suffix[1:].lower() or "png"
        check_image_kind("ending of output", kind, "gif")
        check_development(self.seed, 1)
        policy = self.policy()
        env = environment_of(policy, self.env.given(), 1)
        results = evaluate_policy(env, policy, 1, self.seed, history=True)
        history = results["history"][0]
        console.print(_table(history))
        accuracy = float(results["test_accuracy"][0])
        console.print(
            f"test accuracy {accuracy:.4f}; loss, train and holdout are those after each env step"
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        drawn = animate_episode(history) if kind == "gif" else as_image(plot_episode(history), kind)
        replace_file(self.output, drawn)
        console.print(f"Written to {self.output}", soft_wrap=True)


def _table(history: dict[str, Any]) -> Table:
    """Returns a row for each env step of an episode."""
    table = Table("updates", "action", "learning rate", "loss", "train", "holdout", "score", "reward")
    table.box = rich.box.SIMPLE_HEAD
    columns = ("learning_rate", "loss", "train_score", "holdout_answer", "score", "reward")
    for step, updates in enumerate(history["updates"]):
        values = (float(np.ravel(history[name][step])[-1]) for name in columns)
        table.add_row(str(updates), history["action"][step], *(f"{value:.3g}" for value in values))
    return table
