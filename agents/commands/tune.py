"""`python -m agents tune`: hyperparameters by Optuna."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from agents.commands.agent_arguments import AgentArguments
from agents.runs.progress import bars
from agents.runs.seeds import training_seed
from agents.training.algorithms import find_algorithm
from agents.training.hyperparameters import load_hyperparameters
from agents.training.tuning import SPACES, Study, open_study, run_study, write_hyperparameters
from autotrain_env.errors import check_whole, unknown_name


@dataclass
class Tune(AgentArguments):
    """Tune hyperparameters with Optuna; the same command goes on with a study, beside others, too."""

    algorithm: tyro.conf.Positional[str] = tyro.MISSING
    """One of: ppo, a2c, dqn, sac, td3, maskable_ppo, recurrent_ppo, qrdqn, trpo, ars."""

    trials: int = 30
    """Trials in the study, pruned ones included."""

    train_steps: int = 57_600
    """Env steps of each trial, over all lanes."""

    evaluations: int = 4
    """Evaluations of each trial, at which those that are worse than the median are pruned."""

    evaluation_episodes: int = 128
    """Episodes of each evaluation, on tuning seeds."""

    seed: int = 0
    """Seed of the sampler."""

    storage: Path | None = None
    """SQLite file of the study; by default runs/tuning/ALGORITHM-ID.db."""

    write: bool = False
    """Put the best hyperparameters into agents/hyperparams/, with the size of the study."""

    def run(self, console: Console) -> None:
        """Tune, and print the best hyperparameters."""
        study = self._study()
        storage = self.storage or Path("runs/tuning") / f"{study.algorithm}-{study.env_id}.db"
        made = open_study(study, storage)
        with bars(console) as bar, bar(f"tuning {study.algorithm}") as report:
            run_study(study, made, self.trials, report)
        console.print(f"best validation score {made.best_value:.4f} in {storage}, with")
        console.print_json(data=made.best_params)
        if self.write:
            console.print(f"Written to {write_hyperparameters(study, made)}", soft_wrap=True)

    def _study(self) -> Study:
        """Returns what is to be tried, checked.

        Raises:
            InvalidValueError: If something is not allowed.
        """
        algorithm = find_algorithm(self.algorithm)
        if algorithm.name not in SPACES:
            raise unknown_name("algorithm", algorithm.name, SPACES)
        env_id, kwargs, _ = self.environment(algorithm)
        for name in ("trials", "train_steps", "evaluations", "evaluation_episodes"):
            check_whole(name, getattr(self, name), 1)
        training_seed(self.seed, 1)
        num_envs = load_hyperparameters(algorithm.name, env_id)["n_envs"]
        num_envs = num_envs if self.num_envs is None else self.num_envs
        training_seed(0, num_envs)
        return Study(
            algorithm=algorithm.name,
            env_id=env_id,
            env=kwargs,
            num_envs=num_envs,
            train_steps=self.train_steps,
            evaluations=self.evaluations,
            evaluation_episodes=self.evaluation_episodes,
            seed=self.seed,
        )
