"""Parameters as a vector, and how far each of its numbers is perturbed."""

import pytest
import torch

from autotrain_env.evolution.vectors import as_vector, perturbation_scale

NAMED = {
    "0.weight": torch.arange(6.0).view(2, 3),
    "0.bias": torch.tensor([10.0, 11.0]),
    "free": torch.tensor(20.0),
    "conv": torch.arange(8.0).view(1, 2, 2, 2),
}


def test_scales_follow_the_inputs_of_a_unit():
    layout, vector = as_vector(NAMED)
    assert vector.shape == (layout.size,)
    found = layout.split(perturbation_scale(layout, "fan_in", {"conv": 2.0}))
    assert torch.allclose(found["0.weight"], torch.tensor(3**-0.5))
    assert torch.allclose(found["0.bias"], torch.tensor(3**-0.5))  # of the weight's layer
    assert found["free"] == 1
    assert torch.allclose(found["conv"], torch.tensor(2 * 8**-0.5))
    assert torch.equal(perturbation_scale(layout, "none", {}), torch.ones(17))


def test_mistakes_are_named():
    layout, _ = as_vector(NAMED)
    with pytest.raises(ValueError, match="scaling='fan'.*'fan_in'"):
        perturbation_scale(layout, "fan", {})
    with pytest.raises(ValueError, match="tensor_scales='0.wieght'.*'0.weight'"):
        perturbation_scale(layout, "none", {"0.wieght": 1.0})
    with pytest.raises(ValueError, match=r"tensor_scales\['conv'\]=0"):
        perturbation_scale(layout, "none", {"conv": 0.0})
