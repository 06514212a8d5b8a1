"""Optimisers on stacked parameters, with a learning rate for every lane.

A lane's optimiser state is a few *accumulators*, each as long as its parameters, and, for the Adam family,
a count of updates. Lanes may differ in momentum, too. The update rules are those of `torch.optim`, which
the tests hold them to.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from autotrain_env.errors import as_number, check, check_at_least_0, check_flag, check_number, look_up

_LARGEST = 1e30  # in float32, too


@dataclass(frozen=True)
class Optimizer(ABC):
    """An update rule for N lanes at once.

    Args:
        weight_decay: L2 penalty added to the gradient (for `AdamW`: decoupled decay).
        max_grad_norm: Largest Euclidean norm of a lane's gradient; longer ones are scaled down to it.
            `None` leaves gradients as they are.
    """

    weight_decay: float = 0.0
    max_grad_norm: float | None = None

    counts_updates: ClassVar[bool] = False
    decoupled: ClassVar[bool] = False  # whether weight decay stays out of the gradient
    lane_values: ClassVar[tuple[str, ...]] = ()  # arguments in which lanes updated together may differ

    def __post_init__(self) -> None:
        """Check the values that every rule shares."""
        check_at_least_0("weight_decay", self.weight_decay, _LARGEST)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, lambda number: number > 0, "above 0, or None")
            object.__setattr__(self, "max_grad_norm", min(float(self.max_grad_norm), _LARGEST))
        for entry in fields(self):
            number = as_number(getattr(self, entry.name))
            if number is not None:
                object.__setattr__(self, entry.name, number)

    @property
    @abstractmethod
    def num_accumulators(self) -> int:
        """Returns the number of state tensors, each as large as the parameters."""

    @property
    def kind(self) -> Hashable:
        """Returns what is equal for rules that can update lanes together: all but `lane_values`."""
        shared = [getattr(self, entry.name) for entry in fields(self) if entry.name not in self.lane_values]
        return type(self), self.num_accumulators, *shared

    @property
    def gradient_accumulator(self) -> int | None:
        """Returns which accumulator the backward pass may decay and add the gradient to, if any.

        Momentum is `velocity = decay * velocity + gradient`, with the first coefficient for the decay: done
        at once, that saves a pass over memory. `None` where the gradient itself is needed.
        """
        return None

    def coefficients(
        self, updates_done: np.ndarray, lane_values: np.ndarray, inner_steps: int
    ) -> np.ndarray | None:
        """Compute the factors that differ from lane to lane.

        Args:
            updates_done: Number of updates before this env step, float64, shape (N,).
            lane_values: Values of each lane, float64, shape (N, len(self.lane_values)).
            inner_steps: Number of updates to come.

        Returns:
            Factors, float64, shape (inner_steps, factors, N, 1), or `None` where there are none.
        """
        return None

    def clip(self, gradients: Tensor) -> None:
        """Scale the lanes' gradients down to `max_grad_norm`, in place; shape (N, P)."""
        if self.max_grad_norm is None:
            return
        for lane in gradients:  # one lane at a time: a norm must not depend on N
            norm = torch.linalg.vector_norm(lane)
            lane.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))

    def update(
        self,
        parameters: Tensor,
        gradients: Tensor,
        accumulators: list[Tensor],
        negative_rates: Tensor,
        coefficients: Tensor | None,
    ) -> None:
        """Apply one update in place.

        Args:
            parameters: Weights of each lane, shape (N, P).
            gradients: Gradients, shape (N, P), already clipped; may be overwritten. They are the
                accumulator itself where `gradient_accumulator` says so.
            accumulators: `num_accumulators` tensors of shape (N, P).
            negative_rates: Minus the learning rates, shape (N, 1).
            coefficients: What `coefficients` returned for this update, shape (factors, N, 1).
        """
        if self.weight_decay and self.decoupled:
            parameters.mul_(1 + negative_rates * self.weight_decay)
        elif self.weight_decay:
            gradients.add_(parameters, alpha=self.weight_decay)
        parameters.addcmul_(*self._step(gradients, accumulators, negative_rates, coefficients))

    def apply(
        self,
        parameters: Tensor,
        gradients: Tensor,
        accumulators: list[Tensor],
        learning_rates: np.ndarray,
        updates_done: int,
        lane_values: np.ndarray | None = None,
    ) -> None:
        """Make one whole update of every lane in place, from the gradients as they are.

        Args:
            parameters: Weights of each lane, shape (N, P).
            gradients: Gradients, shape (N, P); may be overwritten.
            accumulators: `num_accumulators` tensors of shape (N, P), zeros before the first update.
            learning_rates: Learning rate of each lane, float64, shape (N,).
            updates_done: Number of updates before this one.
            lane_values: Values of each lane, shape (N, len(self.lane_values)); by default this rule's own.
        """
        lanes = len(parameters)
        if lane_values is None:
            lane_values = np.array([[getattr(self, name) for name in self.lane_values]] * lanes)
        self.clip(gradients)
        factors = self.coefficients(np.full(lanes, float(updates_done)), lane_values, 1)
        coefficients = None if factors is None else torch.from_numpy(factors[0]).to(parameters)
        if self.gradient_accumulator is not None:
            assert coefficients is not None
            gradients = accumulators[self.gradient_accumulator].mul_(coefficients[0]).add_(gradients)
        rates = -torch.from_numpy(learning_rates).to(parameters)[:, None]
        self.update(parameters, gradients, accumulators, rates, coefficients)

    @abstractmethod
    def _step(
        self, gradients: Tensor, accumulators: list[Tensor], rates: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Take gradients, with weight decay in them, into the accumulators; arguments are as in `update`.

        Returns:
            A direction, shape (N, P), and its factor, shape (N, 1): the parameters move by their product.
        """


def _check_decay(argument: str, value: object) -> None:
    check_number(argument, value, lambda number: 0 <= number < 1, "in [0, 1)")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, plain, with momentum, or with Nesterov momentum.

    Args:
        momentum: Decay of the running sum of gradients; 0 is plain SGD.
        nesterov: Whether to look ahead along the momentum.
    """

    momentum: float = 0.0
    nesterov: bool = False

    lane_values: ClassVar[tuple[str, ...]] = ("momentum",)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _check_decay("momentum", self.momentum)
        check_flag("nesterov", self.nesterov)
        check(
            not self.nesterov or self.momentum > 0,
            "momentum",
            self.momentum,
            "above 0 for Nesterov",
        )

    @property
    def num_accumulators(self) -> int:
        """Returns one with momentum, none without."""
        return int(self.momentum > 0)

    @property
    def gradient_accumulator(self) -> int | None:
        """Returns that of the momentum, unless the rule needs the bare gradient."""
        return 0 if self.momentum > 0 and not self.nesterov and self.max_grad_norm is None else None

    def coefficients(
        self, updates_done: np.ndarray, lane_values: np.ndarray, inner_steps: int
    ) -> np.ndarray | None:
        """Returns the lanes' momentum."""
        if not self.momentum:
            return None
        return np.repeat(lane_values[None, None], inner_steps, axis=0)

    def _step(
        self, gradients: Tensor, accumulators: list[Tensor], rates: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if coefficients is None or self.gradient_accumulator is not None:
            return gradients, rates
        momentum, velocity = coefficients[0], accumulators[0]
        velocity.mul_(momentum).add_(gradients)
        return gradients.addcmul_(velocity, momentum) if self.nesterov else velocity, rates


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Gradients divided by the root of their running mean square (Tieleman and Hinton, 2012).

    Args:
        alpha: Decay of the running mean square.
        eps: What is added to the root.
    """

    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _check_decay("alpha", self.alpha)
        check_number(
            "eps", self.eps, lambda number: 0 < number <= _LARGEST, f"above 0, at most {_LARGEST:g}"
        )

    @property
    def num_accumulators(self) -> int:
        """Returns one, for the mean square."""
        return 1

    def _step(
        self, gradients: Tensor, accumulators: list[Tensor], rates: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        mean_square = accumulators[0]
        mean_square.mul_(self.alpha).addcmul_(gradients, gradients, value=1 - self.alpha)
        return gradients.div_(mean_square.sqrt().add_(self.eps)), rates


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moments (Kingma and Ba, arXiv:1412.6980).

    Args:
        beta1: Decay of the running mean of gradients.
        beta2: Decay of the running mean of squared gradients.
        eps: What is added to the root.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    counts_updates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _check_decay("beta1", self.beta1)
        _check_decay("beta2", self.beta2)
        check_number(
            "eps", self.eps, lambda number: 0 < number <= _LARGEST, f"above 0, at most {_LARGEST:g}"
        )

    @property
    def num_accumulators(self) -> int:
        """Returns two, for the mean and the mean square."""
        return 2

    def coefficients(
        self, updates_done: np.ndarray, lane_values: np.ndarray, inner_steps: int
    ) -> np.ndarray | None:
        """Returns what corrects both means for their start at 0: 1 / (1 - beta1^t), (1 - beta2^t)^0.5."""
        count = updates_done + np.arange(1, inner_steps + 1)[:, None]
        corrections = np.stack((1 / (1 - self.beta1**count), np.sqrt(1 - self.beta2**count)), axis=1)
        return corrections[..., None]

    def _step(
        self, gradients: Tensor, accumulators: list[Tensor], rates: Tensor, coefficients: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert coefficients is not None
        mean, mean_square = accumulators
        mean.lerp_(gradients, 1 - self.beta1)
        mean_square.mul_(self.beta2).addcmul_(gradients, gradients, value=1 - self.beta2)
        mean_correction, root_correction = coefficients
        root = mean_square.sqrt().div_(root_correction).add_(self.eps)
        return torch.div(mean, root, out=root), rates * mean_correction


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    weight_decay: float = 0.01

    decoupled: ClassVar[bool] = True


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(),
    "momentum": SGD(momentum=0.9),
    "nesterov": SGD(momentum=0.9, nesterov=True),
    "rmsprop": RMSprop(),
    "adam": Adam(),
    "adamw": AdamW(),
}


def as_optimizer(optimizer: str | Optimizer) -> Optimizer:
    """Look an optimiser up by name.

    Args:
        optimizer: One of `OPTIMIZERS`, or an `Optimizer`, which is returned as it is.

    Raises:
        InvalidValueError: If the name is unknown.
        InvalidTypeError: If it is neither.
    """
    allowed = "a name or an autotrain_env.Optimizer"
    return look_up("optimizer", optimizer, Optimizer, OPTIMIZERS, allowed)
