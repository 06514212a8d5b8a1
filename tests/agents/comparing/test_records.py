"""Records: whole, small, and refused where they are damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import agents
from agents.comparing.records import COLUMNS, Record, describe, load_records, training_scores
from agents.reporting.report import make_tables
from agents.runs.folder import RunFolder
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env import AutoTrainVectorEnv
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.random_agent import RandomAgent


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    env = AutoTrainVectorEnv(20, autoreset_mode=AutoresetMode.DISABLED, classifier="mlp-8")
    return evaluate_policy(env, RandomAgent(), 20, DEVELOPMENT_SEED, history=True)


def make_record(results: dict[str, np.ndarray], **more: Any) -> Record:
    parts = describe(results, examples=True) | more
    return Record("q_learner", "agent", 3, "default", {"env": {"budget": 600}}, 0.1, **parts)


def test_what_is_saved_is_loaded_again(results: dict[str, np.ndarray], tmp_path: Path):
    record = make_record(results, cost={"seconds": 1.5}, chosen={"learning_rate": 0.1})
    path = record.save(tmp_path)
    assert path == tmp_path / "default" / "agent.q_learner.3.json"
    loaded = Record.load(path)
    assert (loaded.label, loaded.seed, loaded.setup) == (record.label, 3, record.setup)
    assert loaded.cost == record.cost and loaded.chosen == record.chosen
    assert set(loaded.columns) == set(COLUMNS)
    for name, values in record.columns.items():
        np.testing.assert_allclose(loaded.columns[name].astype(float), values.astype(float), rtol=1e-5)
    assert load_records([tmp_path])[0].label == loaded.label
    assert load_records([path, path])[1].label == loaded.label
    assert loaded.save(tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_record_of_200_episodes_is_below_100_kb(results: dict[str, np.ndarray], tmp_path: Path):
    many = {name: np.concatenate([values] * 10) for name, values in results.items()}
    curve = [dict.fromkeys(("train_steps", "score", "return"), 0.123456)] * 40
    path = make_record(many, learning_curve=curve).save(tmp_path)
    assert 5_000 < path.stat().st_size < 100_000


def test_curves_and_actions_are_means_over_episodes(results: dict[str, np.ndarray]):
    parts = describe(results, examples=True)
    histories = results["history"]
    assert parts["curve"]["score"][0] == pytest.approx(np.mean([h["score"][0] for h in histories]))
    assert parts["curve"]["score"][-1] == pytest.approx(np.mean([h["score"][-1] for h in histories]))
    longest = max(len(history["updates"]) for history in histories)
    assert len(parts["curve"]["updates"]) == longest
    going = [np.mean([len(h["updates"]) - 1 > step for h in histories]) for step in range(longest - 1)]
    np.testing.assert_allclose(np.sum(list(parts["actions"].values()), axis=0), going)
    stopped = np.mean([history["stop"].any() for history in histories])
    assert sum(parts["actions"]["stop"]) == pytest.approx(stopped) and stopped > 0
    rates = [example["learning_rate"][0] for example in parts["examples"]]
    assert rates[0] == max(results["initial_learning_rate"]) and len(rates) == 2


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "version": "0", "columns": 3}'])
def test_what_is_no_record_is_named(content: str, tmp_path: Path):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json is no record"):
        load_records([tmp_path])


def test_other_formats_and_empty_folders_are_refused(results: dict[str, np.ndarray], tmp_path: Path):
    path = make_record(results).save(tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(ValueError, match="format=99"):
        Record.load(path)
    content["columns"]["updates"].pop()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="of one length"):
        Record.load(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no records"):
        load_records([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_records([tmp_path / "nowhere"])


def test_scores_of_training_episodes_are_those_of_the_log(tmp_path: Path):
    run = RunFolder(tmp_path)
    rows = [
        {"score": k / 10, "terminated": k % 3 == 2, "truncated": k == 13, "lane": k % 2} for k in range(15)
    ]
    run.decisions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_scores(run) == {"episodes": [1, 2, 3, 4, 5, 6], "score": [0.2, 0.5, 0.8, 1.1, 1.3, 1.4]}
    grouped = training_scores(run, groups=2)
    assert grouped["episodes"] == [3, 6] and grouped["score"] == pytest.approx([0.5, 3.8 / 3])


def test_scores_of_evolution_are_those_of_its_generations(tmp_path: Path):
    run = RunFolder(tmp_path)
    rows = [{"score": k / 10, "episodes": 8 * (k + 1)} for k in range(5)]
    run.generations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_scores(run) == {"episodes": [8, 16, 24, 32, 40], "score": [0, 0.1, 0.2, 0.3, 0.4]}


RESULTS = Path(agents.__file__).parent / "results"
FOLDERS = sorted({path.parents[1] for path in RESULTS.rglob("*/*/*.json")})
FIRST = {"evolution": "es"}
"""Method whose lead a table is about, where it is not the agent with the most seeds."""


def is_large(folder: Path) -> bool:
    """Whether tables have so many rows, or seeds, that their intervals take seconds."""
    return folder.name == "evolution" or (folder / "tables.md").stat().st_size > 10_000


@pytest.mark.parametrize(
    "folder",
    [pytest.param(path, id=path.name, marks=[pytest.mark.slow] * is_large(path)) for path in FOLDERS],
)
def test_committed_tables_are_those_of_the_records(folder: Path):
    assert (folder / "tables.md").read_text() == make_tables(load_records([folder]), FIRST.get(folder.name))
