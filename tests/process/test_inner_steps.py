"""Updates per env step that belong to the task: lanes of different T side by side."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest

from autotrain_env import (
    AutoTrainEnv,
    AutoTrainVectorEnv,
    Choice,
    Constant,
    Cosine,
    Mixture,
    Task,
    TaskDistribution,
    evaluate_policy,
)
from autotrain_env.process.lineage import window_means
from tests.helpers import assert_same, tiny


def make_tasks() -> list[Task]:
    """Tasks that differ in T, and in other things that lanes are grouped by."""
    sizes = {name: tiny()[name] for name in ("dataset", "train_size", "holdout_size", "validation_size")}
    small = Task(**sizes, batch_size=8, classifier="mlp-6", initial_learning_rate=0.3)
    changes: list[dict[str, Any]] = [
        {"budget": 24},
        {"budget": 24, "inner_steps": 12},
        {"budget": 16, "inner_steps": 2},
        {"budget": 24, "inner_steps": 12, "optimizer": "adam"},
        {"budget": 40, "inner_steps": 8, "classifier": "mlp-5-5"},
        {"budget": 12, "inner_steps": 4, "batch_size": 3},
    ]
    return [dataclasses.replace(small, **change) for change in changes]


def arguments(**more: Any) -> dict[str, Any]:
    return tiny(**more) | {"inner_steps": 4, "history_length": 2, "budget": None}


def lengths(tasks: list[Task]) -> list[int]:
    return [task.budget // (task.inner_steps or 4) for task in tasks]


def script(lane: int, step: int) -> int:
    """Some actions of all kinds but stop."""
    return [2, 7, 4, 0, 15, 8, 12][(3 * lane + step) % 7]


@pytest.mark.parametrize("backend", ["auto", "stacked"])
def test_a_lane_does_not_depend_on_the_t_of_its_neighbours(backend: str):
    tasks = make_tasks()
    envs = AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments(backend=backend))
    alone = [AutoTrainEnv(**arguments(backend=backend)) for _ in tasks]
    observations, _ = envs.reset(seed=5, options={"task": tasks})
    for lane, (env, task) in enumerate(zip(alone, tasks, strict=True)):
        assert_same(env.reset(seed=5 + lane, options={"task": task})[0], observations[lane])
    for step in range(max(lengths(tasks))):
        actions = np.array([script(lane, step) for lane in range(len(tasks))])
        observations, rewards, terminated, _, info = envs.step(actions)
        for lane, env in enumerate(alone):
            if step >= lengths(tasks)[lane]:
                continue
            seen, reward, ended, _, single = env.step(int(actions[lane]))
            assert_same(seen, observations[lane])
            assert (reward, ended) == (rewards[lane], terminated[lane])
            assert single["updates"] == info["updates"][lane]
            assert ended == (step == lengths(tasks)[lane] - 1)
    for lane, env in enumerate(alone):
        assert_same(dict(env.history()), dict(envs.history(lane)))
        for best in (False, True):
            assert_same(
                dict(env.network(best=best).state_dict()), dict(envs.network(lane, best=best).state_dict())
            )


def test_every_lane_counts_its_own_updates():
    tasks = make_tasks()
    envs = AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments())
    envs.reset(seed=0, options={"task": tasks})
    per_step = np.array([4, 12, 2, 12, 8, 4])
    assert envs.core.situation().inner_steps.tolist() == per_step.tolist()
    for step in (1, 2):
        info = envs.step(np.full(len(tasks), 2))[-1]
        assert info["updates"].tolist() == (step * per_step).tolist()
    rows = envs.core.lineage.rows[:, 0, :, 5] * envs.core.lineage.budget[:, None]
    assert rows == pytest.approx(per_step[:, None] * np.array([1.5, 2.0]))  # ends of the two windows


def test_a_task_alone_is_as_an_environment_of_that_t():
    """What the task says is what the argument would say."""
    task = make_tasks()[1]
    own = AutoTrainEnv(**arguments())
    argument = AutoTrainEnv(**arguments() | {"inner_steps": 12})
    first, _ = own.reset(seed=3, options={"task": task})
    same, _ = argument.reset(seed=3, options={"task": dataclasses.replace(task, inner_steps=None)})
    assert_same(first, same)
    for action in (2, 8):
        for found, wanted in zip(own.step(action)[:4], argument.step(action)[:4], strict=True):
            assert_same(found, wanted)


def test_copies_and_states_of_lanes_of_different_t():
    tasks = make_tasks()
    envs, others = (
        AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments()) for _ in range(2)
    )
    envs.reset(seed=0, options={"task": tasks})
    envs.step(np.full(len(tasks), 2))
    envs.copy_lane(1, 2)
    others.reset(seed=9)
    others.load_state_dict(envs.state_dict())
    for env in (envs, others):
        observations, _, _, _, info = env.step(np.full(len(tasks), 3))
        assert_same(observations[1], observations[2])
        assert info["updates"][2] == info["updates"][1] == 24
        assert env.core.lineage.inner_steps[2] == 12


def test_a_distribution_draws_t_and_the_arguments_do_not_replace_it():
    parts = [TaskDistribution(budget=Choice((24, 48)), inner_steps=steps) for steps in (2, 12, None)]
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=12, **arguments(tasks=Mixture(parts)))
    envs.reset(seed=0)
    core = envs.unwrapped.core  # type: ignore[attr-defined]
    assert {core.task(lane).inner_steps for lane in range(12)} == {2, 12, None}
    assert set(core.lineage.inner_steps.tolist()) == {2, 12, 4}
    results = evaluate_policy(
        AutoTrainVectorEnv(4, autoreset_mode="Disabled", **arguments(tasks=Mixture(parts))),
        Cosine(0.1),
        8,
        history=True,
    )
    for history in results["history"]:
        rates, steps = history["learning_rate"], len(history["updates"]) - 1
        assert steps in (24 // 2, 48 // 2, 24 // 12, 48 // 12, 24 // 4, 48 // 4)
        assert rates[1] == pytest.approx(0.1) and (np.diff(rates[1:]) < 0).all()


def test_a_t_that_does_not_fit_is_refused():
    for task, message in (
        ({"inner_steps": 3}, "history_length=2 is not allowed: it must be a divisor of inner_steps=3"),
        (
            {"inner_steps": 12, "budget": 16},
            "budget=16 is not allowed: it must be a multiple of inner_steps",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            AutoTrainEnv(**arguments(tasks=TaskDistribution(**task)))
        env = AutoTrainEnv(**arguments())
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options={"task": dataclasses.replace(make_tasks()[0], **task)})
    for wrong in (0, 2.5, True, 10**6):
        with pytest.raises(ValueError, match=f"inner_steps={wrong}"):
            Task(inner_steps=wrong)  # type: ignore[arg-type]


def test_a_failing_step_leaves_lanes_of_different_t_as_they_were(monkeypatch: pytest.MonkeyPatch):
    tasks = make_tasks()
    envs = AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments())
    envs.reset(seed=0, options={"task": tasks})
    envs.step(np.full(len(tasks), 2))
    expected = envs.state_dict()

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(envs.core.stacks, "evaluate", fail)
        with pytest.raises(MemoryError):
            envs.step(np.full(len(tasks), 8))
    first = envs.step(np.full(len(tasks), 8))
    envs.load_state_dict(expected)
    assert_same(first[0], envs.step(np.full(len(tasks), 8))[0])


def test_window_means_are_those_of_single_rows():
    values = np.random.default_rng(0).random((7, 40)) * 10.0 ** np.arange(-3, 4)[:, None]
    means = window_means(values, 5)
    assert means == pytest.approx(values.reshape(7, 5, 8).mean(2))
    for row, mean in zip(values, means, strict=True):
        assert window_means(row[None], 5)[0].tolist() == mean.tolist()
    assert window_means(means, 5).tolist() == means.tolist()
    assert np.isfinite(window_means(np.full((1, 4), 1e308), 2)).all()


def test_schedules_last_as_long_as_each_lane():
    tasks = make_tasks()
    envs = AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments())
    envs.reset(seed=0, options={"task": tasks})
    situation = envs.core.situation()
    rates = Cosine(1.0).learning_rates(dataclasses.replace(situation, steps=np.array(lengths(tasks)) - 1))
    last = np.array(lengths(tasks))
    assert rates == pytest.approx((1 + np.cos(np.pi * (last - 1) / last)) / 2, abs=0.02)
    assert Constant(0.5).learning_rates(situation).tolist() == [0.5] * len(tasks)


def test_updates_of_all_episodes_are_counted():
    tasks = make_tasks()
    envs = AutoTrainVectorEnv(len(tasks), autoreset_mode="Disabled", **arguments())
    for _ in range(2):
        envs.reset(seed=0, options={"task": tasks})
        envs.step(np.full(len(tasks), 2))
        envs.step(np.array([2, 16, 2, 2, 2, 2]))  # one stops, and makes no update
    assert envs.core.lineage.all_updates.tolist() == [16, 24, 8, 48, 32, 16]
