"""Pictures of classifiers that are evolved."""

import pytest
import torch

from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution.curves import Point
from autotrain_env.viewing.evolved import first_units, plot_accuracy, plot_fitness, plot_mends, plot_units
from autotrain_env.viewing.style import as_image

POINTS = [
    Point(number, 100 * number, 0.5 * number, 0.4 * number, 0.1 * number, 2.0) for number in range(1, 9)
]


@pytest.mark.parametrize(
    ("against", "across"), [("seconds", 0.5), ("forward_passes", 100), ("generation", 1)]
)
def test_accuracy_is_drawn_for_each_training_with_one_name_a_method(against: str, across: float):
    figure = plot_accuracy({"evolution": [POINTS, POINTS[:4]], "Adam": [POINTS]}, against, {"drawn": 0.2})
    (axes,) = figure.axes
    curves = axes.lines[:3]
    assert [len(line.get_xdata()) for line in curves] == [8, 4, 8]
    assert list(curves[0].get_ydata()) == pytest.approx([10 * number for number in range(1, 9)])
    assert list(curves[0].get_xdata()) == pytest.approx([across * number for number in range(1, 9)])
    assert curves[0].get_color() == curves[1].get_color() != curves[2].get_color()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["evolution", "Adam"]
    assert axes.lines[3].get_ydata()[0] == 20 and "drawn: 20.0" in [text.get_text() for text in axes.texts]
    assert as_image(figure).startswith(b"\x89PNG")
    with pytest.raises(InvalidValueError, match="against='time'"):
        plot_accuracy({}, "time")


def test_the_fitness_of_every_member_is_drawn():
    figure = plot_fitness({"first": torch.rand(5), "second": torch.rand(7)}, 0.4, "dead")
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == [5, 7, 2]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert as_image(figure).startswith(b"\x89PNG")


def test_mends_are_drawn_alone_and_together():
    figure = plot_mends({"one": 0.2, "two": 0.1}, {"one": 0.2, "two": 0.6}, 0.1)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([20, 10, 20, 60])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert as_image(figure).startswith(b"\x89PNG")


def test_units_are_pictures_where_they_see_whole_images():
    weights = {"bias": torch.zeros(30), "weight": torch.randn(30, 12)}
    units = first_units(weights, (3, 2, 2))
    assert units is not None and units.shape == (30, 2, 2)
    torch.testing.assert_close(units[3], weights["weight"][3].view(3, 2, 2).mean(0))
    before = {"weight": weights["weight"].clone()}
    before["weight"][7] += 2
    before["weight"][4] -= 1
    changed = first_units(weights, (3, 2, 2), before)
    assert changed is not None
    assert changed[:3].flatten(1).mean(1).tolist() == pytest.approx([-2, 1, 0], abs=1e-6)
    assert first_units(weights, (12,)) is None
    assert first_units({"weight": torch.zeros(2, 3, 3, 3)}, (3, 2, 2)) is None
    figure = plot_units(units, columns=4, count=8)
    assert len(figure.axes) == 8 and all(len(axes.images) == 1 for axes in figure.axes)
    assert sum(len(axes.images) for axes in plot_units(units[:3]).axes) == 3
    assert as_image(figure).startswith(b"\x89PNG")
