"""Networks side by side: their loss as a function of parameters, and how minibatch gradients scatter."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, check_whole, in_brief
from autotrain_env.evolution.classifiers import ClassifierProblem, minus_log_loss
from autotrain_env.training.networks import make_network

_AT_ONCE = 2**22  # numbers in the gradients, and in the images, that are computed together


def initial_points(
    problem: ClassifierProblem, initialization: str = "module_default", seeds: Iterable[int] = (0,)
) -> Tensor:
    """Draw networks.

    Args:
        problem: Data and architecture.
        initialization: One of `initialization_names()`; `"module_default"` is torch's own.
        seeds: A seed for each network.

    Returns:
        Their parameters, shape (N, P).
    """
    check_problem(problem)
    numbers = list(seeds)
    check_whole("len(seeds)", len(numbers), 1)
    for seed in numbers:
        check_whole("seeds", seed, 0)
    drawn = [problem.initial_parameters(initialization, seed) for seed in numbers]
    return torch.stack([problem.layout.join(tensors) for tensors in drawn])


class ClassifierLoss:
    """The mean log loss of classifiers on some images, as a function of their parameters.

    Args:
        problem: Data and architecture.
        part: Which part's images: `"train"`, `"validation"` or `"test"`.
        images: How many of them, from the first on; by default all.

    Raises:
        InvalidTypeError: If the problem is none.
        InvalidValueError: If there is no such part, or it has fewer images.
    """

    def __init__(self, problem: ClassifierProblem, part: str = "train", images: int | None = None) -> None:
        self.problem = check_problem(problem)
        self.images, self.labels = whole_part(problem, part)
        if images is not None:
            check_whole("images", images, 1, len(self.labels))
            self.images, self.labels = self.images[:images], self.labels[:images]
        self._network = make_network(problem.architecture, "auto", problem.dtype, problem.device)
        self._buffers = _buffers(problem)

    def __call__(self, parameters: Tensor) -> Tensor:
        """Compute the loss of networks [nats]; it can be differentiated.

        Args:
            parameters: Parameters of each network, shape (N, P).

        Returns:
            Mean log losses, shape (N,).
        """
        count = len(parameters)
        shared = self.images.expand(count, *self.images.shape)
        logits = self._network.logits(parameters, self._buffers.expand(count, -1), shared)
        return -minus_log_loss(logits.mT, self.labels)


@dataclass(frozen=True)
class GradientNoise:
    """How gradients of minibatches scatter around that of all train images.

    Args:
        batch_sizes: Images in a minibatch, int64, shape (k,).
        measured: Mean squared distance from the whole gradient, over all coordinates, shape (k,).
        expected: What it is on average, from the scatter of single images' gradients, shape (k,).
        squared_gradient: Squared length of the whole gradient.
        num_images: Number of train images.
    """

    batch_sizes: npt.NDArray[np.int64]
    measured: npt.NDArray[np.float64]
    expected: npt.NDArray[np.float64]
    squared_gradient: float
    num_images: int

    @property
    def noise_scale(self) -> float:
        """Returns the batch size whose noise is as long as the gradient (McCandlish, arXiv:1812.06162).

        That is the trace of single images' covariance over the squared length of the gradient.
        """
        shares = (self.num_images - self.batch_sizes[0]) / (self.num_images - 1)
        return float(self.expected[0] * self.batch_sizes[0] / shares / self.squared_gradient)


def gradient_noise(
    problem: ClassifierProblem,
    point: Tensor,
    batch_sizes: Sequence[int],
    *,
    draws: int = 100,
    seed: int = 0,
) -> GradientNoise:
    """Measure how gradients of minibatches scatter, and compute how they should.

    Minibatches hold every image at most once. With n images in all, V the covariance of single images'
    gradients, and B images in a minibatch, the mean squared distance is tr V / B · (n - B) / (n - 1).

    Args:
        problem: Data and architecture.
        point: Parameters of the network whose gradients these are, shape (P,).
        batch_sizes: Images in a minibatch, each below the number of train images.
        draws: Minibatches of each size.
        seed: Seed of the minibatches.
    """
    check_problem(problem)
    count = problem.train_size
    fits = isinstance(point, Tensor) and point.shape == (problem.layout.size,)
    check(fits, "point", in_brief(point), f"a tensor of shape ({problem.layout.size},)")
    check_whole("len(batch_sizes)", len(batch_sizes), 1)
    for size in batch_sizes:
        check_whole("batch_sizes", size, 1, count - 1)
    check_whole("draws", draws, 1)
    check_whole("seed", seed, 0)
    images, labels = whole_part(problem, "train")
    gradients = _Gradients(problem, point)
    whole = gradients.of(images[None], labels[None])[0]
    single = gradients.squared_distances(images[:, None], labels[:, None], whole).mean()
    generator = np.random.default_rng(seed)
    measured = []
    for size in batch_sizes:
        at = torch.from_numpy(np.stack([generator.permutation(count)[:size] for _ in range(draws)]))
        distances = gradients.squared_distances(images, labels, whole, at.to(images.device))
        measured.append(float(distances.mean()))
    sizes = np.array(batch_sizes, np.int64)
    expected = float(single) / sizes * (count - sizes) / (count - 1)
    return GradientNoise(sizes, np.array(measured), expected, float(whole.square().sum()), count)


class _Gradients:
    """Gradients of one network on many minibatches.

    Args:
        problem: Data and architecture.
        point: Parameters, shape (P,).
    """

    def __init__(self, problem: ClassifierProblem, point: Tensor) -> None:
        self.network = make_network(problem.architecture, "auto", problem.dtype, problem.device)
        self.point, self.buffers = point.to(problem.device, problem.dtype), _buffers(problem)

    def of(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns gradients of minibatches (n, B, features) with labels (n, B), shape (n, P)."""
        parameters = self.point.expand(len(images), -1).contiguous()
        gradients = torch.zeros_like(parameters)
        buffers = self.buffers.expand(len(images), -1).contiguous()
        with torch.no_grad():
            self.network.backward(self.network.bind(parameters, buffers, gradients), images, labels, None)
        return gradients

    def squared_distances(
        self, images: Tensor, labels: Tensor, whole: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """Returns squared distances of minibatches' gradients from another one, some at a time.

        Args:
            images: Minibatches (n, B, features), or images (m, features) that `at` chooses from.
            labels: Their labels, (n, B) or (m,).
            whole: The other gradient, shape (P,).
            at: Positions of the images of each minibatch, shape (n, B).
        """
        count, size = (len(images), images.shape[1]) if at is None else at.shape
        numbers = len(whole) + size * images.shape[-1]
        found = []
        for rows in torch.arange(count, device=images.device).split(max(1, _AT_ONCE // numbers)):
            chosen = rows if at is None else at[rows]
            found.append((self.of(images[chosen], labels[chosen]) - whole).square().sum(1))
        return torch.cat(found)


def whole_part(problem: ClassifierProblem, part: str) -> tuple[Tensor, Tensor]:
    """Returns all images of a part, normalised, shape (n, features), and their labels, int64."""
    images, labels = zip(*problem.part(part), strict=True)
    return torch.cat(images), torch.cat(labels)


def check_problem(problem: Any) -> ClassifierProblem:
    """Returns a problem as it is, and raises an `InvalidTypeError` where it is none."""
    if not isinstance(problem, ClassifierProblem):
        raise InvalidTypeError(f"problem={in_brief(problem)} must be a ClassifierProblem")
    return problem


def _buffers(problem: ClassifierProblem) -> Tensor:
    """Returns what belongs to a network besides its parameters, as the architecture begins, shape (Q,)."""
    kept = problem.architecture.template_row[problem.layout.size :]
    return torch.from_numpy(kept.copy()).to(problem.device, problem.dtype)
