"""What a user meets: loops of every kind, rewinds, the best weights, the summary."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from autotrain_env import (
    Controller,
    Cosine,
    Decisions,
    RandomAgent,
    ReduceOnPlateau,
    load_policy,
    plot_log,
    read_log,
)
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.stacked import make_spec, policy_layout, single_policy
from autotrain_env.process.situation import Situation
from tests.helpers import assert_same
from tests.helpers.loops import FEATURES, loaders, network, problem, run, update

SMALL: dict[str, Any] = {"decisions": 8, "history_length": 2, "num_snapshots": 3}


class Script:
    """A policy that does what it is told, one decision after another; then it goes on as it is."""

    def __init__(self, *steps: dict[str, Any]) -> None:
        self.steps = steps
        self.seen: list[Situation] = []

    def reset(self, situation: Situation, lanes: np.ndarray) -> None:
        self.seen = []

    def decide(self, situation: Situation) -> Decisions:
        number = len(self.seen)
        self.seen.append(situation)
        given = self.steps[number] if number < len(self.steps) else {}
        decisions = Decisions.scale(np.array([given.get("factor", 1.0)]))
        decisions.rewind[0] = given.get("rewind", 0)
        decisions.reinit[0] = given.get("reinit", False)
        decisions.stop[0] = given.get("stop", False)
        return decisions


def controlled(policy: Any = None, total: int = 64, **arguments: Any) -> tuple[Controller, Any]:
    """A controller of a small network, and a loader to train with."""
    train, holdout = loaders()
    model = arguments.pop("model", None) or network()
    make = arguments.pop("optimizer", lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    arguments = SMALL | {"holdout": holdout, "policy": policy or Script()} | arguments
    return Controller(model, make(model.parameters()), total, **arguments), train


# --- the loop ---


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("snapshots", ["device", "cpu"])
def test_on_any_device(device: str, snapshots: str):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    train, holdout = loaders()
    model = network().to(device)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    script = Script({}, {"rewind": 1}, {"factor": 0.5}, {"rewind": 2})
    there = [(inputs.to(device), labels.to(device)) for inputs, labels in holdout]
    controller = Controller(
        model, optimizer, 64, holdout=there, policy=script, snapshots=snapshots, **SMALL
    )
    for inputs, labels in controller.batches(train):
        controller.step(*update(model, optimizer, (inputs.to(device), labels.to(device))))
    assert controller.updates == 64 and np.count_nonzero(controller.history["rewind"]) == 2
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(tensor.device.type == device for tensor in kept.values())
    assert set(controller.best()) == set(kept)


def test_the_shipped_policy_trains_a_network():
    train, holdout = loaders()
    model = network()
    controller = Controller(
        model, torch.optim.SGD(model.parameters(), 0.1), 600, holdout=holdout, train=train
    )
    run(controller, train)
    assert controller.over and (controller.updates == 600 or controller.stopped)
    assert controller.plan.decisions == 30 and controller.config.inner_steps == 20
    assert controller.history["holdout_answer"][-1] > 0.6
    assert "real_runs" in controller.summary() and "left to a fixed action" not in controller.summary()


def test_the_shipped_policy_does_without_a_holdout():
    train, _ = loaders()
    model = network()
    controller = run(Controller(model, torch.optim.AdamW(model.parameters(), 1e-3), 300), train)
    assert controller.over and controller.updates == 300
    assert controller.history["train_score"][-1] > 0.6


def test_the_summary_says_how_often_the_policy_abstained():
    train, holdout = loaders()
    model = network()
    policy = load_policy("real_runs")
    abstention = {"distance": 1e-3, "action": 3}
    policy.spec = dataclasses.replace(policy.spec, abstention=abstention)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    controller = run(Controller(model, optimizer, 150, policy=policy, holdout=holdout), train)
    rates = controller.history["learning_rate"][1:]
    np.testing.assert_allclose(rates, 0.1 * (30 - np.arange(30) - 0.5) / 30.5)
    assert "note       30 decisions were left to a fixed action" in controller.summary()


def test_step_says_when_it_is_over():
    controller, train = controlled(total=64)
    batches = [batch for _ in range(6) for batch in train]
    over = [controller.step(*update(controller.model, controller.optimizer, batch)) for batch in batches]
    assert over.index(True) == 63 and all(over[63:])


def test_all_updates_are_made_where_decisions_do_not_divide_them():
    controller, train = controlled(total=67)
    made = sum(1 for _ in map(lambda b: controller.step(*b), _updates(controller, train)))
    assert made == 67 == controller.updates
    assert controller.config.inner_steps == 8 and controller.plan.rest == 3


def _updates(controller: Controller, train: Any) -> Any:
    for batch in controller.batches(train):
        yield update(controller.model, controller.optimizer, batch)


def test_the_users_random_streams_are_left_alone():
    def draws(controller_there: bool) -> list[float]:
        train, holdout = loaders()
        model = network(0.5)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        if controller_there:
            shuffled = torch.utils.data.DataLoader(holdout.dataset, 40, shuffle=True)
            arguments = SMALL | {"holdout": shuffled, "reinit": "reset_parameters"}
            Controller(model, optimizer, 64, policy=Script(), train=train, **arguments)
        return [torch.rand(()).item(), np.random.rand()]

    torch.manual_seed(3)
    np.random.seed(3)
    first = draws(False)
    torch.manual_seed(3)
    np.random.seed(3)
    assert draws(True) == first


def test_a_schedule_makes_the_rates_that_it_says():
    controller, train = controlled(Cosine(0.4), holdout=None, num_snapshots=1)
    run(controller, train)
    expected = [0.4 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    np.testing.assert_allclose(controller.history["learning_rate"][1:], np.maximum(expected, 1e-4))


def test_a_policy_that_was_trained_to_do_without_a_holdout_needs_none(tmp_path: Path):
    process = {"observation_layout": "flat", "num_snapshots": 3, "history_length": 2}
    env = gymnasium.make("AutoTrainRuns-v0", **process)
    environment = {"id": "AutoTrainRuns-v0", "kwargs": process}
    spec = make_spec(env.observation_space, env.action_space, normalize=False, environment=environment)
    weights = torch.zeros(policy_layout(spec).size)
    single_policy(spec, weights, Moments.empty(3 * 2 * 12)).save(tmp_path)
    for given, measured in ((None, [1, 1]), (loaders()[1], [0, 1])):
        controller, train = controlled(tmp_path, holdout=given)
        run(controller, train)
        assert controller.over and controller.config.lr_bounds == (1e-6, 100.0)
        assert controller.situation().rows[0, 0, -1, -3:-1].tolist() == measured
    with pytest.raises(InvalidValueError, match="holdout"):
        controlled("many", holdout=None)


def test_schedules_that_look_at_the_holdout_have_one():
    controller, train = controlled(ReduceOnPlateau(0.3, patience=0), num_snapshots=1)
    run(controller, train)
    assert controller.history["learning_rate"][1] == 0.3


@pytest.mark.parametrize("place", ["device", "cpu", "folder"])
def test_a_rewind_restores_everything(place: str, tmp_path: Path):
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    folder = tmp_path / "states"
    controller, train = controlled(
        Script({}, {}, {}, {"rewind": 2, "factor": 0.5}),
        model=model,
        optimizer=lambda p: torch.optim.Adam(p, 0.01),
        also=[average],
        snapshots=folder if place == "folder" else place,
    )
    optimizer, states = controller.optimizer, []
    for batch in controller.batches(train):
        outcome = update(model, optimizer, batch)
        average.update_parameters(model)
        before = controller.updates
        everything = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, average)]
        controller.step(*outcome)
        if (before + 1) % 8 == 0:
            states.append(everything)
        if controller.updates == 24 == before + 1:  # the fourth decision: two back, to 8 updates
            found = [part.state_dict() for part in (model, optimizer, average)]
            for group in states[0][1]["param_groups"]:
                group["lr"] = 0.005
            assert_same(_plain(found), _plain(states[0]))
        if place == "folder" and not controller.over:
            assert 0 < len(list(folder.iterdir())) <= 3
    assert list(controller.history["rewind"]) == [0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert place != "folder" or not list(folder.iterdir())


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return [_plain(part) for part in state] if isinstance(state, (list, tuple)) else state


def test_what_was_restored_is_not_written_to():
    """A second rewind to the same row finds it as it was."""
    policy = Script({}, {}, {"rewind": 1}, {"rewind": 1}, {"rewind": 1})
    controller, train = controlled(policy, optimizer=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    seen = []
    for batch in controller.batches(train):
        controller.step(*update(controller.model, controller.optimizer, batch))
        if controller.updates in (16, 24, 32):
            seen.append(copy.deepcopy((controller.model.state_dict(), controller.optimizer.state_dict())))
    assert_same(_plain(seen[0]), _plain(seen[1]))
    assert_same(_plain(seen[1]), _plain(seen[2]))


def test_parameter_groups_keep_their_ratios():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 0.01},
        {"params": [*model[1].parameters(), *model[4].parameters()], "lr": 0.1},
    ]
    train, holdout = loaders()
    optimizer = torch.optim.SGD(groups)
    policy = Script({"factor": 0.5}, {"factor": 3.0})
    controller = run(Controller(model, optimizer, 64, policy=policy, holdout=holdout, **SMALL), train)
    rates = [group["lr"] for group in optimizer.param_groups]
    np.testing.assert_allclose(rates, [0.015, 0.15])
    assert controller.learning_rate == pytest.approx(0.15)


def test_rates_that_are_tensors():
    controller, train = controlled(
        Script({"factor": 0.5}), optimizer=lambda p: torch.optim.Adam(p, torch.tensor(0.01))
    )
    run(controller, train)
    assert float(controller.optimizer.param_groups[0]["lr"]) == pytest.approx(0.005)


# --- networks drawn anew ---


def test_other_networks_are_rows_to_rewind_to():
    model = network()
    own = copy.deepcopy(model.state_dict())
    policy = Script({"rewind": 2})
    controller, _ = controlled(policy, model=model, reinit="reset_parameters")
    first = policy.seen[0]
    assert first.rewindable.all() and controller.history["rewind"].tolist() == [0]
    assert controller._executed.rewind[0] == 2
    assert not torch.equal(model.state_dict()["0.weight"], own["0.weight"])


def test_without_reinit_they_are_missing():
    policy = Script({"rewind": 2}, {"reinit": True})
    controller, train = controlled(policy)
    assert policy.seen[0].exists.tolist() == [[True, False, False]]
    run(controller, train)
    assert controller.impossible_reinits == 1 and "pass reinit=" in controller.summary()


def test_the_users_network_is_the_one_that_training_begins_with():
    model = network()
    own = copy.deepcopy(model.state_dict())
    controlled(model=model, reinit="reset_parameters", also=[AveragedModel(model)])
    assert_same(_plain(model.state_dict()), _plain(own))


def test_a_reinit_begins_anew_with_everything():
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    twin = copy.deepcopy(model)  # an average without a count
    controller, train = controlled(
        Script({}, {}, {"reinit": True}), model=model, also=[average, twin], reinit="reset_parameters"
    )
    for batch in controller.batches(train):
        outcome = update(model, controller.optimizer, batch)
        average.update_parameters(model)
        controller.step(*outcome)
        if controller.updates == 16:
            assert controller.optimizer.state_dict()["state"] == {}
            assert int(average.n_averaged) == 0
            assert_same(_plain(twin.state_dict()), _plain(model.state_dict()))
            assert_same(_plain(average.module.state_dict()), _plain(model.state_dict()))
    assert controller.history["reinit"].sum() == 1


# --- divergence ---


def test_a_network_that_diverged_is_left_behind():
    policy = Script({"factor": 1e30}, {}, {"rewind": 1, "factor": 1e-30})
    controller, train = controlled(policy, reinit="reset_parameters", lr_bounds=(1e-4, 1e40))
    made = sum(1 for _ in map(lambda b: controller.step(*b), _updates(controller, train)))
    assert controller.divergences == 1 and controller.updates == 64
    assert made == 64 - 8  # those of the interval in which it stayed diverged are counted, and not made
    assert controller.history["diverged"].tolist()[:4] == [False, True, True, False]
    assert np.isfinite(controller.history["loss"]).all() and not controller.diverged
    assert all(value.isfinite().all() for value in controller.model.state_dict().values())


@pytest.mark.parametrize("steps", [1, 2])
def test_what_was_before_a_divergence_can_be_gone_back_to(steps: int):
    policy = Script(*[{}] * (steps - 1), {"factor": 1e30}, {"rewind": 1, "factor": 1e-30})
    controller, train = controlled(policy, lr_bounds=(1e-4, 1e40))  # which cannot be drawn anew
    assert controller.config.keep_before_divergence
    before, compared = None, 0
    for batch in controller.batches(train):
        if controller.updates == 8 * (steps - 1):
            before = copy.deepcopy(controller.model.state_dict())
        controller.step(*update(controller.model, controller.optimizer, batch))
        if controller.updates == 8 * steps:
            assert controller.divergences == 1 and not controller.diverged
            assert_same(_plain(controller.model.state_dict()), _plain(before))
            compared += 1
    assert compared == 1 and controller.divergences == 1
    assert controller.history["rewind"].tolist()[steps + 1] == 1


def test_it_is_lost_where_that_is_asked_for():
    policy = Script({"factor": 1e30}, {"rewind": 1, "factor": 1e-30})
    arguments = {"lr_bounds": (1e-4, 1e40), "keep_before_divergence": False}
    controller, train = controlled(policy, **arguments)
    for batch in controller.batches(train):
        controller.step(*update(controller.model, controller.optimizer, batch))
    assert controller.diverged and controller.over


def test_a_schedule_cannot_bring_it_back():
    controller, train = controlled(Cosine(1e30), holdout=None, num_snapshots=1, lr_bounds=(1e-4, 1e40))
    made = sum(1 for _ in map(lambda b: controller.step(*b), _updates(controller, train)))
    assert made == 8 and controller.over and controller.diverged
    assert "diverged" in controller.summary().splitlines()[-1]


def test_a_loss_that_is_not_a_number_is_contained():
    policy = Script({}, {}, {"rewind": 1})
    controller, train = controlled(policy)
    for number, batch in enumerate(controller.batches(train)):
        loss, logits, labels = update(controller.model, controller.optimizer, batch)
        controller.step(loss * math.nan if number == 11 else loss, logits, labels)
    assert controller.divergences == 1 and not controller.diverged
    assert "1 divergences" in controller.summary()


# --- what is measured ---


def test_the_best_weights_are_those_of_the_best_answer():
    controller, train = controlled(Script(*[{}] * 4, {"factor": 1e3}), thresholdout=False)
    states = {}
    for batch in controller.batches(train):
        controller.step(*update(controller.model, controller.optimizer, batch))
        if controller.updates % 8 == 0:
            states[controller.updates] = copy.deepcopy(controller.model.state_dict())
    answers = controller.history["holdout_answer"]
    best = int(controller.history["updates"][answers.argmax()])
    assert_same(_plain(dict(controller.best())), _plain(dict(states[best])))
    controller.model.load_state_dict(controller.best())
    inputs, labels = problem()
    controller.model.eval()
    accuracy = (controller.model(inputs[240:]).argmax(1) == labels[240:]).float().mean().item()
    assert accuracy == pytest.approx(answers.max())


def test_tensors_loaders_and_functions_say_the_same():
    train, holdout = loaders(shuffle=False)
    inputs, labels = problem()
    model = network()

    def by_hand() -> tuple[float, float]:
        correct = (model(inputs).argmax(1) == labels).float()
        return correct[:240].mean().item(), correct[240:].mean().item()

    held = (inputs[240:], labels[240:])
    trained = (inputs[:240], labels[:240])
    found = []
    for arguments in (
        {"holdout": holdout, "train": train},
        {"holdout": held, "train": trained},
        {"holdout": by_hand},
    ):
        model.load_state_dict(network().state_dict())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        arguments = SMALL | arguments
        controller = Controller(model, optimizer, 64, policy=Script(), thresholdout=False, **arguments)
        torch.manual_seed(0)
        found.append(run(controller, train).history)
    for history in found[1:]:
        np.testing.assert_allclose(history["holdout_answer"], found[0]["holdout_answer"], atol=1e-7)
        np.testing.assert_allclose(history["train_score"], found[0]["train_score"], atol=1e-7)


def test_measuring_costs_a_bounded_number_of_batches():
    class Counted(torch.utils.data.Dataset):
        read = 0

        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: int) -> Any:
            Counted.read += 1
            return torch.zeros(FEATURES), 0

    holdout = torch.utils.data.DataLoader(Counted(), 100)
    controlled(holdout=holdout)
    assert Counted.read == 400  # an interval is short here
    Counted.read = 0
    controlled(holdout=holdout, holdout_batches=3)
    assert Counted.read == 300
    Counted.read = 0
    batches = torch.utils.data.BatchSampler(range(10_000), 64, drop_last=False)
    controlled(holdout=torch.utils.data.DataLoader(Counted(), batch_sampler=batches))
    assert Counted.read == 448  # whole batches of a loader that does not tell their size


def test_without_train_data_the_minibatches_stand_in():
    controller, train = controlled()
    run(controller, train)
    np.testing.assert_allclose(
        controller.history["train_score"][1:], controller.history["batch_accuracy"][1:, -1]
    )
    assert "of minibatches" in controller.summary()


def test_modes_of_modules_are_put_back():
    model = network()
    model[1].eval()  # frozen statistics
    controller, train = controlled(model=model)
    run(controller, train)
    assert model.training and not model[1].training and model[4].training


# --- losses of other kinds ---


def test_a_loss_without_classes():
    inputs, labels = problem()
    targets = labels.float()[:, None]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 12), nn.ReLU(), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    policy = Script()
    controller = Controller(
        model,
        optimizer,
        64,
        policy=policy,
        holdout=(inputs[240:], targets[240:]),
        train=(inputs[:240], targets[:240]),
        forward=lambda model, batch: (F.mse_loss(model(batch[0]), batch[1]), None, None),
        chance_loss=targets.var().item(),
        **SMALL,
    )
    while not controller.over:
        loss = F.mse_loss(model(inputs[:240]), targets[:240])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss)
    history = controller.history
    assert history["loss"][-1, -1] == pytest.approx(loss.item(), rel=0.05)
    assert history["holdout_answer"][-1] > history["holdout_answer"][0]
    ratio = policy.seen[-1].rows[0, 0, -1, 0]  # log of the loss over that of guessing
    at = controller.history["loss"][-2, -1] / targets.var().item()
    assert ratio == pytest.approx(math.log(at), abs=1e-5)


@pytest.mark.parametrize("layout", ["tokens last", "as torch has it"])
def test_a_language_model_by_tokens(layout: str):
    torch.manual_seed(0)
    text = torch.randint(0, 11, (64, 9))
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    controller = Controller(
        model,
        optimizer,
        40,
        policy=Script(),
        holdout=(text[32:, :-1], text[32:, 1:]),
        **SMALL,
    )
    while not controller.over:
        logits, labels = model(text[:32, :-1]), text[:32, 1:].clone()
        labels[:, 0] = -100  # not to be learned
        loss = F.cross_entropy(logits.movedim(-1, 1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss, logits if layout == "tokens last" else logits.movedim(-1, 1), labels)
    kept = labels != -100
    accuracy = (logits.argmax(-1) == labels)[kept].float().mean().item()
    assert controller.history["batch_accuracy"][-1, -1] == pytest.approx(accuracy, abs=0.02)
    assert controller._scale.num_classes == 11


def test_one_logit_for_two_classes():
    inputs, labels = problem()
    labels = (labels > 1).float()
    model = nn.Linear(FEATURES, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    holdout = (inputs[240:], labels[240:, None])
    controller = Controller(model, optimizer, 64, policy=Script(), holdout=holdout, **SMALL)
    while not controller.over:
        logits = model(inputs[:240])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, labels[:240])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss, logits, labels[:240])
    assert controller._scale.num_classes == 2
    right = ((logits > 0) == (labels[:240] > 0.5)).float().mean().item()
    assert controller.history["batch_accuracy"][-1, -1] == pytest.approx(right, abs=0.02)


# --- loops of many kinds ---


def test_accumulated_gradients_and_clipping():
    controller, train = controlled()
    model, optimizer = controller.model, controller.optimizer
    calls = 0
    for number, (inputs, labels) in enumerate(controller.batches(train)):
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels)
        (loss / 2).backward()
        if number % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            controller.step(loss, logits, labels)
            calls += 1
    assert calls == 64 and controller.history["holdout_answer"][-1] > 0.5


def test_mixed_precision_with_a_scaler():
    model = network()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    controller, train = controlled(Script({}, {}, {"rewind": 1}), model=model, also=[scaler])
    optimizer = controller.optimizer
    scales = []
    for inputs, labels in controller.batches(train):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        if controller.updates == 10:
            scaler.update(new_scale=8.0)
        else:
            scaler.update()
        controller.step(loss, logits, labels)
        scales.append(scaler.get_scale())
    assert scales[14] == 8.0 and scales[15] == 1024.0  # the scale goes back with the rewind, too
    assert controller.history["holdout_answer"][-1] > 0.5


def test_a_compiled_network():
    model = network()
    compiled = torch.compile(model, backend="eager")
    controller, train = controlled(Script({}, {}, {"rewind": 1}), model=compiled, reinit="reset_parameters")
    run(controller, train)
    assert controller.history["holdout_answer"][-1] > 0.5
    compiled.load_state_dict(controller.best())


def _schedule_free(parameters: Any) -> Any:
    schedulefree = pytest.importorskip("schedulefree")
    return schedulefree.AdamWScheduleFree(parameters, lr=0.01)


def _prodigy(parameters: Any) -> Any:
    return pytest.importorskip("prodigyopt").Prodigy(parameters, lr=1.0)


@pytest.mark.parametrize("make", [_schedule_free, _prodigy])
def test_optimisers_of_others(make: Any):
    model = network()
    optimizer = make(model.parameters())
    if hasattr(optimizer, "train"):
        optimizer.train()
    controller, train = controlled(
        Script({}, {}, {}, {"rewind": 2, "factor": 0.8}, {}, {"reinit": True}),
        model=model,
        optimizer=lambda _: optimizer,
        reinit="reset_parameters",
    )
    run(controller, train)
    assert controller.history["rewind"].max() == 2 and controller.history["reinit"].sum() == 1
    assert optimizer.param_groups[0]["lr"] == pytest.approx(controller.learning_rate)


def test_any_policy_of_the_package_serves():
    for policy in (RandomAgent(3), "cosine", "reduce_on_plateau", "early_stopping", Cosine()):
        controller, train = controlled(policy, reinit="reset_parameters")
        assert run(controller, train).over


# --- what is told ---


def test_the_log_is_one_line_for_each_decision(tmp_path: Path):
    log = tmp_path / "run.jsonl"
    train, holdout = loaders()
    model = network()
    controller = Controller(
        model, torch.optim.SGD(model.parameters(), 0.1), 600, holdout=holdout, log=log, decisions=10
    )
    run(controller, train)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == len(controller.history["updates"]) - 1
    assert [row["updates"] for row in rows] == controller.history["updates"][1:].tolist()
    assert len(rows[0]["probabilities"]) == 30
    assert rows[0]["action"] in rows[0]["probabilities"]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert read_log(log) == rows and plot_log(log) is not None
    assert "NaN" not in log.read_text()


def test_tensorboard():
    told: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, *told_now: Any) -> None:
            told.append(told_now)

    controller, train = controlled(writer=Writer())
    run(controller, train)
    assert {name for name, _, _ in told} >= {"autotrain/loss", "autotrain/learning_rate"}
    assert [at for name, _, at in told if name == "autotrain/loss"] == list(range(8, 65, 8))


def test_a_line_in_the_terminal(capsys: pytest.CaptureFixture[str]):
    controller, train = controlled(progress=True)
    run(controller, train)
    assert "64/64" in capsys.readouterr().err


def test_the_summary_and_the_picture(tmp_path: Path):
    controller, train = controlled(Script({}, {}, {"rewind": 1, "factor": 0.5}), reinit="reset_parameters")
    run(controller, train)
    text = controller.summary()
    for words in ("64 of 64", "8 decisions", "1 rewinds", "MiB", "for measuring and deciding", "Script"):
        assert words in text, text
    controller.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 5000


def test_memory_is_that_of_a_few_states():
    controller, train = controlled(optimizer=lambda p: torch.optim.Adam(p, 0.01))
    run(controller, train)
    weights = sum(p.numel() * 4 for p in controller.model.parameters())
    assert 3 * weights <= controller._snapshots.bytes <= 3 * weights + 400  # and statistics, and counts
    assert controller.peak_bytes <= 3 * controller._snapshots.bytes + weights + 400
    assert controller._rows.count_bytes() <= weights + 400  # of the best ones, once it is over
