"""`evolve`: training a classifier by an evolution strategy, in a run folder.

| file | what |
|---|---|
| `run.json` | the whole configuration, seeds and versions |
| `checkpoints/GENERATIONS/` | the search, to go on from; the newest ones are kept |
| `generations.jsonl` | fitness on the minibatch and movement, a row for each generation |
| `evaluations.jsonl` | accuracy and log loss of the centre on the validation part |
| `tensorboard/` | scalars |
| `classifier.safetensors` | the `state_dict` of the network that validation chose |
| `curve.png` | a picture of the run |
| `result.json` | written last: a run that has it is finished |
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from agents.evolving.classifier_figures import plot_evolved_classifier
from agents.evolving.hyperparameters import field_names, read_strategy
from agents.evolving.members import threads, without_memory
from agents.evolving.workers import Serial, Workers
from agents.runs.folder import Configuration, RunFolder, versions
from agents.runs.lifecycle import (
    Interrupted,
    Interruption,
    Stopwatch,
    log_scalars,
    log_sizes,
    truncate_logs,
)
from agents.runs.plain import read_plain, write_plain
from agents.runs.progress import Reporter
from autotrain_env.errors import check, check_whole, unknown_name
from autotrain_env.evolution import ClassifierProblem, Cosine, EvolutionStrategy, ask, init, tell
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.files import replace_file
from autotrain_env.schemas import (
    Kind,
    anything,
    conform,
    mapping,
    optional,
    plain_name,
    structure,
    text,
    whole,
)
from autotrain_env.viewing.style import as_image

WEIGHTS_NAME, PICTURE_NAME = "classifier.safetensors", "curve.png"
CANDIDATES = 8  # for each image of a minibatch, where nothing else is said and losses can be weighed
SCHEDULES = ("cosine", "constant")
STRATEGY: dict[str, Any] = {
    "population_size": 512,
    "perturbation_std": 0.1,
    "rank": 1,
    "scaling": "fan_in",
    "optimizer": "adam",
    "learning_rate": 0.015,
}
"""Arguments of the strategy in place of its own defaults."""


@dataclass(frozen=True)
class ClassifierHyperparameters:
    """What can be said beside the strategy's own arguments.

    Args:
        batch_size: Images of the minibatch that all members of a generation share; see `ClassifierProblem`.
        candidates: Train images from which each image of the minibatch is drawn; see `ClassifierProblem`.
            By default 8 for `"log_loss"`, 1 for `"accuracy"`.
        fitness: `"log_loss"` (minus it) or `"accuracy"`.
        initialization: How the first centre is drawn.
        schedule: `"cosine"` (the rate falls to a hundredth over the run) or `"constant"`.
        block_size: Members that torch computes side by side.
        backend: How networks are computed, see `ClassifierProblem`.
        threads: Threads of torch in every process.
    """

    batch_size: int | None = None
    candidates: int | None = None
    fitness: str = "log_loss"
    initialization: str = "kaiming_normal"
    schedule: str = "cosine"
    block_size: int = 16
    backend: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values that nothing else checks."""
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        check_whole("threads", self.threads, 1)


def read_classifier_hyperparameters(
    given: Mapping[str, Any], generations: int
) -> tuple[ClassifierHyperparameters, EvolutionStrategy]:
    """Returns the hyperparameters of a run as checked settings.

    Args:
        given: Hyperparameters by name: fields of `ClassifierHyperparameters` or `EvolutionStrategy`.
        generations: Generations of the run, over which a schedule goes.

    Raises:
        InvalidValueError: If a name is unknown, or a value is not allowed.
    """
    own = field_names(ClassifierHyperparameters)
    settings = ClassifierHyperparameters(**{name: given[name] for name in given if name in own})
    left = {**STRATEGY, **{name: value for name, value in given.items() if name not in own}}
    strategy = read_strategy(EvolutionStrategy, left, "evolve", own)
    check(strategy.novelty is None, "novelty", strategy.novelty, "None: classifiers show no behaviour")
    rate = strategy.learning_rate
    if settings.schedule == "cosine" and not callable(rate):
        rate = Cosine(rate, generations, rate / 100)
    return settings, dataclasses.replace(strategy, learning_rate=rate)


@dataclass(frozen=True)
class EvolveConfig(Configuration):
    """Everything that decides what the evolution of a classifier computes.

    Args:
        dataset: Name of the data set.
        classifier: Name of the architecture.
        seed: Seed of the first centre, the noise, the minibatches and the split.
        generations: Generations to make.
        evaluation_generations: Generations between two evaluations, each with a checkpoint.
        train_size: Images of the train part; `None`: all that validation leaves.
        validation_size: Images of the validation part; `None`: a twelfth of the pool.
        hyperparameters: See `read_classifier_hyperparameters`.
        versions: Versions of the libraries.
    """

    dataset: str
    classifier: str
    seed: int
    generations: int
    evaluation_generations: int
    train_size: int | None
    validation_size: int | None
    hyperparameters: dict[str, Any]
    versions: dict[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("generations", "evaluation_generations"):
            check_whole(name, getattr(self, name), 1)
        check_whole("seed", self.seed, 0)


_CONFIG: Kind = structure(
    {
        "dataset": plain_name,
        "classifier": plain_name,
        "seed": whole(0),
        "generations": whole(1, 10**9),
        "evaluation_generations": whole(1, 10**9),
        "train_size": optional(whole(1)),
        "validation_size": optional(whole(1)),
        "hyperparameters": mapping(anything),
        "versions": mapping(text(200)),
    }
)


class EvolveFolder(RunFolder):
    """The folder of a run of `evolve`."""

    format: ClassVar[int | str] = "evolve 1"

    def config(self) -> EvolveConfig:  # type: ignore[override]
        """Returns the configuration.

        Raises:
            FileNotFoundError: If there is no run.
            InvalidValueError: If the file is damaged, or that of another kind of run.
        """
        return EvolveConfig(**conform(self._read_config(), _CONFIG, str(self.path / "run.json")))


@dataclass(frozen=True)
class ClassifierTrial:
    """How members are tried in any process: all that a `ClassifierProblem` is made of.

    Args:
        dataset: Name of the data set.
        classifier: Name of the architecture.
        fitness: Name of the fitness.
        batch_size: Images of a minibatch, or `None`.
        candidates: Train images from which each of these is drawn.
        train_size: Images of the train part, or `None`.
        validation_size: Images of the validation part, or `None`.
        seed: Seed of split and minibatches.
        block_size: Members that torch computes side by side.
        backend: How networks are computed.
        threads: Threads of torch.
        engine_threads: Threads of compiled code, which change no result.
    """

    dataset: str
    classifier: str
    fitness: str
    batch_size: int | None
    candidates: int
    train_size: int | None
    validation_size: int | None
    seed: int
    block_size: int
    backend: str
    threads: int
    engine_threads: int = 1

    @property
    def enough_members(self) -> int:
        """Returns how many members are worth sending to a worker, which computes the centre anew."""
        return _ENOUGH_MEMBERS

    def evaluate(self, generation: EvolutionState, members: range) -> np.ndarray:
        """Returns the fitness of some members, of which the first begins a block."""
        task, low_rank = problem_of(self), generation.low_rank is not None
        # Full noise not all at once: that of many members would fill the memory.
        together = len(members) if low_rank else _TOGETHER * self.block_size
        with threads(self.threads):
            parts = [
                task.fitness(generation.population(part), generation.generation, generation.around())
                for start in range(members.start, members.stop, together)
                for part in (range(start, min(start + together, members.stop)),)
            ]
        return torch.cat(parts).numpy()

    def join(self, outcomes: list[np.ndarray]) -> np.ndarray:
        """Returns the fitness of all members, in their order."""
        return np.concatenate(outcomes)


_ENOUGH_MEMBERS = 512
_TOGETHER = 8  # blocks whose full noise is drawn at once


@functools.lru_cache(maxsize=2)
def problem_of(trial: ClassifierTrial) -> ClassifierProblem:
    """Returns the problem that a trial describes, kept from one generation to the next."""
    return ClassifierProblem(
        trial.dataset,
        trial.classifier,
        fitness=trial.fitness,
        batch_size=trial.batch_size,
        candidates=trial.candidates,
        train_size=trial.train_size,
        validation_size=trial.validation_size,
        split_seed=trial.seed,
        seed=trial.seed,
        block_size=trial.block_size,
        backend=trial.backend,
        engine_threads=trial.engine_threads,
    )


@dataclass(frozen=True)
class Chosen:
    """The centre that was best on the validation part.

    Args:
        parameters: Its parameters, shape (d,).
        generation: After how many generations it was found.
        validation: Its accuracy and log loss there.
    """

    parameters: Tensor
    generation: int
    validation: dict[str, float]

    def better_of(self, other: "Chosen") -> "Chosen":
        """Returns the one with the higher accuracy, or of equal ones the lower log loss; of ties itself."""
        mine, others = self.validation, other.validation
        better = (others["accuracy"], -others["log_loss"]) > (mine["accuracy"], -mine["log_loss"])
        return other if better else self


@dataclass(frozen=True)
class EvolveProgress:
    """Where a run has come to.

    Args:
        search: The strategy's state.
        chosen: The best centre so far.
    """

    search: EvolutionState
    chosen: Chosen

    def in_words(self, generations: int) -> str:
        """Returns how good the network is after so many of all generations."""
        best = self.chosen.validation["accuracy"]
        return f"generation {self.search.generation:,} of {generations:,}: validation accuracy {best:.4f}"


class ClassifierEvolution:
    """A run of `evolve`.

    Args:
        config: What to train, and how.
        folder: Folder where it is written.
        workers: Workers that evaluate members; they have no influence on what comes out.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
    """

    def __init__(self, config: EvolveConfig, folder: EvolveFolder, workers: Workers) -> None:
        self.config, self.folder, self.workers = config, folder, workers
        self.settings, self.strategy = read_classifier_hyperparameters(
            config.hyperparameters, config.generations
        )
        # Where members are evaluated in this process alone, it may have what torch is allowed here.
        engine_threads = torch.get_num_threads() if isinstance(workers, Serial) else 1
        self.trial = make_trial(config, self.settings, engine_threads)
        self.problem = problem_of(self.trial)
        self.stopwatch = Stopwatch()
        self.logs = (folder.generations, folder.evaluations)

    @property
    def images_per_generation(self) -> int:
        """Returns how many forward passes of one image a generation takes."""
        return self.problem.forward_passes(self.strategy.population_size)

    def start(self) -> EvolveProgress:
        """Returns the state before the first generation, whose centre is evaluated."""
        search = begin_classifier_search(self.config, self.settings, self.strategy, self.problem)
        return EvolveProgress(search, self._evaluated(search))

    def go_on(self, state: Mapping[str, Any]) -> EvolveProgress:
        """Returns where a checkpoint's run had come to; the clock goes on from there."""
        self.stopwatch = Stopwatch(state["minutes"])
        return state["progress"]

    def generation(self, progress: EvolveProgress) -> tuple[EvolveProgress, dict[str, Any]]:
        """Evaluate and learn from one generation.

        Returns:
            The progress after it, and a row for `generations.jsonl`.
        """
        search = progress.search
        begin = time.monotonic()
        _, asked = ask(search)
        assert isinstance(asked, EvolutionState)
        # Here the noise that `ask` drew is at hand; elsewhere it is drawn anew, which gives the same.
        sent = asked if isinstance(self.workers, Serial) else without_memory(search)
        fitness = self.workers.evaluate(self.trial, sent, search.population_size)
        after = tell(asked, fitness)
        assert isinstance(after, EvolutionState)
        seconds = round(time.monotonic() - begin, 4)
        named = {
            name: value for name, value in after.report.items() if isinstance(value, (bool, int, float))
        }
        row = {"generation": after.generation, "seconds": seconds, **named}
        return dataclasses.replace(progress, search=after), row

    def evaluate(self, progress: EvolveProgress) -> EvolveProgress:
        """Evaluate the centre on the validation part; returns the progress with the better one chosen."""
        return dataclasses.replace(
            progress, chosen=progress.chosen.better_of(self._evaluated(progress.search))
        )

    def _evaluated(self, search: EvolutionState) -> Chosen:
        measured = self.problem.measure(search.parameters, "validation")
        row = {
            "generation": search.generation,
            "forward_passes": search.generation * self.images_per_generation,
            "minutes": round(self.stopwatch.minutes, 4),
            **measured,
        }
        with self.folder.evaluations.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return Chosen(search.parameters, search.generation, measured)

    def save(self, progress: EvolveProgress) -> None:
        """Write a checkpoint."""

        def write(folder: Path) -> None:
            sizes = log_sizes(self.logs)
            write_plain(folder, {"progress": progress, "sizes": sizes, "minutes": self.stopwatch.minutes})

        self.folder.save_checkpoint(progress.search.generation, write)

    def finish(self, progress: EvolveProgress) -> dict[str, Any]:
        """Write the chosen network, a picture and the result, which looks at the test part once."""
        chosen, folder = progress.chosen, self.folder
        result = {
            "generations": progress.search.generation,
            "forward_passes": progress.search.generation * self.images_per_generation,
            "minutes": self.stopwatch.minutes,
            "chosen_generation": chosen.generation,
            "validation": chosen.validation,
            "test": self.problem.measure(chosen.parameters, "test"),
        }
        weights = self.problem.state_dict(chosen.parameters)
        replace_file(folder.path / WEIGHTS_NAME, safetensors.torch.save(weights))
        rows = [json.loads(line) for line in folder.evaluations.read_text().splitlines()]
        initial = self.problem.initial_parameters(self.settings.initialization, self.config.seed)
        shape = self.problem.dataset.image_shape
        figure = plot_evolved_classifier(rows, result, weights, initial, shape)
        replace_file(folder.path / PICTURE_NAME, as_image(figure))
        folder.finish(result)
        return result


def make_trial(
    config: EvolveConfig, settings: ClassifierHyperparameters, engine_threads: int = 1
) -> ClassifierTrial:
    """Returns how members of a run are tried, with so many threads of compiled code in each process."""
    candidates = settings.candidates
    if candidates is None:
        candidates = CANDIDATES if settings.fitness == "log_loss" else 1
    return ClassifierTrial(
        dataset=config.dataset,
        classifier=config.classifier,
        fitness=settings.fitness,
        batch_size=settings.batch_size,
        candidates=candidates,
        train_size=config.train_size,
        validation_size=config.validation_size,
        seed=config.seed,
        block_size=settings.block_size,
        backend=settings.backend,
        threads=settings.threads,
        engine_threads=engine_threads,
    )


def begin_classifier_search(
    config: EvolveConfig,
    settings: ClassifierHyperparameters,
    strategy: EvolutionStrategy,
    problem: ClassifierProblem,
) -> EvolutionState:
    """Returns the state of a search before its first generation.

    Raises:
        InvalidValueError: If the strategy does not fit the network.
    """
    parameters = problem.initial_parameters(settings.initialization, config.seed)
    state = init(strategy, parameters, config.seed)
    assert isinstance(state, EvolutionState)
    return state


def check_evolve(config: EvolveConfig) -> None:
    """Raise an `InvalidValueError` unless a run can be begun."""
    settings, strategy = read_classifier_hyperparameters(config.hyperparameters, config.generations)
    begin_classifier_search(config, settings, strategy, problem_of(make_trial(config, settings)))


def evolve_classifier(
    config: EvolveConfig,
    folder: EvolveFolder,
    report: Reporter,
    workers: Workers,
    *,
    resume: bool = False,
    announce: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Evolve a classifier, or go on with it.

    Args:
        config: What to train, and how.
        folder: Folder where the run is written; it holds the configuration already.
        report: Told how far it is.
        workers: Workers that evaluate members.
        resume: Whether to go on from the newest checkpoint, if there is one.
        announce: Told about ten times how good the network is.

    Returns:
        What is written to `result.json`.

    Raises:
        InvalidValueError: If something in the configuration is not allowed.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    run = ClassifierEvolution(config, folder, workers)
    checkpoint = folder.newest_checkpoint() if resume else None
    state = None if checkpoint is None else read_plain(checkpoint)
    if resume:
        truncate_logs(run.logs, state["sizes"] if state else {})
    with (
        threads(run.settings.threads),
        Interruption() as interruption,
        SummaryWriter(str(folder.tensorboard)) as writer,
    ):
        progress = run.start() if state is None else run.go_on(state)
        told = 10 * progress.search.generation // config.generations
        while progress.search.generation < config.generations and not interruption.asked:
            progress, row = run.generation(progress)
            done = progress.search.generation
            with folder.generations.open("a") as file:
                file.write(json.dumps(row) + "\n")
            log_scalars(writer, "generation", row, done)
            report(done / config.generations)
            if done % config.evaluation_generations == 0 or done == config.generations:
                progress = run.evaluate(progress)
                log_scalars(writer, "chosen", progress.chosen.validation, done)
                run.save(progress)
                tenth = 10 * done // config.generations
                if announce is not None and tenth > told:
                    announce(progress.in_words(config.generations))
                    told = tenth
        if interruption.asked and progress.search.generation < config.generations:
            run.save(progress)
            raise Interrupted
        return run.finish(progress)
