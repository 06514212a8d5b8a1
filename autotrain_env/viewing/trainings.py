"""Pictures of networks trained side by side: first losses, gradient noise, batch sizes, rates, starts."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from autotrain_env.errors import check
from autotrain_env.optimization.networks import GradientNoise
from autotrain_env.optimization.training import Trainings
from autotrain_env.viewing.descents import COLOURS, DPI, WIDTH
from autotrain_env.viewing.style import BLACK, GREY, tidy


def plot_initial_losses(
    depths: Sequence[int], found: Mapping[str, npt.NDArray[np.float64]], num_classes: int
) -> Figure:
    """Draw losses of untrained networks against their depth, with the loss of equal guesses as a line.

    Args:
        depths: Numbers of hidden layers, shape (k,).
        found: Losses by initialisation, shape (k, seeds): the line is their mean, the band their spread.
        num_classes: Number of classes (C).
    """
    figure = Figure(figsize=(WIDTH, 2.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.axhline(np.log(num_classes), color=BLACK, linewidth=1, linestyle="--")
    axes.annotate(f" log {num_classes}", (depths[-1], np.log(num_classes)), va="bottom", fontsize="small")
    for (name, losses), colour in zip(found.items(), COLOURS, strict=False):
        mean, std = losses.mean(1), losses.std(1)
        axes.plot(depths, mean, ".-", color=colour, label=name)
        axes.fill_between(depths, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel="hidden layers", ylabel="loss before training", xticks=depths)
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
    return figure


def plot_gradient_noise(found: Mapping[str, GradientNoise]) -> Figure:
    """Draw how far minibatch gradients are from the whole one, in lengths of it: dots on lines of theory.

    Args:
        found: What `gradient_noise` returned, by name.
    """
    figure = Figure(figsize=(WIDTH, 2.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (name, noise), colour in zip(found.items(), COLOURS, strict=False):
        lengths = (noise.measured / noise.squared_gradient) ** 0.5
        expected = (noise.expected / noise.squared_gradient) ** 0.5
        axes.plot(noise.batch_sizes, lengths, "o", color=colour, markersize=5, label=name)
        axes.plot(noise.batch_sizes, expected, color=colour, linewidth=1)
    axes.axhline(1, color=GREY, linewidth=1, linestyle="--")
    axes.annotate("noise as long as the gradient", (1, 1), va="bottom", fontsize="small", color=GREY)
    axes.set(xscale="log", yscale="log", xlabel="images in a minibatch", ylabel="noise over gradient")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
    return figure


def plot_batch_sizes(found: Trainings, seconds: Mapping[int, float]) -> Figure:
    """Draw the train loss of each batch size at its best rate: against updates, images seen, and seconds.

    Args:
        found: Networks whose lanes differ in batch size and rate.
        seconds: Seconds of one update by batch size.
    """
    figure = Figure(figsize=(WIDTH, 2.7), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for size, colour in zip(np.unique(found.batch_sizes).tolist(), COLOURS, strict=False):
        check(size in seconds, "seconds", seconds, f"with the batch size {size}")
        lanes = found.lanes(found.batch_sizes == size)
        lane = int(lanes.train_loss[-1].argmin())
        label = f"{size} images, rate {lanes.learning_rates[lane]:.2g}"
        for axes, factor in zip(panels, (1, size, seconds[size]), strict=True):
            x = lanes.updates[1:] * factor
            axes.plot(x, lanes.train_loss[1:, lane], color=colour, label=label)
    for axes, words in zip(panels, ("updates", "images seen", "seconds"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=words)
        tidy(axes)
    panels[0].set_ylabel("train loss")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(seconds), frameon=False, fontsize="small")
    return figure


def plot_rates(found: Mapping[str, Mapping[str, Trainings]], top: float | None = None) -> Figure:
    """Draw the validation loss at the end against the learning rate, for several rules.

    Args:
        found: Networks by rule, by panel; lanes differ in rate and seed. Lines are medians over seeds.
        top: The highest loss that is shown.
    """
    check(len(found) > 0, "found", found, "at least one panel")
    figure = Figure(figsize=(WIDTH, 2.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (title, rules) in zip(panels, found.items(), strict=True):
        for (name, trainings), colour in zip(rules.items(), COLOURS, strict=False):
            rates = np.unique(trainings.learning_rates)
            last = trainings.validation_loss[-1]
            losses = [np.median(last[trainings.learning_rates == rate]) for rate in rates]
            axes.plot(rates, losses, ".-", color=colour, label=name)
        axes.set(xscale="log", xlabel="learning rate", ylim=(0, top))
        axes.set_title(title, fontsize="medium", loc="left")
        tidy(axes)
    panels[0].set_ylabel("validation loss at the end")
    panels[0].legend(frameon=False, fontsize="small")
    return figure


def plot_many_starts(found: Mapping[str, Trainings]) -> Figure:
    """Draw the train losses at which many starts end, from the best to the worst.

    Args:
        found: Networks by name; lanes differ in seed.
    """
    figure = Figure(figsize=(WIDTH, 2.5), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for (name, trainings), colour in zip(found.items(), COLOURS, strict=False):
        last = np.sort(trainings.train_loss[-1])
        axes.plot(np.linspace(0, 100, len(last)), last, ".-", color=colour, label=name, markersize=4)
    axes.set(xlabel="starts, from the best to the worst [%]", ylabel="train loss at the end")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    tidy(axes)
    return figure
