"""Tables and pictures of descent with mutations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import LaneDescent, MutationRule
from autotrain_env.viewing.mutations import (
    Difference,
    curves_of,
    mutation_table,
    pairs_of,
    plot_mutation_curves,
    plot_mutation_differences,
    plot_offspring,
    read_mutation_records,
)


def record(name: str, gain: float = 0.0, evolved: bool = True, seeds: tuple[int, ...] = (0, 1, 2)) -> Any:
    """What three epochs measured, the second of which was an evolution; seed i is i points better."""
    count = len(seeds)
    accuracy = np.array([0.1, 0.3, 0.35, 0.5])[:, None] + 0.01 * np.arange(count)
    accuracy[-1] += gain * (1 + np.arange(count))
    some = [[0] * count] if evolved else []
    return {
        "case": {"name": name, "seeds": list(seeds)},
        "losses": {"train": (3 - accuracy).tolist(), "validation": (3 - accuracy).tolist()},
        "accuracies": {"train": accuracy.tolist(), "validation": accuracy.tolist()},
        "evolved": [False, False, evolved, False],
        "before": [[2.0, 2.0, None][:count]] if evolved else [],
        "after": [[1.9, 2.0, None][:count]] if evolved else [],
        "taken": [[1, 0, 0][:count]] if evolved else [],
        "backed_off": some,
        "test_accuracy": accuracy[-1].tolist(),
        "best_test_accuracy": accuracy[-1].tolist(),
    }


@pytest.fixture
def records(tmp_path: Path) -> Any:
    made = [
        record("cnn sgd", seeds=(100, 101)),
        record("bare", evolved=False),
        record("base", 0.01),
        record("bare, MLP", gain=0.1, evolved=False),
        record("MLP", 0.1),
        record("bare, all images", evolved=False),
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in made))
    return read_mutation_records(path)


def test_a_difference_has_the_interval_of_students_t():
    values = np.array([0.1, -0.2, 0.4, 0.3])
    found = Difference.of(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert Difference.of(np.array([0.01, 0.01])).text(100) == "+1.0 [+1.0, +1.0]"
    assert Difference.of(np.array([-0.02, -0.02])).text(100) == "−2.0 [−2.0, −2.0]"
    assert Difference.of(np.array([-0.0001, -0.0001])).text(100) == "+0.0 [+0.0, +0.0]"
    with pytest.raises(InvalidValueError, match="at least two"):
        Difference.of(np.array([1.0]))


def test_runs_are_held_against_their_own_bare_descent(records: Any):
    pairs = {pair.name: pair for pair in pairs_of(records)}
    assert {name: pair.bare["case"]["name"] for name, pair in pairs.items()} == {
        "base": "bare",
        "MLP": "bare, MLP",
        "bare, all images": "bare",
    }
    base = pairs["base"]
    difference = base.difference(lambda one: np.array(one["test_accuracy"]))
    assert difference.values == pytest.approx([0.01, 0.02, 0.03])
    assert base.at_equal_descent().values == pytest.approx([0.16, 0.17, 0.18])  # two epochs of descent
    assert base.changes_of_train_loss() == pytest.approx(np.full((1, 3), -0.05))


def test_tables(records: Any):
    results, claims = mutation_table(records).split("\n\n")
    assert "| base | 51.0 | 53.0 | +2.0 [−0.5, +4.5] |" in results
    assert "| 33% |" in results.splitlines()[2] and "| bare, all images |" in results
    assert "| base | 0% | −0.0500 |" in claims
    assert "| 3.0 | +0.0 [+0.0, +0.0] | −1.0 [−1.0, −1.0] |" in claims  # one of the three epochs evolved


def test_pictures(records: Any):
    axes = plot_mutation_differences(records).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bare, all images", "MLP", "base"]
    runs = {}
    for name, rule in (("bare", None), ("best", MutationRule(offspring=4))):
        sizes = {"train_size": 100, "selection_size": 30, "validation_size": 30, "batch_size": 20}
        descent = LaneDescent("digits", "mlp-8", seeds=[0, 1], every=1, rule=rule, **sizes)
        runs[name] = descent.run(4)
    panels = plot_mutation_curves(runs).axes
    assert len(panels) == 2 and all(len(axes.lines) == 2 and len(axes.patches) == 2 for axes in panels)
    (axes,) = plot_offspring({"best": runs["best"]}).axes
    assert sum(len(line.get_xdata()) for line in axes.lines[1::2]) == 2 * 2 * 4
    with pytest.raises(InvalidValueError, match="some with their bare descent"):
        plot_mutation_differences({})


def test_reading(records: Any, tmp_path: Path):
    curves = curves_of(next(iter(records.values())))
    assert curves.losses["train"].shape == (4, 2) and curves.evolved == [False, False, True, False]
    assert curves.mutations[0][0].after == 1.9 and curves.best_epochs.tolist() == [3, 3]
    assert read_mutation_records(tmp_path / "none.jsonl") == {}
    (tmp_path / "bad.jsonl").write_text("{}\n")
    with pytest.raises(InvalidValueError, match=r"bad.jsonl: line 1 is no record"):
        read_mutation_records(tmp_path / "bad.jsonl")
