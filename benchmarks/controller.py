"""What a controller costs: time, memory, and a rewind.

    python -m benchmarks.controller --updates 10000

A CNN is trained on MNIST with the policy that comes with the package and without it, at a constant rate;
the two runs take turns, so that whatever else the machine does hits both.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from autotrain_env import Controller, load_dataset
from autotrain_env.control.snapshots import Snapshots, num_bytes
from benchmarks.measuring import machine

TURN = 250  # updates


def cnn() -> nn.Module:
    """A network of two convolutions, and one linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 10)),
    )


def parts(batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Returns loaders of 55,000 images of MNIST and of 5,000 that are held out."""
    dataset = load_dataset("mnist")
    images = (dataset.images[:60_000].float() - 0.1307) / 0.3081
    labels = torch.from_numpy(dataset.labels[:60_000].copy()).long()
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    train, holdout = (TensorDataset(images[at], labels[at]) for at in (order[5_000:], order[:5_000]))
    return DataLoader(train, batch_size, shuffle=True), DataLoader(holdout, 250)


def update(model: nn.Module, optimizer: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss, logits


def plain(model: nn.Module, train: DataLoader[Any], updates: int) -> Iterator[int]:
    """Trains at a constant rate; yields the updates made."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    made = 0
    while True:
        for images, labels in train:
            update(model, optimizer, images, labels)
            made += 1
            yield made
            if made == updates:
                return


def controlled(
    train: DataLoader[Any], holdout: DataLoader[Any], policy: str, updates: int, found: list[Controller]
) -> Iterator[int]:
    """Trains with the controller; yields the updates made."""
    model = cnn()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    controller = Controller(
        *(model, optimizer, updates),
        policy=policy,
        holdout=holdout,
        train=train,
        reinit="reset_parameters",
        progress=False,
    )
    found.append(controller)
    for images, labels in controller.batches(train):
        loss, logits = update(model, optimizer, images, labels)
        controller.step(loss, logits, labels)
        yield controller.updates


def take_turns(runs: list[Iterator[int]], updates: int) -> list[float]:
    """Returns the seconds that each run took, up to the update at which the first of them ended."""
    seconds = [0.0] * len(runs)
    for target in range(TURN, updates + TURN, TURN):
        for number, run in enumerate(runs):
            begin = time.perf_counter()
            made = next((made for made in run if made >= min(target, updates)), None)
            seconds[number] += time.perf_counter() - begin
            if made is None:
                return seconds
    return seconds


def update_times(models: list[nn.Module], train: DataLoader[Any], rounds: int = 11) -> list[float]:
    """Returns what an update of each network takes [s], the networks as they are, measured in turns.

    It depends on the weights: where most units are 0, pooling and its gradient take less time.
    """
    batches = [batch for batch, _ in zip(train, range(50), strict=False)]
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, found in zip(models, seconds, strict=True):
            optimizer = torch.optim.AdamW(model.parameters(), 0.0)
            begin = time.perf_counter()
            for images, labels in batches:
                update(model, optimizer, images, labels)
            found.append((time.perf_counter() - begin) / len(batches))
    return [statistics.median(found) for found in seconds]


def rewind_over_update() -> tuple[float, float, float]:
    """Returns the size of a network's weights [MB], seconds of an update, and seconds of a rewind."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3000, 4000), nn.ReLU(), nn.Linear(4000, 3000), nn.ReLU(), nn.Linear(3000, 10)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    images, labels = torch.randn(64, 3000), torch.randint(0, 10, (64,))
    update(model, optimizer, images, labels)
    snapshots = Snapshots([model, optimizer], "device")
    kept = snapshots.take()
    times: dict[str, list[float]] = {"update": [], "rewind": []}
    for _ in range(7):
        begin = time.perf_counter()
        update(model, optimizer, images, labels)
        times["update"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        snapshots.restore(kept)
        times["rewind"].append(time.perf_counter() - begin)
    size = num_bytes(model.state_dict()) / 1e6
    return size, statistics.median(times["update"]), statistics.median(times["rewind"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--policy", default="real_runs")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    size, one, rewind = rewind_over_update()
    print(f"a rewind of {size:.0f} MB of weights, and AdamW's moments: {rewind / one:.1f} of its updates")
    train, holdout = parts(arguments.batch_size)
    found: list[Controller] = []
    alone = cnn()
    runs = [
        controlled(train, holdout, arguments.policy, arguments.updates, found),
        plain(alone, train, arguments.updates),
    ]
    with_it, without = take_turns(runs, arguments.updates)
    controller = found[0]
    print(controller.summary())
    own = num_bytes(controller.model.state_dict(), controller.optimizer.state_dict())
    rows = controller.config.num_snapshots
    print(
        f"time with the controller over without: {with_it / without:.3f} ({with_it:.0f} s, {without:.0f} s)"
    )
    own_update, plain_update = update_times([controller.model, alone], train)
    print(f"of which an update of its network over one of the other: {own_update / plain_update:.3f}")
    print(
        f"memory of model and AdamW's moments, with the controller over without, at most: "
        f"{1 + (controller.peak_bytes) / own:.2f} (H + 1 = {rows + 1})"
    )


if __name__ == "__main__":
    main()
