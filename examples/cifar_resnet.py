"""CIFAR-10 with a small residual network by gradient descent with momentum."""

import torch

from examples.networks import resnet
from examples.training import Job, images, main, momentum, split


def make(seed: int) -> Job:
    """CIFAR-10 with a small residual network by gradient descent with momentum."""
    pool, test = images("cifar10")
    holdout, train = split(pool, (5_000,), seed)
    torch.manual_seed(seed)
    return Job(resnet(), train, holdout, test, updates=1_200, optimizer=momentum, rate=0.1)


if __name__ == "__main__":
    main(make)
