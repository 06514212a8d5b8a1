"""Parameters as a vector, and how far each of its numbers is perturbed."""

from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env.evolution import CMAES, EvolutionStrategy, RandomSearch, SparseEvolutionStrategy, init
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


SEARCHES = [EvolutionStrategy(), SparseEvolutionStrategy(), RandomSearch(), CMAES()]
every_search = pytest.mark.parametrize("strategy", SEARCHES, ids=lambda strategy: type(strategy).__name__)
NETWORK = torch.nn.Sequential(torch.nn.Linear(5, 2), torch.nn.BatchNorm1d(2))


def test_named_parameters_of_a_module_are_taken():
    expected = torch.cat([tensor.flatten() for tensor in NETWORK.parameters()])
    for named in (
        dict(NETWORK.named_parameters()),
        NETWORK.named_parameters(),
        list(NETWORK.named_parameters()),
    ):
        layout, vector = as_vector(named)
        assert layout.names == ("0.weight", "0.bias", "1.weight", "1.bias") and torch.equal(
            vector, expected
        )


@every_search
@pytest.mark.parametrize(
    "make",
    [
        lambda: NETWORK.parameters(),
        lambda: list(NETWORK.parameters()),
        lambda: torch.nn.Linear(5, 1).parameters(),
        lambda: iter([torch.ones(2, 5)]),
        lambda: NETWORK,
        lambda: [1.0, 2.0],
        lambda: np.ones(3),
        lambda: {1: torch.ones(3)},
        lambda: "weights",
        lambda: None,
    ],
)
def test_parameters_without_names_are_refused(make: Any, strategy: Any):
    with pytest.raises(TypeError, match=r"must be one tensor, or tensors with their names"):
        init(strategy, make(), 0)


@every_search
def test_parameters_that_are_no_floats_are_refused(strategy: Any):
    with pytest.raises(TypeError, match="must be a tensor of floats"):
        init(strategy, torch.arange(3), 0)


def test_mistakes_are_named():
    layout, _ = as_vector(NAMED)
    with pytest.raises(ValueError, match="scaling='fan'.*'fan_in'"):
        perturbation_scale(layout, "fan", {})
    with pytest.raises(ValueError, match="tensor_scales='0.wieght'.*'0.weight'"):
        perturbation_scale(layout, "none", {"0.wieght": 1.0})
    with pytest.raises(ValueError, match=r"tensor_scales\['conv'\]=0"):
        perturbation_scale(layout, "none", {"conv": 0.0})
