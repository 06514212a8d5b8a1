"""MNIST in which a class has 3,000 images, the next one 60% of that, and so on; an MLP by AdamW."""

import torch
from torch import Tensor

from examples.networks import mlp
from examples.training import Job, adamw, images, main, split

MOST, SHARE = 3_000, 0.6


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns the mean over classes of the share of right answers."""
    right = logits.argmax(1) == labels
    return sum(right[labels == label].float().mean().item() for label in range(10)) / 10


def make(seed: int) -> Job:
    """MNIST in which a class has 3,000 images, the next one 60% of that, and so on; an MLP by AdamW."""
    pool, test = images("mnist")
    ((inputs, labels),) = split(pool, (), seed)
    kept = [torch.nonzero(labels == label)[: int(MOST * SHARE**label), 0] for label in range(10)]
    at = torch.cat(kept)
    holdout, train = split((inputs[at], labels[at]), (1_500,), seed)
    torch.manual_seed(seed)
    model = mlp(784, 200, 100, 10)
    return Job(
        model, train, holdout, test, updates=1_500, optimizer=adamw, rate=1e-3, score=balanced_accuracy
    )


if __name__ == "__main__":
    main(make)
