"""Accuracy while a classifier is evolved: when it is measured, what is kept, clocks that stand still."""

import time
from typing import Any

import pytest
import torch

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import ClassifierProblem, EvolutionStrategy, ask, init, tell
from autotrain_env.evolution.curves import (
    Point,
    Recorder,
    Trained,
    measured_generations,
    reached,
    train_classifier,
)
from tests.helpers import tiny_data

STRATEGY = EvolutionStrategy(20, rank=1, scaling="fan_in", learning_rate=0.1)


def problem(**more: Any) -> ClassifierProblem:
    arguments = {"batch_size": 16, "train_size": 100, "validation_size": 60, **more}
    return ClassifierProblem(tiny_data(), "mlp-6", **arguments)


def test_it_is_ask_and_tell():
    task = problem()
    state = init(STRATEGY, task.initial_parameters(seed=3), 3)
    for generation in range(12):
        population, asked = ask(state)
        state = tell(asked, task.fitness(population, generation))
    trained = train_classifier(task, STRATEGY, 12, 3, measurements=4)
    last = trained.points[-1]
    assert [point.generation for point in trained.points] == [0, 1, 3, 7, 12]
    assert last.forward_passes == 12 * 20 * 16
    assert {"accuracy": last.accuracy, "log_loss": last.log_loss} == task.measure(
        state.parameters, "validation"
    )
    assert torch.equal(trained.initial, task.layout.join(task.initial_parameters(seed=3)))
    seconds = [point.seconds for point in trained.points]
    assert seconds == sorted(seconds) and seconds[-1] > 0


@pytest.mark.parametrize("rank", [None, 1])
def test_candidates_are_looked_at_by_the_centre(rank: int | None):
    task = problem(candidates=3)
    strategy = EvolutionStrategy(20, rank=rank, scaling="fan_in", learning_rate=0.1)
    state = init(strategy, task.initial_parameters(), 0)
    for generation in range(4):
        population, asked = ask(state)
        state = tell(asked, task.fitness(population, generation, state.parameters))
    last = train_classifier(task, strategy, 4).points[-1]
    assert last.forward_passes == 4 * (20 + 3) * 16
    assert last.log_loss == task.measure(state.parameters, "validation")["log_loss"]


def test_the_best_network_is_kept():
    trained = train_classifier(problem(), STRATEGY, 30, measurements=10)
    best = trained.best
    assert best == max(trained.points, key=lambda point: (point.accuracy, -point.log_loss))
    measured = problem().measure(trained.parameters, "validation")
    assert measured == {"accuracy": best.accuracy, "log_loss": best.log_loss}


def test_the_first_of_equally_good_networks_is_kept():
    points = [Point(number, 0, 0.0, 0.0, 0.5, 1.0) for number in range(3)]
    assert Trained(points, torch.zeros(1), torch.zeros(1)).best.generation == 0


def test_parameters_and_fitness_can_be_given():
    task = problem()
    zeros = {name: torch.zeros_like(part) for name, part in task.initial_parameters().items()}
    constant = train_classifier(
        task, STRATEGY, 3, parameters=zeros, fitness=lambda population, _: torch.ones(len(population))
    )
    assert not constant.parameters.any() and not constant.initial.any()


def test_the_clock_stands_still_while_networks_are_measured(monkeypatch: pytest.MonkeyPatch):
    task = problem()
    measure = task.measure

    def slow(*given: Any) -> dict[str, float]:
        time.sleep(0.2)
        return measure(*given)

    monkeypatch.setattr(task, "measure", slow)
    recorder, parameters = Recorder(task), task.layout.join(task.initial_parameters())
    recorder.measure(parameters, 0, 0)
    time.sleep(0.02)
    point = recorder.measure(parameters, 1, 16)
    assert 0.02 <= point.seconds < 0.2 and point.seconds <= recorder.seconds < 0.2


def test_measurements_are_closer_together_in_the_beginning():
    assert measured_generations(100, 5) == [4, 16, 36, 64, 100]
    assert measured_generations(3, 50) == [1, 2, 3] and measured_generations(7, 1) == [7]
    for arguments, message in (((0, 5), "generations=0"), ((5, 0), "measurements=0")):
        with pytest.raises(InvalidValueError, match=message):
            measured_generations(*arguments)
    with pytest.raises(InvalidValueError, match="generations=0"):
        train_classifier(problem(), STRATEGY, 0)


def test_when_an_accuracy_was_reached():
    points = [
        Point(number, 10 * number, 0.0, 0.0, accuracy, 1.0)
        for number, accuracy in enumerate((0.1, 0.8, 0.7, 0.9))
    ]
    assert reached(points, 0.75) == points[1] and reached(points, 0.9) == points[3]
    assert reached(points, 0.95) is None
