"""`python -m agents replay`: one episode, decision by decision."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rich.box
import rich.markup
import tyro
from rich.console import Console
from rich.table import Table

from agents.commands.arguments import EnvArguments, given
from agents.commands.evaluate import environment_of
from agents.runs.folder import RunFolder
from agents.runs.seeds import DEVELOPMENT_SEED, check_development
from autotrain_env.files import replace_file
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.trained import load_policy
from autotrain_env.viewing.run import plot_episode
from autotrain_env.viewing.style import as_image, check_image_kind


@dataclass
class Replay:
    """Play an episode with a run's policy: print its decisions, draw the controlled run."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a finished run, or any folder with a policy."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those that the policy was trained with."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the episode."""

    sample: bool = False
    """Draw actions instead of taking the likeliest."""

    output: Path = Path("runs/replay.png")
    """File for the picture."""

    def run(self, console: Console) -> None:
        """Replay."""
        kind = self.output.suffix[1:].lower() or "png"
        check_image_kind("ending of output", kind)
        check_development(self.seed, 1)
        RunFolder(self.run_folder).check_finished()
        policy = load_policy(self.run_folder, deterministic=not self.sample)
        env = environment_of(policy, given(self.env), 1)
        results = evaluate_policy(env, policy, 1, self.seed, history=True)
        history = results["history"][0]
        table = Table("updates", "action", "learning rate", "loss", "train", "holdout", "score", "reward")
        table.box = rich.box.SIMPLE_HEAD
        for step in range(len(history["updates"])):
            numbers = ("learning_rate", "loss", "train_score", "holdout_answer", "score", "reward")
            values = (float(np.ravel(history[name][step])[-1]) for name in numbers)
            table.add_row(
                str(history["updates"][step]),
                history["action"][step],
                *(f"{value:.3g}" for value in values),
            )
        console.print(table)
        accuracy = float(results["test_accuracy"][0])
        console.print(
            f"test accuracy {accuracy:.4f}; loss, train and holdout are those after each env step"
        )
        self.output.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.output, as_image(plot_episode(history), kind))
        console.print(f"Written to {self.output}", soft_wrap=True)
