"""A CNN that was trained on the digits 0 to 4 learns 5 to 9 of 1,000 images, by AdamW."""

import functools
import io

import torch
from torch import nn
from torch.nn import functional as F

from examples.networks import cnn
from examples.training import Job, adamw, images, main, split


@functools.cache
def pretrained() -> bytes:
    """Returns the weights of a CNN that knows the digits 0 to 4."""
    (inputs, labels), _ = images("mnist")
    at = torch.nonzero(labels < 5)[:, 0]
    torch.manual_seed(0)
    model = cnn(classes=5)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for batch in at[torch.randperm(len(at))][: 400 * 64].split(64):
        loss = F.cross_entropy(model(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


def make(seed: int) -> Job:
    """A CNN that was trained on the digits 0 to 4 learns 5 to 9 of 1,000 images, by AdamW."""
    pool, test = images("mnist")
    late = [(part[0][part[1] >= 5], part[1][part[1] >= 5] - 5) for part in (pool, test)]
    holdout, train, _ = split(late[0], (500, 1_000), seed)
    model = cnn(classes=5)
    model.load_state_dict(torch.load(io.BytesIO(pretrained())))
    torch.manual_seed(seed)
    model[-1] = nn.Linear(model[-1].in_features, 5)
    # No network is drawn anew: what was learned before would be lost.
    return Job(model, train, holdout, late[1], updates=600, optimizer=adamw, rate=1e-3, reinit=None)


if __name__ == "__main__":
    main(make)
