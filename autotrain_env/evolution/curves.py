"""How good a classifier becomes while it is evolved: against seconds, forward passes and generations."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from autotrain_env.errors import check_whole
from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.evolution.low_rank import Population
from autotrain_env.evolution.strategy import EvolutionStrategy

Fitness = Callable[[Population, int], Tensor]
"""A function of a generation's members and its number that gives their fitness, shape (n,)."""


class Point(NamedTuple):
    """Where a training had come to when it was measured.

    Args:
        generation: Generations, or updates, until then.
        forward_passes: Forward passes of one image through one network.
        seconds: Seconds of the training alone, without what measuring took.
        cpu_seconds: The same of all of the process' threads together.
        accuracy: Accuracy on the validation part.
        log_loss: Log loss there [nats].
    """

    generation: int
    forward_passes: int
    seconds: float
    cpu_seconds: float
    accuracy: float
    log_loss: float


class Trained(NamedTuple):
    """What a training came to.

    Args:
        points: Measurements, from the beginning on.
        parameters: Parameters of the network that was best among those measured, shape (d,).
        initial: Parameters at the beginning, shape (d,).
    """

    points: list[Point]
    parameters: Tensor
    initial: Tensor

    @property
    def best(self) -> Point:
        """Returns the measurement of the best network."""
        return max(self.points, key=_merit)


def _merit(point: Point) -> tuple[float, float]:
    return point.accuracy, -point.log_loss


class Recorder:
    """A clock that stands still while networks are measured.

    Args:
        problem: What is trained.
    """

    def __init__(self, problem: ClassifierProblem) -> None:
        self.problem = problem
        self.points: list[Point] = []
        self._best: Tensor | None = None
        self._initial: Tensor | None = None
        self._used = (0.0, 0.0)
        self._begin = _clocks()

    @property
    def seconds(self) -> float:
        """Returns the seconds until now."""
        return self._passed()[0]

    def _passed(self) -> tuple[float, float]:
        now = _clocks()
        return self._used[0] + now[0] - self._begin[0], self._used[1] + now[1] - self._begin[1]

    def measure(self, parameters: Tensor, generation: int, forward_passes: int) -> Point:
        """Measure a network on the validation part.

        Args:
            parameters: Its parameters, shape (d,).
            generation: Generations, or updates, so far.
            forward_passes: Forward passes so far.
        """
        self._used = self._passed()
        point = Point(
            generation, forward_passes, *self._used, **self.problem.measure(parameters, "validation")
        )
        if self._initial is None:
            self._initial = parameters.clone()
        if self._best is None or _merit(point) > max(map(_merit, self.points)):
            self._best = parameters.clone()
        self.points.append(point)
        self._begin = _clocks()
        return point

    def trained(self) -> Trained:
        """Returns all measurements, with the best network."""
        assert self._best is not None and self._initial is not None
        return Trained(self.points, self._best, self._initial)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def train_classifier(
    problem: ClassifierProblem,
    strategy: EvolutionStrategy,
    generations: int,
    seed: int = 0,
    *,
    parameters: Mapping[str, Tensor] | None = None,
    fitness: Fitness | None = None,
    measurements: int = 40,
) -> Trained:
    """Evolve a classifier, and measure it on the validation part meanwhile.

    Args:
        problem: What is trained.
        strategy: How.
        generations: Generations to make.
        seed: Seed of the first centre and the noise.
        parameters: The first centre, by name; by default drawn from the seed.
        fitness: Fitness of the members; by default the problem's, on the minibatch of their generation.
        measurements: How often the centre is measured, in the beginning more often than in the end.

    Returns:
        All measurements, and the best network among them.

    Raises:
        InvalidValueError: If a number is below 1, or the strategy does not fit the network.
    """
    wanted = set(measured_generations(generations, measurements))
    state = strategy.init(problem.initial_parameters(seed=seed) if parameters is None else parameters, seed)
    passes = problem.forward_passes(state.population_size)
    recorder = Recorder(problem)
    recorder.measure(state.parameters, 0, 0)
    for done in range(1, generations + 1):
        population, asked = state.ask()
        if fitness is None:
            found = problem.fitness(population, state.generation, state.around())
        else:
            found = fitness(population, state.generation)
        state = asked.tell(found)
        if done in wanted:
            recorder.measure(state.parameters, done, done * passes)
    return recorder.trained()


def measured_generations(generations: int, measurements: int) -> list[int]:
    """Returns after which generations to measure: the last, and closer together the earlier they are.

    Args:
        generations: How many there are, at least 1.
        measurements: How often to measure, at least 1; fewer where there are not so many generations.

    Raises:
        InvalidValueError: If a number is below 1.
    """
    check_whole("generations", generations, 1)
    check_whole("measurements", measurements, 1)
    shares = ((number / measurements) ** 2 for number in range(1, measurements + 1))
    return sorted({max(1, round(share * generations)) for share in shares})


def reached(points: Sequence[Point], accuracy: float) -> Point | None:
    """Returns the first measurement at which an accuracy was reached; `None` if none did."""
    return next((point for point in points if point.accuracy >= accuracy), None)
