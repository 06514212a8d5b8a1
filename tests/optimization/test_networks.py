"""The loss of networks as a function of their parameters, and how minibatch gradients scatter."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from autotrain_env.data.dataset import Dataset
from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.optimization import (
    ClassifierLoss,
    descend,
    gradient_noise,
    initial_points,
)
from autotrain_env.training.classifiers import MLP


def make(classifier: Any = "mlp-7-5", images: int = 120, **arguments: Any) -> ClassifierProblem:
    generator = np.random.default_rng(0)
    data = Dataset.from_arrays(
        generator.normal(size=(images, 6)).astype(np.float32), generator.integers(3, size=images)
    )
    return ClassifierProblem(data, classifier, batch_size=16, dtype=torch.float64, **arguments)


@pytest.fixture(scope="module")
def problem() -> ClassifierProblem:
    return make()


def images_of(problem: ClassifierProblem, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*problem.part(part), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_losses_and_gradients_are_those_of_autograd(problem: ClassifierProblem, part: str):
    points = initial_points(problem, seeds=range(3)).requires_grad_()
    losses = ClassifierLoss(problem, part)(points)
    (gradients,) = torch.autograd.grad(losses.sum(), points)
    images, labels = images_of(problem, part)
    for row, loss, gradient in zip(points, losses, gradients, strict=True):
        module = MLP((7, 5)).build((6,), 3).double()
        module.load_state_dict(problem.state_dict(row))
        expected = F.cross_entropy(module(images), labels)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        theirs = torch.autograd.grad(expected, list(module.parameters()))
        flat = torch.cat([tensor.flatten() for tensor in theirs])
        torch.testing.assert_close(gradient, flat, rtol=1e-9, atol=1e-12)


def test_networks_with_other_layers_can_be_differentiated_too():
    def factory() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))

    own = make(factory)
    path = descend(ClassifierLoss(own), initial_points(own, seeds=range(2)), learning_rates=0.5, steps=20)
    assert (path.heights[-1] < path.heights[0]).all()


def test_some_images_are_the_first_ones(problem: ClassifierProblem):
    images, labels = images_of(problem, "train")
    loss = ClassifierLoss(problem, images=10)
    assert torch.equal(loss.images, images[:10]) and torch.equal(loss.labels, labels[:10])


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_a_network_without_an_opinion_loses_log_c(depth: int):
    own = make(MLP((8,) * depth))
    losses = ClassifierLoss(own)(initial_points(own, "zero_last_layer", range(3)))
    assert losses.tolist() == pytest.approx([math.log(3)] * 3, rel=1e-12)
    default = ClassifierLoss(own)(initial_points(own, seeds=range(20))).mean().item()
    assert default == pytest.approx(math.log(3), abs=0.35 if depth == 0 else 0.12)


def test_networks_are_drawn_by_their_seeds(problem: ClassifierProblem):
    points = initial_points(problem, "kaiming_normal", [3, 4, 3])
    assert points.shape == (3, problem.layout.size) and points.dtype == torch.float64
    assert torch.equal(points[0], points[2]) and not torch.equal(points[0], points[1])
    own = problem.layout.join(problem.initial_parameters("kaiming_normal", 4))
    assert torch.equal(points[1], own)


def test_gradients_scatter_as_single_images_do(problem: ClassifierProblem):
    point = initial_points(problem)[0]
    images, labels = images_of(problem, "train")
    found = gradient_noise(problem, point, (1, 4, 16, len(labels) - 1), draws=3000)
    # every image's gradient by torch.func
    module = MLP((7, 5)).build((6,), 3).double()
    named = {name: tensor.clone() for name, tensor in problem.layout.split(point).items()}

    def loss(parameters: Any, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(module, parameters, (image[None],)), label[None])

    single = vmap(grad(loss), (None, 0, 0))(named, images, labels)
    rows = torch.cat([single[name].flatten(1) for name in problem.layout.names], 1)
    trace = float((rows - rows.mean(0)).square().sum(1).mean())
    count = len(labels)
    for size, expected, measured in zip(found.batch_sizes, found.expected, found.measured, strict=True):
        assert expected == pytest.approx(trace / size * (count - size) / (count - 1), rel=1e-9)
        assert measured == pytest.approx(expected, rel=0.08)
    assert found.squared_gradient == pytest.approx(float(rows.mean(0).square().sum()), rel=1e-9)
    assert found.noise_scale == pytest.approx(trace / found.squared_gradient, rel=1e-9)
    assert found.num_images == count


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: initial_points("digits"), "problem='digits' must be a ClassifierProblem"),
        (lambda p: initial_points(p, "kaiming"), "initialization='kaiming' is not a known name"),
        (lambda p: initial_points(p, seeds=[]), "seeds"),
        (lambda p: initial_points(p, seeds=[-1]), "seeds=-1"),
        (lambda p: ClassifierLoss(None), "problem=None"),
        (lambda p: ClassifierLoss(p, "holdout"), "part='holdout'.*'validation'"),
        (lambda p: ClassifierLoss(p, images=0), "images=0"),
        (lambda p: ClassifierLoss(p, images=10**6), "images=1000000.*at most"),
        (lambda p: gradient_noise(3, None, (1,)), "problem=3"),
        (lambda p: gradient_noise(p, None, (1,)), "point="),
        (lambda p: gradient_noise(p, torch.zeros(3), (1,)), "point=.*of shape"),
        (lambda p: gradient_noise(p, initial_points(p)[0], ()), "batch_sizes"),
        (lambda p: gradient_noise(p, initial_points(p)[0], (0,)), "batch_sizes=0"),
        (lambda p: gradient_noise(p, initial_points(p)[0], (p.train_size,)), "batch_sizes=.*at most"),
        (lambda p: gradient_noise(p, initial_points(p)[0], (1,), draws=0), "draws=0"),
        (lambda p: gradient_noise(p, initial_points(p)[0], (1,), seed="x"), "seed='x'"),
    ],
)
def test_mistakes_are_named(problem: ClassifierProblem, call: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        call(problem)
