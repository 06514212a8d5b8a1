"""A model measured on what a loader gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrain_env.optimization import evaluate


@pytest.fixture
def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    )


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_every_image_counts_once(data: TensorDataset, batch_size: int):
    model = nn.Linear(4, 3)
    logits, labels = model(data.tensors[0]), data.tensors[1]
    found = evaluate(model, DataLoader(data, batch_size))
    assert found["log_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert found["images"] == 50


def test_logits_and_their_log_softmax_are_the_same_to_it(data: TensorDataset):
    linear = nn.Linear(4, 3)
    both = [evaluate(model, [data.tensors]) for model in (linear, nn.Sequential(linear, nn.LogSoftmax(1)))]
    assert both[0] == pytest.approx(both[1], rel=1e-5)


def test_some_minibatches_are_enough_if_asked_for(data: TensorDataset):
    asked = []
    loader = ((asked.append(1), batch)[1] for batch in DataLoader(data, 10))
    assert evaluate(nn.Linear(4, 3), loader, max_batches=2, device="cpu")["images"] == 20
    assert len(asked) == 2


def test_the_model_is_in_evaluation_mode_and_left_as_it_was(data: TensorDataset):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    assert evaluate(model, DataLoader(data, 10)) == evaluate(model, DataLoader(data, 10))
    assert model.training and model[1].weight.grad is None
    with pytest.raises(RuntimeError):
        evaluate(model, [(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))])
    assert model.training
    model.eval()
    evaluate(model, DataLoader(data, 10))
    assert not model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": lambda images: images}, "model=.*torch.nn.Module"),
        ({"loader": []}, "loader: gave no image"),
        ({"loader": [torch.zeros(2, 4)]}, "(?s)loader: gave .*no pair"),
        ({"loader": [(torch.zeros(2, 4), 1)]}, "(?s)loader: gave .*no pair"),
        ({"max_batches": 0}, "max_batches=0.*at least 1"),
        ({"max_batches": 1.5}, "max_batches=1.5"),
    ],
)
def test_mistakes_are_named(data: TensorDataset, arguments: dict, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(**{"model": nn.Linear(4, 3), "loader": DataLoader(data, 10), **arguments})
