"""Run folders in tests: begun, copied, compared."""

import hashlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.runs.folder import LIST_NAME, MANIFEST_NAME, RunConfig, RunFolder
from autotrain_env.policies.trained import load_policy

ROOT = Path(__file__).parents[2]
SMALL = {
    "observation_layout": "flat",
    "dataset": "digits",
    "budget": 60,
    "train_size": 100,
    "classifier": "mlp-8",
}
"""Arguments of an environment whose episodes, of three env steps, take milliseconds."""


def begun(folder: Path, config: RunConfig) -> RunFolder:
    """A run that has just begun."""
    run = RunFolder(folder)
    run.begin(config, overwrite=False)
    return run


def copy_of(run: RunFolder, folder: Path, *, finished: bool = True) -> RunFolder:
    """A copy of a run, for tests that change it; or one that was cut short in its last evaluation."""
    shutil.copytree(run.path, folder)
    if not finished:
        for name in ("result.json", "policy.json"):
            (folder / name).unlink()
    return RunFolder(folder)


def seal(run: RunFolder) -> None:
    """Make the digests of a run's checkpoints anew, as somebody who plants something would."""
    listed = {}
    for path in sorted((run.path / "checkpoints").iterdir()):
        (path / MANIFEST_NAME).unlink(missing_ok=True)
        files = {
            file.name: [file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()]
            for file in sorted(path.iterdir())
        }
        (path / MANIFEST_NAME).write_text(json.dumps({"files": files}))
        listed[path.name] = hashlib.sha256((path / MANIFEST_NAME).read_bytes()).hexdigest()
    (run.path / LIST_NAME).write_text(json.dumps({"checkpoints": listed}))


def silent(share: float) -> None:
    """Report nothing."""
    assert share >= 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, without the seconds that something took."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for name in ("seconds", "seconds_of_episodes"):
            row.pop(name, None)
    return rows


def assert_same_runs(left: RunFolder, right: RunFolder) -> None:
    """Two runs ended in the same policy, by the same way, bit for bit."""
    one, other = (load_policy(run.path).network.state_dict() for run in (left, right))
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("decisions.jsonl", "evaluations.jsonl", "generations.jsonl"):
        assert (left.path / name).exists() == (right.path / name).exists()
        if (left.path / name).exists():
            assert rows_of(left.path / name) == rows_of(right.path / name), name
    for name in ("steps", "updates", "generations"):
        assert left.result().get(name) == right.result().get(name)


def draw_elsewhere() -> None:
    """Leave all global streams otherwise than they were, as another process has them."""
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)


def assert_kills_change_nothing(
    command: list[Any], folder: Path, kills: int, watch: Callable[[RunFolder], None] = lambda run: None
) -> None:
    """Run a command, kill it at random moments, resume it, and compare the end with an undisturbed run.

    Args:
        command: Of a training, up to the output folder.
        folder: Where the runs are made.
        kills: How often it is killed, over several runs.
        watch: Told of the run after every end of the process.
    """
    start = time.monotonic()
    subprocess.run([*command, folder / "whole"], cwd=ROOT, check=True, capture_output=True)
    usual = time.monotonic() - start
    generator, killed, round_ = random.Random(0), 0, 0
    while killed < kills:
        run = RunFolder(folder / f"parts{round_}")
        while not run.finished:
            process = subprocess.Popen([*command, run.path, "--resume"], cwd=ROOT, stdout=-3, stderr=-3)
            try:
                process.wait(timeout=generator.uniform(0, usual))
                assert process.returncode == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
            watch(run)
        assert_same_runs(RunFolder(folder / "whole"), run)
        round_ += 1
