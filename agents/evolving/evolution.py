"""`train es`: evolving a policy in a run folder."""

import json
import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from agents.evolving.hyperparameters import begin_search, check_tasks, read_hyperparameters
from agents.evolving.members import Generation, Outcome, Trial, without_memory
from agents.evolving.workers import Workers
from agents.runs.folder import RunConfig, RunFolder, recorded_environment
from agents.runs.lifecycle import (
    Interrupted,
    Interruption,
    Stopwatch,
    log_scalars,
    log_sizes,
    note_evaluation,
    state_to_resume,
)
from agents.runs.plain import write_plain
from agents.runs.progress import Reporter
from agents.runs.seeds import evolution_seed
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.evolution import (
    SearchState,
    ask,
    tell,
)
from autotrain_env.evolution.sparse import SparseState
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.policies.evaluation import make_evaluation_env
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.stacked import single_policy
from autotrain_env.policies.trained import TrainedPolicy


@dataclass(frozen=True)
class Progress:
    """Where a run has come to.

    Args:
        search: The strategy's state.
        moments: Moments of all observations so far.
        env_steps: Env steps that all members took.
        updates: Updates of all networks.
        episodes: Episodes that were played.
    """

    search: SearchState
    moments: Moments
    env_steps: int = 0
    updates: int = 0
    episodes: int = 0


class Evolution:
    """A run of `train es`.

    Args:
        config: What to train, and how.
        folder: Folder where it is written.
        workers: Workers that evaluate members; they have no influence on what comes out.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, workers: Workers) -> None:
        self.config, self.folder, self.workers = config, folder, workers
        self.stopwatch = Stopwatch()
        self.settings, self.strategy = read_hyperparameters(config.hyperparameters)
        self.evaluation_env = make_evaluation_env(
            config.env_id,
            min(config.num_envs, config.evaluation_episodes),
            log_path=folder.decisions,
            **config.env,
        )
        env = self.evaluation_env.unwrapped
        assert isinstance(env, AutoTrainVectorEnv)
        check_tasks(env.config)
        self.env_config = env.config
        self.spec = self.settings.describe_policy(
            env.single_observation_space,
            env.single_action_space,
            environment=recorded_environment(config),
            versions={name: config.versions[name] for name in ("autotrain-env", "torch")},
        )
        self.trial = Trial(
            env_id=config.env_id,
            env=config.env,
            spec=self.spec.as_json(),
            episodes=self.settings.episodes,
            block_size=self.settings.block_size,
            fitness=self.settings.fitness,
            deterministic=self.settings.deterministic,
            behaviors=getattr(self.strategy, "novelty", None) is not None,
            threads=self.settings.threads,
        )

    def start(self) -> Progress:
        """Returns the state before the first generation."""
        search = begin_search(self.strategy, self.spec, self.env_config, self.config.seed)
        return Progress(search, Moments.empty(math.prod(self.spec.observation_space.shape)))

    def generation(self, progress: Progress) -> tuple[Progress, dict[str, Any]]:
        """Evaluate and learn from one generation.

        Returns:
            The progress after it, and a row for `generations.jsonl`.
        """
        search = progress.search
        population, asked = ask(search)
        is_seeded = isinstance(search, (EvolutionState, SparseState))
        generation = Generation(
            number=search.generation,
            task_seeds=tuple(
                evolution_seed(self.config.seed, search.generation * self.settings.episodes + episode)
                for episode in range(self.settings.episodes)
            ),
            source=without_memory(search) if is_seeded else population,  # type: ignore[arg-type]
            moments=progress.moments,
            seed=self.config.seed,
        )
        begin = time.monotonic()
        outcome = self.workers.evaluate(self.trial, generation, search.population_size)
        seconds = time.monotonic() - begin
        after = tell(asked, outcome.fitness, outcome.behaviors)
        moments = progress.moments
        if self.settings.normalize:
            for block in outcome.blocks:
                moments = moments.merge(block)
        progress = Progress(
            after,
            moments,
            progress.env_steps + outcome.env_steps,
            progress.updates + outcome.updates,
            progress.episodes + len(outcome.fitness) * self.settings.episodes,
        )
        return progress, self._row(progress, outcome, seconds)

    def _row(self, progress: Progress, outcome: Outcome, seconds: float) -> dict[str, Any]:
        report = {
            name: value
            for name, value in progress.search.report.items()
            if isinstance(value, (bool, int, float))
        }
        return {
            "generation": progress.search.generation,
            "train_steps": progress.env_steps,
            "episodes": progress.episodes,
            "score": float(outcome.score.mean()),
            "seconds_of_episodes": round(seconds, 4),
            **report,
        }

    def policy(self, progress: Progress) -> TrainedPolicy:
        """Returns the policy that the search has found."""
        return single_policy(self.spec, progress.search.parameters, progress.moments)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""

        def write(folder: Path) -> None:
            sizes = log_sizes(_logs(self.folder))
            state = {"progress": progress, "sizes": sizes, "minutes": self.stopwatch.minutes}
            write_plain(folder, state)

        self.folder.save_checkpoint(progress.env_steps, write)

    def go_on(self, state: Mapping[str, Any]) -> Progress:
        """Returns where a checkpoint's run had come to; the clock goes on from there."""
        self.stopwatch = Stopwatch(state["minutes"])
        return state["progress"]

    def evaluate(self, progress: Progress) -> dict[str, float]:
        """Play the development episodes and add a point to the curve."""
        episodes = self.config.evaluation_episodes
        return note_evaluation(
            self.folder, self.evaluation_env, self.policy(progress), episodes, progress.env_steps
        )


def evolve(
    config: RunConfig, folder: RunFolder, report: Reporter, workers: Workers, *, resume: bool = False
) -> dict[str, Any]:
    """Evolve a policy, or go on with it.

    Args:
        config: What to train, and how; `train_steps` count the env steps of all members.
        folder: Folder where the run is written; it holds the configuration already.
        report: Told how far it is.
        workers: Workers that evaluate members.
        resume: Whether to go on from the newest checkpoint, if there is one.

    Returns:
        What is written to `result.json`.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    state = state_to_resume(config, folder, _logs(folder)) if resume else None
    run = Evolution(config, folder, workers)
    with (
        closing(run.evaluation_env),
        Interruption() as interruption,
        SummaryWriter(str(folder.tensorboard)) as writer,
    ):
        progress = _search(
            run, run.start() if state is None else run.go_on(state), report, interruption, writer
        )
        result = {
            "steps": progress.env_steps,
            "updates": progress.updates,
            "generations": progress.search.generation,
            "minutes": run.stopwatch.minutes,
            "evaluation": run.evaluate(progress),
        }
    run.policy(progress).save(folder.path)
    folder.finish(result)
    return result


def _search(
    run: Evolution,
    progress: Progress,
    report: Reporter,
    interruption: Interruption,
    writer: SummaryWriter,
) -> Progress:
    """Make generations until all env steps are taken; return where the run has come to, saved.

    Raises:
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    config = run.config
    due = _next_multiple(progress.env_steps, config.checkpoint_steps)
    while progress.env_steps < config.train_steps and not interruption.asked:
        progress, row = run.generation(progress)
        _log(run, writer, row)
        report(progress.env_steps / config.train_steps)
        if due <= progress.env_steps < config.train_steps:  # the end is evaluated by the caller
            due = _next_multiple(progress.env_steps, config.checkpoint_steps)
            log_scalars(writer, "evaluation", run.evaluate(progress), progress.env_steps)
            run.save(progress)
    run.save(progress)  # before the last evaluation: what is cut short from here on is done again
    if interruption.asked:
        raise Interrupted
    return progress


def _logs(folder: RunFolder) -> tuple[Path, ...]:
    return folder.decisions, folder.evaluations, folder.generations


def _next_multiple(value: int, of: int) -> int:
    return (value // of + 1) * of


def _log(run: Evolution, writer: SummaryWriter, row: dict[str, Any]) -> None:
    with run.folder.generations.open("a") as file:
        file.write(json.dumps(row) + "\n")
    log_scalars(writer, "generation", row, row["train_steps"])
