"""Fashion-MNIST with a CNN by gradient descent with momentum."""

import torch

from examples.networks import cnn
from examples.training import Job, images, main, momentum, split


def make(seed: int) -> Job:
    """Fashion-MNIST with a CNN by gradient descent with momentum."""
    pool, test = images("fashion_mnist")
    holdout, train = split(pool, (5_000,), seed)
    torch.manual_seed(seed)
    return Job(cnn(), train, holdout, test, updates=1_500, optimizer=momentum, rate=0.1)


if __name__ == "__main__":
    main(make)
