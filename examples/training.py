"""What the jobs share: one plain loop for the controller and for everything that it is compared with.

Each job is a script of its own, and runs by itself:

    python -m examples.mnist_cnn                        # the controller
    python -m examples.mnist_cnn --method cosine --rate 0.01
    python -m examples.mnist_cnn --picture run.png
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrain_env import Constant, Controller, Cosine, load_dataset

METHODS = ("controller", "many", "adamw", "cosine")
ADAMW_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Job:
    """A network to train.

    Args:
        model: The network, with the weights that training begins with.
        train: Inputs and labels to train on.
        holdout: Those that policies see, through a guard.
        test: Those that the result is measured on.
        updates: How many updates to make.
        optimizer: The job's own optimiser: from parameters and a rate.
        rate: The rate that people usually take for it.
        batch_size: Examples in a minibatch.
        score: What is reported of test logits and labels; accuracy by default.
        reinit: How another network may be drawn; see `Controller`.
        holdout_batches: How much of the holdout is measured at most; see `Controller`.
    """

    model: nn.Module
    train: tuple[Tensor, Tensor]
    holdout: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    updates: int
    optimizer: Callable[[Any, float], torch.optim.Optimizer]
    rate: float
    batch_size: int = 64
    score: Callable[[Tensor, Tensor], float] | None = None
    reinit: str | None = "reset_parameters"
    holdout_batches: int | None = None


MakeJob = Callable[[int], Job]
"""A job of a seed, which decides split, weights and minibatches."""


def momentum(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """Returns gradient descent with a momentum of 0.9."""
    return torch.optim.SGD(parameters, rate, momentum=0.9)


def adamw(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """Returns AdamW with torch's own defaults."""
    return torch.optim.AdamW(parameters, rate)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns the share of right answers."""
    return (logits.argmax(-1) == labels).float().mean().item()


def split(data: tuple[Tensor, Tensor], sizes: tuple[int, ...], seed: int) -> list[tuple[Tensor, Tensor]]:
    """Returns parts of data in random order; the last one holds what is left."""
    order = torch.randperm(len(data[0]), generator=torch.Generator().manual_seed(seed))
    cuts = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return [(data[0][at], data[1][at]) for at in order.tensor_split(cuts)]


def images(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns a set of images, normalised, and its official test part."""
    dataset = load_dataset(name)
    inputs, labels = dataset.images, torch.from_numpy(dataset.labels.copy()).long()
    size = dataset.pool_size
    mean, std = inputs[:size].mean((0, 2, 3), True), inputs[:size].std((0, 2, 3), keepdim=True)
    inputs = (inputs - mean) / std
    return (inputs[:size], labels[:size]), (inputs[size:], labels[size:])


def train(
    job: Job, method: str, rate: float | None, seed: int, **arguments: Any
) -> tuple[dict[str, float], Controller]:
    """Train a job.

    Args:
        job: The job.
        method: One of `METHODS`; `"controller"` has the policy by default, `"many"` the one of that name;
            `"adamw"` is AdamW at a constant rate, whatever the job's own optimiser.
        rate: Rate at the beginning; `None` for the usual one.
        seed: Seed of minibatches and of the controller.
        arguments: Further arguments of `Controller`.

    Returns:
        Results by name, and the controller.
    """
    usual = ADAMW_RATE if method == "adamw" else job.rate
    rate = usual if rate is None else rate
    optimizer = (adamw if method == "adamw" else job.optimizer)(job.model.parameters(), rate)
    policies = {
        **{"controller": "real_runs", "many": "many"},
        **{"adamw": Constant(), "cosine": Cosine(final_factor=0.01)},
    }
    bounds = {} if method in ("controller", "many") else {"lr_bounds": (1e-8, 1e3)}
    loader = DataLoader(TensorDataset(*job.train), job.batch_size, shuffle=True)
    torch.manual_seed(seed)
    begin = time.perf_counter()
    controller = Controller(
        job.model,
        optimizer,
        job.updates,
        **{
            "policy": policies[method],
            "holdout": job.holdout,
            "train": job.train,
            "updates_per_epoch": len(loader),
            "reinit": job.reinit,
            "holdout_batches": job.holdout_batches,
            "seed": seed,
            **bounds,
            **arguments,
        },
    )
    for inputs, labels in controller.batches(loader):
        logits = job.model(inputs)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss, logits, labels)
    seconds = time.perf_counter() - begin
    results = {"last": test(job), "seconds": seconds}
    job.model.load_state_dict(controller.best())
    results |= {"best": test(job), "holdout": float(controller.history["holdout_answer"][-1])}
    return results, controller


@torch.no_grad()
def test(job: Job) -> float:
    """Returns the score of a job's network on its test part."""
    job.model.eval()
    inputs, labels = job.test
    logits = torch.cat([job.model(part) for part in inputs.split(256)])
    job.model.train()
    return (job.score or accuracy)(logits, labels)


def main(make_job: MakeJob) -> None:
    """Train a job as the command line says, and tell how it went."""
    parser = argparse.ArgumentParser(description=(make_job.__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="controller")
    parser.add_argument("--rate", type=float, default=None, help="rate at the beginning; the usual one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", default=None, help="file for a picture of the run")
    given = parser.parse_args()
    results, controller = train(make_job(given.seed), given.method, given.rate, given.seed)
    print(controller.summary())
    print(f"test       {results['last']:.4f} with the last weights, {results['best']:.4f} with the best")
    if given.picture:
        controller.plot(given.picture)
