"""What was best in hindsight, on tasks whose outcomes are written down here."""

from typing import Any

import numpy as np
import pytest

from agents.imitating.hindsight import (
    DAMAGE,
    REINIT_COST,
    STAYING_COST,
    Networks,
    Played,
    advantages,
    ends_at,
    highest_rates,
    scores_of_rows,
    stabilized,
    worth_of_peaks,
)
from autotrain_env import ENVIRONMENTS, AutoTrainConfig, AutoTrainCore
from autotrain_env.process.actions import DiscreteActions
from autotrain_env.process.observations import METRIC_SETS

RATES = np.geomspace(1e-3, 10, 9)
CURVE = np.array([0.2, 0.3, 0.5, 0.7, 0.8, 0.75, 0.6, 0.1, 0.1])
"""Best at 0.1; 3 and 10 kill."""
STEPS = 12
KEEP, LOWEST, HIGHEST = 3, 0, 6
METRICS = [*METRIC_SETS["movement"]]


def table() -> DiscreteActions:
    action_type = AutoTrainConfig(**ENVIRONMENTS["AutoTrainRuns-v0"]).make_action_type()
    assert isinstance(action_type, DiscreteActions)
    return action_type


def played(rate: float = 0.1, actions: Any = (), **more: Any) -> Played:
    """A lane for each of the rates that are swept, and one more that begins at `rate`."""
    actions_type, lanes = table(), len(RATES) + 1
    taken = np.full((STEPS, lanes), KEEP)
    taken[: len(actions), -1] = actions
    rates = np.empty((STEPS, lanes))
    now = np.array([*RATES, rate])
    factors = actions_type.every_decision.lr_factor
    for step in range(STEPS):
        rates[step] = now
        left = STEPS - step
        now = now * factors[taken[step]] * (left - 0.5) / (left + 0.5)
    rows = np.zeros((STEPS, lanes, 4, 5, len(METRICS)))
    time = np.arange(STEPS)[:, None, None]
    age = np.arange(4)
    rows[..., METRICS.index("lineage_updates")] = np.maximum(time - age, 0)[..., None] / STEPS
    rows[..., METRICS.index("exists")] = 1
    # losses fall from step to step, also along the rows
    rows[..., METRICS.index("log_loss_ratio")] = -0.03 * np.maximum(time - age, 0)[..., None]
    masks = np.ones((STEPS, lanes, actions_type.num_actions), bool)
    given: dict[str, Any] = {
        "rates": rates,
        "scores": np.full((STEPS, lanes), 0.15),
        "actions": taken,
        "masks": masks,
        "running": np.ones((STEPS, lanes), bool),
        "rows": rows,
        "final": np.array([*CURVE, 0.8]),
        "initial_rates": RATES,
        "chance": 0.1,
        "metrics": "movement",
    }
    return Played(**(given | more))


def best(task: Played) -> np.ndarray:
    """The best action of every state, where impossible ones are left out, shape (n, G)."""
    return np.where(task.masks, advantages(task, table()), -9).argmax(2)


def factors_of(task: Played) -> np.ndarray:
    return np.array(table().lr_factors)[best(task) % 7]


def test_a_peak_is_worth_what_its_rate_brought():
    task = played()
    at_rates = worth_of_peaks(task, np.log10(RATES))
    np.testing.assert_allclose(at_rates, CURVE)  # also beside one that kills
    between = worth_of_peaks(task, np.array([-1.25]))
    np.testing.assert_allclose(between, at_rates[3:5].mean(), atol=1e-12)
    beyond = worth_of_peaks(task, np.array([-5.0, 3.0]))
    np.testing.assert_allclose(beyond, [at_rates[0] - 0.04, at_rates[-1] - 0.1])


def at(task: Played, peak: float, score: float, loss: float, highest: float, time: int) -> float:
    """What one network ends at."""
    network = Networks(np.array(score), np.array(loss), np.array(highest), np.array(time))
    return float(ends_at(task, np.array(peak), network))


def test_lines_lead_to_the_best_rate_from_everywhere_and_at_any_time():
    scores = np.full((STEPS, 10), 0.15)
    scores[:, 5:7] = 0.7  # above the best rate, and not damaged
    factors = factors_of(played(scores=scores))[:, :7]
    for lane, rate in enumerate(RATES[:7]):
        reached = np.log10(rate * factors[1:, lane])
        if 0.01 <= rate <= 1:  # within one factor of the best
            assert (np.abs(reached + 1) <= 0.3).all()
        assert ((factors[1:, lane] > 1) == (rate < 0.08)).all()
        assert ((factors[1:, lane] < 1) == (rate > 0.2)).all()


def test_the_first_decision_is_to_look():
    found = advantages(played(), table())[0]
    assert (found[:, KEEP] == 0).all() and (np.delete(found, KEEP, 1) == -0.3).all()


def test_the_highest_rate_is_followed_along_rewinds_and_new_networks():
    # up, kept there, back by two with a lower rate, up again, and a new network
    taken = [KEEP, HIGHEST, KEEP, 2 * 7 + LOWEST, HIGHEST, 28, KEEP]
    task = played(rate=0.4, actions=taken)
    used = np.log10(task.rates[1:, -1])  # rates fall by themselves, but for their line
    line = np.log10((STEPS - np.arange(STEPS) + 0.5) / (STEPS - np.arange(STEPS) - 0.5))[:-1]
    used = used + line  # as they were when they were used
    found = highest_rates(task, table())[:, -1]
    assert found[0].tolist() == [-np.inf] * 4
    np.testing.assert_allclose(found[1], [used[0], *[-np.inf] * 3])
    np.testing.assert_allclose(found[2], [used[1], used[0], -np.inf, -np.inf])
    np.testing.assert_allclose(found[3], [used[1], used[1], used[0], -np.inf])  # the line has fallen since
    # two back and low: no higher than it was there
    np.testing.assert_allclose(found[4], [max(used[0], used[3]), used[0], -np.inf, -np.inf])
    assert found[5, 0] == pytest.approx(used[4]) and found[6, 0] == pytest.approx(used[5])
    assert found[6, 1] == -np.inf
    impossible = task.masks.copy()
    impossible[3, -1, 2 * 7 + LOWEST] = False
    stays = highest_rates(played(rate=0.4, actions=taken, masks=impossible), table())[:, -1]
    assert stays[4, 0] == used[1]


def test_of_a_damaged_network_little_comes_back_at_a_lower_rate():
    task = played()
    best_peak, high = np.log10(RATES[4]), np.log10(RATES[6])
    whole = at(task, best_peak, 0.3, 0.0, -np.inf, 0)
    assert whole == pytest.approx(0.8)
    assert at(task, best_peak, 0.3, 0.0, np.log10(RATES[2]), 0) == whole  # a low rate damages nothing
    share = np.exp(-(0.8 - 0.6) / (0.8 - 0.1) / DAMAGE)
    damaged = at(task, best_peak, 0.3, 0.0, high, 0)
    assert damaged == pytest.approx(0.3 + share * 0.5)
    assert at(task, high, 0.3, 0.0, high, 0) == pytest.approx(0.6)  # at the rate itself it is as its line
    killed = at(task, best_peak, 0.1, 0.0, np.log10(RATES[7]), 0)
    assert killed == pytest.approx(0.1, abs=2e-3)
    # a curve that is low because all is low tells of no damage
    flat = played(final=np.array([*np.full(8, 0.105), 0.101, 0.1]))
    assert at(flat, best_peak, 0.1, 0.0, np.log10(RATES[8]), 0) == pytest.approx(0.105, abs=2e-3)
    # nor does one that is low since wrong labels are learned by heart, below the rate that fits best
    by_heart = played()
    by_heart.rows[-3:, :-1, ..., METRICS.index("log_loss_ratio")] = -np.arange(9.0)[:, None, None]
    assert at(by_heart, best_peak, 0.3, 0.0, high, 0) == pytest.approx(0.8)


def test_what_is_better_than_a_line_becomes_as_bad_only_early():
    task = played()
    bad = np.log10(RATES[7])
    for time in range(STEPS):
        found = at(task, bad, 0.7, 0.0, -np.inf, time)
        assert found == pytest.approx(0.7 - ((STEPS - time) / STEPS) ** 2 * 0.6)


def test_out_of_a_dead_network_leads_only_the_way_back_or_a_new_one():
    scores = np.full((STEPS, 10), 0.1)
    task = played(rate=5.0, scores=scores)
    found = best(task)[:, -1]
    assert found[1] // 7 == 1 and found[1] % 7 < KEEP  # to the network that it began with, lower
    assert (found[4:10] == 28).all()  # all rows are dead by then; in the last two steps nothing helps
    masks = task.masks.copy()
    masks[..., 28] = False
    left = np.where(masks, advantages(played(rate=5.0, scores=scores, masks=masks), table()), -9)[4:, -1]
    assert (left[:, :28].max(1) < 0.02).all()  # no rate helps


def test_a_new_network_is_worth_the_mean_of_keeping_and_lowering_its_rate():
    found = advantages(played(), table())[1:-1, 4, 28]  # beside the best line, which ends at 0.8
    left = np.arange(STEPS - 1, 1, -1)
    kept, lower = 0.1 + left / STEPS * 0.7, 0.1 + (left - 1) / STEPS * 0.4
    np.testing.assert_allclose(found, (kept + lower) / 2 - REINIT_COST - 0.8)


def test_a_diverged_network_is_left_at_once():
    task = played(rate=0.9)
    task.rows[5, -1, 0, :, METRICS.index("diverged")] = 1
    masks = task.masks.copy()
    masks[5, -1, :7] = True
    assert best(task)[5, -1] // 7 == 1
    masks[5, -1, 7:28] = False
    assert best(played(rate=0.9, rows=task.rows, masks=masks))[5, -1] == 28


def test_noise_is_the_same_at_every_stabilized_score():
    generator = np.random.default_rng(0)
    scores = np.array([[0.1], [0.5], [0.9], [0.97]])
    counted = generator.binomial(400, scores, (4, 20_000)) / 400
    np.testing.assert_allclose(stabilized(counted).std(1), 1 / (2 * np.sqrt(400)), rtol=0.03)


def test_what_going_on_would_lose_is_kept_by_stopping():
    scores = np.full((STEPS, 10), 0.15)
    scores[5:, -2] = 0.85  # of a line that ends at 0.1
    worth = advantages(played(scores=scores), table())
    share_left = (STEPS - np.arange(5, STEPS)) / STEPS
    np.testing.assert_allclose(worth[5:, -2, -1], 0.75 * share_left**2)
    assert (worth[1:5, -2, -1] < 0.1).all() and (worth[0, :, -1] < -0.2).all()
    assert (worth[1:, 4, -1] < -0.6).all()  # of the best line


LOSSES = np.array([-0.1, -0.3, -0.6, -1.0, -2.0, -3.0, -2.5, 0.0, 0.0])
"""What the lines end at: up to a rate of 0.3 higher ones fit more."""


def overfitted(**more: Any) -> Played:
    """A lane at a rate of 1 that was best after 4 steps, and has learned everything by heart after 6."""
    task = played(rate=1.0, **more)
    column = METRICS.index("log_loss_ratio")
    task.rows[-3:, :-1, ..., column] = LOSSES[:, None, None]
    for step, (loss, score) in enumerate([(0, 0.1), (-0.2, 0.3), (-0.4, 0.6), (-0.5, 0.76), (-0.9, 0.79)]):
        task.rows[step:, -1, :, :, column] = loss
        task.scores[step:, -1] = score
    task.rows[5, -1, 0, :, column], task.scores[5, -1] = -2.2, 0.65
    task.rows[6:, -1, 0, :, column], task.scores[6:, -1] = -4.0, 0.55
    for age in (1, 2, 3):
        task.rows[age:, -1, age, :, column] = task.rows[:-age, -1, 0, :, column]
    return task


def test_a_network_that_fits_better_than_a_line_ever_does_stays_as_it_is():
    task = overfitted()
    peaks = np.log10(RATES)

    def ends(score: float, loss: float) -> np.ndarray:
        return np.array([at(task, peak, score, loss, -np.inf, 0) for peak in peaks])

    fresh = ends(0.1, 0.0)
    np.testing.assert_array_equal(fresh, worth_of_peaks(task, peaks))
    late = ends(0.33, -0.7)
    np.testing.assert_allclose(late[:3], 0.33 - STAYING_COST)
    np.testing.assert_allclose(late[3:], fresh[3:])
    done = ends(0.33, -5.0)
    np.testing.assert_allclose(done[5:], fresh[5:])  # rates so high that they fit less move it again
    assert (done[:5] == 0.33 - STAYING_COST).all()


def test_later_than_a_line_was_as_far_less_of_its_way_is_left():
    task = played()
    column, peak = METRICS.index("log_loss_ratio"), float(np.log10(RATES[4]))
    task.rows[:, :-1, 0, :, column] = -0.1 * np.arange(STEPS)[:, None, None]
    for time in range(STEPS):
        share = min(1, (STEPS - time) / (STEPS - 4))  # the line had this loss after four env steps
        assert at(task, peak, 0.3, -0.4, -np.inf, time) == pytest.approx(0.3 + share * 0.5)


def test_what_was_learned_by_heart_is_brought_back_by_going_back_alone():
    worth = advantages(overfitted(), table())[6, -1]
    by_rewind = worth[:28].reshape(4, 7)
    assert worth[:28].argmax() // 7 == 2  # to where it was best
    assert by_rewind[2][LOWEST] > by_rewind[0][LOWEST] + 0.15


def test_scores_are_followed_along_rewinds_and_new_networks():
    scores = np.full((STEPS, 10), 0.15)
    scores[:, -1] = np.arange(STEPS) / 100
    taken = [KEEP, KEEP, KEEP, 2 * 7 + LOWEST, KEEP, 28, KEEP]
    found = scores_of_rows(played(actions=taken, scores=scores), table())[:, -1]
    assert found[3].tolist() == [0.03, 0.02, 0.01, 0.0]
    assert found[4].tolist() == [0.04, 0.01, 0.0, 0.0]
    assert found[5].tolist() == [0.05, 0.04, 0.01, 0.0]
    assert found[6].tolist() == [0.06, 0.1, 0.1, 0.1]  # a new network scores what guessing does


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_followed_through_divergences_as_the_environment_moves_them(seed: int):
    """The budget that a row shows says which state it is of."""
    steps, lanes = 14, 5
    arguments = dict(ENVIRONMENTS["AutoTrainRuns-v0"]) | {
        **{"lr_bounds": (1e-6, 1e30), "lr_factors": (1e-20, 1e-2, 0.5, 1.0, 2.0, 1e2, 1e20)},
        **{"keep_before_divergence": True, "train_size": 60, "classifier": "mlp-8"},
        **{"inner_steps": 5, "budget": steps * 5, "stop": False},
    }
    core = AutoTrainCore(AutoTrainConfig(**arguments), lanes)
    core.reset(np.arange(lanes), [10 * seed + lane for lane in range(lanes)])
    generator, tracks = np.random.default_rng(seed), []
    actions_type = core.action_type
    assert isinstance(actions_type, DiscreteActions)
    while core.lanes.running.any():
        masks = core.action_masks()
        wanted = np.array([generator.choice(np.flatnonzero(mask)) for mask in masks])
        actions = np.where(generator.random(lanes) < 0.6, KEEP, wanted)
        state = core.lineage.learning_rate, core.lanes.score, actions, masks, core.lanes.running
        tracks.append([value.copy() for value in (*state, core.lineage.rows, core.lineage.exists())])
        core.step(core.decode(actions))
    rates, scores, taken, masks, running, rows, exists = (
        np.stack(each) for each in zip(*tracks, strict=True)
    )
    named = {"rates": rates, "actions": taken, "masks": masks, "running": running, "rows": rows}
    more = {"final": core.lanes.score, "initial_rates": rates[0], "chance": 0.1, "metrics": "movement"}
    task = Played(**named, **more, scores=scores, keep_before_divergence=True)
    found, highest = scores_of_rows(task, actions_type), highest_rates(task, actions_type)
    diverged = task.metric("diverged")
    assert (diverged[1:, :, 0] * diverged[:-1, :, 0]).any() and (taken >= 7).any()
    when = np.rint(task.metric("budget_used") * steps).astype(int)  # of the untrained ones 0, or a re-init
    trained = exists & (task.metric("lineage_updates") > 0) & (diverged < 0.5)
    assert trained[:, :, 1:].sum() > 50
    at, lane, row = trained.nonzero()
    np.testing.assert_array_equal(found[at, lane, row], scores[when[at, lane, row], lane])
    np.testing.assert_array_equal(highest[at, lane, row], highest[when[at, lane, row], lane, 0])


def test_rows_of_other_untrained_networks_are_no_way_back():
    task = played(rate=0.9)
    task.rows[..., METRICS.index("lineage_updates")] = 0
    assert (advantages(task, table())[..., 7:28] == -0.3).all()
