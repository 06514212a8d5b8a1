"""Mistakes of users, which are to be named at once."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from autotrain_env import Constant, Controller, Cosine, ReduceOnPlateau, load_policy
from autotrain_env.errors import InvalidTypeError, InvalidValueError
from tests.helpers.loops import loaders, network, problem, run, update


def make(model: Any = None, optimizer: Any = None, total: int = 64, **arguments: Any) -> Controller:
    model = network() if model is None else model
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
    arguments = {"policy": Cosine(0.1), "decisions": 8} | arguments
    return Controller(model, optimizer, total, **arguments)


def test_a_model_without_parameters():
    with pytest.raises(InvalidValueError, match="model=.*with parameters"):
        make(nn.ReLU(), torch.optim.SGD(network().parameters(), 0.1))


def test_an_optimiser_of_other_parameters():
    with pytest.raises(InvalidValueError, match="6 tensors that are not the model's"):
        make(network(), torch.optim.SGD(network().parameters(), 0.1))


def test_an_optimiser_of_more_than_the_model():
    model, head = network(), nn.Linear(4, 2)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.1)
    with pytest.raises(InvalidValueError, match="2 tensors"):
        make(model, optimizer)
    make(model, optimizer, also=[head])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": 3, "optimizer": 4}, InvalidTypeError, "model=int must be a torch.nn.Module"),
        ({"optimizer": 4}, InvalidTypeError, "optimizer=4 has no state_dict"),
        ({"also": [3]}, InvalidTypeError, "also=3 has no state_dict"),
        ({"total": 7}, InvalidValueError, "at least the number of decisions, 8"),
        ({"total": 2.5}, InvalidValueError, "total_updates=2.5"),
        ({"decisions": 0}, InvalidValueError, "decisions=0"),
        ({"updates_per_epoch": 0}, InvalidValueError, "updates_per_epoch=0"),
        ({"updates_per_epoch": float("inf")}, InvalidValueError, "updates_per_epoch=inf"),
        ({"policy": "manny"}, InvalidValueError, "policy='manny'.*nearest known one is 'many'"),
        ({"policy": 3}, InvalidTypeError, "must be a name, or an object with reset and decide"),
        ({"policy": "many"}, InvalidValueError, "holdout=None.*'real_runs', the default, needs none"),
        ({"policy": ReduceOnPlateau()}, InvalidValueError, "holdout=None"),
        ({"holdout": 3}, InvalidTypeError, "holdout=int must be a loader"),
        ({"holdout": []}, InvalidValueError, "holdout='0 tensors'|holdout='an empty loader'"),
        ({"holdout": iter([1])}, InvalidTypeError, "an iterator is used up"),
        ({"holdout": (torch.zeros(3, 8), torch.zeros(4))}, InvalidValueError, "as many labels as inputs"),
        ({"holdout": (torch.zeros(0, 8), torch.zeros(0))}, InvalidValueError, "no example"),
        ({"holdout": [torch.zeros(3, 8)]}, InvalidValueError, "1 tensors"),
        ({"holdout": lambda: 0.5}, InvalidTypeError, "expected .train score, holdout score."),
        ({"holdout": lambda: (50.0, 40.0)}, InvalidValueError, "from 0 to 1"),
        ({"reinit": "kaiming"}, InvalidValueError, "reinit='kaiming'"),
        ({"reinit": 3}, InvalidTypeError, "reinit=3"),
        ({"snapshots": 3}, InvalidTypeError, "snapshots=3"),
        ({"chance_loss": 0.0}, InvalidValueError, "chance_loss=0.0"),
        ({"num_classes": 1}, InvalidValueError, "num_classes=1"),
        ({"writer": 3}, InvalidTypeError, "writer=3 has no add_scalar"),
        ({"log": "run.txt"}, InvalidValueError, "log='run.txt'"),
        ({"lr_bound": (1, 2)}, InvalidValueError, "'lr_bounds'"),
        ({"num_snapshots": 0}, InvalidValueError, "num_snapshots=0"),
    ],
)
def test_arguments(arguments: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        make(**arguments)


def test_a_policy_for_other_actions():
    with pytest.raises(InvalidValueError, match="num_rewinds|action_space"):
        make(policy="many", holdout=loaders()[1], lr_factors=(0.5, 2.0))


def test_a_policy_from_another_environment_brings_its_own_actions(tmp_path: Any):
    policy = load_policy("many")
    policy.save(tmp_path / "mine")
    controller = make(policy=tmp_path / "mine", holdout=loaders()[1])
    assert controller.config.num_snapshots == 4 and controller.plan.name.endswith("mine")


def test_modules_that_cannot_be_reset():
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

    model = nn.Sequential(network(), Scale())
    with pytest.raises(InvalidValueError, match="1 cannot reset_parameters"):
        make(model, reinit="reset_parameters")


def test_the_holdout_is_the_train_data():
    train, holdout = loaders()
    with pytest.raises(InvalidValueError, match="the same data as train"):
        make(holdout=train, train=train)
    same = torch.utils.data.DataLoader(train.dataset, 8)
    with pytest.raises(InvalidValueError, match="the same data as train"):
        make(holdout=same, train=train)
    inputs, labels = problem()
    with pytest.raises(InvalidValueError, match="the same data as train"):
        make(holdout=(inputs, labels), train=(inputs, labels))
    with pytest.raises(InvalidValueError, match="the same data as loader"):
        make(holdout=same).batches(train)
    make(holdout=holdout).batches(train)


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        ((), TypeError, "loss"),
        ((None,), InvalidTypeError, "loss=None"),
        ((torch.ones(3), torch.zeros(3, 4), torch.zeros(3)), InvalidValueError, "one number"),
        ((1.0, torch.zeros(3, 4)), InvalidTypeError, "labels=None"),
        ((1.0,), InvalidValueError, "chance_loss="),
        ((1.0, [1], [2]), InvalidTypeError, "logits=list"),
        ((1.0, torch.zeros(3, 4), torch.zeros(5).long()), InvalidValueError, "do not fit"),
        ((1.0, torch.zeros(3, 5), torch.zeros(3).long()), InvalidValueError, "of 4 classes"),
    ],
)
def test_steps(step: tuple[Any, ...], error: type[Exception], words: str):
    controller = make(holdout=loaders()[1])
    with pytest.raises(error, match=words):
        controller.step(*step)


def test_a_loop_that_never_steps():
    controller = make()
    with pytest.raises(InvalidValueError, match="went by without controller.step"):
        for _ in controller.batches(loaders()[0]):
            pass


def test_a_loader_that_is_empty_or_used_up():
    with pytest.raises(InvalidValueError, match="loader="):
        next(make().batches([]))
    controller = make()
    once = iter(loaders()[0])
    with pytest.raises(InvalidValueError, match="used up"):
        run(controller, once)


def test_an_iterable_holdout_that_is_empty():
    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(InvalidValueError, match="holdout='an empty loader'"):
        make(holdout=torch.utils.data.DataLoader(Nothing(), 3))


def test_a_second_controller_on_one_optimiser():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first = make(model, optimizer)
    with pytest.raises(InvalidValueError, match="belongs to another Controller"):
        make(model, optimizer)
    run(first, loaders()[0])
    second = make(model, optimizer)  # the first one's run is over
    second.close()
    third = make(model, optimizer)
    del third
    with pytest.raises(InvalidTypeError) as kept:  # a constructor that failed owns nothing
        make(model, optimizer, holdout=lambda: 0.5)
    make(model, optimizer)
    assert kept.tb


def test_a_scheduler_that_fights_over_the_rate():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    controller = make(model, optimizer, policy=Constant(0.1))
    batches = controller.batches(loaders()[0])
    with pytest.warns(
        UserWarning, match="StepLR has changed the learning rate from .0.1. to .0.05."
    ) as all:
        for batch in batches:
            outcome = update(model, optimizer, batch)
            scheduler.step()
            controller.step(*outcome)
            assert optimizer.param_groups[0]["lr"] == 0.1
    assert len(all) == 1 and "somebody else set the rate 64 times" in controller.summary()


def test_a_rate_that_somebody_else_sets():
    controller = make(policy=Constant(0.1))
    outcome = update(controller.model, controller.optimizer, next(iter(loaders()[0])))
    controller.optimizer.param_groups[0]["lr"] = 0.3
    with pytest.warns(UserWarning, match="Something else, a schedule perhaps, has changed") as warned:
        controller.step(*outcome)
    assert warned[0].filename == __file__


def test_a_rate_outside_the_bounds():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)
    with pytest.warns(UserWarning, match="1e-06 is outside lr_bounds=.* begins as 0.0001"):
        make(model, optimizer, policy=Constant())
    make(lr_bounds=(1e-8, 1.0), optimizer=None)


@pytest.mark.parametrize("rate", [0.0, math.nan, math.inf])
def test_an_optimiser_without_a_rate(rate: float):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises(InvalidValueError, match="rates"):
        make(model, optimizer)


def test_the_state_of_another_controller():
    state = make().state_dict()
    for arguments, words in (
        ({"total": 80}, "total_updates"),
        ({"decisions": 4}, "process"),
        ({"model": network()[:1]}, "model"),
        ({"policy": "constant"}, "policy"),
        ({"holdout": loaders()[1]}, "holdout"),
        ({"reinit": "reset_parameters"}, "reinit"),
    ):
        with pytest.raises(InvalidValueError, match=f"state's {words}=.*of another controller"):
            make(**arguments).load_state_dict(copy.deepcopy(state))
    with pytest.raises(InvalidValueError, match="state's policy.*decides otherwise"):
        make(policy=Cosine(0.2)).load_state_dict(state)
    for nonsense in ({}, {"format": 0}, 3):
        with pytest.raises(InvalidValueError, match="what Controller.state_dict returned"):
            make().load_state_dict(nonsense)  # type: ignore[arg-type]
