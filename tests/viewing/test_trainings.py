"""Pictures of networks trained side by side show what they are given."""

import math

import numpy as np
import pytest
import torch

from autotrain_env.optimization import GradientNoise, Trainings
from autotrain_env.viewing.trainings import (
    plot_batch_sizes,
    plot_gradient_noise,
    plot_initial_losses,
    plot_many_starts,
    plot_rates,
)


@pytest.fixture
def trainings() -> Trainings:
    """Four lanes: two batch sizes at two rates."""
    rising = np.arange(12, dtype=float).reshape(3, 4) + 1
    return Trainings(
        learning_rates=np.array([0.1, 0.2, 0.1, 0.2]),
        momenta=np.zeros(4),
        batch_sizes=np.array([4, 4, 16, 16]),
        seeds=np.zeros(4, int),
        losses=np.zeros((10, 4)),
        updates=np.array([0, 5, 10]),
        train_loss=rising,
        train_accuracy=rising,
        validation_loss=rising,
        validation_accuracy=rising,
        test_accuracy=rising[0],
        parameters=torch.zeros(4, 3),
    )


def test_initial_losses():
    found = np.array([[2.0, 4.0], [3.0, 3.0]])
    axes = plot_initial_losses([0, 1], {"some": found}, 10).axes[0]
    assert axes.lines[0].get_ydata()[0] == pytest.approx(math.log(10))
    assert axes.lines[1].get_ydata().tolist() == [3, 3]


def test_gradient_noise():
    noise = GradientNoise(np.array([1, 4]), np.array([16.0, 4.0]), np.array([16.0, 3.9]), 4.0, 100)
    dots, line, limit = plot_gradient_noise({"some": noise}).axes[0].lines
    assert dots.get_ydata().tolist() == [2, 1] and limit.get_ydata()[0] == 1
    assert line.get_ydata().tolist() == pytest.approx([2, (3.9 / 4) ** 0.5])
    assert noise.noise_scale == pytest.approx(16 / 4)


def test_batch_sizes_are_drawn_at_their_best_rates(trainings: Trainings):
    panels = plot_batch_sizes(trainings, {4: 0.5, 16: 1.0}).axes
    for axes, factors in zip(panels, ((1, 1), (4, 16), (0.5, 1.0)), strict=True):
        for line, lane, factor in zip(axes.lines, (0, 2), factors, strict=True):
            assert line.get_xdata().tolist() == [5 * factor, 10 * factor]
            assert line.get_ydata().tolist() == trainings.train_loss[1:, lane].tolist()
    with pytest.raises(ValueError, match="seconds=.*batch size 16"):
        plot_batch_sizes(trainings, {4: 0.5})


def test_rates_are_medians_over_the_other_lanes(trainings: Trainings):
    figure = plot_rates({"a": {"sgd": trainings}, "b": {"sgd": trainings, "adam": trainings}}, top=3)
    line = figure.axes[0].lines[0]
    assert line.get_xdata().tolist() == [0.1, 0.2] and line.get_ydata().tolist() == [10, 11]
    assert len(figure.axes[1].lines) == 2 and figure.axes[0].get_ylim() == (0, 3)
    with pytest.raises(ValueError, match="found="):
        plot_rates({})


def test_many_starts_are_drawn_from_the_best_to_the_worst(trainings: Trainings):
    line = plot_many_starts({"some": trainings}).axes[0].lines[0]
    assert line.get_ydata().tolist() == [9, 10, 11, 12] and line.get_xdata()[[0, -1]].tolist() == [0, 100]
