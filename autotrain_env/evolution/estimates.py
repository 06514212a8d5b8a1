"""Estimates of derivatives from the fitness of perturbed parameters.

With noise ε of unit variance in every coordinate and J(θ, s) = E[f(θ + s ε)], where s is a standard
deviation for every coordinate:

    dJ/dθ_j      = E[f score(ε_j)] / s_j
    d²J/dθ_j²    = E[f curvature(ε_j)] / s_j²
    dJ/d log s_j = E[f (ε_j score(ε_j) - 1)]

A mirrored pair is two members with noise ε and -ε. The score is odd, so that a gradient lies in the
differences of pairs; the other two factors are even, and their estimates lie in the sums. A baseline, which
changes no expectation, is subtracted in either case: the mean of the others, so that no member is its own
baseline (all members' mean, and n - 1 in place of n).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from autotrain_env.errors import check
from autotrain_env.evolution.fitness import less_mean
from autotrain_env.evolution.noise import Distribution, LaplaceNoise


def gradient(
    fitness: Tensor, noise: Tensor, std: Tensor, distribution: Distribution, mirrored: bool
) -> Tensor:
    """Estimate the gradient of the smoothed fitness (Salimans and others, arXiv:1703.03864).

    Args:
        fitness: Fitness of the members, shape (n,); of mirrored pairs that of + and of - in turn.
        noise: Noise, one row for each member, or for each pair if mirrored, shape (m, d).
        std: Standard deviation of the perturbation, shape (d,) or ().
        distribution: Distribution of the noise.
        mirrored: Whether members come in mirrored pairs.

    Returns:
        The estimate, shape (d,).
    """
    return gradient_weights(fitness, len(noise), mirrored) @ distribution.score(noise) / std


def gradient_weights(fitness: Tensor, rows: int, mirrored: bool) -> Tensor:
    """Returns what the scores of each row of noise weigh in the estimate of a gradient, shape (rows,).

    Args:
        fitness: Fitness, as for `gradient`.
        rows: Number of rows of noise.
        mirrored: Whether members come in mirrored pairs.
    """
    if mirrored:
        return (fitness[0::2] - fitness[1::2]) / 2 / rows
    return less_mean(fitness) / (rows - 1)


def log_std_gradient(fitness: Tensor, noise: Tensor, distribution: Distribution, mirrored: bool) -> Tensor:
    """Estimate the gradient in the logarithm of each coordinate's standard deviation.

    Args:
        fitness: Fitness, as for `gradient`; of at least two rows of noise.
        noise: Noise, as for `gradient`.
        distribution: Distribution of the noise; one with a score.
        mirrored: Whether members come in mirrored pairs.

    Returns:
        The estimate, shape (d,).
    """
    return even_weights(fitness, mirrored) @ (noise * distribution.score(noise) - 1)


class Estimate(NamedTuple):
    """An estimate with its standard error.

    Args:
        value: The estimate, shape (d,).
        error: Standard error of that, shape (d,).
    """

    value: Tensor
    error: Tensor


def second_derivatives(
    fitness: Tensor,
    noise: Tensor,
    std: Tensor,
    distribution: Distribution,
    mirrored: bool,
    centre: Tensor | None = None,
) -> Estimate:
    """Estimate the second derivative of the smoothed fitness along each coordinate.

    Args:
        fitness: Fitness, as for `gradient`; of at least two rows of noise.
        noise: Noise, as for `gradient`.
        std: Standard deviation, as for `gradient`.
        distribution: Distribution of the noise; one with a score.
        mirrored: Whether members come in mirrored pairs.
        centre: The fitness without noise, shape (), a better baseline than the members' mean. Laplace noise
            needs it, since the kink of its density adds -2 f at noise 0: the mean of f with coordinate j
            unperturbed and the others perturbed, shape (d,), or shape () where d is 1.

    Raises:
        InvalidValueError: If the distribution has no score, or Laplace noise has no centre of the right
            shape.
    """
    factors = distribution.curvature(noise)
    count, size = noise.shape
    sums = (fitness[0::2] + fitness[1::2]) / 2 if mirrored else fitness
    if isinstance(distribution, LaplaceNoise):
        shapes = ((size,), ()) if size == 1 else ((size,),)
        check(
            centre is not None and tuple(centre.shape) in shapes,
            "centre",
            None if centre is None else f"of shape {tuple(centre.shape)}",
            f"of shape ({size},) for Laplace noise: f with each coordinate unperturbed",
        )
        assert centre is not None
        value = (2 * (sums.mean() - centre)).to(noise).expand(size)
        spread = (2 * sums.std()).to(noise).expand(size)
    else:
        weights = (less_mean(sums) if centre is None else sums - centre).to(noise)
        value = weights @ factors / (count - 1 if centre is None else count)
        spread = ((weights**2 @ factors**2) / count - value**2).clamp(min=0).sqrt()
    return Estimate(value / std**2, spread / count**0.5 / std**2)


def even_weights(fitness: Tensor, mirrored: bool) -> Tensor:
    """Returns what each row of noise weighs in the estimate of an even derivative, shape (rows,).

    Args:
        fitness: Fitness, as for `gradient`.
        mirrored: Whether members come in mirrored pairs.
    """
    sums = (fitness[0::2] + fitness[1::2]) / 2 if mirrored else fitness
    return less_mean(sums) / (len(sums) - 1)


def cosine(first: Tensor, second: Tensor) -> float:
    """Returns the cosine of the angle between two vectors of shape (d,), 0 where one of them is 0."""
    return float(torch.nn.functional.cosine_similarity(first, second, 0))
