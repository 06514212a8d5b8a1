"""MNIST, all of it, with a CNN by AdamW."""

import torch

from examples.networks import cnn
from examples.training import Job, adamw, images, main, split


def make(seed: int) -> Job:
    """MNIST, all of it, with a CNN by AdamW."""
    pool, test = images("mnist")
    holdout, train = split(pool, (5_000,), seed)
    torch.manual_seed(seed)
    return Job(cnn(), train, holdout, test, updates=1_500, optimizer=adamw, rate=1e-3)


if __name__ == "__main__":
    main(make)
