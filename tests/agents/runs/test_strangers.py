"""Folders of runs that somebody else has written, or that two processes want: nothing runs or is lost."""

import contextlib
import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.commands.evaluate import Evaluate
from agents.commands.policy_arguments import environment_of
from agents.runs.folder import LIST_NAME, MANIFEST_NAME, RunFolder
from agents.runs.plain import CLASSES, read_plain, write_plain
from autotrain_env.errors import InvalidValueError, UserError
from autotrain_env.policies.trained import load_policy
from tests.helpers.commands import ENV, STEPS, Captured, error_of, train
from tests.helpers.runs import ROOT, copy_of, rows_of, seal

pytestmark = pytest.mark.xdist_group("commands")


class Malicious:
    """Leaves a trace in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trace",)


def planted(folder: Path) -> list[bytes]:
    """Contents that run code where they are unpickled: by pickle, by torch, compressed."""
    torch.save(Malicious(), folder / "other")
    plain = pickle.dumps(Malicious())
    both = [plain, (folder / "other").read_bytes(), gzip.compress(plain)]
    (folder / "other").unlink()
    return both


@pytest.fixture
def unfinished(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that can be gone on with."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return copy_of(RunFolder(finished), tmp_path / "run", finished=False)


def resume(run: RunFolder, *more: str) -> None:
    train(run.path, "--resume", *more)


def everything_of(run: RunFolder) -> list[str]:
    """All files of a run that it is gone on with, by their names within."""
    paths = sorted(path for path in run.path.rglob("*") if path.is_file())
    return [path.relative_to(run.path).as_posix() for path in paths if "tensorboard" not in path.parts]


def test_a_pickle_in_any_file_is_never_run(unfinished: RunFolder, tmp_path: Path):
    pickle.loads(pickle.dumps(Malicious()))
    assert Path("trace").exists()  # it does what it threatens
    Path("trace").rmdir()
    names, tried = everything_of(unfinished), 0
    older = [
        f"checkpoints/{unfinished.checkpoints()[-1].name}/{name}"
        for name in ("state.pkl", "model.zip", "replay_buffer.pkl", "data", "pytorch_variables.pth")
    ]
    for name in [*names, *older]:
        for content in planted(tmp_path):
            for sealed in (False, True):
                run = RunFolder(shutil.copytree(unfinished.path, tmp_path / f"planted{tried}"))
                (run.path / name).write_bytes(content)
                if sealed:
                    seal(run)
                for command in (resume, lambda run: RunFolder(run.path).result()):
                    with contextlib.suppress(UserError, SystemExit, FileNotFoundError):
                        command(run)
                assert not list(tmp_path.rglob("trace")), name
                tried += 1
                shutil.rmtree(run.path)
    assert tried >= 6 * 12


@pytest.mark.parametrize("listed", [False, True])
def test_a_planted_checkpoint_counts_only_where_the_run_lists_it(
    listed: bool, unfinished: RunFolder, tmp_path: Path, capsys: Captured
):
    """And even then, it runs nothing."""
    newest = unfinished.checkpoints()[-1]
    place = newest.with_name("9999999999")
    place.mkdir()
    for name, content in zip(("state.pkl", "model.zip", "state.json"), planted(tmp_path), strict=True):
        (place / name).write_bytes(content)
    if listed:
        seal(unfinished)
        command = ("train", "ppo", *ENV, *STEPS, "--output", str(unfinished.path), "--resume")
        assert "state.json is damaged" in error_of(capsys, *command)
    else:
        assert unfinished.checkpoints()[-1] == newest
        resume(unfinished)
        assert unfinished.finished
    assert not list(tmp_path.rglob("trace"))


@pytest.mark.parametrize(
    "name", ["os.system", "system", "Popen", "eval", "MDPLog", "from_recipe", "__import__"]
)
def test_a_state_names_no_other_class(name: str, tmp_path: Path):
    described = {"call": name, "arguments": ["touch trace"]}
    write_plain(tmp_path, {})
    content = json.loads((tmp_path / "state.json").read_text())
    for kind in (described, {"class": name}, {"new": name, "arguments": [], "attributes": {}}):
        (tmp_path / "state.json").write_text(json.dumps(content | {"objects": [kind], "root": [0]}))
        with pytest.raises(
            InvalidValueError, match=f"state.json is damaged.*class='{name}' is not a known"
        ):
            read_plain(tmp_path)
    assert name not in CLASSES and not (tmp_path / "trace").exists()


def test_a_state_that_is_nothing_does_not_begin_anew_in_silence(unfinished: RunFolder, capsys: Captured):
    """Nor does a list that lacks what it listed."""
    command = ("train", "ppo", *ENV, *STEPS, "--output", str(unfinished.path), "--resume")
    for root in (None, 3, [], {}, [0]):
        state = unfinished.checkpoints()[-1] / "state.json"
        content = json.loads(state.read_text())
        state.write_text(json.dumps(content | {"root": root, "objects": [{"list": []}]}))
        seal(unfinished)
        assert "state.json is damaged" in error_of(capsys, *command)
    shutil.rmtree(unfinished.checkpoints()[-1])
    assert "is missing, which" in error_of(capsys, *command)


def test_beginning_anew_is_said(unfinished: RunFolder, capsys: Captured):
    shutil.rmtree(unfinished.path / "checkpoints")
    (unfinished.path / LIST_NAME).write_text('{"checkpoints": {}}')
    resume(unfinished)
    assert "No checkpoint yet" in capsys.readouterr().out


def test_every_file_of_a_checkpoint_has_a_checksum(unfinished: RunFolder, tmp_path: Path, capsys: Captured):
    """A bit, a byte more, a byte less, another file: 100 damaged checkpoints, none is gone on with."""
    names = sorted(path.name for path in unfinished.checkpoints()[-1].iterdir())
    assert MANIFEST_NAME in names and len(names) >= 3
    tried = 0
    for name in names:
        content = (unfinished.checkpoints()[-1] / name).read_bytes()
        damages = [content[:-1], content + b"\0", content[1:], b"", bytes(len(content))]
        for at in range(0, len(content), max(1, len(content) // 30)):
            damages.append(content[:at] + bytes([content[at] ^ 1 << tried % 8]) + content[at + 1 :])
        for damage in damages:
            (unfinished.checkpoints()[-1] / name).write_bytes(damage)
            with pytest.raises(InvalidValueError, match=name):
                unfinished.newest_checkpoint()
            tried += 1
        (unfinished.checkpoints()[-1] / name).write_bytes(content)
    assert unfinished.newest_checkpoint() == unfinished.checkpoints()[-1] and tried >= 100
    (unfinished.checkpoints()[-1] / "more.pkl").write_bytes(b"")
    with pytest.raises(InvalidValueError, match="more.pkl"):
        unfinished.newest_checkpoint()


def test_a_folder_of_another_account_is_refused_unless_told_otherwise(
    unfinished: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    command = ("train", "ppo", *ENV, *STEPS, "--output", str(unfinished.path), "--resume")
    other = os.getuid() + 1
    monkeypatch.setattr("agents.runs.folder.os.getuid", lambda: other)
    assert "was written by another account" in error_of(capsys, *command)
    assert not unfinished.finished
    resume(unfinished, "--of-others")
    assert unfinished.finished


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["run.json", "checkpoints.json", "checkpoints", "state.json"])
def test_one_file_of_another_account_is_enough(name: str, unfinished: RunFolder):
    assert unfinished.foreign_files() == []
    (path,) = list(unfinished.path.rglob(name))[-1:]
    os.chown(path, 12345, -1)
    assert unfinished.foreign_files() == [path]


# Logs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["decisions.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("damage", ["shorter", "empty", "missing", "in the middle of a row"])
def test_a_short_or_missing_log_is_said_at_once(
    name: str, damage: str, unfinished: RunFolder, capsys: Captured
):
    command = ("train", "ppo", *ENV, *STEPS, "--output", str(unfinished.path), "--resume")
    log = unfinished.path / name
    content = log.read_bytes()
    if damage == "missing":
        log.unlink()
    else:
        cut = {"shorter": content[:50], "empty": b""}
        log.write_bytes(cut.get(damage, b" " + content))
    before = {path.name: path.read_bytes() for path in unfinished.path.glob("*.jsonl")}
    error = error_of(capsys, *command)
    wanted = {"missing": "is missing", "in the middle of a row": "no row ends"}.get(damage, "is shorter")
    assert str(log) in error and wanted in error
    assert before == {path.name: path.read_bytes() for path in unfinished.path.glob("*.jsonl")}
    log.write_bytes(content)
    main_rows = rows_of(log)
    resume(unfinished)
    assert rows_of(log)[: len(main_rows) - 1] == main_rows[:-1]


def test_logs_are_on_the_disk_before_a_checkpoint_says_so(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    order: list[str] = []
    sync = os.fsync

    def noted(number: int) -> None:
        order.append(Path(f"/proc/self/fd/{number}").resolve().name if Path("/proc/self").exists() else "?")
        sync(number)

    monkeypatch.setattr(os, "fsync", noted)
    train(tmp_path / "run")
    if "?" not in order:
        first = order.index("state.json")
        assert {"decisions.jsonl"} <= set(order[:first])
        assert order.index("checkpoints.json") if "checkpoints.json" in order else True


# Two processes --------------------------------------------------------------------------------------

COMMAND = (
    sys.executable,
    "-m",
    "agents",
    "train",
    "ppo",
    *ENV,
    "--num-envs",
    "2",
    "--evaluation-episodes",
    "2",
)
LONG = ("--train-steps", "100000", "--checkpoint-steps", "120")


def begun(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """A long training, in a process of its own, that has saved something."""
    process = subprocess.Popen(
        [*COMMAND, *LONG, "--output", str(folder), *more], cwd=ROOT, stdout=-3, stderr=-3
    )
    log = folder / "decisions.jsonl"
    size = least = log.stat().st_size if log.exists() else 0
    end = time.monotonic() + 120
    # a resumed run first cuts its log to the checkpoint; it trains once rows are added
    while (
        not (folder / LIST_NAME).exists() or "00" not in (folder / LIST_NAME).read_text() or size <= least
    ):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
        size = log.stat().st_size if log.exists() else 0
        least = min(least, size)
    return process


def test_a_running_run_is_neither_resumed_nor_overwritten(tmp_path: Path, capsys: Captured):
    """The message names the other process; after kill -9 nothing is in the way."""
    folder = tmp_path / "run"
    process = begun(folder)
    try:
        for way in ("--resume", "--overwrite"):
            command = ("train", "ppo", *ENV, *STEPS[:2], "--evaluation-episodes", "2", *LONG)
            error = error_of(capsys, *command, "--output", str(folder), way)
            assert f"is being written by process {process.pid} on" in error
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    rows = rows_of(folder / "decisions.jsonl") if (folder / "decisions.jsonl").exists() else []
    assert rows
    again = begun(folder, "--resume")
    try:
        again.send_signal(signal.SIGINT)
        assert again.wait(300) == 130
    finally:
        again.kill()
    rows = rows_of(folder / "decisions.jsonl")
    keys = [(row["lane"], row["episode_seed"], row["step"]) for row in rows]
    assert len(set(keys)) == len(keys)  # no row is there twice


@pytest.mark.slow
def test_two_begin_at_a_time_and_one_goes_on(tmp_path: Path):
    folder = tmp_path / "run"
    short = ("--train-steps", "600", "--checkpoint-steps", "120", "--output", str(folder), "--resume")
    both = [subprocess.Popen([*COMMAND, *short], cwd=ROOT, stdout=-1, stderr=-1) for _ in range(2)]
    ends = [(process.communicate(timeout=300)[1].decode(), process.returncode) for process in both]
    assert sorted(code for _, code in ends) in ([0, 2], [0, 0])
    for text, code in ends:
        assert code == 0 or "is being written by" in text or "nothing is left to resume" in text
    rows = rows_of(folder / "decisions.jsonl")
    keys = [(row["lane"], row["episode_seed"], row["step"]) for row in rows]
    assert len(set(keys)) == len(keys) and not list(folder.rglob(".*"))


def test_a_lock_that_a_dead_process_left_is_in_nobodys_way(unfinished: RunFolder):
    (unfinished.path / ".lock").write_text('{"process": 1, "host": "elsewhere"}')
    resume(unfinished)
    assert unfinished.finished and not (unfinished.path / ".lock").exists()


# A stranger's policy --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dataset": "mnist", "download": True, "data_root": "made"},
        {"dataset": "cifar10", "download": True, "data_root": "/made/elsewhere"},
        {"data_root": "made"},
        {"download": True},
    ],
)
def test_a_policy_decides_no_path_and_no_download(
    kwargs: dict[str, Any], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AUTOTRAIN_DATA", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)

    def never(*arguments: Any, **named: Any) -> None:
        raise AssertionError("it asks the network")

    monkeypatch.setattr("socket.create_connection", never)
    monkeypatch.setattr("urllib.request.urlopen", never)
    folder = tmp_path / "given"
    shutil.copytree(finished, folder)
    content = json.loads((folder / "policy.json").read_text())
    content["environment"]["kwargs"] |= kwargs
    (folder / "policy.json").write_text(json.dumps(content))
    policy = load_policy(folder)
    make: Callable[[], Any] = lambda: environment_of(policy, {}, 1)  # noqa: E731
    if "dataset" in kwargs:
        with pytest.raises(FileNotFoundError, match=str(tmp_path / "mine")):
            make()
    else:
        env = make()
        config = env.unwrapped.config
        assert config.data_root is None and config.download is False and config.log_path is None
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
    assert Evaluate(run_folder=folder).episodes


def test_a_policy_says_no_path_of_its_trainers(tmp_path: Path):
    train(tmp_path / "run", "--env.data-root", str(tmp_path / "secret"), "--env.download", "True")
    content = (tmp_path / "run" / "policy.json").read_text()
    assert "secret" not in content and "download" not in content
    assert RunFolder(tmp_path / "run").config().env["data_root"] == str(tmp_path / "secret")


def test_runs_that_name_each_other_have_a_cost(finished: Path, tmp_path: Path):
    one, other = (RunFolder(shutil.copytree(finished, tmp_path / name)) for name in ("one", "other"))
    for run, before in ((one, other), (other, one)):
        content = json.loads((run.path / "run.json").read_text()) | {"start_from": str(before.path)}
        (run.path / "run.json").write_text(json.dumps(content))
    assert one.cost()[0] == 2 * RunFolder(finished).cost()[0]
