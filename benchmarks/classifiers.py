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

from agents.evolving.classifiers import CANDIDATES, STRATEGY
from agents.evolving.hyperparameters import field_names
from autotrain_env.evolution import EvolutionStrategy
from autotrain_env.evolution.classifiers import BATCH_SIZE
from autotrain_env.evolution.first_attempt import MENDS
from benchmarks.classifier_tables import print_tables
from benchmarks.classifier_trainings import KINDS
from benchmarks.measuring import CannotInstall, cpu_model, make_console

TUNING_SEED = 100
Record = dict[str, Any]


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


def evolution(**changes: Any) -> dict[str, Any]:
    """Settings of an evolution as `python -m agents evolve` has them, with some of them changed."""
    settings = {
        "dataset": "mnist",
        "classifier": "mlp-200-50",
        "batch_size": BATCH_SIZE,
        "candidates": CANDIDATES,
        "threads": 1,
    }
    strategy = dict(STRATEGY)
    for name, value in changes.items():
        (strategy if name in STRATEGY_NAMES else settings)[name] = value
    return {**settings, "strategy": strategy}


STRATEGY_NAMES = field_names(EvolutionStrategy)

GENERATIONS = 16_000
"""As the command has them by default: some five minutes on two cores."""

FULL_NOISE = {"rank": None, "population_size": 128}
CNN_STRATEGY = {"population_size": 256, "batch_size": 64, "learning_rate": 0.04}
RATES = {
    "SGD": (0.03, 0.1, 0.3, 1.0),
    "SGD, momentum 0.9": (0.003, 0.01, 0.03, 0.1),
    "Adam": (3e-4, 1e-3, 3e-3, 1e-2),
}


_DENSE: tuple[dict[str, Any], ...] = (  # a generation costs mostly its noise
    {"population_size": 128, "batch_size": 128, "learning_rate": 0.03},
    {"population_size": 128, "batch_size": 512, "learning_rate": 0.03},
    {"population_size": 128, "batch_size": 512, "learning_rate": 0.1},
)
_PEER_CHOICES: tuple[dict[str, Any], ...] = (
    *({**choice, "perturbation_std": 0.1, "scaled": True} for choice in _DENSE),
    {**_DENSE[0], "learning_rate": 0.001, "perturbation_std": 0.005, "scaled": False},
)
OUR_CHOICES: dict[str, tuple[dict[str, Any], ...]] = {
    "ours, full noise": tuple({**choice, "rank": None} for choice in _DENSE),
    "ours, low-rank noise": (
        {"learning_rate": 0.015},
        {"learning_rate": 0.03},
        {"learning_rate": 0.06},
    ),
}
_SHORT, _VERY_SHORT = 100_000_000, 5_000_000
_SMALL = {"population_size": 256, "batch_size": 128, "candidates": 1}
# method, forward passes, what is other than in the first row, rates to choose from (none: the first row's)
PARTS: tuple[tuple[str, int, dict[str, Any], tuple[float, ...]], ...] = (
    ("nothing", _SHORT, {}, (0.015, 0.03, 0.06)),
    ("single members instead of pairs", _SHORT, {"mirrored": False}, ()),
    ("rank 2", _SHORT, {"rank": 2}, ()),
    ("rank 4", _SHORT, {"rank": 4}, ()),
    ("no fan-in scale", _SHORT, {"scaling": "none", "perturbation_std": 0.005}, (0.0007, 0.0015, 0.003)),
    ("plain steps instead of Adam", _SHORT, {"optimizer": "sgd"}, (0.03, 0.1, 0.3)),
    ("no choice among candidates", _SHORT, {"candidates": 1}, ()),
    ("4,096 members, 32 images", _SHORT, {"population_size": 4096, "batch_size": 32}, ()),
    ("1,024 members, 128 images", _SHORT, {"population_size": 1024, "batch_size": 128}, ()),
    ("256 members, 512 images", _SHORT, {"population_size": 256, "batch_size": 512}, ()),
    ("few passes", _VERY_SHORT, _SMALL, (0.02, 0.04, 0.08)),
    ("few passes, full noise", _VERY_SHORT, {**_SMALL, "rank": None}, ()),
    ("few passes, a minibatch for each pair", _VERY_SHORT, {**_SMALL, "own_minibatches": True}, ()),
)


# --- the comparisons ---


def mnist(run: Runner, seeds: int) -> None:
    """784-200-50-10 on MNIST by evolution, within ten minutes on two cores."""
    for seed in range(seeds):
        settings = evolution(seed=seed, generations=GENERATIONS, keep_units=seed == 0)
        run("mnist", "evolution, low-rank noise", "evolve", **settings)
    for seed in range(min(seeds, 2)):
        settings = evolution(**FULL_NOISE, seed=seed, seconds=450)
        run("mnist", "evolution, full noise", "evolve", **settings)


def gradients(run: Runner, seeds: int) -> None:
    """The same networks by gradients, and the best of 1,000 that are drawn."""
    common = {"dataset": "mnist", "classifier": "mlp-200-50", "batch_size": 128, "threads": 1}
    for name, rates in RATES.items():
        settings = {**common, "optimizer": name, "epochs": 10, "measurements": 60}
        choices = [{"learning_rate": rate} for rate in rates]
        best = run.best("mnist", name, "descend", choices, **settings)
        for seed in range(seeds):
            run("mnist", name, "descend", **settings, **best, seed=seed, keep_units=seed == 0)
    for seed in range(seeds):
        run("mnist", "best of 1,000 draws", "draw", **common, networks=1000, seed=seed)


def peers(run: Runner, seeds: int) -> None:
    """Other libraries, on one core for a minute each; settings of all chosen by validation."""
    common = {"dataset": "mnist", "classifier": "mlp-200-50"}
    for library in ("evosax Open_ES", "EvoX OpenES"):
        settings = {**common, "library": library}
        best = run.best("peers", library, "peer", _PEER_CHOICES, **settings, seconds=20)
        for seed in range(min(seeds, 3)):
            run("peers", library, "peer", **settings, **best, seconds=60, seed=seed)
    for method, strategies in OUR_CHOICES.items():
        choices = [evolution(**strategy) for strategy in strategies]
        best = run.best("peers", method, "evolve", choices, seconds=20)
        for seed in range(min(seeds, 3)):
            settings = {**best, "seconds": 60, "keep_units": seed == 0}
            run("peers", method, "evolve", **settings, seed=seed)


def datasets(run: Runner, seeds: int) -> None:
    """Fashion-MNIST for a minute and digits for a quarter of one, on one core; Adam beside."""
    for dataset, classifier, seconds, epochs in (
        ("fashion_mnist", "mlp-200-50", 60, 10),
        ("digits", "mlp-200-50", 15, 100),
    ):
        common = {"dataset": dataset, "classifier": classifier}
        few = {"batch_size": 126} if dataset == "digits" else {}  # eight times as many are all it has
        for seed in range(min(seeds, 3)):
            run(
                dataset,
                "evolution, low-rank noise",
                "evolve",
                **evolution(**common, **few, seconds=seconds, seed=seed),
            )
        settings = {**common, "batch_size": 128, "threads": 1, "optimizer": "Adam", "epochs": epochs}
        choices = [{"learning_rate": rate} for rate in RATES["Adam"]]
        best = run.best(dataset, "Adam", "descend", choices, **settings, measurements=40)
        for seed in range(min(seeds, 3)):
            run(dataset, "Adam", "descend", **settings, **best, measurements=40, seed=seed)


def cnn(run: Runner, seeds: int) -> None:
    """A small CNN on MNIST, for five and a half minutes of one core."""
    for seed in range(min(seeds, 3)):
        settings = evolution(**CNN_STRATEGY, classifier="cnn-8-16", seconds=330, seed=seed)
        run("cnn", "evolution, low-rank noise", "evolve", **settings)


def parts(run: Runner, seeds: int) -> None:
    """What each part gives: one thing changed at a time, at equal forward passes."""
    first_rates: dict[int, float] = {}
    for method, passes, changes, rates in PARTS:
        settings = {**changes, "passes": passes}
        rate = first_rates.get(passes)
        if rates:
            choices = [evolution(**settings, learning_rate=choice) for choice in rates]
            rate = run.best("parts", method, "evolve", choices)["strategy"]["learning_rate"]
            first_rates.setdefault(passes, rate)
        for seed in range(min(seeds, 3)):
            run("parts", method, "evolve", **evolution(**settings, learning_rate=rate, seed=seed))


def attempt(run: Runner, seeds: int) -> None:
    """The attempt that gets stuck, and its mends, alone and one after another, on 1,000 images."""
    common = {"dataset": "mnist", "threads": 1, "generations": 100, "train_size": 1000}
    names = list(MENDS)
    for seed in range(min(seeds, 2)):
        run("attempt", "nothing", "attempt", **common, mends=[], seed=seed)
        for count, name in enumerate(names, 1):
            run("attempt", f"{name} alone", "attempt", **common, mends=[name], seed=seed)
            run("attempt", f"… and {name}", "attempt", **common, mends=names[:count], seed=seed)


def whole_attempt(run: Runner, seeds: int) -> None:
    """The attempt as it was, on 49,000 images: 100 generations take twenty minutes."""
    settings = {"dataset": "mnist", "threads": 2, "generations": 100, "train_size": 49_000}
    run("whole_attempt", "as it was", "attempt", **settings, mends=[], seed=0)


COMPARISONS = {
    comparison.__name__: comparison
    for comparison in (mnist, gradients, peers, datasets, cnn, parts, attempt, whole_attempt)
}


# --- the command ---


@dataclass
class Arguments:
    """Train classifiers by evolution and by other means, and print what came out."""

    only: tuple[str, ...] = ()
    """Some comparisons instead of all: mnist, gradients, peers, datasets, cnn, parts, attempt,
    whole_attempt."""

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
