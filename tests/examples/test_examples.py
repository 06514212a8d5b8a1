"""The jobs of the controller: each begins, and their table is what the records say."""

import dataclasses
import importlib
import json
import os
from pathlib import Path

import pytest

from examples import bad_starts, table
from examples.training import METHODS, train

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_IMAGES = ("wine", "breast_cancer", "digits_transformer", "language_model")
WITH_IMAGES = tuple(name for name in table.JOBS if name not in WITHOUT_IMAGES)


def begin(name: str, method: str = "controller") -> None:
    job = importlib.import_module(f"examples.{name}").make(0)
    for one, other in ((job.train, job.holdout), (job.train, job.test), (job.holdout, job.test)):
        assert len(one[0]) > 10 and len(one[0]) == len(one[1]) and one[0] is not other[0]
    short = dataclasses.replace(job, updates=10, holdout_batches=1)
    results, controller = train(short, method, None, 0, decisions=2, progress=False)
    assert controller.over and 0 <= results["last"] <= 1 and 0 <= results["best"] <= 1


@pytest.mark.parametrize("name", WITHOUT_IMAGES)
def test_a_job_begins(name: str):
    begin(name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_through_the_same_loop(method: str):
    begin("wine", method)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("AUTOTRAIN_DATA"), reason="AUTOTRAIN_DATA names no folder")
@pytest.mark.parametrize("name", WITH_IMAGES)
def test_a_job_with_images_begins(name: str):
    begin(name)


def test_there_are_ten_jobs():
    scripts = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert len(table.JOBS) == 10 and set(table.JOBS) <= scripts


def test_the_table_is_what_the_records_say():
    folder = ROOT / "examples" / "results"
    assert table.table(table.Records(folder)) + "\n" == (folder / "table.md").read_text()


def test_every_look_at_a_final_target_is_noted():
    folder = ROOT / "examples" / "results"
    made = {row["job"] for row in table.Records(folder).found.values()} & set(table.FINAL_TARGETS)
    looks = folder / "looks.jsonl"
    noted = [json.loads(line) for line in looks.read_text().splitlines()] if looks.exists() else []
    assert made <= {name for look in noted for name in look["targets"]}


def test_bad_starts_are_bad():
    assert {"rate 10", "rate 1e-6", "shuffled labels", "burst of NaN"} < set(bad_starts.CASES)
