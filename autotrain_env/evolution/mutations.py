"""Descent with mutations in anyone's training loop.

    selection = Selection(model, held_out_batches)
    mutations = Mutations(torch.optim.SGD(model.parameters(), lr=0.1), selection, every=1000)
    for inputs, labels in batches:
        mutations.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        mutations.step()

`lane_mutations` does the same to networks that are trained side by side.
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrain_env.errors import (
    InvalidTypeError,
    InvalidValueError,
    as_number,
    check,
    check_at_least_0,
    check_callable,
    check_whole,
    in_brief,
)
from autotrain_env.evolution.mutation_rules import (
    Mutation,
    MutationRule,
    Parent,
    as_mutation_rule,
    evolve,
)
from autotrain_env.evolution.noise import check_seed

Closure = Callable[[], Any]
Batches = Iterable[tuple[Any, Any]]


class Selection:
    """Measures a model on some data, as it is when called: the mean of a metric over all examples.

    The model is put into evaluation mode meanwhile, and each of its parts back into its own mode, so that
    running statistics stay as they are.

    Args:
        model: The model.
        batches: Pairs of inputs and targets that can be gone through again and again: a list, or a
            `DataLoader` that does not shuffle. What is no tensor is given on as it is.
        metric: A function of outputs and targets that returns their mean; by default the log loss.

    Raises:
        InvalidTypeError: If the model is no module, the batches cannot be gone through, or the metric takes
            other arguments.
        InvalidValueError: If there is no batch.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        metric: Callable[[Any, Any], Any] = nn.functional.cross_entropy,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"model={in_brief(model)} must be a torch.nn.Module")
        if not isinstance(batches, Iterable):
            raise InvalidTypeError(f"batches={in_brief(batches)} must be pairs of inputs and targets")
        check_callable("metric", metric, 2)
        check(not isinstance(batches, Iterator), "batches", batches, "a list or a loader: it is used often")
        length = len(batches) if isinstance(batches, Sized) else None
        check(length != 0, "batches", batches, "at least one batch")
        self.model, self.batches, self.metric = model, batches, metric

    @torch.no_grad()
    def __call__(self) -> float:
        """Measure the model.

        Raises:
            InvalidValueError: If there is no example.
        """
        total, count = 0.0, 0
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        with _evaluation_mode(self.model):
            for inputs, targets in self.batches:
                inputs, targets = _moved(inputs, device), _moved(targets, device)
                size = len(targets)
                if size:
                    total += float(self.metric(self.model(inputs), targets)) * size
                count += size
        check(count > 0, "batches", self.batches, "data with at least one example")
        return total / count


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class _Wrapper:
    """What stands before an optimiser in a training loop."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise InvalidTypeError(f"optimizer={in_brief(optimizer)} must be a torch.optim.Optimizer")
        self.optimizer = optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of the optimiser."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        self.optimizer.zero_grad(set_to_none)

    def _parameters(self) -> list[tuple[nn.Parameter, dict[str, Any]]]:
        """Returns the parameters in training, each with its group."""
        return [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]

    def _step(self, closure: Closure | None) -> Any:
        if closure is not None:
            return self.optimizer.step(closure)
        given = inspect.signature(type(self.optimizer).step).parameters.get("closure")
        if given is not None and given.default is given.empty:
            raise InvalidTypeError(
                f"{type(self.optimizer).__name__} needs a closure: step(closure), with a function that "
                "computes the loss and its gradient, and returns the loss"
            )
        return self.optimizer.step()


class Mutations(_Wrapper):
    """An optimiser whose parameters mutate now and then.

    It takes the place of the optimiser in a training loop: `zero_grad`, `step`, `param_groups`,
    `state_dict`. Schedulers of learning rates get the optimiser itself, a `GradScaler` gets the mutations.
    After every `every` updates, and whenever `mutate` is called, offspring of the model are measured and
    something may take over, as the rule says. Parameters that want no gradient, and all buffers, stay as
    they are, as long as measuring does not change them. Random numbers that measuring draws from torch's
    global streams are given back, so that a run in which nothing takes over is that of the bare optimiser,
    bit for bit.

    With `optimizer_state="keep"` momentum and the like go on as if nothing had happened: offspring are near
    their parent. `LBFGS` then takes the jump for a step of its own: `"reset"` suits it better. With
    `back_off=True`, what descent has done to buffers stays.

    `"random_gradients"` uses the gradients that the parameters hold when the offspring are made, those of
    the last update, and the learning rates of their groups.

    Args:
        optimizer: Any optimiser of torch.
        measure: A function without arguments that returns what is to be low of the model as it is then: the
            loss on data that descent does not see (or a score, see the rule). `Selection` makes one.
        rule: What is done: the name of a rule, or a `MutationRule`.
        every: Updates from one evolution to the next, at least 1; `None` if `mutate` is called by hand,
            such as after every fifth epoch.
        seed: Seed of the noise.

    Attributes:
        optimizer: The optimiser.
        last: What the last evolution did, a `Mutation`; `None` before the first.

    Raises:
        InvalidTypeError: If the optimiser is none of torch's, or the measure no function without arguments.
        InvalidValueError: If a value is not allowed, or the optimiser has no parameters in training.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        measure: Callable[[], Any],
        rule: str | MutationRule = "best",
        *,
        every: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer)
        check_callable("measure", measure, 0)
        self.rule = as_mutation_rule(rule)
        if every is not None:
            check_whole("every", every, 1)
        check_seed(seed)
        check(bool(self._parameters()), "optimizer", optimizer, "one with parameters in training")
        self.measure, self.every, self.seed = measure, every, seed
        self.updates = self.generation = 0
        self.last: Mutation | None = None
        self._kept: dict[str, Any] | None = None

    def step(self, closure: Closure | None = None) -> Any:
        """Make an update, and an evolution where it is time.

        Args:
            closure: A function that computes the loss and its gradient, for optimisers that want one.

        Returns:
            What the optimiser's `step` returns.

        Raises:
            InvalidTypeError: If the optimiser needs a closure and there is none.
        """
        result = self._step(closure)
        self.updates += 1
        if self.every is not None and self.updates % self.every == 0:
            self.mutate()
        return result

    @torch.no_grad()
    def mutate(self) -> Mutation:
        """Make an evolution now.

        Returns:
            What happened.

        Warns:
            UserWarning: If nothing finite is measured of any offspring; the parent stays then.

        Raises:
            InvalidTypeError: If something else than a number is measured.
            InvalidValueError: If the rule needs gradients, and no parameter has one.
        """
        step = self._gradient_step() if self.rule.needs_gradient else None
        with _kept_random_streams(self._parameters()):
            before = float("nan") if self.rule.kind == "noise" else self._measured()
            before, backed_off = self._back_off(before)
            original = self._vector()
            sizes = tuple(parameter.numel() for parameter, _ in self._parameters())
            found = None
            try:
                found, mutation = evolve(
                    self.rule,
                    Parent(original, sizes, step),
                    lambda offspring: [self._measured_of(vector) for vector in offspring],
                    before=before,
                    seed=self.seed,
                    generation=self.generation,
                )
            finally:
                self._load(original if found is None else found)
        if found is not None and self.rule.optimizer_state == "reset":
            self.optimizer.state.clear()
        self.generation += 1
        self.last = replace(mutation, backed_off=backed_off)
        self._keep()
        return self.last

    # --- going back ---

    def _back_off(self, before: float) -> tuple[float, bool]:
        """Undo descent where it made the measure worse; returns the measure, and whether it was undone."""
        kept = self._kept
        if kept is None or not self.rule.loss(before) > self.rule.loss(kept["measured"]):
            return before, False
        self._load(kept["parameters"])
        self.optimizer.load_state_dict(_with_options_of(kept["optimizer"], self.optimizer))
        return kept["measured"], True

    def _keep(self) -> None:
        if self.rule.back_off:
            assert self.last is not None
            self._kept = {
                "measured": self.last.after,
                "parameters": self._vector(),
                "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            }

    # --- parameters as one vector ---

    def _vector(self) -> Tensor:
        """Returns all parameters in training, copied, in a dtype that holds each of them exactly."""
        tensors = [parameter.detach() for parameter, _ in self._parameters()]
        return torch.cat([tensor.flatten().to(tensors[0].device) for tensor in tensors]).clone()

    def _load(self, vector: Tensor) -> None:
        start = 0
        for parameter, _ in self._parameters():
            stop = start + parameter.numel()
            parameter.copy_(vector[start:stop].view(parameter.shape))
            start = stop

    def _gradient_step(self) -> Tensor:
        """Returns the learning rate of each parameter times its gradient."""
        steps, any_given = [], False
        device = self._parameters()[0][0].device
        for parameter, group in self._parameters():
            gradient = parameter.grad
            any_given = any_given or gradient is not None
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            elif gradient.is_sparse:
                gradient = gradient.to_dense()
            steps.append(gradient.flatten().to(device) * float(group["lr"]))
        check(
            any_given,
            "rule",
            self.rule.kind,
            "another one where no parameter has a gradient: call mutate() before zero_grad()",
        )
        return torch.cat(steps)

    def _measured(self) -> float:
        value = self.measure()
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        number = as_number(value)
        if number is None:
            raise InvalidTypeError(f"measure() returned {in_brief(value)}: it must return a number")
        return number

    def _measured_of(self, vector: Tensor) -> float:
        self._load(vector)
        return self._measured()

    # --- saving ---

    def state_dict(self) -> dict[str, Any]:
        """Returns the state: that of the optimiser, and where the noise is. The rule is not part of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "generation": self.generation,
            "seed": self.seed,
            "kept": self._kept,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            InvalidValueError: If it is something else.
        """
        _check_keys(state, self.state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.generation, self.seed = (state[n] for n in ("updates", "generation", "seed"))
        self._kept = copy.deepcopy(state["kept"])


class GradientNoise(_Wrapper):
    """An optimiser that gets gradients with normal noise, and no selection (arXiv:1511.06807).

    The variance at update t, from 0 on, is variance / (1 + t)^decay.

    Args:
        optimizer: Any optimiser of torch.
        variance: Variance of the noise at first (η), at least 0.
        decay: How fast it falls (γ), at least 0.
        seed: Seed of the noise.

    Raises:
        InvalidTypeError: If the optimiser is none of torch's.
        InvalidValueError: If a value is not allowed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        variance: float = 0.01,
        decay: float = 0.55,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__(optimizer)
        check_at_least_0("variance", variance)
        check_at_least_0("decay", decay)
        check_seed(seed)
        self.variance, self.decay, self.updates = variance, decay, 0
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, closure: Closure | None = None) -> Any:
        """Add noise to the gradients, and make an update; arguments are those of `Mutations.step`."""
        if closure is None:
            self._add_noise()
            result = self._step(None)
        else:
            result = self._step(lambda: self._noisy(closure))
        self.updates += 1
        return result

    def _noisy(self, closure: Closure) -> Any:
        loss = closure()
        self._add_noise()
        return loss

    @torch.no_grad()
    def _add_noise(self) -> None:
        std = gradient_noise_std(self.variance, self.decay, self.updates)
        for parameter, _ in self._parameters():
            if parameter.grad is not None:
                noise = torch.randn(parameter.shape, generator=self._generator)
                parameter.grad.add_(noise.to(parameter.grad), alpha=std)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state: that of the optimiser, and of the noise."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Raises:
            InvalidValueError: If it is something else.
        """
        _check_keys(state, self.state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        self._generator.set_state(state["generator"].cpu())


def gradient_noise_std(variance: float, decay: float, updates: int) -> float:
    """Returns the standard deviation of gradient noise after some updates; see `GradientNoise`."""
    return (variance / (1 + updates) ** decay) ** 0.5


def _with_options_of(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns an optimiser's earlier state with the options of now, such as learning rates."""
    return {**state, "param_groups": optimizer.state_dict()["param_groups"]}


def _check_keys(state: Any, like: Mapping[str, Any]) -> None:
    fits = isinstance(state, Mapping) and set(state) == set(like)
    if not fits:
        raise InvalidValueError(f"state={in_brief(state)} must have the entries {', '.join(like)}")


@contextmanager
def _kept_random_streams(parameters: list[tuple[nn.Parameter, dict[str, Any]]]) -> Iterator[None]:
    """Give back what is drawn meanwhile from torch's global streams."""
    devices = {parameter.device for parameter, _ in parameters if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
