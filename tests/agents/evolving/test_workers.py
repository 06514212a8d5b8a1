"""Members evaluated here, in processes and on Ray: the same to the last bit, also when workers die."""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from agents.evolving.members import (
    Generation,
    Outcome,
    Trial,
    evaluate_members,
    join_outcomes,
    without_memory,
)
from agents.evolving.workers import Processes, Ray, Serial, count_tasks, make_workers, split_members
from autotrain_env import AutoTrainVectorEnv
from autotrain_env.evolution import EvolutionStrategy, SparseEvolutionStrategy, init
from autotrain_env.evolution.strategy import EvolutionState
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.stacked import make_spec, policy_layout
from tests.helpers import spaces_of

ENV = {
    "observation_layout": "flat",
    "dataset": "digits",
    "budget": 60,
    "train_size": 100,
    "classifier": "mlp-8",
}
MEMBERS, BLOCK = 10, 4


def make_trial(**more: Any) -> Trial:
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=1, autoreset_mode="Disabled", **ENV).unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    given: dict[str, Any] = {
        "env_id": "AutoTrain-v0",
        "env": ENV,
        "spec": make_spec(*spaces_of(env), (4,)).as_json(),
        "episodes": 2,
        "block_size": BLOCK,
        "fitness": "return",
        "deterministic": True,
        "behaviors": True,
        "threads": 1,
    }
    return Trial(**(given | more))


STRATEGY = EvolutionStrategy(MEMBERS, perturbation_std=0.5)


def make_generation(strategy: Any = STRATEGY) -> Generation:
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=1, autoreset_mode="Disabled", **ENV).unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    size = policy_layout(make_spec(*spaces_of(env), (4,))).size
    state = init(strategy, torch.zeros(size), 5)
    moments = Moments.empty(int(np.prod(env.single_observation_space.shape)))
    source = without_memory(state)  # type: ignore[arg-type]
    return Generation(0, (11, 12), source, moments, seed=5)


def assert_same(first: Outcome, second: Outcome) -> None:
    for name in ("fitness", "score", "behaviors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert (first.env_steps, first.updates) == (second.env_steps, second.updates)
    for one, other in zip(first.blocks, second.blocks, strict=True):
        assert one.count == other.count
        np.testing.assert_array_equal(one.mean, other.mean)
        np.testing.assert_array_equal(one.squares, other.squares)


@pytest.fixture(scope="module")
def wanted() -> Outcome:
    return Serial().evaluate(make_trial(), make_generation(), MEMBERS)


class Deadly:
    """Makes members as a state does, but ends its process the first time that it makes the last of them."""

    def __init__(self, state: Any, marker: Path) -> None:
        self.state, self.marker = state, marker

    def members(self, members: range) -> torch.Tensor:
        if members.stop == MEMBERS and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.state.members(members)


def deadly(marker: Path) -> Generation:
    generation = make_generation()
    return dataclasses.replace(generation, source=Deadly(generation.source, marker))  # type: ignore[arg-type]


def test_an_outcome_tells_of_every_member(wanted: Outcome):
    assert wanted.fitness.shape == wanted.score.shape == (MEMBERS,)
    assert len(np.unique(wanted.fitness)) > 3  # they differ
    assert wanted.behaviors is not None and wanted.behaviors.shape == (MEMBERS, 2 * 16)
    rates = wanted.behaviors[:, :8]
    assert (rates >= -6).all() and (rates <= 1).all()
    assert len(wanted.blocks) == 3 and sum(block.count for block in wanted.blocks) == wanted.env_steps
    assert 0 < wanted.env_steps <= MEMBERS * 2 * 3  # a stop is a step without updates
    assert 0 < wanted.updates <= wanted.env_steps * 20 and wanted.updates % 20 == 0
    score = evaluate_members(
        make_trial(fitness="score", behaviors=False), make_generation(), range(MEMBERS)
    )
    np.testing.assert_array_equal(
        score.fitness, wanted.score.astype(np.float32)
    )  # what rounding alone parts ties
    assert score.behaviors is None


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_members_are_split_into_whole_blocks(workers: int, wanted: Outcome):
    ranges = split_members(MEMBERS, BLOCK, workers)
    assert [member for range_ in ranges for member in range_] == list(range(MEMBERS))
    assert len(ranges) == min(workers, 3) and all(range_.start % BLOCK == 0 for range_ in ranges)
    parts = [evaluate_members(make_trial(), make_generation(), range_) for range_ in ranges]
    assert_same(join_outcomes(parts), wanted)


@pytest.mark.parametrize(
    ("members", "workers", "tasks"), [(64, 1, 1), (64, 8, 8), (256, 2, 4), (10_000, 10, 40), (1, 3, 3)]
)
def test_workers_get_some_tasks_if_there_are_members_enough(members: int, workers: int, tasks: int):
    assert count_tasks(members, workers, 64) == tasks


def test_a_range_begins_with_a_block():
    with pytest.raises(ValueError, match=r"members=range\(2, 4\).*multiple of 4"):
        evaluate_members(make_trial(), make_generation(), range(2, 4))


def test_sparse_and_listed_members():
    sparse = make_generation(SparseEvolutionStrategy(MEMBERS, perturbation_std=0.5, topology="ring"))
    found = Serial().evaluate(make_trial(), sparse, MEMBERS)
    listed = dataclasses.replace(sparse, source=sparse.source.members(range(MEMBERS)))  # type: ignore[union-attr]
    assert_same(found, Serial().evaluate(make_trial(), listed, MEMBERS))


def test_only_what_members_are_made_of_is_sent():
    generation = make_generation()
    assert isinstance(generation.source, EvolutionState)
    assert generation.source.centre.accumulators == () and generation.source.asked is None


def test_processes_give_the_same(wanted: Outcome):
    workers = make_workers("processes", 2)
    try:
        for _ in range(2):
            assert_same(workers.evaluate(make_trial(), make_generation(), MEMBERS), wanted)
    finally:
        workers.close()


@pytest.mark.slow
def test_a_process_that_dies_changes_nothing(tmp_path: Path, wanted: Outcome):
    workers = Processes(2)
    try:
        marker = tmp_path / "died"
        assert_same(workers.evaluate(make_trial(), deadly(marker), MEMBERS), wanted)
        assert marker.exists()
        assert_same(workers.evaluate(make_trial(), make_generation(), MEMBERS), wanted)
    finally:
        workers.close()


# --- Ray ---


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray's own test cluster: two nodes of one CPU each on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def ray(cluster: Any) -> Iterator[Ray]:
    """Tasks on that cluster; workers get this module by value, since they cannot import it."""
    said: list[str] = []
    workers = make_workers("ray", address=cluster.address, announce=said.append)
    assert isinstance(workers, Ray)
    assert said == [f"Ray: joined {cluster.address}, 2 CPUs"]
    workers.ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield workers
    workers.close()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same(ray: Ray, wanted: Outcome):
    for _ in range(2):
        assert_same(ray.evaluate(make_trial(), make_generation(), MEMBERS), wanted)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_worker_of_ray_that_dies_changes_nothing(ray: Ray, tmp_path: Path, wanted: Outcome):
    marker = tmp_path / "died"
    assert_same(ray.evaluate(make_trial(), deadly(marker), MEMBERS), wanted)
    assert marker.exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_nodes_come_and_go(ray: Ray, cluster: Any, wanted: Outcome):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    assert ray._cpus() == 4
    assert_same(ray.evaluate(make_trial(), make_generation(), MEMBERS), wanted)
    cluster.remove_node(node)
    deadline = time.monotonic() + 60
    while ray._cpus() != 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ray._cpus() == 2
    assert_same(ray.evaluate(make_trial(), make_generation(), MEMBERS), wanted)


# --- what is refused ---


def test_ray_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"autotrain-env\[distributed\]"):
        make_workers("ray")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("proceses",), "workers='proceses'.*nearest known one is 'processes'"),
        (("serial", 2), "num_workers=2.*serial"),
        (("processes", 0), "num_workers=0.*at least 1"),
        (("processes", 2, "auto"), "ray_address='auto'.*ray"),
        (("ray", 2, "auto"), "num_workers=2.*joined"),
    ],
)
def test_mistakes_are_named(arguments: tuple[Any, ...], message: str):
    with pytest.raises(ValueError, match=message):
        make_workers(*arguments)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_where_nobody_answers_begins_no_cluster(address: str):
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConnectionError, match="ray_address='.*': no Ray cluster answers there"):
        make_workers("ray", address=address)
    assert not ray.is_initialized()
