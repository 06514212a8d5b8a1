"""Kinds of values in files, and the loaders that hold files to them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from autotrain_env.errors import InvalidValueError
from autotrain_env.schemas import (
    as_plain_name,
    column,
    file_part,
    flag,
    gunzip_limited,
    listed,
    mapping,
    number,
    one_of,
    optional,
    parse_json,
    plain_name,
    read_json,
    read_json_lines,
    read_tensors,
    structure,
    text,
    whole,
)

GOOD: list[tuple[Any, list[Any]]] = [
    (number(0, 1), [0, 1, 0.5]),
    (number(missing=True), [None, 1.5]),
    (whole(-1, 3), [-1, 3]),
    (flag, [True, False]),
    (text(3), ["", "äöü"]),
    (
        plain_name,
        ["ppo", "each task's own rate", "tuned, trained on train + holdout", "control: ppo", "x 0.3"],
    ),
    (file_part, ["default", "a_b", "policy-7.1"]),
    (one_of("a", "b"), ["a"]),
    (optional(whole()), [None, 3]),
    (listed(whole(), 2), [[], [1, 2]]),
    (mapping(number()), [{}, {"a": 1}]),
    (structure({"a": whole()}, {"b": flag}), [{"a": 1}, {"a": 1, "b": True}]),
]
BAD: list[tuple[Any, list[Any]]] = [
    (number(0, 1), [-0.1, 1.1, "0", None, True, float("nan"), 10**400, [], 10**30]),
    (whole(-1, 3), [-2, 4, 1.0, True, "1", None, 2**64]),
    (flag, [0, 1, "true", None]),
    (text(3), ["four", 3, None, "\0", "a\n", "\ud800"]),
    (
        plain_name,
        ["", "../x", "/x", "a/b", "a\\b", "..", ".x", "_x", "~", "a..b", "$x$", "a|b", "<b>", "a\tb", 3],
    ),
    (file_part, ["", "../x", "/x", "a/b", "a b", "ä", ".x", "-x", "a..", "C:", "x" * 101]),
    (one_of("a", "b"), ["c", 1, None, []]),
    (one_of(1), [True, 1.5, "1", 2]),
    (optional(whole()), ["x"]),
    (listed(whole(), 2), [[1, 2, 3], "ab", {}, [None]]),
    (mapping(number()), [[], {"a": "x"}, "a"]),
    (structure({"a": whole()}, {"b": flag}), [{}, {"b": True}, {"a": 1, "c": 2}, [], {"a": "x"}]),
]


@pytest.mark.parametrize(("kind", "values"), GOOD)
def test_what_holds_to_a_kind_is_given_back(kind: Any, values: list[Any]):
    for value in values:
        found = kind("field", value)
        assert found == value or (value is None and np.isnan(found))


@pytest.mark.parametrize(("kind", "values"), BAD)
def test_what_does_not_is_named(kind: Any, values: list[Any]):
    for value in values:
        with pytest.raises(InvalidValueError, match="field"):
            kind("field", value)


def test_columns_become_arrays():
    assert column()("field", [1, 2.5]).tolist() == [1.0, 2.5]
    assert column(object)("field", [1, 2]).dtype == np.int64 and column(bool)("field", [True]).dtype == bool
    assert np.isnan(column(missing=True)("field", [None, 1.0])[0])
    bad: list[Any] = [
        "x",
        [None],
        ["x"],
        [[1], [2]],
        [10**400],
        [float("nan")],
        [float("inf")],
        [1e999],
        None,
    ]
    for value in bad:
        with pytest.raises(InvalidValueError, match="field"):
            column()("field", value)


@pytest.mark.parametrize(
    "given", ["../x", "my#run", "a/b", "..", "", "_x", "ä ö", "x" * 500, "$\\frac$", "a\nb"]
)
def test_any_text_can_be_made_a_name(given: str):
    assert plain_name("field", as_plain_name(given)) == as_plain_name(given)


def test_names_that_are_good_stay():
    for name in ("ppo", "policy_11", "es_half_clipup", "each task's own rate"):
        assert as_plain_name(name) == name


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10**6, b"9" * 5000, b"[" * 70 + b"]" * 70])
def test_what_is_no_json_is_said_of_the_file(content: bytes, tmp_path: Path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InvalidValueError, match="x.json is damaged"):
        read_json(tmp_path / "x.json", whole())


def test_lines_are_named_by_their_numbers(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": "x"}\n')
    with pytest.raises(InvalidValueError, match=r"x\.jsonl, line 3, is damaged: a='x'"):
        list(read_json_lines(path, structure({"a": whole()})))
    path.write_text('{"a": 1}\n{"a"')
    assert list(read_json_lines(path, structure({"a": whole()}), whole=False)) == [{"a": 1}]
    with pytest.raises(InvalidValueError, match="line 2, is damaged"):
        list(read_json_lines(path, structure({"a": whole()})))


def test_parts_of_tensors_are_checked_before_they_are_read(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.arange(6.0).reshape(2, 3), "b": np.array([True])}, path)
    found = read_tensors(path, 10_000)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].dtype == torch.bool

    def never(described: Any) -> None:
        assert described["a"].device.type == "meta" and described["a"].shape == (2, 3)
        raise InvalidValueError("not wanted")

    with pytest.raises(InvalidValueError, match="not wanted"):
        read_tensors(path, 10_000, never)
    with pytest.raises(InvalidValueError, match="more than the 100"):
        read_tensors(path, 100)
    content = path.read_bytes()
    for damage in (content[:-1], content + b"\0", content[:4], b"\xff" * 8 + content[8:], b""):
        path.write_bytes(damage)
        with pytest.raises(InvalidValueError, match="x.safetensors"):
            read_tensors(path, 10_000)


def test_what_gzip_stands_for_has_a_limit():
    packed = gzip.compress(bytes(10**6))
    assert len(gunzip_limited(packed, "x", 10**6)) == 10**6
    for content, message in ((packed, "more than"), (packed[:-9], "cut off"), (b"x", "damaged")):
        with pytest.raises(InvalidValueError, match=message):
            gunzip_limited(content, "x", 10**6 - 1 if message == "more than" else 10**6)
    with pytest.raises(InvalidValueError, match="follows"):
        gunzip_limited(packed + b"x", "x", 10**6)


def test_json_holds_what_it_held():
    assert parse_json('{"a": [1, 2.5, null, true, "x"]}', "x") == {"a": [1, 2.5, None, True, "x"]}
