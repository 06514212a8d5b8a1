"""What each action was worth in each state of a sweep, told from what became of the task at every rate.

Where rates fall on a line to 0 by themselves, a state's rate belongs to a line, and the line to an initial
rate: its peak. What a factor is worth is read off the task's curve (final score against initial rate), at
the peak that it leads to. That is a guess, since the network has a past; two kinds of states, where it
would mislead, are told apart:

* A network that a high rate has killed (its ReLU units are 0 for all images) learns no more at any rate.
  Only going back to a row from before helps, or drawing a new network.
* A network that fits its train set better than a line does at its end has that line behind it, and stays
  as it is there. So where wrong labels are being learned by heart, a low rate keeps what has not been lost,
  stopping does too, and only going back brings back what has.

Scores are compared after `stabilized`, so that noise weighs the same at every score.
"""

from dataclasses import dataclass

import numpy as np

from autotrain_env.process.actions import DiscreteActions
from autotrain_env.process.observations import METRIC_SETS

BELOW, ABOVE = 0.02, 0.05  # what a decade beyond the rates that were tried costs
DEAD_SHARE = 0.1  # of what the best rate brings over chance: a rate that brings less kills networks
LEAST_GAIN = 0.1  # over chance at the best rate; where that is less nothing tells what died
ALIVE_SHARE = 0.25  # of what the best rate brings over chance: a network that scores more is not dead
IMPOSSIBLE = -0.3
LOST_TIME = 0.3  # what a whole budget is worth to a network that has died
REWIND_COST = 0.004
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
        can_die: Whether networks of this kind can be killed by a high rate.
        metrics: Which metrics the rows have, one of `METRIC_SETS`.
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
    can_die: bool
    metrics: str

    @property
    def swept(self) -> np.ndarray:
        """Returns the final scores of the lines, shape (S,)."""
        return self.final[: len(self.initial_rates)]

    def metric(self, name: str) -> np.ndarray:
        """Returns a metric's last window in every row, float64, shape (n, G, H)."""
        return self.rows[:, :, :, -1, [*METRIC_SETS[self.metrics]].index(name)].astype(float)


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


def lowest_deadly(played: Played) -> float:
    """Returns log10 of the peak from which on a network dies; infinite where none does."""
    scores, known = played.swept, np.log10(played.initial_rates)
    gain = float(scores.max()) - played.chance
    if not played.can_die or gain < LEAST_GAIN:
        return np.inf
    dead = (scores < played.chance + DEAD_SHARE * gain) & (np.arange(len(known)) > scores.argmax())
    first = int(dead.argmax())
    return float(known[first - 1 : first + 1].mean()) if dead.any() else np.inf


def killed_rows(
    played: Played, actions: DiscreteActions, peaks: np.ndarray, rows_scores: np.ndarray
) -> np.ndarray:
    """Follow what was killed along every lane's rewinds and re-initialisations.

    Args:
        played: The task.
        actions: What actions there are.
        peaks: log10 of the peak that each decision began with, shape (n, G).
        rows_scores: What the networks in all rows score, shape (n, G, H); see `scores_of_rows`.

    Returns:
        Whether the network in each row was dead before each decision, bool, shape (n, G, H).
    """
    steps, lanes, height = played.rows.shape[:3]
    deadly = lowest_deadly(played)
    factors = np.log10(actions.every_decision.lr_factor)
    killed = np.zeros((steps, lanes, height), bool)
    for step in range(1, steps):
        before = _taken_back(played, actions, step - 1, killed[step - 1], False)
        died = peaks[step - 1] + factors[played.actions[step - 1]] >= deadly
        killed[step] = np.concatenate(((before[:, 0] | died)[:, None], before[:, :-1]), axis=1)
    alive = played.chance + ALIVE_SHARE * (float(played.swept.max()) - played.chance)
    return killed & (rows_scores < alive)


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
    back = np.where(played.masks[step, lane, action], decisions.rewind[action], 0)
    source = np.minimum(np.arange(rows.shape[1]) + back[:, None], rows.shape[1] - 1)
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
        found[step, :, 1:] = before[:, :-1]
    return found


def ends_at(
    played: Played, peaks: np.ndarray, score: np.ndarray, loss: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """Returns what networks end at on a line, by its peak.

    Where a network fits its train set better than the line does at its end, it has that line behind it and
    stays as it is, for better or worse: a low rate brings back nothing of what was learned by heart. Where
    the line was as far at an earlier time, less of its way can still be gone.

    Args:
        played: The task.
        peaks: log10 of initial rates, any shape.
        score: The networks' scores, of a shape that goes with it.
        loss: Their log(loss / log C), likewise.
        time: Env steps that are over, likewise.
    """
    known, steps = np.log10(played.initial_rates), len(played.rates)
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
    going_on = score + way_left * (worth_of_peaks(played, peaks) - score)
    return np.where(behind, score - STAYING_COST, going_on)


def advantages(played: Played, actions: DiscreteActions) -> np.ndarray:
    """Returns what each action is worth beside keeping the rate, in score.

    Args:
        played: A task's lanes.
        actions: What actions there are; rates must fall on a line to 0 by themselves.

    Returns:
        Float64, shape (n, G, number of actions); of actions that cannot be told anything of, a loss.
    """
    steps, lanes = played.rates.shape
    time = np.arange(steps)[:, None]
    left = steps - time
    peaks = np.log10(played.rates) + np.log10((steps + 0.5) / (left + 0.5))
    factors = np.log10(actions.lr_factors)
    rows_scores = scores_of_rows(played, actions)
    rows_losses = played.metric("log_loss_ratio")
    new_peaks = peaks[..., None] + factors
    reached = worth_of_peaks(played, new_peaks)
    times = np.broadcast_to(time, peaks.shape)
    kept = ends_at(played, peaks, rows_scores[:, :, 0], rows_losses[:, :, 0], times)
    from_here = rows_scores[:, :, 0, None], rows_losses[:, :, 0, None], times[..., None]
    by_curve = ends_at(played, new_peaks, *from_here) - kept[..., None]
    killed = killed_rows(played, actions, peaks, rows_scores)
    diverged = played.metric("diverged")[:, :, 0] > 0.5
    dead = killed[:, :, 0] | diverged  # whose updates are skipped
    share_left = (left / steps)[..., None]

    count = len(factors)
    worth = np.full((steps, lanes, actions.num_actions), IMPOSSIBLE)
    worth[..., :count] = np.where(dead[..., None], 0, by_curve) - CHANGE_COST * np.abs(factors)
    ages = played.metric("lineage_updates")
    for distance in range(1, actions.num_rewinds):
        revived = (reached - played.chance) * share_left - LOST_TIME * distance / steps - REWIND_COST
        revived[killed[:, :, distance]] = -0.1
        from_there = rows_scores[:, :, distance, None], rows_losses[:, :, distance, None], times[..., None]
        alive = ends_at(played, new_peaks, *from_there) - kept[..., None] - REWIND_COST
        found = np.where(dead[..., None], revived, alive)
        # only to rows of the same lineage: the others are untrained networks of other schemes
        younger = (ages[:, :, distance] < ages[:, :, 0]) | diverged
        there = younger & played.masks[..., distance * count]
        worth[..., distance * count : (distance + 1) * count][there] = found[there]
    if actions.reinit:
        # a new network keeps the rate; where that is deadly it can be gone back to, at a lower one
        later = reached.max(2) - LOST_TIME / steps
        anew = (np.maximum(kept, later) - played.chance) * share_left[..., 0] - REINIT_COST
        worth[..., actions.num_rewinds * count] = np.where(dead, np.maximum(anew, -0.05), -0.1)
    _add_stopping(played, actions, kept, dead, worth)
    return worth


def _add_stopping(
    played: Played, actions: DiscreteActions, kept: np.ndarray, dead: np.ndarray, worth: np.ndarray
) -> None:
    """Say what stopping is worth."""
    stopping = played.scores - np.maximum(played.final, kept)
    stopping = np.where(dead, np.minimum(stopping, -0.05), stopping)
    stopping[0] = IMPOSSIBLE
    if actions.stop:
        worth[..., -1] = stopping
