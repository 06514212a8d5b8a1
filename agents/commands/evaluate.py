"""`python -m agents evaluate`: a policy's results over episodes that training never met."""

from dataclasses import dataclass

import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table

from agents.commands.policy_arguments import PolicyArguments, environment_of
from agents.runs.progress import bars
from agents.runs.seeds import check_development
from autotrain_env.errors import check_whole
from autotrain_env.policies.evaluation import evaluate_policy, mean_interval


@dataclass
class Evaluate(PolicyArguments):
    """Evaluate a run's policy: test results over episodes that training never met."""

    episodes: int = 200
    """Episodes to play."""

    num_envs: int = 64
    """Networks trained side by side."""

    def run(self, console: Console) -> None:
        """Evaluate, and print the results."""
        check_whole("episodes", self.episodes, 1)
        check_whole("num_envs", self.num_envs, 1)
        check_development(self.seed, self.episodes)
        policy = self.policy()
        env = environment_of(policy, self.env.given(), self.num_envs)
        with bars(console) as bar, bar("evaluating") as report:
            results = evaluate_policy(env, policy, self.episodes, self.seed, progress=report)
        console.print(_table(f"{self.episodes} episodes of {policy.spec.environment['id']}", results))


def _table(title: str, results: dict[str, np.ndarray]) -> Table:
    """Returns a row for each result: its mean with its interval, and its range."""
    table = Table(box=rich.box.SIMPLE_HEAD, title=title)
    for name in ("", "mean", "95% interval", "lowest", "highest"):
        table.add_column(name, justify="left" if not name else "right")
    for name, values in results.items():
        mean, low, high = mean_interval(values)
        interval = f"[{low:.4g}, {high:.4g}]"
        table.add_row(name, f"{mean:.4g}", interval, f"{values.min():.4g}", f"{values.max():.4g}")
    return table
