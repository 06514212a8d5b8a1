"""`python -m agents evaluate`: a policy's results over episodes that training never met."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import rich.box
import rich.markup
import tyro
from rich.console import Console
from rich.table import Table

from agents.commands.arguments import EnvArguments, given
from agents.runs.folder import RunFolder, check_environment
from agents.runs.progress import bars
from agents.runs.seeds import DEVELOPMENT_SEED, check_development
from autotrain_env.errors import check, check_whole
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env, mean_interval
from autotrain_env.policies.trained import TrainedPolicy, load_policy


@dataclass
class Evaluate:
    """Evaluate a run's policy: test results over episodes that training never met."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a finished run, or any folder with a policy."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those that the policy was trained with."""

    episodes: int = 200
    """Episodes to play."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the first episode."""

    num_envs: int = 64
    """Networks trained side by side."""

    sample: bool = False
    """Draw actions instead of taking the likeliest."""

    def run(self, console: Console) -> None:
        """Evaluate."""
        check_whole("episodes", self.episodes, 1)
        check_whole("num_envs", self.num_envs, 1)
        check_development(self.seed, self.episodes)
        RunFolder(self.run_folder).check_finished()
        policy = load_policy(self.run_folder, deterministic=not self.sample)
        env = environment_of(policy, given(self.env), self.num_envs)
        with bars(console) as bar, bar("evaluating") as report:
            results = evaluate_policy(env, policy, self.episodes, self.seed, progress=report)
        table = Table(
            box=rich.box.SIMPLE_HEAD, title=f"{self.episodes} episodes of {policy.spec.environment['id']}"
        )
        for name in ("", "mean", "95% interval", "lowest", "highest"):
            table.add_column(name, justify="left" if not name else "right")
        for name, values in results.items():
            mean, low, high = mean_interval(values)
            numbers = (mean, f"[{low:.4g}, {high:.4g}]", values.min(), values.max())
            table.add_row(name, *(n if isinstance(n, str) else f"{n:.4g}" for n in numbers))
        console.print(table)


def environment_of(
    policy: TrainedPolicy, overrides: dict[str, Any], num_envs: int
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """The environment that a policy was trained in, some arguments replaced, for an evaluation.

    Raises:
        ValueError: If the policy does not say which it was, or it is none of this project's.
    """
    trained = policy.spec.environment
    check(
        set(trained) == {"id", "kwargs"}, "policy.json: environment", dict(trained), "an id and its kwargs"
    )
    check_environment(trained["id"], trained["kwargs"])
    kwargs = trained["kwargs"] | overrides
    return make_evaluation_env(trained["id"], num_envs, **kwargs)
