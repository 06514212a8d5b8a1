"""Evolution beside others: plain torch, which trains the same networks in turn, and other libraries.

Run by `make bench-evolution`, or `python -m benchmarks.evolution --help`. The other libraries are installed
in an environment of their own on first use and run in a process of their own; all take turns in one run.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.box
import torch
import tyro
from rich.table import Table

from agents.evolving.evolution import Evolution
from agents.evolving.workers import Serial
from agents.runs.folder import RunConfig, RunFolder
from agents.training.algorithms import REWARD
from agents.training.hyperparameters import load_hyperparameters
from autotrain_env.evolution import CMAES, EvolutionStrategy, StudentTNoise, ask, init, tell
from autotrain_env.evolution.landscapes import rastrigin, rosenbrock, sphere
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
from benchmarks.speed import ENV_STEPS, Setup, plain_run, repeat

FOLDER = Path(".venv-evolution")
REQUIREMENTS = ("evotorch==0.6.1", "evox==1.4.0", "evosax==0.3.2")
POPULATION, PARAMETERS = 256, 10_000


def evolution_config(**hyperparameters: Any) -> RunConfig:
    """Of `train es` on the default task, with its shipped hyperparameters but for these."""
    return RunConfig(
        algorithm="es",
        env_id="AutoTrain-v0",
        env={"observation_layout": "flat", "reward": REWARD},
        num_envs=4,
        seed=0,
        train_steps=1,
        checkpoint_steps=1,
        evaluation_episodes=4,
        hyperparameters={**load_hyperparameters("es", "AutoTrain-v0"), **hyperparameters},
    )


def generation(setup: Setup, members: int, threads: int) -> list[Figure]:
    """A generation of `train es` with its shipped hyperparameters but for these, beside plain torch."""
    plain_episodes = 4
    plain = plain_run(setup)
    with tempfile.TemporaryDirectory() as folder:
        config = evolution_config(population_size=members, threads=threads)
        run = Evolution(config, RunFolder(Path(folder)), Serial())
        progress = run.start()
        shares: list[float] = []
        networks: list[float] = []

        def one() -> None:
            nonlocal progress
            begin, before = time.perf_counter(), progress.updates
            progress, row = run.generation(progress)
            shares.append(1 - row["seconds_of_episodes"] / (time.perf_counter() - begin))
            networks.append((progress.updates - before) / (ENV_STEPS * plain.inner_steps))

        seconds = alternate(
            one, repeat(lambda: plain.episode(ENV_STEPS), plain_episodes), rounds=setup.rounds(6)
        )
    ours = seconds[0] / np.array(networks[1:])  # members that stop train less than a whole network
    theirs = seconds[1] / plain_episodes
    work = f"a generation of {members} members, threads={threads}"
    return [
        setup.figure(
            f"{work}, as one rollout: networks/s over those of plain torch",
            Spread.of(theirs / ours),
            goal=20,
            beside=f"{np.median(ours) * 1e3:.0f} against {np.median(theirs) * 1e3:.0f} ms a network",
        ),
        setup.figure(
            f"share of {work} that is not episodes",
            Spread.of(np.array(shares[1:])),
            goal=0.05,
            at_least=False,
        ),
    ]


class Peers:
    """Other libraries in a process of their own.

    Args:
        python: Of their environment.
    """

    def __init__(self, python: Path) -> None:
        worker = Path(__file__).with_name("evolution_worker.py")
        self.process = subprocess.Popen(
            [python, worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.about = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the other libraries has ended")
        return json.loads(line)

    def ask(self, **task: Any) -> dict[str, Any]:
        """What it answers to a task; see `evolution_worker`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def core(setup: Setup, peers: Peers) -> list[Figure]:
    """Asking and telling of mirrored normal noise with Adam, fitness left out."""
    times = 20
    fitness = torch.randn(POPULATION, generator=torch.Generator().manual_seed(0))
    state = init(EvolutionStrategy(POPULATION), torch.zeros(PARAMETERS), 0)

    def ours() -> None:
        nonlocal state
        for _ in range(times):
            _, asked = ask(state)
            state = tell(asked, fitness)

    def theirs(library: str) -> Callable[[], Any]:
        size = {"population_size": POPULATION, "size": PARAMETERS, "times": times, "seed": 0}
        settings = {"start": 0.0, "learning_rate": 0.05, "perturbation_std": 0.1, **size}
        return lambda: seconds[library].append(
            peers.ask(task="generations", library=library, **settings)["seconds"]
        )

    libraries = peers.about["libraries"]
    seconds: dict[str, list[float]] = {library: [] for library in libraries}
    rounds = setup.rounds(6)
    own = alternate(ours, *(theirs(library) for library in libraries), rounds=rounds)[0] / times
    return [
        setup.figure(
            f"{POPULATION} members of {PARAMETERS:,} parameters, ask and tell: time of {library} over ours",
            Spread.of(np.array(seconds[library][1:]) / times / own),
            goal=1,
            beside=f"{np.median(own) * 1e3:.1f} against {np.median(seconds[library]) / times * 1e3:.1f} ms",
        )
        for library in libraries
    ]


# --- evaluations to a target -------------------------------------------------------------------------

FUNCTIONS = {"sphere": sphere, "rosenbrock": rosenbrock, "rastrigin": rastrigin}
# name: where each coordinate begins, standard deviation, learning rate, target in units of the dimension
PROBLEMS = {
    "sphere": (2.0, 0.1, 0.05, 1e-3),
    "rosenbrock": (0.0, 0.05, 0.02, 0.6),
    "rastrigin": (2.0, 0.5, 0.05, 1.0),
}
DIMENSIONS = {10: (32, 100_000), 100: (128, 400_000)}  # members, and evaluations at most
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, single members": {"mirrored": False},
    "ours, z-score": {"shaping": "z_score"},
    "ours, raw fitness": {"shaping": "raw"},
    "ours, Laplace noise": {"distribution": "laplace"},
    "ours, Student-t noise": {"distribution": StudentTNoise(8)},
    "ours, uniform noise": {"distribution": "uniform"},
    "ours, momentum": {"optimizer": "momentum", "rate": 0.3},
    "ours, ClipUp": {"optimizer": "clipup", "rate": 1.5},
    "ours, looking ahead": {"optimizer": "momentum", "rate": 0.3, "look_ahead": 0.9},
    "ours, learned deviation": {"learned_std": "global", "natural": True, "optimizer": "sgd", "rate": 20.0},
    "ours, a deviation for each parameter": {
        "learned_std": "parameter",
        "natural": True,
        "optimizer": "sgd",
        "rate": 20.0,
    },
    "ours, jumps every 10": {"jump_every": 10},
}


def evaluations(
    strategy: Any, function: Any, size: int, start: float, target: float, budget: int, seed: int
) -> int | None:
    """Evaluations until the function of the centre is at the target; `None` if the budget did not reach."""
    state = init(strategy, torch.full((size,), start), seed)
    used = 0
    while used < budget:
        population, state = ask(state)
        state = tell(state, -function(population))
        used += len(population)
        if float(function(state.parameters)) <= target:
            return used
    return None


def searches(peers: Peers, seeds: int, report: Callable[[str], object]) -> list[dict[str, Any]]:
    """Evaluations to the target for every variant, library, function, dimension and seed."""
    rows = []
    for name, (start, std, rate, target) in PROBLEMS.items():
        for size, (members, budget) in DIMENSIONS.items():
            report(f"{name} in {size} dimensions")
            settings = {"start": start, "target": target * size, "budget": budget}
            found: dict[str, list[int | None]] = {}
            for seed in range(seeds):
                for variant, given in VARIANTS.items():
                    more = dict(given)
                    factor = more.pop("rate", 1.0)
                    strategy = EvolutionStrategy(
                        members, perturbation_std=std, learning_rate=rate * factor, **more
                    )
                    used = evaluations(strategy, FUNCTIONS[name], size, seed=seed, **settings)
                    found.setdefault(variant, []).append(used)
                for separable in (False, True):
                    used = evaluations(
                        CMAES(members, std, separable), FUNCTIONS[name], size, seed=seed, **settings
                    )
                    found.setdefault("pycma, separable" if separable else "pycma", []).append(used)
                for library in peers.about["libraries"]:
                    answer = peers.ask(
                        task="search",
                        library=library,
                        function=name,
                        size=size,
                        population_size=members,
                        perturbation_std=std,
                        learning_rate=rate,
                        seed=seed,
                        **settings,
                    )
                    found.setdefault(library, []).append(answer["evaluations"])
            rows += [
                {"function": name, "dimension": size, "method": method, "evaluations": used}
                for method, used in found.items()
            ]
    return rows


def search_table(rows: list[dict[str, Any]]) -> Table:
    """Median evaluations to the target; how many seeds reached it where not all did."""
    result = Table(title="Evaluations to the target: median of the seeds", box=rich.box.SIMPLE_HEAD)
    columns = list(dict.fromkeys((row["function"], row["dimension"]) for row in rows))
    for name in ("method", *(f"{function} {size}" for function, size in columns)):
        result.add_column(name, justify="left" if name == "method" else "right")
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for function, size in columns:
            (used,) = (
                row["evaluations"]
                for row in rows
                if (row["function"], row["dimension"], row["method"]) == (function, size, method)
            )
            reached = [count for count in used if count is not None]
            median = f"{np.median(reached):,.0f}" if reached else "never"
            cells.append(
                median if len(reached) in (0, len(used)) else f"{median} ({len(reached)} of {len(used)})"
            )
        result.add_row(method, *cells)
    return result


@dataclass
class Arguments:
    """Measure evolution against plain torch, and against evotorch, EvoX, evosax and pycma."""

    quick: bool = False
    """Few rounds: to see whether it runs, not how fast."""

    only: Literal["generation", "core", "searches"] | None = None
    """One part instead of all."""

    seeds: int = 5
    """Seeds of each search."""

    output: Path = Path("runs/bench/evolution.json")
    """File for all numbers."""


def main(arguments: Arguments) -> None:
    """Measure on the CPU, where members are evaluated."""
    console = make_console()
    found = machine()
    setup = Setup(torch.device("cpu"), arguments.quick)
    parts = [arguments.only] if arguments.only else ["generation", "core", "searches"]
    figures: dict[str, list[Figure]] = {}
    if "generation" in parts:
        figures["generation"] = [
            figure
            for threads in sorted({1, torch.get_num_threads()})
            for members in (32, 64, 128)
            for figure in generation(setup, members, threads)
        ]
    if parts != ["generation"]:
        try:
            with console.status(f"installing other libraries in {FOLDER}: some minutes, several GB"):
                peers = Peers(peer_python(FOLDER, REQUIREMENTS))
        except CannotInstall as reason:
            console.print(f"The other libraries could not be installed:\n{reason}", markup=False)
            sys.exit(1)
        found["peers"] = peers.about["versions"]
        if "core" in parts:
            figures["core"] = core(setup, peers)
        if "searches" in parts:
            with console.status("searching") as status:
                rows = searches(peers, 1 if arguments.quick else arguments.seeds, status.update)
            found["searches"] = rows
            console.print(search_table(rows))
        peers.close()
    shown = [figure for row in figures.values() for figure in row]
    if shown:
        console.print(
            table("Evolution's speed: ratios, the median of all rounds, lowest and highest", shown)
        )
    write_json(arguments.output, found | {"quick": arguments.quick}, figures)
    console.print(f"All numbers: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
