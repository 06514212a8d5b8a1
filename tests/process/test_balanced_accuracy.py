"""Balanced accuracy: as scikit-learn has it, as a score and in the final information."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from autotrain_env import AutoTrainVectorEnv, Choice, Dataset, Task, load_dataset
from autotrain_env.process.actions import Decisions
from autotrain_env.process.stacks import balanced_accuracy


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_it_is_scikit_learns(num_classes: int, size: int):
    generator = np.random.default_rng(size)
    labels = generator.integers(num_classes, size=(6, size)) * (generator.random((6, size)) < 0.3)
    predicted = np.where(
        generator.random((6, size)) < 0.6, labels, generator.integers(num_classes, size=(6, size))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class that is predicted and does not occur
        expected = [balanced_accuracy_score(*lane) for lane in zip(labels, predicted, strict=True)]
    found = balanced_accuracy(labels == predicted, labels.astype(np.int32), num_classes)
    assert found == pytest.approx(expected, abs=1e-12)


def imbalanced(share: float = 0.01, size: int = 4000, seed: int = 0) -> Dataset:
    """Two overlapping classes, of which one is rare."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(size) % round(1 / share) == 0).astype(int)
    return load_dataset(
        ((generator.standard_normal((size, 4)) + 2 * labels[:, None]).astype(np.float32), labels)
    )


def play(score: str, num_envs: int = 2, **kwargs) -> tuple[AutoTrainVectorEnv, dict]:
    env = AutoTrainVectorEnv(
        num_envs,
        autoreset_mode="Disabled",
        score=score,
        **{"classifier": "linear", "initial_learning_rate": 0.1, "budget": 100} | kwargs,
    )
    env.reset(seed=0)
    for _ in range(5):
        *_, info = env.step(np.full(num_envs, 2))
    return env, info


@pytest.mark.parametrize("score", ["accuracy", "balanced_accuracy", "neg_log_loss"])
def test_the_final_information_has_it_beside_accuracy(score: str):
    data = imbalanced()
    env, info = play(score, dataset=data)
    images, labels = data.images[data.pool_size :], data.labels[data.pool_size :]
    for best, prefix in ((False, ""), (True, "best_holdout_")):
        for lane in range(2):
            with torch.no_grad():
                predicted = env.network(lane, best=best)(images).argmax(1).numpy()
            assert info[f"{prefix}test_accuracy"][lane] == pytest.approx((predicted == labels).mean())
            expected = balanced_accuracy_score(labels, predicted)
            assert info[f"{prefix}test_balanced_accuracy"][lane] == pytest.approx(expected)
    assert info["test_accuracy"].min() > 0.98 and info["test_balanced_accuracy"].max() < 0.95


@pytest.mark.parametrize("split", ["validation", "holdout"])
def test_it_is_what_the_reward_looks_at(split: str):
    """The sum of improvements is the last score minus the first, each as scikit-learn has it."""
    data = imbalanced()
    env = AutoTrainVectorEnv(
        1, score="balanced_accuracy", dataset=data, budget=100, reward_split=split, classifier="mlp-8"
    )
    scores, rewards = [], []
    for step in range(6):
        if step:
            _, reward, *_, info = env.step(np.array([2]))
            rewards.append(reward[0])
        else:
            _, info = env.reset(seed=0)
        part = env.core.episodes[0].split
        index, labels = (
            (part.validation_index, part.validation_labels)
            if split == "validation"
            else (part.holdout_index, part.holdout_labels)
        )
        with torch.no_grad():
            predicted = env.network(0)(data.images[torch.from_numpy(index).long()]).argmax(1).numpy()
        scores.append(balanced_accuracy_score(labels, predicted))
        assert info["score"][0] == pytest.approx(scores[-1])
    assert sum(rewards) == pytest.approx(scores[-1] - scores[0])


def test_at_equal_classes_it_is_accuracy():
    generator = np.random.default_rng(0)
    labels = np.arange(4000) % 4
    data = load_dataset(
        ((generator.standard_normal((4000, 4)) + labels[:, None]).astype(np.float32), labels)
    )
    sizes = {"train_size": 400, "holdout_size": 400, "validation_size": 400}
    _, info = play("balanced_accuracy", dataset=data, **sizes)
    assert info["test_balanced_accuracy"] == pytest.approx(info["test_accuracy"], abs=1e-9)
    assert info["score"] == pytest.approx(play("accuracy", dataset=data, **sizes)[1]["score"], abs=0.01)


def test_lanes_of_other_data_and_numbers_of_classes_have_their_own():
    sets = Choice((imbalanced(), load_dataset("digits"), imbalanced(0.1, seed=1)))
    env, info = play("balanced_accuracy", 9, dataset=sets)
    assert len({env.core.task(lane).dataset for lane in range(9)}) == 3
    for lane in range(9):
        single = AutoTrainVectorEnv(
            1, autoreset_mode="Disabled", score="balanced_accuracy", budget=100, classifier="linear"
        )
        task = env.core.task(lane)
        assert isinstance(task, Task)
        single.reset(seed=lane, options={"task": task})
        for _ in range(5):
            *_, alone = single.step(np.array([2]))
        for name in ("score", "test_balanced_accuracy", "best_holdout_test_balanced_accuracy"):
            assert alone[name][0] == info[name][lane]


def test_a_network_that_has_diverged_is_at_chance_level():
    env, info = play(
        "balanced_accuracy", dataset=imbalanced(), classifier="mlp-8-8", lr_bounds=(1e-3, 1e38)
    )
    env.reset(seed=0)
    for _ in range(5):
        *_, info = env.step_decisions(_rates(env, 1e38))
    assert info["diverged"].all() and (info["score"] == 0.5).all()
    assert (info["test_balanced_accuracy"] == 0.5).all()


def _rates(env: AutoTrainVectorEnv, rate: float) -> Decisions:
    count = env.num_envs
    return Decisions(
        lr_factor=np.ones(count),
        learning_rate=np.full(count, rate),
        rewind=np.zeros(count, np.int64),
        reinit=np.zeros(count, bool),
        stop=np.zeros(count, bool),
    )
