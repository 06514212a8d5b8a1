"""A generation on many workers: measured with one and two on this machine, simulated for up to 10,000.

Run by `make bench-scaling`, or `python -m benchmarks.scaling --help`. The simulation takes the costs that
are measured in the same run, and the assumptions of `Cluster`.
"""

import heapq
import json
import math
import pickle
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import ray
import rich.box
import torch
import tyro
from rich.table import Table

from agents.evolving.evolution import Evolution
from agents.evolving.members import ENOUGH_MEMBERS, Generation, evaluate_members, without_memory
from agents.evolving.workers import Ray, Serial, Workers, count_tasks, split_members
from agents.runs.folder import RunFolder
from autotrain_env.evolution import ask, tell
from autotrain_env.evolution.strategy import EvolutionState
from benchmarks.evolution import evolution_config
from benchmarks.measuring import Figure, Spread, machine, make_console, table, write_json

WORKERS = (10, 30, 100, 300, 1_000, 3_000, 10_000)


@dataclass(frozen=True)
class Cluster:
    """What is assumed of a cluster, beside the costs that are measured here.

    A generation is spread as Ray's workers spread it: some ranges of blocks for each worker, which takes
    the next one when it has done one; all tasks submitted and all results read by one driver, what they
    share sent once to each node.

    Args:
        workers_per_node: CPUs of a node.
        bandwidth: Of every node's network, and of the driver's [bytes/s].
        latency: Of one message [s].
        noise: Standard deviation of the logarithm of a worker's speed, drawn anew in each generation.
        straggling: Share of workers that are held up in a generation.
        slowdown: How many times longer these take.
        lifetime: Mean time until a worker dies [s].
        detection: Time until that is noticed and another one is ready [s].
    """

    workers_per_node: int = 32
    bandwidth: float = 1.25e9
    latency: float = 5e-4
    noise: float = 0.1
    straggling: float = 0.01
    slowdown: float = 3.0
    lifetime: float = 24 * 3600.0
    detection: float = 10.0


@dataclass(frozen=True)
class Costs:
    """What a generation costs, measured on this machine with one thread.

    Args:
        block_size: Members of a block.
        block: Evaluation of a block, its members made from the seed [s].
        task: Submitting a task to Ray and reading its result [s].
        search: `ask` and `tell`, for each member [s].
        sent: To each node in a generation [bytes].
        sent_once: To each node in a run [bytes].
        returned: By a worker with one block [bytes].
        returned_block: By a worker for each further block [bytes].
        vector: Parameters of one member [bytes].
    """

    block_size: int
    block: float
    task: float
    search: float
    sent: int
    sent_once: int
    returned: int
    returned_block: int
    vector: int


def simulate(
    costs: Costs, cluster: Cluster, members: int, workers: int, rng: np.random.Generator, vectors: bool
) -> float:
    """Seconds of one generation.

    Args:
        costs: Measured.
        cluster: Assumed.
        members: In the generation.
        workers: Of the cluster.
        rng: Of stragglers and failures.
        vectors: Whether workers get their members' parameters, instead of making them from the seed.
    """
    ranges = split_members(members, costs.block_size, count_tasks(members, workers, ENOUGH_MEMBERS))
    blocks = np.array([len(range_) / costs.block_size for range_ in ranges])
    nodes = math.ceil(workers / cluster.workers_per_node)
    hops = math.ceil(math.log2(nodes + 1))  # nodes that have it pass it on
    shared = hops * (cluster.latency + costs.sent / cluster.bandwidth)
    each = np.full(len(ranges), costs.task)
    if vectors:
        each += blocks * costs.block_size * costs.vector / cluster.bandwidth
    slowness = np.exp(cluster.noise * rng.standard_normal(workers))
    slowness[rng.random(workers) < cluster.straggling] *= cluster.slowdown
    deaths = rng.exponential(cluster.lifetime, workers).tolist()
    free = [(0.0, worker) for worker in range(workers)]
    last = 0.0
    for submitted, work in zip(shared + np.cumsum(each), blocks * costs.block, strict=True):
        since, worker = heapq.heappop(free)
        begin, seconds = max(since, submitted), work * slowness[worker]
        if begin <= deaths[worker] < begin + seconds:
            begin = deaths[worker] + cluster.detection  # once more, by another worker in its place
        last = max(last, begin + seconds)
        heapq.heappush(free, (begin + seconds, worker))
    returned = len(ranges) * costs.returned + (blocks.sum() - len(ranges)) * costs.returned_block
    read = cluster.latency + returned / cluster.bandwidth
    return max(last + cluster.latency, shared + float(each.sum()) + read) + costs.search * members


def curve(costs: Costs, cluster: Cluster, members: int, vectors: bool, generations: int) -> list[float]:
    """Mean speed-up over one worker that is never held up, for each of `WORKERS`."""
    blocks = math.ceil(members / costs.block_size)
    alone = blocks * costs.block + costs.search * members
    result = []
    for workers in WORKERS:
        rng = np.random.default_rng(workers)
        seconds = [simulate(costs, cluster, members, workers, rng, vectors) for _ in range(generations)]
        result.append(alone / statistics.fmean(seconds))
    return result


# --- measured ----------------------------------------------------------------------------------------


def make_run(folder: Path, workers: Workers, block_size: int, population_size: int = 64) -> Evolution:
    """A run of `train es` with its shipped hyperparameters."""
    config = evolution_config(block_size=block_size, population_size=population_size)
    return Evolution(config, RunFolder(folder), workers)


def seconds_of_generations(run: Evolution, generations: int) -> list[float]:
    """Time from one generation to the next, after one that is not measured."""
    progress, _ = run.generation(run.start())
    seconds = []
    for _ in range(generations):
        begin = time.perf_counter()
        progress, _ = run.generation(progress)
        seconds.append(time.perf_counter() - begin)
    return seconds


def measured_scaling(rounds: int, generations: int) -> list[Figure]:
    """A generation of 64 members in four blocks: serial, on one Ray worker, and on two."""
    ratios: dict[str, list[float]] = {"one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            serial = sum(seconds_of_generations(make_run(Path(folder), Serial(), 16), generations))
            times = []
            for workers in (1, 2):
                cluster = Ray(workers, None, lambda text: None)
                times.append(sum(seconds_of_generations(make_run(Path(folder), cluster, 16), generations)))
                cluster.close()
            ratios["one"].append(serial / times[0])
            ratios["two"].append(times[0] / times[1] / 2)
    return [
        Figure("Ray, one worker: time of one process over its time", Spread.of(np.array(ratios["one"]))),
        Figure("Ray, two workers: efficiency over one worker", Spread.of(np.array(ratios["two"]))),
    ]


def measured_costs(block_size: int, rounds: int) -> Costs:
    """Costs of a generation; see `Costs`."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), Serial(), block_size, 8 * block_size)
        progress, _ = run.generation(run.start())
        search = progress.search
        assert isinstance(search, EvolutionState)
        sent = Generation(1, (1,), without_memory(search), progress.moments, 0)
        blocks = [range(start, start + block_size) for start in range(0, 8 * block_size, block_size)]
        seconds = []
        for block in [blocks[0], *blocks[:rounds]]:
            begin = time.perf_counter()
            outcome = evaluate_members(run.trial, sent, block)
            seconds.append(time.perf_counter() - begin)
        two = evaluate_members(run.trial, sent, range(2 * block_size))
        many = replace(run.strategy, population_size=2048).init(search.parameters, 0)  # type: ignore[type-var]
        fitness = torch.arange(2048.0)
        searching = []
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            _, asked = ask(many)
            many = tell(asked, fitness)
            searching.append((time.perf_counter() - begin) / 2048)
        returned = len(pickle.dumps(outcome))
        return Costs(
            block_size=block_size,
            block=statistics.median(seconds[1:]),
            task=_seconds_of_a_task(),
            search=statistics.median(searching[1:]),
            sent=len(ray.cloudpickle.dumps(sent)),
            sent_once=len(ray.cloudpickle.dumps(run.trial)),
            returned=returned,
            returned_block=len(pickle.dumps(two)) - returned,
            vector=search.parameters.nbytes,
        )


def _seconds_of_a_task(tasks: int = 1000) -> float:
    """Of a task that does nothing, on this machine."""
    cluster = Ray(1, None, lambda text: None)
    nothing = ray.remote(num_cpus=1)(_nothing)
    shared = ray.put(None)
    ray.get([nothing.remote(shared, range(4)) for _ in range(100)])
    begin = time.perf_counter()
    ray.get([nothing.remote(shared, range(4)) for _ in range(tasks)])
    seconds = time.perf_counter() - begin
    cluster.close()
    return seconds / tasks


def _nothing(shared: Any, members: range) -> int:
    return 0


# --- shown -------------------------------------------------------------------------------------------

KINDS = ("seeds", "seeds, nothing fails or is held up", "whole parameter vectors")


def curves(costs: Costs, cluster: Cluster, members: int, generations: int) -> dict[str, list[float]]:
    """Speed-up for each of `WORKERS`, by what is sent."""
    smooth = replace(cluster, noise=0.0, straggling=0.0, lifetime=math.inf)
    return {
        KINDS[0]: curve(costs, cluster, members, False, generations),
        KINDS[1]: curve(costs, smooth, members, False, 1),
        KINDS[2]: curve(costs, cluster, members, True, generations),
    }


def curve_table(found: dict[str, list[float]], title: str) -> Table:
    """Speed-up and efficiency by the number of workers."""
    result = Table(title=title, box=rich.box.SIMPLE_HEAD)
    for name in ("workers", *found):
        result.add_column(name, justify="right")
    for i, workers in enumerate(WORKERS):
        cells = [f"{found[name][i]:,.1f} ({found[name][i] / workers:.0%})" for name in found]
        result.add_row(f"{workers:,}", *cells)
    return result


def draw(panels: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Speed-up over workers, a panel for each size of policy."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, (title, found) in zip(axes[0], panels.items(), strict=True):
        axis.plot(WORKERS, WORKERS, color="0.7", linestyle=":", label="as many times as workers")
        for name, speedups in found.items():
            axis.plot(WORKERS, speedups, marker="o", markersize=3, label=name)
        axis.set(xscale="log", yscale="log", xlabel="workers", ylabel="speed-up, simulated", title=title)
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@dataclass
class Arguments:
    """Measure a generation on Ray, and simulate it on many workers."""

    members: int = 40_000
    """Of a simulated generation."""

    block_size: int = 4
    """Members of a block in the simulated generation: the least that a worker gets."""

    parameters: int = 100_000
    """Of a second, larger policy, whose episodes are taken to cost no more."""

    rounds: int = 4
    """Of measuring."""

    generations: int = 30
    """Simulated for each number of workers."""

    output: Path = Path("runs/bench/scaling.json")
    """File for all numbers; the figure is written beside it."""


def main(arguments: Arguments) -> None:
    """Measure, simulate, show and write."""
    console = make_console()
    figures = measured_scaling(arguments.rounds, 3)
    console.print(
        table("Ray on this machine: ratios, the median of all rounds, lowest and highest", figures)
    )
    costs, cluster = measured_costs(arguments.block_size, arguments.rounds), Cluster()
    console.print_json(json.dumps({"measured costs": asdict(costs), "assumed": asdict(cluster)}))
    larger = 4 * arguments.parameters / costs.vector
    large = replace(
        costs,
        sent=round(costs.sent * larger),
        vector=4 * arguments.parameters,
        search=costs.search * larger,
    )
    panels = {}
    for cost in (costs, large):
        title = f"{arguments.members:,} members of {cost.vector // 4:,} parameters"
        panels[title] = curves(cost, cluster, arguments.members, arguments.generations)
        console.print(curve_table(panels[title], f"{title}: speed-up (efficiency)"))
    draw(panels, arguments.output.with_suffix(".png"))
    found = {"costs": asdict(costs), "cluster": asdict(cluster), "workers": WORKERS, "curves": panels}
    write_json(arguments.output, machine() | found, {"ray": figures})
    console.print(f"All numbers: {arguments.output}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
