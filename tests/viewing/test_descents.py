"""Pictures of descents show what they are given."""

import numpy as np
import pytest
import torch

from autotrain_env.evolution.landscapes import himmelblau, sphere
from autotrain_env.optimization import best_gradient_descent, best_momentum, descend, step_effects
from autotrain_env.optimization.descents import Path
from autotrain_env.viewing.descents import (
    grid_starts,
    plot_basins,
    plot_conditioning,
    plot_effects,
    plot_heights,
    plot_paths,
    plot_settings,
)
from autotrain_env.viewing.style import as_image

SPAN = ((-2.0, 2.0), (-1.0, 1.0))


@pytest.fixture(scope="module")
def path() -> Path:
    starts = torch.tensor([[1.0, 0.5], [-1.0, 0.5]], dtype=torch.float64)
    return descend(sphere, starts, learning_rates=[0.1, 0.2], steps=5)


def test_paths(path: Path):
    figure = plot_paths(sphere, SPAN, {"one": path, "two": path, "three": path})
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in drawn] == ["one", "two", "three"]
    np.testing.assert_allclose(drawn[0].lines[0].get_xydata(), path.points[:, 0])
    np.testing.assert_allclose(drawn[0].lines[2].get_xydata(), path.points[:, 1])
    assert drawn[0].get_xlim() == SPAN[0]
    assert as_image(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("against", "x"), [("passes", [1, 4, 7]), ("steps", [0, 1, 2])])
def test_heights(path: Path, against: str, x: list[int]):
    figure = plot_heights({"a": {"one": path, "other": path.lane(0)}, "b": {"one": path}}, against)
    axes = figure.axes[0]
    assert len(axes.lines) == (2 + 1) + (1 + 1) and len(figure.axes[1].lines) == 3
    thick = axes.lines[2]
    assert thick.get_xdata()[:3].tolist() == x
    np.testing.assert_allclose(thick.get_ydata(), path.heights[:, path.best_lane])
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < path.heights.min()
    alone = plot_heights({"a": {"one": path}}, against, lowest=0.01, others=False)
    assert len(alone.axes[0].lines) == 1 and alone.axes[0].get_ylim()[0] == 0.01


def test_heights_down_to_the_minimum_and_beyond_all_numbers():
    path = descend(sphere, torch.ones(1, 2), learning_rates=[0.5, 1e30], steps=3)  # 0 at once; diverges
    figure = plot_heights({"a": {"one": path}})
    assert figure.axes[0].get_ylim()[0] > 0
    assert as_image(figure)


def test_effects():
    found = step_effects(sphere, torch.ones(5), length=0.1, directions=50)
    figure = plot_effects({"ball": found, "same": found})
    assert figure.axes[0].get_title(loc="left") == "ball: d = 5"
    assert figure.axes[0].lines[1].get_xdata()[0] == found.gradient
    assert sum(bar.get_height() * bar.get_width() for bar in figure.axes[0].patches) == pytest.approx(1)


def test_settings():
    rates, momenta = np.array([0.1, 1.0, 2.0]), np.array([0.0, 0.5])
    best = {"plain": best_gradient_descent(9), "heavy": best_momentum(9)}
    steps = np.array([[10, 5, np.inf], [8, 0, 100]])
    axes = plot_settings(rates, momenta, steps, best).axes[0]
    shown = axes.collections[0].get_array()
    assert np.ma.getmaskarray(shown).ravel().tolist() == [False, False, True, False, False, False]
    marks = [tuple(line.get_xydata()[0]) for line in axes.lines]
    assert marks == [(one.learning_rate, one.momentum) for one in best.values()]
    with pytest.raises(ValueError, match=r"steps=.*of shape \(2, 3\)"):
        plot_settings(rates, momenta, steps.T, best)


def test_conditioning():
    figure = plot_conditioning([1, 10], {"a": np.array([2.0, 20])}, {"a": np.array([3.0, 30])})
    dots, line = figure.axes[0].lines
    assert dots.get_ydata().tolist() == [2, 20] and line.get_ydata().tolist() == [3, 30]


def test_basins_have_the_colours_of_the_minima_that_are_reached():
    starts = grid_starts(SPAN, 2)
    assert starts.tolist() == [[-2, -1], [2, -1], [-2, 1], [2, 1]]  # rows from the bottom
    minima = [(3, 2), (-2.805118, 3.131312)]
    ends = np.array([[3, 2], [-2.805118, 3.131312], [0, 0], [np.nan, 0]])
    path = Path(np.array([0]), ends[None], np.zeros((1, 4)), np.array([1]))
    image = plot_basins(himmelblau, SPAN, {"way": path}, minima).axes[0].images[0].get_array()
    assert image.shape == (2, 2, 3)
    assert not np.array_equal(image[0, 0], image[0, 1])
    assert (image[1] == 1).all()  # elsewhere, or nowhere: white
    with pytest.raises(ValueError, match="ends='3 lanes'.*square"):
        three = Path(np.array([0]), ends[None, :3], np.zeros((1, 3)), np.array([1]))
        plot_basins(himmelblau, SPAN, {"way": three}, minima)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: plot_paths(sphere, SPAN, {}), "paths="),
        (lambda path: plot_heights({}), "panels="),
        (lambda path: plot_heights({"a": {}}), "panels="),
        (lambda path: plot_heights({"a": {"one": path}}, "seconds"), "against='seconds'"),
        (lambda path: plot_effects({}), "effects="),
        (lambda path: plot_basins(sphere, SPAN, {}, [(0, 0)]), "ends="),
        (lambda path: plot_basins(sphere, SPAN, {"a": path}, [0, 0]), "minima="),
    ],
)
def test_mistakes_are_named(path: Path, make, message: str):
    with pytest.raises(ValueError, match=message):
        make(path)
