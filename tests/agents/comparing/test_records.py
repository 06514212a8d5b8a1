"""Records: whole, small, and refused where they are damaged."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import agents
from agents.comparing.records import (
    ANSWER,
    FILE,
    RECORD_COLUMNS,
    Record,
    RecordFile,
    describe,
    load_record,
    load_records,
    training_scores,
)
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


def test_what_is_added_is_loaded_again(results: dict[str, np.ndarray], tmp_path: Path):
    record = make_record(results, cost={"seconds": 1.5}, chosen={"learning_rate": 0.1})
    file = RecordFile(tmp_path)
    file.add(record)
    (loaded,) = load_records([tmp_path])
    assert loaded.name == record.name == "default/agent.q_learner.3"
    assert (loaded.label, loaded.seed, loaded.setup) == (record.label, 3, record.setup)
    assert loaded.cost == record.cost and loaded.chosen == record.chosen
    assert set(loaded.columns) == set(RECORD_COLUMNS)
    for name, values in record.columns.items():
        np.testing.assert_allclose(loaded.columns[name].astype(float), values.astype(float), rtol=1e-5)
    before = file.path.read_bytes()
    file.add(loaded)
    assert file.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl.gz"]


def test_paths_name_parts_of_a_file(results: dict[str, np.ndarray], tmp_path: Path):
    record = make_record(results)
    for target, seed in (("b", 1), ("a", 10), ("a", 2), ("a_b", None)):
        RecordFile(tmp_path / "one").add(replace(record, target=target, seed=seed))
    RecordFile(tmp_path / "two").add(record)

    def names(*parts: str) -> list[str]:
        return [found.name for found in load_records([tmp_path.joinpath(*parts)])]

    of_a = ["a/agent.q_learner.10", "a/agent.q_learner.2"]
    assert names() == [*names("one"), "default/agent.q_learner.3"]
    assert names("one") == [*of_a, "a_b/agent.q_learner", "b/agent.q_learner.1"]
    assert names("one", "records.jsonl.gz") == names("one")
    assert names("one", "a") == of_a and names("one", "a", "*.2") == of_a[1:]
    assert load_record(tmp_path / "one" / "a_b" / "agent.q_learner").seed is None
    with pytest.raises(FileNotFoundError, match="no record of that name"):
        names("one", "c")
    with pytest.raises(ValueError, match="the path of one record"):
        load_record(tmp_path / "one" / "a")


def test_what_was_added_first_is_replaced_and_the_rest_is_kept(
    results: dict[str, np.ndarray], tmp_path: Path
):
    record = make_record(results)
    first, second = RecordFile(tmp_path), RecordFile(tmp_path)  # as in two processes
    first.add(record)
    second.add(replace(record, seed=4))
    first.add(replace(record, cost={"seconds": 2.0}))
    assert [found.cost for found in load_records([tmp_path])] == [{"seconds": 2.0}, {}]


def test_single_files_of_before_are_read_too(results: dict[str, np.ndarray], tmp_path: Path):
    record = make_record(results)
    (tmp_path / "default").mkdir()
    for seed, answers in ((3, "holdout_score"), (4, "holdout_answer")):
        line = replace(record, seed=seed).as_line().replace(ANSWER.encode(), answers.encode())
        (tmp_path / "default" / f"agent.q_learner.{seed}.json").write_bytes(line)
    (tmp_path / "default" / "run.json").write_text("{}")  # no record, and not taken for one
    found = load_records([tmp_path])
    assert (
        [record.seed for record in found]
        == [3, 4]
        == [r.seed for r in load_records([tmp_path / "default"])]
    )
    assert all(ANSWER in example for record in found for example in record.examples)
    assert load_record(tmp_path / "default" / "agent.q_learner.4.json").seed == 4
    RecordFile(tmp_path).add(replace(record, cost={"seconds": 2.0}))
    assert [record.cost for record in load_records([tmp_path])] == [{"seconds": 2.0}, {}]


def test_a_record_of_200_episodes_is_below_100_kb(results: dict[str, np.ndarray]):
    many = {name: np.concatenate([values] * 10) for name, values in results.items()}
    curve = [dict.fromkeys(("train_steps", "score", "return"), 0.123456)] * 40
    assert 5_000 < len(make_record(many, learning_curve=curve).as_line()) < 100_000


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
def test_what_is_no_record_is_named(content: str, results: dict[str, np.ndarray], tmp_path: Path):
    good = make_record(results)
    path = tmp_path / "records.jsonl.gz"
    path.write_bytes(gzip.compress(good.as_line() + content.encode() + b"\n"))
    before = path.read_bytes()
    for read in (lambda: load_records([tmp_path]), lambda: RecordFile(tmp_path).add(good)):
        with pytest.raises(ValueError, match=r"records\.jsonl\.gz, line 2, is no record"):
            read()
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [lambda c: c[:-30], lambda c: b"no gzip", lambda c: c[:200] + c[210:]])
def test_a_damaged_file_is_named(
    damage: Callable[[bytes], bytes], results: dict[str, np.ndarray], tmp_path: Path
):
    file = RecordFile(tmp_path)
    file.add(make_record(results))
    file.path.write_bytes(damage(file.path.read_bytes()))
    with pytest.raises(ValueError, match=r"records\.jsonl\.gz is damaged"):
        load_records([tmp_path])


def test_other_formats_and_empty_folders_are_refused(results: dict[str, np.ndarray], tmp_path: Path):
    content = json.loads(make_record(results).as_line())
    with pytest.raises(ValueError, match="format=99"):
        Record.parse(json.dumps(content | {"format": 99}).encode(), "here")
    content["columns"]["updates"].pop()
    with pytest.raises(ValueError, match="of one length"):
        Record.parse(json.dumps(content).encode(), "here")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no records"):
        load_records([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
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
FOLDERS = sorted(path.parent for path in RESULTS.rglob(FILE))
FIRST = {"evolution": "es", "earlier_policies": "policy_8"}
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


def test_tables_say_where_backends_differ(results: dict[str, np.ndarray], tmp_path: Path):
    """Records of before name none; what is compared with them says so, too."""
    one = dataclasses.replace(make_record(results, backends=["native"]), method="a")
    RecordFile(tmp_path).add(one)
    (loaded,) = load_records([tmp_path])
    assert loaded.backends == ["native"]
    same, other, old = (
        dataclasses.replace(make_record(results, backends=backends), method="b")
        for backends in (["native"], ["looped", "stacked"], [])
    )
    assert "backends" not in make_tables([one, same], "a")
    assert "by native: a; by looped and stacked: b." in make_tables([one, other], "a")
    assert "by native: a; by a backend not recorded: b." in make_tables([one, old], "a")
