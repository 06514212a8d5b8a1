"""How estimates move parameters: against torch's optimisers, and ClipUp by hand."""

import pytest
import torch
from torch import Tensor

from autotrain_env.evolution.updates import UPDATES, ClipUp, Decay, Updated, as_update, value_at
from autotrain_env.training.optimizers import SGD, Adam

TORCH = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
}


def gradients(count: int) -> list[Tensor]:
    return list(torch.randn(count, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


@pytest.mark.parametrize("name", TORCH)
def test_updates_are_those_of_torch(name: str):
    start = torch.arange(5.0, dtype=torch.float64)
    theirs = start.clone().requires_grad_()
    optimizer, rule = TORCH[name]([theirs]), as_update(name)
    ours = Updated.start(start[None], rule)
    for uphill in gradients(10):
        before = ours.values.clone(), [tensor.clone() for tensor in ours.accumulators]
        after = ours.ascend(rule, uphill[None], 0.1)
        assert torch.equal(ours.values, before[0])  # nothing in place
        assert all(map(torch.equal, ours.accumulators, before[1]))
        ours = after
        theirs.grad = -uphill
        optimizer.step()
    assert ours.values[0].tolist() == pytest.approx(theirs.tolist(), rel=1e-10)
    assert ours.count == 10


def test_weight_decay_and_clipping_apply():
    rule = SGD(weight_decay=0.5, max_grad_norm=1.0)
    moved = Updated.start(torch.tensor([[2.0, 0.0]]), rule).ascend(rule, torch.tensor([[0.0, 10.0]]), 0.1)
    assert moved.values.flatten().tolist() == pytest.approx([1.9, 0.1])


def test_clipup_by_hand():
    rule = ClipUp(momentum=0.5, max_speed=1.2)
    state = Updated.start(torch.zeros(1, 2), rule)
    # every step has the length of the learning rate, whatever the gradient's
    state = state.ascend(rule, torch.tensor([[30.0, 40.0]]), 0.1)
    assert state.values[0].tolist() == pytest.approx([0.06, 0.08])
    # velocity 0.5 * 0.1 + 0.1 = 0.15 is cut down to 0.12
    state = state.ascend(rule, torch.tensor([[0.003, 0.004]]), 0.1)
    assert state.accumulators[0].norm() == pytest.approx(0.12)
    assert state.values[0].tolist() == pytest.approx([0.06 + 0.072, 0.08 + 0.096])
    # no gradient: the velocity decays
    state = state.ascend(rule, torch.zeros(1, 2), 0.1)
    assert state.accumulators[0].norm() == pytest.approx(0.06)


def test_lanes_are_apart():
    rows = torch.stack(gradients(3))
    for rule in UPDATES.values():
        together = Updated.start(torch.zeros_like(rows), rule).ascend(rule, rows, 0.1)
        for row in range(3):
            alone = Updated.start(torch.zeros_like(rows[:1]), rule).ascend(rule, rows[row : row + 1], 0.1)
            assert torch.allclose(alone.values[0], together.values[row], rtol=1e-12)


def test_schedules():
    falling = Decay(0.4, half_life=10, floor=0.15)
    assert [falling(at) for at in (0, 10, 20, 1000)] == pytest.approx([0.4, 0.2, 0.15, 0.15])
    assert value_at(falling, 10, "learning_rate") == pytest.approx(0.2)
    assert value_at(0.3, 10, "learning_rate") == 0.3
    with pytest.raises(ValueError, match=r"learning_rate=0\.0.*generation 2"):
        value_at(lambda generation: 2.0 - generation, 2, "learning_rate")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_update("clip"), "optimizer='clip'.*nearest known one is 'clipup'"),
        (lambda: as_update(None), "optimizer=None must be a name"),
        (lambda: ClipUp(momentum=1), r"momentum=1.*\[0, 1\)"),
        (lambda: ClipUp(max_speed=0), "max_speed=0"),
        (lambda: Decay(0, 1), "start=0"),
        (lambda: Decay(1, 0), "half_life=0"),
        (lambda: Decay(1, 1, 2), "floor=2.*start=1"),
    ],
)
def test_mistakes_are_named(make, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_adam_by_its_name_is_the_optimizer_itself():
    assert as_update("adam") == Adam() and as_update(Adam(beta1=0.5)) == Adam(beta1=0.5)
