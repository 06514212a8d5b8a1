"""Mutations of lanes: each lane by itself, and one lane as `Mutations` does it."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import LaneMutations, Mutation, MutationRule, Mutations, Selection
from tests.helpers.stacks import Setup

KINDS = ("best", "random_gradients", "es", "noise")
CLASSIFIERS: dict[str, Any] = {"mlp": "mlp-9", "cnn": "cnn"}


def rule_of(kind: str, **more: Any) -> MutationRule:
    scale = {"random_gradients": 5.0}.get(kind, 0.1)
    return MutationRule(kind, **{"offspring": 7, "scale": scale, **more})


def stacked(array: str, setup: Setup) -> np.ndarray:
    return np.stack([getattr(lane, array) for lane in setup.lanes])


def mutate(mutations: LaneMutations, setup: Setup) -> list[Mutation]:
    return mutations.mutate(
        setup.pool,
        stacked("test_indices", setup),
        stacked("test_labels", setup),
        learning_rates=np.array([lane.rate for lane in setup.lanes]),
        batch_indices=stacked("indices", setup)[:, 0],
        batch_labels=stacked("labels", setup)[:, 0],
    )


def make(setup: Setup, rule: MutationRule, numbers: list[int], metric: str = "log_loss") -> LaneMutations:
    return LaneMutations(setup.stack, setup.slots, numbers, rule, metric)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_lane_depends_neither_on_others_nor_on_its_place(kind: str, classifier: str, each_backend: str):
    def run(numbers: list[int], slots: list[int] | None = None) -> tuple[list[Tensor], list[Any]]:
        setup = Setup(CLASSIFIERS[classifier], "momentum", lanes=numbers, slots=slots)
        mutations, done = make(setup, rule_of(kind), numbers), []
        for _ in range(2):
            setup.train()
            done.append(mutate(mutations, setup))
        return list(setup.rows()), [repr(row) for row in zip(*done, strict=True)]

    rows, done = run([4, 1, 7])
    for place, number in enumerate((4, 1, 7)):
        alone, done_alone = run([number], [3])
        assert torch.equal(alone[0], rows[place]) and done_alone[0] == done[place]


def module_of(setup: Setup) -> tuple[nn.Module, Tensor]:
    """The only lane as a module, and its images."""
    module = copy.deepcopy(setup.architecture.template).double()
    row = setup.rows()[0]
    with torch.no_grad():
        for entry in setup.architecture.parameter_layout.entries:
            module.get_parameter(entry.name).copy_(entry.view(row))
    images = setup.pool * setup.stack.scale[setup.slots[0]] + setup.stack.shift[setup.slots[0]]
    return module, images.view(-1, *setup.architecture.image_shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("state", ["keep", "reset"])
def test_one_lane_is_what_the_wrapper_does(kind: str, optimizer: str, state: str):
    setup = Setup("mlp-9", optimizer, lanes=[3], dtype=torch.float64)
    rule = rule_of(kind, optimizer_state=state, scale=0.05 if kind != "random_gradients" else 2.0)
    lanes, lane = make(setup, rule, [11]), setup.lanes[0]
    module, images = module_of(setup)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    held_out = [(images[lane.test_indices], torch.from_numpy(lane.test_labels))]
    wrapped = Mutations(
        kinds[optimizer](module.parameters(), lr=lane.rate), Selection(module, held_out), rule, seed=11
    )
    for _ in range(3):
        setup.train()
        for indices, labels in zip(lane.indices, lane.labels, strict=True):
            wrapped.zero_grad()
            cross_entropy(module(images[indices]), torch.from_numpy(labels)).backward()
            wrapped.step()
        wrapped.zero_grad()
        first = lane.indices[0], lane.labels[0]
        cross_entropy(module(images[first[0]]), torch.from_numpy(first[1])).backward()
        ours, theirs = mutate(lanes, setup)[0], wrapped.mutate()
        assert ours.taken == theirs.taken
        assert ours.offspring == pytest.approx(theirs.offspring, abs=1e-9)
        flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
        assert torch.allclose(setup.rows()[0, : len(flat)], flat, rtol=0, atol=1e-9)


def test_the_best_offspring_has_the_very_bits_that_the_wrapper_gives_it():
    setup = Setup("mlp-9", lanes=[3], dtype=torch.float64)
    module, images = module_of(setup)
    held_out = [(images[setup.lanes[0].test_indices], torch.from_numpy(setup.lanes[0].test_labels))]
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    assert Mutations(sgd, Selection(module, held_out), rule_of("best"), seed=2).mutate().taken
    mutate(make(setup, rule_of("best"), [2]), setup)
    flat = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert torch.equal(setup.rows()[0, : len(flat)], flat)


def test_taking_over_lowers_the_loss_and_accuracy_can_be_selected_by(each_backend: str):
    for metric, higher in (("log_loss", False), ("accuracy", True)):
        setup = Setup(lanes=[0, 1])
        mutations = make(
            setup, rule_of("best", scale=0.5, offspring=60, higher_is_better=higher), [0, 1], metric
        )
        for mutation in mutate(mutations, setup):
            assert mutation.taken == 1 and (mutation.after > mutation.before) == higher
            after = mutation.after
        evaluation = setup.evaluate()
        assert evaluation.losses is not None
        found = evaluation.correct[1].mean() if higher else evaluation.losses[1].mean()
        assert after == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_the_optimisers_state_and_buffers_after_something_took_over(state: str):
    def normalised() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))

    setup = Setup(normalised, "adam", lanes=[0, 1])
    setup.train()
    before, size = setup.rows(), setup.stack.num_parameters
    stop = setup.stack.buffers_start
    assert setup.stack.num_buffers > 0
    mutate(make(setup, rule_of("noise", optimizer_state=state), [0, 1]), setup)
    after = setup.rows()
    assert not torch.equal(after[:, :size], before[:, :size])
    assert torch.equal(after[:, stop:], before[:, stop:])
    kept = before[:, size:stop] if state == "keep" else torch.zeros_like(before[:, size:stop])
    assert torch.equal(after[:, size:stop], kept)


def test_a_lane_backs_off_by_itself():
    setup = Setup(lanes=[0, 1])
    mutations = make(setup, rule_of("best", back_off=True, scale=1e-6), [0, 1])
    mutate(mutations, setup)
    kept = setup.rows()
    size = setup.stack.num_parameters
    setup.stack.state[0, :size] *= 30
    setup.stack.state[1, :size] += 1e-7
    setup.stack.state[0, size:] = 5
    first, second = mutate(mutations, setup)
    assert first.backed_off
    assert torch.allclose(setup.rows()[0], kept[0], atol=1e-4) and not setup.rows()[0].eq(5).any()
    assert first.before <= second.before * 30


def test_where_nothing_is_finite_a_lane_stays_and_that_is_said():
    for metric, higher in (("log_loss", False), ("accuracy", True)):
        setup = Setup(lanes=[0, 1])
        setup.stack.state[0, :5] = math.inf
        before = setup.rows()
        mutations = make(setup, rule_of("best", higher_is_better=higher), [0, 1], metric)
        with pytest.warns(UserWarning, match="of any of 7 offspring: the parent stays"):
            done = mutate(mutations, setup)
        assert torch.equal(setup.rows()[0], before[0]) and not done[0].taken


def test_it_goes_on_from_a_pickle():
    setup = Setup(lanes=[0, 1])
    mutations = make(setup, rule_of("best", back_off=True), [5, 6])
    mutate(mutations, setup)
    again = pickle.loads(pickle.dumps(mutations))
    mutate(mutations, setup)
    twin = copy.copy(setup)
    twin.stack = again.stack
    mutate(again, twin)
    assert torch.equal(setup.rows(), twin.rows())


def test_bad_input():
    setup = Setup(lanes=[0, 1])
    with pytest.raises(InvalidValueError, match="higher_is_better=False is not allowed: it must be True"):
        make(setup, rule_of("best"), [0, 1], "accuracy")
    with pytest.raises(InvalidValueError, match="nearest known one is 'log_loss'"):
        make(setup, rule_of("best"), [0, 1], "loss")
    with pytest.raises(InvalidValueError, match="one for each of 2 lanes"):
        make(setup, rule_of("best"), [0])
    with pytest.raises(InvalidValueError, match="seed=-1"):
        make(setup, rule_of("best"), [0, -1])
    mutations = make(setup, rule_of("random_gradients"), [0, 1])
    images = stacked("test_indices", setup), stacked("test_labels", setup)
    with pytest.raises(InvalidValueError, match="gradients are needed"):
        mutations.mutate(setup.pool, *images)
    empty = images[0][:, :0], images[1][:, :0]
    with pytest.raises(InvalidValueError, match="one image a lane at least"):
        make(setup, rule_of("best"), [0, 1]).mutate(setup.pool, *empty)
    with pytest.raises(InvalidValueError, match="of 2 lanes"):
        mutations.mutate(setup.pool, images[0][:1], images[1][:1])
