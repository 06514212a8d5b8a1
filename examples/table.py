"""Every job by every method, three seeds each, and the table of it.

    python -m examples.table examples/results                # goes on where it ended
    python -m examples.table examples/results --jobs wine    # some jobs
    python -m examples.table examples/results --only-table

Cosine is tuned over eight rates on a seed of its own, by the guarded holdout. Rows on Fashion-MNIST and on
CIFAR-10 are looks at final targets, and each is noted in `looks.jsonl` of the folder before it is taken.
"""

import argparse
import datetime
import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.training import Job, train

JOBS = (
    *("wine", "breast_cancer", "noisy_labels", "class_imbalance", "mnist_cnn", "fine_tuning"),
    *("fashion_cnn", "digits_transformer", "cifar_resnet", "language_model"),
)
FINAL_TARGETS = ("fashion_cnn", "cifar_resnet")
SEEDS = (0, 1, 2)
TUNING_SEED = 1_000
RATES = 8  # from the usual rate over 32 to the usual rate times 64, by factors of three
COLUMNS = ("controller", "many", "adamw", "cosine", "tuned")


def rates(job: Job) -> list[float]:
    """Returns the rates that cosine is tuned over."""
    return [job.rate * math.exp(power) for power in np.linspace(math.log(1 / 32), math.log(64), RATES)]


class Records:
    """Results in a file, one a line; what is there is not made again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, folder / "records.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = {self._key(row): row for row in map(json.loads, lines)}

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["job"], row["method"], row["rate"], row["seed"]

    def get(self, name: str, method: str, rate: float | None, seed: int) -> dict[str, Any]:
        """Returns the result of a run, which is made where it is missing."""
        row = {"job": name, "method": method, "rate": rate, "seed": seed}
        key = self._key(row)
        if key not in self.found:
            job = importlib.import_module(f"examples.{name}").make(seed)
            results, controller = train(job, method, rate, seed, progress=False)
            row |= results | {
                "updates": controller.updates,
                "rewinds": int(np.count_nonzero(controller.history["rewind"])),
                "reinits": int(np.count_nonzero(controller.history["reinit"])),
                "divergences": controller.divergences,
                "stopped": controller.stopped,
            }
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.found[key] = row
        return self.found[key]

    def tuned_rate(self, name: str) -> float:
        """Returns the rate of cosine that is best on the holdout of a seed of its own."""
        job = importlib.import_module(f"examples.{name}").make(TUNING_SEED)
        rows = [self.get(name, "cosine", rate, TUNING_SEED) for rate in rates(job)]
        return max(rows, key=lambda row: row["holdout"])["rate"]

    def note_look(self, name: str) -> None:
        """Note a look at a final target."""
        when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with (self.folder / "looks.jsonl").open("a") as file:
            file.write(
                json.dumps({"when": when, "targets": [name], "policies": ["real_runs", "many"]}) + "\n"
            )


def make(records: Records, name: str) -> None:
    """Make all runs of a job."""
    if name in FINAL_TARGETS:
        records.note_look(name)
    best = records.tuned_rate(name)
    for seed in SEEDS:
        methods = (
            ("controller", None),
            ("many", None),
            ("adamw", None),
            ("cosine", None),
            ("cosine", best),
        )
        for method, rate in methods:
            row = records.get(name, method, rate, seed)
            print(name, method, rate, seed, f"{row['last']:.4f}", f"{row['seconds']:.0f} s", flush=True)


def cells(records: Records, name: str) -> dict[str, list[dict[str, Any]]] | None:
    """Returns the rows of each column of a job, seed by seed; `None` where some are missing."""
    rows = [row for row in records.found.values() if row["job"] == name]
    tuning = [row for row in rows if row["seed"] == TUNING_SEED]
    if len(tuning) < RATES:
        return None
    best = max(tuning, key=lambda row: row["holdout"])["rate"]
    wanted = {
        "controller": ("controller", None),
        "many": ("many", None),
        "adamw": ("adamw", None),
        "cosine": ("cosine", None),
        "tuned": ("cosine", best),
    }
    found = {}
    for column, (method, rate) in wanted.items():
        found[column] = [
            row
            for seed in SEEDS
            for row in rows
            if (row["method"], row["rate"], row["seed"]) == (method, rate, seed)
        ]
    return found if all(len(column) == len(SEEDS) for column in found.values()) else None


def table(records: Records) -> str:
    """Returns the table of the jobs that are complete."""
    lines = [
        "| job | controller | with the policy `many` | AdamW, 0.001 | cosine, usual | cosine, tuned "
        "| controller over tuned | controller, best weights | rewinds, re-inits, divergences |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in JOBS:
        found = cells(records, name)
        if found is None:
            continue
        texts = [name.replace("_", " ") + (" (final target)" if name in FINAL_TARGETS else "")]
        for column in COLUMNS:
            scores = 100 * np.array([row["last"] for row in found[column]])
            texts.append(f"{scores.mean():.1f} ({', '.join(f'{score:.1f}' for score in scores)})")
        pairs = zip(found["controller"], found["tuned"], strict=True)
        gains = [100 * (one["last"] - other["last"]) for one, other in pairs]
        texts.append(f"{np.mean(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})")
        kept = 100 * np.array([row["best"] for row in found["controller"]])
        texts.append(f"{kept.mean():.1f}")
        counts = [
            sum(row[key] for row in found["controller"]) for key in ("rewinds", "reinits", "divergences")
        ]
        texts.append(", ".join(map(str, counts)))
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=JOBS)
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(given.folder)
    if not given.only_table:
        for name in given.jobs:
            make(records, name)
    (given.folder / "table.md").write_text(table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
