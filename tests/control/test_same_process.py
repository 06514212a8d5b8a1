"""A plain loop over the very task of an environment's episode: the same decisions, the same weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotrain_env import SGD, AutoTrainConfig, AutoTrainCore, Controller, RandomAgent, load_policy
from autotrain_env.data.sampling import EpochSampler
from autotrain_env.process.episodes import Episode, stream
from autotrain_env.training.initialization import schemes_for_rows
from tests.helpers import assert_same, tiny

LANE = np.array([0])
DIVERGING = (0.2, 1.0, 1.8, 1e80)


class Momentum(torch.optim.Optimizer):
    """Momentum with the environment's own rounding, which is not that of `torch.optim.SGD`."""

    def __init__(self, parameters: Any, lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, momentum = (
                torch.tensor(value, dtype=torch.float64) for value in (-group["lr"], group["momentum"])
            )
            for parameter in group["params"]:
                state = self.state[parameter]
                velocity = state.get("velocity", torch.zeros_like(parameter))
                state["velocity"] = torch.addcmul(parameter.grad, velocity, momentum)
                parameter.addcmul_(state["velocity"], rate)


def network() -> nn.Module:
    """A network with buffers."""
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))


class Episodes:
    """An episode in the core, and all that somebody with a loop of their own needs to play it, too."""

    def __init__(self, seed: int, policy: Any, **arguments: Any) -> None:
        self.config = AutoTrainConfig(**arguments, dtype="float64", backend="looped")
        self.core = AutoTrainCore(self.config, 1)
        self.policy = policy
        self.core.reset(LANE, [seed])
        self.episode: Episode = self.core.stacks.episode(0)
        self.weights: list[dict[str, np.ndarray]] = []
        self.rows: list[np.ndarray] = []

    def play(self) -> Any:
        core = self.core
        self.policy.reset(core.situation(), np.ones(1, bool))
        while core.lanes.running[0]:
            core.step(self.policy.decide(core.situation()))
            self.keep()
        return core.history.of(0)

    def keep(self) -> None:
        named = self.core.stacks.weights_of(0)
        self.weights.append({name: tensor.numpy() for name, tensor in named.items()})
        self.rows.append(self.core.lineage.rows[0].copy())

    # --- the same by hand ---

    def images(self, index: np.ndarray) -> Tensor:
        dataset, split = self.episode.dataset, self.episode.split
        scale = 1 / split.std.double().flatten()
        flat = dataset.images[torch.from_numpy(index.astype(np.int64))].double().flatten(1)
        pixels = flat.shape[1] // len(scale)
        shift = -split.mean.double().flatten() * scale
        images = flat * scale.repeat_interleave(pixels) + shift.repeat_interleave(pixels)
        return images.reshape(-1, *self.episode.architecture.image_shape)

    def minibatches(self) -> Iterator[tuple[Tensor, Tensor]]:
        split, size = self.episode.split, self.episode.batch_size
        sampler = EpochSampler(1)
        sampler.begin(0, stream(self.episode.seed, "minibatches"), np.arange(len(split.train_index)))
        while True:
            drawn = sampler.draw(LANE, size)[0]
            yield self.images(split.train_index[drawn]), torch.from_numpy(split.train_labels[drawn])

    def drawn(self, count: int, attempt: int) -> list[np.ndarray]:
        generator = stream(self.episode.seed, "initialization", attempt)
        schemes = schemes_for_rows(self.episode.task.initialization, count)
        return [self.episode.architecture.initial_row(scheme, generator) for scheme in schemes]

    def networks(self) -> Iterator[np.ndarray]:
        """Those that the environment draws, in the order in which it puts them in."""
        rows = self.config.num_snapshots
        yield from reversed(self.drawn(rows, 0)[1:])
        attempt = 1
        while True:
            yield from reversed(self.drawn(max(1, rows - 1), attempt))
            attempt += 1

    def controller(self, make_optimizer: Any) -> Controller:
        split = self.episode.split
        model = self.episode.architecture.classifier.build(
            self.episode.architecture.image_shape, self.episode.architecture.num_classes
        ).double()
        load_row(model, self.drawn(1, 0)[0])
        coming = self.networks()
        subset = split.train_subset
        names = (
            "num_snapshots",
            "history_length",
            "lr_bounds",
            "lr_factors",
            "annealing",
            "observation_layout",
            "score",
            "metrics",
            "keep_before_divergence",
        )
        task = self.episode.task
        epoch = len(split.train_index) / self.episode.batch_size
        holdout = (self.images(split.holdout_index), torch.from_numpy(split.holdout_labels))
        train = (self.images(split.train_index[subset]), torch.from_numpy(split.train_labels[subset]))
        return Controller(
            model,
            make_optimizer(model.parameters(), task.initial_learning_rate),
            task.budget,
            policy=self.policy,
            holdout=None if task.measured == "nothing" else holdout,
            train=train if task.measured == "train_and_holdout" else None,
            decisions=task.budget // self.config.inner_steps,
            num_classes=self.episode.dataset.num_classes,
            updates_per_epoch=epoch if task.epochs_known else None,
            reinit=(lambda plain: load_row(plain, next(coming))) if task.can_reinit else None,
            seed=self.episode.seed,
            **{name: getattr(self.config, name) for name in (*names, "score")},
        )


def load_row(model: nn.Module, numbers: np.ndarray) -> None:
    start = 0
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            stop = start + tensor.numel()
            tensor.copy_(torch.from_numpy(numbers[start:stop]).view_as(tensor))
            start = stop
    assert start == len(numbers)


def train(controller: Controller, minibatches: Iterator[Any]) -> list[dict[str, np.ndarray]]:
    """A loop as users write it; returns the weights at every decision, those carried out included."""
    model, optimizer = controller.model, controller.optimizer
    found = []
    while not controller.over:
        images, labels = next(minibatches)
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels, reduction="none").mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = len(controller.history["updates"])
        controller.step(loss, logits, labels)
        if len(controller.history["updates"]) > before:
            found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def assert_same_history(found: Any, expected: Any) -> None:
    for name in expected:
        if name not in ("score", "reward"):  # the controller has no images to be paid for
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def momentum(parameters: Any, rate: float) -> torch.optim.Optimizer:
    return Momentum(parameters, rate, 0.9)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_random_decisions_end_in_the_same_weights(seed: int, kept: bool):
    arguments = tiny(
        classifier=network,
        lr_factors=DIVERGING,
        lr_bounds=(1e-4, 1e200),
        budget=48,
        optimizer=SGD(momentum=0.9),
        num_snapshots=3,
        keep_before_divergence=kept,
    )
    episodes = Episodes(seed, RandomAgent(seed), **arguments)
    expected = episodes.play()
    controller = episodes.controller(momentum)
    train(controller, episodes.minibatches())
    assert_same_history(controller.history, expected)
    np.testing.assert_array_equal(controller.situation().rows[0], episodes.rows[-1])
    if not expected["diverged"][-1]:
        for name, weights in episodes.weights[-1].items():
            found = controller.model.state_dict()[name].numpy().astype(weights.dtype)
            assert_same(found, weights, name)


def test_all_that_can_happen_did_happen():
    """In the episodes above."""
    happened = dict.fromkeys(("rewind", "reinit", "stop", "diverged"), 0)
    arguments = tiny(classifier=network, lr_factors=DIVERGING, lr_bounds=(1e-4, 1e200), budget=48)
    for seed in range(20):
        history = Episodes(seed, RandomAgent(seed), **arguments).play()
        for name in happened:
            happened[name] += int(np.count_nonzero(history[name]))
    assert min(happened.values()) >= 5, happened


@pytest.mark.parametrize("seed", range(3))
def test_a_trained_policy_decides_the_same(seed: int):
    episodes = Episodes(
        seed,
        load_policy("many"),
        observation_layout="flat",
        classifier="mlp-16",
        optimizer=SGD(momentum=0.9),
    )
    expected = episodes.play()
    controller = episodes.controller(momentum)
    train(controller, episodes.minibatches())
    assert_same_history(controller.history, expected)
    for name, weights in episodes.weights[-1].items():
        assert_same(controller.model.state_dict()[name].numpy(), weights, name)
    assert np.count_nonzero(expected["rewind"]) and len(set(expected["action"])) > 3


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p, rate: torch.optim.SGD(p, rate)),
        ("momentum", lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9)),
        ("rmsprop", lambda p, rate: torch.optim.RMSprop(p, rate)),
        ("adam", lambda p, rate: torch.optim.Adam(p, rate)),
        ("adamw", lambda p, rate: torch.optim.AdamW(p, rate)),
    ],
)
def test_optimisers_of_torch_do_the_same_but_for_rounding(name: str, make: Any):
    arguments = tiny(optimizer=name, initial_learning_rate=0.01, lr_bounds=(1e-4, 0.02), budget=40)
    for seed in range(3):
        episodes = Episodes(seed, RandomAgent(seed), **arguments)
        expected = episodes.play()
        controller = episodes.controller(make)
        train(controller, episodes.minibatches())
        assert list(controller.history["action"]) == list(expected["action"])
        np.testing.assert_allclose(controller.history["loss"], expected["loss"], rtol=1e-6)
        for key, weights in episodes.weights[-1].items():
            np.testing.assert_allclose(controller.model.state_dict()[key], weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("can_reinit", [True, False])
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
@pytest.mark.parametrize("measured", ["train_and_holdout", "holdout", "nothing"])
def test_runs_that_lack_something(measured: str, score: str, can_reinit: bool):
    lacking = {"measured": measured, "can_reinit": can_reinit, "metrics": "epochs", "score": score}
    for seed in range(4):
        lacking["keep_before_divergence"] = seed % 2 == 0
        lacking["epochs_known"] = seed < 2
        arguments = tiny(optimizer=SGD(momentum=0.9), budget=40, lr_factors=DIVERGING, **lacking)
        episodes = Episodes(seed, RandomAgent(seed), **arguments)
        expected = episodes.play()
        controller = episodes.controller(momentum)
        train(controller, episodes.minibatches())
        assert list(controller.history["action"]) == list(expected["action"])
        for name in ("train_score", "holdout_answer", "loss"):
            np.testing.assert_allclose(controller.history[name], expected[name], rtol=1e-12)
        np.testing.assert_allclose(controller.situation().rows[0], episodes.rows[-1], atol=1e-6)
        assert can_reinit or not expected["reinit"].any()


def test_rates_that_fall_by_themselves():
    arguments = tiny(optimizer=SGD(momentum=0.9), budget=40, annealing="linear", metrics="movement")
    for seed in range(3):
        episodes = Episodes(seed, RandomAgent(seed), **arguments)
        expected = episodes.play()
        assert not {*expected["lr_factor"][1:]} & {0.2, 0.8, 1.2, 1.8}
        controller = episodes.controller(momentum)
        train(controller, episodes.minibatches())
        assert_same_history(controller.history, expected)


@pytest.mark.parametrize("score", ["neg_log_loss", "balanced_accuracy"])
def test_other_scores(score: str):
    episodes = Episodes(5, RandomAgent(5), **tiny(score=score, optimizer=SGD(momentum=0.9), budget=40))
    expected = episodes.play()
    controller = episodes.controller(momentum)
    train(controller, episodes.minibatches())
    assert_same_history(controller.history, expected)
