"""The trainings that `classifiers` compares: settings in, measurements out.

Each takes the settings of one training and returns what its record holds: `points` (measurements on the
validation part, see `autotrain_env.evolution.curves.Point`) and `test` (accuracy of the network that
validation chose).
"""

import base64
import dataclasses
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.evolution import ClassifierProblem, Cosine, EvolutionStrategy, LowRankPopulation
from autotrain_env.evolution.classifiers import PARTS, minus_log_loss
from autotrain_env.evolution.curves import Recorder, Trained, measured_generations, train_classifier
from autotrain_env.evolution.first_attempt import MENDS, Attempt
from autotrain_env.evolution.low_rank import Population
from autotrain_env.evolution.vectors import perturbation_scale
from autotrain_env.viewing.evolved import first_units
from benchmarks.evolution import FOLDER, REQUIREMENTS
from benchmarks.measuring import peer_python
from benchmarks.plain_torch import train

MEASUREMENTS = 30
_TRIAL = 6  # generations that tell how long one takes
Settings = Mapping[str, Any]


def make_problem(settings: Settings) -> ClassifierProblem:
    """The problem, whose split is the same for all seeds; `threads` are those of the engine."""
    torch.set_num_threads(1)
    return ClassifierProblem(
        settings["dataset"],
        settings["classifier"],
        batch_size=settings["batch_size"],
        candidates=settings.get("candidates", 1),
        seed=settings["seed"],
        engine_threads=settings.get("threads"),
    )


def record_of(problem: ClassifierProblem, trained: Trained, units: bool = False) -> dict[str, Any]:
    """What is kept of a training."""
    return {
        "points": [
            (*point[:2], *(round(number, 3) for number in point[2:4]), *(round(n, 5) for n in point[4:]))
            for point in trained.points
        ],
        "test": problem.measure(trained.parameters, "test")["accuracy"],
        **({"units": units_as_text(problem, trained)} if units else {}),
    }


def units_as_text(problem: ClassifierProblem, trained: Trained, count: int = 20) -> str:
    """What the first layer has learned, whole numbers from -127 to 127 for each unit, as base64."""
    weights, before = problem.layout.split(trained.parameters), problem.layout.split(trained.initial)
    units = first_units(weights, problem.dataset.image_shape, before)
    assert units is not None
    largest = units[:count].abs().amax((1, 2), keepdim=True).clamp(min=1e-12)
    whole = 127 * units[:count] / largest
    return base64.b64encode(whole.round().to(torch.int8).numpy().tobytes()).decode()


# --- evolution ---


def evolve(settings: Settings) -> dict[str, Any]:
    """An evolution strategy whose rate falls by a cosine, for `generations`, `passes` or `seconds`."""
    problem = make_problem(settings)
    arguments = dict(settings["strategy"])
    generations = count_generations(settings, problem)
    rate = arguments.pop("learning_rate")
    strategy = EvolutionStrategy(**arguments, learning_rate=Cosine(rate, generations, rate / 100))
    fitness = OwnMinibatches(problem) if settings.get("own_minibatches") else None
    trained = train_classifier(
        problem, strategy, generations, settings["seed"], fitness=fitness, measurements=MEASUREMENTS
    )
    record = record_of(problem, trained, settings.get("keep_units", False))
    return {**record, "generations": generations}


def count_generations(settings: Settings, problem: ClassifierProblem) -> int:
    """As many as are asked for, or fit the passes or the seconds; a short trial tells what one takes."""
    if "generations" in settings:
        return settings["generations"]
    strategy = EvolutionStrategy(**settings["strategy"])
    if "passes" in settings:
        return max(1, settings["passes"] // problem.forward_passes(strategy.population_size))
    train_classifier(problem, strategy, 2, measurements=1)  # to warm up
    last = train_classifier(problem, strategy, _TRIAL, measurements=1).points[-1]
    # On one thread of a machine that others use, too, its processor time is what counts.
    taken = last.cpu_seconds if settings["threads"] == 1 else last.seconds
    return max(1, int(settings["seconds"] * _TRIAL / taken))


class OwnMinibatches:
    """Fitness of mirrored pairs on a minibatch for each pair, in place of one that all of them share."""

    def __init__(self, problem: ClassifierProblem) -> None:
        self.problem = problem
        self.images, self.labels = all_of(problem, "train")

    def __call__(self, population: Population, generation: int) -> Tensor:
        """Fitness of the members, shape (n,)."""
        assert isinstance(population, LowRankPopulation) and population.mirrored
        rng = np.random.default_rng((self.problem.seed, generation))
        chosen = torch.from_numpy(
            rng.integers(len(self.labels), size=(len(population.numbers), self.problem.batch_size))
        )
        found = []
        for row, batch in enumerate(chosen):
            pair = dataclasses.replace(population, numbers=population.numbers[row : row + 1])
            found.append(minus_log_loss(self.problem.logits(pair, self.images[batch]), self.labels[batch]))
        return torch.cat(found)


def all_of(problem: ClassifierProblem, part: str) -> tuple[Tensor, Tensor]:
    """Normalised images, shape (n, features), and labels of a part."""
    images, labels = zip(*problem.part(part), strict=True)
    return torch.cat(images), torch.cat(labels)


# --- gradients, and no training at all ---


def descend(settings: Settings) -> dict[str, Any]:
    """Gradients by plain torch, by a cosine; backward passes are not among `forward_passes`."""
    problem = make_problem(settings)
    torch.manual_seed(settings["seed"])
    images, labels = all_of(problem, "train")
    images = images.view(-1, *problem.dataset.image_shape)
    network = problem.architecture.classifier.build(
        problem.dataset.image_shape, problem.dataset.num_classes
    )
    optimizer = OPTIMIZERS[settings["optimizer"]](network.parameters(), lr=settings["learning_rate"])
    batch_size = settings["batch_size"]
    updates = settings["epochs"] * (len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    wanted = set(measured_generations(updates, settings["measurements"]))
    recorder = Recorder(problem)

    def measure(done: int) -> None:
        named = dict(network.named_parameters())
        parameters = torch.cat([named[entry.name].detach().flatten() for entry in problem.layout.entries])
        recorder.measure(parameters, done, done * batch_size)

    measure(0)
    done = 0
    while done < updates:
        for batch in torch.randperm(len(labels)).split(batch_size)[: updates // settings["epochs"]]:
            train(network, optimizer, images, labels, batch[None])
            schedule.step()
            done += 1
            if done in wanted:
                measure(done)
    return record_of(problem, recorder.trained(), settings.get("keep_units", False))


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "SGD, momentum 0.9": lambda *given, **more: torch.optim.SGD(*given, momentum=0.9, **more),
    "Adam": torch.optim.Adam,
}


def draw(settings: Settings) -> dict[str, Any]:
    """The best of many networks as PyTorch initialises them, by validation, whose cost is all there is."""
    problem = make_problem(settings)
    recorder, begin = Recorder(problem), (time.perf_counter(), time.process_time())
    for number in range(settings["networks"]):
        seed = settings["seed"] * settings["networks"] + number
        parameters = problem.layout.join(problem.initial_parameters("module_default", seed))
        recorder.measure(parameters, number + 1, 0)
    trained = recorder.trained()
    best = trained.best._replace(
        generation=settings["networks"],
        forward_passes=settings["networks"] * problem.validation_size,
        seconds=time.perf_counter() - begin[0],
        cpu_seconds=time.process_time() - begin[1],
    )
    return record_of(problem, trained._replace(points=[best]))


# --- the first attempt ---


def attempt(settings: Settings) -> dict[str, Any]:
    """The attempt that gets stuck, with some of its mends; only where it sees all images are there few."""
    torch.set_num_threads(settings["threads"])  # torch computes networks with a rectifier on their outputs
    changes = [MENDS[name] for name in settings["mends"]]
    tried = Attempt().changed(*changes)
    train_size = settings["train_size"] if tried.batch_size is None else None
    problem = tried.problem(settings["dataset"], train_size=train_size)
    trained = tried.run(problem, settings["generations"], settings["seed"], measurements=MEASUREMENTS)
    return record_of(problem, trained)


# --- other libraries ---


def peer(settings: Settings) -> dict[str, Any]:
    """A strategy of evosax or EvoX, in a process of its own on one core."""
    python = peer_python(FOLDER, REQUIREMENTS)
    problem = make_problem(settings)
    with tempfile.TemporaryDirectory() as folder:
        write_arrays(problem, Path(folder), settings["seed"])
        sizes = problem.architecture.classifier.sizes(
            problem.dataset.image_shape, problem.dataset.num_classes
        )
        task = {**settings, "sizes": sizes, "folder": folder, "measurements": MEASUREMENTS}
        done = subprocess.run(
            [python.absolute(), Path(__file__).with_name("classifiers_worker.py")],
            input=json.dumps(task) + "\n",
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{settings['library']} ended with an error:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def write_arrays(problem: ClassifierProblem, folder: Path, seed: int) -> None:
    """Write the normalised data, the first centre, and what fan-in scaling multiplies noise by."""
    for part in PARTS:
        for name, tensor in zip(("images", "labels"), all_of(problem, part), strict=True):
            np.save(folder / f"{part}_{name}.npy", tensor.numpy())
    centre = problem.layout.join(problem.initial_parameters(seed=seed))
    np.save(folder / "centre.npy", centre.numpy())
    np.save(folder / "scale.npy", perturbation_scale(problem.layout, "fan_in", {}).to(centre).numpy())


KINDS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "evolve": evolve,
    "descend": descend,
    "draw": draw,
    "attempt": attempt,
    "peer": peer,
}
