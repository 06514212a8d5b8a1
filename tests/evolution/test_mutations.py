"""Descent with mutations in somebody's loop."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from autotrain_env.errors import InvalidTypeError, InvalidValueError
from autotrain_env.evolution import GradientNoise, MutationRule, Mutations, Selection
from autotrain_env.evolution.mutations import gradient_noise_std

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(60, 6, generator=GENERATOR)
TARGETS = (INPUTS[:, :3].argmax(1) + (INPUTS[:, 4] > 0.8)) % 3
HELD_OUT = [(INPUTS[40:55], TARGETS[40:55]), (INPUTS[55:], TARGETS[55:])]

Optimizer = torch.optim.Optimizer
Make = Callable[[Any], Optimizer]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.02}]


MAKERS: dict[str, Make] = {
    "sgd": lambda model: torch.optim.SGD(groups(model), lr=0.1, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(groups(model), lr=0.01),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01),
    "lbfgs": lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
}
optimizers = pytest.mark.parametrize("name", MAKERS)


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(5)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))
    model = nn.Sequential(*layers)
    model.register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    return model


def train(
    model: nn.Module, optimizer: Any, steps: int, begin: int = 0, after: Callable[[], object] = lambda: None
) -> None:
    """Train in minibatches of ten; closures for all, which most optimisers call once."""
    for step in range(begin, begin + steps):
        some = slice(10 * (step % 4), 10 * (step % 4 + 1))

        def closure(some: slice = some) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(INPUTS[some]), TARGETS[some])
            loss.backward()
            return loss

        optimizer.step(closure)
        after()


def tensors_of(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Parameters, buffers, and the optimiser's state."""
    found = list(model.state_dict().values())
    for state in optimizer.state.values():
        found += [value for value in state.values() if isinstance(value, Tensor)]
    return [tensor.clone() for tensor in found]


def assert_equal(left: list[Tensor], right: list[Tensor]) -> None:
    assert len(left) == len(right) and all(map(torch.equal, left, right))


# --- against the bare optimiser ------------------------------------------------------------------------


@optimizers
@pytest.mark.parametrize("kind", ["best", "random_gradients", "es"])
def test_where_nothing_takes_over_it_is_the_bare_optimiser_bit_for_bit(name: str, kind: str):
    results = []
    for mutating in (False, True):
        model = network(dropout=0.3)
        optimizer: Any = MAKERS[name](model)
        if mutating:
            # It draws from the global stream, as a loader that shuffles does, and is always the same.
            rule = MutationRule(kind, offspring=3)
            optimizer = Mutations(optimizer, lambda: 1.0 + 0 * torch.rand(7)[0], rule, every=2)
        torch.manual_seed(7)
        train(model, optimizer, 9)
        results.append(tensors_of(model, getattr(optimizer, "optimizer", optimizer)))
        if mutating:
            assert optimizer.generation == 4 and optimizer.last.taken == 0
    assert_equal(*results)


def test_the_loss_is_handed_on_and_schedulers_see_the_optimiser():
    model = network()
    mutations = Mutations(MAKERS["sgd"](model), lambda: 1.0, every=5)
    scheduler = torch.optim.lr_scheduler.StepLR(mutations.optimizer, 1, 0.5)
    assert float(mutations.step(lambda: torch.tensor(3.0))) == 3.0
    scheduler.step()
    assert [group["lr"] for group in mutations.param_groups] == [0.05, 0.01]


def test_behind_a_scaler():
    def descend(wrap: bool) -> list[Tensor]:
        model = network()
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
        if wrap:
            rule = MutationRule("random_gradients", offspring=2)
            optimizer = Mutations(optimizer, lambda: 1.0, rule, every=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for step in range(4):
            optimizer.zero_grad()
            loss = cross_entropy(model(INPUTS[:20]), TARGETS[:20]) * (math.inf if step == 1 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        if wrap:
            assert optimizer.updates == 3  # one was skipped
        return tensors_of(model, getattr(optimizer, "optimizer", optimizer))

    assert_equal(descend(False), descend(True))


# --- taking over ---------------------------------------------------------------------------------------


class Planted:
    """Measures the distance to weights that one of the offspring has."""

    def __init__(self, model: nn.Module, rule: MutationRule, seed: int, number: int) -> None:
        self.model = model
        parent = self.vector()
        sizes = [p.numel() for p in model.parameters() if p.requires_grad]
        unit = torch.cat([part.square().mean().sqrt().expand(len(part)) for part in parent.split(sizes)])
        noise = rule.noise(seed, 0, range(number, number + 1), len(parent))[0]
        self.target = parent + noise * (unit * rule.scale)

    def vector(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters() if p.requires_grad])

    def __call__(self) -> float:
        return float((self.vector() - self.target).norm())


@optimizers
@pytest.mark.parametrize("state", ["keep", "reset"])
def test_a_planted_offspring_takes_over_and_the_optimiser_does_as_documented(name: str, state: str):
    model = network()
    optimizer = MAKERS[name](model)
    train(model, optimizer, 5)
    before = tensors_of(nn.Module(), optimizer)
    buffers = [buffer.clone() for buffer in model.buffers()]
    rule = MutationRule(offspring=6, scale=0.05, optimizer_state=state)
    planted = Planted(model, rule, seed=2, number=4)
    mutations = Mutations(optimizer, planted, rule, seed=2)
    mutation = mutations.mutate()
    assert torch.equal(planted.vector(), planted.target)
    assert mutation.after == 0 and mutation.taken == 1 and mutations.last is mutation
    assert_equal(buffers, list(model.buffers()))
    assert torch.equal(model.get_parameter("frozen"), torch.ones(2))
    if state == "keep":
        assert_equal(before, tensors_of(nn.Module(), optimizer))
    else:
        assert not optimizer.state  # as at the beginning
        twin = copy.deepcopy(model)
        fresh = MAKERS[name](twin)
        train(twin, fresh, 2)
        train(model, mutations, 2)
        assert_equal(tensors_of(model, optimizer), tensors_of(twin, fresh))


def test_nothing_taken_resets_nothing():
    model = network()
    optimizer = MAKERS["adam"](model)
    train(model, optimizer, 2)
    before = tensors_of(model, optimizer)
    Mutations(optimizer, lambda: 1.0, MutationRule(optimizer_state="reset", offspring=2)).mutate()
    assert_equal(before, tensors_of(model, optimizer))


def test_selection_lowers_what_it_measures():
    for kind in ("best", "random_gradients", "es"):
        model = network()
        selection = Selection(model, HELD_OUT)
        rule = MutationRule(kind, offspring=40, scale={"random_gradients": 3.0}.get(kind, 0.05))
        mutations = Mutations(torch.optim.SGD(model.parameters(), lr=0.1), selection, rule)
        train(model, mutations, 4)
        for _ in range(5):
            mutation = mutations.mutate()
            assert mutation.before == pytest.approx(selection() if mutation.taken == 0 else mutation.before)
            assert selection() == pytest.approx(mutation.after)
            if kind != "es":
                assert mutation.after <= mutation.before
        assert mutations.generation == 5


def test_random_gradients_uses_the_rates_of_groups_and_gradients_as_they_are():
    model = network()
    optimizer = torch.optim.SGD(groups(model), lr=0.5)
    rule = MutationRule("random_gradients", offspring=1, temperature=lambda loss: 1.0)
    values = iter([1.0, 0.5])
    mutations = Mutations(optimizer, lambda: next(values), rule, seed=9)
    cross_entropy(model(INPUTS), TARGETS).backward()
    pairs = [
        (p, group["lr"]) for group in optimizer.param_groups for p in group["params"] if p.requires_grad
    ]
    before = [parameter.detach().clone() for parameter, _ in pairs]
    assert mutations.mutate().taken == 1
    sizes = [old.numel() for old in before]
    noise = rule.noise(9, 0, range(1), sum(sizes))[0].split(sizes)
    assert {rate for _, rate in pairs} == {0.5, 0.02}
    for (parameter, rate), old, part in zip(pairs, before, noise, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter, old - rate * parameter.grad * part.view(old.shape), atol=1e-7)


def test_back_off_undoes_descent_that_made_it_worse():
    model = network()
    optimizer = MAKERS["sgd"](model)
    value = [1.0]
    mutations = Mutations(optimizer, lambda: value[0], MutationRule(back_off=True, offspring=2), every=2)
    train(model, mutations, 2)
    kept = tensors_of(nn.ParameterList(p for p in model.parameters()), optimizer)
    value[0] = 2.0
    optimizer.param_groups[0]["lr"] = 0.05  # a schedule's doing, which stays
    train(model, mutations, 2)
    assert mutations.last is not None and mutations.last.backed_off and mutations.last.before == 1.0
    assert_equal(kept, tensors_of(nn.ParameterList(p for p in model.parameters()), optimizer))
    assert optimizer.param_groups[0]["lr"] == 0.05
    value[0] = 0.5
    train(model, mutations, 2)
    assert not mutations.last.backed_off and mutations.last.after == 0.5


def test_where_nothing_is_finite_the_parent_stays_and_that_is_said():
    model = network()
    optimizer = MAKERS["adam"](model)
    train(model, optimizer, 2)
    before = tensors_of(model, optimizer)
    mutations = Mutations(optimizer, lambda: math.nan, MutationRule(offspring=3))
    with pytest.warns(UserWarning, match="of any of 3 offspring: the parent stays"):
        mutations.mutate()
    assert_equal(before, tensors_of(model, optimizer))


def test_an_error_while_measuring_leaves_the_parent():
    model = network()
    before = tensors_of(model, MAKERS["sgd"](model))
    calls = iter([1.0, 1.0, None])
    mutations = Mutations(MAKERS["sgd"](model), lambda: next(calls), MutationRule(offspring=5))
    with pytest.raises(InvalidTypeError, match=r"measure\(\) returned None"):
        mutations.mutate()
    assert_equal(before, list(model.state_dict().values()))


def test_parameters_of_several_dtypes():
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 3).to(torch.bfloat16), nn.Linear(3, 2))
    before = [p.detach().clone() for p in model.parameters()]
    mutations = Mutations(
        torch.optim.SGD(model.parameters(), lr=0.1), lambda: 1.0, MutationRule(offspring=2)
    )
    mutations.mutate()
    assert_equal(before, list(model.parameters()))
    mutations.rule = MutationRule("noise", scale=0.5)
    mutations.mutate()
    for old, new in zip(before, model.parameters(), strict=True):
        assert new.dtype == old.dtype and bool(new.isfinite().all()) and not torch.equal(old, new)


# --- saving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_off", [False, True])
def test_a_run_goes_on_from_its_state_bit_for_bit(back_off: bool, tmp_path: Any):
    def make(model: nn.Module, seed: int) -> Mutations:
        rule = MutationRule(offspring=5, scale=0.05, back_off=back_off)
        return Mutations(MAKERS["adam"](model), Selection(model, HELD_OUT), rule, every=3, seed=seed)

    model = network()
    mutations = make(model, 4)
    train(model, mutations, 7)
    torch.save({"model": model.state_dict(), "mutations": mutations.state_dict()}, tmp_path / "state")
    train(model, mutations, 8, begin=7)
    other = network()
    again = make(other, 0)
    loaded = torch.load(tmp_path / "state", weights_only=True)
    other.load_state_dict(loaded["model"])
    again.load_state_dict(loaded["mutations"])
    train(other, again, 8, begin=7)
    assert_equal(tensors_of(model, mutations.optimizer), tensors_of(other, again.optimizer))
    assert again.last == mutations.last and again.generation == 5
    with pytest.raises(InvalidValueError, match="must have the entries optimizer, updates"):
        again.load_state_dict({"optimizer": {}})


# --- selection data ------------------------------------------------------------------------------------


def test_selection_is_the_mean_over_examples_in_evaluation_mode():
    model = network(dropout=0.5)
    model[1].eval()  # a part that is not in training, such as pre-trained normalisation
    modes = [part.training for part in model.modules()]
    before = [tensor.clone() for tensor in model.state_dict().values()]
    found = Selection(model, HELD_OUT)()
    assert [part.training for part in model.modules()] == modes
    assert_equal(before, list(model.state_dict().values()))
    model.eval()
    expected = cross_entropy(model(INPUTS[40:]), TARGETS[40:])
    assert found == pytest.approx(expected.item(), abs=1e-6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS[40:], TARGETS[40:]), 7)

    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float().mean()

    right = (model(INPUTS[40:]).argmax(1) == TARGETS[40:]).float().mean()
    assert Selection(model, loader, accuracy)() == pytest.approx(float(right))


def test_empty_selection_data():
    model = network()
    with pytest.raises(InvalidValueError, match="at least one batch"):
        Selection(model, [])
    with pytest.raises(InvalidValueError, match="at least one example"):
        Selection(model, [(INPUTS[:0], TARGETS[:0])])()
    with pytest.raises(InvalidValueError, match="used often"):
        Selection(model, iter(HELD_OUT))
    with pytest.raises(InvalidTypeError, match="pairs of inputs and targets"):
        Selection(model, 3)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="model="):
        Selection(network, HELD_OUT)  # type: ignore[arg-type]


# --- noise on gradients --------------------------------------------------------------------------------


def test_gradient_noise_falls_as_its_formula_says():
    parameter = nn.Parameter(torch.zeros(20_000))
    noisy = GradientNoise(torch.optim.SGD([parameter], lr=1.0), 0.04, 0.5, seed=1)
    for update in range(3):
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(parameter, 3.0)
        noisy.step()
        moved = before - parameter.detach()
        std = (0.04 / (1 + update) ** 0.5) ** 0.5
        assert moved.mean() == pytest.approx(3.0, abs=0.01) and moved.std() == pytest.approx(std, rel=0.03)
        assert gradient_noise_std(0.04, 0.5, update) == pytest.approx(std)


@optimizers
def test_without_variance_it_is_the_bare_optimiser_and_it_goes_on_from_its_state(name: str):
    model, twin = network(), network()
    bare, noisy = MAKERS[name](model), GradientNoise(MAKERS[name](twin), 0.0)
    train(model, bare, 5)
    train(twin, noisy, 5)
    assert_equal(tensors_of(model, bare), tensors_of(twin, noisy.optimizer))
    first = GradientNoise(MAKERS[name](twin), 0.01, seed=3)
    train(twin, first, 3)
    kept = copy.deepcopy((twin.state_dict(), first.state_dict()))
    train(twin, first, 3, begin=3)
    other = network()
    second = GradientNoise(MAKERS[name](other), 0.01)
    other.load_state_dict(kept[0])
    second.load_state_dict(kept[1])
    train(other, second, 3, begin=3)
    assert_equal(tensors_of(twin, first.optimizer), tensors_of(other, second.optimizer))


# --- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_intervals_below_one(every: Any):
    with pytest.raises(InvalidValueError, match="every="):
        Mutations(MAKERS["sgd"](network()), lambda: 1.0, every=every)


def test_what_is_no_optimiser_or_no_measure():
    optimizer = MAKERS["sgd"](network())
    with pytest.raises(InvalidTypeError, match=r"must be a torch.optim.Optimizer"):
        Mutations(network(), lambda: 1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="with no arguments"):
        Mutations(optimizer, lambda model: 1.0)  # type: ignore[misc, arg-type]
    with pytest.raises(InvalidValueError, match="seed=-1"):
        Mutations(optimizer, lambda: 1.0, seed=-1)
    frozen = torch.optim.SGD([nn.Parameter(torch.ones(1), requires_grad=False)], lr=0.1)
    with pytest.raises(InvalidValueError, match="parameters in training"):
        Mutations(frozen, lambda: 1.0)
    with pytest.raises(InvalidValueError, match="variance=-1"):
        GradientNoise(optimizer, -1)


def test_a_closure_is_asked_for_where_one_is_needed():
    for wrap in (lambda optimizer: Mutations(optimizer, lambda: 1.0), GradientNoise):
        wrapped: Any = wrap(MAKERS["lbfgs"](network()))
        with pytest.raises(InvalidTypeError, match=r"LBFGS needs a closure: step\(closure\)"):
            wrapped.step()
        assert wrapped.updates == 0


def test_random_gradients_without_a_gradient():
    mutations = Mutations(MAKERS["sgd"](network()), lambda: 1.0, "random_gradients")
    with pytest.raises(InvalidValueError, match="before zero_grad"):
        mutations.mutate()
