"""The simulation of generations on many workers."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.scaling import WORKERS, Cluster, Costs, curve, simulate

COSTS = Costs(
    block_size=4,
    block=0.5,
    task=1e-3,
    search=1e-5,
    sent=30_000,
    sent_once=4_000,
    returned=3_000,
    returned_block=3_000,
    vector=12_000,
)
SMOOTH = Cluster(noise=0.0, straggling=0.0, lifetime=np.inf)


def seconds(cluster: Cluster, workers: int, vectors: bool = False, costs: Costs = COSTS) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([simulate(costs, cluster, 4_000, workers, rng, vectors) for _ in range(20)]))


def test_a_lone_worker_takes_the_time_of_its_blocks():
    free = replace(COSTS, task=0.0, sent=0, returned=0, returned_block=0)
    assert seconds(replace(SMOOTH, latency=0.0), 1, costs=free) == pytest.approx(1000 * 0.5 + 4_000 * 1e-5)


def test_nothing_is_faster_than_as_many_times_as_workers():
    for cluster in (SMOOTH, Cluster()):
        for workers, speedup in zip(WORKERS, curve(COSTS, cluster, 40_000, False, 5), strict=True):
            assert 0 < speedup <= workers


@pytest.mark.parametrize(
    "worse",
    [{"noise": 0.3}, {"straggling": 0.1}, {"lifetime": 600.0}, {"latency": 0.5}, {"bandwidth": 1e5}],
)
def test_what_a_cluster_lacks_costs_time(worse: dict[str, float]):
    assert seconds(replace(SMOOTH, **worse), 100) > seconds(SMOOTH, 100)


def test_parameter_vectors_take_longer_than_seeds():
    assert seconds(SMOOTH, 100, vectors=True) > seconds(SMOOTH, 100)
