"""Evolution strategies of other libraries; run by `evolution` in an environment of their own.

Reads a line of JSON from the standard input for each task, and answers with a line of JSON:

    {"task": "generations", "library": "evotorch pgpe", "times": 20, ...}    seconds that they took
    {"task": "search", "library": "evosax open_es", "function": "sphere", ...}    evaluations to the target
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import torch

Function = Callable[[torch.Tensor], torch.Tensor]


def sphere(points: torch.Tensor) -> torch.Tensor:
    """As in `autotrain_env.evolution.landscapes`."""
    return points.square().sum(-1)


def rosenbrock(points: torch.Tensor) -> torch.Tensor:
    """As in `autotrain_env.evolution.landscapes`."""
    first, second = points[..., :-1], points[..., 1:]
    return (100 * (second - first**2) ** 2 + (1 - first) ** 2).sum(-1)


def rastrigin(points: torch.Tensor) -> torch.Tensor:
    """As in `autotrain_env.evolution.landscapes`."""
    return (points**2 - 10 * torch.cos(2 * torch.pi * points) + 10).sum(-1)


FUNCTIONS: dict[str, Function] = {"sphere": sphere, "rosenbrock": rosenbrock, "rastrigin": rastrigin}


def evotorch_pgpe(function: Function, settings: dict[str, Any], *, fixed: bool) -> Iterator[torch.Tensor]:
    """PGPE with Adam and centred ranks; its deviations are learned unless fixed."""
    from evotorch.algorithms.functional import pgpe, pgpe_ask, pgpe_tell

    state = pgpe(
        center_init=torch.full((settings["size"],), settings["start"]),
        center_learning_rate=settings["learning_rate"],
        stdev_learning_rate=0.0 if fixed else 0.1,
        objective_sense="min",
        ranking_method="centered",
        optimizer="adam",
        stdev_init=settings["perturbation_std"],
    )
    while True:
        population = pgpe_ask(state, popsize=settings["population_size"])
        state = pgpe_tell(state, population, function(population))
        yield state.optimizer_state.center


def evotorch_snes(function: Function, settings: dict[str, Any]) -> Iterator[torch.Tensor]:
    """SNES with its own defaults."""
    from evotorch import Problem
    from evotorch.algorithms import SNES

    problem = Problem(
        "min",
        function,
        solution_length=settings["size"],
        initial_bounds=(-1, 1),
        vectorized=True,
        dtype=torch.float32,
    )
    search = SNES(
        problem,
        stdev_init=settings["perturbation_std"],
        popsize=settings["population_size"],
        center_init=torch.full((settings["size"],), settings["start"]),
    )
    while True:
        search.step()
        yield search.status["center"]


def evox_open_es(function: Function, settings: dict[str, Any]) -> Iterator[torch.Tensor]:
    """OpenES with Adam, which shapes no fitness."""
    from evox.algorithms import OpenES

    search = OpenES(
        settings["population_size"],
        torch.full((settings["size"],), settings["start"]),
        settings["learning_rate"],
        settings["perturbation_std"],
        optimizer="adam",
    )
    search.evaluate = function
    while True:
        search.step()
        yield search.center


def evosax_open_es(function: Function, settings: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Open_ES with Adam and centred ranks, compiled."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from evosax.algorithms import Open_ES

    start = jnp.full((settings["size"],), settings["start"])
    search = Open_ES(
        population_size=settings["population_size"],
        solution=start,
        optimizer=optax.adam(settings["learning_rate"]),
        std_schedule=optax.constant_schedule(settings["perturbation_std"]),
    )
    params = search.default_params
    key = jax.random.key(settings["seed"])
    state = search.init(key, start, params)
    ask, tell = jax.jit(search.ask), jax.jit(search.tell)
    while True:
        key, ask_key, tell_key = jax.random.split(key, 3)
        population, state = ask(ask_key, state, params)
        fitness = function(torch.from_numpy(np.array(population)))
        state, _ = tell(tell_key, population, jnp.asarray(fitness.numpy()), state, params)
        yield torch.from_numpy(np.array(state.mean))


LIBRARIES: dict[str, Callable[[Function, dict[str, Any]], Iterator[torch.Tensor]]] = {
    "evotorch PGPE, fixed deviation": lambda *given: evotorch_pgpe(*given, fixed=True),
    "evotorch PGPE": lambda *given: evotorch_pgpe(*given, fixed=False),
    "evotorch SNES": evotorch_snes,
    "EvoX OpenES": evox_open_es,
    "evosax Open_ES": evosax_open_es,
}


def generations(settings: dict[str, Any]) -> dict[str, Any]:
    """Seconds of some generations whose fitness costs nothing, after some that are not measured."""
    fitness = torch.randn(settings["population_size"], generator=torch.Generator().manual_seed(0))
    steps = LIBRARIES[settings["library"]](lambda population: fitness, settings)
    for _ in range(3):
        next(steps)
    start = time.perf_counter()
    for _ in range(settings["times"]):
        next(steps)
    return {"seconds": time.perf_counter() - start}


def search(settings: dict[str, Any]) -> dict[str, Any]:
    """Evaluations until the function of the centre is at the target; `None` if the budget did not reach."""
    torch.manual_seed(settings["seed"])
    function = FUNCTIONS[settings["function"]]
    evaluations = 0
    for centre in LIBRARIES[settings["library"]](function, settings):
        evaluations += settings["population_size"]
        if float(function(centre)) <= settings["target"]:
            return {"evaluations": evaluations}
        if evaluations >= settings["budget"]:
            break
    return {"evaluations": None}


def main() -> None:
    """Answer until the input ends."""
    torch.manual_seed(0)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is no answer
    versions = {name: version(name) for name in ("evotorch", "evox", "evosax", "torch", "jax")}
    print(json.dumps({"versions": versions, "libraries": list(LIBRARIES)}), file=answers, flush=True)
    for line in sys.stdin:
        settings = json.loads(line)
        done = {"generations": generations, "search": search}[settings["task"]](settings)
        print(json.dumps(done), file=answers, flush=True)


if __name__ == "__main__":
    main()
