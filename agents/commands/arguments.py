"""The environment's arguments on the command line: `--env.dataset mnist --env.inner-steps 20`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import docstring_parser
import tyro

from agents.comparing.records import load_record
from autotrain_env import AutoTrainConfig, Task, TaskDistribution
from autotrain_env.errors import check

_DESCRIBED = {
    "baseline": "For the `baseline` preset: a record of `compare`, such as "
    "runs/comparison/default/no_schedule.random; the reward is measured against its mean curve of the "
    "rewarded score."
}
_Class = TypeVar("_Class", bound=type)


def described_arguments(owner: type) -> dict[str, str]:
    """Returns what a class's docstring says of each argument."""
    parsed = docstring_parser.parse(owner.__doc__ or "", style=docstring_parser.DocstringStyle.GOOGLE)
    return {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}


def _with_help(owner: _Class) -> _Class:
    """Give every field the help text that the environment has for its argument of that name."""
    of_env = described_arguments(AutoTrainConfig)
    described = of_env | described_arguments(Task) | {"inner_steps": of_env["inner_steps"]} | _DESCRIBED
    defaults = {entry.name: entry.default for entry in dataclasses.fields(AutoTrainConfig)}
    of_tasks = vars(TaskDistribution())
    for name, kind in owner.__annotations__.items():
        default = f"env's default: {defaults[name]}"
        if defaults[name] is None and name in of_tasks:
            in_default = "" if of_tasks[name] is None else f", {of_tasks[name]} in 'default'"
            default = f"default: as env.tasks says{in_default}"
        argument = tyro.conf.arg(help=f"{described[name]} ({default})", help_behavior_hint="")
        owner.__annotations__[name] = Annotated[kind, argument]
    return owner


@dataclass(frozen=True)
@_with_help
class EnvArguments:
    """The arguments of `AutoTrainConfig` that can be written, `None` where not given.

    The run folder has its own `log_path`, and histories are not read from `info`.
    """

    inner_steps: int | None = None
    history_length: int | None = None
    num_snapshots: int | None = None
    score: str | None = None

    tasks: str | None = None
    dataset: str | None = None
    split_seed: int | None = None
    train_size: int | None = None
    holdout_size: int | None = None
    validation_size: int | None = None
    label_noise: float | None = None
    classifier: str | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    initial_learning_rate: float | None = None
    initialization: str | None = None
    budget: int | None = None
    measured: str | None = None
    can_reinit: bool | None = None
    epochs_known: bool | None = None
    train_on_holdout: bool | None = None
    data_root: str | None = None
    download: bool | None = None

    lr_bounds: tuple[float, float] | None = None
    action_type: str | None = None
    lr_factors: tuple[float, ...] | None = None
    num_rewinds: int | None = None
    annealing: str | None = None
    max_lr_factor: float | None = None
    rewind_sampling: str | None = None
    rewind_minibatches: str | None = None
    rewind_noise: float | None = None
    reinit: bool | None = None
    stop: bool | None = None
    reinit_learning_rate: float | str | None = None
    initial_states: str | None = None
    keep_before_divergence: bool | None = None
    observation_layout: str | None = None
    metrics: str | None = None

    thresholdout: bool | None = None
    thresholdout_threshold: float | None = None
    thresholdout_sigma: float | None = None
    thresholdout_budget: int | None = None

    reward: str | None = None
    reward_split: str | None = None
    terminal_state: str | None = None
    inter_reward: float | None = None
    final_reward_scale: float | None = None
    step_cost: float | None = None
    divergence_penalty: float | None = None
    time_cost: float | None = None
    baseline: Path | None = None
    truncate_after: int | None = None

    backend: str | None = None
    device: str | None = None
    dtype: str | None = None

    def given(self) -> dict[str, Any]:
        """Returns the arguments that were given, by name; of a baseline's record, the curve that it holds.

        Raises:
            FileNotFoundError: If there is no such record.
            InvalidValueError: If it is damaged, or holds no curve.
        """
        named = {name: value for name, value in vars(self).items() if value is not None}
        if self.baseline is not None:
            named["baseline"] = _curve_of(self.baseline, named.get("score", "accuracy"))
        return named


def _curve_of(path: Path, score: str) -> tuple[list[float], list[float]]:
    """Returns updates and scores of a record's mean curve."""
    record = load_record(path)
    recorded = record.setup["env"].get("score", "accuracy")
    check(recorded == score, "baseline", str(path), f"a record of score={score!r}, not of {recorded!r}")
    check({"updates", "score"} <= set(record.curve), "baseline", str(path), "a record with a curve")
    return record.curve["updates"], record.curve["score"]
