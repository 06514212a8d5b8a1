"""Novelty against brute force, and its weight."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

from autotrain_env.evolution.novelty import Archive, Novelty, check_behaviors

behaviors = arrays(
    np.float64, st.tuples(st.integers(1, 8), st.just(3)), elements=st.floats(-9, 9, width=32)
)


@given(behaviors, behaviors, st.integers(1, 5))
def test_neighbours_against_brute_force(archived: np.ndarray, members: np.ndarray, neighbors: int):
    archive = Archive(Novelty(neighbors=neighbors), 0.5, torch.from_numpy(archived))
    found = archive.novelty(torch.from_numpy(members))
    for member, novelty in zip(members, found.tolist(), strict=True):
        nearest = sorted(math.dist(member, other) for other in archived)[:neighbors]
        assert novelty == pytest.approx(np.mean(nearest), abs=1e-9)


def test_distances_far_from_the_origin_are_not_lost():
    archive = Archive(Novelty(), 0.5, torch.full((40, 30), 1e8, dtype=torch.float64))
    one_step_off = torch.full((1, 30), 1e8, dtype=torch.float64)
    one_step_off[0, 0] += 1
    assert archive.novelty(one_step_off).tolist() == [1.0]


def test_the_archive_keeps_what_the_centre_did():
    archive = Novelty("ns", neighbors=1).start()
    assert archive.weight == 0
    rows = torch.tensor([[0.0], [3.0], [1.0]], dtype=torch.float64)  # the centre is last
    novelty, archive = archive.add(rows, 0.0)
    assert novelty.tolist() == [1.0, 2.0]
    novelty, archive = archive.add(rows * 10, 0.0)
    assert novelty.tolist() == [1.0, 20.0] and archive.behaviors.tolist() == [[1.0], [10.0]]
    # one that is not finite is not archived, and is as new as NaN: it ranks worst
    novelty, after = archive.add(rows * math.nan, 0.0)
    assert len(after.behaviors) == 2 and novelty.isnan().all()


def test_the_weight_follows_progress():
    archive = Novelty("nsra", step=0.25, patience=2).start()
    row = torch.zeros(2, 1, dtype=torch.float64)
    weights = []
    for fitness in (1, 1, 1, 0, 0, 0, 0, 2, 2, 3):
        _, archive = archive.add(row, fitness)
        weights.append(archive.weight)
    assert weights == [1, 1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.5, 0.5, 0.75]
    assert Novelty("nsr").start().weight == 0.5


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="novelty kind='nes'"):
        Novelty("nes")
    for name, value in (("neighbors", 0), ("step", 0.0), ("patience", 0)):
        with pytest.raises(ValueError, match=f"{name}="):
            Novelty(**{name: value})
    with pytest.raises(ValueError, match=r"behaviors.*shape \(2, 2\).*length 1"):
        Archive(Novelty(), 0.5, torch.zeros(1, 1)).add(torch.zeros(2, 2), 0.0)
    for wrong, message in (
        (None, r"behaviors=None.*shape \(3, b\)"),
        ([1, 2, 3], r"shape \(3,\)"),
        (np.zeros((2, 2)), r"shape \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_behaviors(wrong, 3, wanted=True)
    with pytest.raises(TypeError, match="must be numbers"):
        check_behaviors([["a"]] * 3, 3, wanted=True)
    with pytest.raises(ValueError, match="None without novelty"):
        check_behaviors([[1.0]], 1, wanted=False)
