"""The environment's arguments on the command line: `--env.dataset mnist --env.inner-steps 20`."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from agents.comparing.records import load_record
from autotrain_env import AutoTrainConfig, Task, TaskDistribution
from autotrain_env.errors import check

# What is written as text for arguments that may be given other things in Python.
_WRITTEN: dict[str, Any] = {
    "tasks": str,
    "dataset": str,
    "split_seed": int,
    "train_size": int,
    "holdout_size": int,
    "validation_size": int,
    "label_noise": float,
    "classifier": str,
    "optimizer": str,
    "batch_size": int,
    "initial_learning_rate": float,
    "initialization": str,
    "budget": int,
    "data_root": str,
    "reward": str,
    "reinit_learning_rate": str | float,
    "baseline": Path,
}
_DESCRIBED = {
    "baseline": "For the `baseline` preset: a record of `compare`, such as "
    "runs/comparison/default/no_schedule.random; the reward is measured against its mean curve of the "
    "rewarded score."
}
_LEFT_OUT = ("log_path",)  # the run folder has its own


def describe_arguments(owner: type) -> dict[str, str]:
    """What a class's docstring says of each argument."""
    lines = inspect.cleandoc(owner.__doc__ or "").split("\n")
    begin = lines.index("Args:") + 1
    described: dict[str, str] = {}
    name = ""
    for line in lines[begin:]:
        if line and not line.startswith(" "):
            break
        started = re.match(r" {4}(\w+): (.*)", line)
        if started:
            name = started[1]
            described[name] = started[2]
        elif line.strip():
            described[name] += " " + line.strip()
    return described


def _make_arguments() -> type:
    described = describe_arguments(AutoTrainConfig) | describe_arguments(Task) | _DESCRIBED
    hints = get_type_hints(AutoTrainConfig)
    of_tasks = vars(TaskDistribution())
    fields = []
    for entry in dataclasses.fields(AutoTrainConfig):
        if entry.name in _LEFT_OUT:
            continue
        kind = _WRITTEN.get(entry.name, hints[entry.name])
        default = f"env's default: {entry.default}"
        if entry.default is None and entry.name in of_tasks:
            default = f"default: as env.tasks says, {of_tasks[entry.name]} in 'default'"
        text = f"{described[entry.name]} ({default})"
        is_optional = type(None) in get_args(kind) and get_origin(kind) is not tuple
        kind = kind if is_optional else kind | None
        annotated = Annotated[kind, tyro.conf.arg(help=text, help_behavior_hint="")]  # type: ignore[valid-type]
        fields.append((entry.name, annotated, dataclasses.field(default=None)))
    return dataclasses.make_dataclass("EnvArguments", fields, frozen=True)


EnvArguments: Any = _make_arguments()
"""A dataclass with the arguments of `AutoTrainConfig` that can be written, `None` where not given."""


def given(arguments: Any) -> dict[str, Any]:
    """The arguments that were given, by name; a baseline's curve in place of the record that holds it.

    Raises:
        FileNotFoundError: If there is no such record.
        ValueError: If it is damaged, or holds no curve.
    """
    named = {name: value for name, value in vars(arguments).items() if value is not None}
    if "baseline" in named:
        path = named["baseline"]
        record = load_record(path)
        curve = record.curve
        score, recorded = (env.get("score", "accuracy") for env in (named, record.setup["env"]))
        check(recorded == score, "baseline", str(path), f"a record of score={score!r}, not of {recorded!r}")
        check({"updates", "score"} <= set(curve), "baseline", str(path), "a record with a curve")
        named["baseline"] = (curve["updates"], curve["score"])
    return named
