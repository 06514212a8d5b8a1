"""Tasks, where they come from, curricula and presets."""

import copy
import dataclasses
import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
import sklearn.datasets

from autotrain_env import (
    CNN,
    MLP,
    SGD,
    Adam,
    AutoTrainConfig,
    AutoTrainEnv,
    Choice,
    Curriculum,
    Dataset,
    LogUniform,
    Mixture,
    RandomSeed,
    Task,
    TaskDistribution,
    Uniform,
    load_dataset,
    register_dataset,
)
from autotrain_env.process.task_distributions import Sampler
from autotrain_env.process.task_presets import TASK_PRESETS, as_task_distribution
from tests.helpers import tiny, tiny_data, user_arrays

FIELDS = [field.name for field in dataclasses.fields(Task)]


def draws(sampler: Any, count: int = 4000, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array([sampler.sample(generator) for _ in range(count)])


# Samplers ------------------------------------------------------------------------------------------


def test_log_uniform_is_uniform_in_the_logarithm():
    found = draws(LogUniform(1e-3, 10.0))
    assert found.min() >= 1e-3 and found.max() <= 10
    shares = np.histogram(np.log10(found), bins=4, range=(-3, 1))[0] / len(found)
    assert shares == pytest.approx(0.25, abs=0.03)  # four standard deviations


def test_uniform_is_uniform():
    found = draws(Uniform(-1.0, 3.0))
    assert found.min() >= -1 and found.max() <= 3
    assert np.histogram(found, bins=4, range=(-1, 3))[0] / len(found) == pytest.approx(0.25, abs=0.03)


def test_choice_takes_each_value_as_often_as_the_others():
    found = draws(Choice(("a", "b", "c")))
    for value in "abc":
        assert (found == value).mean() == pytest.approx(1 / 3, abs=0.03)
    values = ("cnn", 3, tiny_data(), MLP((2,)))
    drawn = [Choice(values).sample(np.random.default_rng(seed)) for seed in range(60)]
    assert all(any(value is given for given in values) for value in drawn)
    assert {values.index(value) for value in drawn} == {0, 1, 2, 3}


def test_random_seed_is_below_two_to_the_31():
    found = draws(RandomSeed())
    assert found.min() >= 0 and found.max() < 2**31 and len(set(found)) > 3990
    assert found.mean() == pytest.approx(2**30, rel=0.05)


@pytest.mark.parametrize("sampler", [LogUniform(1, 2), Uniform(1, 2), Choice((1, 2)), RandomSeed()])
def test_samplers_draw_from_the_generator_alone_and_pickle(sampler: Any):
    assert isinstance(sampler, Sampler)
    again = pickle.loads(pickle.dumps(sampler))
    assert again == sampler
    assert draws(again, 50, seed=1).tolist() == draws(sampler, 50, seed=1).tolist()
    assert draws(sampler, 50, seed=1).tolist() != draws(sampler, 50, seed=2).tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogUniform(0, 1), r"\(low, high\)=\(0, 1\) is not allowed: it must be 0 < low <= high"),
        (lambda: LogUniform(2, 1), "0 < low <= high"),
        (lambda: LogUniform(1, np.inf), "0 < low <= high"),
        (lambda: LogUniform(np.nan, 1), "0 < low <= high"),
        (lambda: Uniform(2, 1), r"\(low, high\)=\(2, 1\).*low <= high"),
        (lambda: Uniform(-np.inf, 1), "low <= high"),
        (lambda: Choice(()), r"values=\(\) is not allowed: it must be at least one value"),
    ],
)
def test_samplers_refuse_what_they_cannot_draw_from(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make()


# Tasks and distributions ----------------------------------------------------------------------------


def test_the_default_task_is_the_documented_one():
    task = Task()
    assert (task.dataset, task.classifier, task.optimizer) == ("digits", MLP((32,)), SGD(momentum=0.9))
    assert (task.batch_size, task.label_noise, task.budget) == (None, 0.2, 600)
    env = gymnasium.make("AutoTrain-v0")
    env.reset(seed=0)
    assert env.unwrapped.core.episodes[0].batch_size == 64
    assert TASK_PRESETS["default"] == TaskDistribution()
    distribution = TaskDistribution()
    assert distribution.initial_learning_rate == LogUniform(1e-3, 10.0)
    assert distribution.split_seed == RandomSeed()
    for name in ("dataset", "batch_size", "budget", "initialization"):
        assert getattr(distribution, name) == getattr(task, name)
    assert distribution.sample(np.random.default_rng(0)).label_noise == 0.2


# Label noise ------------------------------------------------------------------------------------------


def own_data() -> Dataset:
    return load_dataset(user_arrays(size=400))


def noise_of(seeds: range = range(12), **arguments: Any) -> set[float | None]:
    """Probabilities of wrong labels in some episodes, each with labels that say the same."""
    env = AutoTrainEnv(**{"batch_size": 16, "budget": 20, "classifier": "linear"} | arguments)
    found = set()
    for seed in seeds:
        env.reset(seed=seed)
        episode = env.core.episodes[0]
        split, labels = episode.split, episode.dataset.labels
        wrong = (split.train_labels != labels[split.train_index]).mean()
        assert abs(wrong - episode.task.label_noise) < 0.12
        found.add(episode.task.label_noise)
    return found


def test_a_users_own_data_are_left_alone_unless_asked():
    data = own_data()
    register_dataset("own data", data, overwrite=True)
    register_dataset("loaded later", own_data, overwrite=True)
    for own in (data, "own data", "loaded later", user_arrays(size=400)):
        assert noise_of(dataset=own) == {0.0}
    assert noise_of(tasks=TaskDistribution(dataset=data)) == {0.0}
    assert Task(dataset=data).label_noise == Task(dataset="own data").label_noise == 0.0
    assert Task(dataset=data, label_noise=0.3).label_noise == 0.3
    for asked in ({"label_noise": 0.2}, {"tasks": TaskDistribution(label_noise=0.2)}):
        assert noise_of(dataset=data, **asked) == {0.2}


@pytest.mark.parametrize("preset", ["mixed", "many", "curriculum"])
def test_the_noise_of_presets_is_not_for_a_users_own_data(preset: str):
    sizes = {"train_size": 200, "holdout_size": 50, "validation_size": 50}
    assert noise_of(tasks=preset, dataset=own_data(), **sizes) == {0.0}
    assert noise_of(tasks=preset, dataset=own_data(), label_noise=0.1, **sizes) == {0.1}
    assert len(noise_of(range(30), tasks="many", dataset="digits", **sizes)) == 4


def test_built_in_data_have_noisy_labels_where_nobody_says_otherwise():
    for data in ("digits", "synthetic", "teacher-3-1500-0.5", tiny_data(size=1000), load_dataset("digits")):
        assert noise_of(range(2), dataset=data) == {0.2}
        assert noise_of(range(2), dataset=data, label_noise=0.0) == {0.0}
    assert noise_of(dataset=Choice(("digits", own_data()))) == {0.0, 0.2}
    assert pickle.loads(pickle.dumps(load_dataset("digits"))).built_in
    assert copy.deepcopy(own_data()).built_in is False


def test_tasks_are_values():
    data = tiny_data()
    task = Task(dataset=data, classifier="mlp-7", optimizer="adam")
    assert task == Task(dataset=data, classifier=MLP((7,)), optimizer=Adam())
    assert hash(task) == hash(Task(dataset=data, classifier=MLP([7]), optimizer=Adam()))
    assert task != Task(dataset=data, classifier="mlp-7", optimizer="adam", batch_size=32)
    assert pickle.loads(pickle.dumps(task)) == task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.budget = 1  # type: ignore[misc]


def test_a_distribution_has_the_fields_of_a_task():
    assert [field.name for field in dataclasses.fields(TaskDistribution)] == FIELDS


def test_fixed_fields_stay_and_samplers_are_drawn():
    distribution = TaskDistribution(
        dataset=tiny_data(),
        label_noise=Uniform(0.1, 0.3),
        optimizer=Choice(("sgd", "adam")),
        batch_size=Choice((8, 16)),
        classifier=Choice(("linear", CNN())),
    )
    tasks = [distribution.sample(np.random.default_rng(seed)) for seed in range(40)]
    assert {task.dataset for task in tasks} == {tiny_data()}
    assert {task.budget for task in tasks} == {600}
    assert {task.batch_size for task in tasks} == {8, 16}
    assert {task.optimizer for task in tasks} == {SGD(), Adam()}
    assert {task.classifier for task in tasks} == {MLP(()), CNN()}
    assert len({task.label_noise for task in tasks}) == 40
    assert all(
        0.1 <= task.label_noise <= 0.3 and 1e-3 <= task.initial_learning_rate <= 10 for task in tasks
    )
    assert distribution.sample(np.random.default_rng(7)) == tasks[7]


def test_replace_changes_some_fields_and_nothing_else():
    distribution = TaskDistribution(label_noise=0.1)
    changed = distribution.replace(budget=40, batch_size=Choice((1, 2)))
    assert (changed.budget, changed.batch_size, changed.label_noise) == (40, Choice((1, 2)), 0.1)
    assert distribution.budget == 600
    assert distribution.possible("budget") == [600] and changed.possible("batch_size") == [1, 2]
    assert distribution.possible("initial_learning_rate") == [1e-3, 10.0]
    assert distribution.possible("split_seed") == []


def test_wrong_fields_are_found_when_a_distribution_is_made():
    for kwargs, message in (
        ({"label_noise": 1.5}, r"label_noise=1.5 is not allowed: it must be in \[0, 1\]"),
        ({"label_noise": Uniform(0.5, 1.5)}, "label_noise=1.5"),
        (
            {"optimizer": Choice(("sgd", "sdg"))},
            "optimizer='sdg' is not a known name; the nearest known one is 'sgd'",
        ),
        ({"batch_size": Choice((8, 0))}, "batch_size=0"),
        ({"initial_learning_rate": -1.0}, "initial_learning_rate=-1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            TaskDistribution(**kwargs)


@pytest.mark.parametrize("preset", [name for name in TASK_PRESETS if "_runs" not in name])
def test_presets_make_environments_without_a_download(preset: str):
    env = gymnasium.make("AutoTrain-v0", tasks=preset)
    tasks = set()
    for seed in range(12):
        env.reset(seed=seed)
        env.step(2)
        tasks.add(env.unwrapped.core.task(0))
    assert len(tasks) == 12
    kinds = {
        name: {str(getattr(task, name)) for task in tasks}
        for name in (
            "split_seed",
            "dataset",
            "classifier",
            "optimizer",
            "batch_size",
            "label_noise",
            "train_size",
        )
    }
    several = {name for name, values in kinds.items() if len(values) > 1}
    varied = {
        "default": {"split_seed"},
        "rates": set(),
        "mixed": kinds.keys(),
        "curriculum": {"split_seed"},
        "many": {"split_seed", "dataset", "classifier", "optimizer", "label_noise"},
    }
    assert several == varied[preset]
    assert len({task.initial_learning_rate for task in tasks}) == 12


@pytest.mark.parametrize(("preset", "most"), [("real_runs", 20_000), ("short_real_runs", 2_000)])
def test_real_runs_are_what_people_train(preset: str, most: int):
    tasks = as_task_distribution(preset)
    assert isinstance(tasks, Mixture) and as_task_distribution(preset) is tasks
    generator = np.random.default_rng(0)
    drawn = [tasks.sample(generator) for _ in range(3000)]
    names = {task.dataset.split("-")[0] for task in drawn if isinstance(task.dataset, str)}
    assert names == {
        *("digits", "gaussian_mixture", "correlated_mixture", "teacher"),
        *("shapes", "patterns", "textures", "teacher_cnn"),
    }
    budgets = np.array([task.budget for task in drawn])
    decisions = budgets / [task.inner_steps or 0 for task in drawn]
    assert (budgets.min(), budgets.max()) == (300, most)
    assert decisions.min() == 15 and decisions.max() == 120 and (decisions % 1 == 0).all()
    noises = np.array([task.label_noise for task in drawn])
    assert (noises == 0).mean() == pytest.approx(0.5, abs=0.04) and 0.49 < noises.max() <= 0.5
    rules = {type(task.optimizer).__name__ for task in drawn}
    assert rules == {"SGD", "RMSprop", "Adam", "AdamW"}
    rates = np.array([task.initial_learning_rate for task in drawn if task.optimizer == Adam()])
    assert ((rates >= 1e-4) & (rates <= 2e-2)).mean() > 0.75 and rates.min() < 1e-5 and rates.max() > 0.3
    networks = {type(task.classifier).__name__ for task in drawn}
    assert networks == {"MLP", "CNN", "Normalized"}
    assert {task.batch_size for task in drawn} == {16, 32, 64, 128, 256}
    blind = np.mean([task.measured == "nothing" for task in drawn])
    assert blind == pytest.approx(0.25, abs=0.03)
    assert np.mean([task.can_reinit for task in drawn]) == pytest.approx(0.5, abs=0.04)


def test_training_runs_have_small_sets_and_wrong_labels_more_often():
    generator = np.random.default_rng(0)
    small, wrong = {}, {}
    for preset in ("short_real_runs", "training_runs"):
        tasks = as_task_distribution(preset)
        drawn = [tasks.sample(generator) for _ in range(3000)]
        few = [task.train_size is not None for task in drawn]
        small[preset] = np.mean(few)
        wrong[preset] = np.mean([task.label_noise > 0 for task in drawn])
        assert {task.train_size for task in drawn} == {None, 100, 200, 250, 400, 500, 1000}
        assert max(task.budget for task in drawn) == 2_000
    assert small["short_real_runs"] == pytest.approx(0.34, abs=0.03)
    assert small["training_runs"] == pytest.approx(0.54, abs=0.03)
    assert wrong["short_real_runs"] == pytest.approx(0.5, abs=0.03)
    assert wrong["training_runs"] == pytest.approx(0.63, abs=0.03)


@pytest.mark.slow
def test_every_task_of_real_runs_fits_its_data():
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=24, tasks="real_runs").unwrapped
    envs.reset(seed=0)
    sizes = {len(data.labels) for data in envs.core.maker._own}  # type: ignore[attr-defined]
    assert min(sizes) <= 2500 and max(sizes) == 62_500
    envs.step(np.full(24, 2))


def test_as_task_distribution_looks_names_up():
    assert as_task_distribution("mixed") is TASK_PRESETS["mixed"]
    distribution = TaskDistribution()
    assert as_task_distribution(distribution) is distribution
    with pytest.raises(
        ValueError, match="tasks='mixd' is not a known name; the nearest known one is 'mixed'"
    ):
        as_task_distribution("mixd")
    with pytest.raises(
        TypeError, match="tasks=3 must be a name, a TaskDistribution, a Mixture or a Curriculum"
    ):
        as_task_distribution(3)  # type: ignore[arg-type]


# Mixtures ------------------------------------------------------------------------------------------


def test_fields_of_a_mixture_are_drawn_together():
    parts = [
        TaskDistribution(optimizer="sgd", initial_learning_rate=LogUniform(0.1, 1)),
        TaskDistribution(optimizer="adam", initial_learning_rate=LogUniform(1e-4, 1e-3)),
        TaskDistribution(optimizer="rmsprop", initial_learning_rate=LogUniform(1e-6, 1e-5)),
    ]
    mixture = Mixture(parts, (1, 2, 5))
    assert mixture.shares == pytest.approx((1 / 8, 2 / 8, 5 / 8)) and mixture.levels == (mixture,)
    generator = np.random.default_rng(0)
    drawn = [mixture.sample(generator) for _ in range(800)]
    for part, share in zip(parts, mixture.shares, strict=True):
        kind = Task(optimizer=part.optimizer).optimizer
        rates = [task.initial_learning_rate for task in drawn if task.optimizer == kind]
        assert len(rates) == pytest.approx(800 * share, rel=0.25)
        assert (
            min(rates) >= part.initial_learning_rate.low and max(rates) <= part.initial_learning_rate.high
        )
    again = pickle.loads(pickle.dumps(mixture))
    assert again == mixture
    assert again.sample(np.random.default_rng(7)) == mixture.sample(np.random.default_rng(7))


def test_mixtures_of_mixtures_are_flat_and_can_be_changed():
    parts = [TaskDistribution(budget=budget) for budget in (20, 40, 60)]
    nested = Mixture((Mixture(parts[:2], (1, 3)), parts[2]), (2, 1))
    assert nested.parts == tuple(parts)
    assert nested.shares == pytest.approx((2 / 3 * 1 / 4, 2 / 3 * 3 / 4, 1 / 3))
    changed = nested.replace(label_noise=0.1, budget=80)
    assert changed.shares == pytest.approx(nested.shares)
    assert {(part.budget, part.label_noise) for part in changed.parts} == {(80, 0.1)}
    assert Mixture(parts).shares == (1 / 3,) * 3


def test_a_mixture_in_an_environment_and_in_a_curriculum():
    parts = (TaskDistribution(budget=20, classifier="linear"), TaskDistribution(budget=40))
    config = AutoTrainConfig(tasks=Mixture(parts), label_noise=0.3)
    assert [part.label_noise for part in config.task_distribution.levels[0].parts] == [0.3, 0.3]
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=12, tasks=Mixture(parts))
    envs.reset(seed=0)
    met = {(task.budget, task.classifier) for task in map(envs.unwrapped.core.task, range(12))}
    assert met == {(20, MLP(())), (40, MLP())}
    levels = Curriculum((parts[0], Mixture(parts)))
    assert levels.sample(np.random.default_rng(0), 0).budget == 20
    assert {levels.sample(np.random.default_rng(seed), 1).budget for seed in range(9)} == {20, 40}
    with pytest.raises(ValueError, match="budget=30"):
        AutoTrainConfig(tasks=Mixture((*parts, TaskDistribution(budget=30))))
    with pytest.raises(ValueError, match="train_size, holdout_size, validation_size"):
        AutoTrainEnv(tasks=Mixture((*parts, TaskDistribution(train_size=5000))))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"parts": ()}, ValueError, "parts=.*at least one TaskDistribution or Mixture"),
        ({"parts": "default"}, TypeError, "parts='default' must be a list"),
        ({"parts": ("default",)}, TypeError, "parts=.*must be TaskDistributions or Mixtures"),
        ({"weights": (1, 2)}, ValueError, r"weights=\(1, 2\) is not allowed: it must be 1 numbers above 0"),
        ({"weights": (0,)}, ValueError, "weights"),
        ({"weights": (np.nan,)}, ValueError, "weights"),
        ({"weights": ("a",)}, ValueError, "weights"),
        ({"weights": 1.0}, TypeError, "weights"),
    ],
)
def test_wrong_mixtures_are_reported(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Mixture(**{"parts": (TaskDistribution(),)} | arguments)


# Curricula -----------------------------------------------------------------------------------------


def curriculum(**kwargs: Any) -> Curriculum:
    levels = [TaskDistribution(label_noise=noise) for noise in (0.0, 0.2, 0.4)]
    return Curriculum(levels, **kwargs)


def test_a_curriculum_samples_the_level_that_it_is_told():
    tasks = curriculum()
    for level, noise in enumerate((0.0, 0.2, 0.4)):
        assert tasks.sample(np.random.default_rng(0), level).label_noise == noise
    assert tasks.sample(np.random.default_rng(0)).label_noise == 0.0
    assert [level.budget for level in tasks.replace(budget=20).levels] == [20, 20, 20]
    assert tasks.levels[0].budget == 600


@pytest.mark.parametrize(
    ("level", "successes", "expected"),
    [
        (0, [True] * 8 + [False] * 2, 1),  # exactly the share that promotes
        (0, [True] * 7 + [False] * 3, 0),
        (1, [True] * 2 + [False] * 8, 1),  # exactly the share that does not demote yet
        (1, [True] + [False] * 9, 0),
        (1, [True] * 10, 2),
        (2, [True] * 10, 2),
        (0, [False] * 10, 0),
        (1, [], 1),
    ],
)
def test_the_next_level_follows_from_the_share_of_successes(
    level: int, successes: list[bool], expected: int
):
    assert curriculum().next_level(level, successes) == expected


def test_thresholds_of_a_curriculum_can_be_set():
    tasks = curriculum(promote_at=0.5, demote_at=0.4)
    assert [tasks.next_level(1, [True] * n + [False] * (10 - n)) for n in (3, 4, 5)] == [0, 1, 2]
    for kwargs in ({"promote_at": 0.2}, {"demote_at": -0.1}, {"promote_at": 1.1}):
        with pytest.raises(ValueError, match="0 <= demote_at < promote_at <= 1"):
            curriculum(**kwargs)
    with pytest.raises(ValueError, match="at least one TaskDistribution"):
        Curriculum(())


@pytest.mark.parametrize("num_envs", [None, 3])
def test_the_level_is_set_from_outside_for_episodes_that_begin_afterwards(num_envs: int | None):
    arguments = tiny()
    tasks = Curriculum([TaskDistribution(label_noise=noise) for noise in (0.0, 0.3)])
    if num_envs is None:
        env = gymnasium.make("AutoTrain-v0", tasks=tasks, **arguments).unwrapped
    else:
        env = gymnasium.make_vec("AutoTrain-v0", num_envs=num_envs, tasks=tasks, **arguments).unwrapped
    lanes = range(num_envs or 1)

    def noises() -> set[float]:
        return {env.core.task(lane).label_noise for lane in lanes}

    env.reset(seed=0)
    assert noises() == {0.0}
    env.set_task_level(1)
    assert noises() == {0.0}
    env.step(env.action_space.sample() * 0 + 2)
    assert noises() == {0.0}
    env.reset()
    assert noises() == {0.3}
    env.set_task_level(0)
    env.reset()
    assert noises() == {0.0}
    for level in (2, -1):
        with pytest.raises(ValueError, match=f"level={level} is not allowed: it must be from 0 to 1"):
            env.set_task_level(level)
    assert env.core.maker.task_level == 0


def test_without_a_curriculum_there_is_one_level(tiny_env: Any):
    env = tiny_env()
    env.set_task_level(0)
    with pytest.raises(ValueError, match="level=1 is not allowed: it must be from 0 to 0"):
        env.set_task_level(1)


def test_within_a_level_the_seed_alone_decides_the_task():
    """Neither the number of earlier episodes nor what was done in them."""
    tasks = Curriculum(
        [TaskDistribution(label_noise=Uniform(0, 0.4)), TaskDistribution(label_noise=Uniform(0.5, 0.9))]
    )
    met = []
    for script in ([16], [2, 15, 16]):
        env = gymnasium.make("AutoTrain-v0", tasks=tasks, **tiny()).unwrapped
        episodes = []
        for episode in range(4):
            env.set_task_level(episode % 2)
            env.reset(seed=3 if episode == 0 else None)
            episodes.append(env.core.task(0))
            for action in script:
                env.step(action)
        met.append(episodes)
    assert met[0] == met[1]
    assert [task.label_noise > 0.5 for task in met[0]] == [False, True, False, True]
    assert len({task.split_seed for task in met[0]}) == 4


# In the configuration -------------------------------------------------------------------------------


def test_arguments_of_the_environment_replace_fields_of_every_level():
    tasks = Curriculum([TaskDistribution(label_noise=0.1, budget=40), TaskDistribution(label_noise=0.3)])
    config = AutoTrainConfig(tasks=tasks, budget=Choice((20, 40)), classifier="linear", label_noise=None)
    levels = config.task_distribution.levels
    assert [level.label_noise for level in levels] == [0.1, 0.3]
    assert [level.budget for level in levels] == [Choice((20, 40))] * 2
    assert [level.classifier for level in levels] == ["linear"] * 2
    assert AutoTrainConfig(tasks=tasks).task_distribution is tasks


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "inner_steps"])
def test_every_field_of_a_task_is_an_argument_of_the_environment(name: str):
    value = {
        "dataset": tiny_data(),
        "classifier": MLP((3,)),
        "optimizer": Adam(),
        "initialization": "orthogonal",
        "label_noise": 0.05,
        "initial_learning_rate": 0.02,
        "measured": "nothing",
        "can_reinit": False,
        "epochs_known": False,
    }.get(name, 20)
    env = gymnasium.make("AutoTrain-v0", **(tiny(inner_steps=20) | {"budget": 40, name: value})).unwrapped
    env.reset(seed=0)
    assert getattr(env.core.task(0), name) == value


@pytest.mark.parametrize(
    ("train_size", "expected"),
    [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (57, 14), (255, 63), (256, 64), (259, 64), (400, 64)],
)
def test_the_default_batch_is_small_where_images_are_few(train_size: int, expected: int):
    env = gymnasium.make("AutoTrain-v0", train_size=train_size, budget=20).unwrapped
    env.reset(seed=0)
    assert env.core.episodes[0].batch_size == expected
    env.step(2)
    assert env.core.task(0).batch_size is None  # what was asked for
    env.reset(options={"task": Task(train_size=train_size, batch_size=1)})
    assert env.core.episodes[0].batch_size == 1


@pytest.mark.parametrize("name", ["wine", "iris", "breast_cancer"])
def test_small_sets_need_no_batch_size(name: str):
    """As the page on users' own data has it."""
    loaded = getattr(sklearn.datasets, f"load_{name}")()
    data = load_dataset((loaded.data, loaded.target))
    kwargs = {"dataset": data, "label_noise": 0.0, "budget": 100, "initial_learning_rate": 0.1}
    env = gymnasium.make("AutoTrain-v0", **kwargs)
    env.reset(seed=0)
    ended = False
    while not ended:
        *_, ended, _, info = env.step(2)
    assert info["test_accuracy"] > 0.8


def test_lanes_of_other_default_batch_sizes_go_side_by_side():
    """Each as it would alone."""
    tasks = [Task(train_size=size, classifier="linear", budget=40) for size in (40, 100, 400)]
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=3, autoreset_mode="Disabled")
    envs.reset(seed=0, options={"task": tasks})
    observations = envs.step(np.full(3, 2))[0]
    for lane, task in enumerate(tasks):
        env = gymnasium.make("AutoTrain-v0")
        env.reset(seed=lane, options={"task": task})
        np.testing.assert_array_equal(env.step(2)[0], observations[lane])
