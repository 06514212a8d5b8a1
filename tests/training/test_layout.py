"""Where a network's tensors lie in a vector."""

import torch
from torch import nn

from autotrain_env.training.layout import Layout

NAMED = {
    "0.weight": torch.arange(6.0).view(2, 3),
    "0.bias": torch.tensor([10.0, 11.0]),
    "free": torch.tensor(20.0),
    "conv": torch.arange(8.0).view(1, 2, 2, 2),
}


def test_join_and_split_are_inverse():
    layout = Layout.of(NAMED)
    vector = layout.join(NAMED)
    assert layout.size == 17 and vector.shape == (17,)
    assert vector[:9].tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 20]
    assert all(torch.equal(part, NAMED[name]) for name, part in layout.split(vector).items())
    parts = layout.split(torch.stack((vector, vector + 1)))
    for name, tensor in NAMED.items():
        assert torch.equal(parts[name], torch.stack((tensor, tensor + 1)))
    assert layout.groups().tolist() == [0] * 6 + [1] * 2 + [2] + [3] * 8


def test_what_is_split_shares_memory():
    rows = torch.zeros(2, 20)
    parts = Layout.of(NAMED).split(rows[:, 2:19])  # a stretch of wider rows
    parts["0.bias"][1] = 1.0
    assert rows.nonzero().tolist() == [[1, 8], [1, 9]]


def test_the_order_of_tensors_makes_another_layout():
    assert Layout.of(NAMED) == Layout.of(dict(NAMED))
    assert Layout.of(NAMED) != Layout.of(dict(reversed(NAMED.items())))


def test_a_module_has_parameters_and_buffers():
    parameters, buffers = Layout.of_module(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    assert parameters.names == ("0.weight", "0.bias", "1.weight", "1.bias") and parameters.size == 12
    assert buffers.names == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    assert [(entry.start, entry.stop) for entry in buffers.entries] == [(0, 2), (2, 4), (4, 5)]
    without = Layout.of_module(nn.Linear(3, 2))[1]
    assert without.size == 0 and without.split(torch.zeros(4, 0)) == {}


def test_numbers_that_go_into_a_unit():
    assert Layout.of(NAMED).fan_ins() == [3, 3, 1, 8]  # a bias goes with its layer's weight
    assert Layout.of({"norm.weight": torch.ones(4), "norm.bias": torch.ones(4)}).fan_ins() == [1, 1]
