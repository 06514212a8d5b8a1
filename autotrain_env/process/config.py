"""All arguments of the environment, in one flat frozen dataclass."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from autotrain_env.data.registry import is_built_in, load_dataset
from autotrain_env.errors import (
    InvalidTypeError,
    InvalidValueError,
    as_number,
    check,
    check_at_least_0,
    check_flag,
    check_name,
    check_number,
    check_whole,
    in_brief,
    shortened,
    unknown_argument,
    unknown_name,
)
from autotrain_env.process.actions import ACTION_TYPES, ANNEALINGS, ActionType
from autotrain_env.process.descriptions import describe
from autotrain_env.process.lineage import SCORES
from autotrain_env.process.observations import METRIC_SETS, OBSERVATION_LAYOUTS
from autotrain_env.process.rewards import LARGEST, Baseline, RewardSettings
from autotrain_env.process.task_distributions import (
    Curriculum,
    Distribution,
    Sampler,
    as_classifiers,
    possible_values,
)
from autotrain_env.process.task_presets import as_task_distribution
from autotrain_env.process.tasks import MOST_INNER_STEPS, Task, is_users_own
from autotrain_env.training.engine import BACKENDS

INITIAL_STATES = ("random_inits", "zeros")
REWARD_SPLITS = ("validation", "holdout")
TERMINAL_STATES = ("last", "best_holdout")
DTYPES = {"float32": torch.float32, "float64": torch.float64}

_OF_FILES = (
    "data_root",
    "download",
    "log_path",
)  # arguments that say where files lie, and change no episode
_INITIAL_RATE, _CLASSIFIER, _OPTIMIZER = "'initial_learning_rate'", "'classifier'", "'optimizer'"
_BUDGET, _TRUNCATION = "'budget' [updates]", "'truncate_after' [env steps]"

OTHER_WORDS = {
    "learning_rate": _INITIAL_RATE,
    "lr": _INITIAL_RATE,
    "initial_lr": _INITIAL_RATE,
    **dict.fromkeys(("model", "module", "network", "net", "architecture", "policy"), _CLASSIFIER),
    **dict.fromkeys(("hidden_sizes", "hidden", "layers", "units", "dropout"), _CLASSIFIER),
    **dict.fromkeys(("momentum", "weight_decay", "betas", "eps", "optim"), _OPTIMIZER),
    **dict.fromkeys(("epochs", "num_epochs", "updates", "total_steps", "max_steps"), _BUDGET),
    **dict.fromkeys(("env_steps", "time_limit", "max_env_steps"), _TRUNCATION),
    **dict.fromkeys(("data", "images", "labels", "num_classes", "classes"), "'dataset'"),
    "test_size": "Dataset.from_arrays(..., test_images=..., test_labels=...)",
    "metric": "'score'",
    "noise": "'label_noise'",
    "seed": "reset(seed=...), which decides all that is random, or 'split_seed'",
    "options": "reset(options=...)",
    "task": "'tasks', or reset(options={\"task\": ...})",
    "num_envs": "gymnasium.make_vec(..., num_envs=...)",
    "autoreset_mode": "gymnasium.make_vec(..., autoreset_mode=...)",
}
"""What users mean by words of other software."""

TASK_FIELDS = tuple(f.name for f in dataclasses.fields(Task) if f.name != "inner_steps")
"""Fields of a task that an argument replaces in every task; `inner_steps` is for those that do not say."""
FLAGS = (
    *("train_on_holdout", "download", "reinit", "stop", "keep_before_divergence", "thresholdout"),
    "history_in_info",
)
MOST_SNAPSHOTS, MOST_NUMBERS = 10_000, 10_000_000
"""Largest H, and numbers in an observation: what takes more memory than there is says so first."""


@dataclass(frozen=True)
class AutoTrainConfig:
    """Arguments of `AutoTrain-v0`, checked.

    The arguments of a task (from `dataset` to `budget`) are `None` for what `tasks` says; anything else
    replaces it in every task. Each may be a sampler (`LogUniform`, `Uniform`, `Choice`).

    Args:
        inner_steps: Optimiser updates in one env step (T), where a task does not say how many.
        history_length: Samples of every metric kept per env step (K); divides `inner_steps`.
        num_snapshots: States that the agent sees and can rewind to, the current one included (H).
        score: What is to be maximised: `"accuracy"`; `"balanced_accuracy"`, the mean over the classes of
            the share of a class that is classified rightly, for classes of unequal size; or
            `"neg_log_loss"`, which is minus the log loss clipped to [-4 log C, 0] for C classes.
        tasks: What tasks are drawn from: a preset (`"default"`, `"rates"`, `"mixed"`, `"many"`,
            `"curriculum"`, `"real_runs"`, `"short_real_runs"`, `"training_runs"`), a `TaskDistribution`, a
            `Mixture` or a `Curriculum`.
        dataset: A name, a `Dataset`, `(images, labels)` or a `torch.utils.data.Dataset`.
        split_seed: Seed of the four-way split.
        train_size: Images in the train part.
        holdout_size: Images in the holdout part.
        validation_size: Images in the validation part.
        label_noise: Probability of a wrong label in the train and holdout part. `None` for what `tasks`
            says of built-in datasets, and for 0 with your own data, of which presets say nothing.
        classifier: Architecture; see `Task`.
        optimizer: Update rule; see `Task`.
        batch_size: Images in a minibatch; by default 64, or a quarter of the train part if that is less.
        initial_learning_rate: Learning rate at the start of an episode.
        initialization: Scheme of the first network.
        budget: Updates per episode, a multiple of `inner_steps`.
        measured: What the agent has measured: `"train_and_holdout"`, `"holdout"` or `"nothing"`; see
            `Task`.
        can_reinit: Whether other networks can be drawn; see `Task`.
        epochs_known: Whether the agent is told how many epochs the budget is; see `Task`.
        train_on_holdout: Whether gradients are computed on the holdout part, too: a control for schedules,
            which need no holdout. What is read on the holdout is then no estimate of anything.
        data_root: Folder of the torchvision datasets; `None` for the environment variable
            `AUTOTRAIN_DATA`, or else a folder in the user's cache.
        download: Whether missing torchvision datasets may be downloaded.
        lr_bounds: Smallest and largest learning rate.
        action_type: `"discrete"`, `"multi_discrete"`, `"continuous"` or `"learning_rate"`.
        lr_factors: Factors of the learning rate that discrete actions choose from.
        num_rewinds: Rewind distances that actions choose from, 0 (none) included; `None` for H.
        annealing: What a rate does by itself where actions scale it: `"none"`, or `"linear"`: factors
            depart from a straight line to 0 at the end of the budget, which a factor of 1 keeps to.
        max_lr_factor: Largest factor of a continuous action.
        rewind_sampling: Whether a continuous action's rewind is drawn (`"sample"`) or the likeliest
            (`"argmax"`).
        rewind_minibatches: What follows a rewind: `"fresh"` minibatches, or the `"same"` ones that followed
            that state before.
        rewind_noise: Standard deviation of normal noise that a rewind adds to every parameter, over the
            root mean square of the tensor that it belongs to.
        reinit: Whether the agent may re-initialise.
        stop: Whether the agent may stop.
        reinit_learning_rate: Rate after a re-initialisation: `"keep"`, `"initial"` or a number. The
            decision's own factor then multiplies it.
        initial_states: Rows 1 … H-1 at reset: `"random_inits"`, networks of other initialisation schemes,
            or `"zeros"`, missing.
        keep_before_divergence: Whether the state before an env step that diverged can be gone back to, as
            row 1. Else the diverged one takes its place, and from a network that diverges at once there is
            no way but to one that is drawn anew.
        observation_layout: `"stacked"` for shape (H, K, M), `"flat"` for one dimension.
        metrics: Metrics in the observation: the nine `"basic"` ones, or `"extended"` ones, which
            say besides whether holdout and train score are missing; with `"movement"` also how far
            parameters have moved; with `"epochs"` also how many epochs the budget is.
        thresholdout: Whether the holdout is guarded.
        thresholdout_threshold: Largest difference of train and holdout score that counts as agreement.
        thresholdout_sigma: Rate of Thresholdout's noise.
        thresholdout_budget: Disagreements answered per episode; `None` for no limit.
        reward: A preset (`"delta"`, `"sign"`, `"risa"`, `"terminal"`, `"baseline"`), or weights of named
            reward terms.
        reward_split: Part of the data that the reward's score is computed on: `"validation"` or
            `"holdout"` (which is then no longer held out).
        terminal_state: Which weights the reward looks at in the end: `"last"` or `"best_holdout"`.
        inter_reward: Size of the `sign` preset's reward in each step.
        final_reward_scale: Weight of the score in the end (presets `sign`, `terminal`).
        step_cost: The `risa` preset's cost per update; `None` for 1 / budget.
        divergence_penalty: Cost of each divergence, in every preset.
        time_cost: Cost per update, in every preset.
        baseline: For the `baseline` preset: the recorded curve `(updates, scores)` to be measured against,
            a mapping from `Task` to such curves, or a function from `Task` to one.
        truncate_after: Env steps after which an episode is truncated; `None` for never.
        history_in_info: Whether the last `info` of an episode holds its `history`, too; not for clients
            that stack `info` over steps or lanes.
        backend: How networks are computed side by side: `"native"` (compiled code), `"stacked"` or
            `"looped"` (torch), or `"auto"` for native where it can be had.
        device: Device that holds the networks, such as `"cpu"` or `"cuda"`.
        dtype: Dtype of the weights: `"float32"` or `"float64"`.
        log_path: File for one row per decision (`.jsonl` or `.csv`), written while it runs; `None` for
            none.

    Raises:
        InvalidValueError: If a value is not allowed.
        InvalidTypeError: If a value is of another kind where a name or an object is asked for.
    """

    inner_steps: int = 20
    history_length: int = 5
    num_snapshots: int = 4
    score: str = "accuracy"

    tasks: str | Distribution | Curriculum = "default"
    dataset: Any = None
    split_seed: Any = None
    train_size: Any = None
    holdout_size: Any = None
    validation_size: Any = None
    label_noise: Any = None
    classifier: Any = None
    optimizer: Any = None
    batch_size: Any = None
    initial_learning_rate: Any = None
    initialization: Any = None
    budget: Any = None
    measured: Any = None
    can_reinit: Any = None
    epochs_known: Any = None
    train_on_holdout: bool = False
    data_root: str | PathLike[str] | None = None
    download: bool = False

    lr_bounds: tuple[float, float] = (1e-4, 100.0)
    action_type: str = "discrete"
    lr_factors: tuple[float, ...] = (0.2, 0.8, 1.0, 1.2, 1.8)
    num_rewinds: int | None = None
    annealing: str = "none"
    max_lr_factor: float = 5.0
    rewind_sampling: str = "sample"
    rewind_minibatches: str = "fresh"
    rewind_noise: float = 0.0
    reinit: bool = True
    stop: bool = True
    reinit_learning_rate: str | float = "keep"
    initial_states: str = "random_inits"
    keep_before_divergence: bool = False
    observation_layout: str = "stacked"
    metrics: str = "basic"

    thresholdout: bool = True
    thresholdout_threshold: float = 0.04
    thresholdout_sigma: float = 0.01
    thresholdout_budget: int | None = None

    reward: str | Mapping[str, float] = "delta"
    reward_split: str = "validation"
    terminal_state: str = "last"
    inter_reward: float = 1.0
    final_reward_scale: float = 10.0
    step_cost: float | None = None
    divergence_penalty: float = 0.0
    time_cost: float = 0.0
    baseline: Baseline | None = None
    truncate_after: int | None = None

    history_in_info: bool = False
    backend: str = "auto"
    device: str = "cpu"
    dtype: str = "float32"
    log_path: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        self._check_sizes()
        self._check_choices()
        two = not self.needs_movement or self.num_snapshots > 1
        check(two, "num_snapshots", self.num_snapshots, f"at least 2 where metrics={self.metrics!r}")
        scales = self.annealing == "none" or self.action_type != "learning_rate"
        check(scales, "annealing", self.annealing, "'none' where actions set the rate itself")
        self._check_rates()
        self._check_files()
        for kind in (*ACTION_TYPES.values(), RewardSettings):  # each checks its own arguments
            self._gather(kind)
        check_device(self.device)
        if self.dataset is not None and not isinstance(self.dataset, (str, Sampler)):
            object.__setattr__(self, "dataset", load_dataset(self.dataset))
        object.__setattr__(self, "classifier", as_classifiers(self.classifier))
        if self.num_rewinds is None:
            object.__setattr__(self, "num_rewinds", self.num_snapshots)
        for level in self.task_distribution.levels:
            for part in level.parts:
                for length in itertools.product(part.possible("budget"), part.possible("inner_steps")):
                    self.check_length(*length)

    def _check_sizes(self) -> None:
        check_whole("inner_steps", self.inner_steps, 1, MOST_INNER_STEPS)
        check_whole("history_length", self.history_length, 1)
        check_whole("num_snapshots", self.num_snapshots, 1, MOST_SNAPSHOTS)
        self._check_inner_steps(self.inner_steps)
        check(
            self.num_snapshots * self.history_length * len(METRIC_SETS["epochs"]) <= MOST_NUMBERS,
            "(num_snapshots, history_length)",
            (self.num_snapshots, self.history_length),
            f"so that an observation has at most {MOST_NUMBERS:,} numbers",
        )
        if self.num_rewinds is not None:
            check_whole("num_rewinds", self.num_rewinds, 1)
            check(
                self.num_rewinds <= self.num_snapshots,
                "num_rewinds",
                self.num_rewinds,
                f"at most num_snapshots={self.num_snapshots}",
            )
        if self.truncate_after is not None:
            check_whole("truncate_after", self.truncate_after, 1)
        if self.thresholdout_budget is not None:
            check_whole("thresholdout_budget", self.thresholdout_budget, 0)

    def _check_choices(self) -> None:
        for name, known in (
            ("score", SCORES),
            ("action_type", ACTION_TYPES),
            ("observation_layout", OBSERVATION_LAYOUTS),
            ("metrics", METRIC_SETS),
            ("annealing", ANNEALINGS),
            ("initial_states", INITIAL_STATES),
            ("reward_split", REWARD_SPLITS),
            ("terminal_state", TERMINAL_STATES),
            ("rewind_minibatches", ("fresh", "same")),
            ("backend", BACKENDS),
            ("dtype", tuple(DTYPES)),
        ):
            check_name(name, getattr(self, name), known)
        for name in FLAGS:
            check_flag(name, getattr(self, name))

    def _check_rates(self) -> None:
        for name in ("lr_bounds", "lr_factors"):
            object.__setattr__(self, name, _as_numbers(name, getattr(self, name)))
        rate = self.reinit_learning_rate
        if isinstance(rate, str):
            if rate not in ("keep", "initial"):
                raise unknown_name("reinit_learning_rate", rate, ("keep", "initial", "a number"))
        else:
            allowed = '"keep", "initial" or above 0'
            check(as_number(rate) is not None, "reinit_learning_rate", rate, allowed)
            check_number("reinit_learning_rate", rate, lambda number: 0 < number < math.inf, allowed)
        for name in ("thresholdout_threshold", "thresholdout_sigma"):
            check_at_least_0(name, getattr(self, name), LARGEST)
        check_at_least_0("rewind_noise", self.rewind_noise, LARGEST)
        for name in ("thresholdout_threshold", "thresholdout_sigma", "rewind_noise"):
            object.__setattr__(self, name, float(getattr(self, name)))

    def _check_files(self) -> None:
        for name in ("data_root", "log_path"):
            value = getattr(self, name)
            is_path = value is None or (isinstance(value, (str, PathLike)) and "\0" not in str(value))
            if not is_path:
                raise InvalidTypeError(f"{name}={in_brief(value)} must be a path, or None")

    def _check_inner_steps(self, inner_steps: int) -> None:
        allowed = f"a divisor of inner_steps={inner_steps}"
        check(inner_steps % self.history_length == 0, "history_length", self.history_length, allowed)

    def check_length(self, budget: int, inner_steps: int | None) -> int:
        """Check that an episode's budget is a multiple of `inner_steps`, and that one of `history_length`.

        Args:
            budget: Updates per episode.
            inner_steps: Updates per env step that the task says, or `None`.

        Returns:
            Updates per env step.

        Raises:
            InvalidValueError: If it is not.
        """
        if inner_steps is None:
            inner_steps = self.inner_steps
        self._check_inner_steps(inner_steps)
        check(budget % inner_steps == 0, "budget", budget, f"a multiple of inner_steps={inner_steps}")
        return inner_steps

    @property
    def task_distribution(self) -> Distribution | Curriculum:
        """Returns what tasks are drawn from: `tasks`, with the arguments of a task given here put in."""
        given = {name: getattr(self, name) for name in TASK_FIELDS}
        given = {name: value for name, value in given.items() if value is not None}
        distribution = as_task_distribution(self.tasks)
        own = [
            data
            for data in possible_values(given.get("dataset"))
            if data is not None and is_users_own(data)
        ]
        if own and isinstance(self.tasks, str) and self.label_noise is None:
            given["label_noise"] = None  # a preset's noise is not meant for data that it does not know
        return distribution.replace(**given) if given else distribution

    @property
    def torch_dtype(self) -> torch.dtype:
        """Returns `dtype` as torch has it."""
        return DTYPES[self.dtype]

    @functools.cached_property
    def descriptions(self) -> dict[str, str]:
        """Returns every argument that makes a difference to episodes, as text that can be compared."""
        found = {}
        for entry in dataclasses.fields(self):
            if entry.name not in _OF_FILES:
                value = getattr(self, entry.name)
                if isinstance(value, str) and entry.name == "dataset" and not is_built_in(value):
                    value = load_dataset(value)  # what stands under the name may have changed
                found[entry.name] = describe(value)
        return found

    @property
    def needs_movement(self) -> bool:
        """Returns whether the metrics say how far parameters have moved, which has to be measured then."""
        return "movement" in METRIC_SETS[self.metrics]

    def make_action_type(self) -> ActionType:
        """Returns the action type that is asked for, with its arguments taken from here."""
        return self._gather(ACTION_TYPES[self.action_type])

    def reward_settings(self) -> RewardSettings:
        """Returns what decides the reward, checked."""
        return self._gather(RewardSettings)

    def _gather(self, kind: type[Any]) -> Any:
        """Returns an object of a dataclass whose fields are arguments of the environment."""
        return kind(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(kind)})


def _as_numbers(argument: str, values: Any) -> tuple[float, ...]:
    """Returns numbers as a tuple of floats.

    Raises:
        InvalidValueError: If they are something else.
    """
    listed = (
        isinstance(values, (tuple, list, np.ndarray)) and np.ndim(values) == 1
        if values is not None
        else False
    )
    numbers = [as_number(value) for value in values] if listed else [None]
    check(None not in numbers and len(numbers) <= 10_000, argument, values, "numbers, in a tuple or list")
    return tuple(number for number in numbers if number is not None)


def check_device(device: Any) -> None:
    """Check that a device is there.

    Args:
        device: Name of the device, such as `"cpu"` or `"cuda:0"`, or a `torch.device`.

    Raises:
        InvalidTypeError: If it is neither.
        InvalidValueError: If it is not there, or holds no numbers (`"meta"`).
    """
    if not isinstance(device, (str, torch.device)):
        raise InvalidTypeError(f"device={in_brief(device)} must be the name of a device")
    try:
        torch.zeros(1, device=device).cpu().numpy()
    except (RuntimeError, AssertionError, ImportError, ValueError) as error:
        there = "cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise InvalidValueError(
            f"device={in_brief(device)} is not there (there is: {there}): {shortened(str(error))}"
        ) from error


def make_config(arguments: dict[str, Any]) -> AutoTrainConfig:
    """Make a configuration of keyword arguments.

    Args:
        arguments: Values of arguments of `AutoTrainConfig`, by name.

    Returns:
        The configuration, checked.

    Raises:
        InvalidTypeError: If a name is unknown; those near it are named.
        InvalidValueError: If a value is not allowed; see `AutoTrainConfig`.
    """
    known = [f.name for f in dataclasses.fields(AutoTrainConfig)]
    for name in arguments:
        if name not in known:
            also = (*known, "render_mode", "max_episode_steps")
            raise unknown_argument(name, also, OTHER_WORDS, "autotrain_env.AutoTrainConfig")
    return AutoTrainConfig(**arguments)
