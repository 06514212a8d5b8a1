"""Loops with a bug or a bad start: what the controller makes of them, beside a constant rate and cosine.

    python -m examples.bad_starts docs/pictures

An MLP on 5,000 images of MNIST, 1,000 updates of gradient descent with momentum. The pictures are of the
controller's runs.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrain_env import Constant, Controller, Cosine
from examples.networks import mlp
from examples.training import Job, images, momentum, split, test

UPDATES, RATE = 1_000, 0.1
CASES = {
    "as it should be": {},
    "rate 10": {"rate": 10.0},
    "rate 100, no re-init": {"rate": 100.0, "reinit": None},
    "rate 1e-6": {"rate": 1e-6},
    "shuffled labels": {"shuffled": UPDATES // 10},
    "burst of NaN": {"not_a_number": range(500, 510)},
}
"""What is wrong in each: the first rate, whether networks can be drawn anew, for how many updates labels
are shuffled, and in which updates the loss is not a number."""


def job(seed: int, rate: float) -> Job:
    pool, rest = images("mnist")
    holdout, train, _ = split(pool, (1_000, 5_000), seed)
    torch.manual_seed(seed)
    return Job(mlp(784, 100, 50, 10), train, holdout, rest, UPDATES, momentum, rate)


def run(
    method: str,
    seed: int,
    rate: float = RATE,
    reinit: str | None = "reset_parameters",
    shuffled: int = 0,
    not_a_number: range = range(0),
):
    """Returns the test accuracy, and the controller."""
    task = job(seed, rate)
    policy = {"controller": "real_runs", "constant": Constant(), "cosine": Cosine()}[method]
    bounds = {} if method == "controller" else {"lr_bounds": (1e-8, 100.0)}
    optimizer = momentum(task.model.parameters(), rate)
    loader = DataLoader(TensorDataset(*task.train), 64, shuffle=True)
    controller = Controller(
        task.model,
        optimizer,
        UPDATES,
        policy=policy,
        holdout=task.holdout,
        train=task.train,
        updates_per_epoch=len(loader),
        reinit=reinit,
        seed=seed,
        progress=False,
        **bounds,
    )
    for made, (inputs, labels) in enumerate(controller.batches(loader)):
        if made < shuffled:
            labels = labels[torch.randperm(len(labels))]
        logits = task.model(inputs)
        loss = F.cross_entropy(logits, labels)
        if made in not_a_number:
            loss = loss * math.nan
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss, logits, labels)
    return test(task), controller


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the pictures")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="the learning rate 1e-06 is outside")
    print("| case | controller | constant | cosine | what the controller did |\n|---|---|---|---|---|")
    for case, wrong in CASES.items():
        cells = []
        for method in ("controller", "constant", "cosine"):
            found = [run(method, seed, **wrong) for seed in range(3)]
            cells.append(", ".join(f"{100 * accuracy:.1f}" for accuracy, _ in found))
            if method == "controller":
                runs = [controller.history for _, controller in found]
                rates = [f"{history['learning_rate'].max():.2g}" for history in runs]
                counts = [
                    sum(int((history[name] > 0).sum()) for history in runs) for name in ("rewind", "reinit")
                ]
                diverged = sum(controller.divergences for _, controller in found)
                did = f"{counts[0]} rewinds, {counts[1]} re-inits, {diverged} divergences; "
                did += f"highest rates {', '.join(rates)}"
                name = case.replace(" ", "_").translate({ord(mark): None for mark in "-,"}).lower()
                found[0][1].plot(folder / f"controller_{name}.png")
        print(f"| {case} | {' | '.join(cells)} | {did} |", flush=True)


if __name__ == "__main__":
    main()
