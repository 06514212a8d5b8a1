"""Users' networks: what they hold belongs to a lane, or they are refused; frozen and given weights stay."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotrain_env import AutoTrainVectorEnv, Dataset, load_dataset
from tests.helpers import assert_same

generator = np.random.default_rng(0)
LABELS = np.arange(800) % 4
IMAGES = 2 * generator.standard_normal((4, 16))[LABELS] + generator.standard_normal((800, 16))
CLONES = itertools.count()


class Net(nn.Module):
    """A small network; its kinds hold something more, and use it on the images or on the hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 8), nn.Linear(8, 4)
        self.hold()

    def hold(self) -> None:
        """Keep something."""

    def images(self, x: Tensor) -> Tensor:
        return x

    def hidden(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(F.relu(self.first(self.images(x.flatten(1))))))


def kind(
    hold: Callable[[Any], Any] = lambda self: None,
    images: Callable[[Any, Tensor], Tensor] = lambda self, x: x,
    hidden: Callable[[Any, Tensor], Tensor] = lambda self, h: h,
) -> type[Net]:
    """Make a kind of network."""
    return type("Kind", (Net,), {"hold": hold, "images": images, "hidden": hidden})


def buffer(make: Callable[[], Tensor], persistent: bool = True) -> Callable[[Any], Any]:
    return lambda self: self.register_buffer("state", make(), persistent=persistent)


def plain(make: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda self: setattr(self, "state", make())


def ordered(self: Any, x: Tensor) -> Tensor:
    return x[:, self.state]


def weighted(self: Any, x: Tensor) -> Tensor:
    return x * self.state


def count_updates(self: Any, h: Tensor) -> Tensor:
    if self.training:
        self.state += 1
    return h * (1 + 0.05 * self.state)


def count_calls(self: Any, h: Tensor) -> Tensor:
    self.state += 1
    return h * (1 + 0.02 * self.state)


def count_anew(self: Any, h: Tensor) -> Tensor:
    if self.training:
        self.state = (self.state + 1) % 7
    return h * (1 + 0.1 * self.state)


def mean_anew(self: Any, h: Tensor) -> Tensor:
    if self.training:
        self.state = 0.9 * self.state + 0.1 * h.mean(0)
    return h - self.state.detach()


def shuffled() -> Tensor:
    numbers = list(range(16))
    random.shuffle(numbers)
    return torch.tensor(numbers)


def minus_infinity_above() -> Tensor:
    return torch.triu(torch.full((8, 8), -torch.inf), 1)


def frozen_order(self: Any) -> None:
    self.state = nn.Parameter(torch.randperm(16), requires_grad=False)


def normalisation(self: Any) -> None:
    self.state = nn.BatchNorm1d(8)


def weight_norm(self: Any) -> None:
    self.first = nn.utils.parametrizations.weight_norm(self.first)


def tied(self: Any) -> None:
    self.state = nn.Linear(16, 8)
    self.state.weight = self.first.weight


OF_A_LANE: dict[str, type[Net]] = {
    "an order": kind(buffer(lambda: torch.randperm(16)), ordered),
    "an order of two": kind(
        buffer(lambda: torch.randperm(2)), lambda self, x: x.view(-1, 2, 8)[:, self.state].flatten(1)
    ),
    "an order that is not persistent": kind(buffer(lambda: torch.randperm(16), False), ordered),
    "an order by numpy": kind(buffer(lambda: torch.from_numpy(np.random.permutation(16))), ordered),
    "an order by Python": kind(buffer(shuffled), ordered),
    "an order as a parameter": kind(frozen_order, ordered),
    "a mask": kind(buffer(lambda: torch.rand(16) < 0.5), weighted),
    "weights": kind(buffer(lambda: torch.randn(16)), weighted),
    "weights that are not persistent": kind(buffer(lambda: torch.randn(16), False), weighted),
    "a counter of updates": kind(buffer(lambda: torch.zeros((), dtype=torch.int64)), hidden=count_updates),
    "a counter of calls": kind(buffer(lambda: torch.zeros((), dtype=torch.int64)), hidden=count_calls),
    "a counter made anew": kind(buffer(lambda: torch.zeros(1, dtype=torch.int8)), hidden=count_anew),
    "a mean made anew": kind(buffer(lambda: torch.zeros(8)), hidden=mean_anew),
    "minus infinity": kind(
        buffer(minus_infinity_above), hidden=lambda self, h: h @ torch.softmax(self.state, 1)
    ),
    "batch normalisation": kind(normalisation, hidden=lambda self, h: self.state(h)),
    "weight normalisation": kind(weight_norm),
    "tied weights": kind(tied, hidden=lambda self, h: h + self.state.bias),
}


def in_closure(self: Any) -> None:
    order = torch.randperm(16)
    self.function = lambda x: x[:, order]


def generator_of_its_own(self: Any) -> None:
    self.state = torch.Generator().manual_seed(0)


def frozen_but_changing(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.state.weight.lerp_(self.first.weight, 0.1)
    return x


def remembering(self: Any, h: Tensor) -> Tensor:
    self.state = h.detach()
    return h


def seen_once(self: Any, h: Tensor) -> Tensor:
    self.state = True
    return h


def growing(self: Any, h: Tensor) -> Tensor:
    if self.training:
        self.state = torch.cat((self.state, h[:1].detach()))
    return h


def infinite_at_random() -> Tensor:
    mask = torch.zeros(8)
    mask[torch.randperm(8)[:3]] = -torch.inf
    return mask


DIFFER = "two networks that it made differ in '{}', which is neither a parameter nor a finite buffer"
CHANGES = "its network changes '{}' while it computes"
RANDOM = "draws random numbers"
ONE_SEED = "two networks that it made with one seed differ in '{}'"
REFUSED: dict[str, tuple[type[Net], str]] = {
    "an order": (kind(plain(lambda: torch.randperm(16)), ordered), DIFFER.format("state")),
    "an order by numpy": (kind(plain(lambda: np.random.permutation(16)), ordered), DIFFER.format("state")),
    "an order without a seed": (
        kind(buffer(lambda: torch.from_numpy(np.random.default_rng().permutation(16))), ordered),
        ONE_SEED.format("state"),
    ),
    "the number of the network": (
        kind(buffer(lambda: torch.tensor(float(next(CLONES)))), weighted),
        ONE_SEED.format("state"),
    ),
    "a mask": (kind(plain(lambda: torch.rand(16) < 0.5), weighted), DIFFER.format("state")),
    "a number": (kind(plain(lambda: float(torch.rand(()))), weighted), DIFFER.format("state")),
    "weights in a list": (
        kind(plain(lambda: [torch.rand(16)]), lambda self, x: x * self.state[0]),
        DIFFER.format(r"state\[0\]"),
    ),
    "weights in a dictionary": (
        kind(plain(lambda: {1: torch.rand(16)}), lambda self, x: x * self.state[1]),
        DIFFER.format(r"state\[1\]"),
    ),
    "a layer in a list": (
        kind(plain(lambda: [nn.Linear(16, 16)]), lambda self, x: self.state[0](x)),
        DIFFER.format(r"state\[0\].weight', 'state\[0\].bias"),
    ),
    "an order in a closure": (
        kind(in_closure, lambda self, x: self.function(x)),
        DIFFER.format("function.order"),
    ),
    "a mask of minus infinity": (
        kind(buffer(infinite_at_random), hidden=lambda self, h: h * torch.softmax(self.state, 0)),
        DIFFER.format("state"),
    ),
    "a counter": (kind(plain(lambda: 0), hidden=count_updates), CHANGES.format("state")),
    "a counter that matters late": (
        kind(
            plain(lambda: 0),
            hidden=lambda self, h: count_updates(self, h) * 0 + (h if self.state < 99 else -h),
        ),
        CHANGES.format("state"),
    ),
    "the last units": (kind(plain(lambda: None), hidden=remembering), CHANGES.format("state")),
    "a flag": (kind(plain(lambda: False), hidden=seen_once), CHANGES.format("state")),
    "a frozen layer that changes": (
        kind(
            lambda self: setattr(self, "state", nn.Linear(16, 8).requires_grad_(False)), frozen_but_changing
        ),
        CHANGES.format("state.weight"),
    ),
    "a buffer that grows": (
        kind(buffer(lambda: torch.zeros(0, 8)), hidden=growing),
        r"makes another tensor of buffer 'state'.*\(0, 8\).*\(1, 8\)",
    ),
    "large whole numbers": (
        kind(
            buffer(lambda: torch.randint(2**40, 2**41, (8,))), hidden=lambda self, h: h * (self.state % 2)
        ),
        "'state' holds whole numbers of at most 24 bits, as float32",
    ),
    "complex numbers": (
        kind(buffer(lambda: torch.ones(16, dtype=torch.complex64)), lambda self, x: (x * self.state).real),
        "'state' is complex",
    ),
    "noise of numpy": (
        kind(hidden=lambda self, h: h * float(1 + np.random.rand()) if self.training else h),
        RANDOM,
    ),
    "noise of Python": (
        kind(hidden=lambda self, h: h * (1 + random.random()) if self.training else h),
        RANDOM,
    ),
    "noise in evaluation": (
        kind(hidden=lambda self, h: h if self.training else h + torch.randn_like(h)),
        RANDOM,
    ),
    "noise of its own": (
        kind(generator_of_its_own, hidden=lambda self, h: h + torch.randn(8, generator=self.state)),
        CHANGES.format("state"),
    ),
    "a global counter": (
        kind(hidden=lambda self, h: h * (1 + 0.1 * next(CLONES))),
        "compute different logits with the same parameters and buffers",
    ),
    "a global counter in training": (
        kind(hidden=lambda self, h: h * (1 + 0.1 * next(CLONES)) if self.training else h),
        "computes something else the second time",
    ),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset((IMAGES.astype(np.float32), LABELS))


def play(
    data: Dataset, classifier: Any, num_envs: int = 1, **kwargs: Any
) -> tuple[AutoTrainVectorEnv, list[np.ndarray], dict[str, Any]]:
    """Play four env steps; other lanes do something else. Returns what the first lane showed, too."""
    arguments: dict[str, Any] = {
        "dataset": data,
        "classifier": classifier,
        "batch_size": 16,
        "inner_steps": 10,
        "budget": 40,
        "num_snapshots": 3,
        "initial_learning_rate": 0.05,
        "thresholdout": False,
        "autoreset_mode": "Disabled",
    }
    env = AutoTrainVectorEnv(num_envs, **arguments | kwargs)
    shown = [env.reset(seed=3)[0][0]]
    for action in (2, 7, 2, 2):  # one of them rewinds
        actions = (action + np.arange(num_envs)) % 5
        actions[0] = action
        observations, _, _, _, info = env.step(actions)
        shown.append(observations[0])
    return env, shown, info


def accuracy(network: nn.Module, data: Dataset) -> float:
    with torch.no_grad():
        predicted = network(data.images[data.pool_size :]).argmax(1).numpy()
    return float((predicted == data.labels[data.pool_size :]).mean())


@pytest.mark.parametrize("backend", ["looped", "stacked"])
@pytest.mark.parametrize(
    "initialization", ["kaiming_uniform", pytest.param("module_default", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", OF_A_LANE)
def test_what_a_network_holds_belongs_to_its_lane(
    data: Dataset, name: str, initialization: str, backend: str
):
    arguments = {"initialization": initialization, "backend": backend}
    env, shown, info = play(data, OF_A_LANE[name], **arguments)
    for best, key in ((False, "test_accuracy"), (True, "best_holdout_test_accuracy")):
        assert accuracy(env.network(0, best=best), data) == pytest.approx(info[key][0], abs=1 / 160)
    assert not info["diverged"].any()
    torch.rand(3), np.random.rand(3), random.random()  # another state of the global streams
    assert_same(play(data, OF_A_LANE[name], **arguments)[1], shown)
    among_others = play(data, OF_A_LANE[name], 3, **arguments)[1]
    np.testing.assert_allclose(among_others, shown, atol=1e-6 if backend == "looped" else 1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_belong_to_a_lane_is_refused(data: Dataset, name: str):
    factory, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        AutoTrainVectorEnv(2, dataset=data, classifier=factory)


def test_what_differs_by_chance_alone_is_noticed_later(data: Dataset):
    """The first networks hold the same; that a later one does not is seen when it is made."""
    values = iter([0.0] * 6 + [1.0] * 100)
    env = AutoTrainVectorEnv(
        1,
        dataset=data,
        classifier=kind(plain(lambda: next(values)), weighted),
        initialization="module_default",
    )
    env.reset(seed=0)
    with pytest.raises(ValueError, match=DIFFER.format("state")):
        for _ in range(5):
            env.reset()


@pytest.mark.parametrize("backend", ["looped", "stacked"])
def test_evaluation_writes_nothing(data: Dataset, backend: str):
    """A counter of calls counts updates alone: how often a lane is measured must not matter."""
    env, _, _ = play(data, OF_A_LANE["a counter of calls"], backend=backend)
    assert env.core.stacks.weights_of(0)["state"].item() == 40 - 10  # a rewind took ten back


# --- images as the data set was given them ---


def as_bytes() -> np.ndarray:
    return np.clip(IMAGES * 25 + 128, 0, 255).astype(np.uint8)


GIVEN: dict[str, Callable[[], np.ndarray]] = {
    "bytes": as_bytes,
    "floats of bytes": lambda: as_bytes().astype(np.float64),
    "whole numbers of bytes": lambda: as_bytes().astype(np.int64),
    "floats from 0 to 1": lambda: as_bytes() / 255,
}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", GIVEN)
def test_a_network_takes_images_as_the_data_set_was_given_them(name: str, shared: bool):
    given = GIVEN[name]()
    handle = load_dataset((given, LABELS))
    if shared:  # as another process has it
        make, *arguments = handle.__reduce__()[1]
        handle = make(*arguments)
    env, _, info = play(handle, "mlp-8")
    order = [np.flatnonzero((handle.images.numpy() == row).all(1))[0] for row in _as_held(given[:100])]
    network = env.network(0)
    with torch.no_grad():
        expected = network(handle.images[torch.tensor(order)])
        found = network(torch.from_numpy(given[:100]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32 and info["test_accuracy"][0] > 0.8
    if given.dtype != np.uint8:
        with pytest.raises(TypeError, match="images are bytes, but those that this network was trained on"):
            network(torch.from_numpy(as_bytes()))
    else:
        with pytest.raises(
            TypeError, match="torch.int64, but those that .* were bytes: give bytes, or floats"
        ):
            network(torch.from_numpy(given.astype(np.int64)))


def _as_held(images: np.ndarray) -> np.ndarray:
    return (torch.from_numpy(images).float() / (255 if images.dtype == np.uint8 else 1)).numpy()


# --- frozen and given weights ---


class Pretrained(nn.Module):
    """A part that was trained before, in evaluation mode, and a new last layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.body = nn.Sequential(nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Tanh())
        self.body[1].running_mean.fill_(0.3)
        self.body.requires_grad_(False).eval()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
@pytest.mark.parametrize("backend", ["looped", "stacked"])
@pytest.mark.parametrize("initialization", ["kaiming_uniform", "zero_last_layer", "module_default"])
def test_frozen_layers_stay_as_they_are(data: Dataset, initialization: str, backend: str, optimizer: str):
    arguments = {"initialization": initialization, "backend": backend, "optimizer": optimizer}
    env, _, info = play(data, Pretrained, 2, rewind_noise=0.1, **arguments)
    for lane in range(2):
        network = env.network(lane).classifier
        for name, tensor in Pretrained().body.state_dict().items():
            assert torch.equal(network.body.state_dict()[name], tensor), name
        assert not network.body[0].weight.requires_grad and network.head.weight.requires_grad
    assert not torch.equal(env.network(0).classifier.head.weight, env.network(1).classifier.head.weight)
    assert info["test_accuracy"].min() > 0.6
    stack = next(iter(env.core.stacks.stacks.values()))
    assert stack.architecture.parameter_layout.names == ("head.weight", "head.bias")


def test_random_frozen_layers_differ_from_lane_to_lane(data: Dataset):
    def factory() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 8).requires_grad_(False), nn.ReLU(), nn.Linear(8, 4))

    env, _, _ = play(data, factory, 2, initialization="module_default")
    first, second = (env.network(lane).classifier[0].weight for lane in range(2))
    assert not torch.equal(first, second)


def test_a_network_with_nothing_to_train_is_refused(data: Dataset):
    with pytest.raises(ValueError, match="a network with parameters, of which not all are frozen"):
        AutoTrainVectorEnv(1, dataset=data, classifier=lambda: nn.Linear(16, 4).requires_grad_(False))


@pytest.mark.parametrize("copied", [True, False])
def test_weights_of_a_given_network_are_kept_where_asked(data: Dataset, copied: bool):
    given = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    before = copy.deepcopy(given.state_dict())
    env = AutoTrainVectorEnv(
        2,
        dataset=data,
        classifier=(lambda: copy.deepcopy(given)) if copied else (lambda: given),
        initialization="module_default",
        autoreset_mode="Disabled",
        dtype="float64",
        budget=40,
    )
    env.reset(seed=0)
    for lane in range(2):
        assert_same(dict(env.network(lane).classifier.state_dict()), dict(before))
    env.step(np.array([2, 2]))
    assert not torch.equal(env.network(0).classifier[0].weight, before["0.weight"])
    assert_same(dict(given.state_dict()), dict(before))
    env.step(np.array([20, 20]))  # re-init: the given weights again
    env.reset()
    assert_same(dict(env.network(0).classifier.state_dict()), dict(before))


def test_parts_in_evaluation_mode_keep_it_and_others_train(data: Dataset):
    env, _, _ = play(data, Pretrained)
    stack = next(iter(env.core.stacks.stacks.values()))
    module = stack.architecture.set_training(copy.deepcopy(stack.architecture.template))
    assert module.training and module.head.training and not module.body[1].training
    whole = stack.architecture.template.eval()  # made in evaluation mode as a whole: that is no wish
    assert all(part.training for part in stack.architecture.set_training(whole).modules())
