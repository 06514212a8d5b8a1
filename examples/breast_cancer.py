"""A table of few rows: breast cancer, 30 columns, with an MLP by AdamW."""

import torch
from sklearn.datasets import load_breast_cancer

from examples.networks import mlp
from examples.training import Job, adamw, main, split


def make(seed: int) -> Job:
    """A table of few rows: breast cancer, 30 columns, with an MLP by AdamW."""
    table = load_breast_cancer()
    columns = torch.tensor(table.data).float()
    data = (columns - columns.mean(0)) / columns.std(0), torch.tensor(table.target)
    test, holdout, train = split(data, (189, 110), seed)
    torch.manual_seed(seed)
    model = mlp(30, 32, 32, 2)
    return Job(model, train, holdout, test, updates=600, optimizer=adamw, rate=1e-3, batch_size=32)


if __name__ == "__main__":
    main(make)
