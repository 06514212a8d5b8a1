"""Two processes train one network: the first decides, both carry it out, and neither waits in silence."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import assert_same

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import datetime, sys, time
import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from autotrain_env import Controller, RandomAgent
import autotrain_env.control.team as team
from tests.helpers.loops import network, problem, update

folder, rank, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
team.TIMEOUT = 20.0
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=600))
inputs, labels = problem()
data = TensorDataset(inputs[:240], labels[:240])
loader = DataLoader(data, 16, sampler=DistributedSampler(data, seed=1))
model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def holdout():
    if how == "measuring fails":
        raise ValueError("no holdout today")
    model.eval()
    with torch.no_grad():
        correct = (model.module(inputs).argmax(1) == labels).float()
    model.train()
    return correct[:240].mean().item(), correct[240:].mean().item()


held = (inputs[240:], labels[240:]) if how == "tensors" else holdout
controller = Controller(
    model, optimizer, 96, policy=RandomAgent(2), holdout=held, decisions=12, history_length=2,
    num_snapshots=3, reinit="reset_parameters", log=f"{folder}/run.jsonl", num_classes=4, stop=False,
)
for batch in controller.batches(loader):
    if rank == 1 and controller.updates == 20 and how == "dies":
        raise SystemExit(3)
    outcome = update(model, optimizer, batch)
    if rank == 1 and controller.updates == 23 and how == "sleeps":
        time.sleep(120)
    controller.step(*outcome)
history = dict(controller.history)
torch.save({
    "model": model.state_dict(),
    "actions": list(history["action"]),
    "loss": torch.from_numpy(history["loss"]),
    "epoch": loader.sampler.epoch,
}, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


def start(folder: Path, how: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(rank), how],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize("how", ["tensors", pytest.param("function", marks=pytest.mark.slow)])
def test_both_carry_out_what_the_first_decides(tmp_path: Path, how: str):
    processes = start(tmp_path, how)
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["actions"] == second["actions"]
    assert any("rewind" in action for action in first["actions"])
    assert any("reinit" in action for action in first["actions"])
    assert_same(first["loss"], second["loss"])
    names = [name for name in first["model"] if "running" not in name]  # each has its own statistics
    for name in names:
        assert_same(first["model"][name], second["model"][name], name)
    assert first["epoch"] > 3  # the sampler was told of epochs
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 12  # one of them writes


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "sleeps", "measuring fails"])
def test_nobody_waits_in_silence(tmp_path: Path, how: str):
    begin = time.monotonic()
    first, second = start(tmp_path, how)
    waiting = second if how == "measuring fails" else first
    _, errors = waiting.communicate(timeout=150)
    assert waiting.returncode != 0 and time.monotonic() - begin < 110
    expected = (
        "rank 0) failed: ValueError" if how == "measuring fails" else "one of them failed or made fewer"
    )
    assert expected in errors or (how == "dies" and "peer" in errors), errors
    for process in (first, second):
        process.kill()
        process.communicate()
