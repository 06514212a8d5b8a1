"""Update rules by hand: against torch.optim, in float64, on a network in training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autotrain_env.optimization import (
    adam_step,
    gradient_step,
    momentum_step,
    random_step,
    rmsprop_step,
    zeros_like,
)
from autotrain_env.training.classifiers import MLP


def network() -> nn.Module:
    torch.manual_seed(0)
    return MLP((7, 5)).build((6,), 3).double()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(8, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def by_hand(rule: str) -> Callable[[Tensor, list[Tensor], int, list[list[Tensor]]], None]:
    rules = {
        "gradient": lambda loss, p, t, m: gradient_step(loss, p, 0.1),
        "momentum": lambda loss, p, t, m: momentum_step(loss, p, m[0], 0.1, 0.9),
        "rmsprop": lambda loss, p, t, m: rmsprop_step(loss, p, m[0], 0.01, alpha=0.8),
        "adam": lambda loss, p, t, m: adam_step(loss, p, m[0], m[1], t, 0.01, beta1=0.7),
    }
    return rules[rule]


TORCH = {
    "gradient": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.8),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.7, 0.999)),
}


@pytest.mark.parametrize("rule", TORCH)
def test_rules_are_those_of_torch(rule: str):
    ours, theirs = network(), network()
    parameters = list(ours.parameters())
    memory = [zeros_like(parameters), zeros_like(parameters)]
    optimizer = TORCH[rule](theirs.parameters())
    for count, (images, labels) in enumerate(batches(30), start=1):
        by_hand(rule)(cross_entropy(ours(images), labels), parameters, count, memory)
        optimizer.zero_grad()
        cross_entropy(theirs(images), labels).backward()
        optimizer.step()
    for mine, yours in zip(parameters, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-10, atol=1e-12)
        assert mine.grad is None and mine.requires_grad  # nothing adds up


def test_random_steps_have_the_length_that_was_asked_for():
    parameters = [torch.zeros(400, 300, requires_grad=True), torch.zeros(7, requires_grad=True)]
    generator = torch.Generator().manual_seed(0)
    random_step(parameters, 0.5, generator)
    assert parameters[0].std().item() == pytest.approx(0.5, rel=0.01)
    before = [parameter.detach().clone() for parameter in parameters]
    random_step(parameters, 0.5, generator, normalized=True)
    for old, new in zip(before, parameters, strict=True):
        assert torch.linalg.vector_norm(new - old).item() == pytest.approx(0.5, rel=1e-4)


POINT = torch.ones(2, requires_grad=True)
OTHER = torch.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda loss: gradient_step(3.0, [POINT], 0.1), "loss=3.0 must be a tensor"),
        (lambda loss: gradient_step(loss.detach(), [POINT], 0.1), "loss=.*computed from parameters"),
        (lambda loss: gradient_step(POINT * 2, [POINT], 0.1), "loss=.*a single number"),
        (lambda loss: gradient_step(loss, [OTHER], 0.1), "loss: has no gradient"),
        (lambda loss: gradient_step(loss, [], 0.1), r"parameters=\[\] must be a list of tensors"),
        (lambda loss: gradient_step(loss, POINT, 0.1), "parameters=.*must be a list"),
        (lambda loss: gradient_step(loss, [POINT], -0.1), "learning_rate=-0.1.*at least 0"),
        (lambda loss: gradient_step(loss, [POINT], float("nan")), "learning_rate=nan"),
        (lambda loss: momentum_step(loss, [POINT], [torch.zeros(2)], 0.1, 1), r"momentum=1.*\[0, 1\)"),
        (lambda loss: momentum_step(loss, [POINT], [torch.zeros(3)], 0.1, 0.9), "velocities=.*zeros_like"),
        (lambda loss: momentum_step(loss, [POINT], [], 0.1, 0.9), "velocities=.*zeros_like"),
        (lambda loss: rmsprop_step(loss, [POINT], None, 0.1), "mean_squares=None"),
        (lambda loss: rmsprop_step(loss, [POINT], [torch.zeros(2)], 0.1, alpha=-1), "alpha=-1"),
        (lambda loss: rmsprop_step(loss, [POINT], [torch.zeros(2)], 0.1, eps=0), "eps=0"),
        (lambda loss: adam(loss, count=0), "count=0.*from 1 on"),
        (lambda loss: adam(loss, count=1.5), "count=1.5"),
        (lambda loss: adam(loss, beta1=1.0), "beta1=1.0"),
        (lambda loss: adam(loss, beta2=-0.1), "beta2=-0.1"),
        (lambda loss: adam(loss, eps=-1.0), "eps=-1.0"),
        (lambda loss: adam(loss, means=[torch.zeros(1)]), "means=.*zeros_like"),
        (lambda loss: adam(loss, mean_squares=[1.0]), "mean_squares=.*zeros_like"),
        (lambda loss: random_step([POINT], -1, torch.Generator()), "scale=-1"),
        (lambda loss: random_step([POINT], 1, 0), "generator=0 must be a torch.Generator"),
        (lambda loss: random_step([POINT], 1, torch.Generator(), normalized=1), "normalized=1"),
        (lambda loss: random_step([0.5], 1, torch.Generator()), "parameters="),
        (lambda loss: zeros_like([None]), "parameters="),
    ],
)
def test_mistakes_are_named_and_move_nothing(make: Callable[[Tensor], None], message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make(POINT.square().sum())
    assert POINT.tolist() == [1, 1]


def adam(loss: Tensor, **changed: object) -> None:
    memory = {"means": [torch.zeros(2)], "mean_squares": [torch.zeros(2)]}
    arguments = {**memory, "count": 1, "learning_rate": 0.1}
    adam_step(loss, [POINT], **{**arguments, **changed})  # type: ignore[arg-type]
