"""Where a network's tensors lie in a vector."""

import pytest
import torch

from autotrain_env.evolution import Layout

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
    parts = layout.split(torch.stack((vector, vector + 1)))
    for name, tensor in NAMED.items():
        assert torch.equal(parts[name], torch.stack((tensor, tensor + 1)))
    assert layout.groups().tolist() == [0] * 6 + [1] * 2 + [2] + [3] * 8


def test_scales_follow_the_inputs_of_a_unit():
    layout = Layout.of(NAMED)
    found = layout.split(layout.scale("fan_in", {"conv": 2.0}))
    assert torch.allclose(found["0.weight"], torch.tensor(3**-0.5))
    assert torch.allclose(found["0.bias"], torch.tensor(3**-0.5))  # of the weight's layer
    assert found["free"] == 1
    assert torch.allclose(found["conv"], torch.tensor(2 * 8**-0.5))
    assert torch.equal(layout.scale("none", {}), torch.ones(17))


def test_mistakes_are_named():
    layout = Layout.of(NAMED)
    with pytest.raises(ValueError, match="scaling='fan'.*'fan_in'"):
        layout.scale("fan", {})
    with pytest.raises(ValueError, match="tensor_scales='0.wieght'.*'0.weight'"):
        layout.scale("none", {"0.wieght": 1.0})
    with pytest.raises(ValueError, match=r"tensor_scales\['conv'\]=0"):
        layout.scale("none", {"conv": 0.0})
