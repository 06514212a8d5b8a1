"""Speed against DACBench's SGD environment: the same network, data, optimiser and number of updates.

Run by `make bench-peers`, or `python -m benchmarks.peers --help`. DACBench needs other versions of its
dependencies, so it is installed in an environment of its own on first use and measured in a process of its
own; the two take turns in one run.

Both train an MLP 784-200-100-50-10 on 48,000 MNIST images with AdamW and minibatches of 64. After each
decision DACBench evaluates the network on a tenth of its 12,000 validation images, rounded up to 19
minibatches, so that AutoTrain's train subset, holdout and validation part are given as many images in all.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro

import autotrain_env  # noqa: F401  (registers the environments)
from benchmarks.measuring import (
    CannotInstall,
    Figure,
    Spread,
    alternate,
    machine,
    make_console,
    peer_python,
    table,
    write_json,
)

SIZES = (784, 200, 100, 50, 10)
BATCH_SIZE = 64
TRAIN_VALIDATION_RATIO = 0.8  # as in DACBench's own instances
TRAIN_SIZE, HOLDOUT_SIZE, VALIDATION_SIZE = 48_000, 405, 406  # with the train subset: 19 minibatches
LEARNING_RATE = 1e-3
GO_ON = 2  # the action that leaves the learning rate as it is, and trains

FOLDER = Path(".venv-dacbench")
REQUIREMENTS = ("dacbench==0.5.6", "torch<=2.10", "torchvision<=0.25")  # upper bounds: DACBench's own


class DACBench:
    """DACBench in a process of its own.

    Args:
        process: The worker.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("DACBench's process has ended; its message stands above")
        return json.loads(line)

    def decide(self, mode: str, decisions: int) -> float:
        """Make decisions in `"epoch"` or `"update"` mode; returns the seconds they took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mode} {decisions}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]


@contextmanager
def running_dacbench(python: Path, data_root: Path) -> Iterator[DACBench]:
    """Start DACBench, and end it."""
    network: list[tuple[str, dict[str, int]]] = [("FLATTEN", {})]
    for fan_in, fan_out in zip(SIZES[:-1], SIZES[1:], strict=True):
        network += [("LINEAR", {"in_features": fan_in, "out_features": fan_out}), ("RELU", {})]
    network[-1] = ("LOGSOFTMAX", {"dim": 1})
    with tempfile.TemporaryDirectory() as folder:
        network_file = Path(folder, "network.json")
        network_file.write_text(json.dumps(network))
        arguments = {
            "network_file": str(network_file),
            "data_root": str(data_root),
            "batch_size": BATCH_SIZE,
            "train_validation_ratio": TRAIN_VALIDATION_RATIO,
            "learning_rate": LEARNING_RATE,
        }
        worker = Path(__file__).with_name("dacbench_worker.py")
        command = [python, worker, json.dumps(arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            try:
                yield DACBench(process)
            finally:
                process.stdin.close()


def ours(
    num_envs: int, inner_steps: int, data_root: Path, **kwargs: Any
) -> Callable[[int], Callable[[], None]]:
    """What makes a function that makes decisions in every lane of `AutoTrain-v0`."""
    sizes = {"train_size": TRAIN_SIZE, "holdout_size": HOLDOUT_SIZE, "validation_size": VALIDATION_SIZE}
    env = gymnasium.make_vec(
        "AutoTrain-v0",
        num_envs=num_envs,
        dataset="mnist",
        data_root=data_root,
        download=True,
        split_seed=0,
        label_noise=0.0,
        classifier="mlp-200-100-50",
        optimizer="adamw",
        batch_size=BATCH_SIZE,
        initial_learning_rate=LEARNING_RATE,
        inner_steps=inner_steps,
        history_length=1,
        budget=inner_steps * 10**6,
        **(sizes | kwargs),
    )
    env.reset(seed=0)
    actions = np.full(num_envs, GO_ON)

    def make(decisions: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(decisions):
                env.step(actions)

        return run

    return make


def compare(dacbench: DACBench, mode: str, goal: float, arguments: "Arguments") -> list[Figure]:
    """A decision per epoch or per update, ours in many lanes and in one."""
    inner_steps = dacbench.about["updates_per_epoch"] if mode == "epoch" else 1
    num_envs = arguments.num_envs
    decisions = {"epoch": (1, 1, 1), "update": (40, 10, 100)}[mode]
    lanes = (1, num_envs, 1)
    data_root = arguments.data_root
    work: list[Callable[[], Any]] = [
        lambda: dacbench.decide(mode, decisions[0]),
        ours(num_envs, inner_steps, data_root)(decisions[1]),
        ours(1, inner_steps, data_root)(decisions[2]),
    ]
    if mode == "update":  # as many images in the evaluation as our environment takes by itself
        own_sizes = {"holdout_size": 1000, "validation_size": 1000}
        work.append(ours(num_envs, inner_steps, data_root, **own_sizes)(decisions[1]))
        decisions, lanes = (*decisions, decisions[1]), (*lanes, num_envs)
    seconds = alternate(*work, rounds=2 if arguments.quick else arguments.rounds)
    updates = np.array(decisions) * np.array(lanes) * inner_steps
    theirs, *costs = seconds / updates[:, None]
    names = [f"N = {num_envs}", "N = 1", f"N = {num_envs}, 3,000 images evaluated as by default"]
    return [
        Figure(
            f"DACBench's SGD environment, a decision per {mode}: its time per update over ours, {name}",
            Spread.of(theirs / cost),
            goal=goal if name == names[0] else None,
            beside=f"{np.median(cost) * 1e6:,.0f} µs against {np.median(theirs) * 1e6:,.0f} µs per update",
            numbers={
                "us_per_update": {"ours": (cost * 1e6).tolist(), "dacbench": (theirs * 1e6).tolist()},
                "updates_per_decision": inner_steps,
            },
        )
        for name, cost in zip(names, costs, strict=False)
    ]


@dataclass
class Arguments:
    """Measure AutoTrain's speed against DACBench 0.5.6, in environments of their own."""

    data_root: Path = Path(os.environ.get("AUTOTRAIN_DATA", ".data"))
    """Folder of MNIST in torchvision's layout; downloaded where it is missing."""

    num_envs: int = 32
    """Networks that AutoTrain trains side by side."""

    rounds: int = 4
    """Rounds in which both take their turns."""

    quick: bool = False
    """Two rounds."""

    output: Path = Path("runs/bench/peers.json")
    """File for all numbers."""


def main(arguments: Arguments) -> None:
    """Install DACBench where it is missing, and measure."""
    console = make_console()
    found = machine()
    arguments.data_root = arguments.data_root.resolve()
    start = time.perf_counter()
    try:
        with console.status(f"installing {REQUIREMENTS[0]} in {FOLDER}: some minutes, several GB"):
            python = peer_python(FOLDER, REQUIREMENTS)
    except CannotInstall as reason:
        console.print(f"DACBench could not be installed, so nothing was measured:\n{reason}", markup=False)
        sys.exit(1)
    rows: dict[str, list[Figure]] = {}
    with console.status("starting DACBench"):
        autotrain_env.load_dataset("mnist", data_root=arguments.data_root, download=True)
        running = running_dacbench(python, arguments.data_root)
    with running as dacbench:
        for mode, goal in (("epoch", 25), ("update", 60)):
            with console.status(f"a decision per {mode}"):
                rows[mode] = compare(dacbench, mode, goal, arguments)
        found["dacbench"] = dacbench.about
    found["minutes"] = (time.perf_counter() - start) / 60
    title = "AutoTrain against DACBench: ratios, the median of all rounds with the lowest and the highest"
    console.print(table(title, [figure for row in rows.values() for figure in row]))
    write_json(arguments.output, found | {"quick": arguments.quick}, rows)
    console.print(f"Took {found['minutes']:.1f} minutes. All numbers: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
