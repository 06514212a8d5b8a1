"""Descent with mutations on CIFAR-10: one factor at a time from a base, beside bare descent.

    python -m benchmarks.mutations tune       # rates and scales, on development seeds, by validation
    python -m benchmarks.mutations run        # everything else, seeds 0 to 9
    python -m benchmarks.mutations resnet     # the base once more with ResNet-18
    python -m benchmarks.mutations table      # what the page shows

Records are added to a file one by one, and what is there already is not computed again.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from autotrain_env import CNN, MLP, Adam, Dataset, ResNet18, SplitSizes, load_dataset
from autotrain_env.errors import UserError
from autotrain_env.evolution import LaneDescent, MutationRule
from autotrain_env.evolution.mutations import gradient_noise_std
from autotrain_env.files import replace_file
from autotrain_env.viewing.mutations import Records, mutation_table, read_mutation_records

RECORDS = Path(__file__).parent / "results" / "mutations.jsonl"
SEEDS, DEVELOPMENT_SEEDS = tuple(range(10)), (100, 101, 102)
EPOCHS, EVERY, OFFSPRING, PRETRAINING = 30, 5, 40, 15
NOISE_DECAY = 0.55  # of gradient noise, as in its paper

CLASSIFIERS = {"cnn": CNN((8, 16)), "mlp-100": MLP((100,)), "resnet18": ResNet18()}
RATES = {
    "cnn": {"sgd": (0.003, 0.01, 0.03, 0.1), "adam": (3e-4, 1e-3, 3e-3)},
    "mlp-100": {"sgd": (0.001, 0.003, 0.01, 0.03, 0.1)},
}
RULES: dict[str, tuple[dict[str, float], ...]] = {
    "best": tuple({"scale": scale} for scale in (0.003, 0.01, 0.03, 0.1, 0.3)),
    "random_gradients": tuple({"scale": scale} for scale in (0.1, 0.3, 1.0, 3.0, 10.0)),
    "es": (
        {"scale": 0.01, "rate": 1.0},
        {"scale": 0.01, "rate": 5.0},
        {"scale": 0.03, "rate": 5.0},
        {"scale": 0.1, "rate": 5.0},
        {"scale": 0.03, "rate": 15.0},
    ),
}


@dataclass(frozen=True)
class Case:
    """What is run with all seeds at once; the name is only what it is called."""

    name: str
    seeds: tuple[int, ...] = SEEDS
    learning_rate: float = 0.0
    classifier: str = "cnn"
    optimizer: str = "sgd"
    rule: dict[str, Any] | None = None
    selection: str = "apart"
    metric: str = "log_loss"
    gradient_noise: tuple[float, float] | None = None
    pretrained: bool = False
    train_size: int = 9000
    selection_size: int = 1000
    validation_size: int = 2000
    epochs: int = EPOCHS
    reduced: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Returns what tells cases apart."""
        return json.dumps(asdict(self), sort_keys=True)


# --- running a case ------------------------------------------------------------------------------------


def run(case: Case, report: Callable[[str], object] = lambda text: None) -> dict[str, Any]:
    """Run a case, and return its record."""
    began = time.process_time()
    descent = make_descent(case, half_of_cifar(5) if case.pretrained else dataset_of(case))
    if case.pretrained:
        descent.start_from(pretrained_weights(case), keep=2)
    curves = descent.run(case.epochs, lambda epoch, _: report(f"{case.name}: epoch {epoch}"))
    test = {kind: descent.measure("test", best=kind == "best") for kind in ("last", "best")}
    size = descent.stack.num_parameters
    weights = descent.stack.state[descent.stack.index(descent.slots), :size]
    return {
        "case": asdict(case),
        "parameters": size,
        "losses": {part: as_lists(rows) for part, rows in curves.losses.items()},
        "accuracies": {part: as_lists(rows) for part, rows in curves.accuracies.items()},
        "evolved": curves.evolved,
        "before": [[finite(m.before) for m in lanes] for lanes in curves.mutations],
        "after": [[finite(m.after) for m in lanes] for lanes in curves.mutations],
        "taken": [[m.taken for m in lanes] for lanes in curves.mutations],
        "backed_off": [[m.backed_off for m in lanes] for lanes in curves.mutations],
        "test_loss": as_lists(test["last"][0]),
        "test_accuracy": as_lists(test["last"][1]),
        "best_test_accuracy": as_lists(test["best"][1]),
        "mean_square": float(weights.square().mean()),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def make_descent(case: Case, dataset: Dataset, **changes: Any) -> LaneDescent:
    """Returns the networks of a case before their first epoch."""
    rule = None if case.rule is None else MutationRule(**case.rule)
    settings = {
        "seeds": case.seeds,
        "optimizer": {"sgd": "sgd", "adam": Adam()}[case.optimizer],
        "learning_rate": case.learning_rate,
        "rule": rule,
        "every": EVERY,
        "selection": case.selection,
        "metric": case.metric,
        "gradient_noise": case.gradient_noise,
        "train_size": case.train_size,
        "selection_size": case.selection_size,
        "validation_size": case.validation_size,
        **changes,
    }
    return LaneDescent(dataset, CLASSIFIERS[case.classifier], **settings)


def dataset_of(case: Case) -> Dataset:
    """Returns CIFAR-10, or a part of it with fewer pixels and test images where a case says so."""
    cifar = load_dataset("cifar10")
    if not case.reduced:
        return cifar
    images = torch.nn.functional.avg_pool2d(cifar.images, case.reduced["pooling"])
    return part_of(cifar, images, np.ones(len(images), bool), 0, 10, case.reduced["test_images"])


def half_of_cifar(first: int) -> Dataset:
    """Returns five classes of CIFAR-10, from `first` on."""
    cifar = load_dataset("cifar10")
    chosen = (cifar.labels >= first) & (cifar.labels < first + 5)
    return part_of(cifar, cifar.images, chosen, first, 5, None)


def part_of(
    cifar: Dataset, images: torch.Tensor, chosen: np.ndarray, first: int, classes: int, tests: int | None
) -> Dataset:
    """Returns chosen images with labels from 0 on; the pool stays the pool, tests stay tests."""
    train, test = np.flatnonzero(chosen[: cifar.pool_size]), np.flatnonzero(chosen[cifar.pool_size :])
    test = test[:tests] + cifar.pool_size
    return Dataset.from_arrays(
        images[torch.from_numpy(train)],
        cifar.labels[train] - first,
        name=f"cifar10-{first}-{classes}",
        num_classes=classes,
        test_images=images[torch.from_numpy(test)],
        test_labels=cifar.labels[test] - first,
        default_sizes=SplitSizes(100, 100, 100),
    )


def pretrained_weights(case: Case) -> torch.Tensor:
    """Returns weights of networks trained on the other five classes, by bare descent."""
    descent = make_descent(case, half_of_cifar(0), rule=None, metric="log_loss", gradient_noise=None)
    descent.run(PRETRAINING)
    return descent.stack.weights(descent.slots, best=False)[0].clone()


def as_lists(values: np.ndarray) -> Any:
    """Returns numbers in four digits after the point."""
    return np.round(values.astype(float), 4).tolist()


def finite(number: float) -> float | None:
    """Returns a number for JSON, in six digits."""
    return round(number, 6) if np.isfinite(number) else None


# --- which cases there are -----------------------------------------------------------------------------


class NotTuned(UserError):
    """There are no development records yet."""


def development(classifier: str, optimizer: str, **more: Any) -> Case:
    """Returns a case on development seeds."""
    name = f"{classifier} {optimizer} {more}"
    return Case(name, DEVELOPMENT_SEEDS, classifier=classifier, optimizer=optimizer, **more)


def rates(classifier: str, optimizer: str) -> list[Case]:
    """Returns bare descent at all learning rates."""
    found = RATES[classifier][optimizer]
    return [development(classifier, optimizer, learning_rate=rate) for rate in found]


def scales(records: Records, classifier: str, optimizer: str, kind: str) -> list[Case]:
    """Returns a rule at all its scales, at the best learning rate of bare descent."""
    rate = best_of(records, rates(classifier, optimizer)).learning_rate
    return [
        development(
            classifier,
            optimizer,
            learning_rate=rate,
            rule={"kind": kind, "offspring": OFFSPRING, **setting},
        )
        for setting in RULES[kind]
    ]


def best_of(records: Records, cases: list[Case]) -> Case:
    """Returns the best case after the last epoch, on validation images.

    Learning rates are chosen by accuracy. Scales are chosen by loss, in which the small differences that
    they make can be told apart from noise.
    """
    missing = [case.name for case in cases if case.key not in records]
    if missing:
        raise NotTuned(f"no record of {missing[0]!r} yet: run `python -m benchmarks.mutations tune` first")
    rules = cases[0].rule is not None
    kind, sign = ("losses", -1) if rules else ("accuracies", 1)
    return max(cases, key=lambda case: sign * np.mean(records[case.key][kind]["validation"][-1]))


PAIRS = (("cnn", "sgd"), ("cnn", "adam"), ("mlp-100", "sgd"))


def tuning(records: Records) -> Iterator[Case]:
    """Yields what is run on development seeds; rules when learning rates are known."""
    for pair in PAIRS:
        yield from rates(*pair)
        yield from scales(records, *pair, "best")
    for kind in ("random_gradients", "es"):
        yield from scales(records, "cnn", "sgd", kind)


def final(records: Records) -> Iterator[Case]:
    """Yields the cases that the page compares: bare descent before what is compared with it."""
    rate, rule = chosen(records, "cnn", "sgd", "best")
    base = {"learning_rate": rate, "rule": rule}
    yield Case("bare", learning_rate=rate)
    yield Case("base", **base)
    yield Case("noise without selection", learning_rate=rate, rule={**rule, "kind": "noise"})
    yield Case("gradient noise", learning_rate=rate, gradient_noise=matching_noise(records, rate, rule))
    yield Case("back-off and elitism", **{**base, "rule": {**rule, "back_off": True}})
    for kind in ("random_gradients", "es"):
        yield Case(kind, learning_rate=rate, rule=chosen(records, "cnn", "sgd", kind)[1])
    yield Case(
        "by accuracy", learning_rate=rate, rule={**rule, "higher_is_better": True}, metric="accuracy"
    )
    yield Case("50 offspring", learning_rate=rate, rule={**rule, "offspring": 50})
    yield Case("the same data", **base, selection="train")
    yield Case("bare, all 10,000 images", learning_rate=rate, train_size=9999, selection_size=1)
    yield Case("bare, pre-trained", learning_rate=rate, pretrained=True)
    yield Case("pre-trained", **base, pretrained=True)
    higher = {**base, "learning_rate": 3 * rate}  # where networks overfit within the epochs
    yield Case("bare, three times the rate", **{**higher, "rule": None})
    yield Case("three times the rate", **higher)
    for name, classifier, optimizer in (("Adam", "cnn", "adam"), ("MLP", "mlp-100", "sgd")):
        own_rate, own_rule = chosen(records, classifier, optimizer, "best")
        own = {"learning_rate": own_rate, "classifier": classifier, "optimizer": optimizer}
        yield Case(f"bare, {name}", **own)
        yield Case(name, **own, rule=own_rule)


def chosen(records: Records, classifier: str, optimizer: str, kind: str) -> tuple[float, dict[str, Any]]:
    """Returns the learning rate and the rule that were best on development seeds."""
    case = best_of(records, scales(records, classifier, optimizer, kind))
    assert case.rule is not None
    return case.learning_rate, case.rule


def matching_noise(records: Records, rate: float, rule: dict[str, Any]) -> tuple[float, float]:
    """Returns gradient noise that moves weights as far, in mean square, as unselected mutations do.

    Each evolution moves a weight by the rule's scale times its root mean square. Noise on the gradient of
    SGD moves it by rate times noise at each update; sums of squares are made equal.
    """
    bare = development("cnn", "sgd", learning_rate=rate)
    record = records[bare.key]
    updates = EPOCHS * (bare.train_size // 64)
    evolutions = EPOCHS // (EVERY + 1)
    wanted = evolutions * rule["scale"] ** 2 * record["mean_square"]
    unit = sum(gradient_noise_std(1.0, NOISE_DECAY, t) ** 2 for t in range(updates))
    return round(wanted / (rate**2 * unit), 8), NOISE_DECAY


RESNET = {
    "classifier": "resnet18",
    "seeds": (0, 1, 2),
    "train_size": 512,
    "selection_size": 100,
    "validation_size": 250,
    "epochs": 12,
    "reduced": {"pooling": 2, "test_images": 1000},
}
RESNET_RATES = (0.03, 0.1)


def resnets(records: Records) -> Iterator[Case]:
    """Yields ResNet-18, bare and as the base, at a size that takes minutes; the base's scale serves."""
    rule = chosen(records, "cnn", "sgd", "best")[1]
    small = {**RESNET, "seeds": DEVELOPMENT_SEEDS[:1]}
    tried = [Case(f"resnet18 {rate}", learning_rate=rate, **small) for rate in RESNET_RATES]
    yield from tried
    rate = best_of(records, tried).learning_rate
    yield Case("bare, ResNet-18", learning_rate=rate, **RESNET)
    yield Case("ResNet-18", learning_rate=rate, **RESNET, rule=rule)


# --- the command ---------------------------------------------------------------------------------------


@dataclass
class Arguments:
    """Descent with mutations beside bare descent."""

    part: Annotated[Literal["tune", "run", "resnet", "table"], tyro.conf.Positional]
    """What to do."""

    records: Path = RECORDS
    """Where records are, one a line."""

    minutes: float = float("inf")
    """No case begins after so many minutes."""


PARTS: dict[str, Callable[[Records], Iterator[Case]]] = {"tune": tuning, "run": final, "resnet": resnets}


def main(arguments: Arguments) -> None:
    """Run what is missing, or print the table."""
    records = read_mutation_records(arguments.records)
    if arguments.part == "table":
        print(mutation_table(records))
        return
    began = time.monotonic()
    for case in PARTS[arguments.part](records):
        if case.key in records:
            continue
        if time.monotonic() - began > arguments.minutes * 60:
            print("stopped: it is time")
            return
        record = run(case, report=lambda text: print(text, end="\r", flush=True))
        records[case.key] = record
        arguments.records.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(record) + "\n" for record in records.values())
        replace_file(arguments.records, lines.encode())
        validation = np.mean(record["accuracies"]["validation"][-1])
        print(f"{case.name}: {validation:.2%} on validation images, {record['cpu_seconds']} s of a CPU")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except UserError as error:
        raise SystemExit(str(error)) from error
