"""MNIST, 6,000 images, of which 40% of the labels are wrong, with an MLP by gradient descent."""

import torch

from examples.networks import mlp
from examples.training import Job, images, main, momentum, split

NOISE = 0.4


def make(seed: int) -> Job:
    """MNIST, 6,000 images, of which 40% of the labels are wrong, with an MLP by gradient descent."""
    pool, test = images("mnist")
    holdout, train, _ = split(pool, (1_000, 5_000), seed)
    generator = torch.Generator().manual_seed(seed)
    for part in (holdout, train):  # as a user would have it; test labels are clean
        wrong = torch.rand(len(part[1]), generator=generator) < NOISE
        shift = torch.randint(1, 10, part[1].shape, generator=generator)
        part[1][wrong] = (part[1][wrong] + shift[wrong]) % 10
    torch.manual_seed(seed)
    model = mlp(784, 200, 100, 10)
    return Job(model, train, holdout, test, updates=1_500, optimizer=momentum, rate=0.1)


if __name__ == "__main__":
    main(make)
