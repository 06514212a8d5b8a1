"""The engine of compiled code: n lanes in one call, each lane computed by one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import CNN, MLP
from autotrain_env.training.engine import Engine, Evaluation, Trained
from autotrain_env.training.native.build import BuildError
from autotrain_env.training.native.library import Job, Library, best_library, library_or_raise
from autotrain_env.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    from autotrain_env.training.stack import LaneStack

_SGD, _MOMENTUM, _NESTEROV, _RMSPROP, _ADAM = range(5)  # as in job.h


def why_not_native(
    architecture: Architecture, optimizer: Optimizer | None, dtype: torch.dtype, device: torch.device
) -> str | None:
    """Returns why networks cannot be computed by compiled code, or `None` where they can.

    Args:
        architecture: What the networks have in common.
        optimizer: Their update rule; `None` where they are not updated.
        dtype: Dtype of the weights.
        device: Device that holds the weights.
    """
    if device.type != "cpu":
        return f"it computes on the CPU, not on {device}"
    if dtype != torch.float32:
        return f"it computes in float32, not in {dtype}"
    if type(architecture.classifier) not in (MLP, CNN):
        return f"it computes multilayer perceptrons and the package's CNN, not {architecture.classifier!r}"
    if optimizer is not None and type(optimizer) not in (SGD, RMSprop, Adam, AdamW):
        return f"it has no update rule {type(optimizer).__name__}"
    library = best_library()
    return str(library) if isinstance(library, BuildError) else None


def network_job(architecture: Architecture, **more: float) -> tuple[Job, np.ndarray]:
    """Returns a job that says what networks are computed, and the sizes it points to, to be kept as long.

    Args:
        architecture: What the networks have in common.
        more: More fields of the job.
    """
    classifier, shape = architecture.classifier, architecture.image_shape
    assert isinstance(classifier, (MLP, CNN))
    convolutional = isinstance(classifier, CNN)
    sizes = np.array(classifier.sizes(shape, architecture.num_classes), np.int32)
    job = Job(
        convolutional=convolutional,
        image_height=shape[1] if convolutional else 0,
        image_width=shape[2] if convolutional else 0,
        num_sizes=len(sizes),
        sizes=sizes.ctypes.data,
        num_features=architecture.num_features,
        **more,
    )
    return job, sizes


class NativeEngine(Engine):
    """Multilayer perceptrons and the package's `CNN` computed by compiled code, on the CPU in float32.

    A lane is computed by one thread in a fixed order, so that its bits depend neither on N, nor on the
    number of threads (torch's), nor on the width of the processor's vectors.

    Args:
        architecture: What the networks have in common.
        optimizer: Their update rule.
        library: The compiled code; by default that for this processor's best instruction set.
    """

    backend = "native"

    def __init__(
        self, architecture: Architecture, optimizer: Optimizer, library: Library | None = None
    ) -> None:
        self.library = library_or_raise(library)
        max_grad_norm = optimizer.max_grad_norm or 0.0
        self._job, self._sizes = network_job(architecture, max_grad_norm=max_grad_norm, **_rule(optimizer))

    def train(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        learning_rates: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
    ) -> Trained:
        """Make all updates in one call."""
        count, num_updates, batch_size = indices.shape
        coefficients = stack.next_coefficients(slots, num_updates)
        arrays = [
            _contiguous(indices, np.int32),
            _contiguous(labels, np.int32),
            _contiguous(learning_rates, np.float64),
            _contiguous(_NONE if coefficients is None else coefficients, np.float64),
            losses := np.empty((count, num_updates)),
            accuracies := np.empty((count, num_updates)),
            finite := np.empty(count, bool),
        ]
        job = self._prepared(stack, stack.state, pool, slots)
        job.num_updates, job.batch_size = num_updates, batch_size
        job.num_factors = 0 if coefficients is None else coefficients.shape[1]
        (
            job.indices,
            job.labels,
            job.learning_rates,
            job.coefficients,
            job.losses,
            job.accuracies,
            job.finite,
        ) = map(_address, arrays)
        self.library.train(job)
        return Trained(losses, accuracies, finite)

    def evaluate(
        self,
        stack: LaneStack,
        pool: Tensor,
        slots: np.ndarray,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        losses: bool,
        best: bool,
    ) -> Evaluation:
        """Evaluate all lanes in one call."""
        arrays = [
            _contiguous(indices, np.int32),
            _contiguous(labels, np.int32),
            correct := np.empty(indices.shape, bool),
            finite := np.empty(indices.shape, bool),
        ]
        values = np.empty(indices.shape, np.float32) if losses else None
        job = self._prepared(stack, stack.best if best else stack.state, pool, slots)
        job.num_images = indices.shape[1]
        job.image_indices, job.image_labels, job.image_correct, job.image_finite = map(_address, arrays)
        job.image_losses = None if values is None else _address(values)
        self.library.evaluate(job)
        return Evaluation(correct, values, finite)

    def _prepared(self, stack: LaneStack, rows: Tensor, pool: Tensor, slots: np.ndarray) -> Job:
        """Returns the job with all that training and evaluation have in common."""
        job = self._job
        job.num_lanes, job.slots = len(slots), _address(slots)
        job.rows, job.row_stride = rows.data_ptr(), rows.stride(0)
        job.scale, job.shift, job.pool = stack.scale.data_ptr(), stack.shift.data_ptr(), pool.data_ptr()
        job.num_threads = torch.get_num_threads()
        return job


_NONE = np.zeros(1)


def _contiguous(array: np.ndarray, dtype: type) -> np.ndarray:
    return np.ascontiguousarray(array, dtype)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _rule(optimizer: Optimizer) -> dict[str, float]:
    """Returns what a job says of the update rule."""
    if isinstance(optimizer, SGD):
        kind = _SGD if not optimizer.momentum else _NESTEROV if optimizer.nesterov else _MOMENTUM
        values: dict[str, float] = {"rule": kind}
    elif isinstance(optimizer, RMSprop):
        values = {"rule": _RMSPROP, "beta2": optimizer.alpha, "eps": optimizer.eps}
    else:
        assert isinstance(optimizer, Adam)
        values = {"rule": _ADAM, "beta1": optimizer.beta1, "beta2": optimizer.beta2, "eps": optimizer.eps}
    decay = "decoupled_decay" if optimizer.decoupled else "weight_decay"
    return values | {decay: optimizer.weight_decay}
