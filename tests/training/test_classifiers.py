"""Architectures, initialisations, and n networks side by side against one network in torch."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from autotrain_env import AutoTrainVectorEnv
from autotrain_env.errors import InvalidTypeError
from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import CNN, MLP, Classifier, Custom, ResNet18, as_classifier
from autotrain_env.training.engine import make_engine
from autotrain_env.training.initialization import INITIALIZATIONS, initialization_names, schemes_for_rows
from autotrain_env.training.layout import Layout
from autotrain_env.training.networks import (
    LoopedNetwork,
    Network,
    StackedMLP,
    VmapNetwork,
    log_loss,
    make_network,
)
from autotrain_env.training.optimizers import OPTIMIZERS
from tests.helpers import reference, tiny

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def norms() -> nn.Module:
    """Every kind of parameter and buffer that initialisation has to tell apart."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 3, 3, bias=False),
        nn.GroupNorm(1, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3 * 16, 6),
        nn.BatchNorm1d(6, affine=False),
        nn.PReLU(),
        nn.Linear(6, 10),
    )


def smooth() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 10))


def architecture(
    classifier: Any, image_shape: tuple[int, ...] = (1, 8, 8), num_classes: int = 10
) -> Architecture:
    return Architecture(as_classifier(classifier), image_shape, num_classes)


# --- names ---


@pytest.mark.parametrize(
    "name, expected",
    [
        ("linear", MLP(())),
        ("mlp", MLP((32,))),
        ("mlp-7", MLP((7,))),
        ("mlp-200-100-50", MLP((200, 100, 50))),
        ("cnn", CNN((16, 32))),
        ("resnet18", ResNet18()),
    ],
)
def test_names_of_classifiers(name: str, expected: Classifier):
    assert as_classifier(name) == expected
    assert hash(as_classifier(name)) == hash(expected)


def test_what_else_stands_for_a_classifier():
    network = CNN((3, 4))
    assert as_classifier(network) is network
    assert as_classifier(norms) == Custom(norms) and as_classifier(norms) != as_classifier(smooth)
    assert MLP([4, 5]) == MLP((4, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["mlp-", "mlp-0", "mlp-3-", "mlp--3", "mlp-03", "mlp-a", "MLP", "ResNet18"]
)
def test_unknown_names_of_classifiers(name: str):
    with pytest.raises(ValueError, match=f"classifier='{name}'.*nearest known one is"):
        as_classifier(name)


@pytest.mark.parametrize("classifier", [None, 3, ("mlp",), nn.Linear(3, 2)])
def test_what_does_not_stand_for_a_classifier(classifier: Any):
    with pytest.raises(
        TypeError, match="classifier=.*must be a name, an autotrain_env.Classifier or a func"
    ):
        as_classifier(classifier)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: MLP((3, 0)), r"hidden_sizes=\(3, 0\)"),
        (lambda: MLP((2.5,)), r"hidden_sizes=\(2.5,\)"),  # type: ignore[arg-type]
        (lambda: CNN(()), r"channels=\(\)"),
        (lambda: CNN((-1,)), r"channels=\(-1,\)"),
    ],
)
def test_sizes_that_are_not_allowed(make: Callable[[], Classifier], named: str):
    with pytest.raises(ValueError, match=f"^{named} is not allowed"):
        make()


# --- shapes ---


@pytest.mark.parametrize(
    "classifier, image_shape, expected",
    [
        ("linear", (6,), reference.mlp()),
        ("linear", (3, 4, 5), reference.mlp()),
        ("mlp-9-4", (1, 8, 8), reference.mlp(9, 4)),
        (CNN((3, 5)), (3, 9, 6), reference.cnn(3, 5)),
        ("resnet18", (3, 8, 8), reference.resnet18),
    ],
)
def test_networks_have_the_shapes_and_outputs_of_the_oracle(
    classifier: Any, image_shape: tuple[int, ...], expected: reference.NetworkMaker
):
    """The same numbers in the same order give the same logits."""
    arch = architecture(classifier, image_shape, 4)
    theirs = expected(image_shape, 4).eval()
    assert arch.parameter_layout.size == sum(p.numel() for p in theirs.parameters())
    assert arch.buffer_layout.size == sum(b.numel() for b in theirs.buffers())
    row = torch.from_numpy(arch.initial_row("kaiming_normal", np.random.default_rng(0)))
    tensors = [*theirs.parameters(), *theirs.buffers()]
    images = torch.randn(3, *image_shape)
    features = images.reshape(1, 3, -1)
    with torch.no_grad():
        for tensor, part in zip(tensors, row.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))
        parameters, buffers = row[None].split([arch.parameter_layout.size, arch.buffer_layout.size], dim=1)
        for backend in ("stacked", "looped"):
            network = make_network(arch, backend, torch.float32, CPU)
            logits = network.logits(parameters, buffers, features)
            assert logits.shape == (1, 4, 3)
            torch.testing.assert_close(logits[0].T, theirs(images), rtol=1e-4, atol=1e-4)


def test_convolutions_need_images():
    for classifier in ("cnn", "resnet18"):
        with pytest.raises(ValueError, match=r"needs images \(channels, height, width\).*shape \(64,\)"):
            architecture(classifier, (64,))
    with pytest.raises(ValueError, match=r"channels=\(4, 4, 4\).*at most 2 stages for images of 4x9"):
        architecture(CNN((4, 4, 4)), (1, 4, 9))


# --- initialisation ---

SHAPES = {"linear": (300, 200), "convolution": (60, 40, 3, 5)}
TORCH_INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "kaiming_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "lecun_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    "zero_last_layer": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("scheme", INITIALIZATIONS)
def test_initial_weights_are_distributed_as_torch_draws_them(scheme: str, shape: tuple[int, ...]):
    ours = INITIALIZATIONS[scheme](shape, np.random.default_rng(0))
    assert ours.shape == shape and ours.dtype == np.float32
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = TORCH_INITIALIZATIONS[scheme](torch.empty(shape)).numpy()
    deviation = theirs.std()
    assert abs(ours.mean()) < 0.02 * deviation
    assert ours.std() == pytest.approx(deviation, rel=0.01)
    levels = np.linspace(0.02, 0.98, 33)
    difference = np.quantile(ours, levels) - np.quantile(theirs, levels)
    assert np.abs(difference).max() < 0.05 * deviation  # standard error at most 0.02
    if "uniform" in scheme or scheme == "zero_last_layer":  # bounded, and the bound is the same
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)


@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (7, 7), (6, 2, 3, 3), (40, 2, 3, 3)])
def test_orthogonal_weights_are_orthogonal(shape: tuple[int, ...]):
    weights = INITIALIZATIONS["orthogonal"](shape, np.random.default_rng(0)).reshape(shape[0], -1)
    gram = weights @ weights.T if weights.shape[0] <= weights.shape[1] else weights.T @ weights
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-6)


def test_orthogonal_weights_are_uniform_over_rotations():
    """Householder's signs, uncorrected, would make the diagonal mostly negative."""
    generator = np.random.default_rng(0)
    drawn = np.stack([INITIALIZATIONS["orthogonal"]((3, 3), generator) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.04)  # standard error 0.009
    np.testing.assert_allclose(drawn.var(0), 1 / 3, atol=0.04)
    assert abs((np.linalg.det(drawn) > 0).mean() - 0.5) < 0.04


@pytest.mark.parametrize("scheme", INITIALIZATIONS)
def test_biases_norms_and_buffers_start_as_they_should(scheme: str):
    arch = architecture(norms)
    row = torch.from_numpy(arch.initial_row(scheme, np.random.default_rng(0)))
    entries = arch.parameter_layout.split(row[: arch.parameter_layout.size])
    entries |= arch.buffer_layout.split(row[arch.parameter_layout.size :])
    own = norms().state_dict()
    assert list(entries) == [name for name, _ in norms().named_parameters()] + [
        name for name, _ in norms().named_buffers()
    ]
    weights = {"0.weight", "2.weight", "6.weight", "9.weight"}
    for name, values in entries.items():
        assert values.shape == own[name].shape
        if name in weights:
            zero = scheme == "zero_last_layer" and name == "9.weight"
            assert bool((values == 0).all()) == zero
        elif name in {"0.bias", "6.bias", "9.bias"}:
            assert bool((values == 0).all())
        else:
            assert torch.equal(values, own[name].float())  # 1, 0, 0, 1, 0.25 …


def test_the_modules_own_initialization():
    arch = architecture(smooth)
    first, again, other = (
        arch.initial_row("module_default", np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    bias = arch.parameter_layout.entries[1]
    assert bias.name == "1.bias" and np.all(first[bias.start : bias.stop] != 0)
    weight = first[: arch.parameter_layout.entries[0].stop]
    assert 0.12 < np.abs(weight).max() <= 0.125  # 1 / sqrt(64)


def test_networks_follow_from_the_stream_alone():
    arch = architecture("mlp-5")
    for scheme in initialization_names():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            state = torch.get_rng_state()
            one = arch.initial_row(scheme, np.random.default_rng(3))
            assert torch.equal(torch.get_rng_state(), state)
            torch.manual_seed(1)
            architecture("mlp-5")
            for backend in ("stacked", "looped"):
                make_network(arch, backend, torch.float32, CPU)
            assert torch.equal(torch.get_rng_state(), torch.random.manual_seed(1).get_state())
            assert np.array_equal(arch.initial_row(scheme, np.random.default_rng(3)), one)
        generator = np.random.default_rng(3)
        assert np.array_equal(arch.initial_row(scheme, generator), one)
        assert not np.array_equal(arch.initial_row(scheme, generator), one)


def test_rows_at_reset_are_of_different_schemes():
    assert schemes_for_rows("orthogonal", 1) == ["orthogonal"]
    assert tuple(schemes_for_rows("kaiming_uniform", 7)) == reference.SCHEMES
    for scheme in initialization_names():
        schemes = schemes_for_rows(scheme, 20)
        assert schemes[0] == scheme and scheme not in schemes[1:] and len(schemes) == 20
        assert len(set(schemes[:7])) == 7
        assert "module_default" not in schemes[1:]


# --- losses and gradients ---


def problem(
    arch: Architecture, lanes: int, batch_size: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parameters, buffers, images (n, B, features), labels (n, B)."""
    generator = np.random.default_rng(seed)
    schemes = [scheme for scheme in INITIALIZATIONS if scheme != "zero_last_layer"]
    rows = np.stack([arch.initial_row(schemes[i % len(schemes)], generator) for i in range(lanes)])
    rows[:, : arch.parameter_layout.size] += 0.1 * generator.standard_normal(
        (lanes, arch.parameter_layout.size)
    )
    parameters, buffers = torch.from_numpy(rows).to(dtype).tensor_split([arch.parameter_layout.size], dim=1)
    images = torch.from_numpy(generator.standard_normal((lanes, batch_size, arch.num_features)))
    labels = torch.from_numpy(generator.integers(0, arch.num_classes, (lanes, batch_size)))
    return parameters.contiguous(), buffers.contiguous(), images.to(dtype), labels


def by_autograd(
    arch: Architecture,
    module: nn.Module,
    parameters: Tensor,
    buffers: Tensor,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses, hits, gradients and new buffers of one lane, as anybody would compute them."""
    named = arch.parameter_layout.split(parameters)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in named.items()}
    state = {name: tensor.clone() for name, tensor in arch.buffer_layout.split(buffers).items()}
    logits = functional_call(module, leaves | state, (images.reshape(-1, *arch.image_shape),))
    losses = F.cross_entropy(logits, labels, reduction="none")
    losses.mean().backward()
    gradient = torch.cat([leaf.grad.flatten() for leaf in leaves.values()])  # type: ignore[union-attr]
    new_buffers = torch.cat([images.new_zeros(0), *(buffer.flatten() for buffer in state.values())])
    return losses.detach(), logits.argmax(1) == labels, gradient, new_buffers


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": ("linear", (1, 8, 8)),
    "linear on features": ("linear", (6,)),
    "mlp": ("mlp-9", (3, 4, 5)),
    "deeper mlp": ("mlp-7-1-6", (1, 8, 8)),
    "cnn": (CNN((3, 4)), (1, 8, 8)),
    "norms": (norms, (1, 8, 8)),
    "smooth": (smooth, (1, 8, 8)),
}


@pytest.mark.parametrize("backend", ["stacked", "looped"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("decay", [None, torch.tensor([[0.9], [0.0], [0.98], [0.5], [0.1]]).double()])
def test_gradients_are_those_of_autograd(name: str, backend: str, decay: Tensor | None):
    classifier, image_shape = NETWORKS[name]
    arch = architecture(classifier, image_shape)
    network = make_network(arch, backend, torch.float64, CPU)
    module = arch.classifier.build(image_shape, 10).double().train()
    parameters, buffers, images, labels = problem(arch, 5, 12)
    # In one tensor, as a lane's state is; what was in the gradients counts only with a decay.
    rows = torch.cat((parameters, buffers), dim=1)
    old = torch.full_like(parameters, torch.nan) if decay is None else torch.randn_like(parameters)
    gradients = old.clone()
    bound = network.bind(rows[:, : parameters.shape[1]], rows[:, parameters.shape[1] :], gradients)
    losses, hits = network.backward(bound, images, labels, decay)
    assert hits.dtype == torch.bool and losses.shape == hits.shape == (5, 12)
    assert torch.equal(rows[:, : parameters.shape[1]], parameters)
    for lane in range(5):
        expected = by_autograd(arch, module, parameters[lane], buffers[lane], images[lane], labels[lane])
        torch.testing.assert_close(losses[lane], expected[0], rtol=1e-11, atol=1e-12)
        assert torch.equal(hits[lane], expected[1])
        gradient = expected[2] if decay is None else expected[2] + decay[lane] * old[lane]
        torch.testing.assert_close(gradients[lane], gradient, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(rows[lane, parameters.shape[1] :], expected[3], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["cnn", "norms", "smooth"])
def test_looped_and_stacked_modules_agree_over_several_updates(name: str):
    """Gradient steps and evaluations in turn: buffers included, train and evaluation mode apart."""
    arch = architecture(*NETWORKS[name])
    parameters, buffers, images, labels = problem(arch, 4, 9)
    ends = []
    for kind in (LoopedNetwork, VmapNetwork):
        network = kind(arch, torch.float64, CPU)
        rows = torch.cat((parameters, buffers), dim=1)
        ours, state = rows.tensor_split([parameters.shape[1]], dim=1)
        gradients, logits = torch.zeros_like(ours), []
        for _ in range(4):
            network.backward(network.bind(ours, state, gradients), images, labels, None)
            ours.sub_(gradients, alpha=0.05)
            logits.append(network.logits(ours, state, images))
            assert not rows.requires_grad
        ends.append((rows, torch.stack(logits)))
    assert not torch.equal(ends[0][0][:, : parameters.shape[1]], parameters)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-10)
    if name == "norms":
        counter = arch.buffer_layout.split(ends[0][0][:, parameters.shape[1] :])["1.num_batches_tracked"]
        assert torch.equal(counter, torch.full((4,), 4.0).double())


def test_evaluation_mode_uses_running_statistics_and_changes_nothing():
    arch = architecture(norms)
    parameters, buffers, images, _ = problem(arch, 3, 6)
    buffers += torch.rand_like(buffers)
    for kind in (LoopedNetwork, VmapNetwork):
        network = kind(arch, torch.float64, CPU)
        before = parameters.clone(), buffers.clone()
        together = network.logits(parameters, buffers, images)
        assert torch.equal(parameters, before[0]) and torch.equal(buffers, before[1])
        for image in range(6):  # one image at a time: the batch has no influence
            alone = network.logits(parameters, buffers, images[:, image : image + 1])
            torch.testing.assert_close(alone, together[:, :, image : image + 1], rtol=1e-10, atol=1e-12)


def test_of_equal_logits_the_first_counts():
    arch = architecture("linear", (4,), 3)
    images, labels = torch.ones(1, 3, 4), torch.tensor([[0, 1, 2]])
    for backend in ("stacked", "looped"):
        network = make_network(arch, backend, torch.float32, CPU)
        rows = torch.zeros(1, arch.parameter_layout.size)
        bound = network.bind(rows, rows[:, :0], torch.empty_like(rows))
        losses, hits = network.backward(bound, images, labels, None)
        assert hits.tolist() == [[True, False, False]]
        np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)


def test_log_loss_of_extreme_logits():
    logits = torch.tensor([[[1e30, 3.0, -1e30], [0.0, 3.0, 0.0]]])  # (n, C, B)
    losses = log_loss(torch.log_softmax(logits, 1), torch.tensor([[0, 1, 1]]))
    np.testing.assert_allclose(losses, [[0, np.log(2), 0]], atol=1e-6)


# --- bits ---

ODD_SIZES = {
    # hidden sizes, image shape, classes: numbers of parameters that no vector unit divides
    "tiny": ((5,), (1, 3, 3), 3),
    "digits": ((32,), (1, 8, 8), 10),
    "two layers": ((17, 13), (3, 4, 5), 7),
    "linear": ((), (1, 8, 8), 3),
    "large": ((51,), (1, 28, 28), 10),
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More threads than lanes share products out in ways that change bits; `LaneStack` sees to that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("batch_size", "dtype"), [(7, torch.float32), (33, torch.float64), (64, torch.float32)]
)
@pytest.mark.parametrize("name", ODD_SIZES)
def test_bits_of_a_perceptron_do_not_depend_on_the_others(name: str, batch_size: int, dtype: torch.dtype):
    """Losses, gradients and logits of 1, 2, 5 lanes are those that the lanes have among 33."""
    hidden_sizes, image_shape, num_classes = ODD_SIZES[name]
    arch = architecture(MLP(hidden_sizes), image_shape, num_classes)
    assert arch.parameter_layout.size % 16 != 0
    network = make_network(arch, "auto", dtype, CPU)
    assert isinstance(network, StackedMLP)
    parameters, buffers, images, labels = problem(arch, 33, batch_size, dtype)

    def run(lanes: list[int]) -> list[Tensor]:
        results = []
        for decay in (None, torch.full((len(lanes), 1), 0.9, dtype=dtype)):
            gradients = torch.ones(len(lanes), parameters.shape[1], dtype=dtype)
            bound = network.bind(parameters[lanes], buffers[lanes], gradients)
            results += [*network.backward(bound, images[lanes], labels[lanes], decay), gradients]
        return [*results, network.logits(parameters[lanes], buffers[lanes], images[lanes])]

    everything = run([*range(33)])
    for lanes in ([0], [32], [3, 4], [7, 30, 1, 12, 2]):
        for alone, among_others in zip(run(lanes), everything, strict=True):
            assert torch.equal(alone, among_others[lanes])


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_bits_of_small_perceptrons_do_not_depend_on_threads(num_threads: int):
    """With no more threads than lanes, as `LaneStack` has it, no lane's product is split among threads."""
    arch = architecture("mlp")
    network = make_network(arch, "auto", torch.float32, CPU)
    threads = torch.get_num_threads()
    for batch_size in (7, 16, 33, 64, 100):
        parameters, buffers, images, labels = problem(arch, 33, batch_size, torch.float32)
        ends = []
        try:
            for count, lanes in ((1, 33), (num_threads, 33), (num_threads, 1), (num_threads, 5)):
                torch.set_num_threads(min(count, lanes))
                gradients = torch.empty_like(parameters[:lanes])
                bound = network.bind(parameters[:lanes], buffers[:lanes], gradients)
                losses, _ = network.backward(bound, images[:lanes], labels[:lanes], None)
                ends.append((losses, gradients))
        finally:
            torch.set_num_threads(threads)
        for losses, gradients in ends[1:]:
            assert torch.equal(losses, ends[0][0][: len(losses)])
            assert torch.equal(gradients, ends[0][1][: len(losses)])


# --- choice of backend ---


@pytest.mark.parametrize(
    "classifier, backend, kind",
    [
        ("mlp", "auto", StackedMLP),
        ("mlp", "stacked", StackedMLP),
        ("mlp", "looped", LoopedNetwork),
        ("linear", "auto", StackedMLP),
        ("cnn", "auto", LoopedNetwork),
        ("cnn", "stacked", VmapNetwork),
        (smooth, "auto", LoopedNetwork),
        (smooth, "stacked", VmapNetwork),
    ],
)
def test_backends(classifier: Any, backend: str, kind: type[Network]):
    network = make_network(architecture(classifier), backend, torch.float32, CPU)
    assert type(network) is kind
    assert network.lanes_per_block(64, CPU) >= 1
    with pytest.raises(ValueError, match="backend='vectorized'.*nearest known one is"):
        make_engine(architecture(classifier), OPTIMIZERS["adam"], "vectorized", torch.float32, CPU)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
@pytest.mark.parametrize(
    "classifier, backend", [("mlp-5", "auto"), ("cnn", "looped"), ("cnn", "stacked"), (smooth, "stacked")]
)
def test_networks_can_be_copied_and_pickled(classifier: Any, backend: str, duplicate: Any):
    arch = architecture(classifier)
    network = make_network(arch, backend, torch.float32, CPU)
    parameters, buffers, images, labels = problem(arch, 2, 5, torch.float32)
    results = []
    for one in (network, duplicate(network)):
        gradients = torch.empty_like(parameters)
        losses, _ = one.backward(one.bind(parameters, buffers, gradients), images, labels, None)
        results.append((losses, gradients, one.logits(parameters, buffers, images)))
    for left, right in zip(*results, strict=True):
        assert torch.equal(left, right)


# --- a user's factory ---


class Switching:
    """Makes another network at every call."""

    def __init__(self, *makers: Callable[[], Any]) -> None:
        self.makers, self.calls = makers, 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.makers[self.calls % len(self.makers)]()


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x.flatten(1)), x


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x.flatten(1))
        return y + torch.randn_like(y) if self.training else y


def head(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    "factory, error, message",
    [
        (lambda: "mlp", TypeError, "classifier: the factory returned 'mlp', not a torch.nn.Module"),
        (lambda: None, TypeError, "classifier: the factory returned None, not a torch.nn.Module"),
        (
            lambda: head(nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 10)),
            ValueError,
            r"classifier: layer '2' is Dropout\(p=0.5.*draw random numbers",
        ),
        (
            lambda: head(nn.Linear(64, 8), nn.AlphaDropout(0.5), nn.Linear(8, 10)),
            ValueError,
            "classifier: layer '2' is AlphaDropout",
        ),
        (lambda: head(nn.Linear(64, 10), nn.RReLU()), ValueError, "classifier.*random numbers"),
        (OwnNoise, ValueError, "classifier.*random numbers"),
        (
            lambda: head(nn.Linear(64, 9)),
            ValueError,
            r"returns shape \(2, 9\) for 2 images; expected",
        ),
        (lambda: nn.Linear(8, 10), ValueError, r"returns shape \(2, 1, 8, 10\) for 2 images"),
        (lambda: head(nn.Linear(63, 10)), ValueError, r"does not take images of shape \(1, 8, 8\)"),
        (lambda: nn.BatchNorm1d(8), ValueError, r"does not take images of shape \(1, 8, 8\)"),
        (TwoHeads, ValueError, r"classifier=.*returns shape <class 'tuple'> for 2 images; expected"),
        (nn.Flatten, ValueError, "classifier=.*a network with parameters"),
        (
            Switching(lambda: head(nn.Linear(64, 10)), lambda: head(nn.Linear(64, 10, bias=False))),
            ValueError,
            r"two networks it made differ in shape: .*\(10, 64\)",
        ),
    ],
)
def test_factories_that_are_refused(factory: Callable[[], Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        architecture(factory)


def test_a_factory_that_changes_later_is_noticed():
    first, later = (lambda: head(nn.Linear(64, 10))), (lambda: head(nn.Linear(64, 4), nn.Linear(4, 10)))
    arch = architecture(Switching(*(first,) * 6, later))
    with pytest.raises(ValueError, match="two networks it made differ in shape"):
        arch.initial_row("module_default", np.random.default_rng(0))


def test_looking_at_a_factory_leaves_no_trace():
    """The template keeps its mode and buffers; the layout names what training changes."""
    arch = architecture(norms)
    assert arch.template.training
    for name, buffer in arch.template.named_buffers():
        assert torch.equal(buffer, norms().get_buffer(name))
    assert Layout.of_module(norms()) == (arch.parameter_layout, arch.buffer_layout)
    assert list(arch.buffer_layout.names) == [name for name, _ in norms().named_buffers()]


def test_threads_build_networks_at_once():
    """They share the global random streams, which are seeded for each."""
    expected = architecture(norms).initial_row("module_default", np.random.default_rng(0))

    def build(_: int) -> np.ndarray:
        return architecture(norms).initial_row("module_default", np.random.default_rng(0))

    with ThreadPoolExecutor(4) as pool:
        for row in pool.map(build, range(24)):
            assert np.array_equal(row, expected)


CONTINUE = """
import pickle, sys
import numpy as np
from autotrain_env import AutoTrainVectorEnv
from tests.helpers import tiny

with open(sys.argv[1], "rb") as file:
    state = pickle.load(file)
task = state["core"]["stacks"].episodes[0].task
env = AutoTrainVectorEnv(2, **tiny(classifier=task.classifier))
env.load_state_dict(state)
print([env.step(np.array([2, 1]))[1].tolist() for _ in range(3)])
"""


def test_a_state_with_a_lambda_as_classifier_pickles(tmp_path: Path):
    """Another process goes on with it bit for bit; the README's example has such a classifier."""
    width = 7
    env = AutoTrainVectorEnv(
        2, **tiny(classifier=lambda: nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)))
    )
    env.reset(seed=0)
    env.step(np.array([0, 4]))
    (tmp_path / "state").write_bytes(pickle.dumps(env.state_dict()))
    wanted = [env.step(np.array([2, 1]))[1].tolist() for _ in range(3)]
    command = [sys.executable, "-c", CONTINUE, str(tmp_path / "state")]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(wanted)
    assert pickle.loads(pickle.dumps(Custom(nn.Identity))) == Custom(nn.Identity)
    same = Custom(lambda: nn.Linear(8, 4))
    assert copy.deepcopy(same) is same


def test_a_classifier_that_cannot_be_pickled_says_so(tmp_path: Path):
    with (tmp_path / "file").open("w") as file:
        env = AutoTrainVectorEnv(1, **tiny(classifier=lambda: [file.name] and nn.Linear(8, 4)))
        env.reset(seed=0)
        with pytest.raises(InvalidTypeError, match=r"classifier=.*lambda.* cannot be pickled: .*files"):
            pickle.dumps(env.state_dict())
