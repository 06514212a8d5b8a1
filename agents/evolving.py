"""`train es`: evolving a policy in a run folder."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from gymnasium import spaces
from torch.utils.tensorboard import SummaryWriter

from agents.algorithms import action_bias
from agents.backends import Backend
from agents.members import FITNESS, Generation, Outcome, Trial, without_memory
from agents.progress import Report
from agents.runs import RunConfig, RunFolder
from agents.seeds import evolution_seed
from agents.training import (
    Interrupted,
    Interruption,
    Stopwatch,
    log_sizes,
    note_evaluation,
    read_state,
    truncate_logs,
)
from autotrain_env import AutoTrainConfig
from autotrain_env.errors import check, check_whole, unknown_name
from autotrain_env.evaluation import make_evaluation_env
from autotrain_env.evolution import (
    CMAES,
    Decay,
    EvolutionStrategy,
    Novelty,
    RandomSearch,
    SearchState,
    SearchStrategy,
    Shaping,
    SparseEvolutionStrategy,
    ask,
    init,
    tell,
)
from autotrain_env.evolution.noise import StudentT
from autotrain_env.evolution.sparse import SparseState
from autotrain_env.evolution.strategy import State
from autotrain_env.evolution.updates import UPDATES
from autotrain_env.moments import Moments
from autotrain_env.policies import PolicySpec, TrainedPolicy
from autotrain_env.stacked_policies import make_spec, policy_layout, single_policy
from autotrain_env.vector_env import AutoTrainVectorEnv

STRATEGIES: dict[str, type[Any]] = {
    "evolution": EvolutionStrategy,
    "sparse": SparseEvolutionStrategy,
    "cma_es": CMAES,
    "random_search": RandomSearch,
}
OF_THE_RUN = ("n_envs", "n_timesteps")
POLICIES = ("linear", "mlp", "gru")


@dataclass(frozen=True)
class EvolutionHyperparameters:
    """What `hyperparams/es.yml` says beside the strategy's own arguments.

    Args:
        strategy: One of `STRATEGIES`.
        policy: `"linear"`, `"mlp"`, or `"gru"` (a GRU of the first width, then hidden layers).
        net_arch: Widths of layers.
        normalize: Whether observations are normalised, with moments of all that members saw before this
            generation.
        masked: Whether impossible discrete actions are masked out.
        deterministic: Whether members take the likeliest actions, or draw them; the policy that is
            evaluated takes the likeliest.
        fitness: `"return"` or `"score"` (final, on the reward's split).
        episodes: That each member plays in a generation.
        block_size: Policies evaluated at once.
        threads: Of torch, in every process; more than one pay where there are more CPUs than processes.
    """

    strategy: str = "evolution"
    policy: str = "mlp"
    net_arch: tuple[int, ...] = (16,)
    normalize: bool = True
    masked: bool = False
    deterministic: bool = True
    fitness: str = "return"
    episodes: int = 1
    block_size: int = 32
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        for name, known in (("strategy", STRATEGIES), ("policy", POLICIES), ("fitness", FITNESS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name in ("episodes", "block_size", "threads"):
            check_whole(name, getattr(self, name), 1)
        listed = isinstance(self.net_arch, (list, tuple))
        check(listed, "net_arch", self.net_arch, "a list of widths")
        object.__setattr__(self, "net_arch", tuple(self.net_arch))
        wanted = {"linear": 0, "mlp": 1, "gru": 1}[self.policy]
        fits = len(self.net_arch) >= wanted and (wanted > 0 or not self.net_arch)
        check(fits, "net_arch", self.net_arch, "empty for a linear policy, else at least one width")

    def describe_policy(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], **record: Any
    ) -> PolicySpec:
        """What policies are evolved, for the spaces of one lane.

        Raises:
            ValueError: If such a policy cannot act in them.
        """
        recurrent = self.policy == "gru"
        return make_spec(
            observation_space,
            action_space,
            self.net_arch[1:] if recurrent else self.net_arch,
            recurrent=self.net_arch[0] if recurrent else None,
            normalize=self.normalize,
            masked=self.masked,
            sampled=not self.deterministic,
            **record,
        )


def begin_search(
    strategy: SearchStrategy, spec: PolicySpec, env_config: AutoTrainConfig, seed: int
) -> SearchState:
    """The state of a search before its first generation.

    The last layer begins at zero, so that members are alike but for their noise, and its biases where those
    of the algorithms of Stable-Baselines3 begin.

    Args:
        strategy: What is done.
        spec: Of the policies.
        env_config: Of the environment.
        seed: Training seed.

    Raises:
        ValueError: If the strategy does not fit the policy.
    """
    layout = policy_layout(spec)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in layout.shapes.items():
        weights[name] = torch.zeros(shape)
        if len(shape) == 2:
            weights[name].normal_(0, 1 / math.sqrt(shape[1]), generator=generator)
    last = f"layers.{len(spec.layers) - 1}"
    weights[f"{last}.weight"].zero_()
    if spec.head == "categorical":
        weights[f"{last}.bias"] = torch.from_numpy(action_bias(env_config))
    return init(strategy, layout.join(weights) if isinstance(strategy, CMAES) else weights, seed)


def check_tasks(env_config: AutoTrainConfig) -> None:
    """Raise a `ValueError` if tasks have levels, which evolution does not rise through."""
    levels = len(env_config.task_distribution.levels)
    check(levels == 1, "tasks", f"of {levels} levels", "of one level: es follows no curriculum")


def read_hyperparameters(given: Mapping[str, Any]) -> tuple[EvolutionHyperparameters, SearchStrategy]:
    """Hyperparameters of a run as checked settings.

    Args:
        given: As in `hyperparams/es.yml`. `distribution`, `shaping`, `optimizer`, `novelty` may be a name,
            or a mapping of it (`name`, or `kind` of novelty) and arguments; a learning rate or standard
            deviation may be a mapping of the arguments of `Decay`.

    Raises:
        TypeError: If an argument of something does not exist.
        ValueError: If a name is unknown, or a value is not allowed.
    """
    own = _names(EvolutionHyperparameters)
    settings = EvolutionHyperparameters(**{name: given[name] for name in given if name in own})
    kind = STRATEGIES[settings.strategy]
    left = {name: given[name] for name in given if name not in own and name not in OF_THE_RUN}
    for name in left:
        if name not in _names(kind):
            known = [*own, *_names(kind)]
            raise unknown_name(f"hyperparameter of strategy={settings.strategy!r}", name, known)
    return settings, kind(**{name: _read_value(name, value) for name, value in left.items()})


def replace_hyperparameters(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters with others in place of some; those that another strategy does not have are dropped.

    Args:
        known: From `hyperparams/es.yml`.
        given: What replaces them.

    Raises:
        ValueError: If there is no such strategy.
    """
    strategy = given.get("strategy", known["strategy"])
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, STRATEGIES)
    had = {*OF_THE_RUN, *_names(EvolutionHyperparameters), *_names(STRATEGIES[strategy])}
    return {**{name: value for name, value in known.items() if name in had}, **given}


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _read_value(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return Novelty(value) if name == "novelty" and isinstance(value, str) else value
    arguments = dict(value)
    if name in ("learning_rate", "perturbation_std", "std_learning_rate"):
        return Decay(**arguments)
    if name == "novelty":
        return Novelty(**arguments)
    if name == "shaping":
        return Shaping(**arguments)
    if name == "distribution":
        check(arguments.pop("name", None) == "student_t", name, value, "a name, or student_t and degrees")
        return StudentT(**arguments)
    if name in ("optimizer", "std_optimizer"):
        rule = arguments.pop("name", None)
        if rule not in UPDATES:
            raise unknown_name(name, rule, UPDATES)
        try:
            return replace(UPDATES[rule], **arguments)
        except TypeError as error:
            raise ValueError(f"{name}={value!r} is not allowed: {error}") from error
    return value


@dataclass(frozen=True)
class Progress:
    """Where a run has come to.

    Args:
        search: The strategy's state.
        moments: Of all observations so far.
        env_steps: Taken by all members.
        updates: Of all networks.
        episodes: Played.
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
        folder: Where it is written.
        backend: Where members are evaluated; has no influence on what comes out.

    Raises:
        ValueError: If something in the configuration is not allowed.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, backend: Backend) -> None:
        self.config, self.folder, self.backend = config, folder, backend
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
            environment={"id": config.env_id, "kwargs": config.env},
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
        """Before the first generation."""
        search = begin_search(self.strategy, self.spec, self.env_config, self.config.seed)
        return Progress(search, Moments.empty(math.prod(self.spec.observation_space.shape)))

    def generation(self, progress: Progress) -> tuple[Progress, dict[str, Any]]:
        """Evaluate and learn from one generation.

        Returns:
            The progress after it, and a row for `generations.jsonl`.
        """
        search = progress.search
        population, asked = ask(search)
        is_seeded = isinstance(search, (State, SparseState))
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
        outcome = self.backend.evaluate(self.trial, generation, search.population_size)
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
        """The policy that the search has found."""
        return single_policy(self.spec, progress.search.parameters, progress.moments)

    def save(self, progress: Progress) -> None:
        """Write a checkpoint."""

        def write(folder: Path) -> None:
            sizes = log_sizes(self._logs())
            with (folder / "state.pkl").open("wb") as file:
                state = {"progress": progress, "sizes": sizes, "minutes": self.stopwatch.minutes}
                cloudpickle.dump(state, file)

        self.folder.save_checkpoint(progress.env_steps, write)

    def _logs(self) -> tuple[Path, ...]:
        return self.folder.decisions, self.folder.evaluations, self.folder.generations

    def load(self) -> Progress:
        """Go on from the newest checkpoint, or begin where there is none; forget what was logged later."""
        checkpoints = self.folder.checkpoints()
        begin: dict[str, Any] = {"progress": None, "sizes": {}, "minutes": 0.0}
        state = read_state(checkpoints[-1]) if checkpoints else begin
        truncate_logs(self._logs(), state["sizes"])
        self.stopwatch = Stopwatch(state["minutes"])
        return state["progress"] or self.start()

    def evaluate(self, progress: Progress) -> dict[str, float]:
        """Play the development episodes and add a point to the curve."""
        episodes = self.config.evaluation_episodes
        return note_evaluation(
            self.folder, self.evaluation_env, self.policy(progress), episodes, progress.env_steps
        )


def evolve(
    config: RunConfig, folder: RunFolder, report: Report, backend: Backend, *, resume: bool = False
) -> dict[str, Any]:
    """Evolve a policy, or go on with it.

    Args:
        config: What to train, and how; `train_steps` count the env steps of all members.
        folder: Where the run is written; it holds the configuration already.
        report: Told how far it is.
        backend: Where members are evaluated.
        resume: Whether to go on from the newest checkpoint, if there is one.

    Returns:
        What is written to `result.json`.

    Raises:
        ValueError: If something in the configuration is not allowed.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    run = Evolution(config, folder, backend)
    progress = run.load() if resume else run.start()
    due = (progress.env_steps // config.checkpoint_steps + 1) * config.checkpoint_steps
    with Interruption() as interruption, SummaryWriter(str(folder.tensorboard)) as writer:
        while progress.env_steps < config.train_steps:
            if interruption.asked:
                run.save(progress)
                raise Interrupted
            progress, row = run.generation(progress)
            _log(run, writer, row)
            report(progress.env_steps / config.train_steps)
            if due <= progress.env_steps < config.train_steps:  # the end is evaluated below
                due = (progress.env_steps // config.checkpoint_steps + 1) * config.checkpoint_steps
                _scalars(writer, "evaluation", run.evaluate(progress), progress.env_steps)
                run.save(progress)
        run.save(progress)  # before the last evaluation: what is cut short from here on is done again
        if interruption.asked:
            raise Interrupted
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


def _log(run: Evolution, writer: SummaryWriter, row: dict[str, Any]) -> None:
    with run.folder.generations.open("a") as file:
        file.write(json.dumps(row) + "\n")
    _scalars(writer, "generation", row, row["train_steps"])


def _scalars(writer: SummaryWriter, prefix: str, values: Mapping[str, Any], steps: int) -> None:
    for name, value in values.items():
        if math.isfinite(value):
            writer.add_scalar(f"{prefix}/{name}", float(value), steps)
