"""The comparisons of evolved classifiers: everything runs, once, and is counted as it should be."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env.evolution import EvolutionStrategy, init
from benchmarks import classifier_trainings
from benchmarks.classifier_tables import in_powers, in_seconds, interval, passes_at, table, to_target
from benchmarks.classifier_trainings import KINDS, OwnMinibatches, make_problem, write_arrays
from benchmarks.classifiers import COMPARISONS, Runner, evolution
from benchmarks.classifiers_worker import Data, rate_at, shapes_of

SMALL: dict[str, Any] = {"dataset": "digits", "classifier": "mlp-12", "batch_size": 50, "threads": 1}
STRATEGY = {"population_size": 16, "rank": 1, "scaling": "fan_in", "learning_rate": 0.1}


def test_a_training_with_a_record_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def train(settings: Any) -> dict[str, Any]:
        seen.append(settings)
        return {"points": [[1, 2, 0.5, 0.5, settings["rate"], 1.0]], "test": 0.5}

    monkeypatch.setitem(KINDS, "train", train)
    path = tmp_path / "deep" / "records.jsonl"
    for _ in range(2):
        run = Runner(path, lambda text: None)
        for seed in (0, 0, 1):
            assert run("part", "method", "train", rate=0.3, seed=seed)["test"] == 0.5
        assert run.best("part", "method", "train", [{"rate": 0.1}, {"rate": 0.4}, {"rate": 0.2}]) == {
            "rate": 0.4
        }
    assert len(seen) == 2 + 3 == len(path.read_text().splitlines())
    assert {settings["seed"] for settings in seen} == {0, 1, 100}


def test_every_comparison_asks_for_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def pretend(kind: str) -> Any:
        def train(settings: Any) -> dict[str, Any]:
            asked.append(kind)
            if kind == "evolve":
                EvolutionStrategy(**settings["strategy"])
            assert settings.get("threads", 1) in (1, 2)
            return {"points": [[1, 2, 0.5, 0.5, 0.9, 1.0]], "test": 0.5}

        return train

    for kind in list(KINDS):
        monkeypatch.setitem(KINDS, kind, pretend(kind))
    run = Runner(tmp_path / "records.jsonl", lambda text: None)
    for comparison in COMPARISONS.values():
        comparison(run, 5)
    assert set(asked) == set(KINDS)
    assert len(asked) == len(run.records)


@pytest.mark.parametrize(
    ("kind", "more", "passes"),
    [
        ("evolve", {"strategy": STRATEGY, "generations": 5, "keep_units": True}, 5 * 16 * 50),
        ("evolve", {"strategy": STRATEGY, "passes": 4_000}, 5 * 16 * 50),
        ("evolve", {"strategy": STRATEGY, "generations": 2, "own_minibatches": True}, 2 * 16 * 50),
        ("descend", {"optimizer": "Adam", "learning_rate": 0.01, "epochs": 2, "measurements": 4}, None),
        ("draw", {"networks": 3}, None),
    ],
)
def test_a_training_counts_its_passes(kind: str, more: dict[str, Any], passes: int | None):
    threads = torch.get_num_threads()
    try:
        record = KINDS[kind]({**SMALL, **more, "seed": 0})
    finally:
        torch.set_num_threads(threads)
    json.dumps(record)
    last = record["points"][-1]
    assert 0 <= record["test"] <= 1 and last[3] > 0
    if "keep_units" in more:
        units = np.frombuffer(base64.b64decode(record["units"]), np.int8).reshape(-1, 8, 8)
        assert len(units) == 12 and set(abs(units).max((1, 2))) <= {0, 127}
    if passes is not None:
        assert last[1] == passes
    if kind == "descend":
        problem = make_problem({**SMALL, "seed": 0})
        assert last[1] == 2 * (problem.train_size // 50 * 50)
        assert max(point[4] for point in record["points"]) > 0.5


def test_seconds_become_generations():
    settings = {**SMALL, "strategy": STRATEGY, "seconds": 0.2, "seed": 0}
    assert classifier_trainings.count_generations(settings, make_problem(settings)) > 5


def test_each_pair_has_a_minibatch_of_its_own():
    problem = make_problem({**SMALL, "seed": 0})
    state = init(
        EvolutionStrategy(**{**STRATEGY, "perturbation_std": 1e-9}), problem.initial_parameters(), 0
    )
    population, _ = state.ask()
    own, shared = OwnMinibatches(problem)(population, 3), problem.fitness(population, 3)
    # Members are all but equal, so that fitness differs by what they see.
    assert own.shape == (16,) and len({round(float(value), 4) for value in own}) == 8
    assert len({round(float(value), 4) for value in shared}) == 1
    assert torch.equal(own, OwnMinibatches(problem)(population, 3))


def test_others_get_the_same_data_and_network(tmp_path: Path):
    problem = make_problem({**SMALL, "seed": 4})
    write_arrays(problem, tmp_path, 4)
    centre = np.load(tmp_path / "centre.npy")
    data = Data(tmp_path, 50, 0)
    ours = problem.measure(torch.from_numpy(centre), "validation")
    accuracy, loss = data.measure(centre, [64, 12, 10], "validation")
    assert (accuracy, loss) == pytest.approx((ours["accuracy"], ours["log_loss"]), rel=1e-5)
    assert shapes_of([64, 12, 10])[-1][1] + 10 == len(centre)
    images, labels = data.minibatch()
    assert images.shape == (50, 64) and labels.shape == (50,)
    settings = {"generations": 10, "learning_rate": 0.2}
    assert rate_at(settings, 0) == 0.2 and rate_at(settings, 10) == pytest.approx(0.002)


def record(method: str, accuracies: list[float], test: float = 0.9) -> dict[str, Any]:
    points = [[n, 100 * n, 2.0 * n, 1.0 * n, accuracy, 1.0] for n, accuracy in enumerate(accuracies)]
    return {
        "job": {"part": "p", "method": method, "kind": "k", "settings": evolution(seed=0)},
        "points": points,
        "test": test,
    }


def test_tables_say_when_and_how_often_an_accuracy_was_reached():
    records = [record("ours", [0.1, 0.85, 0.92]), record("ours", [0.1, 0.7, 0.83], 0.8)]
    for target, written in ((0.8, "1.5 · 10²"), (0.9, "2.0 · 10² (1 of 2)"), (0.97, "")):
        assert to_target(records, target, passes_at, in_powers) == written
    text = table("p", records)
    assert "| ours | 2 | 1.5 | 2.0 (1 of 2) |" in text  # seconds of the processor, as one thread worked
    assert [in_seconds(value) for value in (0.254, 12.34, 1234.5)] == ["0.25", "12.3", "1,234"]
    assert interval([0.9]) == "90.00" and interval([0.9, 0.8]) == "85.00 ± 63.53"
