"""Descent with mutations on a data set, a lane for each seed."""

from typing import Any

import numpy as np
import pytest
import torch

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import LaneDescent, MutationRule

SIZES = {"train_size": 200, "selection_size": 60, "validation_size": 80}
FEW = MutationRule(offspring=5, scale=0.1)


def descent(seeds: Any = (3, 8), **more: Any) -> LaneDescent:
    settings = {"batch_size": 20, "learning_rate": 0.1, "every": 2, **SIZES, **more}
    return LaneDescent("digits", "mlp-12", seeds=seeds, **settings)


def weights(found: LaneDescent) -> torch.Tensor:
    return found.stack.state[found.stack.index(found.slots)].clone()


def test_evolutions_count_as_epochs_and_those_that_move_nothing_leave_the_bits():
    bare, mutated = descent(), descent(rule=MutationRule("es", offspring=4, rate=0.0))
    bare.run(4)
    curves = mutated.run(6)
    assert torch.equal(weights(bare), weights(mutated))
    assert curves.evolved == [False, False, False, True, False, False, True]
    assert len(curves.mutations) == 2 and len(curves.mutations[0]) == 2
    assert (bare.epochs_of_descent, mutated.epochs_of_descent, mutated.updates) == (4, 4, 40)


def test_networks_learn_and_curves_are_what_is_measured():
    found, reported = descent(rule=FEW), []
    curves = found.run(8, lambda epoch, so_far: reported.append((epoch, len(so_far.evolved))))
    assert reported == [(epoch, epoch + 1) for epoch in range(9)]
    for part in ("train", "validation"):
        loss, accuracy = found.measure(part)
        assert np.array_equal(curves.losses[part][-1], loss)
        assert np.array_equal(curves.accuracies[part][-1], accuracy) and accuracy.min() > 0.6
        assert curves.losses[part].shape == (9, 2)
    best = found.measure("validation", best=True)[1]
    assert np.array_equal(best, curves.accuracies["validation"].max(0))
    assert curves.best_epochs.tolist() == curves.losses["validation"].argmin(0).tolist()
    assert len(found.measure("test")[0]) == 2


@pytest.mark.parametrize("kind", ["best", "random_gradients", "es", "noise"])
def test_a_lane_depends_on_its_seed_alone(kind: str):
    rule = MutationRule(kind, offspring=3)
    together, alone = descent(rule=rule), descent((8,), rule=rule)
    curves, own = together.run(3), alone.run(3)
    assert torch.equal(weights(together)[1], weights(alone)[0])
    assert np.array_equal(curves.losses["validation"][:, 1], own.losses["validation"][:, 0])
    assert curves.mutations[0][1].taken == own.mutations[0][0].taken


def test_lanes_of_a_seed_are_a_pair_until_something_takes_over():
    bare, mutated = descent(), descent(rule=FEW)
    assert torch.equal(weights(bare), weights(mutated))
    one, other = bare.run(3), mutated.run(3)
    assert np.array_equal(one.losses["train"][:3], other.losses["train"][:3])
    assert not torch.equal(weights(bare), weights(mutated))


def test_selection_apart_is_not_trained_on_and_that_on_train_is():
    apart, same = descent(rule=FEW), descent(rule=FEW, selection="train")
    for lane, split in enumerate(apart.splits):
        trained, seen = set(split.train_index.tolist()), set(apart.selection_indices[lane].tolist())
        others = {*split.validation_index.tolist(), *split.test_index.tolist()}
        assert len(seen) == 60 and not seen & trained and not seen & others
        assert set(same.selection_indices[lane].tolist()) <= trained


def test_noise_on_gradients_is_added_where_updates_have_been():
    bare, still, noisy = descent(), descent(gradient_noise=(0.0, 0.5)), descent(gradient_noise=(0.04, 0.0))
    for found in (bare, still, noisy):
        found.descend()
    assert torch.equal(weights(bare), weights(still))
    fresh = descent(gradient_noise=(0.04, 0.0))
    before = weights(fresh)
    fresh._add_gradient_noise(0.04, 0.0)
    assert (weights(fresh) - before).std() == pytest.approx(0.1 * 0.2, rel=0.1)
    assert not torch.equal(weights(bare), weights(noisy)) and noisy.updates == bare.updates == 10
    with pytest.raises(InvalidValueError, match="plain SGD"):
        descent(gradient_noise=(0.1, 0.5), optimizer="adam")
    with pytest.raises(InvalidValueError, match=r"gradient_noise\[0\]=-1"):
        descent(gradient_noise=(-1, 0.5))


def test_beginning_as_networks_from_elsewhere():
    first, second = descent(), descent((5, 6))
    drawn = weights(second)
    first.run(1)
    given = first.stack.weights(first.slots, best=False)[0]
    second.start_from(given, keep=2)
    stop = 64 * 12 + 12
    assert torch.equal(weights(second)[:, :stop], given[:, :stop])
    assert torch.equal(weights(second)[:, stop:], drawn[:, stop:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\)"),
        ({"seeds": (-1,)}, "seed=-1"),
        ({"every": 0}, "every=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"batch_size": 201}, "batch_size=201"),
        ({"selection": "test"}, "selection='test'"),
        ({"initialization": "kaiming"}, "initialization='kaiming'"),
        ({"selection_size": 0}, "holdout"),
        ({"rule": "bst"}, "'best'"),
        ({"rule": "best", "metric": "accuracy"}, "higher_is_better"),
    ],
)
def test_bad_input(given: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        descent(**given)


def test_parts_and_epochs_that_are_none():
    with pytest.raises(InvalidValueError, match="part='holdout'"):
        descent().measure("holdout")
    with pytest.raises(InvalidValueError, match="epochs=-1"):
        descent().run(-1)
