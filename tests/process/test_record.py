"""The record of a step: one schema, from which information, histories and the log are made."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from autotrain_env import AutoTrainEnv
from autotrain_env.process.record import (
    COLUMNS,
    EVERYWHERE,
    FINAL_COLUMNS,
    HISTORY,
    INFO,
    LOG,
    EpisodeHistory,
    History,
    StepRecord,
    columns_of,
    info_name,
    log_columns,
)

LANES, WINDOWS = 3, 2


def record(stamp: int = 0) -> StepRecord:
    """A record with other numbers in every lane."""
    values = {}
    for column in COLUMNS:
        shape = (LANES, WINDOWS) if column.per_window else (LANES,)
        numbers = np.arange(np.prod(shape)).reshape(shape) + 10 * stamp
        numbers = numbers % 2 if column.dtype is bool else numbers + 1 / 3
        values[column.name] = numbers.astype(column.dtype)
    return StepRecord(values, {"improvement": np.arange(LANES) / 3})


def test_names_are_unique_and_places_are_known():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert all(column.meaning and set(column.places) <= set(EVERYWHERE) for column in COLUMNS)
    assert log_columns(("a",))[-2:] == ("test_accuracy", "reward_a")


def test_the_environment_describes_what_its_information_holds():
    described = AutoTrainEnv.__doc__ or ""
    section = re.search(r"## Information\n(.*?)## ", described, re.S)
    assert section is not None
    named = set(re.findall(r"`(\w+)`", section[1])) - {"info"}
    shown = {info_name(column) for column in columns_of(INFO)}
    assert named == shown | {*FINAL_COLUMNS, "reward_terms"}


def test_information_is_fresh():
    made = record()
    info = made.info()
    for column in columns_of(INFO):
        shown = info[info_name(column)]
        assert shown.dtype == column.dtype and shown is not made.values[column.name]
        np.testing.assert_array_equal(shown, made.values[column.name])
    assert info.keys() == {info_name(column) for column in columns_of(INFO)} | {"reward_terms"}


def test_information_is_numbers_alone():
    assert all(column.dtype in (bool, np.int64, np.float64) for column in columns_of(INFO))


def history(**columns: Any) -> History:
    return History({name: np.array(column) for name, column in columns.items()})


EQUAL = history(score=[0.5, np.nan], updates=[0, 4], action=["reset", "lr kept"])


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (history(score=[0.5, np.nan], updates=[0, 4], action=["reset", "lr kept"]), True),
        (dict(EQUAL), True),
        (history(score=[0.5, np.nan], updates=[0, 4], action=["reset", "stop"]), False),
        (history(score=[0.5, 0.5], updates=[0, 4], action=["reset", "lr kept"]), False),
        (history(score=[0.5], updates=[0], action=["reset"]), False),
        (history(score=[0.5, np.nan], updates=[0, 4]), False),
        (history(), False),
        (None, False),
        ("score", False),
    ],
    ids=str,
)
def test_histories_are_equal_or_not(other: Any, equal: bool):
    """By one bool, also where `==` of their columns gives arrays."""
    assert (other == EQUAL) is equal and (other != EQUAL) is not equal
    if isinstance(other, Mapping):
        assert EQUAL.__eq__(other) is equal


def test_the_log_has_a_row_for_each_lane_and_the_last_window():
    made = record()
    final = {"test_accuracy": np.array([0.5, 0.6, 0.7])}
    rows = made.log_rows(np.array([0, 1]), final)
    assert [tuple(row) for row in rows] == [log_columns(("improvement",))] * 2
    for lane, row in enumerate(rows):
        ended = made.values["terminated"][lane] or made.values["truncated"][lane]
        assert row["test_accuracy"] == (final["test_accuracy"][lane] if ended else None)
        for column in columns_of(LOG):
            value = made.values[column.name][lane]
            assert row[column.name] == (value[-1] if column.per_window else value)


@pytest.mark.parametrize("steps", [1, 40])
def test_a_history_keeps_every_bit_of_every_lane(steps: int):
    history = EpisodeHistory(LANES, WINDOWS)
    for stamp in range(steps):
        history.append(np.array([0, 2]), record(stamp))
    assert history.length.tolist() == [steps, 0, steps]
    found: Any = history.of(2)
    assert found.keys() == {column.name for column in columns_of(HISTORY)}
    for column in columns_of(HISTORY):
        expected = np.stack([record(stamp).values[column.name][2] for stamp in range(steps)])
        assert found[column.name].dtype == column.dtype
        np.testing.assert_array_equal(found[column.name], expected)
    history.copy_lane(2, 1)
    np.testing.assert_array_equal(history.of(1)["score"], found["score"])
    history.clear(np.array([2]))
    assert history.length.tolist() == [steps, steps, 0]
