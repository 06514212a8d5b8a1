"""Classifiers as members: the low-rank way against dense networks, minibatches, parts, what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, InvalidValueError
from autotrain_env.evolution import (
    ClassifierProblem,
    Cosine,
    EvolutionStrategy,
    LowRankPopulation,
    Novelty,
    ask,
    init,
    tell,
)
from autotrain_env.evolution.strategy import EvolutionState
from tests.helpers import rows, tiny_data

SIZES: dict[str, Any] = {"batch_size": 16, "train_size": 100, "validation_size": 60, "block_size": 4}


def problem(classifier: Any = "mlp-7-5", dataset: Any = None, **more: Any) -> ClassifierProblem:
    arguments = {**SIZES, "dtype": torch.float64, **more}
    return ClassifierProblem(tiny_data() if dataset is None else dataset, classifier, **arguments)


def begun(of: ClassifierProblem, **more: Any) -> EvolutionState:
    arguments: dict[str, Any] = {"population_size": 10, "rank": 1, "perturbation_std": 0.5, **more}
    state = init(EvolutionStrategy(**arguments), of.initial_parameters(), 1)
    assert isinstance(state, EvolutionState)
    return state


def by_module(of: ClassifierProblem, members: Tensor, images: Tensor) -> Tensor:
    """Logits of each member's own module."""
    found = []
    module = (
        of.architecture.classifier.build(of.dataset.image_shape, of.dataset.num_classes).double().eval()
    )
    for member in members:
        module.load_state_dict(of.state_dict(member))
        with torch.no_grad():
            found.append(module(images.view(-1, *of.dataset.image_shape)))
    return torch.stack(found)


@pytest.mark.parametrize("classifier", ["linear", "mlp-7", "mlp-7-5", "mlp-9-7-6-5"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"rank": 3},
        {"mirrored": False},
        {"scaling": "fan_in", "learned_std": "tensor"},
        {"novelty": Novelty()},
    ],
    ids=str,
)
def test_logits_of_low_rank_members_are_those_of_their_networks(classifier: str, more: dict[str, Any]):
    task = problem(classifier)
    population, state = ask(begun(task, **more))
    assert isinstance(population, LowRankPopulation) and len(population) == state.population_size
    images = task.minibatch(3).images
    logits = task.logits(population, images)
    assert logits.shape == (len(population), 16, 4)
    expected = by_module(task, population.dense(), images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(task.logits(population.dense(), images), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("classifier", ["cnn", "resnet18"])
def test_other_architectures_have_logits_too(classifier: str):
    task = problem(classifier, "digits")
    population, _ = ask(begun(task, population_size=2))
    images = task.minibatch(0).images
    expected = by_module(task, population[:], images)
    torch.testing.assert_close(task.logits(population, images), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [None, 1])
def test_bits_do_not_depend_on_which_members_are_computed_together(rank: int | None):
    task = problem(dtype=torch.float32)
    state = begun(task, rank=rank)
    whole = task.fitness(state.population(range(10)), 2)
    parts = [task.fitness(state.population(range(start, min(start + 4, 10))), 2) for start in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))


def test_fitness_is_what_it_is_named_after():
    def margin(logits: Tensor, labels: Tensor) -> Tensor:
        assert logits.shape[1:] == (16, 4) and labels.shape == (16,)
        return logits.gather(2, labels.expand(len(logits), -1)[..., None]).mean((1, 2))

    task = problem()
    population, _ = ask(begun(task))
    images, labels, _ = task.minibatch(5)
    logits = by_module(task, population[:], images)
    losses = torch.stack([torch.nn.functional.cross_entropy(member, labels) for member in logits])
    right = torch.stack([(member.argmax(1) == labels).double().mean() for member in logits])
    for fitness, expected in (("log_loss", -losses), ("accuracy", right), (margin, margin(logits, labels))):
        torch.testing.assert_close(problem(fitness=fitness).fitness(population, 5), expected)


def test_minibatches_go_through_the_train_part_and_are_drawn_from_the_seed():
    task = problem()
    batches = [task.minibatch(generation) for generation in range(12)]
    train = torch.cat([images for images, _ in task.part("train")])
    for epoch in (batches[:6], batches[6:]):  # of 100 images; the last 4 of an order are left out
        seen = rows(torch.cat([batch.images for batch in epoch]))
        assert len(seen) == 96 and seen <= rows(train)
    again, other = problem(), problem(seed=1)
    assert all(torch.equal(again.minibatch(g)[0], batches[g][0]) for g in (11, 0, 7))
    assert not torch.equal(other.minibatch(0)[0], batches[0][0])
    assert not torch.equal(batches[0][0], batches[6][0])


def test_parts_are_apart_and_normalised_by_the_train_part():
    task = problem()
    parts = {
        name: torch.cat([images for images, _ in task.part(name)])
        for name in ("train", "validation", "test")
    }
    assert [len(part) for part in parts.values()] == [100, 60, task.dataset.test_size]
    assert not rows(parts["train"]) & rows(parts["validation"])
    assert not (rows(parts["train"]) | rows(parts["validation"])) & rows(parts["test"])
    assert parts["train"].mean(0).abs().max() < 0.05
    sizes = ClassifierProblem(tiny_data(), batch_size=8)
    assert sizes.train_size + sizes.validation_size == sizes.dataset.pool_size
    assert sizes.validation_size == sizes.dataset.pool_size // 12


def test_a_network_is_measured_and_given_as_a_module():
    task = problem()
    parameters = begun(task).parameters
    images = torch.cat([images for images, _ in task.part("test")])
    labels = torch.from_numpy(np.array(task.split.test_labels))
    logits = by_module(task, parameters[None], images)[0]
    measured = task.measure(parameters, "test")
    assert measured["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert measured["log_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    raw = task.dataset.images[torch.from_numpy(task.split.test_index).long()]
    with torch.no_grad():
        own = task.network(parameters)(raw)
    torch.testing.assert_close(own.double(), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [None, 1])
@pytest.mark.parametrize("classifier", ["mlp-16", "linear"])
def test_evolution_trains_a_classifier(classifier: str, rank: int | None):
    task = problem(classifier, batch_size=50, dtype=torch.float32)
    rate = Cosine(0.1, 60, 0.01)
    state = begun(task, rank=rank, population_size=64, learning_rate=rate, scaling="fan_in")
    before = task.measure(state.parameters, "validation")["accuracy"]
    for _ in range(60):
        population, asked = ask(state)
        state = tell(asked, task.fitness(population, state.generation))  # type: ignore[assignment]
    assert task.measure(state.parameters, "validation")["accuracy"] > max(0.8, before + 0.2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 101}, "batch_size=101 is not allowed: it must be at most the 100 train images"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"train_size": 1}, "train_size=1"),
        ({"train_size": 300}, "that validation leaves"),
        ({"validation_size": 0}, "validation_size=0"),
        ({"validation_size": 319}, "validation_size=319 is not allowed: it must be at most 318"),
        ({"block_size": 3}, "block_size=3"),
        ({"fitness": "loss"}, "fitness='loss' is not a known name"),
        ({"classifier": "mpl"}, "classifier='mpl' is not a known name"),
        ({"seed": -1}, "seed=-1"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named(more: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        problem(**more)


def test_a_fitness_of_another_kind_is_refused():
    with pytest.raises(InvalidTypeError, match="fitness=3"):
        problem(fitness=3)
    task = problem(fitness=lambda logits, labels: logits)
    with pytest.raises(InvalidValueError, match="fitness="):
        task.fitness(begun(task).population(range(4)), 0)
    with pytest.raises(InvalidValueError, match="part='holdout'"):
        problem().measure(begun(problem()).parameters, "holdout")
    with pytest.raises(InvalidValueError, match="initialization='zero'"):
        problem().initial_parameters("zero")


@pytest.mark.parametrize("backend", ["auto", "stacked"])
@pytest.mark.parametrize("fitness", ["log_loss", "accuracy"])
def test_a_generation_that_overflows_moves_nothing_where_losses_say_so(backend: str, fitness: str):
    task = problem(dtype=torch.float32, backend=backend, fitness=fitness)
    state = begun(task, perturbation_std=1e30)
    population, asked = ask(state)
    found = task.fitness(population, 0)
    after = tell(asked, found)
    assert after.parameters.isfinite().all()
    if fitness == "log_loss":
        assert not found.isfinite().any()
        assert after.report["skipped"] and after.report["not_finite"] == 10
        assert torch.equal(after.parameters, state.parameters)


def test_a_cosine_falls_to_its_floor():
    rate = Cosine(0.5, 10, 0.1)
    assert rate(0) == 0.5 and rate(5) == pytest.approx(0.3) and rate(10) == rate(99) == pytest.approx(0.1)
    for arguments in ((0, 10, 0.1), (0.5, 0, 0.1), (0.5, 10, 0), (0.5, 10, 0.6)):
        with pytest.raises(InvalidValueError):
            Cosine(*arguments)


# --- minibatches drawn by error ---


def test_a_minibatch_of_candidates_has_the_mean_of_all_of_them():
    task = problem("mlp-7-5", candidates=3)  # 16 of 48, twice an epoch of 100 images
    plain = problem("mlp-7-5", batch_size=48)
    state = begun(task)
    centre, other = state.parameters, state.population(range(2))[:][1]
    images, labels, _ = plain.minibatch(0)
    logits = task.logits(torch.stack((centre, other)), images)
    losses = torch.nn.functional.cross_entropy(logits.mT, labels.expand(2, -1), reduction="none")
    expected, found = losses.mean(1), []
    task._order = plain._order  # whatever the seed
    for seed in range(400):
        task.seed, task._last_drawn = seed, None
        batch = task.minibatch(0, centre)
        assert batch.weights is not None and batch.images.shape == images[:16].shape
        assert rows(batch.images) <= rows(images) and (batch.weights <= 5).all()
        fitness = task.fitness(torch.stack((centre, other)), 0, centre)
        found.append(-fitness)
    measured = torch.stack(found)
    error = measured.std(0) / math.sqrt(len(found))
    assert ((measured.mean(0) - expected).abs() < 4 * error).all()
    # On the centre itself, less noise than 16 images drawn evenly have, though it is hardly trained.
    even = torch.stack([losses[0, torch.randperm(48)[:16]].mean() for _ in range(400)])
    assert measured[:, 0].std() < 0.7 * even.std()


def test_candidates_need_the_centre_and_a_fitness_whose_images_can_be_weighed():
    task = problem(candidates=2)
    state = begun(task)
    population, _ = ask(state)
    with pytest.raises(InvalidValueError, match="centre=None .* candidates=2"):
        task.fitness(population[:], 0)
    assert torch.allclose(task.fitness(population[:], 0, state.around()), task.fitness(population, 0))
    for arguments in ({"fitness": "accuracy"}, {"fitness": lambda logits, labels: logits.sum((1, 2))}):
        with pytest.raises(InvalidValueError, match="candidates=2 .*log_loss"):
            problem(candidates=2, **arguments)
    for candidates in (0, 7):
        with pytest.raises(InvalidValueError, match=f"candidates={candidates}"):
            problem(candidates=candidates)
    assert ClassifierProblem(tiny_data(), candidates=8).batch_size * 8 <= tiny_data().pool_size


def test_a_minibatch_is_drawn_once_for_all_blocks_of_a_generation(monkeypatch: pytest.MonkeyPatch):
    task = problem(candidates=3)
    centre, drawn, draw = begun(task).parameters, [], task._draw_by_error
    monkeypatch.setattr(task, "_draw_by_error", lambda *given: (drawn.append(given[-1]), draw(*given))[1])
    first, again = task.minibatch(0, centre), task.minibatch(0, centre.clone())
    assert torch.equal(first.images, again.images) and drawn == [0]
    task.minibatch(1, centre)
    moved = task.minibatch(1, centre + 5)
    assert drawn == [0, 1, 1] and moved.weights is not None
    assert torch.equal(problem(candidates=3).minibatch(1, centre + 5).weights, moved.weights)


def test_passes_count_what_the_centre_looks_at():
    assert problem().forward_passes(10) == 160 and problem(candidates=3).forward_passes(10) == (10 + 3) * 16


def test_weighted_fitness_is_the_same_by_compiled_code():
    found = []
    for backend in ("auto", "stacked"):
        task = problem("mlp-9-7", dtype=torch.float32, candidates=3, backend=backend)
        population, _ = ask(begun(task))
        found.append(task.fitness(population, 1))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
