"""Stacks of lanes: slots, blocks, chunks, and what a lane's row holds."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from autotrain_env.training import stack, torch_engine
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import CNN, as_classifier
from autotrain_env.training.engine import make_engine
from autotrain_env.training.optimizers import OPTIMIZERS, SGD, AdamW
from autotrain_env.training.stack import LaneStack
from tests.helpers.stacks import CPU, E, Setup, Sizes, T, assert_same_bits, of_lanes


def batch_norm_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 36, 10)
    )


# --- what training and evaluation compute ---


@pytest.mark.parametrize("backend", ["stacked", "looped"])
@pytest.mark.parametrize("classifier", ["mlp-9", batch_norm_network], ids=["mlp", "batch norm"])
def test_training_is_that_of_a_plain_loop(classifier: Any, backend: str):
    setup = Setup(classifier, AdamW(), lanes=[2, 5, 3], dtype=torch.float64, backend=backend)
    losses, accuracies, _ = setup.train(2)
    evaluation = setup.evaluate()
    stack, size = setup.stack, setup.stack.num_parameters
    for i, lane in enumerate(setup.lanes):
        module = setup.architecture.classifier.build((1, 8, 8), 10).double()
        row = torch.from_numpy(lane.row).double()
        tensors = [*module.parameters(), *module.buffers()]
        with torch.no_grad():
            for tensor, part in zip(tensors, row.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))
        optimizer = torch.optim.AdamW(module.parameters(), lr=lane.rate)
        images = ((Sizes().pool() - lane.mean.double()) / lane.std.double()).view(-1, 1, 8, 8)
        for update in range(2 * T):
            labels = torch.from_numpy(lane.labels[update % T])
            logits = module(images[lane.indices[update % T]])
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if update >= T:
                assert losses[i, update - T] == pytest.approx(loss.item(), abs=1e-10)
                hits = (logits.argmax(1) == labels).double().mean().item()
                assert accuracies[i, update - T] == pytest.approx(hits, abs=1e-12)
        # A row: parameters, the optimiser's accumulators, its counter, buffers.
        states = [optimizer.state[parameter] for parameter in module.parameters()]
        parts = [list(module.parameters())]
        parts += [[state[key] for state in states] for key in ("exp_avg", "exp_avg_sq")]
        parts += [[torch.tensor([2.0 * T])], list(module.buffers())]
        expected = [torch.cat([torch.zeros(0), *(t.detach().flatten().double() for t in p)]) for p in parts]
        assert stack.buffers_start == 3 * size + 1
        torch.testing.assert_close(stack.state[i], torch.cat(expected), rtol=1e-8, atol=1e-10)
        module.eval()
        with torch.no_grad():
            logits = module(images[lane.test_indices])
        labels = torch.from_numpy(lane.test_labels)
        assert evaluation.losses is not None
        expected_losses = F.cross_entropy(logits, labels, reduction="none").numpy()
        np.testing.assert_allclose(evaluation.losses[i], expected_losses, rtol=1e-9)
        assert np.array_equal(evaluation.correct[i], (logits.argmax(1) == labels).numpy())
    assert evaluation.finite.all()


def test_results_have_stated_shapes_and_types():
    setup = Setup(lanes=[0, 1, 2, 3])
    losses, accuracies, finite = setup.train()
    assert losses.shape == accuracies.shape == (4, T) and finite.shape == (4,)
    assert losses.dtype == accuracies.dtype == np.float64 and finite.dtype == np.bool_
    evaluation = setup.evaluate(losses=False)
    assert evaluation.losses is None
    assert evaluation.correct.shape == (4, E) and evaluation.correct.dtype == np.bool_
    again = setup.evaluate()
    assert again.losses is not None and again.losses.shape == (4, E)
    assert np.array_equal(again.correct, evaluation.correct)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, SGD(momentum=0.9, weight_decay=0.1, max_grad_norm=1.0)])
def test_rows_have_the_width_of_their_parts(optimizer: Any):
    setup = Setup(batch_norm_network, optimizer, lanes=[0])
    stack, rule = setup.stack, setup.stack.optimizer
    expected = stack.num_parameters * (1 + rule.num_accumulators) + rule.counts_updates + stack.num_buffers
    assert stack.width == expected and stack.num_buffers == 7
    before = setup.rows()
    assert torch.equal(before[0, : stack.num_parameters], torch.from_numpy(setup.lanes[0].row)[:-7])
    assert torch.equal(before[0, -7:], torch.tensor([0.0, 0, 0, 1, 1, 1, 0]))  # mean, variance, counter
    assert not before[0, stack.num_parameters : -7].any()
    setup.train()
    changed = setup.rows()[0] != before[0]
    assert changed[-7:].all() and changed[: stack.num_parameters].float().mean() > 0.9
    if rule.num_accumulators:
        assert changed[stack.num_parameters : -7].float().mean() > 0.9
    if rule.counts_updates:
        assert setup.rows()[0, stack.buffers_start - 1] == T


def test_a_new_network_starts_without_optimizer_state():
    setup = Setup(batch_norm_network, "adam", lanes=[0, 1])
    before = setup.rows()
    setup.train(2)
    setup.stack.set_network(setup.slots[:1], setup.lanes[0].row[None])
    assert torch.equal(setup.rows()[0], before[0])
    assert not torch.equal(setup.rows()[1], before[1])


@pytest.mark.usefixtures("each_backend")
def test_lanes_of_one_stack_may_differ_in_momentum():
    rules = [SGD(momentum=0.9), SGD(momentum=0.98), SGD(momentum=0.1), SGD(momentum=0.9)]
    together = Setup("mlp-9", rules[0], lanes=[0, 1, 2, 3])
    for slot, rule in enumerate(rules):
        together.stack.set_lane_values(slot, rule)
    together.stack.acquire()  # more room leaves what there was
    results = together.everything()
    for lane, rule in enumerate(rules):
        assert_same_bits(Setup("mlp-9", rule, lanes=[lane]).everything(), of_lanes(results, [lane]))
    together.stack.copy_slot(1, 4)
    assert together.stack.lane_values[:, 0].tolist()[:5] == [0.9, 0.98, 0.1, 0.9, 0.98]


def test_new_slots_have_the_momentum_of_the_stack():
    rule = SGD(momentum=0.7)
    stack = LaneStack(
        Architecture(as_classifier("mlp-9"), (1, 8, 8), 10), rule, 2, "auto", torch.float32, CPU
    )
    stack.acquire()
    stack.set_lane_values(0, SGD(momentum=0.2))
    stack.acquire(3)
    assert stack.lane_values[:, 0].tolist() == [0.2, 0.7, 0.7, 0.7]


# --- bits do not depend on the other lanes, nor on where a lane lies ---

KINDS = [
    *(("mlp-9", name) for name in OPTIMIZERS),
    ("linear", "momentum"),
    ("mlp-33-11", SGD(momentum=0.9, weight_decay=0.01, max_grad_norm=0.5)),
    (CNN((3, 5)), "momentum"),
    (batch_norm_network, "adam"),
]


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize(
    "classifier, optimizer, dtype",
    [*((*kind, torch.float32) for kind in KINDS), (*KINDS[0], torch.float64), (*KINDS[-1], torch.float64)],
)
def test_bits_of_a_lane_do_not_depend_on_the_others(classifier: Any, optimizer: Any, dtype: torch.dtype):
    number = 33 if classifier == "mlp-9" else 9
    everything = Setup(classifier, optimizer, lanes=[*range(number)], dtype=dtype).everything()
    for lanes in ([0], [8], [3, 4], [7, 2, 8, 0, 5]):
        alone = Setup(classifier, optimizer, lanes=lanes, dtype=dtype).everything()
        assert_same_bits(alone, of_lanes(everything, lanes))


@pytest.mark.parametrize("classifier", ["linear", "mlp-9", "mlp-128", "mlp-65-70"])
@pytest.mark.usefixtures("each_backend")
def test_bits_do_not_depend_on_the_others_with_batches_of_one(classifier: str):
    sizes = Sizes(image_shape=(1, 12, 12), batch_size=1, num_images=1)
    everything = Setup(classifier, "sgd", lanes=[0, 1, 2], sizes=sizes).everything()
    for lanes in ([0], [2, 1]):
        found = Setup(classifier, "sgd", lanes=lanes, sizes=sizes).everything()
        assert_same_bits(found, of_lanes(everything, lanes))


@pytest.mark.parametrize(
    "optimizer, numbers_of_threads",
    [
        ("adam", (4,)),
        (SGD(momentum=0.9, max_grad_norm=0.05), (3, 4)),
        pytest.param("momentum", (2, 3, 4), marks=pytest.mark.slow),
        pytest.param("adam", (2, 3), marks=pytest.mark.slow),
        pytest.param(SGD(momentum=0.9, max_grad_norm=0.05), (2,), marks=pytest.mark.slow),
    ],
)
def test_bits_of_large_networks_do_not_depend_on_the_others_whatever_the_threads(
    optimizer: Any, numbers_of_threads: tuple[int, ...], set_num_threads: Callable[[int], None]
):
    """Products and norms of this size are shared out to threads where they are allowed to be."""
    classifier = "mlp-300-200-100"
    set_num_threads(1)
    everything = Setup(classifier, optimizer, lanes=[*range(9)]).everything()
    for threads in numbers_of_threads:
        set_num_threads(threads)
        for lanes in ([8], [7, 2, 8, 0, 5]):
            found = Setup(classifier, optimizer, lanes=lanes).everything()
            assert_same_bits(found, of_lanes(everything, lanes))
        assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("classifier, optimizer", KINDS)
def test_slots_may_lie_anywhere(classifier: Any, optimizer: Any):
    """Adjacent slots are trained in place, others in a copy; the order of lanes does not matter."""
    expected = Setup(classifier, optimizer, lanes=[0, 1, 2, 3]).everything()
    for slots in ([5, 6, 7, 8], [3, 2, 1, 0], [9, 2, 7, 4], [0, 1, 2, 4]):
        assert_same_bits(
            Setup(classifier, optimizer, lanes=[0, 1, 2, 3], slots=slots).everything(), expected
        )


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("slots", [[2, 3, 4], [6, 2, 4], [1]])
def test_idle_slots_are_left_alone(slots: list[int]):
    setup = Setup(batch_norm_network, "adam", lanes=slots, slots=slots)
    stack = setup.stack
    for tensor in (stack.state, stack.best, stack.ring.rows):
        tensor.copy_(torch.rand_like(tensor))
    tensors = {name: getattr(stack, name).clone() for name in ("state", "best", "shift", "scale")}
    snapshots, heads = stack.ring.rows.clone(), stack.ring.head.copy()
    setup.train()
    setup.evaluate()
    stack.snapshot(setup.slots)
    stack.keep_best(setup.slots)
    idle = [slot for slot in range(len(stack.state)) if slot not in slots]
    assert idle
    for name, before in tensors.items():
        after = getattr(stack, name)
        assert torch.equal(after[idle], before[idle])
        assert torch.equal(after[slots], before[slots]) == (name in ("shift", "scale"))
    assert torch.equal(stack.ring.rows[idle], snapshots[idle])
    assert np.array_equal(stack.ring.head[idle], heads[idle])


@pytest.mark.usefixtures("each_backend")
def test_evaluation_changes_nothing():
    for classifier in ("mlp-9", batch_norm_network):
        setup = Setup(classifier, lanes=[0, 1, 2])
        setup.train()
        before = setup.rows()
        first, second = setup.evaluate(), setup.evaluate()
        assert torch.equal(setup.rows(), before)
        assert first.losses is not None and second.losses is not None
        assert first.losses.tobytes() == second.losses.tobytes()


@pytest.mark.parametrize(
    ("classifier", "per_block"), [("mlp-9", 1), ("mlp-9", 100), ("mlp-40-40", 2), ("mlp-40-40", 4)]
)
def test_blocks_of_lanes_give_the_bits_of_one_block(
    classifier: str, per_block: int, monkeypatch: pytest.MonkeyPatch
):
    expected = Setup(classifier, lanes=[*range(7)], backend="stacked").everything()
    setup = Setup(classifier, lanes=[*range(7)], backend="stacked")
    engine = setup.stack.engine
    assert isinstance(engine, torch_engine.TorchEngine)
    monkeypatch.setattr(engine.network, "lanes_per_block", lambda *a: per_block, raising=True)
    sizes: list[int] = []
    train_block = engine._train_block

    def counted(lane_stack: LaneStack, pool: Tensor, slots: np.ndarray, *more: Any) -> Any:
        sizes.append(len(slots))
        return train_block(lane_stack, pool, slots, *more)

    monkeypatch.setattr(engine, "_train_block", counted)
    assert_same_bits(setup.everything(), expected)
    assert max(sizes) == min(per_block, 7) and sum(sizes) == 2 * 7


def test_evaluation_in_blocks_of_lanes_and_chunks_of_images(monkeypatch: pytest.MonkeyPatch):
    setup = Setup(lanes=[*range(5)], backend="stacked")
    setup.train()
    setup.stack.state[3, 0] = torch.inf  # a lane that is not finite stays in its place
    expected = setup.evaluate()
    assert expected.losses is not None
    monkeypatch.setattr(torch_engine, "_EVALUATION_BYTES", 2 * E * 64 * 4)  # two lanes at once
    blocks = setup.evaluate()
    assert blocks.losses is not None
    fields = ("correct", "losses", "finite")
    assert_same_bits([getattr(blocks, f) for f in fields], [getattr(expected, f) for f in fields])
    monkeypatch.setattr(torch_engine, "_CHUNK_BYTES", 10 * 64 * 4)  # 37 images = 10 + 10 + 10 + 7
    chunks = setup.evaluate()
    assert chunks.losses is not None
    np.testing.assert_allclose(chunks.losses, expected.losses, rtol=1e-5)
    assert np.array_equal(chunks.correct, expected.correct)
    assert np.array_equal(chunks.finite, expected.finite)
    without = setup.evaluate(losses=False)
    assert without.losses is None and np.array_equal(without.correct, expected.correct)


# --- capacity ---


def test_slots_are_given_out_lowest_first_and_taken_back():
    stack = Setup(lanes=[0]).stack
    assert (len(stack.state), stack.free) == (1, [])
    assert stack.acquire(3) == 1 and len(stack.state) == 4
    assert [stack.acquire(), stack.acquire()] == [2, 3]
    assert stack.acquire() == 4 and len(stack.state) == 8
    for slot in (2, 0, 3):
        stack.release(slot)
    assert [stack.acquire() for _ in range(4)] == [0, 2, 3, 5]


@pytest.mark.usefixtures("each_backend")
def test_growing_keeps_what_is_there():
    setup = Setup(batch_norm_network, "adam", lanes=[0, 1, 2], slots=[2, 0, 1])
    setup.train()
    setup.stack.snapshot(setup.slots)
    setup.stack.keep_best(setup.slots)
    stack, twin = setup.stack, copy.deepcopy(setup)
    width = len(stack.state)
    while len(stack.state) == width:
        stack.acquire(5)
    assert len(stack.state) == len(stack.ring.head) == len(stack.best) == len(stack.scale) > width
    for name in ("state", "best", "shift", "scale"):
        assert torch.equal(getattr(stack, name)[:width], getattr(twin.stack, name)[:width])
        assert not getattr(stack, name)[width:].any()
    assert torch.equal(stack.ring.rows[:width], twin.stack.ring.rows)
    assert_same_bits(setup.everything(), twin.everything())


def test_lanes_of_a_grown_stack_train_as_if_they_had_always_been_there():
    expected = Setup(lanes=[0, 1, 2]).everything()
    setup = Setup(lanes=[0])
    first = setup.train()
    slots = [setup.stack.acquire() for _ in range(2)]
    later = Setup(lanes=[1, 2])
    for slot, lane in zip(slots, later.lanes, strict=True):
        setup.stack.set_normalization(slot, lane.mean, lane.std)
    setup.stack.set_network(np.array(slots), np.stack([lane.row for lane in later.lanes]))
    later.stack, later.slots = setup.stack, np.array(slots)
    assert_same_bits([*first], [result[:1] for result in expected[:3]])
    assert_same_bits(later.everything(), of_lanes(expected, [1, 2]))


# --- best weights, copies, finiteness ---


@pytest.mark.usefixtures("each_backend")
def test_best_weights_are_kept_and_evaluated_with_their_buffers():
    setup = Setup(batch_norm_network, "adam", lanes=[0, 1, 2], slots=[4, 1, 2])
    setup.train()
    at_best = setup.evaluate()
    setup.stack.keep_best(setup.slots[:2])
    setup.train()
    now, best = setup.evaluate(), setup.evaluate(best=True)
    assert at_best.losses is not None and now.losses is not None and best.losses is not None
    assert best.losses[:2].tobytes() == at_best.losses[:2].tobytes()
    assert not np.array_equal(now.losses, at_best.losses)
    np.testing.assert_allclose(best.losses[2], np.log(10), rtol=1e-6)  # of no weights at all


@pytest.mark.usefixtures("each_backend")
def test_a_copied_slot_is_a_twin():
    setup = Setup(batch_norm_network, "adam", lanes=[0, 1, 2])
    for _ in range(3):
        setup.train()
        setup.stack.snapshot(setup.slots)
    setup.stack.keep_best(setup.slots)
    setup.stack.copy_slot(1, 2)
    setup.lanes[2] = setup.lanes[1]
    results = setup.everything()
    assert_same_bits(of_lanes(results, [1]), of_lanes(results, [2]))
    assert not np.array_equal(results[0][0], results[0][1])
    losses = setup.evaluate(best=True).losses
    assert losses is not None and losses[1].tobytes() == losses[2].tobytes()
    setup.stack.rewind(setup.slots, np.array([1, 1, 1]))
    assert torch.equal(setup.stack.state[1], setup.stack.state[2])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["parameter", "accumulator", "buffer"])
def test_whatever_is_not_finite_is_noticed(value: float, place: str):
    setup = Setup(batch_norm_network, "adam", lanes=[*range(5)])
    stack = setup.stack
    assert setup.train().finite.all()
    column = {"parameter": 3, "accumulator": stack.num_parameters + 5, "buffer": stack.buffers_start + 1}[
        place
    ]
    stack.state[3, column] = value
    assert setup.train().finite.tolist() == [True, True, True, False, True]


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("classifier", ["mlp-9", "linear", CNN((3, 4)), batch_norm_network])
def test_a_diverging_lane_leaves_the_others_alone_bit_for_bit(classifier: Any):
    lanes = [0, 1, 2, 3]
    expected = Setup(classifier, "momentum", lanes=lanes).everything()
    setup = Setup(classifier, "momentum", lanes=lanes)
    setup.lanes[2].rate = 1e38
    results = setup.everything()
    others = [0, 1, 3]
    assert_same_bits(of_lanes(results, others), of_lanes(expected, others))
    assert setup.train().finite.tolist() == [True, True, False, True]


def test_decayed_momentum_becomes_zero_before_it_is_denormal():
    setup = Setup(lanes=[0], backend="stacked")
    setup.stack.state[0, setup.stack.num_parameters :] = 1e-31
    setup.train()
    left = setup.stack.state[0, setup.stack.num_parameters :].abs()
    assert ((left == 0) | (left > 1e-30)).all() and (left > 1e-30).any()


@pytest.mark.parametrize("classifier, backend", [("mlp-9", "auto"), (CNN((3, 4)), "stacked")])
def test_stacks_can_be_copied_and_pickled(classifier: Any, backend: str):
    setup = Setup(classifier, lanes=[0, 1, 2], backend=backend)
    setup.train()
    duplicates = [copy.deepcopy(setup.stack), pickle.loads(pickle.dumps(setup.stack))]
    twins = [copy.copy(setup) for _ in duplicates]
    for twin, duplicate in zip(twins, duplicates, strict=True):
        twin.stack = duplicate
    expected = setup.everything()
    for twin in twins:
        assert_same_bits(twin.everything(), expected)


def test_a_stack_that_goes_on_by_another_backend_says_so(monkeypatch: pytest.MonkeyPatch):
    setup = Setup(lanes=[0, 1])
    saved, computed_by = pickle.dumps(setup.stack), setup.stack.engine.backend
    monkeypatch.setattr(stack, "make_engine", lambda a, o, _, *more: make_engine(a, o, "looped", *more))
    with pytest.warns(UserWarning, match=f"computed by the backend '{computed_by}' and go on by 'looped'"):
        setup.stack = pickle.loads(saved)
    assert setup.train().finite.all()


@pytest.mark.usefixtures("each_backend")
def test_normalization_per_channel():
    """Images are normalised as (image - mean) / std, by channel."""
    architecture = Architecture(as_classifier("linear"), (2, 1, 3), 2)
    stack = LaneStack(architecture, SGD(), 1, "auto", torch.float64, CPU)
    stack.acquire()
    mean, std = torch.tensor([0.3, -2.0]).view(2, 1, 1), torch.tensor([0.7, 3.0]).view(2, 1, 1)
    stack.set_normalization(0, mean, std)
    weights = np.random.default_rng(0).standard_normal(14).astype(np.float32)
    stack.set_network(np.array([0]), weights[None])
    pool = torch.rand(5, 6, dtype=torch.float64)
    indices, labels = np.array([[4, 0, 2]]), np.array([[1, 0, 1]])
    losses = stack.evaluate(pool, np.array([0]), indices, labels, losses=True).losses
    module = architecture.classifier.build((2, 1, 3), 2).double()
    state = {
        "1.weight": torch.from_numpy(weights[:12]).double().view(2, 6),
        "1.bias": torch.from_numpy(weights[12:]).double(),
    }
    images = (pool[indices[0]].view(3, 2, 1, 3) - mean.double()) / std.double()
    logits = functional_call(module, state, (images,))
    expected = F.cross_entropy(logits, torch.from_numpy(labels[0]), reduction="none")
    np.testing.assert_allclose(losses[0], expected.detach(), rtol=1e-13)  # type: ignore[index]
