"""Search distributions: moments, scores, information, and noise that a row's number brings back."""

import numpy as np
import pytest
import scipy.stats
import torch

from autotrain_env.evolution.noise import (
    DISTRIBUTIONS,
    Distribution,
    LaplaceNoise,
    NormalNoise,
    StudentTNoise,
    UniformNoise,
    as_noise_distribution,
    draw_noise,
)

SCIPY = {
    NormalNoise(): scipy.stats.norm(),
    LaplaceNoise(): scipy.stats.laplace(scale=0.5**0.5),
    StudentTNoise(8): scipy.stats.t(8, scale=(6 / 8) ** 0.5),
    StudentTNoise(3): scipy.stats.t(3, scale=(1 / 3) ** 0.5),
    UniformNoise(): scipy.stats.uniform(-(3**0.5), 2 * 3**0.5),
}
WITH_SCORE = [distribution for distribution in SCIPY if distribution.has_score]
everywhere = pytest.mark.parametrize("distribution", SCIPY, ids=repr)


@everywhere
def test_noise_has_the_distribution_of_its_name(distribution: Distribution):
    noise = draw_noise(distribution, 1, 2, range(100), 1000).numpy()
    assert noise.dtype == np.float32 and np.isfinite(noise).all()
    assert scipy.stats.kstest(noise.ravel(), SCIPY[distribution].cdf).pvalue > 1e-3
    assert SCIPY[distribution].var() == pytest.approx(1)
    # rows and neighbouring coordinates are independent
    assert abs(np.corrcoef(noise[0::2].ravel(), noise[1::2].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, 0::2].ravel(), noise[:, 1::2].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:, :500].ravel() ** 2, noise[:, 500:].ravel() ** 2)[0, 1]) < 0.03


@everywhere
@pytest.mark.parametrize("size", [1, 2, 7, 1001])
def test_a_row_depends_on_seed_generation_and_number_alone(distribution: Distribution, size: int):
    together = draw_noise(distribution, 5, 9, range(6), size)
    for row in (0, 3, 5):
        assert torch.equal(draw_noise(distribution, 5, 9, range(row, row + 1), size)[0], together[row])
    assert torch.equal(draw_noise(distribution, 5, 9, range(2, 5), size), together[2:5])
    for seed, generation, stream in ((6, 9, 0), (5, 10, 0), (5, 9, 1)):
        other = draw_noise(distribution, seed, generation, range(6), size, stream)
        assert not torch.isclose(other, together).any()
    assert draw_noise(distribution, 5, 9, range(0), size).shape == (0, size)


@pytest.mark.parametrize("distribution", WITH_SCORE, ids=repr)
def test_score_and_curvature_are_derivatives_of_the_density(distribution: Distribution):
    points = torch.tensor([-3.1, -1.0, -0.3, 0.4, 1.7, 4.0], dtype=torch.float64)
    density, step = SCIPY[distribution].pdf, 1e-4
    at, above, below = (density(points.numpy() + shift) for shift in (0, step, -step))
    score = -(above - below) / (2 * step) / at
    assert distribution.score(points).numpy() == pytest.approx(score, rel=1e-5)
    curvature = (above - 2 * at + below) / step**2 / at
    assert distribution.curvature(points).numpy() == pytest.approx(curvature, rel=1e-4)


@pytest.mark.parametrize("distribution", WITH_SCORE, ids=repr)
def test_information_is_the_mean_of_squared_scores(distribution: Distribution):
    noise = draw_noise(distribution, 0, 0, range(200), 2000).double()
    score = distribution.score(noise)
    assert float(score.square().mean()) == pytest.approx(distribution.location_information, rel=0.01)
    of_scale = (noise * score - 1).square().mean()
    assert float(of_scale) == pytest.approx(distribution.scale_information, rel=0.02)


def test_the_uniform_distribution_has_no_score():
    with pytest.raises(ValueError, match="no score"):
        UniformNoise().curvature(torch.zeros(1))
    with pytest.raises(ValueError, match="no natural gradient"):
        _ = UniformNoise().scale_information


def test_names_are_looked_up():
    assert as_noise_distribution("student_t") == DISTRIBUTIONS["student_t"] == StudentTNoise(8.0)
    assert as_noise_distribution(NormalNoise()) == NormalNoise()
    with pytest.raises(ValueError, match="distribution='gauss'.*'laplace', 'normal'"):
        as_noise_distribution("gauss")
    with pytest.raises(TypeError, match="distribution=3"):
        as_noise_distribution(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"degrees=2.*above 2"):
        StudentTNoise(2)
