"""A table of very few rows: wine, 13 columns, with an MLP by AdamW."""

import torch
from sklearn.datasets import load_wine

from examples.networks import mlp
from examples.training import Job, adamw, main, split


def make(seed: int) -> Job:
    """A table of very few rows: wine, 13 columns, with an MLP by AdamW."""
    table = load_wine()
    columns = torch.tensor(table.data).float()
    data = (columns - columns.mean(0)) / columns.std(0), torch.tensor(table.target)
    test, holdout, train = split(data, (58, 40), seed)
    torch.manual_seed(seed)
    model = mlp(13, 32, 32, 3)
    return Job(model, train, holdout, test, updates=600, optimizer=adamw, rate=1e-3, batch_size=16)


if __name__ == "__main__":
    main(make)
