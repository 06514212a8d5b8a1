"""The experiment of descent with mutations: what is run, how it resumes, and what choices are made by."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotrain_env import load_dataset
from autotrain_env.viewing.mutations import Records, mutation_table, read_mutation_records
from benchmarks import mutations
from benchmarks.mutations import Arguments, Case, NotTuned, final, matching_noise, tuning

SMALL = Case(
    "bare",
    (0, 1),
    learning_rate=0.1,
    classifier="mlp-100",
    train_size=100,
    selection_size=30,
    validation_size=40,
    epochs=6,
)
RULE = {"kind": "best", "offspring": 3, "scale": 0.1}


def pretend(records: Records, case: Case, validation: float) -> None:
    """A record of a case that ended at some validation accuracy; its test accuracy says the contrary."""
    records[case.key] = {
        "accuracies": {"validation": [[0.0], [validation]]},
        "losses": {"validation": [[2.0], [1 - validation]]},
        "test_accuracy": [1 - validation],
        "mean_square": 0.01,
    }


def tuned() -> Records:
    """Records of all that is tuned, of which later cases are better."""
    records: Records = {}
    for number, case in enumerate(tuning(records)):
        pretend(records, case, 0.01 * number)
    return records


def test_choices_are_made_by_validation_on_development_seeds():
    records: Records = {}
    seen = []
    for case in tuning(records):
        seen.append(case)
        pretend(records, case, 0.9 if case.learning_rate == 0.1 else 0.1)
    assert all(min(case.seeds) >= 100 for case in seen)
    cases = {case.name: case for case in final(records)}
    assert {case.seeds for case in cases.values()} == {tuple(range(10))}
    assert cases["base"].learning_rate == cases["bare"].learning_rate == 0.1
    assert len({case.key for case in cases.values()}) == len(cases) == 19
    best = next(case for case in reversed(seen) if case.rule and case.rule["kind"] == "best")
    pretend(records, best, 0.95)
    assert cases["MLP"].rule != best.rule == {case.name: case for case in final(records)}["MLP"].rule
    with pytest.raises(NotTuned, match=r"benchmarks.mutations tune"):
        list(final({}))


def test_one_factor_at_a_time():
    cases = {case.name: case for case in final(tuned())}
    base = cases["base"]
    for name in (
        "by accuracy",
        "50 offspring",
        "the same data",
        "pre-trained",
        "es",
        "noise without selection",
    ):
        other = replace(cases[name], name="base")
        fields = ("rule", "metric", "selection", "pretrained", "learning_rate", "classifier", "optimizer")
        changed = {field for field in fields if getattr(base, field) != getattr(other, field)}
        assert len(changed - {"metric"}) == 1, name
        assert replace(other, **{field: getattr(base, field) for field in changed}) == base


def test_gradient_noise_moves_weights_as_far_as_mutations_do():
    records = tuned()
    rate = next(final(records)).learning_rate
    variance, decay = matching_noise(records, rate, RULE)
    updates = np.arange(30 * 140)
    moved = (rate**2 * variance / (1 + updates) ** decay).sum()
    assert moved == pytest.approx(5 * 0.1**2 * 0.01, rel=1e-4)


def test_records_are_added_and_none_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = []

    def cases(records: Records) -> Iterator[Case]:
        yield SMALL
        yield replace(SMALL, name="base", rule=RULE)

    def run(case: Case, **more: Any) -> Any:
        made.append(case.name)
        return original(case, **more)

    original = mutations.run
    monkeypatch.setattr(mutations, "run", run)
    monkeypatch.setattr(mutations, "dataset_of", lambda case: load_dataset("digits"))
    monkeypatch.setitem(mutations.PARTS, "run", cases)
    arguments = Arguments("run", tmp_path / "records" / "found.jsonl")
    mutations.main(replace(arguments, minutes=-1.0))
    assert made == [] and "stopped" in capsys.readouterr().out
    mutations.main(arguments)
    first = arguments.records.read_bytes()
    mutations.main(arguments)
    assert made == ["bare", "base"] and arguments.records.read_bytes() == first
    found = list(read_mutation_records(arguments.records).values())
    assert [len(record["taken"]) for record in found] == [0, 1]
    assert found[0]["losses"]["train"][5] == found[1]["losses"]["train"][5]  # a pair until the evolution
    capsys.readouterr()
    mutations.main(Arguments("table", arguments.records))
    assert "| base |" in capsys.readouterr().out


def test_the_page_shows_what_the_records_say():
    page = (mutations.RECORDS.parents[2] / "docs" / "results" / "mutations.md").read_text()
    table = mutation_table(read_mutation_records(mutations.RECORDS)).splitlines()
    shown = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(shown) > 20 and set(shown) <= set(table)


def test_halves_share_no_class_and_tests_stay_tests(monkeypatch: pytest.MonkeyPatch):
    digits = load_dataset("digits")
    monkeypatch.setattr(mutations, "load_dataset", lambda name: digits)
    first, second = mutations.half_of_cifar(0), mutations.half_of_cifar(5)
    assert first.pool_size + second.pool_size == digits.pool_size and first.num_classes == 5
    assert first.test_size + second.test_size == digits.test_size
    place = int(np.flatnonzero(digits.labels >= 5)[0])
    assert np.array_equal(second.images[0], digits.images[place])
    assert second.labels[0] == digits.labels[place] - 5
    small = mutations.dataset_of(replace(SMALL, reduced={"pooling": 2, "test_images": 100}))
    assert (small.image_shape, small.test_size, small.pool_size) == ((1, 4, 4), 100, digits.pool_size)


def test_pre_trained_networks_get_a_last_layer_of_their_own(monkeypatch: pytest.MonkeyPatch):
    digits = load_dataset("digits")
    monkeypatch.setattr(mutations, "load_dataset", lambda name: digits)
    case = replace(SMALL, pretrained=True, epochs=0)
    given = mutations.pretrained_weights(case)
    record = mutations.run(case)
    drawn = mutations.make_descent(case, mutations.half_of_cifar(5))
    drawn.start_from(given, keep=2)
    loss = drawn.measure("test")[0]
    assert record["test_loss"] == pytest.approx(loss, abs=1e-4)
    assert not np.allclose(
        loss, mutations.make_descent(case, mutations.half_of_cifar(5)).measure("test")[0]
    )
