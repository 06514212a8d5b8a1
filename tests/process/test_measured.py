"""What an agent has measured, and whether other networks can be drawn: lanes that lack something."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest

from autotrain_env import METRICS, AutoTrainEnv, AutoTrainVectorEnv, Choice, Task, TaskDistribution
from autotrain_env.process.observations import METRIC_SETS
from tests.helpers import assert_same, tiny

NAMES = list(METRIC_SETS["extended"])
KINDS = ("train_and_holdout", "holdout", "nothing")


def tasks() -> list[Task]:
    """The same task with everything measured, the holdout alone, nothing; and without other networks."""
    sizes = {name: tiny()[name] for name in ("dataset", "train_size", "holdout_size", "validation_size")}
    task = Task(**sizes, batch_size=8, classifier="mlp-6", initial_learning_rate=0.3, budget=24)
    changes: list[dict[str, Any]] = [
        {},
        {"measured": "holdout"},
        {"measured": "nothing"},
        {"can_reinit": False},
        {"measured": "nothing", "can_reinit": False},
    ]
    return [dataclasses.replace(task, **change) for change in changes]


def make(metrics: str = "extended", **more: Any) -> AutoTrainVectorEnv:
    """Lanes of all these tasks, each with the same seed."""
    arguments = tiny(metrics=metrics, **more)
    envs = AutoTrainVectorEnv(len(tasks()), autoreset_mode="Disabled", **arguments)
    envs.reset(seed=[3] * len(tasks()), options={"task": tasks()})
    return envs


def column(observations: np.ndarray, name: str, row: int = 0) -> np.ndarray:
    """A metric's last sample of a row in every lane."""
    return observations[:, row, -1, NAMES.index(name)]


@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
def test_flags_say_what_is_missing_and_others_stand_in(score: str):
    envs = make(score=score)
    for step in range(3):
        if step:
            envs.step(np.full(5, 2))
        observations = envs.core.observation()
        assert column(observations, "holdout_missing").tolist() == [0, 0, 1, 0, 1]
        assert column(observations, "train_missing").tolist() == [0, 1, 1, 0, 1]
        lineage, answer = envs.core.lineage, column(observations, "holdout_answer")
        last = lineage.batch_accuracy[:, -1]
        if score == "neg_log_loss":
            last = 1 - lineage.loss[:, -1] / (4 * np.log(4))
        assert lineage.train_score[[1, 2, 4]] == pytest.approx(last[[1, 2, 4]])
        assert answer[[2, 4]] == pytest.approx(last[[2, 4]])
        assert (column(observations, "generalization_gap")[[2, 4]] == 0).all()
        assert lineage.thresholdout.queries.tolist()[2] == lineage.thresholdout.queries.tolist()[4] == 0
        assert (lineage.thresholdout.queries[:2] > 0).all()


def test_what_is_measured_changes_neither_training_nor_reward():
    envs = make(thresholdout=False)
    scores = []
    for _ in range(4):
        envs.step(np.full(5, 2))
        assert len({round(loss, 12) for loss in envs.core.lineage.loss[:, -1]}) == 1
        scores.append(envs.core.lanes.score.copy())
        answers = envs.core.lineage.holdout_answer
        assert answers[0] == answers[1] == answers[3] != answers[2]
    assert (np.array(scores) == np.array(scores)[:, :1]).all()


def test_an_untrained_network_of_which_nothing_is_measured_reads_as_guessing():
    rows = make().core.observation()
    assert column(rows, "batch_accuracy")[[1, 2]] == pytest.approx(0.25)
    assert column(rows, "log_loss_ratio")[[1, 2]] == pytest.approx(0, abs=1e-6)
    assert column(rows, "holdout_answer")[2] == pytest.approx(0.25)
    assert column(rows, "log_loss_ratio")[0] != 0


def test_where_no_network_can_be_drawn_rows_are_missing_and_reinit_is_masked():
    envs = make()
    there = envs.core.observation()[:, :, -1, NAMES.index("exists")]
    assert there.tolist() == [[1, 1, 1]] * 3 + [[1, 0, 0]] * 2
    masks = envs.action_masks()
    assert masks[:, 15].tolist() == [True, True, True, False, False] and masks[:, 16].all()
    assert envs.core.situation().can_reinit.tolist() == [True, True, True, False, False]
    assert envs.core.situation().action_masks is not None
    assert_same(envs.core.situation().action_masks, masks)
    before = envs.core.lineage.lineage_updates[:, 0].copy()
    _, _, _, _, info = envs.step(np.full(5, 15))
    assert info["reinit"].tolist() == [True, True, True, False, False]
    assert (envs.core.lineage.lineage_updates[:, 0] == before + 4).all()
    # The rows fill up with trained states, to which the lane can rewind.
    info = envs.step(np.full(5, 7))[-1]
    assert info["rewind"].tolist() == [1] * 5
    multi = make(action_type="multi_discrete").action_masks()
    assert multi.shape == (5, 5 + 3 + 3) and multi[:, 9].tolist() == [True, True, True, False, False]


def test_row_0_is_the_same_network_whether_or_not_others_can_be_drawn():
    envs = make()
    assert_same(
        dict(envs.network(0).state_dict()),
        dict(envs.network(3).state_dict()),
    )


def test_lanes_that_lack_something_are_as_alone():
    envs = make("movement")
    alone = [AutoTrainEnv(**tiny(metrics="movement")) for _ in tasks()]
    for env, task in zip(alone, tasks(), strict=True):
        env.reset(seed=3, options={"task": task})
    for action in (2, 15, 7, 3, 12):
        observations, rewards, *_ = envs.step(np.full(5, action))
        for lane, env in enumerate(alone):
            seen, reward, *_ = env.step(action)
            assert_same(seen, observations[lane])
            assert reward == rewards[lane]


def test_a_failing_reinit_leaves_lanes_without_one_as_they_were(monkeypatch: pytest.MonkeyPatch):
    envs = make()
    envs.step(np.full(5, 2))
    before = envs.state_dict()

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(envs.core.stacks, "train", fail)
        with pytest.raises(MemoryError):
            envs.step(np.full(5, 15))
    first = envs.step(np.full(5, 15))[0]
    envs.load_state_dict(before)
    assert_same(envs.step(np.full(5, 15))[0], first)


def test_movement_is_how_far_parameters_went_over_their_norm():
    envs = make("movement")
    assert envs.single_observation_space.shape == (3, 2, 12)
    assert (envs.core.observation()[:, 0, :, -1] == -1).all()
    for action in (2, 2, 7, 15, 3):
        before = [flat(envs, lane) for lane in range(5)]
        rows = envs.core.observation()
        observations = envs.step(np.full(5, action))[0]
        if action in (7, 15):  # rewinds and new networks come first
            continue
        for lane in range(5):
            now = flat(envs, lane)
            share = np.log10(np.linalg.norm(now - before[lane]) / np.linalg.norm(now))
            assert observations[lane, 0, :, -1] == pytest.approx((share + 2) / 4, abs=1e-4)
        assert_same(observations[:, 1, :, -1].copy(), rows[:, 0, :, -1].copy())
    with pytest.raises(ValueError, match="num_snapshots=1 is not allowed: it must be at least 2 where"):
        AutoTrainEnv(**tiny(metrics="movement", num_snapshots=1))


def flat(envs: AutoTrainVectorEnv, lane: int) -> np.ndarray:
    """A network's parameters, one after the other."""
    return np.concatenate([tensor.numpy().ravel() for tensor in envs.core.stacks.weights_of(lane).values()])


@pytest.mark.parametrize("rate", [100.0, 1e-4])
def test_movement_is_within_its_bounds(rate: float):
    env = AutoTrainEnv(**tiny(metrics="movement", initial_learning_rate=rate))
    env.reset(seed=0)
    for _ in range(3):
        assert env.step(2)[0] in env.observation_space


def test_epochs_of_the_budget():
    given = tiny(metrics="epochs", train_size=30, batch_size=6, budget=40)
    for known in (True, False):
        env = AutoTrainEnv(**given, epochs_known=known)
        observation = env.reset(seed=0)[0]
        for _ in range(2):
            epochs, missing = observation[0, :, -2], observation[0, :, -1]
            assert epochs == pytest.approx(np.log10(8) / 4 if known else 0) and (missing == 1 - known).all()
            observation = env.step(2)[0]
    with pytest.raises((ValueError, TypeError), match="epochs_known=1"):
        Task(epochs_known=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(("train", "budget", "expected"), [(1000, 4, -0.6), (1, 200_000, 1)])
def test_epochs_are_within_their_bounds(train: int, budget: int, expected: float):
    given = {"dataset": "digits", "train_size": train, "batch_size": 1, "holdout_size": 50}
    env = AutoTrainEnv(
        **given, validation_size=50, metrics="epochs", budget=budget, inner_steps=4, history_length=2
    )
    observation = env.reset(seed=0)[0]
    assert observation in env.observation_space
    assert observation[0, :, -2] == pytest.approx(expected, abs=0.001)


def test_basic_metrics_are_the_first_of_the_extended_ones():
    basic, extended = make("basic"), make("extended")
    assert basic.single_observation_space.shape == (3, 2, len(METRICS))
    assert extended.single_observation_space.shape == (3, 2, len(NAMES))
    for action in (2, 8):
        few, more = basic.step(np.full(5, action))[0], extended.step(np.full(5, action))[0]
        assert_same(few, more[..., : len(METRICS)].copy())
        assert more[0] in extended.single_observation_space


def test_episodes_draw_what_they_lack():
    distribution = TaskDistribution(measured=Choice(KINDS), can_reinit=Choice((True, False)))
    envs = gymnasium.make_vec("AutoTrainRuns-v0", num_envs=24, tasks=distribution)
    observations, _ = envs.reset(seed=0)
    core = envs.unwrapped.core  # type: ignore[attr-defined]
    drawn = [core.task(lane) for lane in range(24)]
    assert {(task.measured, task.can_reinit) for task in drawn} == {(k, c) for k in KINDS for c in (0, 1)}
    missing = [task.measured == "nothing" for task in drawn]
    assert observations[:, 0, 0, NAMES.index("holdout_missing")].tolist() == missing
    fixed = gymnasium.make("AutoTrainRuns-v0", tasks=distribution, measured="nothing", can_reinit=False)
    fixed.reset(seed=0)
    assert fixed.unwrapped.core.task(0).measured == "nothing"  # type: ignore[attr-defined]


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="measured='test' is not a known name"):
        Task(measured="test")
    with pytest.raises((ValueError, TypeError), match="can_reinit=1"):
        Task(can_reinit=1)  # type: ignore[arg-type]
