"""What policies are evaluated on: development targets, to choose by, and final ones, to be judged by.

Everything that is chosen (algorithm, checkpoint, features, tasks to train on) is chosen by validation
scores on development targets. Final targets are for `python -m agents final` alone, which counts its looks.
The first five of these were looked at for the policies of the tasks `"many"`; the twelve of `RUNS` are for
policies of the tasks `"real_runs"`, and were written down before any of them was trained.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotrain_env import LogUniform
from autotrain_env.errors import unknown_name

DEVELOPMENT, FINAL = "development", "final"
DEFAULT_RATE = 1e-3
"""The rate of torch's SGD, Adam and AdamW where none is given."""
SEEN, UNSEEN_DATASET, UNSEEN_NETWORK, UNSEEN_BOTH = (
    "seen tasks",
    "unseen dataset",
    "unseen network",
    "both unseen",
)


@dataclass(frozen=True)
class Target:
    """A configuration to train networks on.

    Args:
        name: Name as users write it.
        stage: `"development"` or `"final"`.
        group: What of it the policies trained on the tasks `"many"` have not seen.
        env: Arguments of the environment, in place of those that a policy was trained with.
        episodes: How many to play, unless another number is asked for.
        num_envs: Networks trained side by side.
        rates: Smallest and largest rate that schedules are tuned over.
        from_default_rate: Whether agents begin from `DEFAULT_RATE`, too, in a row of their own.
        baseline_env: Arguments of the environment of all baselines, in place of others.
    """

    name: str
    stage: str
    group: str
    env: dict[str, Any] = field(default_factory=dict)
    episodes: int = 200
    num_envs: int = 64
    rates: tuple[float, float] = (1e-3, 10.0)
    from_default_rate: bool = False
    baseline_env: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> np.ndarray:
        """Returns the 8 rates that schedules are tuned over, float64, shape (8,)."""
        return np.geomspace(*self.rates, 8)


def _target(
    name: str,
    stage: str,
    group: str,
    dataset: str,
    train_size: int,
    noise: float,
    network: str,
    episodes: int = 48,
    num_envs: int = 24,
) -> Target:
    env = {
        "tasks": "default",  # initial rates over four decades, random splits and weights
        "dataset": dataset,
        "train_size": train_size,
        "holdout_size": 300 if dataset == "digits" else 500,
        "validation_size": 400 if dataset == "digits" else 500,
        "label_noise": noise,
        "classifier": network,
        "batch_size": 64,
    }
    return Target(name, stage, group, env, episodes, num_envs)


_RATES = {"momentum": (1e-3, 10.0), "adam": (1e-5, 0.1), "adamw": (1e-5, 0.1)}
"""Four decades of initial rates for each optimiser, over which schedules are tuned, too."""


def _run(
    name: str,
    stage: str,
    dataset: str,
    sizes: tuple[int, int, int],
    noise: float,
    network: str,
    optimizer: str,
    budget: int,
    inner_steps: int,
    episodes: int = 48,
) -> Target:
    """Returns a target for policies of the tasks `"real_runs"`.

    Args:
        name: Name of the target.
        stage: Its stage.
        dataset: Its data.
        sizes: Images in train, holdout and validation part.
        noise: Probability of a wrong label.
        network: Its classifier.
        optimizer: Its update rule.
        budget: Updates.
        inner_steps: Updates in an env step.
        episodes: Episodes to play.
    """
    low, high = _RATES[optimizer]
    env = {
        "tasks": "default",
        "dataset": dataset,
        **dict(zip(("train_size", "holdout_size", "validation_size"), sizes, strict=True)),
        "label_noise": noise,
        "classifier": network,
        "optimizer": optimizer,
        "batch_size": min(64, sizes[0] // 4),
        "initial_learning_rate": LogUniform(low, high),
        "budget": budget,
        "inner_steps": inner_steps,
    }
    more = {"lr_bounds": (1e-8, 100.0)}  # an agent's own bounds are no limit to others
    return Target(
        *(name, stage, UNSEEN_BOTH, env, episodes, 24, (low, high)),
        from_default_rate=True,
        baseline_env=more,
    )


_IMAGES, _SMALL = (500, 500), (300, 400)  # holdout and validation
_GLYPHS, _SCENES = "glyphs-7-16000-0.4-10-1x28-1", "scenes-17-14000-1-10-3x32-1"
_DEVELOPMENT_RUNS = (
    _run("mnist_cnn", DEVELOPMENT, "mnist", (20_000, *_IMAGES), 0.0, "cnn", "adam", 1500, 50, episodes=24),
    _run(
        *("mnist_long", DEVELOPMENT, "mnist", (50_000, *_IMAGES), 0.0),
        *("mlp-200-100-50", "momentum", 3000, 100),
        episodes=24,
    ),
    _run("glyphs_mlp", DEVELOPMENT, _GLYPHS, (4_000, *_IMAGES), 0.2, "mlp-150-75", "momentum", 600, 20),
    # hard and clean: here a policy that goes back too readily is found out
    _run(
        *("glyphs_clean", DEVELOPMENT, "glyphs-11-14000-1-20-3x32-1", (10_000, *_IMAGES), 0.0),
        *("mlp-150-75", "momentum", 600, 20),
    ),
    _run(
        *("glyphs_adamw", DEVELOPMENT, "glyphs-13-14000-1-10-3x32-1", (10_000, *_IMAGES), 0.0),
        *("mlp-150-75", "adamw", 2000, 40),
        episodes=24,
    ),
    # the same, with the pixels of photographs: here a policy that goes up too far is found out
    _run(
        *("scenes_clean", DEVELOPMENT, _SCENES, (10_000, *_IMAGES), 0.0, "mlp-150-75", "momentum", 600, 20),
        episodes=24,
    ),
    _run(
        *("scenes_adamw", DEVELOPMENT, _SCENES, (10_000, *_IMAGES), 0.0, "mlp-150-75", "adamw", 2000, 40),
        episodes=24,
    ),
    _run(
        *("glyphs_cnn", DEVELOPMENT, _GLYPHS, (11_000, *_IMAGES), 0.0, "cnn-12-24", "adamw", 1500, 50),
        episodes=24,
    ),
    _run("digits_adamw", DEVELOPMENT, "digits", (400, *_SMALL), 0.2, "mlp-100-50", "adamw", 600, 20),
    _run("breast_cancer", DEVELOPMENT, "breast_cancer", (200, 100, 150), 0.0, "mlp-50", "adamw", 600, 20),
    _run("wine", DEVELOPMENT, "wine", (60, 40, 42), 0.0, "mlp-20", "adamw", 300, 10),
)


def _final_run(fashion: bool, dense: bool, momentum: bool, long: bool, clean: bool) -> Target:
    """Returns the final target with these properties."""
    train = (49_000 if long else 12_000) if clean else (12_000 if long else 4_000)
    words = (
        "fashion" if fashion else "cifar",
        "mlp" if dense else "cnn",
        "momentum" if momentum else "adamw",
        "5000" if long else "600",
        "clean" if clean else "noisy",
    )
    return _run(
        "_".join(words),
        FINAL,
        "fashion_mnist" if fashion else "cifar10",
        (train, *_IMAGES),
        0.0 if clean else 0.2,
        "mlp-150-75" if dense else "cnn-12-24",
        words[2],
        *((5000, 100) if long else (600, 20)),
        episodes=24,
    )


RUNS = tuple(
    _final_run(*(sign == "+" for sign in signs))
    for signs in (
        *("++-++", "-++-+", "+-++-", "-+-++", "--+-+", "---+-"),
        *("+---+", "++---", "+++--", "-+++-", "+-+++", "-----"),
    )
)
"""Twelve of the 32 combinations, by the plan of Plackett and Burman (Biometrika 33, 1946): every two values
of any two properties meet three times."""


TARGETS = {
    target.name: target
    for target in (
        # the task of the documentation, whatever a policy was trained on
        Target("default", DEVELOPMENT, SEEN, {"tasks": "default"}),
        # small and noisy: here networks learn wrong labels by heart
        _target("digits_noisy", DEVELOPMENT, SEEN, "digits", 200, 0.4, "mlp", episodes=96, num_envs=48),
        _target("mnist_noisy", DEVELOPMENT, UNSEEN_DATASET, "mnist", 4000, 0.2, "mlp"),
        _target("teacher", DEVELOPMENT, UNSEEN_DATASET, "teacher-7-12000-0.3", 6000, 0.1, "mlp"),
        _target("digits_network", DEVELOPMENT, UNSEEN_NETWORK, "digits", 400, 0.2, "mlp-100-50"),
        # as deep as networks without normalisation can well be trained: many die at high rates
        _target("digits_layers", DEVELOPMENT, UNSEEN_NETWORK, "digits", 400, 0.2, "mlp-40-40-40-40-40"),
        # more images than the updates can use up, so that a high rate pays until late
        _target("mnist_large", DEVELOPMENT, UNSEEN_BOTH, "mnist", 12000, 0.0, "mlp-200-100-50"),
        _target("fashion", FINAL, UNSEEN_BOTH, "fashion_mnist", 12000, 0.0, "mlp-200-100-50"),
        _target("fashion_noisy", FINAL, UNSEEN_DATASET, "fashion_mnist", 4000, 0.2, "mlp"),
        _target("cifar_mlp", FINAL, UNSEEN_BOTH, "cifar10", 12000, 0.0, "mlp-200-100-50"),
        _target("cifar_cnn", FINAL, UNSEEN_BOTH, "cifar10", 4000, 0.0, "cnn", episodes=24),
        _target("digits_deep", FINAL, UNSEEN_NETWORK, "digits", 400, 0.2, "mlp-64-64-64-64"),
        *_DEVELOPMENT_RUNS,
        *RUNS,
    )
}


def find_target(name: str) -> Target:
    """Returns the target of a name.

    Raises:
        InvalidValueError: If there is none.
    """
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]
