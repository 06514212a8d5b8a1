"""The last exercise of a course on optimisation: its table is what the records say, and its loops train."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from examples import beat_the_benchmark as exercise

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "results"


def test_the_table_is_what_the_records_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exercise, "by_hand", None)  # nothing is missing, and nothing is made
    monkeypatch.setattr(exercise, "in_environment", None)
    table = exercise.table(exercise.Records(FOLDER))
    assert table + "\n" == (FOLDER / "beat_the_benchmark.md").read_text()


def test_settings_are_chosen_by_validation_and_test_is_looked_at_for_those_alone():
    records = exercise.Records(FOLDER)
    tested = {key[:4] for key in records.found if key[-1] == "test"}
    reported = {dataclasses.astuple(setting) for setting, _ in exercise.chosen(records).values()}
    assert tested == reported
    assert {key[-2] for key in records.found if key[-1] == "validation"} == {exercise.TUNING_SEED}
    assert exercise.TUNING_SEED not in exercise.SEEDS


@pytest.mark.parametrize("rule", exercise.HAND_RATES)
def test_loops_by_hand_train(rule: str, monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (300,), generator=generator)
    images = torch.randn(300, 1, 28, 28, generator=generator)
    images[torch.arange(300), 0, 0, labels] += 20
    data = torch.utils.data.TensorDataset(images, labels)
    monkeypatch.setattr(exercise, "parts", lambda: {"train": data, "validation": data})
    monkeypatch.setattr(exercise, "UPDATES", 60)
    setting = exercise.Setting("hand", rule, exercise.HAND_RATES[rule][1], drop=True)
    assert exercise.by_hand(setting, 0, "validation") > 0.9
    assert exercise.by_hand(dataclasses.replace(setting, rate=1e-9), 0, "validation") < 0.4


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("AUTOTRAIN_DATA"), reason="AUTOTRAIN_DATA names no folder")
@pytest.mark.parametrize("setting", [exercise.TUNED[12], exercise.POLICY], ids=str)
def test_schedules_and_the_policy_train(setting: exercise.Setting, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exercise, "UPDATES", 400)
    assert exercise.in_environment(setting, 0, "validation") > 0.85
