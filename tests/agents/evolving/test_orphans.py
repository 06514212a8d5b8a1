"""Worker processes whose parent is killed: none stays behind, nor shared memory."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.runs import ROOT

COMMAND = (
    *(sys.executable, "-m", "agents", "train", "es", "--workers", "processes", "--num-workers", "2"),
    *("--env.budget", "60", "--env.classifier", "mlp-8", "--env.train-size", "100"),
    *("--train-steps", "1000000", "--evaluation-episodes", "2", "--hyperparameters", "population_size=6"),
)
PROC = Path("/proc")


def processes_of(mark: str) -> set[int]:
    """Numbers of the processes that have a variable of their environment."""
    found = set()
    for path in PROC.glob("[0-9]*"):
        try:
            if (
                mark.encode() in (path / "environ").read_bytes()
                and b"State:\tZ" not in (path / "status").read_bytes()
            ):
                found.add(int(path.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.skipif(not PROC.exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("signal_", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_end_with_their_parent(signal_: signal.Signals, tmp_path: Path):
    mark = f"ORPHANS_OF_TEST={tmp_path}"
    environment = os.environ | dict([mark.split("=", 1)])
    command = [*COMMAND, "--output", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-3, stderr=-3)
    log, end = tmp_path / "run" / "generations.jsonl", time.monotonic() + 120
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    numbers = processes_of(mark)
    assert len(numbers) >= 3
    process.send_signal(signal_)
    process.wait(30)
    end = time.monotonic() + 20
    while processes_of(mark) and time.monotonic() < end:
        time.sleep(0.1)
    left = processes_of(mark)
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert left == set()
    assert [path for path in Path("/dev/shm").iterdir() if any(str(n) in path.name for n in numbers)] == []
