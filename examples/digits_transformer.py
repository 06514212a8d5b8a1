"""Digits of scikit-learn with a tiny transformer by AdamW: the rows of an image are its words."""

import torch
from sklearn.datasets import load_digits

from examples.networks import image_transformer
from examples.training import Job, adamw, main, split


def make(seed: int) -> Job:
    """Digits of scikit-learn with a tiny transformer by AdamW: the rows of an image are its words."""
    digits = load_digits()
    data = torch.tensor(digits.images / 8 - 1).float(), torch.tensor(digits.target)
    test, holdout, train = split(data, (500, 300), seed)
    torch.manual_seed(seed)
    model = image_transformer(8, 8)
    return Job(model, train, holdout, test, updates=1_200, optimizer=adamw, rate=1e-3)


if __name__ == "__main__":
    main(make)
