"""Users' modules that can be trained, and those that cannot: said when the environment is made."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.helpers import tiny


def dense(*layers: nn.Module) -> nn.Module:
    """A network for `tiny`'s images with some layers of 8 units in it."""
    return nn.Sequential(nn.Linear(8, 8), *layers, nn.Linear(8, 4))


class Net(nn.Module):
    """Two layers, put together as a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.compute = forward

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


class Transformer(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, None]).squeeze(1))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.to(torch.complex64)).abs()


class Experts(nn.Module):
    """Each image goes to one of four: two images leave two without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, :4].argmax(1)
        logits = x.new_zeros(len(x), 4)
        for number, expert in enumerate(self.experts):
            at = (chosen == number).nonzero()[:, 0]
            if len(at):
                logits = logits.index_copy(0, at, expert(x[at]))
        return logits


def without_gradients(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.b(net.a(x))


def in_place(net: Any, x: Tensor) -> Tensor:
    return net.b(net.a(x)).exp().add_(1)


def materialised() -> nn.Module:
    network = nn.Sequential(nn.LazyLinear(4))
    network(torch.zeros(1, 8))
    return network


def half_frozen() -> nn.Module:
    network = dense()
    network[0].requires_grad_(False)
    return network


ALLOWED: dict[str, Callable[[], nn.Module]] = {
    "Dropout(0)": lambda: dense(nn.Dropout(0.0)),
    "AlphaDropout(0)": lambda: dense(nn.AlphaDropout(0.0), nn.FeatureAlphaDropout(0)),
    "Dropout1d(0)": lambda: dense(nn.Dropout1d(0.0)),
    "TransformerEncoderLayer(dropout=0)": lambda: Transformer(0.0),
    "LazyLinear that was called": materialised,
    "frozen layer": half_frozen,
    "logits and more in evaluation mode only": lambda: Net(lambda net, x: net.b(net.a(x))),
    "LayerNorm": lambda: dense(nn.LayerNorm(8)),
    "experts": Experts,
}


@pytest.mark.parametrize("backend", ["looped", "stacked"])
@pytest.mark.parametrize("name", ALLOWED)
def test_modules_that_can_be_trained(name: str, backend: str):
    if (name, backend) == ("experts", "stacked"):
        pytest.skip("torch.func.vmap cannot send images different ways")
    env = gymnasium.make("AutoTrain-v0", **tiny(classifier=ALLOWED[name], backend=backend)).unwrapped
    env.reset(seed=0)
    for _ in range(6):
        *_, info = env.step(2)
    assert info["updates"] == 24 and not info["diverged"]


def test_dropout_of_nothing_changes_nothing():
    results = []
    for factory in (lambda: dense(nn.Dropout(0.0)), lambda: dense(nn.Identity())):
        env = gymnasium.make("AutoTrain-v0", **tiny(classifier=factory))
        results.append([env.reset(seed=3)[0], *(env.step(2)[0] for _ in range(6))])
    np.testing.assert_array_equal(results[0], results[1])


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Dropout(0.5)": (lambda: dense(nn.Dropout(0.5)), r"layer '1' is Dropout.*a probability of 0 is"),
    "TransformerEncoderLayer": (lambda: Transformer(0.1), r"layer 'layer.dropout' is .*probability of 0"),
    "unused parameter": (
        lambda: Net(lambda net, x: net.b(net.a(x)), spare=nn.Linear(3, 3)),
        r"no gradient reaches 'spare.weight', 'spare.bias'; .*remove them, or freeze them",
    ),
    "parameter for evaluation alone": (
        lambda: Net(lambda net, x: net.b(x) if net.training else net.b(net.a(x))),
        r"no gradient reaches 'a.weight', 'a.bias'",
    ),
    "detached": (lambda: Net(lambda net, x: net.b(net.a(x).detach())), r"no gradient reaches 'a.weight'"),
    "no_grad": (lambda: Net(without_gradients), r"no gradient flows.*'a.weight'.*torch.no_grad"),
    "argmax": (
        lambda: Net(lambda net, x: nn.functional.one_hot(net.b(net.a(x)).argmax(1), 4).float()),
        r"no gradient flows.*argmax",
    ),
    "tuple in training": (
        lambda: Net(lambda net, x: (net.b(net.a(x)),) * 2 if net.training else net.b(net.a(x))),
        r"returns a tuple in training mode.*aux_logits=False",
    ),
    "dict in training": (
        lambda: Net(lambda net, x: {"logits": net.b(net.a(x))} if net.training else net.b(net.a(x))),
        r"returns a dict in training mode",
    ),
    "shape in training": (
        lambda: Net(lambda net, x: net.b(net.a(x))[:, :3] if net.training else net.b(net.a(x))),
        r"returns shape \(2, 3\) of 2 images in training mode; expected \(2, 4\)",
    ),
    "in place": (lambda: Net(in_place), r"the backward pass fails; operations in place"),
    "error in training": (
        lambda: Net(lambda net, x: net.b(x[:, :3]) if net.training else net.b(net.a(x))),
        r"(does not|cannot) take images of shape \(8,\)",
    ),
    "LazyLinear": (lambda: nn.Sequential(nn.LazyLinear(4)), r"'0.weight' has no shape yet.*nn.Linear"),
    "LazyBatchNorm1d": (lambda: dense(nn.LazyBatchNorm1d()), r"'1.weight' has no shape yet"),
    "DataParallel": (lambda: nn.DataParallel(dense()), r"the network is a DataParallel; return the module"),
    "DataParallel inside": (
        lambda: dense(nn.DataParallel(nn.Linear(8, 8))),
        r"layer '1' is a DataParallel",
    ),
    "double": (lambda: dense().double(), r"parameter '0.weight' is torch.float64.*\.float\(\).*dtype="),
    "double inside": (
        lambda: Net(lambda net, x: net.b(net.a(x)) + net.c(x.double()), c=nn.Linear(8, 4).double()),
        r"parameter 'c.weight' is torch.float64",
    ),
    "half": (lambda: dense().half(), r"parameter '0.weight' is torch.float16"),
    "bfloat16": (lambda: dense().bfloat16(), r"parameter '0.weight' is torch.bfloat16"),
    "float8": (lambda: dense().to(torch.float8_e4m3fn), r"parameter '0.weight' is torch.float8"),
    "complex": (Complex, r"parameter 'inner.weight' is torch.complex64.*torch.view_as_real"),
    "another device": (lambda: dense().to("meta"), r"parameter '0.weight' lies on device 'meta'.*device="),
    "TorchScript": (lambda: torch.jit.script(dense()), r"compiled by TorchScript"),
}


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize("name", REFUSED)
def test_modules_that_cannot_be_trained_are_refused_at_once(make: Any, name: str):
    factory, message = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValueError, match=f"classifier.*{message}"):
            make("AutoTrain-v0", **tiny(classifier=factory))


NORMS = [lambda: dense(nn.BatchNorm1d(8))]


@pytest.mark.parametrize("factory", NORMS)
def test_batch_normalisation_needs_two_images(factory: Callable[[], nn.Module]):
    for kwargs in ({"batch_size": 1}, {"train_size": 5}):  # which makes batches of one
        with pytest.raises(ValueError, match="batch_size=1: classifier=.*batch normalisation needs two"):
            gymnasium.make("AutoTrain-v0", **tiny(batch_size=None, classifier=factory) | kwargs)
    env = gymnasium.make("AutoTrain-v0", **tiny(classifier=factory, batch_size=2))
    env.reset(seed=0)
    env.step(2)
    task = env.unwrapped.core.task(0)
    before = env.unwrapped.core.observation().copy()
    with pytest.raises(ValueError, match="batch_size=1"):
        env.reset(options={"task": dataclasses.replace(task, batch_size=1)})
    np.testing.assert_array_equal(env.unwrapped.core.observation(), before)


def test_a_built_in_network_that_needs_two_images():
    kwargs = {"dataset": "digits", "classifier": "resnet18", "budget": 20}
    with pytest.raises(ValueError, match="batch_size=1: classifier=ResNet18"):
        gymnasium.make("AutoTrain-v0", batch_size=1, **kwargs)


def test_the_passes_leave_no_trace():
    """Neither in the global generator nor in running statistics."""
    state = torch.get_rng_state()
    env = gymnasium.make("AutoTrain-v0", **tiny(classifier=NORMS[0], batch_size=4)).unwrapped
    assert torch.equal(torch.get_rng_state(), state)
    env.reset(seed=0)
    (architecture,) = env.core.maker._architectures.values()
    assert not architecture.template[1].running_mean.any()
