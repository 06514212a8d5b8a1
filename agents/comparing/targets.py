"""What policies are evaluated on: development targets, to choose by, and final ones, to be judged by.

Everything that is chosen (algorithm, checkpoint, features, tasks to train on) is chosen by validation
scores on development targets. Final targets are for `python -m agents final` alone, which counts its looks.
"""

from dataclasses import dataclass, field
from typing import Any

from autotrain_env.errors import unknown_name

DEVELOPMENT, FINAL = "development", "final"
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
    """

    name: str
    stage: str
    group: str
    env: dict[str, Any] = field(default_factory=dict)
    episodes: int = 200
    num_envs: int = 64


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
