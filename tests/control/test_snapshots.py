"""Copies of states: what they share, where they lie, and how they are put back."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autotrain_env.control.frozen import freeze, thaw
from autotrain_env.control.snapshots import Snapshots, copy_tree, is_finite, num_bytes
from autotrain_env.process.thresholdout import Thresholdout


def test_tensors_that_share_memory_are_copied_once():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    state = model.state_dict()
    copied = copy_tree(state)
    assert copied["0.weight"] is copied["1.weight"]
    assert copied["0.weight"].data_ptr() != state["0.weight"].data_ptr()
    assert num_bytes(state) == num_bytes(copied) == 5 * 3 * 4


def test_versions_of_modules_are_kept():
    state = nn.BatchNorm1d(3).state_dict()
    copied = copy_tree(state)
    assert isinstance(copied, OrderedDict) and copied._metadata == state._metadata


def test_room_is_used_again_where_it_fits():
    state = {"a": torch.ones(3), "b": [torch.zeros(2), 4], "c": (torch.ones(2, 2).T,)}
    first = copy_tree(state)
    where = first["a"].data_ptr()
    state["a"] = torch.full((3,), 7.0)
    state["b"] = [torch.zeros(5), 4]
    second = copy_tree(state, room=first)
    assert second["a"].data_ptr() == where and second["a"].tolist() == [7, 7, 7]
    assert second["b"][0].shape == (5,) and second["b"][1] == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(bad: float):
    state = {"weights": torch.ones(3), "counts": torch.tensor([1]), "more": [torch.ones(2), None]}
    assert is_finite(state) and is_finite({}) and is_finite({"none": torch.ones(0)})
    state["more"][0][1] = bad
    assert not is_finite(state)


@pytest.mark.parametrize("place", ["device", "cpu", "folder"])
def test_a_snapshot_is_put_back_more_than_once(place: str, tmp_path: Path):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    snapshots = Snapshots([model, optimizer], tmp_path if place == "folder" else place)

    def update() -> list[float]:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        return model.weight.flatten().tolist()

    update()
    kept = snapshots.take()
    expected = [update(), update()]
    for _ in range(2):  # what follows it changes nothing in it
        snapshots.restore(kept)
        assert optimizer.state_dict()["state"][0]["step"] == 1
        assert [update(), update()] == expected
    snapshots.drop(kept)
    assert not list(tmp_path.iterdir())


def test_frozen_states_come_back():
    def make(seed: int) -> Thresholdout:
        made = Thresholdout(1, 0.04, 0.01)
        made.begin(np.array([0]), [np.random.default_rng(seed)])
        return made

    def ask(guard: Thresholdout) -> list[float]:
        lane, holdout = np.array([0]), np.array([0.5])
        return [float(guard.query(lane, holdout + i / 100, holdout)[0]) for i in range(99)]

    guard = make(3)
    ask(guard)
    frozen = freeze(guard)
    expected = ask(guard)
    other = thaw(make(9), frozen)
    assert ask(other) == expected and other.queries == guard.queries


def test_frozen_states_are_read_without_code(tmp_path: Path):
    value = {
        "numbers": np.arange(3),
        "words": np.array([["a", "b"]], object),
        "none": None,
        "pair": (1, 2.5),
    }
    torch.save(freeze(value), tmp_path / "frozen.pt")
    found = thaw(value, torch.load(tmp_path / "frozen.pt", weights_only=True))
    np.testing.assert_array_equal(found["numbers"], value["numbers"])
    assert found["words"].tolist() == [["a", "b"]] and found["pair"] == (1, 2.5)
