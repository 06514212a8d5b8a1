"""Estimates of derivatives against closed forms, within the standard error of 10^5 samples."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from autotrain_env.evolution.estimates import (
    cosine,
    gradient,
    log_std_gradient,
    second_derivatives,
)
from autotrain_env.evolution.noise import (
    Distribution,
    LaplaceNoise,
    NormalNoise,
    StudentTNoise,
    UniformNoise,
    draw_noise,
)

SCIPY = {
    NormalNoise(): scipy.stats.norm(),
    LaplaceNoise(): scipy.stats.laplace(scale=0.5**0.5),
    StudentTNoise(8): scipy.stats.t(8, scale=(6 / 8) ** 0.5),
    StudentTNoise(30): scipy.stats.t(30, scale=(28 / 30) ** 0.5),
}
SAMPLES = 100_000
CENTRE = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)
STD = torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64)
MATRIX = torch.tensor([[2.0, 0.5, 0.0], [0.5, -1.0, 0.3], [0.0, 0.3, 0.5]], dtype=torch.float64)
SLOPE = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
THRESHOLD = 0.1
with_score = pytest.mark.parametrize("distribution", SCIPY, ids=repr)
every_noise = pytest.mark.parametrize("distribution", [*SCIPY, UniformNoise()], ids=repr)
pairs_or_not = pytest.mark.parametrize("mirrored", [True, False], ids=["mirrored", "single"])


def quadratic(points: Tensor) -> Tensor:
    return 3 + points @ SLOPE + 0.5 * ((points @ MATRIX) * points).sum(-1)


def step(points: Tensor) -> Tensor:
    """1 where the first coordinate is above a threshold."""
    return (points[..., 0] > THRESHOLD).double()


def sampled(distribution: Distribution, mirrored: bool, function=quadratic) -> tuple[Tensor, Tensor]:
    """Fitness and noise of so many members."""
    noise = draw_noise(distribution, 3, 0, range(SAMPLES // (1 + mirrored)), 3).double()
    steps = noise * STD
    points = CENTRE + (torch.stack((steps, -steps), 1).flatten(0, 1) if mirrored else steps)
    return function(points), noise


def assert_within_error(estimate: Tensor, exact: Tensor, contributions: Tensor) -> None:
    """Within 4 standard errors, of contributions of shape (m, d) whose mean the estimate is."""
    error = contributions.std(0) / len(contributions) ** 0.5
    assert ((estimate - exact).abs() <= 4 * error + 1e-12).all(), (estimate, exact, error)


def halves(fitness: Tensor, mirrored: bool, *, odd: bool) -> Tensor:
    """What a row of noise is multiplied by, shape (m, 1)."""
    if not mirrored:
        return (fitness - fitness.mean())[:, None]
    plus, minus = fitness[0::2], fitness[1::2]
    return ((plus - minus) / 2 if odd else (plus + minus) / 2 - fitness.mean())[:, None]


def at_threshold(distribution: Distribution) -> tuple[float, float, float]:
    """Where the step lies, in standard deviations; the density there; its score."""
    position = (THRESHOLD - float(CENTRE[0])) / float(STD[0])
    density = SCIPY[distribution].pdf(position)
    return position, density, float(distribution.score(torch.tensor(position)))


@every_noise
@pairs_or_not
def test_gradient_of_a_quadratic(distribution: Distribution, mirrored: bool):
    fitness, noise = sampled(distribution, mirrored)
    found = gradient(fitness, noise, STD, distribution, mirrored)
    contributions = halves(fitness, mirrored, odd=True) * distribution.score(noise) / STD
    assert_within_error(found, SLOPE + MATRIX @ CENTRE, contributions)


@every_noise
@pairs_or_not
def test_gradient_of_a_step(distribution: Distribution, mirrored: bool):
    fitness, noise = sampled(distribution, mirrored, step)
    if isinstance(distribution, UniformNoise):  # smoothed by an Epanechnikov kernel of half-width √3
        position = (THRESHOLD - float(CENTRE[0])) / float(STD[0])
        density = 3 / 4 * (1 - position**2 / 3) / 3**0.5
    else:
        density = at_threshold(distribution)[1]
    exact = torch.tensor([density, 0, 0]) / STD
    found = gradient(fitness, noise, STD, distribution, mirrored)
    contributions = halves(fitness, mirrored, odd=True) * distribution.score(noise) / STD
    assert_within_error(found, exact, contributions)


def test_uniform_noise_smooths_each_component_by_another_kernel():
    """f = |x - y - 0.6|: the component along x, by quadrature over the two kernels."""
    fitness, noise = sampled(
        UniformNoise(), True, lambda points: (points[..., 0] - points[..., 1] - 0.6).abs()
    )
    found = gradient(fitness, noise, STD, UniformNoise(), True)
    grid = np.linspace(-1, 1, 2001)[:-1] + 0.0005  # [half-widths]
    half = 3**0.5 * STD.numpy()[:2]
    epanechnikov = 0.75 * (1 - grid**2) * 0.001
    x = float(CENTRE[0]) - 0.6 + half[0] * grid
    y = float(CENTRE[1]) + half[1] * grid
    exact = (np.sign(x[:, None] - y) * epanechnikov[:, None]).sum(0).mean()
    contributions = halves(fitness, True, odd=True) * noise / STD
    assert_within_error(found[:1], torch.tensor([exact]), contributions[:, :1])
    smoothed_by_noise = np.sign(x[:, None] - y).mean()  # not what it is the derivative of
    assert abs(exact - smoothed_by_noise) > 10 * float(contributions[:, 0].std()) / SAMPLES**0.5


@with_score
@pairs_or_not
def test_gradient_in_the_logarithm_of_the_standard_deviation(distribution: Distribution, mirrored: bool):
    position, density, _ = at_threshold(distribution)
    for function, exact in (
        (quadratic, MATRIX.diag() * STD**2),
        (step, torch.tensor([position * density, 0, 0])),
    ):
        fitness, noise = sampled(distribution, mirrored, function)
        found = log_std_gradient(fitness, noise, distribution, mirrored)
        factors = noise * distribution.score(noise) - 1
        assert_within_error(found, exact, halves(fitness, mirrored, odd=False) * factors)


@with_score
@pairs_or_not
@pytest.mark.parametrize("with_centre", [True, False])
def test_second_derivatives(distribution: Distribution, mirrored: bool, with_centre: bool):
    _, density, score = at_threshold(distribution)
    laplace = isinstance(distribution, LaplaceNoise)
    curved = MATRIX.diag()
    exact = {quadratic: curved, step: torch.tensor([density * score / float(STD[0]) ** 2, 0, 0])}
    mean = float(quadratic(CENTRE)) + float((curved * STD**2).sum()) / 2
    above = 1 - SCIPY[distribution].cdf(at_threshold(distribution)[0])
    # the mean with one coordinate at the centre, in closed form
    centres = {quadratic: mean - curved * STD**2 / 2, step: torch.tensor([1.0, above, above]).double()}
    for function in (quadratic, step):
        fitness, noise = sampled(distribution, mirrored, function)
        centre = centres[function] if laplace else function(CENTRE) if with_centre else None
        found = second_derivatives(fitness, noise, STD, distribution, mirrored, centre)
        assert ((found.value - exact[function]).abs() <= 4 * found.error).all()
        assert (found.error > 0).all()
        parts = torch.stack(  # the standard error is that of repeated estimates
            [
                second_derivatives(some, rows, STD, distribution, mirrored, centre).value
                for some, rows in zip(fitness.chunk(50), noise.chunk(50), strict=True)
            ]
        )
        assert (found.error / (parts.std(0) / 50**0.5)).log().abs().max() < 0.5


def test_a_wrong_score_is_found_out():
    fitness, noise = sampled(LaplaceNoise(), True, step)
    found = gradient(fitness, noise, STD, NormalNoise(), True)
    density = at_threshold(LaplaceNoise())[1]
    contributions = halves(fitness, True, odd=True) * noise / STD
    with pytest.raises(AssertionError):
        assert_within_error(found, torch.tensor([density, 0, 0]) / STD, contributions)


@every_noise
@pairs_or_not
def test_constant_fitness_has_no_derivatives(distribution: Distribution, mirrored: bool):
    noise = draw_noise(distribution, 0, 0, range(8), 3)
    fitness = torch.full((16 if mirrored else 8,), 0.3)
    assert not gradient(fitness, noise, STD.float(), distribution, mirrored).any()
    if distribution.has_score:
        assert not log_std_gradient(fitness, noise, distribution, mirrored).any()


def test_laplace_noise_needs_the_value_at_its_kink():
    noise = torch.zeros(4, 3)
    for centre in (None, torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"centre=.*shape \(3,\)"):
            second_derivatives(torch.zeros(4), noise, torch.ones(3), LaplaceNoise(), False, centre)
    one = second_derivatives(
        torch.tensor([1.0, 3.0]), torch.zeros(2, 1), torch.ones(1), LaplaceNoise(), False, torch.tensor(1.0)
    )
    assert one.value.tolist() == [2.0]


def test_cosine():
    assert cosine(torch.tensor([1.0, 0]), torch.tensor([0, 2.0])) == 0
    assert cosine(torch.tensor([1.0, 1]), torch.tensor([2.0, 2])) == pytest.approx(1)
    assert cosine(torch.zeros(2), torch.ones(2)) == 0
