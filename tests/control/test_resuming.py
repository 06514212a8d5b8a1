"""A training that is killed and resumed goes on with the decisions of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env import Controller, EarlyStopping, RandomAgent, ReduceOnPlateau, read_log
from tests.helpers import assert_same
from tests.helpers.loops import loaders, network, update

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import os, sys, time
import torch
from autotrain_env import Controller
from tests.helpers.loops import loaders, network, update

folder, slow = sys.argv[1], len(sys.argv) > 2
train, holdout = loaders()
torch.manual_seed(5)
model = network(dropout=0.3)
optimizer = torch.optim.Adam(model.parameters(), 0.01)
saved = torch.load(f"{folder}/checkpoint.pt") if os.path.exists(f"{folder}/checkpoint.pt") else None
if saved is None:
    torch.manual_seed(7)
arguments = {"holdout": holdout, "train": train, "reinit": "reset_parameters"}
controller = Controller(model, optimizer, 300, log=f"{folder}/run.jsonl", **arguments)
if saved is not None:
    controller.load_state_dict(saved["controller"])
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
for batch in controller.batches(train):
    controller.step(*update(model, optimizer, batch))
    if controller.updates % 7 == 0:
        states = {"model": model, "optimizer": optimizer, "controller": controller}
        states = {name: part.state_dict() for name, part in states.items()}
        torch.save(states, f"{folder}/new.pt")
        os.replace(f"{folder}/new.pt", f"{folder}/checkpoint.pt")
        if slow:
            time.sleep(0.05)
torch.save({"model": model.state_dict(), "actions": list(controller.history["action"])}, f"{folder}/end.pt")
"""


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), *more], cwd=ROOT, env=environment)


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert start(whole).wait(300) == 0
    for wanted in (60, 150):  # killed twice, at times of no one's choice
        process = start(broken, "slow")
        deadline = time.monotonic() + 300
        while _updates_logged(broken) < wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert not (broken / "end.pt").exists() and (broken / "checkpoint.pt").exists()
    assert start(broken).wait(300) == 0
    expected, found = (torch.load(folder / "end.pt") for folder in (whole, broken))
    assert found["actions"] == expected["actions"] and len(set(found["actions"])) > 3
    assert_same(dict(found["model"]), dict(expected["model"]))
    assert read_log(broken / "run.jsonl") == read_log(whole / "run.jsonl")


def _updates_logged(folder: Path) -> int:
    log = folder / "run.jsonl"
    rows = read_log(log) if log.exists() else []
    return int(rows[-1]["updates"]) if rows else 0


def trained(policy: Any, updates: int | None, place: Any, resume: Any = None) -> tuple[Controller, Any]:
    """A run up to so many updates, and its checkpoint; with `resume`, from that one on."""
    train, holdout = loaders()
    model = network(dropout=0.2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    torch.manual_seed(11)
    arguments = {"decisions": 12, "history_length": 2, "num_snapshots": 3, "snapshots": place}
    controller = Controller(
        model,
        optimizer,
        97,
        policy=policy,
        holdout=holdout,
        reinit="reset_parameters",
        resume=None if resume is None else resume["controller"],
        **arguments,
    )
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
    for batch in controller.batches(train):
        controller.step(*update(model, optimizer, batch))
        if controller.updates == updates:
            break
    states = {"model": model, "optimizer": optimizer, "controller": controller}
    return controller, {name: part.state_dict() for name, part in states.items()}


@pytest.mark.parametrize("place", [pytest.param("device", marks=pytest.mark.slow), "folder"])
@pytest.mark.parametrize(
    "make",
    [lambda: RandomAgent(4), lambda: ReduceOnPlateau(0.3, patience=1), lambda: EarlyStopping("cosine", 9)],
)
def test_resumed_at_any_update(make: Any, place: str, tmp_path: Path):
    at = str(tmp_path) if place == "folder" else place
    expected, end = trained(make(), None, at)
    for updates in (1, 7, 8, 15, 30, 45):  # 15 batches an epoch
        _, saved = trained(make(), updates, at)
        torch.save(saved, tmp_path / "saved.pt")
        found, found_end = trained(make(), None, at, torch.load(tmp_path / "saved.pt"))
        assert_same(dict(found.history), dict(expected.history))
        assert_same(dict(found_end["model"]), dict(end["model"]))
        np.testing.assert_array_equal(found.situation().rows, expected.situation().rows)
        assert_same(dict(found.best()), dict(expected.best()))


def test_a_loop_of_ones_own_resumes_its_own_data():
    """Without `batches` the loader is the user's business; the decisions are resumed all the same."""
    inputs = [batch for _ in range(7) for batch in loaders(shuffle=False)[0]]

    def go(first: int, last: int, saved: Any = None) -> tuple[Controller, Any]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        resume = None if saved is None else saved["controller"]
        controller = Controller(
            model, optimizer, 96, policy=RandomAgent(1), holdout=loaders()[1], decisions=12, resume=resume
        )
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        for batch in inputs[first:last]:
            if controller.step(*update(model, optimizer, batch)):
                break
        states = {"model": model, "optimizer": optimizer, "controller": controller}
        return controller, {name: part.state_dict() for name, part in states.items()}

    expected, _ = go(0, 96)
    _, saved = go(0, 29)
    found, _ = go(29, 96, saved)
    assert_same(dict(found.history), dict(expected.history))
