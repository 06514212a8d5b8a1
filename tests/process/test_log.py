"""The MDP log: one row per decision, as pandas reads it."""

import copy
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas
import pytest

from autotrain_env.process.log import MDPLog
from autotrain_env.process.record import log_columns
from tests.helpers import lane_of, tiny

LOG_COLUMNS = log_columns(())
endings = pytest.mark.parametrize("ending", ["jsonl", "csv"])


def read(path: Path) -> pandas.DataFrame:
    """What a user would call."""
    if path.suffix == ".jsonl":
        return pandas.read_json(path, lines=True, precise_float=True)
    return pandas.read_csv(path)


def rows_of(frame: pandas.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


SHARED = (  # columns that repeat the information of the step
    "learning_rate",
    "rewind",
    "updates",
    "train_score",
    "holdout_answer",
    "holdout_queries",
    "score",
    "diverged",
)


WORDS = {-1: ["reset"], 0: ["lr"], 1: ["rewind"], 2: ["reinit"], 3: ["stop"]}


def check_row(
    row: dict[str, Any], reward: float, terminated: bool, truncated: bool, info: dict[str, Any]
) -> None:
    """Compare a row with what `step` returned."""
    for name in SHARED:
        expected = info[name]
        if isinstance(expected, float):
            assert row[name] == pytest.approx(expected, rel=1e-12), name
        else:
            assert row[name] == expected, name
    assert any(word in row["action"] for word in WORDS[info["action"]])
    assert row["reward"] == pytest.approx(reward, rel=1e-12)
    assert (row["terminated"], row["truncated"]) == (terminated, truncated)
    for name, value in info["reward_terms"].items():
        assert row[f"reward_{name}"] == pytest.approx(value, rel=1e-12)
    if terminated or truncated:
        assert row["test_accuracy"] == pytest.approx(info["test_accuracy"], rel=1e-12)
    else:
        assert pandas.isna(row["test_accuracy"])


@endings
def test_the_rows_are_what_the_steps_returned(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make(
        "AutoTrain-v0",
        **tiny(
            history_in_info=True,
            log_path=path,
            reward="risa",
            divergence_penalty=1.0,
            lr_factors=(1.0, 1e30),
            lr_bounds=(1e-4, 1e30),
        ),
    )
    returned = []
    for seed, script in ((0, [0, 2, 6, 1, 2, 7]), (1, [0] * 6)):
        env.reset(seed=seed)
        for step, action in enumerate(script, 1):
            _, reward, terminated, truncated, info = env.step(action)
            returned.append((step, action, reward, terminated, truncated, info))
        assert terminated
    env.close()
    frame = read(path)
    assert list(frame.columns) == [
        *LOG_COLUMNS,
        "reward_improvement_sign",
        "reward_elapsed_cost",
        "reward_divergence",
    ]
    rows = rows_of(frame)
    assert len(rows) == len(returned) == 12
    for row, (step, action, reward, terminated, truncated, info) in zip(rows, returned, strict=True):
        check_row(row, reward, terminated, truncated, info)
        assert (row["step"], row["lane"]) == (step, 0)
        assert (row["reinit"], row["stop"]) == (action == 6, action == 7)
    assert frame["diverged"].any() and (frame["rewind"] > 0).any()
    losses = np.concatenate([returned[end][-1]["history"]["loss"][1:, -1] for end in (5, 11)])
    assert frame["loss"].to_numpy() == pytest.approx(losses, rel=1e-12)
    assert frame.groupby("episode_seed", sort=False).size().tolist() == [6, 6]


@endings
def test_a_vector_environment_writes_a_row_for_every_lane_that_ran(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=3, autoreset_mode="SameStep", **tiny(log_path=path))
    env.reset(seed=0)
    returned = []
    for actions in ([2, 7, 2], [2, 16, 15], [4, 2, 2], [16, 0, 16], [2, 2, 2]):
        _, rewards, terminated, truncated, info = env.step(np.array(actions))
        for lane in range(3):
            shown = info["final_info"] if terminated[lane] else info
            returned.append((lane, rewards[lane], terminated[lane], truncated[lane], lane_of(shown, lane)))
    rows = rows_of(read(path))
    assert len(rows) == 15
    for row, (lane, *result) in zip(rows, returned, strict=True):
        assert row["lane"] == lane
        check_row(row, *result)
    episodes = {(row["lane"], row["episode_seed"]) for row in rows}
    assert len(episodes) == 3 + 3  # each lane ended once
    env.close()


@endings
def test_lanes_that_idle_write_nothing(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=2, autoreset_mode="Disabled", **tiny(log_path=path))
    env.reset(seed=0)
    env.step(np.array([2, 16]))
    env.step(np.array([2, 2]))
    assert read(path)["lane"].tolist() == [0, 1, 0]


@endings
def test_the_log_is_on_disk_while_it_runs(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make("AutoTrain-v0", **tiny(log_path=str(path)))
    env.reset(seed=0)
    for step in range(1, 6):
        info = env.step(2)[-1]
        frame = read(path)
        assert len(frame) == step
        assert frame["score"].iloc[-1] == pytest.approx(info["score"])


@endings
def test_an_existing_log_is_continued(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    for seed in range(2):
        env = gymnasium.make("AutoTrain-v0", **tiny(log_path=path))
        env.reset(seed=seed)
        env.step(2)
        env.step(16)
        env.close()
    frame = read(path)
    assert frame["step"].tolist() == [1, 2, 1, 2]
    assert frame["action"].tolist() == ["lr kept", "stop"] * 2
    assert path.read_text().count("episode_seed") == (1 if ending == "csv" else 4)


@endings
def test_a_log_with_other_columns_is_refused_and_left_alone(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    env = gymnasium.make("AutoTrain-v0", **tiny(log_path=path))
    env.reset(seed=0)
    env.step(2)
    env.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"log_path='.*' is not allowed: it must be a file with columns"):
        gymnasium.make("AutoTrain-v0", **tiny(log_path=path, reward="risa"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("csv", "a,b,c\n1,2,3\n"),
        ("csv", "some notes\n"),
        ("jsonl", '{"a": 1}\n'),
        ("jsonl", "some notes\n"),
        ("jsonl", "[1, 2]\n"),
        ("jsonl", "3\n"),
    ],
)
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, ending: str, content: str):
    path = tmp_path / f"notes.{ending}"
    path.write_text(content)
    with pytest.raises(
        ValueError, match=r"log_path='.*notes.*' is not allowed: it must be a file with columns"
    ):
        gymnasium.make("AutoTrain-v0", **tiny(log_path=path))
    assert path.read_text() == content


@pytest.mark.parametrize("make", ["make", "make_vec"])
def test_a_path_that_cannot_be_written_is_reported_at_once(tmp_path: Path, make: str):
    (tmp_path / "folder.csv").mkdir()
    arguments = {} if make == "make" else {"num_envs": 2}
    for path, error in (
        (tmp_path / "missing" / "log.csv", FileNotFoundError),
        (tmp_path / "folder.csv", IsADirectoryError),
    ):
        with pytest.raises(error, match=rf"log_path='{path}' cannot be written"):
            getattr(gymnasium, make)("AutoTrain-v0", **arguments, **tiny(log_path=path))
    for name in ("log.txt", "log"):
        with pytest.raises(
            ValueError, match=r"log_path='.*' is not allowed: it must be a .jsonl or .csv file"
        ):
            getattr(gymnasium, make)("AutoTrain-v0", **arguments, **tiny(log_path=tmp_path / name))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.csv"]


def test_a_copy_of_the_environment_does_not_write_the_same_file(tmp_path: Path):
    path = tmp_path / "log.csv"
    env = gymnasium.make("AutoTrain-v0", **tiny(log_path=path)).unwrapped
    env.reset(seed=0)
    twin = copy.deepcopy(env)
    twin.step(2)
    assert len(read(path)) == 0
    env.step(2)
    assert len(read(path)) == 1


def test_the_log_alone(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    row = dict.fromkeys(LOG_COLUMNS, 1) | {"reward_improvement": np.float64(0.5), "action": 'a, "b"\nc'}
    with MDPLog(path, ("improvement",)) as log:
        log.write([row, row | {"test_accuracy": None, "diverged": np.bool_(True)}])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(lines[0]) == [*LOG_COLUMNS, "reward_improvement"]
    assert lines[0] == row
    assert lines[1]["test_accuracy"] is None and lines[1]["diverged"] is True
    with pytest.raises(KeyError):
        MDPLog(tmp_path / "other.csv", ("divergence",)).write([row])
