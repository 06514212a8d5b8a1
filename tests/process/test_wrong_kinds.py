"""Values of a wrong kind for every argument: taken, or refused by a message that names the argument."""

import dataclasses
import datetime
import decimal
import fractions
import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env import (
    CNN,
    MLP,
    SGD,
    Adam,
    AdamW,
    AutoTrainConfig,
    AutoTrainVectorEnv,
    Choice,
    Curriculum,
    LogUniform,
    Mixture,
    RMSprop,
    Task,
    TaskDistribution,
    Uniform,
)
from autotrain_env.errors import InvalidTypeError, InvalidValueError, UserError
from tests.helpers import tiny


class Unfriendly:
    """An object that even its own `repr` fails on."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


KINDS: list[Any] = [
    *("x", "", "a" * 100_000, "\ud800", "0.5", b"x", bytearray(b"x")),
    *(0, 1, 3, -1, 0.0, 1.5, -2.5, 1e30, 1e308, 5e-324, 10**30, -(10**30), 10**400, 10**5000),
    *(float("nan"), float("inf"), float("-inf"), 1j, True, False),
    *(decimal.Decimal(1), fractions.Fraction(1, 3), datetime.date(2020, 1, 1)),
    *([], [1, 2], [0.5, 2.0], ["a"], [None], [[1, 2], [3, 4]], (), (1, 2), (1, 2, 3), ("a", 1)),
    *(
        {},
        {"a": 1},
        {1: 2},
        {"improvement": "x"},
        {"improvement": 1e308},
        {"improvement": None},
        set(),
        {1},
    ),
    *(np.array([1.0, 2.0]), np.array(2.5), np.array("x"), np.float32("nan"), np.int64(3), np.bool_(True)),
    *(np.array([], object), np.array([None, {}], object), torch.tensor([1.0]), torch.tensor(3)),
    *(object(), Unfriendly(), print, lambda: 3, lambda task: 3, range(3), iter([1]), slice(1)),
    *(
        "meta",
        "cpu",
        torch.device("meta"),
        Path("x"),
        ([0, 1], [0.1, 1e308]),
        ([1, 0], [1, 2]),
        ("ab", "cd"),
    ),
]


def in_words(value: Any) -> str:
    try:
        return f"{type(value).__name__} {value!r}"[:40]
    except Exception:
        return type(value).__name__


def outcome(make: Callable[[], Any], names: str) -> str:
    """Whether a value was taken or refused; anything else fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            made = make()
        except FileNotFoundError:
            return "refused"
        except UserError as error:
            assert isinstance(error, (InvalidValueError, InvalidTypeError))
            assert re.search(names, str(error)), str(error)[:300]
            assert len(str(error)) < 2000
            return "refused"
    if isinstance(made, AutoTrainVectorEnv):
        made.close()
    return "taken"


def play(**kwargs: Any) -> AutoTrainVectorEnv:
    """An environment that was made, and can be played in."""
    env = AutoTrainVectorEnv(num_envs=2, **tiny(**kwargs))
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(3):
        _, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(reward).all()
    return env


NEIGHBOURS = {
    "inner_steps": "history_length|budget",
    "history_length": "inner_steps",
    "num_snapshots": "num_rewinds|history_length",
    "tasks": "budget|batch_size|.*",
    "dataset": "images|labels|batch_size|classifier|train_size|default_sizes",
    "reward": "baseline",
    "action_type": "lr_bounds",
    "baseline": "updates",
    "score": "score",
}
"""Arguments that a message may name in place of another, which decides what they may be."""


@pytest.mark.parametrize("name", [entry.name for entry in dataclasses.fields(AutoTrainConfig)])
def test_every_argument_of_the_environment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = {"taken": 0, "refused": 0}
    for value in KINDS:
        names = f"{name}|{NEIGHBOURS.get(name, name)}"
        found[outcome(functools.partial(play, **{name: value}), names)] += 1
    assert found["refused"] > 20, found
    assert not [path for path in tmp_path.iterdir() if name not in ("log_path", "data_root")]


ALWAYS = {"dataset": "digits"}
PLAIN: list[tuple[Any, dict[str, Any], str]] = [
    *((SGD, {}, "momentum|nesterov"), (RMSprop, {}, ""), (Adam, {}, ""), (AdamW, {}, "")),
    *((MLP, {}, ""), (CNN, {}, ""), (Choice, {"values": (1,)}, "")),
    *(
        (LogUniform, {"low": 1.0, "high": 2.0}, "low|high"),
        (Uniform, {"low": 1.0, "high": 2.0}, "low|high"),
    ),
    *((Task, {}, ""), (TaskDistribution, {}, "images|labels|.*")),
    (Curriculum, {"levels": (TaskDistribution(),)}, "promote_at|demote_at"),
    (Mixture, {"parts": (TaskDistribution(),)}, ""),
]


@pytest.mark.parametrize(("kind", "given", "others"), PLAIN, ids=lambda v: getattr(v, "__name__", ""))
def test_every_argument_of_what_it_is_made_of(kind: Any, given: dict[str, Any], others: str):
    for entry in dataclasses.fields(kind):
        found = {"taken": 0, "refused": 0}
        for value in KINDS:
            made = functools.partial(kind, **given | {entry.name: value})
            found[outcome(made, "|".join(filter(None, (entry.name, others))))] += 1
        assert found["refused"] > 0, (entry.name, found)


@pytest.mark.parametrize("optimizer", [SGD, RMSprop, Adam, AdamW])
def test_optimisers_that_are_taken_train(optimizer: Any):
    """Whatever their extremes: what is not finite is contained."""
    for entry in dataclasses.fields(optimizer):
        for value in KINDS:
            try:
                made = optimizer(**{entry.name: value})
            except UserError:
                continue
            play(optimizer=made).close()
