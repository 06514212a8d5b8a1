"""Classifiers trained by evolution: beside gradients, random draws and other libraries, and part by part.

Run by `make bench-classifiers`, or `python -m benchmarks.classifiers --help`. Every training is one line of
JSON; one that is there already is not run again, so that an interrupted run goes on. Settings are chosen by
validation with a seed that no result uses; test accuracy is that of the network that validation chose.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from autotrain_env.evolution.first_attempt import MENDS
from benchmarks.classifier_tables import print_tables
from benchmarks.classifier_trainings import KINDS
from benchmarks.measuring import CannotInstall, cpu_model, make_console

TUNING_SEED = 100
Record = dict[str, Any]

EVOLUTION: dict[str, Any] = {
    "population_size": 1024,
    "perturbation_std": 0.1,
    "rank": 1,
    "scaling": "fan_in",
    "learning_rate": 0.02,
}
"""The strategy of every part, but for what the part is about."""


class Runner:
    """Carries trainings out, once each.

    Args:
        path: The file of records, one a line.
        report: Told what is begun.
        shortened: Settings in place of the real ones, to see whether everything runs.
    """

    def __init__(
        self, path: Path, report: Callable[[str], object], shortened: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.report, self.shortened = path, report, shortened or {}
        self.records: dict[str, Record] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                record = json.loads(line)
                self.records[_key(record["job"])] = record

    def __call__(self, part: str, method: str, kind: str, **settings: Any) -> Record:
        """Returns the record of a training, which is carried out if there is none.

        Args:
            part: Which comparison it belongs to.
            method: What it is called there.
            kind: One of `KINDS`.
            **settings: Settings of such a training.
        """
        settings |= {name: value for name, value in self.shortened.items() if name in settings}
        job = {"part": part, "method": method, "kind": kind, "settings": settings}
        key = _key(job)
        if key not in self.records:
            self.report(f"{part}: {method}, seed {settings['seed']}")
            record = {"job": job, "cpu": cpu_model(), **KINDS[kind](settings)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
            self.records[key] = json.loads(json.dumps(record))
        return self.records[key]

    def best(
        self, part: str, method: str, kind: str, choices: Sequence[Mapping[str, Any]], **settings: Any
    ) -> Mapping[str, Any]:
        """Returns which of some settings is best on the validation part, by the tuning seed.

        Args:
            part: Which comparison it belongs to.
            method: What it is called there.
            kind: One of `KINDS`.
            choices: Settings to choose from.
            **settings: What all of them have in common.
        """
        tuning = {**settings, "seed": TUNING_SEED}

        def score(choice: Mapping[str, Any]) -> float:
            record = self(f"{part}, tuning", method, kind, **{**tuning, **choice})
            return max(point[4] for point in record["points"])

        return max(choices, key=score)


def _key(job: Mapping[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)


def evolution(strategy: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Settings of an evolution, some of them replaced."""
    common = {"dataset": "mnist", "classifier": "mlp-200-50", "batch_size": 128, "threads": 1}
    return {**common, **settings, "strategy": {**EVOLUTION, **(strategy or {})}}


GENERATIONS = 10_000
"""What ten minutes on two cores allow."""

FULL_NOISE = {"rank": None, "population_size": 256}
CNN_STRATEGY = {"population_size": 256}
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0),
    "SGD, momentum 0.9": (0.003, 0.01, 0.03, 0.1),
    "Adam": (3e-4, 1e-3, 3e-3, 1e-2),
}


def _peer(
    population_size: int, learning_rate: float, perturbation_std: float, scaled: bool
) -> dict[str, Any]:
    return {
        "population_size": population_size,
        "batch_size": 128,
        "learning_rate": learning_rate,
        "perturbation_std": perturbation_std,
        "scaled": scaled,
    }


_OPEN_ES = (
    _peer(128, 0.003, 0.02, False),
    _peer(512, 0.01, 0.02, False),
    _peer(128, 0.03, 0.1, True),
    _peer(512, 0.1, 0.1, True),
)
PEER_CHOICES = {"evosax Open_ES": _OPEN_ES, "evosax PGPE": _OPEN_ES, "EvoX OpenES": _OPEN_ES}
OUR_CHOICES: dict[str, tuple[dict[str, Any], ...]] = {
    "ours, full noise": (
        {"rank": None, "population_size": 128, "learning_rate": 0.03},
        {"rank": None, "population_size": 128, "learning_rate": 0.1},
        {"rank": None, "population_size": 512, "learning_rate": 0.1},
    ),
    "ours, low-rank noise": (
        {"population_size": 1024, "learning_rate": 0.02},
        {"population_size": 1024, "learning_rate": 0.05},
        {"population_size": 2048, "learning_rate": 0.05},
    ),
}
_SHORT, _VERY_SHORT = 10**8, 10**7
# method, forward passes, arguments of the strategy, other settings
PARTS: tuple[tuple[str, int, dict[str, Any], dict[str, Any]], ...] = (
    ("nothing", _SHORT, {}, {}),
    ("single members instead of pairs", _SHORT, {"mirrored": False}, {}),
    ("rank 2", _SHORT, {"rank": 2}, {}),
    ("rank 4", _SHORT, {"rank": 4}, {}),
    ("no fan-in scale", _SHORT, {"scaling": "none", "perturbation_std": 0.02, "learning_rate": 0.004}, {}),
    ("plain steps instead of Adam", _SHORT, {"optimizer": "sgd", "learning_rate": 0.3}, {}),
    ("4,096 members x 32 images", _SHORT, {"population_size": 4096}, {"batch_size": 32}),
    ("2,048 members x 64 images", _SHORT, {"population_size": 2048}, {"batch_size": 64}),
    ("512 members x 256 images", _SHORT, {"population_size": 512}, {"batch_size": 256}),
    ("256 members x 512 images", _SHORT, {"population_size": 256}, {"batch_size": 512}),
    ("256 x 32", _VERY_SHORT, {"population_size": 256}, {"batch_size": 32}),
    ("full noise", _VERY_SHORT, {"population_size": 256, "rank": None}, {"batch_size": 32}),
    (
        "256 x 32, a minibatch for each pair",
        _VERY_SHORT,
        {"population_size": 256},
        {"batch_size": 32, "own_minibatches": True},
    ),
)


# --- the comparisons ---


def mnist(run: Runner, seeds: int) -> None:
    """784-200-50-10 on MNIST by evolution, within ten minutes on two cores."""
    for seed in range(seeds):
        settings = evolution(seed=seed, threads=2, generations=GENERATIONS)
        run("mnist", "evolution, low-rank noise", "evolve", **settings)
    for seed in range(min(seeds, 2)):
        settings = evolution(FULL_NOISE, seed=seed, threads=2, seconds=600)
        run("mnist", "evolution, full noise", "evolve", **settings)


def gradients(run: Runner, seeds: int) -> None:
    """The same networks by gradients, and the best of 1,000 that are drawn."""
    common = {"dataset": "mnist", "classifier": "mlp-200-50", "batch_size": 128, "threads": 1}
    for name, rates in RATES.items():
        settings = {**common, "optimizer": name, "epochs": 10, "measurements": 60}
        choices = [{"learning_rate": rate} for rate in rates]
        best = run.best("mnist", name, "descend", choices, **settings)
        for seed in range(seeds):
            run("mnist", name, "descend", **settings, **best, seed=seed)
    for seed in range(seeds):
        run("mnist", "best of 1,000 draws", "draw", **common, networks=1000, seed=seed)


def peers(run: Runner, seeds: int) -> None:
    """Other libraries, on one core for two minutes each; settings of all chosen by validation."""
    common = {"dataset": "mnist", "classifier": "mlp-200-50"}
    for library in ("evosax Open_ES", "evosax PGPE", "EvoX OpenES"):
        choices = PEER_CHOICES[library]
        settings = {**common, "library": library}
        best = run.best("peers", library, "peer", choices, **settings, seconds=30)
        for seed in range(min(seeds, 3)):
            run("peers", library, "peer", **settings, **best, seconds=120, seed=seed)
    for method, strategies in OUR_CHOICES.items():
        choices = [evolution(strategy) for strategy in strategies]
        best = run.best("peers", method, "evolve", choices, seconds=30)
        for seed in range(min(seeds, 3)):
            run("peers", method, "evolve", **best, seconds=120, seed=seed)


def datasets(run: Runner, seeds: int) -> None:
    """Fashion-MNIST for five minutes and digits for one, on one core; Adam beside."""
    for dataset, classifier, seconds, epochs in (
        ("fashion_mnist", "mlp-200-50", 300, 10),
        ("digits", "mlp-200-50", 60, 100),
    ):
        common = {"dataset": dataset, "classifier": classifier}
        for seed in range(min(seeds, 3)):
            run(
                dataset,
                "evolution, low-rank noise",
                "evolve",
                **evolution(**common, seconds=seconds, seed=seed),
            )
        settings = {**common, "batch_size": 128, "threads": 1, "optimizer": "Adam", "epochs": epochs}
        choices = [{"learning_rate": rate} for rate in RATES["Adam"]]
        best = run.best(dataset, "Adam", "descend", choices, **settings, measurements=40)
        for seed in range(min(seeds, 3)):
            run(dataset, "Adam", "descend", **settings, **best, measurements=40, seed=seed)


def cnn(run: Runner, seeds: int) -> None:
    """A small CNN on MNIST within half an hour on two cores."""
    for seed in range(min(seeds, 2)):
        settings = evolution(CNN_STRATEGY, classifier="cnn", threads=2, seconds=1700, seed=seed)
        run("cnn", "evolution, low-rank noise", "evolve", **settings)


def parts(run: Runner, seeds: int) -> None:
    """What each part gives: one thing changed at a time, at equal forward passes."""
    for method, passes, strategy, more in PARTS:
        for seed in range(min(seeds, 3)):
            run("parts", method, "evolve", **evolution(strategy, passes=passes, seed=seed, **more))


def attempt(run: Runner, seeds: int) -> None:
    """The attempt that gets stuck on all train images, and its mends, alone and one after another."""
    common = {"dataset": "mnist", "threads": 1, "generations": 100}
    small = {**common, "train_size": 2000}
    names = list(MENDS)
    run(
        "attempt",
        "as it was",
        "attempt",
        **{**common, "generations": 30},
        train_size=49_000,
        mends=[],
        seed=0,
    )
    for seed in range(min(seeds, 2)):
        run("attempt", "nothing", "attempt", **small, mends=[], seed=seed)
        for count, name in enumerate(names, 1):
            run("attempt", f"{name} alone", "attempt", **small, mends=[name], seed=seed)
            run("attempt", f"… and {name}", "attempt", **small, mends=names[:count], seed=seed)


COMPARISONS = {
    comparison.__name__: comparison
    for comparison in (mnist, gradients, peers, datasets, cnn, parts, attempt)
}


# --- the command ---


@dataclass
class Arguments:
    """Train classifiers by evolution and by other means, and print what came out."""

    only: tuple[str, ...] = ()
    """Some comparisons instead of all: mnist, gradients, peers, datasets, cnn, parts, attempt."""

    seeds: int = 5
    """Seeds of each method; some comparisons take fewer."""

    tables: bool = False
    """Train nothing: print what the records hold."""

    quick: bool = False
    """Very short trainings, to see whether everything runs; write them to a file of their own."""

    output: Path = Path("runs/bench/classifiers.jsonl")
    """The file of records."""


SHORTENED = {
    "generations": 3,
    "passes": 30_000,
    "seconds": 1,
    "epochs": 1,
    "networks": 20,
    "train_size": 100,
}


def main(arguments: Arguments) -> None:
    """Carry comparisons out, or go on with them."""
    console = make_console()
    unknown = set(arguments.only) - set(COMPARISONS)
    if unknown:
        console.print(
            f"There is no comparison {', '.join(sorted(unknown))}: there are {', '.join(COMPARISONS)}."
        )
        sys.exit(2)
    run = Runner(arguments.output, console.print, SHORTENED if arguments.quick else None)
    try:
        for name in () if arguments.tables else arguments.only or COMPARISONS:
            COMPARISONS[name](run, arguments.seeds)
    except CannotInstall as reason:
        console.print(f"The other libraries could not be installed:\n{reason}", markup=False)
        sys.exit(1)
    print_tables(list(run.records.values()), console)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
