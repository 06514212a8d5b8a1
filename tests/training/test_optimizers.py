"""Update rules on stacked parameters against `torch.optim`, and their arguments."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autotrain_env.training.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, RMSprop, as_optimizer

RATES = [0.003, 0.1, 0.02, 1.5, 1e-4, 0.4, 0.03]  # of N lanes; the last lanes have odd sizes of gradients
SIZES = (5, 3, 13)  # numbers in the tensors of one lane
NUM_UPDATES = 25

MakeTheirs = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
RULES: dict[str, tuple[Optimizer, MakeTheirs]] = {
    "sgd": (SGD(), lambda p, lr: torch.optim.SGD(p, lr)),
    "sgd, decay": (SGD(weight_decay=0.1), lambda p, lr: torch.optim.SGD(p, lr, weight_decay=0.1)),
    "momentum": (SGD(momentum=0.9), lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)),
    "momentum, decay": (
        SGD(momentum=0.6, weight_decay=0.1),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.6, weight_decay=0.1),
    ),
    "nesterov": (
        SGD(momentum=0.9, nesterov=True),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    ),
    "nesterov, decay": (
        SGD(momentum=0.7, nesterov=True, weight_decay=0.1),
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.7, nesterov=True, weight_decay=0.1),
    ),
    "rmsprop": (RMSprop(), lambda p, lr: torch.optim.RMSprop(p, lr)),
    "rmsprop, decay": (
        RMSprop(alpha=0.8, eps=1e-3, weight_decay=0.1),
        lambda p, lr: torch.optim.RMSprop(p, lr, alpha=0.8, eps=1e-3, weight_decay=0.1),
    ),
    "adam": (Adam(), lambda p, lr: torch.optim.Adam(p, lr)),
    "adam, decay": (
        Adam(beta1=0.7, beta2=0.9, eps=1e-3, weight_decay=0.1),
        lambda p, lr: torch.optim.Adam(p, lr, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    "adam without averages": (
        Adam(beta1=0.0, beta2=0.0, eps=0.1),
        lambda p, lr: torch.optim.Adam(p, lr, betas=(0.0, 0.0), eps=0.1),
    ),
    "adamw": (AdamW(), lambda p, lr: torch.optim.AdamW(p, lr)),
    "adamw, decay": (AdamW(weight_decay=0.3), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.3)),
    "adamw, no decay": (AdamW(weight_decay=0.0), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.0)),
}


def lane_values(rule: Optimizer, lanes: int) -> np.ndarray:
    return np.array([[getattr(rule, name) for name in rule.lane_values]] * lanes)


def run_ours(
    rule: Optimizer, parameters: Tensor, gradients: Tensor, done: np.ndarray | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Apply updates; gradients (T, N, P) are added to an accumulator where the rule asks for it.

    Returns:
        The parameters (N, P) after every update, and the accumulators in the end.
    """
    parameters = parameters.clone()
    accumulators = [torch.zeros_like(parameters) for _ in range(rule.num_accumulators)]
    rates = -torch.tensor(RATES, dtype=torch.float64)[: len(parameters), None].to(parameters.dtype)
    done = np.zeros(len(parameters)) if done is None else done
    coefficients = rule.coefficients(done, lane_values(rule, len(parameters)), len(gradients))
    trajectory = []
    for t, gradient in enumerate(gradients):
        factors = None if coefficients is None else torch.from_numpy(coefficients[t]).to(parameters.dtype)
        if rule.gradient_accumulator is None:
            buffer = gradient.clone()
        else:
            assert factors is not None
            buffer = accumulators[rule.gradient_accumulator].mul_(factors[0]).add_(gradient)
        rule.clip(buffer)
        rule.update(parameters, buffer, accumulators, rates, factors)
        trajectory.append(parameters.clone())
    return trajectory, accumulators


def run_theirs(
    make: MakeTheirs, parameters: Tensor, gradients: Tensor, max_grad_norm: float | None = None
) -> tuple[list[Tensor], list[Any]]:
    """The same with one optimiser of `torch.optim` per lane, on several tensors."""
    lanes = []
    for lane, rate in zip(parameters, RATES, strict=False):
        tensors = [nn.Parameter(part.clone()) for part in lane.split(SIZES)]
        lanes.append((tensors, make(tensors, rate)))
    trajectory = []
    for gradient in gradients:
        for lane, (tensors, optimizer) in enumerate(lanes):
            for tensor, part in zip(tensors, gradient[lane].split(SIZES), strict=True):
                tensor.grad = part.clone()
            if max_grad_norm is not None:
                nn.utils.clip_grad_norm_(tensors, max_grad_norm)
            optimizer.step()
        trajectory.append(torch.stack([torch.cat([t.detach() for t in tensors]) for tensors, _ in lanes]))
    return trajectory, lanes


def random_problem(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Parameters (N, P) and gradients (T, N, P) of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(RATES), sum(SIZES))
    gradients = torch.randn(NUM_UPDATES, *shape, generator=generator, dtype=torch.float64)
    gradients *= torch.logspace(-3, 2, len(RATES)).double()[:, None]
    gradients[:, :, 0] = 0
    parameters = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return parameters.to(dtype), gradients.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", RULES)
def test_every_update_is_that_of_torch(name: str, dtype: torch.dtype):
    rule, make = RULES[name]
    problem = random_problem(dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    ours, theirs = run_ours(rule, *problem)[0], run_theirs(make, *problem)[0]
    assert not torch.equal(ours[-1], problem[0])
    for after, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(after, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RULES)
def test_the_accumulators_are_the_state_of_torch(name: str):
    rule, make = RULES[name]
    problem = random_problem(torch.float64)
    accumulators, lanes = run_ours(rule, *problem)[1], run_theirs(make, *problem)[1]
    names = {SGD: ["momentum_buffer"], RMSprop: ["square_avg"]}.get(type(rule), ["exp_avg", "exp_avg_sq"])
    assert len(accumulators) == (len(names) if not isinstance(rule, SGD) or rule.momentum else 0)
    for accumulator, key in zip(accumulators, names, strict=False):
        for row, (tensors, optimizer) in zip(accumulator, lanes, strict=True):
            expected = torch.cat([optimizer.state[tensor][key] for tensor in tensors])
            torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["sgd, decay", "momentum", "nesterov", "rmsprop", "adam, decay", "adamw"])
@pytest.mark.parametrize("bound", [1e-3, 1.0, 1e9])
def test_clipping_is_that_of_torch(name: str, bound: float):
    rule, make = RULES[name]
    clipped = type(rule)(**vars(rule) | {"max_grad_norm": bound})
    problem = random_problem(torch.float64)
    ours, theirs = run_ours(clipped, *problem)[0], run_theirs(make, *problem, bound)[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    unclipped = run_ours(rule, *problem)[0][-1]
    changed = (ours[-1] - unclipped).abs().amax(1) > 1e-9
    assert changed.any() == (bound < 1e9)


def test_clipping_leaves_short_gradients_alone_bit_for_bit():
    gradients = random_problem(torch.float32)[1][0]
    norms = gradients.norm(dim=1)
    bound = float(norms.sort().values[3]) * 1.01
    after = gradients.clone()
    SGD(max_grad_norm=bound).clip(after)
    short = norms < bound
    assert 0 < short.sum() < len(RATES)
    assert torch.equal(after[short], gradients[short])
    torch.testing.assert_close(after[~short].norm(dim=1), torch.full((int((~short).sum()),), bound))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_lanes_count_their_own_updates(name: str):
    """A lane that is further on gets the corrections of its own count."""
    rule, _ = RULES[name]
    parameters, gradients = random_problem(torch.float64)
    done = np.arange(len(RATES)) * 7.0
    together = run_ours(rule, parameters, gradients, done)[0][-1]
    for lane, count in enumerate(done):
        factors = rule.coefficients(np.array([count]), np.zeros((1, 0)), 3)
        assert factors is not None and factors.shape == (3, 2, 1, 1)
        for t in range(3):
            corrections = 1 / (1 - 0.9 ** (count + t + 1)), np.sqrt(1 - 0.999 ** (count + t + 1))
            np.testing.assert_allclose(factors[t, :, 0, 0], corrections, rtol=1e-12)
        fresh = run_ours(rule, parameters, gradients)[0][-1][lane]
        assert torch.equal(together[lane], fresh) == (count == 0)


@pytest.mark.parametrize("name", [*RULES, "clipped"])
def test_bits_of_a_lane_do_not_depend_on_the_others(name: str):
    """Of any number of lanes, in memory of any layout, each ends in the bits that it reaches alone."""
    for num_parameters in (1, 15, 16, 17, 333):
        check_bits_of_lanes(name, num_parameters, torch.float32)
    check_bits_of_lanes(name, 17, torch.float64)


def check_bits_of_lanes(name: str, num_parameters: int, dtype: torch.dtype) -> None:
    rule = RULES[name][0] if name in RULES else SGD(momentum=0.9, max_grad_norm=0.5)
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(7, num_parameters + 3, generator=generator, dtype=dtype)
    gradients = torch.randn(6, 7, num_parameters, generator=generator, dtype=dtype)

    def run(lanes: list[int], parameters: Tensor) -> Tensor:
        accumulators = [torch.zeros_like(parameters) for _ in range(rule.num_accumulators)]
        rates = -torch.tensor(RATES)[lanes, None].to(dtype)
        coefficients = rule.coefficients(
            np.arange(7.0)[lanes], lane_values(rule, len(lanes)), len(gradients)
        )
        for t, gradient in enumerate(gradients[:, lanes]):
            buffer = gradient.clone()
            factors = None if coefficients is None else torch.from_numpy(coefficients[t]).to(dtype)
            if rule.gradient_accumulator is not None:
                assert factors is not None
                buffer = accumulators[0].mul_(factors[0]).add_(gradient)
            rule.clip(buffer)
            rule.update(parameters, buffer, accumulators, rates, factors)
        return parameters

    everything = run([*range(7)], wide.clone()[:, :num_parameters])  # rows apart in memory
    for lanes in ([0], [1, 2], [6, 3, 0, 4, 5], [*range(7)]):
        alone = run(lanes, wide[lanes, :num_parameters].clone())  # rows one after another
        assert torch.equal(alone, everything[lanes])


def test_a_gradient_that_is_not_finite_stays_in_its_lane():
    for rule, _ in RULES.values():
        parameters, gradients = random_problem(torch.float32)
        expected = run_ours(rule, parameters, gradients)[0][-1]
        gradients[3, 2, 5] = float("nan")
        gradients[3, 4, 1] = float("inf")
        after = run_ours(rule, parameters, gradients)[0][-1]
        others = [lane for lane in range(len(RATES)) if lane not in (2, 4)]
        assert torch.equal(after[others], expected[others])
        assert after[2].isnan().any()


# --- names and arguments ---


def test_names_stand_for_rules():
    expected = {
        "sgd": SGD(),
        "momentum": SGD(momentum=0.9),
        "nesterov": SGD(momentum=0.9, nesterov=True),
        "rmsprop": RMSprop(),
        "adam": Adam(),
        "adamw": AdamW(weight_decay=0.01),
    }
    assert expected == OPTIMIZERS
    for name, rule in expected.items():
        assert as_optimizer(name) == rule and as_optimizer(rule) is rule
        assert pickle.loads(pickle.dumps(rule)) == rule and hash(rule) == hash(as_optimizer(name))


def test_accumulators_and_counters():
    accumulators = {name: (rule.num_accumulators, rule.counts_updates) for name, rule in OPTIMIZERS.items()}
    assert accumulators == {
        "sgd": (0, False),
        "momentum": (1, False),
        "nesterov": (1, False),
        "rmsprop": (1, False),
        "adam": (2, True),
        "adamw": (2, True),
    }
    assert SGD(momentum=0.9).gradient_accumulator == 0
    for needs_gradient in (SGD(), SGD(momentum=0.9, max_grad_norm=1.0), OPTIMIZERS["nesterov"], Adam()):
        assert needs_gradient.gradient_accumulator is None


def test_rules_that_differ_in_momentum_alone_are_of_one_kind():
    kinds = [
        SGD(),
        SGD(momentum=0.9),
        SGD(momentum=0.9, nesterov=True),
        SGD(momentum=0.9, weight_decay=0.1),
        SGD(momentum=0.9, max_grad_norm=1.0),
        RMSprop(),
        RMSprop(alpha=0.9),
        Adam(),
        Adam(beta1=0.5),
        AdamW(weight_decay=0.0),
    ]
    assert len({rule.kind for rule in kinds}) == len(kinds)
    assert SGD(momentum=0.9).kind == SGD(momentum=0.98).kind == OPTIMIZERS["momentum"].kind
    assert SGD(momentum=0.5, nesterov=True).kind == OPTIMIZERS["nesterov"].kind


@pytest.mark.parametrize("more", [{}, {"nesterov": True}, {"max_grad_norm": 1.0, "weight_decay": 0.1}])
def test_lanes_have_their_own_momentum(more: dict[str, Any]):
    parameters, gradients = random_problem(torch.float64)
    momenta = [0.9, 0.1, 0.98, 0.5, 0.9, 0.7, 0.3]
    rules = [SGD(momentum=momentum, **more) for momentum in momenta]
    together, accumulators = parameters.clone(), [torch.zeros_like(parameters)]
    rates = -torch.tensor(RATES, dtype=torch.float64)[:, None]
    factors = rules[0].coefficients(np.zeros(7), np.array(momenta)[:, None], 1)
    assert factors is not None and factors.shape == (1, 1, 7, 1)
    coefficients = torch.from_numpy(factors[0])
    for gradient in gradients:
        buffer = gradient.clone()
        if rules[0].gradient_accumulator is not None:
            buffer = accumulators[0].mul_(coefficients[0]).add_(gradient)
        rules[0].clip(buffer)
        rules[0].update(together, buffer, accumulators, rates, coefficients)
    for lane, rule in enumerate(rules):
        assert torch.equal(together[lane], run_ours(rule, parameters, gradients)[0][-1][lane])


def test_unknown_names_and_other_things():
    with pytest.raises(ValueError, match=r"optimizer='adamm'.*nearest known one is 'adam'"):
        as_optimizer("adamm")
    with pytest.raises(TypeError, match="optimizer=<class"):
        as_optimizer(torch.optim.SGD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: SGD(momentum=1.0), "momentum=1.0"),
        (lambda: SGD(momentum=-0.1), "momentum=-0.1"),
        (lambda: SGD(nesterov=True), "momentum=0.0"),
        (lambda: SGD(weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda: SGD(max_grad_norm=0.0), "max_grad_norm=0.0"),
        (lambda: SGD(max_grad_norm=float("nan")), "max_grad_norm=nan"),
        (lambda: SGD(weight_decay=float("nan")), "weight_decay=nan"),
        (lambda: RMSprop(alpha=1.0), "alpha=1.0"),
        (lambda: RMSprop(eps=0.0), "eps=0.0"),
        (lambda: Adam(beta1=1.0), "beta1=1.0"),
        (lambda: AdamW(beta2=-0.5), "beta2=-0.5"),
        (lambda: Adam(eps=-1e-8), "eps=-1e-08"),
    ],
)
def test_arguments_that_are_not_allowed(make: Callable[[], Optimizer], named: str):
    with pytest.raises(ValueError, match=f"^{named} is not allowed: it must be "):
        make()
