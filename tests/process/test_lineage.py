"""The numbers of a training run: rows, rewinds, rates, scores and divergence, without any network."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotrain_env.process.actions import Decisions
from autotrain_env.process.lineage import Lineage
from autotrain_env.process.observations import METRICS
from autotrain_env.process.thresholdout import Thresholdout
from tests.helpers import assert_same

NAMES = list(METRICS)
LANES, K, T = 3, 2, 4
BUDGET = 4000


def make_lineage(num_snapshots: int = 3, score: str = "accuracy", rate: float = 0.1) -> Lineage:
    open_guard = Thresholdout(LANES, 0.04, 0.01, enabled=False)  # answers with the holdout's own score
    lineage = Lineage(LANES, num_snapshots, K, (1e-4, 100.0), score, open_guard)
    streams = [np.random.default_rng(lane) for lane in range(LANES)]
    everything = ["train_and_holdout"] * LANES
    lengths = [BUDGET] * LANES, [T] * LANES
    rates, epochs = [rate] * LANES, [np.nan] * LANES
    lineage.begin(np.arange(LANES), [4] * LANES, *lengths, rates, streams, everything, epochs)
    return lineage


def push(lineage: Lineage, lanes: np.ndarray, stamp: int) -> None:
    """An env step whose holdout score tells it from all others."""
    count = len(lanes)
    lineage.spend(lanes)
    losses = np.full((count, T), 1.0)
    lineage.push_trained(lanes, losses, losses / 2, np.full(count, 0.5), stamp / 100 + lanes / 1000)


# Rows, against lists -------------------------------------------------------------------------------

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "contain", "keep and contain", "clear", "rewind"]),
        st.lists(st.booleans(), min_size=LANES, max_size=LANES),
        st.lists(st.integers(0, 5), min_size=LANES, max_size=LANES),  # distances
    ),
    max_size=30,
)


class Lists:
    """What the rows of one lane must be: stamps, newest first; `None` for a state that has diverged."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.states: list[float | None] = []
        self.updates: list[int] = []

    def push(self, stamp: float) -> None:
        updates = (self.updates[0] if self.updates else 0) + T
        self.states, self.updates = [stamp, *self.states], [updates, *self.updates]
        del self.states[self.rows :], self.updates[self.rows :]

    def contain(self, keep: bool = False) -> None:
        if keep and self.states:
            self.states, self.updates = [self.states[0], *self.states], [self.updates[0], *self.updates]
            del self.states[self.rows :], self.updates[self.rows :]
        updates = (self.updates[0] if self.updates else 0) + T
        self.states, self.updates = [None, *self.states[1:]], [updates, *self.updates[1:]]

    def rewind(self, wanted: int) -> int:
        possible = [i for i, state in enumerate(self.states) if state is not None]
        distance = wanted if wanted == 0 or wanted in possible else max(possible, default=0)
        self.states, self.updates = self.states[distance:], self.updates[distance:]
        return distance


@given(operations=OPERATIONS, num_snapshots=st.integers(1, 4))
def test_rows_move_as_lists_do(operations: Any, num_snapshots: int):
    lineage = make_lineage(num_snapshots)
    models = [Lists(num_snapshots) for _ in range(LANES)]
    for stamp, (name, chosen, distances) in enumerate(operations, start=1):
        # What has diverged is not pushed: it is contained until it is rewound or cleared.
        fresh = name in ("push", "keep and contain")
        wanted = np.array(chosen) & ~(lineage.diverged & fresh)
        if name == "keep and contain":
            wanted &= lineage.count > 0  # a network that is trained has been measured before
        lanes = np.flatnonzero(wanted)
        if name == "push":
            push(lineage, lanes, stamp)
        elif name == "contain":
            lineage.contain(lanes)
        elif name == "keep and contain":
            lineage.repeat_newest(lanes)
            lineage.contain(lanes)
        elif name == "clear":
            lineage.clear(lanes)
        else:
            found = lineage.rewind(lanes, np.array([distances[lane] for lane in lanes], np.int64))
        for i, lane in enumerate(lanes.tolist()):
            if name == "push":
                models[lane].push(stamp / 100 + lane / 1000)
            elif "contain" in name:
                models[lane].contain(keep=name != "contain")
            elif name == "clear":
                models[lane] = Lists(num_snapshots)
            else:
                assert found[i] == models[lane].rewind(distances[lane])
    check_rows(lineage, models)


def check_rows(lineage: Lineage, models: list[Lists]) -> None:
    for lane, model in enumerate(models):
        rows = lineage.rows[lane]
        there = len(model.states)
        assert lineage.exists()[lane].tolist() == [i < there for i in range(model.rows)]
        possible = [i < there and model.states[i] is not None for i in range(model.rows)]
        assert lineage.rewindable()[lane].tolist() == possible
        assert (rows[:, :, NAMES.index("exists")] == lineage.exists()[lane][:, None]).all()
        assert not rows[there:].any() and not lineage.lineage_updates[lane, there:].any()
        assert lineage.lineage_updates[lane, :there].tolist() == model.updates
        for row, stamp in zip(rows, model.states, strict=False):
            shown = dict(zip(NAMES, row[-1].tolist(), strict=True))
            assert shown["diverged"] == (stamp is None)
            assert shown["holdout_answer"] == pytest.approx(0.25 if stamp is None else stamp)


def test_an_untrained_row_repeats_one_measurement():
    lineage = make_lineage()
    loss, accuracy, train, holdout = np.array([1.0]), np.array([0.5]), np.array([0.75]), np.array([0.25])
    lineage.push_untrained(np.array([1]), loss, accuracy, train, holdout)
    assert lineage.count.tolist() == [0, 1, 0] and lineage.thresholdout.queries.tolist() == [0, 1, 0]
    row = lineage.rows[1, 0]
    assert_same(row[0], row[1])
    shown = dict(zip(NAMES, row[0].tolist(), strict=True))
    assert shown["generalization_gap"] == 0.5 and shown["lineage_updates"] == shown["budget_used"] == 0


# Rates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "rule", "reinit", "rate", "changed_by"),
    [
        (0.2, "keep", False, 0.1 * 0.2, 0.2),
        (1.0, "keep", False, 0.1, 1.0),
        (1e9, "keep", False, 100.0, 100.0 / 0.1),  # held by the upper bound
        (1e-9, "keep", False, 1e-4, 1e-4 / 0.1),
        (1.2, "keep", True, 0.1 * 1.2, 1.2),
        (1.2, "initial", True, 0.5 * 1.2, 0.5 * 1.2 / 0.1),
        (1.2, 0.7, True, 0.7 * 1.2, 0.7 * 1.2 / 0.1),
        (1.2, 0.7, False, 0.1 * 1.2, 1.2),
    ],
)
def test_a_factor_multiplies_the_rate_within_its_bounds(
    factor: float, rule: Any, reinit: bool, rate: float, changed_by: float
):
    lineage = make_lineage(rate=0.5)
    lineage.learning_rate[:] = 0.1
    found = lineage.set_rates(
        np.array([0, 2]), Decisions.scale(np.full(LANES, factor)), np.full(LANES, reinit), rule
    )
    assert lineage.learning_rate.tolist() == [rate, 0.1, rate]
    assert found.tolist() == [changed_by, changed_by]


def test_a_rate_takes_the_place_of_the_factor():
    lineage = make_lineage()
    decisions = Decisions.set_rate(np.array([0.05, 1e9, 0.1]))
    found = lineage.set_rates(np.arange(LANES), decisions, np.zeros(LANES, bool), "keep")
    assert lineage.learning_rate.tolist() == [0.05, 100.0, 0.1]
    assert found.tolist() == [0.05 / 0.1, 100.0 / 0.1, 1.0]


def test_the_initial_rate_is_held_to_the_bounds():
    assert make_lineage(rate=1e6).initial_learning_rate.tolist() == [100.0] * LANES


# Scores --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["accuracy", "balanced_accuracy"])
def test_scores_of_accuracy_are_accuracies(score: str):
    lineage, lanes = make_lineage(score=score), np.array([0, 1])
    assert not lineage.needs_losses
    accuracy = np.array([0.25, 0.5])
    assert lineage.scores(lanes, accuracy, np.zeros(2)) is accuracy
    assert lineage.to_unit(lanes, accuracy) is accuracy
    assert lineage.chance(lanes).tolist() == [0.25, 0.25]


def test_scores_of_log_loss_are_clipped_and_mapped():
    lineage, lanes = make_lineage(score="neg_log_loss"), np.arange(LANES)
    scores = lineage.scores(lanes, np.zeros(LANES), np.array([0.0, math.log(4), math.nan]))
    assert scores == pytest.approx([0, -math.log(4), -4 * math.log(4)])
    assert lineage.to_unit(lanes, scores) == pytest.approx([1, 0.75, 0])
    assert lineage.chance(lanes) == pytest.approx(-math.log(4))


def test_a_copied_lane_has_its_own_guard():
    lineage = make_lineage()
    push(lineage, np.array([0]), 1)
    lineage.copy_lane(0, 2)
    assert_same(lineage.rows[0], lineage.rows[2])
    assert lineage.count.tolist() == [1, 0, 1]
    push(lineage, np.array([2]), 2)
    assert lineage.thresholdout.queries.tolist() == [1, 0, 2]
