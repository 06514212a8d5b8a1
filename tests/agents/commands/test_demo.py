"""The demonstration, on a small scale."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.commands.demo import Demo, summary, table
from agents.comparing.schedule_tuning import GRID
from autotrain_env.policies.trained import load_policy

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, Path]:
    output = tmp_path_factory.mktemp("demo")
    demonstration = Demo(train_steps=480, episodes=4, tuning_episodes=1, num_envs=4, output=output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.commands.demo.COMPARED_SCHEDULES", ("constant", "reduce_on_plateau"))
        return demonstration.play(Console(quiet=True)), output


def test_rows_are_paired_and_tuned_rates_are_of_the_grid(demo: tuple[list, Path]) -> None:
    rows, _ = demo
    assert [row.group for row in rows] == ["agent"] + ["random initial rates"] * 3 + ["best of grid"] * 2
    rates = rows[0].results["initial_learning_rate"]
    assert len(set(rates)) == 4
    for row in rows:
        np.testing.assert_array_equal(row.results["initial_learning_rate"], rates)
        assert (row.learning_rate in GRID) == (row.group == "best of grid")


def test_files(demo: tuple[list, Path]) -> None:
    rows, output = demo
    for name in ("comparison.png", "episode.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((output / "results.json").read_text())
    assert numbers["summary"] == summary(rows)
    accuracies = [row["test_accuracy"] for row in numbers["episodes"]]
    assert np.mean(accuracies[0]) == pytest.approx(numbers["summary"][0]["mean"])
    assert load_policy(output).spec.observation_space.shape == (4 * 5 * 9,)


def test_table_shows_every_row(demo: tuple[list, Path]) -> None:
    rows, _ = demo
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table(rows))
    text = captured.get()
    assert text.count("constant") == 2 and "PPO" in text and "…" not in text
