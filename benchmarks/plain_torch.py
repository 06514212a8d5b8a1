"""What a person would write instead: one network after another, in plain torch.

Nothing is done that the comparison does not need: images are normalised once and stay in memory,
minibatches are taken by index, and all parts of the data are evaluated in one pass.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.data.dataset import Dataset
from autotrain_env.data.split import Split

MOMENTUM = 0.9


def make_mlp(sizes: tuple[int, ...], device: torch.device) -> nn.Sequential:
    """Multilayer perceptron with ReLU units; `sizes` from the inputs to the classes."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device)


def make_cnn(channels: tuple[int, ...], side: int, num_classes: int, device: torch.device) -> nn.Sequential:
    """Small convolutional network; `channels` from the images' to those of the last stage."""
    layers: list[nn.Module] = []
    for before, after in zip(channels[:-1], channels[1:], strict=True):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        side //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * side**2, num_classes)).to(device)


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batches: Tensor
) -> None:
    """Make an update for each row of `batches`, int64, shape (updates, B)."""
    for batch in batches:
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class PlainRun:
    """An episode of the default task with a constant learning rate, as `AutoTrain-v0` makes it.

    After every `inner_steps` updates accuracy is measured on train subset, holdout and validation part, and
    the weights that are best on the holdout are kept; in the end last and best weights are tested; at the
    beginning `num_snapshots` untrained networks are measured. Losses and accuracies of the minibatches are
    recorded, as the observation has them.

    Args:
        dataset: Images.
        split: Which of them are for what.
        sizes: Of the layers.
        device: Where to compute.
        learning_rate: Of all updates.
        batch_size: Images in a minibatch; a rest of an epoch is dropped.
        inner_steps: Updates in an env step (T).
        history_length: Windows per env step (K).
        num_snapshots: Networks measured at the beginning (H).
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        sizes: tuple[int, ...],
        device: torch.device,
        learning_rate: float,
        batch_size: int = 64,
        inner_steps: int = 20,
        history_length: int = 5,
        num_snapshots: int = 4,
    ) -> None:
        self.sizes, self.device, self.learning_rate = sizes, device, learning_rate
        self.batch_size, self.inner_steps = batch_size, inner_steps
        self.history_length, self.num_snapshots = history_length, num_snapshots

        def part(index: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
            images = (dataset.images[torch.tensor(index)] - split.mean) / split.std
            return images.flatten(1).to(device), torch.tensor(labels, device=device)

        self.images, self.labels = part(split.train_index, split.train_labels)
        parts = (
            (self.images[split.train_subset], self.labels[split.train_subset]),
            part(split.holdout_index, split.holdout_labels),
            part(split.validation_index, split.validation_labels),
        )
        self.part_sizes = [len(labels) for _, labels in parts]
        self.measured_images, self.measured_labels = map(torch.cat, zip(*parts, strict=True))
        self.test_images, self.test_labels = part(split.test_index, split.test_labels)

    def episode(self, env_steps: int) -> float:
        """Train, measure and test one network; returns its test accuracy."""
        self.reset()
        for _ in range(env_steps):
            self.env_step()
        accuracy, _ = self.test(self.network)
        self.test(self.best)
        return accuracy

    def reset(self) -> None:
        """Make and measure untrained networks; the last of them is the one to train."""
        for _ in range(self.num_snapshots):
            self.network = make_mlp(self.sizes, self.device)
            scores = self.evaluate(losses=True)
        self.best, self.best_score = copy.deepcopy(self.network), scores[1]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=self.learning_rate, momentum=MOMENTUM
        )
        self.batches = self._epochs()

    def _epochs(self) -> Iterator[Tensor]:
        count = len(self.labels) // self.batch_size * self.batch_size
        while True:
            order = torch.randperm(len(self.labels), device=self.device)
            yield from order[:count].split(self.batch_size)

    def env_step(self) -> tuple[list[float], list[float], list[float]]:
        """Make T updates and measure.

        Returns:
            Loss and accuracy of each window of minibatches; accuracy on each part of the data.
        """
        losses, hits = [], []
        for _ in range(self.inner_steps):
            batch = next(self.batches)
            labels = self.labels[batch]
            logits = self.network(self.images[batch])
            loss = nn.functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
            hits.append(logits.detach().argmax(1) == labels)
        windows = (self.history_length, -1)
        window_losses = torch.stack(losses).view(windows).mean(1).tolist()
        window_hits = torch.stack(hits).float().view(windows).mean(1).tolist()
        scores = self.evaluate()
        if scores[1] > self.best_score:
            self.best_score = scores[1]
            self.best.load_state_dict(self.network.state_dict())
        return window_losses, window_hits, scores

    @torch.no_grad()
    def evaluate(self, losses: bool = False) -> list[float]:
        """Accuracy on train subset, holdout and validation part; with `losses` also the first one's."""
        logits = self.network(self.measured_images)
        parts = (logits.argmax(1) == self.measured_labels).float().split(self.part_sizes)
        scores = [part.mean() for part in parts]
        if losses:
            subset = self.part_sizes[0]
            scores.append(nn.functional.cross_entropy(logits[:subset], self.measured_labels[:subset]))
        return torch.stack(scores).tolist()

    @torch.no_grad()
    def test(self, network: nn.Module) -> tuple[float, float]:
        """Test accuracy and log loss [nats]."""
        logits = network(self.test_images)
        accuracy = (logits.argmax(1) == self.test_labels).float().mean()
        return accuracy.item(), nn.functional.cross_entropy(logits, self.test_labels).item()
