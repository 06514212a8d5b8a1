"""A small problem and a training loop, as users of the controller have them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrain_env import Controller, synthetic

CLASSES, FEATURES = 4, 8


def problem(size: int = 400, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Vectors of 8 features in 4 classes, and their labels."""
    data = synthetic(num_classes=CLASSES, num_features=FEATURES, size=size, difficulty=0.2)
    return data.images.flatten(1).to(dtype), torch.from_numpy(data.labels.copy()).long()


def network(dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """A small network with buffers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(FEATURES, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(dropout), nn.Linear(12, CLASSES)
    )


def loaders(batch_size: int = 16, shuffle: bool = True) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """A loader of training data and one of the holdout."""
    inputs, labels = problem()
    train = DataLoader(TensorDataset(inputs[:240], labels[:240]), batch_size, shuffle=shuffle)
    return train, DataLoader(TensorDataset(inputs[240:], labels[240:]), 40)


def update(model: nn.Module, optimizer: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Makes an update; returns loss, logits and labels."""
    inputs, labels = batch
    logits = model(inputs)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss, logits, labels


def run(controller: Controller, loader: Any) -> Controller:
    """Trains as the controller says, and returns it."""
    for batch in controller.batches(loader):
        controller.step(*update(controller.model, controller.optimizer, batch))
    return controller
