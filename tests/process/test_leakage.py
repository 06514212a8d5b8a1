"""What must not influence what: test images nothing at all, validation images no observation."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from autotrain_env import Dataset, SplitSizes, Task
from autotrain_env.data.split import split_dataset
from tests.helpers import Actions, assert_same, tiny, tiny_data

SIZES = SplitSizes(train=48, holdout=40, validation=40)


def variant(*, test: bool = False, validation_of: int | None = None, value: float | None = None) -> Dataset:
    """The tiny data, some of their images replaced by noise.

    Args:
        test: Replace all test images and labels.
        validation_of: Replace the validation images of this split seed.
        value: A number to write instead of noise.
    """
    original = tiny_data()
    images, labels = original.images.clone(), original.labels.copy()
    generator = torch.Generator().manual_seed(0)
    noise = 3 * torch.randn(images.shape, generator=generator)
    if value is not None:
        noise = torch.full(images.shape, value)
    pool = original.pool_size
    if test:
        images[pool:] = noise[pool:]
        labels[pool:] = np.roll(labels[pool:], 1)
    if validation_of is not None:
        index = split_dataset(original, SIZES, validation_of).validation_index
        images[index] = noise[index]
    return Dataset.from_arrays(
        images[:pool], labels[:pool], test_images=images[pool:], test_labels=labels[pool:], num_classes=4
    )


def episodes(env: Any, seed: int = 0) -> list[tuple[Any, float, dict[str, Any]]]:
    """Two episodes of random actions; observation, reward and info of every step."""
    draw = Actions(env, seed, stop=False)
    results = []
    for episode in range(2):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        results.append((observation, 0.0, info))
        ended = False
        while not ended:
            observation, reward, ended, _, info = env.step(draw())
            results.append((observation, reward, info))
    return results


def test_the_variants_differ_where_they_should():
    original, noisy = variant(), variant(test=True)
    pool = original.pool_size
    assert torch.equal(original.images, tiny_data().images)
    assert torch.equal(original.images[:pool], noisy.images[:pool])
    assert not (original.images[pool:] == noisy.images[pool:]).any()
    other = variant(validation_of=0)
    changed = np.flatnonzero((original.images != other.images).flatten(1).any(1).numpy())
    assert changed.tolist() == sorted(split_dataset(original, SIZES, 0).validation_index.tolist())


# Test images ---------------------------------------------------------------------------------------


def train_ppo(dataset: Dataset) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train a small agent on plain environments.

    Returns:
        Its parameters, and the test accuracies that the episodes reported on the way.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    reported: list[float] = []

    class Listener(BaseCallback):
        def _on_step(self) -> bool:
            reported.extend(i["test_accuracy"] for i in self.locals["infos"] if "test_accuracy" in i)
            return True

    env = make_vec_env(
        "AutoTrain-v0", n_envs=4, seed=0, env_kwargs=tiny(dataset=dataset, observation_layout="flat")
    )
    agent = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=4, gamma=1.0, seed=0, device="cpu")
    agent.learn(512, callback=Listener())
    parameters = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    return parameters, reported


def test_a_training_with_noise_for_test_images_ends_in_the_same_parameters():
    parameters, reported = train_ppo(variant())
    others, others_reported = train_ppo(variant(test=True))
    assert_same(dict(others), dict(parameters))
    # Episodes ended, and the noise was really there.
    assert len(reported) == len(others_reported) > 50
    assert np.mean(reported) > np.mean(others_reported) + 0.1
    # A training does change the parameters, and other images than those of the test part matter.
    different, _ = train_ppo(tiny_data(seed=1))
    assert any(not torch.equal(parameters[name], different[name]) for name in parameters)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"terminal_state": "best_holdout"},
        {"reward": "sign"},
        {"score": "neg_log_loss"},
        {"tasks": "rates"},
    ],
)
@pytest.mark.parametrize("num_envs", [None, 3])
def test_test_images_change_nothing_but_the_final_figures(kwargs: dict[str, Any], num_envs: int | None):
    figures = ("test_accuracy", "test_loss", "best_holdout_test_accuracy", "best_holdout_test_loss")
    runs = []
    for dataset in (variant(), variant(test=True), variant(test=True, value=1e30)):
        arguments = tiny(dataset=dataset, **kwargs)
        if num_envs is None:
            results = episodes(gymnasium.make("AutoTrain-v0", **arguments))
        else:
            env = gymnasium.make_vec("AutoTrain-v0", num_envs=num_envs, **arguments)
            env.action_space.seed(0)
            results = [env.reset(seed=0)] + [env.step(env.action_space.sample()) for _ in range(10)]
        seen = []
        for result in results:
            info = result[-1]
            for part in (info, info.get("final_info", {})):
                seen += [part.pop(name) for name in figures if name in part]
        runs.append((results, seen))
    assert len(runs[0][1]) > 4
    for results, seen in runs[1:]:
        assert_same(list(map(list, results)), list(map(list, runs[0][0])))
        assert str(seen) != str(runs[0][1])


def test_the_test_part_is_the_same_for_all_split_seeds():
    env = gymnasium.make("AutoTrain-v0", **tiny()).unwrapped
    parts = set()
    for seed in range(5):
        env.reset(seed=seed)
        episode = env.core.episodes[0]
        test_index = episode.split.test_index
        parts.add(test_index.tobytes())
        assert episode.offset == 0  # positions in the pool are those in the data set
        used = np.concatenate((episode.split.train_index, episode.evaluation_index))
        assert not set(used.tolist()) & set(test_index.tolist())
        assert len(test_index) == 80
    assert len(parts) == 1


# Validation images ---------------------------------------------------------------------------------


def rows_of(dataset: Dataset, **kwargs: Any) -> tuple[list[np.ndarray], list[float]]:
    """Observations and rewards of two episodes on split 0."""
    env = gymnasium.make("AutoTrain-v0", **tiny(dataset=dataset, split_seed=0, **kwargs))
    results = episodes(env)
    return [observation for observation, _, _ in results], [reward for _, reward, _ in results]


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("kwargs", [{}, {"score": "neg_log_loss"}, {"thresholdout": False}])
def test_validation_images_change_no_observation(kwargs: dict[str, Any]):
    observations, rewards = rows_of(variant(), **kwargs)
    others, other_rewards = rows_of(variant(validation_of=0), **kwargs)
    assert_same(others, observations)
    assert rewards != other_rewards  # the noise was really there


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
@pytest.mark.parametrize("value", [1e30, 3e38])
def test_validation_images_that_overflow_change_no_observation(value: float, score: str):
    """Nor do they make a lane count as diverged whose training is healthy."""
    observations, rewards = rows_of(variant(), score=score)
    others, other_rewards = rows_of(variant(validation_of=0, value=value), score=score)
    assert_same(others, observations)
    assert np.isfinite(other_rewards).all() and rewards != other_rewards


def test_the_holdout_does_change_the_observation():
    """The counterpart: the test above would see a leak."""
    original = tiny_data()
    images = original.images.clone()
    index = split_dataset(original, SIZES, 0).holdout_index
    images[index] = torch.randn(len(index), 8, generator=torch.Generator().manual_seed(0))
    pool = original.pool_size
    changed = Dataset.from_arrays(
        images[:pool],
        original.labels[:pool],
        test_images=images[pool:],
        test_labels=original.labels[pool:],
        num_classes=4,
    )
    observations, _ = rows_of(variant())
    others, _ = rows_of(changed)
    assert not np.array_equal(observations, others)


def test_a_given_task_does_not_change_the_test_part_either():
    env = gymnasium.make("AutoTrain-v0", **tiny()).unwrapped
    task = Task(
        dataset=variant(test=True),
        train_size=48,
        holdout_size=40,
        validation_size=40,
        batch_size=8,
        classifier="mlp-6",
        budget=24,
        split_seed=5,
    )
    env.reset(seed=0, options={"task": task})
    episode = env.core.episodes[0]
    positions = episode.dataset.images[episode.split.test_index]
    assert torch.equal(positions, variant(test=True).images[320:])
