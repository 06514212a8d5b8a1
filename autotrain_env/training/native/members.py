"""Members of a generation of evolution, measured by compiled code on a minibatch that all of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.native.engine import network_job
from autotrain_env.training.native.library import Library, Members, library_or_raise


@dataclass(frozen=True)
class Perturbed:
    """A network that is perturbed by low-rank noise.

    Args:
        centre: Its parameters, float32, shape (d,).
        numbers: What the noise is made of, a row for each member or mirrored pair, float32, shape
            (m, size): for each weight of shape (out, in), `rank` times the columns of A (out) and B (in),
            then the noise of its bias; the noise of a weight is the sum of A B^T over √rank.
        std: Standard deviations of the noise of each layer's weight and bias, float32, shape (layers, 2).
        rank: Rank of the noise of weights.
        mirrored: Whether a row makes two members, with the noise added and taken away, side by side.
    """

    centre: Tensor
    numbers: Tensor
    std: Tensor
    rank: int
    mirrored: bool


class MemberEngine:
    """Measures multilayer perceptrons and the package's `CNN` on a minibatch that all of them share.

    A member is computed by one thread in a fixed order: its bits depend neither on the other members, nor
    on the number of threads, nor on the width of the processor's vectors.

    Args:
        architecture: What the networks have in common.
        num_threads: Threads to compute by; by default as many as torch has.
        library: The compiled code; by default that for this processor's best instruction set.
    """

    def __init__(
        self, architecture: Architecture, num_threads: int | None = None, library: Library | None = None
    ) -> None:
        self.library, self.num_threads = library_or_raise(library), num_threads
        self._job, self._sizes = network_job(architecture)
        self._scale = np.ones(architecture.num_features, np.float32)
        self._shift = np.zeros(architecture.num_features, np.float32)

    def measure(
        self,
        members: Tensor | Perturbed,
        images: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Measure members.

        Args:
            members: Parameters of each, float32, shape (n, d), or what they can be made of.
            images: Normalised images, float32, shape (B, features).
            labels: Labels, int64, shape (B,).
            weights: Weights of the images' losses, float32, shape (B,); by default 1 each.

        Returns:
            Mean log loss of each member [nats] and its share of right answers, float64, shape (n,).
        """
        perturbed = members if isinstance(members, Perturbed) else None
        numbers = (members if perturbed is None else perturbed.numbers).contiguous()  # type: ignore[union-attr]
        signs = 2 if perturbed is not None and perturbed.mirrored else 1
        losses, accuracies = np.empty(signs * len(numbers)), np.empty(signs * len(numbers))
        if len(numbers) == 0:
            return losses, accuracies
        images, classes = images.contiguous(), labels.numpy().astype(np.int32)
        order = np.arange(len(images), dtype=np.int32)
        job = self._job
        job.num_lanes, job.num_images = len(numbers), len(images)
        job.num_threads = self.num_threads or torch.get_num_threads()
        job.pool, job.scale, job.shift = (
            images.data_ptr(),
            self._scale.ctypes.data,
            self._shift.ctypes.data,
        )
        job.image_indices, job.image_labels = order.ctypes.data, classes.ctypes.data
        call = Members(
            numbers=numbers.data_ptr(),
            numbers_stride=numbers.stride(0),
            num_signs=signs,
            losses=losses.ctypes.data,
            accuracies=accuracies.ctypes.data,
        )
        if weights is not None:
            weights = weights.contiguous()
            call.weights = weights.data_ptr()
        if perturbed is not None:
            centre, std = perturbed.centre.contiguous(), perturbed.std.contiguous()
            call.centre, call.std, call.rank = centre.data_ptr(), std.data_ptr(), perturbed.rank
        self.library.measure(job, call)
        return losses, accuracies
