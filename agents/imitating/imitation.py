"""`train dagger`: a policy that imitates what would have been best in hindsight, in a run folder."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from agents.evolving.workers import Workers
from agents.imitating.fitting import fit
from agents.imitating.hyperparameters import check_imitated, read_imitation_hyperparameters
from agents.imitating.sweeps import Round, States, SweepTrial
from agents.runs.folder import RunConfig, RunFolder, recorded_environment
from agents.runs.lifecycle import (
    Interrupted,
    Interruption,
    Stopwatch,
    config_of,
    log_scalars,
    log_sizes,
    note_evaluation,
    state_to_resume,
)
from agents.runs.plain import write_plain
from agents.runs.progress import Reporter
from autotrain_env.policies.evaluation import make_evaluation_env
from autotrain_env.policies.stacked import make_spec
from autotrain_env.policies.trained import TrainedPolicy


@dataclass(frozen=True)
class ImitationProgress:
    """Where a run has come to.

    Args:
        round: Rounds that were played.
        states: States of all of them; `None` before the first.
        weights: Weights of the policy fitted to them.
        env_steps: Env steps of all lanes.
        updates: Updates of all networks.
        tasks: Tasks that were played.
    """

    round: int = 0
    states: States | None = None
    weights: dict[str, Tensor] | None = None
    env_steps: int = 0
    updates: int = 0
    tasks: int = 0


class Imitation:
    """A run of `train dagger`.

    Args:
        config: What to train, and how.
        folder: Folder where it is written.
        workers: Workers that play tasks; they have no influence on what comes out.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, workers: Workers) -> None:
        self.config, self.folder, self.workers = config, folder, workers
        self.stopwatch = Stopwatch()
        self.settings = read_imitation_hyperparameters(config.hyperparameters)
        self.evaluation_env = make_evaluation_env(
            config.env_id,
            min(config.num_envs, config.evaluation_episodes),
            log_path=folder.decisions,
            **config.env,
        )
        self.env_config = config_of(self.evaluation_env)
        check_imitated(self.env_config)
        keep = self.env_config.lr_factors.index(1.0)
        self.spec = dataclasses.replace(
            make_spec(
                self.evaluation_env.single_observation_space,
                self.evaluation_env.single_action_space,
                self.settings.net_arch,
                masked=True,
                environment=recorded_environment(config),
                versions={name: config.versions[name] for name in ("autotrain-env", "torch")},
            ),
            abstention={"distance": self.settings.abstention, "action": keep},
        )
        names = ("rates", "walkers", "explore", "states_per_task", "block_size", "threads")
        self.trial = SweepTrial(
            config.env_id,
            config.env,
            self.spec.as_json(),
            **{name: getattr(self.settings, name) for name in names},
        )

    def play(self, progress: ImitationProgress) -> tuple[ImitationProgress, dict[str, float]]:
        """Play a round and fit a policy to all rounds.

        Returns:
            The progress after it, and what is logged of it.
        """
        round_ = Round(progress.round, self.config.seed, progress.weights)
        swept = self.workers.evaluate(self.trial, round_, self.settings.tasks_per_round)
        known = [] if progress.states is None else [progress.states]
        states = States.join([*known, swept.states])
        weights = fit(states, self.spec, self.settings, self.config.seed + progress.round)
        after = ImitationProgress(
            progress.round + 1,
            states,
            weights,
            progress.env_steps + swept.env_steps,
            progress.updates + swept.updates,
            progress.tasks + len(swept.best),
        )
        gap = float(np.mean(swept.best - swept.walked))
        return after, {"best_rate": float(swept.best.mean()), "gap": gap, "states": float(len(states))}

    def policy(self, progress: ImitationProgress) -> TrainedPolicy:
        """Returns the policy of the last round."""
        assert progress.weights is not None
        return TrainedPolicy(self.spec, progress.weights)

    def save(self, progress: ImitationProgress) -> None:
        """Write a checkpoint."""

        def write(folder: Path) -> None:
            sizes = log_sizes(_logs(self.folder))
            state = {"progress": progress, "sizes": sizes, "minutes": self.stopwatch.minutes}
            write_plain(folder, state)

        self.folder.save_checkpoint(progress.env_steps, write)

    def go_on(self, state: Mapping[str, Any]) -> ImitationProgress:
        """Returns where a checkpoint's run had come to; the clock goes on from there."""
        self.stopwatch = Stopwatch(state["minutes"])
        progress: ImitationProgress = state["progress"]
        return progress

    def evaluate(self, progress: ImitationProgress) -> dict[str, float]:
        """Play the development episodes and add a point to the curve."""
        episodes = self.config.evaluation_episodes
        return note_evaluation(
            self.folder, self.evaluation_env, self.policy(progress), episodes, progress.env_steps
        )


def imitate(
    config: RunConfig, folder: RunFolder, report: Reporter, workers: Workers, *, resume: bool = False
) -> dict[str, Any]:
    """Train a policy by imitation, or go on with it.

    Args:
        config: What to train, and how; `train_steps` count the env steps of all lanes, and the round in
            which they are reached is the last one. `checkpoint_steps` has no meaning: every round ends
            with an evaluation and a checkpoint.
        folder: Folder where the run is written; it holds the configuration already.
        report: Told how far it is.
        workers: Workers that play tasks.
        resume: Whether to go on from the newest checkpoint, if there is one.

    Returns:
        What is written to `result.json`.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    state = state_to_resume(config, folder, _logs(folder)) if resume else None
    run = Imitation(config, folder, workers)
    with (
        closing(run.evaluation_env),
        Interruption() as interruption,
        SummaryWriter(str(folder.tensorboard)) as writer,
    ):
        progress = ImitationProgress() if state is None else run.go_on(state)
        while progress.env_steps < config.train_steps:
            if interruption.asked:
                raise Interrupted
            progress, row = run.play(progress)
            report(progress.env_steps / config.train_steps)
            log_scalars(writer, "round", row, progress.env_steps)
            if progress.env_steps < config.train_steps:  # the end is evaluated below
                log_scalars(writer, "evaluation", run.evaluate(progress), progress.env_steps)
            run.save(progress)
        result = {
            "steps": progress.env_steps,
            "updates": progress.updates,
            "minutes": run.stopwatch.minutes,
            "evaluation": run.evaluate(progress),
        }
    run.policy(progress).save(folder.path)
    folder.finish(result)
    return result


def _logs(folder: RunFolder) -> tuple[Path, ...]:
    return folder.decisions, folder.evaluations
