"""Networks trained side by side: against a plain loop with torch.optim, lane by lane."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrain_env.data.dataset import Dataset
from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.optimization import Trainings, initial_points, seconds_per_update, train
from autotrain_env.training.classifiers import MLP
from autotrain_env.training.optimizers import SGD


def make(dtype: torch.dtype = torch.float64, **arguments: Any) -> ClassifierProblem:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=150)
    images = generator.normal(size=(150, 6)) + 2 * np.eye(6)[labels]
    data = Dataset.from_arrays(3 + images.astype(np.float32), labels)
    return ClassifierProblem(data, "mlp-7-5", batch_size=16, dtype=dtype, **arguments)


@pytest.fixture(scope="module")
def problem() -> ClassifierProblem:
    return make()


TORCH: dict[str, Any] = {
    "sgd": lambda p, rate, momentum: torch.optim.SGD(p, lr=rate, momentum=momentum),
    "rmsprop": lambda p, rate, momentum: torch.optim.RMSprop(p, lr=rate),
    "adam": lambda p, rate, momentum: torch.optim.Adam(p, lr=rate),
}


def plain_loop(
    problem: ClassifierProblem, rule: str, rate: float, momentum: float, size: int, seed: int, updates: int
) -> tuple[list[float], dict[str, float], nn.Module]:
    """One network, by torch alone; the order of its images is that of its seed, epoch by epoch."""
    module = MLP((7, 5)).build((6,), 3).double()
    module.load_state_dict(problem.state_dict(initial_points(problem, seeds=[seed])[0]))
    optimizer = TORCH[rule](module.parameters(), rate, momentum)
    images, labels = (torch.cat(tensors) for tensors in zip(*problem.part("train"), strict=True))
    generator, count = np.random.default_rng(seed), len(labels)
    rows = np.tile(np.arange(count), (2048 // count + 1, 1))  # whole epochs
    order = generator.permuted(rows, axis=1).ravel()[: updates * size].reshape(updates, size)
    losses = []
    for chosen in torch.from_numpy(order):
        loss = F.cross_entropy(module(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    figures = {}
    for part in ("train", "validation", "test"):
        images, labels = (torch.cat(tensors) for tensors in zip(*problem.part(part), strict=True))
        logits = module(images)
        figures[f"{part}_loss"] = F.cross_entropy(logits, labels).item()
        figures[f"{part}_accuracy"] = (logits.argmax(1) == labels).double().mean().item()
    return losses, figures, module


@pytest.mark.parametrize("rule", TORCH)
def test_every_lane_is_a_plain_loop(problem: ClassifierProblem, rule: str):
    rates, momenta, sizes, seeds = [0.01, 0.03, 0.01], [0.0, 0.5, 0.9], [4, 8, 16], [0, 1, 0]
    arguments = {"momenta": momenta} if rule == "sgd" else {}
    arguments |= {"learning_rates": rates, "batch_sizes": sizes, "seeds": seeds}
    found = train(problem, rule, updates=30, every=7, **arguments)
    assert found.updates.tolist() == [0, 7, 14, 21, 28, 30]
    assert found.losses.shape == (30, 3) and found.train_loss.shape == (6, 3)
    for lane in range(3):
        losses, figures, module = plain_loop(
            problem, rule, rates[lane], momenta[lane], sizes[lane], seeds[lane], 30
        )
        np.testing.assert_allclose(found.losses[:, lane], losses, rtol=1e-8)
        for name, value in figures.items():
            if name != "test_loss":
                own = getattr(found, name)
                assert own[..., lane].flat[-1] == pytest.approx(value, rel=1e-8)
        flat = torch.cat([tensor.detach().flatten() for tensor in module.parameters()])
        torch.testing.assert_close(found.parameters[lane], flat, rtol=1e-8, atol=1e-10)


def test_measurements_begin_before_the_first_update(problem: ClassifierProblem):
    found = train(problem, learning_rates=[0.1, 0.2], updates=3)
    assert found.updates.tolist() == [0, 1, 2, 3]
    assert found.train_loss[0, 0] == found.train_loss[0, 1]  # the same network
    assert found.momenta.tolist() == [0.9, 0.9]  # the rule's own


def test_images_can_stay_as_they_are():
    problem = make()
    as_they_are = train(problem, learning_rates=0.01, updates=1, normalize=False)
    mean, std = problem.split.mean.double(), problem.split.std.double()
    module = MLP((7, 5)).build((6,), 3).double()
    module.load_state_dict(problem.state_dict(initial_points(problem)[0]))
    images, labels = (torch.cat(tensors) for tensors in zip(*problem.part("validation"), strict=True))
    expected = F.cross_entropy(module(images * std + mean), labels).item()
    assert as_they_are.validation_loss[0, 0] == pytest.approx(expected, rel=1e-6)


def test_a_lane_that_diverges_is_infinite_and_never_the_best():
    found = train(make(torch.float32), learning_rates=[1e30, 0.05], updates=60)
    assert found.validation_loss[-1, 0] == math.inf
    assert found.test_accuracy[0] == pytest.approx(1 / 3)
    assert found.best_lane == 1 and found.validation_accuracy[-1, 1] > 0.6


def test_some_lanes_can_be_looked_at_alone(problem: ClassifierProblem):
    found = train(problem, learning_rates=[0.1, 0.2, 0.3], updates=4)
    some = found.lanes(found.learning_rates > 0.15)
    assert some.learning_rates.tolist() == [0.2, 0.3] and some.updates.tolist() == found.updates.tolist()
    np.testing.assert_array_equal(some.losses, found.losses[:, 1:])
    assert torch.equal(some.parameters, found.parameters[1:])


def test_updates_take_time(problem: ClassifierProblem):
    seconds = seconds_per_update(problem, batch_sizes=(2, 64), updates=20)
    assert seconds.shape == (2,) and (seconds > 0).all() and (seconds < 1).all()


def call(problem: ClassifierProblem, **changed: Any) -> Trainings:
    return train(**{"problem": problem, "learning_rates": 0.1, "updates": 2, **changed})


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda p: call(None), "problem=None must be a ClassifierProblem"),
        (lambda p: call(p, optimizer="adm"), "optimizer='adm'.*nearest known one is 'adam'"),
        (lambda p: call(p, optimizer=None), "optimizer=None"),
        (lambda p: call(p, learning_rates=-1), "learning_rates=-1"),
        (lambda p: call(p, learning_rates="x"), "learning_rates='x' must be numbers"),
        (lambda p: call(p, learning_rates=[]), r"learning_rates=\[\]"),
        (lambda p: call(p, learning_rates=[[0.1]]), "learning_rates="),
        (lambda p: call(p, learning_rates=[0.1, None]), "learning_rates=None"),
        (lambda p: call(p, learning_rates=[1, 2], seeds=[1, 2, 3]), "learning_rates=.*each of 3"),
        (lambda p: call(p, momenta=1), r"momenta=1.*\[0, 1\)"),
        (lambda p: call(p, momenta=0.9, optimizer="adam"), "momenta=.*no momentum"),
        (lambda p: call(p, momenta=[0.9, 0], optimizer=SGD(nesterov=True, momentum=0.5)), "momentum=0.0"),
        (lambda p: call(p, batch_sizes=0), "batch_sizes=0"),
        (lambda p: call(p, batch_sizes=p.train_size + 1), "batch_sizes=.*at most"),
        (lambda p: call(p, batch_sizes=[3, 8]), "batch_sizes=3.*a divisor of the largest, 8"),
        (lambda p: call(p, batch_sizes=2.5), "batch_sizes=2.5"),
        (lambda p: call(p, seeds=-1), "seeds=-1"),
        (lambda p: call(p, seeds=0.5), "seeds=0.5"),
        (lambda p: call(p, updates=0), "updates=0"),
        (lambda p: call(p, every=0), "every=0"),
        (lambda p: call(p, images=0), "images=0"),
        (lambda p: call(p, initialization="he"), "initialization='he'"),
        (lambda p: call(p, normalize="yes"), "normalize='yes'"),
        (lambda p: call(p).lanes([True, False]), "which="),
        (lambda p: call(p).lanes(np.array([False])), "which="),
        (lambda p: call(p).lanes(np.array([0])), "which="),
        (lambda p: seconds_per_update(None, batch_sizes=(1,)), "problem=None"),
        (lambda p: seconds_per_update(p, batch_sizes=()), "batch_sizes"),
        (lambda p: seconds_per_update(p, batch_sizes=(0,)), "batch_sizes=0"),
        (lambda p: seconds_per_update(p, "x", batch_sizes=(1,)), "optimizer='x'"),
        (lambda p: seconds_per_update(p, batch_sizes=(1,), updates=0), "updates=0"),
    ],
)
def test_mistakes_are_named(problem: ClassifierProblem, make_it: Any, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make_it(problem)
