"""Controls at evaluation: that each takes away what it says, and nothing else."""

from typing import Any

import numpy as np
import pytest

from agents.comparing.controls import (
    EARLIER,
    OBSERVATION_GROUPS,
    OPEN_LOOP,
    PROGRESS,
    Blanked,
    OpenLoop,
    Recorder,
    changed_env,
    control_names,
    make_control,
)
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env import Decisions, Situation
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import Constant
from autotrain_env.process.observations import METRICS
from tests.helpers.comparing import make_env


def play(policy: Any, num_envs: int = 3, **kwargs: Any) -> dict[str, np.ndarray]:
    return evaluate_policy(make_env(num_envs, **kwargs), policy, 5, DEVELOPMENT_SEED, history=True)


def factors(history: dict[str, np.ndarray]) -> np.ndarray:
    return history["learning_rate"][1:] / history["learning_rate"][:-1]


def forbidden() -> Recorder:
    raise AssertionError("nothing needs to be recorded here")


def test_the_recorder_changes_nothing_and_keeps_every_decision():
    recorder = Recorder(RandomAgent(), 5)
    recorded, plain = play(recorder), play(RandomAgent())
    np.testing.assert_array_equal(recorded["test_accuracy"], plain["test_accuracy"])
    for steps, history in zip(recorder.steps, recorded["history"], strict=True):
        assert len(steps) == len(history["updates"]) - 1
        for name in ("stop", "reinit"):
            assert [getattr(step, name) for step in steps] == history[name][1:].tolist()


def test_open_loop_does_what_was_done_in_the_next_episode():
    schedule = {k: 0.5 + 0.1 * k for k in range(5)}

    class Known:
        """Multiplies the rate by a number of its own in each episode."""

        def __init__(self) -> None:
            self.inner = Recorder(Constant(), 5)

        def reset(self, situation: Situation, lanes: np.ndarray) -> None:
            self.inner.counter.reset(situation, lanes)

        def decide(self, situation: Situation) -> Decisions:
            chosen = [schedule.get(k, 1.0) for k in self.inner.counter.episode.tolist()]
            return Decisions.scale(np.array(chosen))

    recorder = Recorder(Known(), 5)
    kwargs = {"lr_bounds": (1e-30, 1e30), "initial_learning_rate": 0.01}
    play(recorder, **kwargs)
    replayed = play(OpenLoop(recorder.steps), num_envs=2, **kwargs)
    for k, history in enumerate(replayed["history"]):
        np.testing.assert_allclose(factors(history), schedule[(k + 1) % 5])


def test_open_loop_sets_the_rates_of_the_next_episode():
    recorder = Recorder(Constant(), 5)  # at each task's own rate
    recorded = play(recorder)
    replayed = play(OpenLoop(recorder.steps), num_envs=2)
    for k, history in enumerate(replayed["history"]):
        wanted = recorded["history"][(k + 1) % 5]["learning_rate"]
        np.testing.assert_array_equal(history["learning_rate"][1:], wanted[1:])


@pytest.mark.parametrize(
    ("name", "column"), [("no rewind", "rewind"), ("no re-init", "reinit"), ("no stop", "stop")]
)
def test_an_action_that_is_switched_off_is_not_taken(name: str, column: str):
    plain = play(RandomAgent(), budget=80)
    changed = play(make_control(name, RandomAgent(), forbidden), budget=80)
    assert any(history[column].any() for history in plain["history"])
    assert not any(history[column].any() for history in changed["history"])


def test_the_rate_is_left_alone_or_halved_after_rewinds():
    kept = play(make_control("no change of rate", RandomAgent(), forbidden), budget=80)
    assert all((factors(history) == 1).all() for history in kept["history"])

    class Rewinds:
        def reset(self, situation: Situation, lanes: np.ndarray) -> None:
            pass

        def decide(self, situation: Situation) -> Decisions:
            decisions = Decisions.scale(np.ones(situation.num_envs))
            decisions.rewind[:] = situation.steps % 2
            return decisions

    halved = play(make_control("half rate after rewinds", Rewinds(), forbidden))
    for history in halved["history"]:
        np.testing.assert_allclose(factors(history)[:4], [1, 0.5, 1, 0.5])


@pytest.mark.parametrize("layout", ["stacked", "flat"])
@pytest.mark.parametrize("group", [*OBSERVATION_GROUPS, EARLIER])
def test_a_blanked_group_is_the_mean_of_all_episodes_and_the_rest_is_seen(group: str, layout: str):
    class Witness(RandomAgent):
        seen: list[np.ndarray] = []

        def decide(self, situation: Situation) -> Decisions:
            self.seen.append(situation.observation.reshape(3, 4, 2, 9).copy())
            return Decisions.scale(np.ones(situation.num_envs))

    Witness.seen = []
    recorder = Recorder(Witness(), 3)
    env = make_env(3, observation_layout=layout)
    evaluate_policy(env, recorder, 3, DEVELOPMENT_SEED)
    truth, Witness.seen = Witness.seen, []
    evaluate_policy(env, Blanked(Witness(), group, recorder.mean_observation), 3, DEVELOPMENT_SEED)
    hidden = np.zeros((4, 2, 9), bool)
    if group == EARLIER:
        hidden[1:] = True
    else:
        hidden[..., [list(METRICS).index(name) for name in OBSERVATION_GROUPS[group]]] = True
    assert len(truth) == len(Witness.seen) == 10
    means = np.stack(truth).astype(np.float64).mean(1)
    if group == PROGRESS:  # alike in all episodes: only a mean over the env steps hides it
        means[:] = means.mean(0)
    for real, shown, mean in zip(truth, Witness.seen, means, strict=True):
        expected = np.broadcast_to(mean, real.shape)
        np.testing.assert_allclose(shown[:, hidden], expected[:, hidden], atol=1e-6)
        np.testing.assert_array_equal(shown[:, ~hidden], real[:, ~hidden])


def test_every_group_of_metrics_is_in_one_control():
    names = [name for group in OBSERVATION_GROUPS.values() for name in group]
    assert sorted(names) == sorted(METRICS)
    with pytest.raises(ValueError, match="group='luck'"):
        Blanked(RandomAgent(), "luck", np.zeros((1, 4, 2, 9)))


def test_all_controls_can_be_played():
    recorder = Recorder(RandomAgent(), 5)
    play(recorder)
    assert OPEN_LOOP in control_names() and len(set(control_names())) == len(control_names())
    for name in control_names():
        results = play(make_control(name, RandomAgent(), lambda: recorder), **changed_env(name))
        assert np.isfinite(results["test_accuracy"]).all()
