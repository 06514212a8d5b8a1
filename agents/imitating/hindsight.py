"""What each action was worth in each state of a sweep, told from what became of the task at every rate.

Where rates fall on a line to 0 by themselves, a state's rate belongs to a line, and the line to an initial
rate: its peak. What a factor is worth is read off the task's curve (final score against initial rate), at
the peak that it leads to. That is a guess, since the network has a past; three kinds of states, where it
would mislead, are told apart:

* A network that had a higher rate than the one that fits best is damaged (its ReLU units are 0 for all
  images, to begin with), and a lower rate brings back little of it: a fifth where the higher rate costs a
  fifth of the gain. Only going back to a row from before helps, or drawing a new network.
* A network that fits its train set better than a line does at its end has that line behind it, and stays
  as it is there. So where wrong labels are being learned by heart, a low rate keeps what has not been lost,
  stopping does too, and only going back brings back what has.
* A network that is better than a line's end becomes as bad as that only early: later its rate is low.

The first decision keeps the rate: before any update nothing tells which rule it is the rate of, and a step
at a rate that is too high costs a step, while one blindly made too high can cost the network.

Scores are compared after `stabilized`, so that noise weighs the same at every score.
"""

from dataclasses import dataclass

import numpy as np

from autotrain_env.process.actions import DiscreteActions
from autotrain_env.process.observations import METRIC_SETS

BELOW, ABOVE = 0.02, 0.05  # what a decade beyond the rates that were tried costs
LEAST_GAIN = 0.1  # over chance; where the best rate brings less, damage is compared with this
DAMAGE = 0.12  # share of the gain that a rate costs where e⁻¹ of what lower rates bring comes back
IMPOSSIBLE = -0.3
REWIND_COST = 0.002
REINIT_COST = 0.03
STAYING_COST = 0.002
CHANGE_COST = 0.004  # of a decade, up or down, lest rates wander where they make no difference
LAST_STEPS = 3  # of a line, over which its final loss is averaged


@dataclass(frozen=True)
class Played:
    """The lanes of one task, G of them, over n env steps; the first S keep to lines.

    Args:
        rates: Learning rates before each decision, float64, shape (n, G).
        scores: Stabilized scores before each decision, shape (n, G).
        actions: Actions, int64, shape (n, G).
        masks: Which actions were possible, bool, shape (n, G, number of actions).
        running: Which lanes ran, bool, shape (n, G).
        rows: Observations, shape (n, G, H, K, M).
        final: Stabilized final scores, shape (G,).
        initial_rates: Rates that the lines begin at, ascending, shape (S,).
        chance: Stabilized score of guessing.
        metrics: Which metrics the rows have, one of `METRIC_SETS`.
        keep_before_divergence: Whether a state that diverged moves the others down, as in the environment.
    """

    rates: np.ndarray
    scores: np.ndarray
    actions: np.ndarray
    masks: np.ndarray
    running: np.ndarray
    rows: np.ndarray
    final: np.ndarray
    initial_rates: np.ndarray
    chance: float
    metrics: str
    keep_before_divergence: bool = False

    @property
    def swept(self) -> np.ndarray:
        """Returns the final scores of the lines, shape (S,)."""
        return self.final[: len(self.initial_rates)]

    def column(self, name: str) -> int:
        """Returns where a metric stands in the rows."""
        return [*METRIC_SETS[self.metrics]].index(name)

    def metric(self, name: str) -> np.ndarray:
        """Returns a metric's last window in every row, float64, shape (n, G, H)."""
        return self.rows[:, :, :, -1, self.column(name)].astype(float)


def stabilized(scores: np.ndarray | float) -> np.ndarray:
    """Returns arcsin √score, in which the noise of n images is 1 / (2 √n) at every score.

    So half a point at 98% counts as much as two points at 50%.

    Args:
        scores: Shares of images, of any shape.
    """
    return np.arcsin(np.sqrt(np.asarray(scores)))


def worth_of_peaks(played: Played, peaks: np.ndarray) -> np.ndarray:
    """Returns the final score that a line brings, by its peak.

    Args:
        played: The task.
        peaks: log10 of initial rates, any shape.

    Returns:
        Scores, interpolated between the rates and going on beyond them with a slope, of that shape. They
        are not smoothed: beside a rate that kills, its neighbour would look bad, too, and noise is the
        smaller error.
    """
    known = np.log10(played.initial_rates)
    low, high = np.maximum(known[0] - peaks, 0), np.maximum(peaks - known[-1], 0)
    return np.interp(peaks, known, played.swept.astype(float)) - BELOW * low - ABOVE * high


def highest_rates(played: Played, actions: DiscreteActions) -> np.ndarray:
    """Follow the highest rate of the networks in all rows along rewinds and re-initialisations.

    Args:
        played: The task.
        actions: What actions there are.

    Returns:
        log10 of the highest rate that the network in each row was trained at before each decision, shape
        (n, G, H); minus infinity where it is untrained.
    """
    found = np.full(played.rows.shape[:3], -np.inf)
    used = np.log10(played.rates) + np.log10(actions.every_decision.lr_factor)[played.actions]
    for step in range(1, len(found)):
        before = _taken_back(played, actions, step - 1, found[step - 1], -np.inf)
        newest = np.maximum(before[:, 0], used[step - 1])
        found[step] = _moved_down(played, actions, step - 1, newest, before)
    return found


def _way_back(played: Played, actions: DiscreteActions, step: int) -> np.ndarray:
    """Returns how many rows each lane goes back at a decision, int64, shape (G,)."""
    lane, action = np.arange(played.rates.shape[1]), played.actions[step]
    return np.where(played.masks[step, lane, action], actions.every_decision.rewind[action], 0)


def _moved_down(
    played: Played, actions: DiscreteActions, step: int, newest: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Returns what is known of the networks in all rows after an env step.

    Args:
        played: The task.
        actions: What actions there are.
        step: Number of the decision that it began with.
        newest: What is known of the networks that it led to, shape (G,).
        rows: What is known of those in all rows after the decision, shape (G, H).
    """
    below = rows[:, :-1]
    if played.keep_before_divergence:  # what has diverged once is not moved down again
        reinit = actions.every_decision.reinit[played.actions[step]]
        stays = (_way_back(played, actions, step) == 0) & ~reinit
        replaced = stays & (played.rows[step, :, 0, -1, played.column("diverged")] > 0.5)
        below = np.where(replaced[:, None], rows[:, 1:], below)
    return np.concatenate((newest[:, None], below), 1)


def _taken_back(
    played: Played, actions: DiscreteActions, step: int, rows: np.ndarray, of_new: float
) -> np.ndarray:
    """Returns what is known of the networks in all rows, as a decision has taken them back.

    Args:
        played: The task.
        actions: What actions there are.
        step: Number of the decision.
        rows: What is known before it, shape (G, H).
        of_new: What is known of a network that was drawn anew.
    """
    decisions, action, lane = actions.every_decision, played.actions[step], np.arange(len(rows))
    back = _way_back(played, actions, step)[:, None]
    source = np.minimum(np.arange(rows.shape[1]) + back, rows.shape[1] - 1)
    return np.where(decisions.reinit[action][:, None], of_new, rows[lane[:, None], source]).astype(
        rows.dtype
    )


def scores_of_rows(played: Played, actions: DiscreteActions) -> np.ndarray:
    """Follow what the networks in all rows scored along every lane's rewinds and re-initialisations.

    Args:
        played: The task.
        actions: What actions there are.

    Returns:
        Scores before each decision, shape (n, G, H); `played.chance` in rows of other lineages.
    """
    found = np.full(played.rows.shape[:3], float(played.chance))
    found[:, :, 0] = played.scores
    for step in range(1, len(found)):
        before = _taken_back(played, actions, step - 1, found[step - 1], played.chance)
        found[step] = _moved_down(played, actions, step - 1, played.scores[step], before)
    return found


@dataclass(frozen=True)
class Networks:
    """What is known of networks, arrays of shapes that go together.

    Args:
        score: Their stabilized scores.
        loss: Their log(loss / log C); infinite for untrained ones.
        highest: log10 of the highest rates that they were trained at; minus infinity for untrained ones.
        time: Env steps that are over.
    """

    score: np.ndarray
    loss: np.ndarray
    highest: np.ndarray
    time: np.ndarray


def ends_at(played: Played, peaks: np.ndarray, networks: Networks) -> np.ndarray:
    """Returns what networks end at on a line, by its peak; see above for the three that are told apart.

    Where the line was as far at an earlier time, less of its way can still be gone.

    Args:
        played: The task.
        peaks: log10 of initial rates, of a shape that goes with those of the networks.
        networks: The networks.

    Returns:
        Stabilized scores, float64, of the shape of both.
    """
    known, steps = np.log10(played.initial_rates), len(played.rates)
    score, loss, time = networks.score, networks.loss, networks.time
    lines = played.metric("log_loss_ratio")[:, : len(known), 0]
    ends = lines[-LAST_STEPS:].mean(0)
    lowest = int(ends.argmin())  # beyond it higher rates fit less
    behind = (peaks < known[lowest]) & (loss < np.interp(peaks, known[: lowest + 1], ends[: lowest + 1]))
    shape = np.broadcast_shapes(peaks.shape, loss.shape)
    rising = np.minimum.accumulate(lines)[::-1]  # the lowest losses so far, from the last to the first
    as_far = np.stack(
        [np.broadcast_to(steps - np.searchsorted(line, loss, side="right"), shape) for line in rising.T], -1
    )  # env steps after which each line had come to this loss
    place = np.broadcast_to(np.interp(peaks, known, np.arange(len(known))), shape)[..., None]
    below = np.minimum(place.astype(int), len(known) - 2)
    lower, upper = (np.take_along_axis(as_far, below + more, -1) for more in (0, 1))
    reached = (lower + (place - below) * (upper - lower))[..., 0]
    way_left = np.minimum(1, (steps - time) / np.maximum(steps - reached, 1))

    worth = worth_of_peaks(played, peaks)
    gain = max(float(played.swept.max()) - played.chance, LEAST_GAIN)
    highest = np.maximum(networks.highest, known[0] - 1)  # of untrained ones, too, a number
    cost = np.maximum(worth - worth_of_peaks(played, highest), 0) / gain
    damage = np.where((highest > known[lowest]) & (highest > peaks), cost, 0)
    rises = score + way_left * np.exp(-damage / DAMAGE) * (worth - score)
    falls = score + ((steps - time) / steps) ** 2 * (worth - score)
    return np.where(behind, score - STAYING_COST, np.where(worth > score, rises, falls))


def advantages(played: Played, actions: DiscreteActions) -> np.ndarray:
    """Returns what each action is worth beside keeping the rate, in score.

    Args:
        played: A task's lanes.
        actions: What actions there are; rates must fall on a line to 0 by themselves.

    Returns:
        Float64, shape (n, G, number of actions); of actions that cannot be told anything of, a loss.
    """
    steps, lanes = played.rates.shape
    time = np.broadcast_to(np.arange(steps)[:, None], (steps, lanes))
    peaks = np.log10(played.rates) + np.log10((steps + 0.5) / (steps - time + 0.5))
    factors = np.log10(actions.lr_factors)
    new_peaks = peaks[..., None] + factors
    scores, losses = scores_of_rows(played, actions), played.metric("log_loss_ratio")
    highest = highest_rates(played, actions)
    diverged = played.metric("diverged")[:, :, 0] > 0.5  # whose updates are skipped
    now = Networks(scores[:, :, 0], losses[:, :, 0], highest[:, :, 0], time)
    kept = np.where(diverged, now.score, ends_at(played, peaks, now))[..., None]

    def in_row(distance: int) -> Networks:
        score, loss, rate = (values[:, :, distance, None] for values in (scores, losses, highest))
        return Networks(score, loss, rate, time[..., None])

    count = len(factors)
    worth = np.full((steps, lanes, actions.num_actions), IMPOSSIBLE)
    by_curve = np.where(diverged[..., None], 0, ends_at(played, new_peaks, in_row(0)) - kept)
    worth[..., :count] = by_curve - CHANGE_COST * np.abs(factors)
    ages = played.metric("lineage_updates")
    for distance in range(1, actions.num_rewinds):
        found = ends_at(played, new_peaks, in_row(distance)) - kept - REWIND_COST
        # only to rows of the same lineage: the others are untrained networks of other schemes
        younger = (ages[:, :, distance] < ages[:, :, 0]) | diverged
        there = younger & played.masks[..., distance * count]
        worth[..., distance * count : (distance + 1) * count][there] = found[there]
    if actions.reinit:
        worth[..., actions.num_rewinds * count] = _of_new(played, peaks, factors.min(), time) - kept[..., 0]
    _add_stopping(played, actions, kept[..., 0], worth)
    worth[0], worth[0, :, actions.lr_factors.index(1.0)] = IMPOSSIBLE, 0  # first a look at the given rate
    return worth


def _of_new(played: Played, peaks: np.ndarray, lowest: float, time: np.ndarray) -> np.ndarray:
    """Returns what a network that is drawn anew ends at, shape (n, G).

    It keeps the rate; where that is deadly the network can be gone back to, at a lower one. Which of both
    it will be is not known when it is drawn, so that each counts half: the better one would be hindsight.

    Args:
        played: The task.
        peaks: log10 of the peak that each decision began with, shape (n, G).
        lowest: log10 of the lowest factor.
        time: Env steps that are over, shape (n, G).
    """
    score, loss, highest = (np.full(time.shape, number) for number in (played.chance, np.inf, -np.inf))
    kept = ends_at(played, peaks, Networks(score, loss, highest, time))
    after = np.minimum(time + 1, len(time))
    lower = ends_at(played, peaks + lowest, Networks(score, loss, highest, after))
    return (kept + lower) / 2 - REINIT_COST


def _add_stopping(played: Played, actions: DiscreteActions, kept: np.ndarray, worth: np.ndarray) -> None:
    """Say what stopping is worth."""
    stopping = played.scores - np.maximum(played.final, kept)
    if actions.stop:
        worth[..., -1] = stopping
