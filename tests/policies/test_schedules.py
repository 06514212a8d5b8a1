"""Schedules against torch's own schedulers, at the decisions of the environment."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch.optim import lr_scheduler

from autotrain_env import AutoTrainVectorEnv, Decisions, Task
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    EarlyStopping,
    Exponential,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmupCosine,
    as_schedule,
)

INNER_STEPS = 2
SMALL = Task(classifier="linear", train_size=40, holdout_size=40, validation_size=40, batch_size=10)
# Env steps in the lanes' budgets. The long one makes every share of the budget that rounds differ.
LENGTHS = (1, 2, 3, 7, 30, 101)
RATES = (0.5, 0.02, 3.0, 0.1, 0.007, 0.3)


def make_env(num_envs: int, **kwargs: Any) -> AutoTrainVectorEnv:
    return AutoTrainVectorEnv(
        num_envs,
        autoreset_mode=AutoresetMode.DISABLED,
        inner_steps=INNER_STEPS,
        history_length=1,
        tasks="rates",
        **kwargs,
    )


def task(num_steps: int, rate: float) -> Task:
    return dataclasses.replace(SMALL, budget=num_steps * INNER_STEPS, initial_learning_rate=rate)


def play(
    env: AutoTrainVectorEnv,
    schedule: Any,
    tasks: list[Task],
    holdout_scores: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Rates of every env step, by lane.

    Args:
        env: The environment.
        schedule: The schedule.
        tasks: One per lane.
        holdout_scores: What the guarded holdout answers after each env step, shape (steps, N). Then all
            other scores are nonsense, as no schedule may look at them.
    """
    env.reset(seed=0, options={"task": tasks})
    lanes, lineage = env.core.lanes, env.core.lineage
    schedule.reset(env.situation(), np.ones(env.num_envs, bool))
    rates: list[list[float]] = [[] for _ in tasks]
    step = 0
    while lanes.running.any():
        ran = lanes.running.copy()
        decisions = schedule.decide(env.situation())
        *_, info = env.step_decisions(decisions)
        for lane in np.flatnonzero(ran & ~decisions.stop):
            rates[lane].append(info["learning_rate"][lane])
        if holdout_scores is not None:
            lineage.holdout_answer[:] = holdout_scores[step]
            for nonsense in (lanes.score, lineage.train_score, lanes.best_holdout_answer, lineage.rows):
                nonsense[:] = np.nan
        step += 1
    return [np.array(lane_rates) for lane_rates in rates]


def torch_rates(
    make: Callable[[torch.optim.Optimizer], Any],
    rate: float,
    num_steps: int,
    metrics: np.ndarray | None = None,
) -> np.ndarray:
    """What torch's scheduler does, stepped once per env step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers complain that the optimiser makes no step
        scheduler = make(optimizer)
        rates = []
        for step in range(num_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            if step < num_steps - 1:  # OneCycleLR refuses to go beyond its end
                scheduler.step(*(() if metrics is None else (metrics[step],)))
    return np.array(rates)


def torch_warmup_cosine(optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    rise = round(0.1 * num_steps)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps - rise)
    if rise == 0:
        return cosine
    # Both schedulers write into the optimiser when they are made; the warm-up has to come last.
    linear = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=rise)
    return lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[rise])


COUNTERPARTS: dict[str, tuple[Schedule, Callable[[torch.optim.Optimizer, float, int], Any]]] = {
    "constant": (Constant(), lambda o, r, n: lr_scheduler.ConstantLR(o, factor=1.0)),
    "step": (
        StepDecay(),
        lambda o, r, n: lr_scheduler.StepLR(o, max(1, round(n / 3)), gamma=0.1),
    ),
    "step, other parameters": (
        StepDecay(factor=0.5, every=0.1),
        lambda o, r, n: lr_scheduler.StepLR(o, max(1, round(0.1 * n)), gamma=0.5),
    ),
    "exponential": (
        Exponential(),
        lambda o, r, n: lr_scheduler.ExponentialLR(o, gamma=0.01 ** (1 / n)),
    ),
    "cosine": (Cosine(), lambda o, r, n: lr_scheduler.CosineAnnealingLR(o, T_max=n)),
    "cosine to a floor": (
        Cosine(final_factor=0.2),
        lambda o, r, n: lr_scheduler.CosineAnnealingLR(o, T_max=n, eta_min=0.2 * r),
    ),
    "one_cycle": (
        OneCycle(),
        lambda o, r, n: lr_scheduler.OneCycleLR(o, max_lr=r, total_steps=n, cycle_momentum=False),
    ),
    "one_cycle, other parameters": (
        OneCycle(rise=0.55, initial_factor=0.5, final_factor=0.05),
        lambda o, r, n: lr_scheduler.OneCycleLR(
            o,
            max_lr=r,
            total_steps=n,
            pct_start=0.55,
            div_factor=2,
            final_div_factor=10,
            cycle_momentum=False,
        ),
    ),
    "warmup_cosine": (WarmupCosine(), lambda o, r, n: torch_warmup_cosine(o, n)),
}


@pytest.mark.parametrize("bounds", [(1e-12, 1e6), (0.01, 0.25)], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", COUNTERPARTS)
def test_equal_to_torch_at_the_decisions(name: str, bounds: tuple[float, float]) -> None:
    schedule, make = COUNTERPARTS[name]
    env = make_env(len(LENGTHS), lr_bounds=bounds)
    # With a peak of None each lane starts from its own task's rate, held to the bounds.
    found = play(env, schedule, [task(n, rate) for n, rate in zip(LENGTHS, RATES, strict=True)])
    for rates, num_steps, rate in zip(found, LENGTHS, RATES, strict=True):
        peak = float(np.clip(rate, *bounds))
        expected = torch_rates(lambda o, p=peak, n=num_steps: make(o, p, n), peak, num_steps)
        assert len(rates) == num_steps
        np.testing.assert_allclose(rates, np.clip(expected, *bounds), rtol=1e-9)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_a_given_peak_replaces_the_task_s_rate_before_the_bounds(name: str) -> None:
    schedule, make = COUNTERPARTS[name]
    env = make_env(2, lr_bounds=(0.01, 1.0))
    found = play(env, schedule.with_learning_rate(5.0), [task(13, 0.3), task(13, 0.02)])
    expected = torch_rates(lambda o: make(o, 5.0, 13), 5.0, 13)
    for rates in found:
        np.testing.assert_allclose(rates, np.clip(expected, 0.01, 1.0), rtol=1e-9)


@pytest.mark.parametrize(("patience", "threshold", "cooldown"), [(0, 0.0, 0), (2, 0.02, 0), (3, 0.0, 4)])
def test_plateau_equal_to_torch_on_random_scores(patience: int, threshold: float, cooldown: int) -> None:
    num_envs, num_steps = 16, 60
    generator = np.random.default_rng(patience)
    # Rounded, so that equal scores come up; rising, so that there are improvements.
    drift = np.linspace(0, 0.3, num_steps)[:, None]
    scores = np.round(generator.uniform(0, 0.5, (num_steps, num_envs)) + drift, 2)
    lengths = [num_steps - lane for lane in range(num_envs)]
    schedule = ReduceOnPlateau(factor=0.5, patience=patience, threshold=threshold, cooldown=cooldown)
    env = make_env(num_envs, lr_bounds=(1e-3, 1.0))
    found = play(env, schedule, [task(n, 0.9) for n in lengths], scores)
    for lane, num_steps in enumerate(lengths):
        expected = torch_rates(
            lambda o: lr_scheduler.ReduceLROnPlateau(
                o,
                mode="max",
                factor=0.5,
                patience=patience,
                threshold=threshold,
                threshold_mode="abs",
                cooldown=cooldown,
                min_lr=1e-3,
                eps=0.0,
            ),
            0.9,
            num_steps,
            scores[:, lane],
        )
        assert expected.min() < 0.5  # there was something to see
        np.testing.assert_allclose(found[lane], expected, rtol=1e-9)


def test_plateau_starts_anew_in_the_lane_that_is_reset() -> None:
    env = make_env(2)
    schedule = ReduceOnPlateau(factor=0.1, patience=1)
    env.reset(seed=0, options={"task": task(50, 1.0)})
    schedule.reset(env.situation(), np.ones(2, bool))
    for _ in range(5):
        env.step_decisions(schedule.decide(env.situation()))
        env.core.lineage.holdout_answer[:] = 0.5
    np.testing.assert_allclose(schedule.decide(env.situation()).learning_rate, 0.01)
    mask = np.array([True, False])
    env.reset(options={"task": task(50, 1.0), "reset_mask": mask})
    schedule.reset(env.situation(), mask)
    np.testing.assert_allclose(schedule.decide(env.situation()).learning_rate, [1.0, 0.01])


def test_a_rate_that_vanishes_stops_at_the_lower_bound() -> None:
    (rates,) = play(
        make_env(1, lr_bounds=(0.01, 1.0)), StepDecay(factor=1e-200, every=0.1), [task(10, 0.5)]
    )
    np.testing.assert_array_equal(rates, [0.5] + [0.01] * 9)


def test_early_stopping_on_scripted_scores() -> None:
    script = np.array(
        [
            [0.1, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3],  # best after 3 steps
            [0.9, 0.8, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9],  # an equal score is no improvement
            [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5],  # never long enough without one
            [0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6],
        ]
    ).T
    found = play(make_env(4), EarlyStopping(patience=3), [task(10, 0.1)] * 4, script)
    assert [len(rates) for rates in found] == [6, 4, 10, 7]
    found = play(make_env(4), EarlyStopping(patience=3, threshold=0.15), [task(10, 0.1)] * 4, script)
    assert [len(rates) for rates in found] == [6, 4, 4, 4]


def test_early_stopping_follows_its_schedule_until_then() -> None:
    script = np.concatenate((np.linspace(0, 1, 6), np.zeros(14)))[:, None]
    cosine = play(make_env(1), Cosine(0.3), [task(20, 0.1)], script)[0]
    stopped = play(make_env(1), EarlyStopping("cosine").with_learning_rate(0.3), [task(20, 0.1)], script)
    assert len(stopped[0]) == 11
    np.testing.assert_array_equal(stopped[0], cosine[:11])

    plateau = ReduceOnPlateau(0.3, patience=1, factor=0.5)
    stopped = play(make_env(1), EarlyStopping(plateau, patience=4), [task(20, 0.1)], script)
    np.testing.assert_allclose(stopped[0], [0.3] * 8 + [0.15] * 2)


def test_early_stopping_keeps_no_state_in_the_schedule_it_was_given() -> None:
    plateau = ReduceOnPlateau()
    play(make_env(1), EarlyStopping(plateau), [task(5, 0.1)])
    assert not plateau._state


def test_a_schedule_serves_another_number_of_lanes_next() -> None:
    schedule = EarlyStopping("reduce_on_plateau")
    for num_envs in (3, 1, 2):
        found = play(make_env(num_envs), schedule, [task(3, 0.1)] * num_envs)
        assert [len(rates) for rates in found] == [3] * num_envs


def test_parameters_are_all_that_makes_a_schedule() -> None:
    schedule = ReduceOnPlateau(patience=2)
    play(make_env(1), schedule, [task(5, 0.1)])
    assert schedule == ReduceOnPlateau(patience=2)
    assert repr(schedule) == (
        "ReduceOnPlateau(learning_rate=None, factor=0.3, patience=2, threshold=0.0, cooldown=0)"
    )
    assert len({schedule, ReduceOnPlateau(patience=2), Cosine(), Cosine(0.1)}) == 3


# --- the random agent ---


def draw(env: AutoTrainVectorEnv, agent: RandomAgent, steps: int) -> list[Decisions]:
    env.reset(seed=5)
    situation = env.situation()
    agent.reset(situation, np.ones(env.num_envs, bool))
    return [agent.decide(situation) for _ in range(steps)]


def test_random_agent_draws_every_possible_action_equally_often() -> None:
    env = make_env(4, initial_states="zeros", lr_factors=(0.5, 1.0, 2.0))
    decisions = draw(env, RandomAgent(), 1000)
    # No row to rewind to: three factors, re-init and stop.
    counts = np.zeros(5)
    for made in decisions:
        assert not made.rewind.any()
        going = ~made.reinit & ~made.stop
        counts += [(going & (made.lr_factor == factor)).sum() for factor in (0.5, 1, 2)] + [
            made.reinit.sum(),
            made.stop.sum(),
        ]
    assert counts.sum() == 4000
    assert np.all(abs(counts - 800) < 5 * np.sqrt(800))


@pytest.mark.parametrize("action_type", ["discrete", "multi_discrete", "continuous", "learning_rate"])
def test_random_agent_of_every_action_type(action_type: str) -> None:
    env = make_env(3, action_type=action_type, num_snapshots=3)
    first = draw(env, RandomAgent(), 50)
    again = draw(env, RandomAgent(), 50)
    other = draw(env, RandomAgent(seed=1), 50)
    name = "learning_rate" if action_type == "learning_rate" else "lr_factor"
    rates = [np.stack([getattr(made, name) for made in run]) for run in (first, again, other)]
    if action_type != "continuous":  # there the lane's own stream, which goes on, chooses the rewind
        assert all(np.array_equal(a.rewind, b.rewind) for a, b in zip(first, again, strict=True))
    np.testing.assert_array_equal(rates[0], rates[1])
    assert not np.array_equal(rates[0], rates[2])
    assert not np.array_equal(rates[0][:, 0], rates[0][:, 1])
    if action_type != "learning_rate":
        distances = np.unique([made.rewind for made in first])
        np.testing.assert_array_equal(distances, [0, 1, 2])


# --- names and bad input ---


def test_every_name_makes_a_policy_that_plays() -> None:
    env = make_env(2)
    for name in SCHEDULES:
        schedule = as_schedule(name)
        assert as_schedule(schedule) is schedule
        play(env, schedule, [task(4, 0.1), task(6, 0.1)])


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="schedule='cosin' is not a known name; the nearest .* 'cosine'"):
        as_schedule("cosin")
    with pytest.raises(ValueError, match="the nearest known one is 'one_cycle'"):
        EarlyStopping("onecycle")
    for wrong in (3, Cosine, None):
        with pytest.raises(TypeError, match="schedule="):
            as_schedule(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="schedule='random'"):
        EarlyStopping("random")


@pytest.mark.parametrize(
    ("make", "parameters", "message"),
    [
        (Constant, {"learning_rate": 0}, "learning_rate=0 is not allowed"),
        (Cosine, {"learning_rate": float("nan")}, "learning_rate=nan"),
        (Cosine, {"learning_rate": "0.1"}, "learning_rate='0.1'"),
        (Cosine, {"final_factor": 1.5}, r"final_factor=1.5 .* in \[0, 1\]"),
        (StepDecay, {"factor": 0.0}, r"factor=0.0 .* in \(0, 1\]"),
        (StepDecay, {"every": 2}, "every=2"),
        (Exponential, {"final_factor": 0.0}, "final_factor=0.0"),
        (OneCycle, {"rise": 1.0}, "rise=1.0 .* below 1"),
        (OneCycle, {"initial_factor": -1.0}, "initial_factor=-1.0"),
        (WarmupCosine, {"warmup": 1.0}, "warmup=1.0 .* below 1"),
        (ReduceOnPlateau, {"factor": 1.0}, "factor=1.0 .* below 1"),
        (ReduceOnPlateau, {"patience": -1}, "patience=-1 .* whole number, at least 0"),
        (ReduceOnPlateau, {"cooldown": 1.5}, "cooldown=1.5"),
        (ReduceOnPlateau, {"threshold": -0.1}, "threshold=-0.1"),
        (EarlyStopping, {"patience": 0}, "patience=0 .* at least 1"),
        (EarlyStopping, {"threshold": float("inf")}, "threshold=inf"),
        (RandomAgent, {"seed": -1}, "seed=-1"),
    ],
)
def test_bad_parameters(make: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**parameters)
