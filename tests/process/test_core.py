"""The decision process: lineages, rewinds, re-inits, divergence, budgets and random streams."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotrain_env import AutoTrainConfig, AutoTrainCore, Decisions, Task, load_dataset
from autotrain_env.process.actions import ACTION_NUMBERS
from autotrain_env.process.episodes import stream
from autotrain_env.process.observations import METRICS
from tests.helpers import TINY, assert_same, tiny, tiny_data

NAMES = list(METRICS)
FREEZE = 1e-100  # a rate that is 0 in float32, so that an env step leaves the weights alone
HUGE = 1e30


def make_core(num_envs: int = 1, **kwargs: Any) -> AutoTrainCore:
    """A core whose rate may be anything."""
    return AutoTrainCore(AutoTrainConfig(**tiny(lr_bounds=(FREEZE, HUGE), **kwargs)), num_envs)


def start(core: AutoTrainCore, seed: int = 0, task: Task | None = None) -> dict[str, Any]:
    """Begin an episode in every lane, seeded seed + lane."""
    lanes = np.arange(core.num_envs)
    return core.reset(lanes, [seed + lane for lane in lanes.tolist()], [task] * core.num_envs)


def decide(
    core: AutoTrainCore,
    rate: Any = 0.1,
    rewind: Any = 0,
    reinit: Any = False,
    stop: Any = False,
    factor: float | None = None,
) -> Any:
    """One env step; every argument for all lanes or one by one; a factor takes the rate's place."""
    shape = (core.num_envs,)
    rates = np.broadcast_to(np.asarray(rate, float), shape).copy()
    return core.step(
        Decisions(
            lr_factor=np.full(shape, 1.0 if factor is None else factor),
            learning_rate=rates if factor is None else None,
            rewind=np.broadcast_to(np.asarray(rewind, np.int64), shape).copy(),
            reinit=np.broadcast_to(np.asarray(reinit, bool), shape).copy(),
            stop=np.broadcast_to(np.asarray(stop, bool), shape).copy(),
        )
    )


def weights(core: AutoTrainCore, lane: int = 0) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in core.stacks.weights_of(lane).items()}


def forward(core: AutoTrainCore, lane: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of the train subset, holdout and validation part, computed here."""
    episode = core.episodes[lane]
    split, images = episode.split, episode.dataset.images
    named = core.stacks.weights_of(lane)
    subset = split.train_subset
    parts = {
        "train": (split.train_index[subset], split.train_labels[subset]),
        "holdout": (split.holdout_index, split.holdout_labels),
        "validation": (split.validation_index, split.validation_labels),
    }
    found = {}
    for name, (index, labels) in parts.items():
        hidden = (images[index] - split.mean) / split.std
        hidden = (hidden @ named["1.weight"].T + named["1.bias"]).clip(min=0)
        found[name] = ((hidden @ named["3.weight"].T + named["3.bias"]).numpy(), labels)
    return found


def accuracies(core: AutoTrainCore, lane: int = 0) -> dict[str, float]:
    return {
        name: float((logits.argmax(1) == labels).mean())
        for name, (logits, labels) in forward(core, lane).items()
    }


# Lineages ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """One state of a lineage in this module's own bookkeeping."""

    row: np.ndarray  # as it was shown when it was row 0 (untrained: when it was first shown)
    weights: dict[str, np.ndarray] | None  # None where they were never the current ones
    lineage_updates: int
    diverged: bool = False


class Bookkeeping:
    """What a lane must look like after any sequence of decisions, kept as plain lists.

    States stand newest first. Nothing here reads the core's own history of rows.
    """

    def __init__(self, core: AutoTrainCore) -> None:
        self.core, self.rows = core, core.config.num_snapshots
        info = start(core)
        self.rate = info["learning_rate"][0]
        self.updates, self.queries, self.steps, self.best = 0, self.rows, 0, None
        assert info["holdout_queries"].tolist() == [self.rows]
        shown = core.observation()[0]
        self.states = [self.untrained(row) for row in shown]
        self.states[0] = dataclasses.replace(self.states[0], weights=weights(core))
        self.check_shown()

    def untrained(self, row: np.ndarray) -> State:
        """A network that was only measured: one measurement, repeated."""
        metrics = dict(zip(NAMES, row[0].tolist(), strict=True))
        assert (row == row[0]).all()
        assert metrics["exists"] == 1 and metrics["diverged"] == metrics["lineage_updates"] == 0
        assert metrics["budget_used"] == pytest.approx(self.updates / TINY["budget"])
        assert metrics["learning_rate"] == pytest.approx(self.mapped_rate())
        return State(row, None, 0)

    def mapped_rate(self) -> float:
        return (np.log10(self.rate) + 100) / 130 * 2 - 1

    def possible(self) -> list[bool]:
        """Which rows can be rewound to."""
        here = [not state.diverged for state in self.states]
        return here + [False] * (self.rows - len(here))

    def check_step(self, rate: float, rewind: int, reinit: bool) -> None:
        """Decide, and check everything that is shown afterwards."""
        wanted = 0 if reinit else rewind
        possible = self.possible()
        distance = wanted
        if wanted and not (wanted < self.rows and possible[wanted]):
            finite = [i for i, good in enumerate(possible) if good]
            distance = max(finite) if finite else 0
        result = decide(self.core, rate, rewind, reinit)
        info = {name: value[0] for name, value in result.info.items() if name != "reward_terms"}
        assert info["rewind"] == distance and info["rewind_impossible"] == (distance != wanted)
        self.rate = rate
        self.steps += 1
        shown = self.core.observation()[0]
        if reinit:
            # H - 1 new networks: with the state that this step brings they fill all rows. Where it brings
            # none, the first of them is lost, and there is one row less.
            lost = bool(info["diverged"]) and self.rows > 1
            self.states = [self.untrained(row) for row in (shown[1:-1] if lost else shown[1:])]
            self.states = [State(shown[0], None, 0)] * lost + self.states
            self.queries += self.rows - 1
        else:
            self.states = self.states[distance:]
        before = self.states[0] if self.states else State(shown[0], None, 0)
        self.updates += TINY["inner_steps"]
        row, lineage = shown[0], before.lineage_updates + TINY["inner_steps"]
        assert bool(info["diverged"]) == (before.diverged or rate == HUGE)
        if info["diverged"]:
            state = State(self.chance_row(lineage), None, lineage, diverged=True)
            self.states = [state, *self.states[1:]]
        else:
            self.queries += 1
            self.check_measured(row, lineage)
            now = weights(self.core)
            if rate == FREEZE and before.weights is not None:
                assert_same(now, before.weights)  # restored to the last bit
            self.states = [State(row, now, lineage), *self.states][: self.rows]
        assert info["holdout_queries"] == self.queries
        assert info["updates"] == self.updates
        assert bool(result.terminated[0]) == (self.updates == TINY["budget"])
        self.check_shown()

    def chance_row(self, lineage: int) -> np.ndarray:
        ends = np.array([-2, 0])
        row = np.zeros((2, len(NAMES)), np.float32)
        row[:, NAMES.index("batch_accuracy")] = row[:, NAMES.index("holdout_answer")] = 0.25
        row[:, NAMES.index("learning_rate")] = self.mapped_rate()
        row[:, NAMES.index("budget_used")] = (self.updates + ends) / TINY["budget"]
        row[:, NAMES.index("lineage_updates")] = (lineage + ends) / TINY["budget"]
        row[:, NAMES.index("diverged")] = row[:, NAMES.index("exists")] = 1
        return row

    def check_measured(self, row: np.ndarray, lineage: int) -> None:
        """Row 0 is what this module measures on the current weights."""
        ends = np.array([-2, 0])
        found = dict(zip(NAMES, row.T, strict=True))
        measured = accuracies(self.core)
        history = self.core.history.of(0)
        expected = {
            "log_loss_ratio": np.log(history["loss"][-1] / np.log(4)).clip(-8, 8),
            "batch_accuracy": history["batch_accuracy"][-1],
            "learning_rate": [self.mapped_rate()] * 2,
            "holdout_answer": [measured["holdout"]] * 2,
            "generalization_gap": [measured["train"] - measured["holdout"]] * 2,
            "budget_used": (self.updates + ends) / TINY["budget"],
            "lineage_updates": (lineage + ends) / TINY["budget"],
            "diverged": [0, 0],
            "exists": [1, 1],
        }
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, abs=2e-6), name

    def check_shown(self) -> None:
        """Rows, their absence, and masks."""
        shown = self.core.observation()[0]
        for i in range(self.rows):
            if i >= len(self.states):
                assert not shown[i].any()
            elif self.states[i].diverged:
                assert shown[i] == pytest.approx(self.states[i].row, abs=1e-6)
            else:
                assert_same(shown[i], self.states[i].row, f"row {i}")
        rewinds = self.possible()
        rewinds[0] = True
        expected = [good for good in rewinds for _ in range(5)] + [True, True]
        assert self.core.action_masks()[0].tolist() == expected


DECISION = st.tuples(
    st.sampled_from([0.05, 0.05, FREEZE, HUGE]),
    st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5]),
    st.sampled_from([False, False, False, False, True]),
)


@settings(max_examples=60)
@given(decisions=st.lists(DECISION, min_size=6, max_size=6), num_snapshots=st.integers(1, 4))
def test_any_sequence_of_decisions_keeps_the_rows_true(decisions: Any, num_snapshots: int):
    """Trained rows are the metrics measured i steps back along the current weights' lineage.

    Untrained rows stay what reset showed, the emptied ones are missing, masks are exact, and weights are
    restored to the last bit.
    """
    core = make_core(num_snapshots=num_snapshots, thresholdout=False, initial_learning_rate=0.1)
    books = Bookkeeping(core)
    for rate, rewind, reinit in decisions:
        books.check_step(rate, rewind, reinit)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_a_rewind_restores_the_weights_to_the_last_bit(optimizer: str, distance: int):
    core = make_core(num_snapshots=4, optimizer=optimizer, budget=40)
    start(core)
    recorded = []
    for _ in range(6):
        decide(core, 0.02)
        recorded.append(weights(core))
    rows = core.observation()[0]
    result = decide(core, FREEZE, rewind=distance)
    assert result.info["rewind"].tolist() == [distance]
    assert_same(weights(core), recorded[-1 - distance])
    after = core.observation()[0]
    assert_same(after[1 : 5 - distance], rows[distance : 3 if distance == 0 else 4])
    assert not after[5 - distance :].any()


@pytest.mark.parametrize("row", [1, 2])
def test_the_untrained_rows_are_networks_that_a_rewind_brings(row: int):
    """Rewinding to an untrained row brings a network with the very scores that the row showed."""
    core = make_core(thresholdout=False)
    start(core)
    shown = core.observation()[0, row]
    decide(core, FREEZE, rewind=row)
    observation = core.observation()[0]
    assert_same(observation[1], shown)
    for name in ("holdout_answer", "generalization_gap"):
        assert observation[0, 0, NAMES.index(name)] == shown[0, NAMES.index(name)]
    drawn = core.episodes[0].architecture
    schemes = ("kaiming_uniform", "xavier_uniform", "orthogonal")
    generator = stream(core.episodes[0].seed, "initialization", 0)
    networks = [drawn.initial_row(scheme, generator) for scheme in schemes]
    expected = networks[row][: 8 * 6].reshape(6, 8)
    assert_same(weights(core)["1.weight"], expected)


def test_a_rewind_keeps_the_rate_and_draws_fresh_minibatches():
    core = make_core()
    start(core)
    decide(core, 0.05)
    decide(core, 0.05)
    once = weights(core)
    decide(core, 0.05, rewind=1)  # the same state, rate and number of updates as in the step before
    again = weights(core)
    assert core.lineage.learning_rate.tolist() == [0.05]
    assert core.lineage.updates.tolist() == [12]
    assert any(not np.array_equal(once[name], again[name]) for name in once)


@pytest.mark.parametrize("distance", [1, 2])
def test_a_rewind_brings_the_same_minibatches_where_asked_for(distance: int):
    core = make_core(rewind_minibatches="same")
    start(core)
    decide(core, 0.05)
    seen = [weights(core)]
    for _ in range(distance):
        decide(core, 0.05)
        seen.append(weights(core))
    for rewind in (distance, 0) if distance == 2 else (1,):
        decide(core, 0.05, rewind=rewind)
    for name, value in weights(core).items():
        np.testing.assert_array_equal(value, seen[-1][name], err_msg=name)
    decide(core, 0.05, reinit=True)
    decide(core, 0.05, rewind=1)  # the re-init's own network, and minibatches that follow it


def test_a_rewind_adds_noise_where_asked_for():
    core = make_core(rewind_noise=0.1, classifier="mlp-64")
    start(core)
    decide(core, 0.05)
    before = weights(core)
    decide(core, FREEZE)
    for name, value in weights(core).items():
        np.testing.assert_allclose(value, before[name], atol=1e-6)
    decide(core, FREEZE, rewind=1)
    for name, value in weights(core).items():
        noise = (value - before[name]).ravel()
        scale = 0.1 * np.sqrt(np.mean(np.square(before[name])))
        assert abs(noise.std() / scale - 1) < 4 / np.sqrt(2 * len(noise)) + 0.02, name


def test_a_rewind_past_the_oldest_row_never_makes_a_new_network():
    """In the prototype it re-initialised."""
    core = make_core(initial_states="zeros")
    start(core)
    first = weights(core)
    decide(core, 0.05)
    for far in (2, 3, 1000):
        result = decide(core, FREEZE, rewind=far)
        assert result.info["rewind"].tolist() == [1] and result.info["rewind_impossible"].tolist() == [True]
        assert_same(weights(core), first)
    # with the current state alone, an impossible rewind does nothing but say so
    core = make_core(num_snapshots=1)
    start(core)
    first = weights(core)
    result = decide(core, FREEZE, rewind=1)
    assert result.info["rewind"].tolist() == [0] and result.info["rewind_impossible"].tolist() == [True]
    assert_same(weights(core), first)


def test_masks_and_zero_distance_are_not_called_impossible():
    core = make_core()
    start(core)
    for rewind in (0, 1, 0, 2, 0):
        result = decide(core, 0.05, rewind=rewind)
        assert result.info["rewind"].tolist() == [rewind]
        assert result.info["rewind_impossible"].tolist() == [False]


# Re-init -------------------------------------------------------------------------------------------


def test_a_reinit_draws_new_networks_into_all_rows_and_asks_h_questions():
    core = make_core(thresholdout=False, num_snapshots=3)
    start(core)
    first = weights(core)
    decide(core, 0.05)
    before = core.observation()[0]
    result = decide(core, FREEZE, reinit=True, rewind=2)
    assert result.info["rewind"].tolist() == [0] and result.info["rewind_impossible"].tolist() == [False]
    assert result.info["holdout_queries"].tolist() == [3 + 1 + 3]
    assert result.info["updates"].tolist() == [8]  # the budget is not given back
    after = core.observation()[0]
    for row in after:
        assert not any(np.array_equal(row[0, 3:5], old[0, 3:5]) for old in before)
    assert any(not np.array_equal(first[name], value) for name, value in weights(core).items())
    updates = after[:, 1, NAMES.index("lineage_updates")] * TINY["budget"]
    assert updates == pytest.approx([4, 0, 0])
    decide(core, FREEZE, rewind=1)  # to the network that the re-init drew
    generator = stream(core.episodes[0].seed, "initialization", 1)
    network = core.episodes[0].architecture.initial_row("kaiming_uniform", generator)
    assert_same(weights(core)["1.weight"], network[:48].reshape(6, 8))


@pytest.mark.parametrize(("rule", "expected"), [("keep", 0.1), ("initial", 0.4), (0.7, 1.4)])
def test_the_rate_after_a_reinit_follows_its_rule_and_then_the_decisions_factor(
    rule: str | float, expected: float
):
    core = make_core(reinit_learning_rate=rule, initial_learning_rate=0.2)
    start(core)
    decide(core, 0.05)
    result = decide(core, factor=2.0, reinit=True)
    assert result.info["learning_rate"].tolist() == [expected]
    shown = core.observation()[0, :2, 0, NAMES.index("learning_rate")]
    assert shown == pytest.approx((np.log10(expected) + 100) / 130 * 2 - 1)
    assert decide(core, 0.04).info["learning_rate"].tolist() == [0.04]


def test_initial_states_zeros_holds_for_a_reinit_too():
    core = make_core(initial_states="zeros")
    start(core)
    decide(core, 0.05)
    result = decide(core, 0.05, reinit=True)
    assert core.lineage.exists().tolist() == [[True, True, False]]
    assert result.info["holdout_queries"].tolist() == [1 + 1 + 2]  # the untrained row's and the new one's


def test_reinits_of_one_episode_draw_different_networks_and_no_other_stream():
    """The holdout's noise and the minibatches do not depend on how often networks were drawn."""
    ends = []
    for script in ([False, False, True], [False, True, True]):
        core = make_core()
        start(core)
        drawn = [weights(core)]
        for reinit in script:
            decide(core, FREEZE, reinit=reinit)
            drawn.append(weights(core))
        ends.append(core.stacks.sampler)
        different = {named["1.weight"].tobytes() for named in drawn}
        assert len(different) == 1 + sum(script)
    batches = [sampler.draw(np.array([0]), 20).tolist() for sampler in ends]
    assert batches[0] == batches[1]


# Stop, budget and truncation -----------------------------------------------------------------------


def test_stop_goes_before_everything_else():
    core = make_core()
    start(core)
    decide(core, 0.05)
    before, rows, info = weights(core), core.observation(), core.lineage.learning_rate.copy()
    result = decide(core, 0.7, rewind=1, reinit=True, stop=True)
    assert result.terminated.tolist() == [True] and result.truncated.tolist() == [False]
    assert result.reward.tolist() == [0]
    assert result.info["rewind"].tolist() == [0] and result.info["action"].tolist() == [
        ACTION_NUMBERS["stop"]
    ]
    assert_same(core.lineage.learning_rate, info)
    assert_same(weights(core), before)
    assert_same(core.observation(), rows)
    assert result.info["updates"].tolist() == [4] and result.info["holdout_queries"].tolist() == [4]


@pytest.mark.parametrize(
    "script", [[{}] * 6, [{"rewind": 1}] * 6, [{"reinit": True}] * 6, [{"rate": HUGE}] * 6]
)
def test_an_episode_ends_when_the_budget_is_spent_whatever_was_done(script: list[dict[str, Any]]):
    core = make_core()
    start(core)
    results = [decide(core, **decision) for decision in script]
    assert [result.terminated[0] for result in results] == [False] * 5 + [True]
    assert not any(result.truncated[0] for result in results)
    assert [result.info["updates"][0] for result in results] == [4, 8, 12, 16, 20, 24]
    shown = core.observation()[0, 0, :, NAMES.index("budget_used")]
    assert shown == pytest.approx([22 / 24, 1])


def test_rates_are_clipped_to_their_bounds():
    core = AutoTrainCore(AutoTrainConfig(**tiny(lr_bounds=(0.01, 1.0))), 1)
    start(core)
    for rate, expected in ((5.0, 1.0), (1e-9, 0.01), (np.inf, 1.0), (0.5, 0.5)):
        assert decide(core, rate).info["learning_rate"].tolist() == [expected]


# Divergence ----------------------------------------------------------------------------------------

CAUSES: dict[str, Callable[[AutoTrainCore], None]] = {
    # a rate that overflows the weights
    "rate": lambda core: None,
    # something that is not a number among the weights
    "nan": lambda core: core.stacks._of(1)[0].state[1, 3].fill_(torch.nan),
}


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_diverged_lane_is_contained_and_leaves_all_others_bit_identical(score: str, cause: str):
    script: list[dict[str, Any]] = [{}, {"rewind": 1}, {}, {"reinit": True}, {"rewind": 2}, {}]
    healthy, other = make_core(5, score=score), make_core(5, score=score)
    for core in (healthy, other):
        start(core)
    diverged = []
    for i, decision in enumerate(script):
        rates = np.full(5, 0.05)
        expected = decide(healthy, rates, **decision)
        if i == 2:
            CAUSES[cause](other)
            rates[1] = HUGE if cause == "rate" else 0.05
        found = decide(other, rates, **decision)
        diverged.append(bool(found.info["diverged"][1]))
        others = [0, 2, 3, 4]
        for lane in others:
            assert_same(weights(other, lane), weights(healthy, lane))
        assert_same(other.observation()[others], healthy.observation()[others])
        assert_same(found.reward[others], expected.reward[others])
        for name in found.info:
            if name != "reward_terms":
                assert_same(found.info[name][others], expected.info[name][others], name)
    assert diverged == [False, False, True, False, False, False]
    for name in found.final:
        assert_same(found.final[name][others], expected.final[name][others])


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
def test_row_0_of_a_diverged_lane_reads_as_chance_and_the_others_stay(score: str):
    core = make_core(score=score, thresholdout=False)
    start(core)
    decide(core, 0.05)
    before = core.observation()[0]
    queries = int(core.lineage.thresholdout.queries[0])
    for step in range(2, 4):  # it stays so while nothing is done about it
        result = decide(core, HUGE if step == 2 else 0.05)
        row = dict(zip(NAMES, core.observation()[0, 0].T, strict=True))
        chance = 0.25 if score == "accuracy" else -np.log(4)
        unit = 0.25 if score == "accuracy" else 0.75  # 1 - log C / (4 log C)
        assert result.info["score"] == pytest.approx([chance])
        assert result.info["diverged"].tolist() == [True]
        assert row["log_loss_ratio"] == pytest.approx(0, abs=1e-6)
        assert row["batch_accuracy"] == pytest.approx([0.25, 0.25])
        assert row["holdout_answer"] == pytest.approx([unit, unit])
        assert row["generalization_gap"].tolist() == [0, 0]
        assert row["budget_used"] == pytest.approx(np.array([4 * step - 2, 4 * step]) / 24)
        assert row["diverged"].tolist() == [1, 1] and row["exists"].tolist() == [1, 1]
        assert_same(core.observation()[0, 1:], before[1:])
        assert result.info["updates"].tolist() == [4 * step]  # skipped, but counted
        assert result.info["holdout_queries"].tolist() == [queries]  # no question about such a state
        # row 0 is no target of a rewind, and all others are
        assert core.lineage.rewindable().tolist() == [[False, True, True]]


@pytest.mark.usefixtures("each_backend")
def test_a_diverged_lane_comes_back_by_rewind_and_by_reinit():
    for decision, distance, impossible in (
        ({"rewind": 1}, 1, False),
        ({"rewind": 2}, 2, False),
        ({"rewind": 7}, 2, True),
        ({"reinit": True}, 0, False),
    ):
        core = make_core()
        start(core)
        decide(core, 0.05)
        decide(core, 0.05)
        rows = core.observation()[0]
        decide(core, HUGE)
        decide(core, 0.05)
        assert core.lineage.diverged.tolist() == [True]
        result = decide(core, 0.05, **decision)
        assert result.info["diverged"].tolist() == [False]
        assert result.info["rewind"].tolist() == [distance]
        assert result.info["rewind_impossible"].tolist() == [impossible]
        assert np.isfinite(np.concatenate([v.ravel() for v in weights(core).values()])).all()
        if distance:
            assert_same(core.observation()[0, 1], rows[distance])
        result = decide(core, 0.05)
        assert result.info["diverged"].tolist() == [False] and result.terminated.tolist() == [True]
        assert result.final["test_accuracy"][0] != 0.25


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("again", [0, 1, 3])
def test_the_state_before_a_divergence_can_be_kept(again: int):
    """However long it stays diverged; also where the first env step is the one that diverges."""
    for steps in (0, 2):
        core = make_core(2, keep_before_divergence=True, can_reinit=False)
        start(core)
        for _ in range(steps):
            decide(core, 0.05)
        rows, before = core.observation(), weights(core)
        for rate in (HUGE, *[0.05] * again):
            decide(core, np.array([rate, 0.05]))
            assert core.lineage.diverged.tolist() == [True, False]
            assert_same(core.observation()[0, 1:], rows[0, :-1])
        assert core.lineage.rewindable()[0].tolist() == [False, True, steps > 0]
        core.stacks.rewind(np.array([0]), core.lineage.rewind(np.array([0]), np.array([1])))
        assert_same(core.observation()[0, :2], rows[0, :2])
        assert_same(weights(core), before)


@pytest.mark.usefixtures("each_backend")
def test_a_diverged_lane_without_a_finite_row_stays_where_it_is_until_a_reinit():
    core = make_core(initial_states="zeros")
    start(core)
    decide(core, HUGE)
    result = decide(core, 0.05, rewind=1)
    assert result.info["rewind"].tolist() == [0] and result.info["rewind_impossible"].tolist() == [True]
    assert result.info["diverged"].tolist() == [True]
    assert core.action_masks()[0].tolist() == [True] * 5 + [False] * 10 + [True] * 2
    assert decide(core, 0.05, reinit=True).info["diverged"].tolist() == [False]


@pytest.mark.usefixtures("each_backend")
def test_a_diverged_end_is_tested_as_chance_and_the_best_weights_as_they_are():
    core = make_core(thresholdout=False)
    start(core)
    best, info = -1.0, None
    for rate in (0.1, 0.1, HUGE):
        result = decide(core, rate)
        if result.info["holdout_answer"][0] > best and rate != HUGE:
            best, info = result.info["holdout_answer"][0], weights(core)
    result = decide(core, 0.1, stop=True)
    assert info is not None
    assert result.final["test_accuracy"].tolist() == [0.25]
    assert result.final["test_loss"] == pytest.approx([np.log(4)])
    assert result.final["best_holdout_test_accuracy"][0] > 0.4


# Thresholdout's place ------------------------------------------------------------------------------


def test_the_holdout_is_asked_once_per_row_at_reset_and_once_per_step():
    core = make_core(num_snapshots=3, budget=40)
    counts = [start(core)["holdout_queries"][0]]
    for decision in (
        {},
        {"rewind": 1},
        {"reinit": True},
        {},
        {"rate": HUGE},
        {},
        {"reinit": True},
        {"stop": True},
    ):
        counts.append(decide(core, **decision).info["holdout_queries"][0])
    assert np.diff([0, *counts]).tolist() == [3, 1, 1, 3, 1, 0, 0, 3, 0]


def test_after_the_budget_of_disagreements_only_the_train_score_is_returned():
    core = make_core(thresholdout_budget=2, thresholdout_threshold=0.0, thresholdout_sigma=0.0, budget=48)
    info = start(core)
    flags, differ = [bool(info["holdout_exhausted"][0])], []
    for _ in range(12):
        info = decide(core, 0.1).info
        flags.append(bool(info["holdout_exhausted"][0]))
        if flags[-2]:  # exhausted before this step's question
            assert info["holdout_answer"][0] == info["train_score"][0]
            differ.append(accuracies(core)["holdout"] != info["train_score"][0])
    assert flags[-1] and flags == sorted(flags)
    assert any(differ)  # the unguarded answer would have been another
    free = make_core(thresholdout=False, thresholdout_budget=0)
    start(free)
    info = decide(free, 0.1).info
    assert not info["holdout_exhausted"][0]
    assert info["holdout_answer"][0] == accuracies(free)["holdout"]


def test_thresholdouts_noise_has_a_stream_of_its_own():
    """With and without it, weights and minibatches are the same."""
    guarded, free = make_core(), make_core(thresholdout=False)
    for core in (guarded, free):
        start(core)
        for decision in ({}, {"rewind": 1}, {"reinit": True}, {}):
            decide(core, 0.05, **decision)
    assert_same(weights(guarded), weights(free))
    assert not np.array_equal(guarded.observation(), free.observation())


# Splits --------------------------------------------------------------------------------------------


def test_the_observation_is_of_holdout_and_train_and_the_reward_of_validation():
    core = make_core(thresholdout=False, label_noise=0.4)
    start(core)
    result = decide(core, 0.1)
    measured = accuracies(core)
    assert len(set(measured.values())) == 3  # else nothing is seen
    shown = core.observation()[0, 0, 0]
    assert shown[NAMES.index("holdout_answer")] == pytest.approx(measured["holdout"])
    assert result.info["score"].tolist() == [measured["validation"]]
    assert result.info["train_score"].tolist() == [measured["train"]]


def test_label_noise_is_on_train_and_holdout_alone():
    core = make_core(label_noise=1.0)
    start(core)
    split, labels = core.episodes[0].split, core.episodes[0].dataset.labels
    assert (split.train_labels != labels[split.train_index]).all()
    assert (split.holdout_labels != labels[split.holdout_index]).all()
    assert (split.validation_labels == labels[split.validation_index]).all()
    assert (split.test_labels == labels[split.test_index]).all()


def test_the_task_decides_what_is_trained():
    """Batch size, train size, optimiser and initialisation are not ignored."""
    ends = {}
    base = {name: tiny()[name] for name in ("train_size", "holdout_size", "validation_size", "batch_size")}
    base |= {"dataset": tiny_data(), "classifier": "mlp-6", "budget": 24, "initial_learning_rate": 0.1}
    changes: list[dict[str, Any]] = [
        {},
        {"batch_size": 9},
        {"train_size": 40},
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"initialization": "orthogonal"},
        {"split_seed": 1},
        {"label_noise": 0.5},
        {"dataset": tiny_data(seed=1)},
    ]
    for change in changes:
        core = make_core()
        start(core, seed=3, task=Task(**(base | change)))
        assert core.task(0) == Task(**(base | change))
        decide(core, 0.1)
        ends[str(change)] = weights(core)["1.weight"].tobytes()
    assert len(set(ends.values())) == len(changes)
    core = make_core()
    start(core, seed=3, task=Task(**(base | {"classifier": "linear"})))
    assert weights(core)["1.weight"].shape == (4, 8)


# Random streams ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("each_backend")
def test_nothing_depends_on_or_disturbs_the_global_generators():
    def rollout() -> list[Any]:
        core = make_core(2)
        start(core)
        results = [decide(core, 0.05, reinit=step == 2).info["score"] for step in range(4)]
        return [*results, weights(core, 1)]

    torch.manual_seed(0)
    np.random.seed(0)
    first = rollout()
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state().clone()
    assert_same(rollout(), first)
    assert_same(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    torch.manual_seed(1)
    np.random.seed(1)
    assert_same(rollout(), first)


def test_the_streams_of_an_episode_differ_from_one_another():
    names = ("task", "initialization", "minibatches", "thresholdout", "actions")
    drawn = {name: stream(5, name).random() for name in names}
    drawn |= {f"attempt {j}": stream(5, "initialization", j).random() for j in range(3)}
    drawn["another episode"] = stream(6, "task").random()
    assert len(set(drawn.values())) == len(drawn)
    assert stream(5, "task").random() == drawn["task"]


# Lanes ---------------------------------------------------------------------------------------------


def test_resetting_one_lane_leaves_the_others_alone():
    core, untouched = make_core(3), make_core(3)
    for made in (core, untouched):
        start(made)
        decide(made, 0.05)
    core.reset(np.array([1]), [77], [None])
    assert core.lineage.updates.tolist() == [4, 0, 4]
    for lane in (0, 2):
        assert_same(core.observation()[lane], untouched.observation()[lane])
        assert_same(weights(core, lane), weights(untouched, lane))
    for _ in range(2):
        found, expected = decide(core, 0.05), decide(untouched, 0.05)
        for lane in (0, 2):
            assert found.reward[lane] == expected.reward[lane]
            assert_same(weights(core, lane), weights(untouched, lane))
    alone = make_core(1)
    alone.reset(np.array([0]), [77], [None])
    decide(alone, 0.05)
    decide(alone, 0.05)
    assert_same(weights(core, 1), weights(alone))


def test_lanes_that_have_ended_ignore_their_decision():
    core = make_core(3)
    start(core)
    decide(core, 0.05, stop=[False, True, False])
    before, rows = weights(core, 1), core.observation()[1]
    result = decide(core, [0.05, np.nan, 0.05], rewind=[0, -3, 0], reinit=[False, True, False])
    assert result.ran.tolist() == [True, False, True]
    assert result.reward[1] == 0 and result.terminated.tolist() == [False, True, False]
    assert_same(weights(core, 1), before)
    assert_same(core.observation()[1], rows)


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("same_network", [True, False])
def test_copy_lane_makes_an_exact_twin(same_network: bool):
    kwargs = tiny(lr_bounds=(FREEZE, HUGE), optimizer="adam", budget=40)
    core = AutoTrainCore(AutoTrainConfig(**kwargs), 3)
    other = Task(classifier="mlp-5-4", optimizer="sgd", batch_size=16, budget=600)
    core.reset(np.arange(3), [0, 1, 2], [None, None if same_network else other, None])
    decide(core, 0.05)
    decide(core, 0.05, reinit=[True, False, False], rewind=[0, 1, 0])
    decide(core, 0.05)
    bystander = weights(core, 2)
    core.copy_lane(0, 1)
    assert_same(weights(core, 2), bystander)
    for decision in ({}, {"rewind": 2}, {"reinit": True}, {}, {"rewind": 1}, {}, {"stop": True}):
        assert_same(weights(core, 0), weights(core, 1))
        assert_same(core.observation()[0], core.observation()[1])
        assert core.task(0) == core.task(1)
        result = decide(core, 0.05, **decision)
        assert result.reward[0] == result.reward[1]
        for name, values in result.info.items():
            if name != "reward_terms":
                assert values[0] == values[1], name
    for name, values in result.final.items():
        assert_same(values[0], values[1], name)
    assert core.stacks.weights_of(0)["1.weight"].shape == (6, 8)


def test_a_twin_goes_its_own_way_afterwards():
    core = make_core(2)
    start(core)
    decide(core, 0.05)
    core.copy_lane(0, 1)
    alone = copy.deepcopy(core)
    decide(core, [0.05, 0.5], rewind=[0, 1])
    decide(alone, [0.05, 0.05])
    assert_same(weights(core, 0), weights(alone, 0))
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(weights(core, 0).values(), weights(core, 1).values(), strict=True)
    )
    core.copy_lane(1, 1)
    with pytest.raises(ValueError, match="target=2 is not allowed: it must be a lane from 0 to 1"):
        core.copy_lane(0, 2)
    with pytest.raises(ValueError, match="source=-1 is not allowed"):
        core.copy_lane(-1, 0)


def test_weights_of_a_lane_are_copies():
    core = make_core()
    start(core)
    before = weights(core)
    for tensor in core.stacks.weights_of(0).values():
        tensor.fill_(7)
    assert_same(weights(core), before)


def with_running_statistics() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10)
    )


@pytest.mark.parametrize(
    "network",
    [
        {"dataset": "digits", "train_size": 100, "classifier": "mlp-8"},
        {"dataset": "digits", "train_size": 100, "classifier": "mlp-8", "dtype": "float64"},
        {"dataset": "digits", "train_size": 100, "classifier": with_running_statistics},
    ],
    ids=["perceptron", "double", "module with buffers"],
)
def test_a_network_taken_out_is_as_good_as_was_said(network: dict[str, Any]):
    """On the test images as they are in the data set, with the last weights and with the best."""
    core = make_core(2, **network)
    start(core, 5)
    while core.lanes.running.any():
        result = decide(core, [0.02, 0.1])
    assert (result.final["test_loss"] != result.final["best_holdout_test_loss"]).any()
    dataset = load_dataset("digits")
    images, labels = dataset.images[dataset.pool_size :], dataset.labels[dataset.pool_size :]
    for lane in range(2):
        for best, prefix in ((False, ""), (True, "best_holdout_")):
            with torch.no_grad():
                logits = core.network(lane, best=best)(images)
            assert logits.dtype == torch.float32
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).item()
            accuracy = (logits.argmax(1).numpy() == labels).mean()
            assert accuracy == pytest.approx(result.final[f"{prefix}test_accuracy"][lane], abs=1e-3)
            assert loss == pytest.approx(result.final[f"{prefix}test_loss"][lane], rel=1e-4)
    before = weights(core)
    with torch.no_grad():
        for parameter in core.network(0).parameters():
            parameter.fill_(7)
    assert_same(weights(core), before)
    with pytest.raises(ValueError, match="lane=2 is not allowed: it must be from 0 to 1"):
        core.network(2)


def test_gradients_are_computed_on_the_holdout_where_asked_for():
    plain, both = make_core(), make_core(train_on_holdout=True)
    for core in (plain, both):
        start(core)
    sizes = [len(core.episodes[0].train_examples()) for core in (plain, both)]
    assert sizes[1] == sizes[0] + len(plain.episodes[0].split.holdout_index)
    np.testing.assert_array_equal(plain.observation(), both.observation())  # of untrained networks
    for core in (plain, both):
        decide(core, 0.05)
    assert any((weights(plain)[name] != weights(both)[name]).any() for name in weights(plain))
