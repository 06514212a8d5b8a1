"""Convolutional networks computed by compiled code: against torch in float64, and bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import CNN, as_classifier
from autotrain_env.training.engine import Evaluation, Trained
from autotrain_env.training.native.build import BuildError
from autotrain_env.training.native.engine import NativeEngine, why_not_native
from autotrain_env.training.native.library import best_library, instructions_here, load
from autotrain_env.training.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop
from autotrain_env.training.stack import LaneStack

CPU = torch.device("cpu")
NUM_IMAGES = 40
MOMENTUM = SGD(momentum=0.9)

pytestmark = pytest.mark.skipif(
    isinstance(best_library(), BuildError), reason=f"no compiled engine: {best_library()}"
)


@dataclass(frozen=True)
class Shape:
    """What networks are made of, and how many images they are given."""

    channels: tuple[int, ...] = (3, 5)
    image_shape: tuple[int, int, int] = (1, 8, 8)
    num_classes: int = 4
    batch_size: int = 7
    num_evaluated: int = 21

    @property
    def architecture(self) -> Architecture:
        return Architecture(CNN(self.channels), self.image_shape, self.num_classes)


SHAPES = [
    Shape(),
    Shape((1,), (1, 2, 2), 1, batch_size=1, num_evaluated=1),
    Shape((4,), (2, 9, 5), 3, batch_size=16),  # a row and a column are left by pooling
    Shape((7, 2, 6), (3, 11, 15), 5, batch_size=33, num_evaluated=64),
    Shape((6, 33), (3, 7, 4), 17, batch_size=18, num_evaluated=65),
    Shape((8, 16), (1, 28, 28), 10, batch_size=64, num_evaluated=100),
    Shape((2, 3, 2, 3, 2), (1, 32, 33), 2, batch_size=20),
    Shape((2,), (1, 3, 3), 1000, batch_size=5),
    Shape((16, 2), (1, 14, 14), 3, batch_size=3),  # planes of 4,096 bytes
]
RULES: list[Optimizer] = [
    *OPTIMIZERS.values(),
    SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    SGD(momentum=0.8, max_grad_norm=0.1),
    RMSprop(weight_decay=0.01, max_grad_norm=0.2),
    Adam(weight_decay=0.01, max_grad_norm=0.2),
    AdamW(weight_decay=0.1),
]


class Lanes:
    """Networks with the minibatches and images they are given; everything follows from a lane's number."""

    def __init__(
        self,
        shape: Shape,
        rule: Optimizer = MOMENTUM,
        *,
        lanes: tuple[int, ...] = (0, 1),
        instructions: str | None = None,
        backend: str = "native",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.architecture = shape.architecture
        self.stack = LaneStack(self.architecture, rule, 1, backend, dtype, CPU)
        if instructions is not None:
            self.stack.engine = NativeEngine(self.architecture, rule, load(instructions))
        self.slots = np.array([self.stack.acquire(len(lanes)) for _ in lanes])
        generators = [np.random.default_rng(lane) for lane in lanes]
        depth = shape.image_shape[0]
        for slot, lane in zip(self.slots.tolist(), lanes, strict=True):
            self.stack.set_normalization(
                slot, torch.full((depth,), 0.1 * lane), torch.linspace(1, 1.5, depth)
            )
        rows = [self.architecture.initial_row("kaiming_uniform", g) for g in generators]
        biases = [0.1 * g.standard_normal(len(row)) for g, row in zip(generators, rows, strict=True)]
        rows = [np.where(row == 0, bias, row) for row, bias in zip(rows, biases, strict=True)]
        self.stack.set_network(self.slots, np.stack(rows).astype(np.float32))
        generator = np.random.default_rng(99)
        images = generator.standard_normal((NUM_IMAGES, self.architecture.num_features))
        self.pool = torch.from_numpy(images).float().to(dtype)
        self.rates = np.array([0.02 * (1 + lane % 3) for lane in lanes])
        self.batches = np.stack([g.integers(NUM_IMAGES, size=(3, shape.batch_size)) for g in generators])
        self.evaluated = np.stack([g.integers(NUM_IMAGES, size=shape.num_evaluated) for g in generators])
        self.labels = generator.integers(shape.num_classes, size=NUM_IMAGES)

    def train(self, first: int = 0, count: int = 3) -> Trained:
        batches = self.batches[:, first : first + count]
        return self.stack.train(self.pool, self.slots, self.rates, batches, self.labels[batches])

    def evaluate(self, *, losses: bool = True) -> Evaluation:
        labels = self.labels[self.evaluated]
        return self.stack.evaluate(self.pool, self.slots, self.evaluated, labels, losses=losses)

    def rows(self) -> Tensor:
        return self.stack.state[torch.from_numpy(self.slots)].clone()

    def results(self) -> list[np.ndarray]:
        """Everything that training and evaluation give, one entry per lane."""
        trained, evaluation = self.train(), self.evaluate()
        assert evaluation.losses is not None
        return [*trained, evaluation.correct, evaluation.losses, evaluation.finite, self.rows().numpy()]


def assert_same_bits(left: list[np.ndarray], right: list[np.ndarray]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def assert_as_torch(shape: Shape, rule: Optimizer) -> None:
    """Compare single updates from the same state, and evaluations.

    Float32 against float64: losses differ by less than 1e-5 of their size, weights and accumulators by 2e-5
    of the largest of them.
    """
    native, exact = Lanes(shape, rule), Lanes(shape, rule, backend="looped", dtype=torch.float64)
    assert native.stack.engine.backend == "native"
    for update in range(3):
        exact.stack.state.copy_(native.stack.state)
        found, expected = native.train(update, 1), exact.train(update, 1)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.accuracies, expected.accuracies, atol=1e-12)
        assert found.finite.all()
        size = native.stack.num_parameters
        for start in range(0, native.stack.width, size):
            part = slice(start, start + size)
            wanted = exact.stack.state[:, part]
            bound = 2e-5 * wanted.abs().max().item() + 1e-12
            torch.testing.assert_close(
                native.stack.state[:, part].double(),
                wanted,
                rtol=0,
                atol=bound,
                msg=f"update {update}, {part}",
            )
    exact.stack.state.copy_(native.stack.state)
    measured, wanted_evaluation = native.evaluate(), exact.evaluate()
    assert measured.losses is not None and wanted_evaluation.losses is not None
    np.testing.assert_allclose(measured.losses, wanted_evaluation.losses, rtol=1e-5, atol=2e-5)
    assert np.array_equal(measured.correct, wanted_evaluation.correct)
    assert measured.finite.all()
    without = native.evaluate(losses=False)
    assert without.losses is None and np.array_equal(without.correct, measured.correct)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_trains_as_torch_does(shape: Shape):
    assert_as_torch(shape, MOMENTUM)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_trains_as_torch_does(rule: Optimizer):
    assert_as_torch(Shape((3, 6), (2, 10, 9), 4, batch_size=19), rule)


numbers = st.integers


@st.composite
def shapes(draw: Callable[..., Any]) -> Shape:
    """Any small network."""
    stages = draw(numbers(1, 3))
    side = numbers(2**stages, 2**stages + 9)
    return Shape(
        tuple(draw(st.lists(numbers(1, 12), min_size=stages, max_size=stages))),
        (draw(numbers(1, 4)), draw(side), draw(side)),
        draw(numbers(1, 20)),
        batch_size=draw(numbers(1, 50)),
        num_evaluated=draw(numbers(1, 80)),
    )


@settings(max_examples=40)
@given(shapes())
def test_any_shape_trains_as_torch_does(shape: Shape):
    assert_as_torch(shape, SGD(momentum=0.5, weight_decay=0.01))


# --- bits ---


@settings(max_examples=25)
@given(shapes(), st.sampled_from(RULES))
def test_bits_depend_neither_on_other_lanes_nor_on_the_width_of_vectors(shape: Shape, rule: Optimizer):
    together = Lanes(shape, rule, lanes=(0, 1, 2)).results()
    for instructions in instructions_here():
        alone = Lanes(shape, rule, lanes=(1,), instructions=instructions).results()
        assert_same_bits(alone, [result[1:2] for result in together])


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [SHAPES[3], SHAPES[5]], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(shape: Shape, set_num_threads: Callable[[int], None]):
    lanes = (0, 1, 2, 3, 4)
    expected = Lanes(shape, lanes=lanes).results()
    for threads in (2, 3):
        set_num_threads(threads)
        for instructions in instructions_here():
            assert_same_bits(Lanes(shape, lanes=lanes, instructions=instructions).results(), expected)


def test_updates_in_one_call_have_the_bits_of_single_ones():
    one, other = Lanes(SHAPES[3], Adam()), Lanes(SHAPES[3], Adam())
    one.train()
    for update in range(3):
        other.train(update, 1)
        other.evaluate()
    assert torch.equal(one.rows(), other.rows())


# --- pooling ---


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_pixels_share_a_gradient_as_torch_does(sign: int):
    """Images and kernels of a few whole numbers have exact sums, of which many are equal."""
    shape = Shape((4, 3), (1, 8, 9), 3, batch_size=20)
    generator = np.random.default_rng(0)
    native, exact = Lanes(shape), Lanes(shape, backend="looped", dtype=torch.float64)
    row = generator.integers(-1, 2, (2, native.stack.num_parameters)).astype(np.float32)
    images = torch.from_numpy(sign * generator.integers(0, 2, native.pool.shape))
    for lanes in (native, exact):
        lanes.stack.set_network(lanes.slots, row)
        for slot in lanes.slots.tolist():
            lanes.stack.set_normalization(slot, torch.zeros(1), torch.ones(1))
        lanes.pool = images.to(lanes.pool.dtype)
        lanes.train(0, 1)
    size = native.stack.num_parameters
    gradient = exact.stack.state[:, size : 2 * size]
    torch.testing.assert_close(
        native.stack.state[:, size:].double(), gradient, rtol=0, atol=1e-5 * gradient.abs().max().item()
    )


# --- numbers that are not finite ---


def put_into_weights(lanes: Lanes, tensor: str, value: float) -> None:
    """Put a number into the middle of a tensor of lane 1."""
    entry = next(e for e in lanes.architecture.parameter_layout.entries if e.name == tensor)
    lanes.stack.state[1, (entry.start + entry.stop) // 2] = value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("tensor", ["0.weight", "0.bias", "3.weight", "3.bias", "7.weight", "7.bias"])
def test_a_lane_that_diverges_does_so_as_in_torch_and_harms_no_other(tensor: str, value: float):
    shape = Shape((3, 5), (2, 9, 8), 4, batch_size=11)
    lanes = (0, 1, 2)
    undisturbed = Lanes(shape, lanes=lanes).results()
    native, looped = Lanes(shape, lanes=lanes), Lanes(shape, lanes=lanes, backend="looped")
    for each in (native, looped):
        put_into_weights(each, tensor, value)
    found, expected = native.results(), looped.results()
    others = [0, 2]
    assert_same_bits([part[others] for part in found], [part[others] for part in undisturbed])
    losses, _, finite = found[:3]
    expected_losses, _, expected_finite = expected[:3]
    assert np.array_equal(finite, expected_finite)
    assert finite[1] <= np.isfinite(value)
    assert np.array_equal(np.isfinite(losses[1]), np.isfinite(expected_losses[1]))
    assert np.array_equal(found[5][1], expected[5][1])  # whether the largest logits are finite
    # What a thread leaves behind is not seen by the next one.
    assert_same_bits(Lanes(shape, lanes=lanes).results(), undisturbed)


@pytest.mark.parametrize("rule", [SGD(), MOMENTUM, RMSprop(), Adam()], ids=str)
def test_rates_of_any_size_end_in_numbers_that_are_not_finite_without_harm(rule: Optimizer):
    shape = Shape((3, 5), (2, 9, 8), 4, batch_size=19)
    lanes = (0, 1, 2)
    undisturbed = Lanes(shape, rule, lanes=lanes).results()
    native = Lanes(shape, rule, lanes=lanes)
    native.rates[1] = 1e30
    found = native.results()
    assert_same_bits([part[[0, 2]] for part in found], [part[[0, 2]] for part in undisturbed])
    assert found[2].tolist() == [True, False, True]


def test_an_image_that_is_not_finite_spoils_only_what_sees_it():
    """Places that are left in a group of 16 images take part in nothing."""
    shape = Shape(batch_size=7, num_evaluated=21)
    lanes = Lanes(shape)
    clean = lanes.evaluate()
    lanes.pool[int(lanes.evaluated[0, 20])] = torch.nan
    spoiled = lanes.evaluate()
    assert clean.losses is not None and spoiled.losses is not None
    sees = lanes.evaluated == lanes.evaluated[0, 20]
    assert np.array_equal(spoiled.finite, ~sees)
    assert np.array_equal(np.isnan(spoiled.losses), sees)
    assert np.array_equal(spoiled.losses[~sees], clean.losses[~sees])


# --- what is computed by compiled code ---


def test_the_packages_cnn_is_computed_by_compiled_code_in_float32_on_a_cpu():
    shape = Shape()
    assert why_not_native(shape.architecture, MOMENTUM, torch.float32, CPU) is None
    for backend, dtype, expected in [
        ("auto", torch.float32, "native"),
        ("native", torch.float32, "native"),
        ("looped", torch.float32, "looped"),
        ("auto", torch.float64, "looped"),
    ]:
        stack = LaneStack(shape.architecture, MOMENTUM, 1, backend, dtype, CPU)
        assert stack.engine.backend == expected


def test_a_module_of_the_users_is_not():
    def factory() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))

    class Larger(CNN):
        """A description that may build something else."""

    for classifier in (as_classifier(factory), Larger((3, 5))):
        architecture = Architecture(classifier, (1, 8, 8), 4)
        reason = why_not_native(architecture, MOMENTUM, torch.float32, CPU)
        assert reason is not None and "CNN" in reason


def test_memory_of_one_shape_serves_the_next():
    """Each thread keeps its room from job to job: other shapes between change nothing."""
    first = Lanes(SHAPES[3]).results()
    for shape in (SHAPES[5], SHAPES[1], replace(SHAPES[3], batch_size=34)):
        Lanes(shape).results()
        assert_same_bits(Lanes(SHAPES[3]).results(), first)
