"""The benchmark of what hindsight tells, on a task that takes no time."""

import numpy as np
import pytest

from agents.imitating.hindsight import CHANGE_COST, advantages
from autotrain_env import AutoTrainVectorEnv, make_evaluation_env
from autotrain_env.process.actions import DiscreteActions
from benchmarks.hindsight import FACTORS, LEAVERS, LINES, play, report, tell

STEPS = 10


@pytest.fixture(scope="module")
def env() -> AutoTrainVectorEnv:
    small = {"dataset": "digits", "train_size": 60, "classifier": "mlp-8", "optimizer": "sgd"}
    length = {"inner_steps": 5, "budget": 5 * STEPS, "observation_layout": "flat"}
    made = make_evaluation_env("AutoTrainRuns-v0", LINES + LEAVERS, **small, **length).unwrapped
    assert isinstance(made, AutoTrainVectorEnv)
    return made


def test_lanes_are_those_of_their_lines_until_they_leave(env: AutoTrainVectorEnv):
    played, leavers = play(env, 3)
    assert played.rates.shape == (STEPS, LINES + LEAVERS) and played.running.all()
    assert (leavers["back"] > 0).any() and (leavers["back"] == 0).any()
    assert set(leavers["factor"]) <= set(FACTORS)
    for lane, (line, leave) in enumerate(zip(leavers["begin"], leavers["leave"], strict=True), LINES):
        np.testing.assert_array_equal(played.rows[: leave + 1, lane], played.rows[: leave + 1, line])
        if leave < STEPS - 1:
            assert (played.rates[leave + 1, lane] != played.rates[leave + 1, line]) == (
                leavers["factor"][lane - LINES] != 1
            )


def test_what_was_told_is_the_advantage_without_its_cost(
    env: AutoTrainVectorEnv, capsys: pytest.CaptureFixture[str]
):
    table = env.core.action_type
    assert isinstance(table, DiscreteActions)
    played, leavers = play(env, 4)
    rows = tell(played, leavers, table)
    assert rows.shape == (LEAVERS, 6)
    lane = int(np.flatnonzero(leavers["back"] == 0)[0])
    factor, leave = leavers["factor"][lane], leavers["leave"][lane]
    told = advantages(played, table)[leave, LINES + lane, table.lr_factors.index(factor)]
    assert rows[lane, 4] == pytest.approx(told + CHANGE_COST * abs(np.log10(factor)))
    assert rows[lane, 5] == played.final[LINES + lane] - played.final[leavers["begin"][lane]]
    report(np.concatenate([rows] * 5))
    assert "rows back: root mean square error" in capsys.readouterr().out
