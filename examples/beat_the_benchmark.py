"""The last exercise of a course on optimisation: train 784-200-100-50-10 on MNIST better than a benchmark.

    python -m examples.beat_the_benchmark examples/results    # goes on where it ended

Every run makes 4,000 updates on minibatches of 64 out of 50,000 images. Settings are chosen on a seed of
their own by 8,000 validation images; the test part is looked at in the runs of the five seeds that are
reported.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from autotrain_env import (
    Cosine,
    Exponential,
    OneCycle,
    SplitSizes,
    StepDecay,
    evaluate_policy,
    load_dataset,
    load_policy,
    make_evaluation_env,
    mean_interval,
    split_dataset,
)
from autotrain_env.optimization import adam_step, evaluate, momentum_step, zeros_like
from autotrain_env.training.classifiers import MLP

HIDDEN = (200, 100, 50)
UPDATES, DECISION, BATCH = 4_000, 100, 64
SIZES = SplitSizes(train=50_000, holdout=2_000, validation=8_000)
SEEDS = (0, 1, 2, 3, 4)
TUNING_SEED = 1_000
HAND_RATES = {"momentum": (0.01, 0.03, 0.1), "adam": (3e-4, 1e-3, 3e-3)}
SCHEDULES = {"step": StepDecay, "exponential": Exponential, "cosine": Cosine, "one cycle": OneCycle}
PEAKS = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a network is trained.

    Args:
        method: `"hand"`: a loop with the package's update rules by hand; `"schedule"`; `"policy"`.
        kind: Name of the rule by hand, or of the schedule.
        rate: Rate at the beginning; of schedules the highest one.
        drop: By hand: whether the last quarter of the updates has a tenth of the rate.
    """

    method: str
    kind: str
    rate: float
    drop: bool = False

    def __str__(self) -> str:
        words = f"{self.kind}, rate {self.rate:g}"
        return words + (", a tenth of it for the last quarter" if self.drop else "")


COURSE = Setting("hand", "adam", 1e-5)
BENCHMARK = Setting("hand", "adam", 1e-3)
POLICY = Setting("policy", "the policy `many`", 0.1)
BY_HAND = tuple(
    Setting("hand", rule, rate, drop)
    for rule, rates in HAND_RATES.items()
    for rate, drop in itertools.product(rates, (False, True))
)
TUNED = tuple(Setting("schedule", kind, rate) for kind in SCHEDULES for rate in PEAKS)


# --- by hand ---


@functools.lru_cache(maxsize=1)
def parts() -> dict[str, torch.utils.data.TensorDataset]:
    """Returns the parts of MNIST, normalised: for all seeds the same split."""
    dataset = load_dataset("mnist")
    split = split_dataset(dataset, SIZES, seed=0)
    images, found = (dataset.images - split.mean) / split.std, {}
    for name in ("train", "validation", "test"):
        index, labels = getattr(split, f"{name}_index"), getattr(split, f"{name}_labels")
        found[name] = torch.utils.data.TensorDataset(
            images[torch.from_numpy(index).long()], torch.from_numpy(labels.copy())
        )
    return found


def train_by_hand(setting: Setting, seed: int) -> torch.nn.Module:
    """Train a network in a loop of a few lines, with an update rule of a few lines."""
    torch.manual_seed(seed)
    model = MLP(HIDDEN).build((1, 28, 28), 10)
    parameters = list(model.parameters())
    means, squares = zeros_like(parameters), zeros_like(parameters)
    images, labels = parts()["train"].tensors
    order = torch.cat([torch.randperm(len(labels)) for _ in range(-(-UPDATES * BATCH // len(labels)))])
    for count, chosen in enumerate(order[: UPDATES * BATCH].view(UPDATES, BATCH), start=1):
        rate = setting.rate / 10 if setting.drop and count > UPDATES * 3 / 4 else setting.rate
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        if setting.kind == "adam":
            adam_step(loss, parameters, means, squares, count, rate)
        else:
            momentum_step(loss, parameters, means, rate, momentum=0.9)
    return model


def by_hand(setting: Setting, seed: int, part: str) -> float:
    """Returns the accuracy on a part."""
    loader = torch.utils.data.DataLoader(parts()[part], batch_size=1_000)
    return evaluate(train_by_hand(setting, seed), loader)["accuracy"]


# --- in the environment ---


def in_environment(setting: Setting, seed: int, part: str) -> float:
    """Returns the accuracy on a part, of a network that a schedule or a policy has trained."""
    if setting.method == "policy":
        policy, bounds = load_policy("many"), {"observation_layout": "flat"}
    else:
        policy, bounds = SCHEDULES[setting.kind](setting.rate), {"lr_bounds": (1e-8, 100.0)}
    env = make_evaluation_env(
        "AutoTrain-v0",
        1,
        dataset="mnist",
        label_noise=0.0,
        split_seed=0,
        train_size=SIZES.train,
        holdout_size=SIZES.holdout,
        validation_size=SIZES.validation,
        classifier=f"mlp-{'-'.join(map(str, HIDDEN))}",
        optimizer="momentum",
        batch_size=BATCH,
        initial_learning_rate=setting.rate,
        budget=UPDATES,
        inner_steps=DECISION,
        **bounds,
    )
    results = evaluate_policy(env, policy, 1, seed)
    env.close()
    return float(results[{"validation": "score", "test": "test_accuracy"}[part]][0])


# --- records and their table ---


class Records:
    """Results in a file, one a line; what is there is not made again."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "beat_the_benchmark.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = {self._key(row): row for row in map(json.loads, lines)}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["method"], row["kind"], row["rate"], row["drop"], row["seed"], row["part"]

    def get(self, setting: Setting, seed: int, part: str) -> dict[str, Any]:
        """Returns the result of a run, which is made where it is missing."""
        row = {**dataclasses.asdict(setting), "seed": seed, "part": part}
        key = self._key(row)
        if key not in self.found:
            begin = time.perf_counter()
            measure = by_hand if setting.method == "hand" else in_environment
            row |= {"accuracy": measure(setting, seed, part)}
            row |= {"seconds": round(time.perf_counter() - begin, 1)}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(setting.method, setting, seed, part, row["accuracy"], row["seconds"], flush=True)
            self.found[key] = row
        return self.found[key]

    def best(self, settings: tuple[Setting, ...]) -> Setting:
        """Returns the setting that is best on validation images, with a seed of its own."""
        return max(settings, key=lambda setting: self.get(setting, TUNING_SEED, "validation")["accuracy"])

    def test_accuracies(self, setting: Setting) -> np.ndarray:
        """Returns test accuracies of the seeds."""
        return np.array([self.get(setting, seed, "test")["accuracy"] for seed in SEEDS])


def chosen(records: Records) -> dict[str, tuple[Setting, int]]:
    """Returns the setting of each row of the table, and how many were tried for it."""
    return {
        "as the course hands it out": (COURSE, 0),
        "benchmark: Adam as it comes": (BENCHMARK, 0),
        "by hand": (records.best(BY_HAND), len(BY_HAND)),
        "tuned schedules": (records.best(TUNED), len(TUNED)),
        "the shipped policy": (POLICY, 0),
    }


def table(records: Records) -> str:
    """Returns a row for each method: test accuracy of the seeds, their mean, and its lead."""
    benchmark = records.test_accuracies(BENCHMARK)
    lines = [
        "| method | setting | runs tried for it | test accuracy | mean | ahead of the benchmark |",
        "|---|---|---|---|---|---|",
    ]
    for name, (setting, tried) in chosen(records).items():
        found = records.test_accuracies(setting)
        mean, low, high = (100 * value for value in mean_interval(found - benchmark))
        ahead = "" if setting == BENCHMARK else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
        each = ", ".join(f"{100 * value:.2f}" for value in found)
        lines.append(f"| {name} | {setting} | {tried} | {each} | {100 * found.mean():.2f} | {ahead} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for records and table")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    text = table(Records(folder))
    (folder / "beat_the_benchmark.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
