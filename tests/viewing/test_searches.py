"""Functions to try searches on, and pictures of searches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotrain_env.evolution import EvolutionStrategy, LaplaceNoise, NormalNoise, StudentTNoise
from autotrain_env.evolution.landscapes import rastrigin, rosenbrock, sphere, walled_well
from autotrain_env.viewing.searches import (
    animate_searches,
    descend,
    estimate_scatter,
    plot_ends,
    plot_plane,
    plot_scatter,
    plot_smoothed,
    search,
    smoothed,
)

SPAN = (-1.8, 1.8)


def test_landscapes_by_hand():
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, -1.0]])
    assert sphere(points).tolist() == [0, 2, 5]
    assert rosenbrock(points).tolist() == [1, 0, 100 * 25 + 1]
    assert rastrigin(points).tolist() == pytest.approx([0, 2, 5], abs=1e-4)


def test_the_well_has_a_plateau_walls_and_a_narrow_global_minimum():
    grid = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    values = walled_well(grid)
    assert torch.equal(values, walled_well(-grid))
    assert float(grid[values.argmin()]) == pytest.approx(0) and float(values.min()) == pytest.approx(-0.7)
    assert torch.allclose(values[(grid > 0.71) & (grid < 1.29)], torch.tensor(0.49, dtype=torch.float64))
    assert float(walled_well(torch.tensor(0.28))) > 0.8 > 0.2 > float(walled_well(torch.tensor(0.41)))
    assert values.diff().abs().max() < 0.02  # no jumps


@pytest.mark.parametrize("distribution", [NormalNoise(), LaplaceNoise(), StudentTNoise(8)])
def test_smoothing_a_parabola_adds_the_variance(distribution):
    points = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = smoothed(lambda x: x**2, points, 0.5, distribution, 40_000)
    assert found.tolist() == pytest.approx((points**2 + 0.25).tolist(), abs=0.02)


def test_gradient_descent_and_evolution_end_where_they_should():
    path = descend(lambda x: x**2, [1.0, -2.0], 0.25, 3)
    np.testing.assert_allclose(path, np.outer([1, 0.5, 0.25, 0.125], [1.0, -2.0]))
    stuck = descend(walled_well, [1.0, 0.6], 0.01, 800)
    assert stuck[-1, 0] == 1.0 and 0.35 < stuck[-1, 1] < 0.45
    strategy = EvolutionStrategy(32, 0.35, shaping="raw", optimizer="sgd", learning_rate=0.02)
    centres, stds = search(walled_well, [1.0, 0.6], strategy, 300)
    assert centres.shape == stds.shape == (301, 2)
    assert np.abs(centres[-1]).max() < 0.1 and (stds == 0.35).all()


def test_estimates_scatter_with_the_root_of_the_members():
    sizes = (8, 128)
    found = estimate_scatter(
        walled_well, 0.9, 0.2, {"normal": NormalNoise(), "Laplace": LaplaceNoise()}, sizes, 300
    )
    for kind in ("first", "second"):
        for values in found[kind].values():
            assert values[0] / values[1] == pytest.approx(4, rel=0.3)
    assert (found["second"]["normal"] > 3 * found["first"]["normal"]).all()
    with pytest.raises(ValueError, match="sizes=7.*even"):
        estimate_scatter(walled_well, 0.9, 0.2, {"normal": NormalNoise()}, (7,))


def test_pictures_show_what_they_are_given(tmp_path: Path):
    figure = plot_smoothed(walled_well, SPAN, (0.3, 0.1), {"a": NormalNoise(), "b": LaplaceNoise()})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    paths = {"one": np.array([[1.0, -1.0], [0.5, 0.0]]), "two": np.array([[1.0], [0.0]])}
    figure = plot_ends(walled_well, SPAN, paths)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        f"{name}: from blue to red" for name in paths
    ]
    assert len(figure.axes[0].lines) == 1 + 2 * 2
    figure = plot_plane(walled_well, SPAN, (0.05, 1), {"way": (paths["one"], np.full((2, 2), 0.1))})
    assert len(figure.axes[0].lines) == 3 * 2
    figure = plot_scatter((8, 16), {"first": {"normal": np.array([2.0, 1.0])}})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2, 1]
    moving = {"one": np.linspace(-1, 1, 10).reshape(5, 2)}
    animate_searches(walled_well, SPAN, moving, tmp_path / "moving.gif", frames=5)
    with Image.open(tmp_path / "moving.gif") as image:
        assert image.n_frames == 5
    with pytest.raises(ValueError, match="stds"):
        plot_smoothed(walled_well, SPAN, ())
