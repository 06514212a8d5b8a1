"""What the benchmark of speed measures: that it trains, and that every row of it runs."""

import json

import numpy as np
import pytest
import torch

from benchmarks import speed

CPU = torch.device("cpu")


@pytest.mark.parametrize(("sizes", "channels"), [((64, 9, 10), ()), ((64, 10), (3, 5))])
def test_the_benchmark_trains_as_plain_torch_does(sizes: tuple[int, ...], channels: tuple[int, ...]):
    training = speed.Training(sizes, 3, 50, speed.Setup(CPU, quick=True), channels)
    network, stack = training.plain_network, training.stack
    with torch.no_grad():
        start = [parameter.clone() for parameter in network.parameters()]
        row = torch.cat([parameter.flatten() for parameter in start]).numpy()
    stack.set_network(training.slots, np.stack([row] * 3))
    training.stacked()

    positions = torch.from_numpy(training.indices[1])
    sgd = torch.optim.SGD(network.parameters(), lr=speed.LEARNING_RATE, momentum=speed.plain_torch.MOMENTUM)
    speed.plain_torch.train(network, sgd, training.plain_images, training.labels, positions)
    trained = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert not torch.allclose(trained, torch.from_numpy(row))
    torch.testing.assert_close(stack.state[1, : stack.num_parameters], trained)

    before = trained.clone()
    training.plain(5)()
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_every_row_of_the_benchmark_runs(tmp_path):
    output = tmp_path / "speed.json"
    speed.main(speed.Arguments(quick=True, output=output))
    rows = json.loads(output.read_text())["rows"]
    assert list(rows) == list(speed.ROWS)
    for figures in rows.values():
        assert figures
        assert all(figure["measured"]["median"] > 0 for figure in figures)
