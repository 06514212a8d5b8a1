"""Classifiers evolved by other libraries; run by `classifiers` in an environment of their own.

Reads one line of JSON from the standard input, trains, and answers with one line of JSON. The data and the
first centre lie in a folder, as `classifiers.write_arrays` leaves them. Seconds are those of the process'
one core, from the second generation on, without what measuring takes.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

Batches = Callable[[], tuple[np.ndarray, np.ndarray]]
Search = Callable[[dict[str, Any], np.ndarray, np.ndarray, Batches], Iterator[np.ndarray]]


def shapes_of(sizes: list[int]) -> list[tuple[int, int, int, int]]:
    """First number of each layer's weight, of its bias, its outputs and inputs."""
    found, start = [], 0
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        bias = start + inputs * outputs
        found.append((start, bias, outputs, inputs))
        start = bias + outputs
    return found


def rate_at(settings: dict[str, Any], generation: int) -> float:
    """The rate falls by half a cosine to a hundredth, as ours does."""
    share = min(1.0, generation / settings["generations"])
    start, floor = settings["learning_rate"], settings["learning_rate"] / 100
    return floor + (start - floor) * (1 + math.cos(math.pi * share)) / 2


def evosax_search(name: str) -> Search:
    """A strategy of evosax with Adam and centred ranks; a generation is compiled as one function."""

    def search(
        settings: dict[str, Any], centre: np.ndarray, scale: np.ndarray, batches: Batches
    ) -> Iterator[np.ndarray]:
        import evosax.algorithms
        import jax
        import jax.numpy as jnp
        import optax

        layers = shapes_of(settings["sizes"])
        origin, factor = jnp.asarray(centre), jnp.asarray(scale)
        size, members = len(centre), settings["population_size"]
        kind = getattr(evosax.algorithms, name)
        arguments: dict[str, Any] = {
            "optimizer": optax.adam(lambda count: schedule(count)),
        }
        std = settings["perturbation_std"]
        schedule = optax.cosine_decay_schedule(settings["learning_rate"], settings["generations"], 0.01)
        if name == "Open_ES":
            arguments["std_schedule"] = optax.constant_schedule(std)
        start = jnp.zeros(size)
        algorithm = kind(population_size=members, solution=start, **arguments)
        params = algorithm.default_params
        if name != "Open_ES":
            params = params.replace(std_init=std)
        key = jax.random.key(settings["seed"])
        state = algorithm.init(key, start, params)

        def loss(population: Any, images: Any, labels: Any) -> Any:
            rows = origin + factor * population
            hidden = None
            for number, (start, bias, outputs, inputs) in enumerate(layers):
                weight = rows[:, start:bias].reshape(members, outputs, inputs)
                if hidden is None:  # all members share the images: one product
                    flat = images @ weight.reshape(members * outputs, inputs).T
                    product = flat.reshape(len(images), members, outputs).transpose(1, 0, 2)
                else:
                    product = jnp.einsum("nbi,noi->nbo", hidden, weight)
                hidden = product + rows[:, None, bias : bias + outputs]
                if number < len(layers) - 1:
                    hidden = jax.nn.relu(hidden)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(hidden), labels[None, :, None], 2)
            return -chosen.mean((1, 2))

        @jax.jit
        def generation(key: Any, state: Any, images: Any, labels: Any) -> tuple[Any, Any]:
            key, ask_key, tell_key = jax.random.split(key, 3)
            population, state = algorithm.ask(ask_key, state, params)
            fitness = loss(population, images, labels)
            state, _ = algorithm.tell(tell_key, population, fitness, state, params)
            return key, state

        while True:
            key, state = generation(key, state, *batches())
            state.mean.block_until_ready()
            yield np.asarray(origin + factor * state.mean)

    return search


def evox_search(
    settings: dict[str, Any], centre: np.ndarray, scale: np.ndarray, batches: Batches
) -> Iterator[np.ndarray]:
    """OpenES of EvoX with Adam; it shapes no fitness."""
    from evox.algorithms import OpenES

    torch.manual_seed(settings["seed"])
    layers = shapes_of(settings["sizes"])
    origin, factor = torch.from_numpy(centre), torch.from_numpy(scale)

    def loss(population: torch.Tensor) -> torch.Tensor:
        images, labels = map(torch.from_numpy, batches())
        rows = torch.addcmul(origin, factor, population)
        members, hidden = len(rows), None
        for number, (start, bias, outputs, inputs) in enumerate(layers):
            weight = rows[:, start:bias].view(members, outputs, inputs)
            biases = rows[:, None, bias : bias + outputs]
            shared = images.expand(members, -1, -1) if hidden is None else hidden
            hidden = torch.baddbmm(biases, shared, weight.mT)
            if number < len(layers) - 1:
                hidden = hidden.relu_()
        chosen = torch.log_softmax(hidden, 2).gather(2, labels.expand(members, -1)[..., None])
        return -chosen.mean((1, 2))

    search = OpenES(
        settings["population_size"],
        torch.zeros_like(origin),
        settings["learning_rate"],
        settings["perturbation_std"],
        optimizer="adam",
    )
    search.evaluate = loss
    generation = 0
    with torch.no_grad():
        while True:
            search.learning_rate.fill_(rate_at(settings, generation))
            search.step()
            generation += 1
            yield (origin + factor * search.center).numpy()


LIBRARIES: dict[str, Search] = {
    "evosax Open_ES": evosax_search("Open_ES"),
    "evosax PGPE": evosax_search("PGPE"),
    "EvoX OpenES": evox_search,
}


class Data:
    """Images and labels of each part."""

    def __init__(self, folder: Path, batch_size: int, seed: int) -> None:
        self.parts = {
            part: (np.load(folder / f"{part}_images.npy"), np.load(folder / f"{part}_labels.npy"))
            for part in ("train", "validation", "test")
        }
        self.batch_size, self.rng = batch_size, np.random.default_rng(seed)
        self.order = np.empty(0, dtype=np.int64)

    def minibatch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that all members share, epoch by epoch."""
        images, labels = self.parts["train"]
        if len(self.order) < self.batch_size:
            self.order = self.rng.permutation(len(labels))
        chosen, self.order = self.order[: self.batch_size], self.order[self.batch_size :]
        return images[chosen], labels[chosen]

    def measure(self, parameters: np.ndarray, sizes: list[int], part: str) -> tuple[float, float]:
        """Accuracy and log loss of a network on a part."""
        images, labels = map(torch.from_numpy, self.parts[part])
        rows, hidden = torch.from_numpy(parameters), images
        layers = shapes_of(sizes)
        for number, (start, bias, outputs, inputs) in enumerate(layers):
            hidden = torch.addmm(
                rows[bias : bias + outputs], hidden, rows[start:bias].view(outputs, inputs).T
            )
            if number < len(layers) - 1:
                hidden = hidden.relu_()
        loss = torch.nn.functional.cross_entropy(hidden, labels)
        return float((hidden.argmax(1) == labels).double().mean()), float(loss)


def seconds_of(steps: Iterator[np.ndarray], count: int) -> float:
    """Seconds of the processor that a generation takes."""
    begin = time.process_time()
    for _ in range(count):
        next(steps)
    return (time.process_time() - begin) / count


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train for so many seconds of the processor, and measure meanwhile."""
    folder = Path(settings["folder"])
    data = Data(folder, settings["batch_size"], settings["seed"])
    centre, scale = np.load(folder / "centre.npy"), np.load(folder / "scale.npy")
    if not settings["scaled"]:
        scale = np.ones_like(scale)
    begin = LIBRARIES[settings["library"]]

    def steps() -> Iterator[np.ndarray]:
        return begin(settings, centre, scale, data.minibatch)

    settings["generations"] = 1_000
    trial = steps()
    seconds_of(trial, 4)  # compiles, and warms up
    settings["generations"] = max(1, int(settings["seconds"] / seconds_of(trial, 5)))
    search = steps()
    points, best = [], (-1.0, 0.0)
    chosen, used = centre, 0.0
    passes = settings["population_size"] * settings["batch_size"]
    wanted = {
        max(1, round((number / settings["measurements"]) ** 2 * settings["generations"]))
        for number in range(1, settings["measurements"] + 1)
    }
    for done in range(1, settings["generations"] + 1):
        start = time.process_time()
        parameters = next(search)
        if done > 1:  # the first one compiles
            used += time.process_time() - start
        if done in wanted:
            accuracy, loss = data.measure(parameters, settings["sizes"], "validation")
            points.append((done, done * passes, used, used, accuracy, loss))
            if (accuracy, -loss) > best:
                best, chosen = (accuracy, -loss), parameters.copy()
    return {
        "points": points,
        "test": data.measure(chosen, settings["sizes"], "test")[0],
        "versions": {name: version(name) for name in ("evox", "evosax", "torch", "jax")},
    }


if __name__ == "__main__":
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    # One core, as everything beside it has.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    torch.set_num_threads(1)
    print(json.dumps(train(json.loads(sys.stdin.readline()))), file=answers, flush=True)
