"""Parents that exchange along a graph."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env.evolution import EvolutionStrategy, SparseEvolutionStrategy, ask, init, tell
from autotrain_env.evolution.landscapes import sphere
from autotrain_env.evolution.sparse import SparseState

everywhere = pytest.mark.parametrize("topology", ["full", "ring", "erdos-renyi"])
pairs_or_not = pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "single"])


def start(topology: str = "erdos-renyi", seed: int = 1, **more: Any) -> SparseState:
    strategy = SparseEvolutionStrategy(**{"population_size": 32, "topology": topology, **more})
    state = init(strategy, torch.full((5,), 1.5, dtype=torch.float64), seed)
    assert isinstance(state, SparseState)
    return state


def run(state: SparseState, generations: int) -> SparseState:
    for _ in range(generations):
        population, asked = state.ask()
        state = asked.tell(-sphere(population))
    return state


@everywhere
@pairs_or_not
def test_every_topology_climbs(topology: str, mirrored: bool):
    state = run(start(topology, mirrored=mirrored), 200)
    assert float(sphere(state.parameters)) < 0.3
    assert state.report["spread"] >= 0 and state.report["update_norm"] > 0


def test_graphs_by_hand():
    ring = SparseEvolutionStrategy(10, topology="ring").graph(0)
    wanted = np.eye(5, dtype=bool)
    for parent in range(5):
        wanted[parent, (parent + 1) % 5] = wanted[parent, (parent - 1) % 5] = True
    assert (ring == wanted).all()
    assert SparseEvolutionStrategy(10, topology="full").graph(0).all()
    random = SparseEvolutionStrategy(200, density=0.3).graph(3)
    assert (random == random.T).all() and random.diagonal().all()
    joined = random[np.triu_indices(100, 1)].mean()
    assert abs(joined - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4950)
    assert not (random == SparseEvolutionStrategy(200, density=0.3).graph(4)).all()


@pairs_or_not
def test_parents_that_all_agree_follow_the_estimate_of_one_centre(mirrored: bool):
    """From equal parents on the full graph, a generation is that of an ordinary strategy for all."""
    arguments: dict[str, Any] = {
        "population_size": 16,
        "mirrored": mirrored,
        "optimizer": "sgd",
        "learning_rate": 0.1,
    }
    parents = run(start("full", **arguments, broadcast_every=None), 1)
    begin = torch.full((5,), 1.5, dtype=torch.float64)
    population, asked = ask(init(EvolutionStrategy(**arguments), begin, 1))
    moved = tell(asked, -sphere(population)).parameters - begin
    factor = 1 if mirrored else 15 / 16  # which divides by n - 1
    for parent in parents.parents.values:
        assert torch.allclose(parent - begin, moved * factor)


def test_a_step_by_hand():
    """Of members and parents: parent i moves along the mean of utility * (member - parent i) / std^2."""
    state = run(start("ring", optimizer="sgd", learning_rate=0.01, broadcast_every=None), 3)
    population, asked = state.ask()
    fitness = -sphere(population)
    after = asked.tell(fitness)
    utility = (fitness.argsort().argsort() / 31 - 0.5).view(16, 2)
    members = population.view(16, 2, 5)
    parents = state.parents.values
    for i in range(16):
        near = [i - 1, i, (i + 1) % 16]
        offsets = members[near] - parents[i]
        uphill = (utility[near][..., None] * offsets).mean((0, 1)) / 0.1**2
        assert torch.allclose(after.parents.values[i], parents[i] + 0.01 * uphill)


def test_broadcasts_copy_the_best_parent():
    state = run(start("ring", broadcast_every=3), 2)
    assert state.report["spread"] > 0 and not state.report["broadcast"]
    after = run(state, 1)
    assert after.report["broadcast"] and after.report["spread"] == 0
    assert torch.equal(after.parents.values, after.parameters.expand(16, -1))


def test_a_search_repeats_itself_and_changes_nothing_in_place():
    first = run(start(), 4)
    kept = first.parents.values.clone()
    assert torch.equal(run(first, 3).parents.values, run(run(start(), 4), 3).parents.values)
    assert torch.equal(first.parents.values, kept)


def test_fitness_without_numbers():
    state = run(start(), 2)
    _, asked = state.ask()
    after = asked.tell([math.nan] * 32)
    assert torch.equal(after.parents.values, state.parents.values)
    assert after.report["skipped"] and after.generation == 3
    partly = asked.tell([math.nan] + [1.0] * 31)
    assert partly.report["not_finite"] == 1 and not torch.equal(partly.parents.values, state.parents.values)


def test_mistakes_are_named():
    for arguments, message in (
        ({"population_size": 2}, "population_size=2.*at least 4"),
        ({"population_size": 7}, "population_size=7.*even"),
        ({"topology": "star"}, "topology='star'"),
        ({"density": 0}, "density=0"),
        ({"broadcast_every": 0}, "broadcast_every=0"),
        ({"perturbation_std": 0}, "perturbation_std=0"),
    ):
        with pytest.raises(ValueError, match=message):
            SparseEvolutionStrategy(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"density=0\.02.*falls into \d+ parts.*0\.17"):
        start(density=0.02)
    with pytest.raises(TypeError, match="tensor of floats"):
        init(SparseEvolutionStrategy(), torch.zeros(2, dtype=torch.int64), 0)
    state = start()
    with pytest.raises(ValueError, match=r"without ask\(\)"):
        state.tell([0.0] * 32)
    with pytest.raises(ValueError, match="called twice"):
        state.ask()[1].ask()
    with pytest.raises(ValueError, match="behaviors"):
        state.ask()[1].tell([0.0] * 32, [[0.0]] * 32)


@everywhere
@pairs_or_not
def test_members_are_known_from_the_state_and_their_numbers_alone(topology: str, mirrored: bool):
    state = run(start(topology, mirrored=mirrored), 2)
    population, _ = state.ask()
    assert population.shape == (32, 5)
    for members in (range(32), range(3, 4), range(5, 12), range(31, 32)):
        assert torch.equal(state.members(members), population[members.start : members.stop])
    with pytest.raises(ValueError, match=r"members=range\(0, 33\)"):
        state.members(range(33))


def test_scaling_is_a_change_of_coordinates():
    named = {"weight": torch.full((2, 4), 1.5, dtype=torch.float64)}
    scaled = init(SparseEvolutionStrategy(16, scaling="fan_in"), named, 1)
    plain = init(SparseEvolutionStrategy(16), named["weight"].flatten() * 2, 1)
    for _ in range(4):
        (members, scaled), (others, plain) = ask(scaled), ask(plain)
        assert torch.allclose(members * 2, others)
        scaled, plain = (tell(state, -sphere(members)) for state in (scaled, plain))
    assert torch.allclose(scaled.parameters * 2, plain.parameters)
    with pytest.raises(ValueError, match="scaling='fan'"):
        SparseEvolutionStrategy(16, scaling="fan")


@pytest.mark.parametrize("shaping", ["ranks", "z_score", "raw", "top_k"])
def test_an_offset_of_the_fitness_changes_nothing(shaping: str):
    """Differences far below what float32 parameters could tell apart decide."""
    ends = []
    for offset in (0.0, 1e9):
        state = init(SparseEvolutionStrategy(16, shaping=shaping), torch.ones(3), 0)
        for _ in range(6):
            members, state = ask(state)
            state = tell(state, offset - torch.round(members.double().square().sum(1) * 2**22) / 2**22)
        ends.append(state.parameters)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    assert not torch.equal(ends[0], torch.ones(3))
