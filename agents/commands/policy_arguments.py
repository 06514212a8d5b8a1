"""What `evaluate` and `replay` have in common: a policy, and the environment that it plays in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import tyro

from agents.commands.arguments import EnvArguments
from agents.runs.folder import RunFolder, check_environment, portable
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env.errors import check
from autotrain_env.policies.evaluation import make_evaluation_env
from autotrain_env.policies.trained import TrainedPolicy, load_policy


@dataclass
class PolicyArguments:
    """Arguments that say which policy plays where."""

    run_folder: tyro.conf.Positional[Path]
    """Folder of a finished run, or any folder with a policy; many and real_runs come with the package."""

    env: EnvArguments = field(default_factory=EnvArguments)
    """Arguments of the environment, in place of those that the policy was trained with."""

    seed: int = DEVELOPMENT_SEED
    """Seed of the first episode."""

    sample: bool = False
    """Draw actions instead of taking the likeliest."""

    def policy(self) -> TrainedPolicy:
        """Returns the policy.

        Raises:
            FileNotFoundError: If there is none, or its run is not finished.
        """
        RunFolder(self.run_folder).check_finished()
        return load_policy(self.run_folder, deterministic=not self.sample)


def environment_of(
    policy: TrainedPolicy, overrides: dict[str, Any], num_envs: int
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Returns the environment that a policy was trained in, some arguments replaced, for an evaluation.

    Where data lie, and whether they may be downloaded, is said by `overrides` alone.

    Raises:
        InvalidValueError: If the policy does not say which it was, or it is none of this project's.
    """
    trained = policy.spec.environment
    check(
        set(trained) - {"decisions"} == {"id", "kwargs"},
        "policy.json: environment",
        dict(trained),
        "an id and its kwargs",
    )
    check_environment(trained["id"], trained["kwargs"])
    kwargs = portable(trained["kwargs"]) | overrides
    return make_evaluation_env(trained["id"], num_envs, **kwargs)
