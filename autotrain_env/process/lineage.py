"""The numbers of a training run: what an agent sees of it, and how far it can go back.

A lineage knows no network. Whoever makes the updates (the core for its own networks, somebody else for
theirs) tells it what was measured, and carries out on the weights what it says.
"""

from collections.abc import Sequence

import numpy as np

from autotrain_env.process.actions import Decisions
from autotrain_env.process.observations import METRIC_SETS, Measurement, make_rows
from autotrain_env.process.thresholdout import Thresholdout

SCORES = ("accuracy", "balanced_accuracy", "neg_log_loss")
"""What can be maximised; `Lineage.scores`, `to_unit`, `chance` and `needs_losses` say what each is."""


SMALLEST, LARGEST = np.finfo(np.float64).tiny, np.finfo(np.float64).max
"""What a rate is said to have changed by at least and at most."""


class Lineage:
    """Rates, scores, flags and rows of N lanes.

    Row 0 is a lane's current state, row i the state i env steps back along the lineage of the current
    weights. The first `count` rows exist; the others are zero.

    Args:
        num_envs: Number of lanes (N).
        num_snapshots: Number of rows (H).
        history_length: Number of windows per env step (K).
        lr_bounds: Smallest and largest learning rate.
        score: What is maximised, one of `SCORES`.
        thresholdout: What guards the holdout of the N lanes.
        metrics: Metrics in a row, one of `METRIC_SETS`.
    """

    def __init__(
        self,
        num_envs: int,
        num_snapshots: int,
        history_length: int,
        lr_bounds: tuple[float, float],
        score: str,
        thresholdout: Thresholdout,
        metrics: str = "basic",
    ) -> None:
        self.metrics = metrics
        self.lr_bounds = lr_bounds
        self.score = score
        self.thresholdout = thresholdout
        # Each of shape (N,) unless stated.
        self.num_classes = np.full(num_envs, 2)
        self.budget = np.zeros(num_envs, np.int64)  # [updates]
        self.inner_steps = np.full(num_envs, history_length)  # updates per env step (T)
        self.updates = np.zeros(num_envs, np.int64)  # of the budget used
        self.all_updates = np.zeros(num_envs, np.int64)  # of all episodes
        self.learning_rate = np.ones(num_envs)
        self.initial_learning_rate = np.ones(num_envs)  # within the bounds
        self.loss = np.zeros((num_envs, history_length))  # of minibatches, by window [nats]
        self.batch_accuracy = np.zeros((num_envs, history_length))
        self.train_score = np.zeros(num_envs)  # in [0, 1], as is the next
        self.holdout_answer = np.zeros(num_envs)
        self.movement = np.zeros(num_envs)  # of parameters in the last env step, over their norm
        self.epochs = np.full(num_envs, np.nan)  # of the budget
        self.has_holdout = np.ones(num_envs, bool)
        self.has_train_score = np.ones(num_envs, bool)
        self.diverged = np.zeros(num_envs, bool)
        self.count = np.zeros(num_envs, np.int64)  # rows that exist
        self.lineage_updates = np.zeros((num_envs, num_snapshots), np.int64)
        width = len(METRIC_SETS[metrics])
        self.rows = np.zeros((num_envs, num_snapshots, history_length, width), np.float32)

    @property
    def num_snapshots(self) -> int:
        """Returns the number of rows (H)."""
        return self.rows.shape[1]

    @property
    def history_length(self) -> int:
        """Returns the number of windows per env step (K)."""
        return self.rows.shape[2]

    # --- the beginning of an episode, and of a lineage ---

    def begin(
        self,
        lanes: np.ndarray,
        num_classes: Sequence[int],
        budget: Sequence[int],
        inner_steps: Sequence[int],
        learning_rate: Sequence[float],
        generators: Sequence[np.random.Generator],
        measured: Sequence[str],
        epochs: Sequence[float],
    ) -> None:
        """Begin new episodes, without any row yet.

        Args:
            lanes: Which lanes, int64, shape (n,).
            num_classes: Number of classes (C) of each lane.
            budget: Updates per episode of each lane.
            inner_steps: Updates per env step (T) of each lane, a multiple of K.
            learning_rate: Initial rate of each lane; held to the bounds.
            generators: Thresholdout's stream of each lane.
            measured: What is measured in each lane, one of `tasks.MEASURED`.
            epochs: How often each lane's budget goes through the train part; NaN where that is not known.
        """
        self.num_classes[lanes] = num_classes
        self.budget[lanes] = budget
        self.inner_steps[lanes] = inner_steps
        self.updates[lanes] = 0
        self.learning_rate[lanes] = self.initial_learning_rate[lanes] = self.clamp(np.array(learning_rate))
        self.has_holdout[lanes] = [what != "nothing" for what in measured]
        self.has_train_score[lanes] = [what == "train_and_holdout" for what in measured]
        self.epochs[lanes] = epochs
        self.thresholdout.begin(lanes, generators)
        self.clear(lanes)

    def clear(self, lanes: np.ndarray) -> None:
        """Make every row of the given lanes (int64, shape (n,)) missing: new networks are to come."""
        self.diverged[lanes] = False
        self.count[lanes] = 0
        self.rows[lanes] = 0
        self.lineage_updates[lanes] = 0

    def push_untrained(
        self,
        lanes: np.ndarray,
        loss: np.ndarray,
        accuracy: np.ndarray,
        train_score: np.ndarray,
        holdout_score: np.ndarray,
    ) -> None:
        """Add networks that had no update as row 0; their row repeats one measurement K times.

        Args:
            lanes: Which lanes, int64, shape (n,).
            loss: Log loss on the train subset [nats], float64, shape (n,). Where that is not measured, a
                row shows what guessing gets.
            accuracy: Accuracy there, float64, shape (n,).
            train_score: Score there, float64, shape (n,).
            holdout_score: Score on the holdout, unguarded, float64, shape (n,).
        """
        classes, known = self.num_classes[lanes], self.has_train_score[lanes]
        self.loss[lanes] = np.where(known, loss, np.log(classes))[:, None]
        self.batch_accuracy[lanes] = np.where(known, accuracy, 1 / classes)[:, None]
        self.movement[lanes] = 0
        self._ask(lanes, train_score, holdout_score)
        updates = np.repeat(self.updates[lanes, None], self.history_length, axis=1)
        self._push(lanes, self._rows(lanes, updates, updates * 0), np.zeros(len(lanes), np.int64))

    # --- an env step ---

    def rewind(self, lanes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Rewind as far as wanted, or else to the oldest row that can be rewound to.

        Row `distance` becomes row 0; older rows move up, and the emptied ones are missing.

        Args:
            lanes: Which lanes, int64, shape (n,).
            wanted: Distance asked for [env steps], int64, shape (n,).

        Returns:
            The distance actually rewound [env steps], int64, shape (n,).
        """
        possible = self.rewindable()[lanes]
        last = self.num_snapshots - 1
        oldest = np.where(possible.any(1), last - possible[:, ::-1].argmax(1), 0)
        there = (wanted <= last) & possible[np.arange(len(lanes)), np.minimum(wanted, last)]
        distance = np.where((wanted == 0) | there, wanted, oldest)
        self._move_up(lanes[distance > 0], distance[distance > 0])
        return distance

    def set_rates(
        self, lanes: np.ndarray, decisions: Decisions, reinit: np.ndarray, after_reinit: str | float
    ) -> np.ndarray:
        """Change the learning rates as decided, held to the bounds.

        Args:
            lanes: Which lanes, int64, shape (n,).
            decisions: What was decided, arrays over all N lanes.
            reinit: Which lanes draw new networks, bool, shape (N,).
            after_reinit: The rate that a factor multiplies there: `"keep"` for the current one,
                `"initial"` for the episode's first, or a number.

        Returns:
            What each rate changed by, float64, shape (n,): the decision's own factor, or, where a bound
            held the rate or a rate was set, the new rate over the old one.
        """
        before = self.learning_rate[lanes]
        base = before.copy()
        if after_reinit == "initial":
            base = np.where(reinit[lanes], self.initial_learning_rate[lanes], base)
        elif not isinstance(after_reinit, str):
            base = np.where(reinit[lanes], after_reinit, base)
        factor = decisions.lr_factor[lanes]
        # A product beyond the numbers there are is held to the bounds as any other.
        with np.errstate(over="ignore", under="ignore"):
            wanted = base * factor
            if decisions.learning_rate is not None:
                scaled = False if decisions.scaled is None else decisions.scaled[lanes]
                wanted = np.where(scaled, wanted, decisions.learning_rate[lanes])
            self.learning_rate[lanes] = self.clamp(wanted)
            as_decided = self.learning_rate[lanes] == before * factor
            changed = np.clip(self.learning_rate[lanes] / before, SMALLEST, LARGEST)
        return np.where(as_decided, factor, changed)

    def steps_left(self) -> np.ndarray:
        """Returns the env steps until the budgets are spent, int64, shape (N,)."""
        return (self.budget - self.updates) // self.inner_steps

    def spend(self, lanes: np.ndarray) -> None:
        """Count an env step's updates, made or skipped, in the given lanes (int64, shape (n,))."""
        self.updates[lanes] += self.inner_steps[lanes]
        self.all_updates[lanes] += self.inner_steps[lanes]

    def push_trained(
        self,
        lanes: np.ndarray,
        losses: np.ndarray,
        accuracies: np.ndarray,
        train_score: np.ndarray,
        holdout_score: np.ndarray,
        movement: np.ndarray | None = None,
    ) -> None:
        """Move rows down by one, and add the state after T updates, which `spend` has counted, as row 0.

        Args:
            lanes: Which lanes, int64, shape (n,).
            losses: Mean log loss of every minibatch [nats], or of every window, float64, shape (n, T) or
                (n, K).
            accuracies: Accuracy on every minibatch, or in every window, likewise.
            train_score: Score on the train subset, float64, shape (n,).
            holdout_score: Score on the holdout, unguarded, float64, shape (n,).
            movement: How far parameters have moved, over their norm, float64, shape (n,); `None` where no
                metric is made of it.
        """
        self.movement[lanes] = 0 if movement is None else movement
        self.loss[lanes] = window_means(losses, self.history_length)
        self.batch_accuracy[lanes] = window_means(accuracies, self.history_length)
        self._ask(lanes, train_score, holdout_score)
        self._push(lanes, *self._trained_rows(lanes))

    def repeat_newest(self, lanes: np.ndarray) -> None:
        """Move rows down by one and repeat row 0, so that it stays when the one on top is contained.

        Args:
            lanes: Which lanes, int64, shape (n,).
        """
        self._push(lanes, self.rows[lanes, 0], self.lineage_updates[lanes, 0])

    def contain(self, lanes: np.ndarray) -> None:
        """Let row 0 of diverged lanes read as chance level, and leave their other rows alone.

        Args:
            lanes: Which lanes, int64, shape (n,).
        """
        chance = 1 / self.num_classes[lanes]
        self.diverged[lanes] = True
        self.movement[lanes] = 0
        self.loss[lanes] = np.log(self.num_classes[lanes])[:, None]
        self.batch_accuracy[lanes] = chance[:, None]
        self.train_score[lanes] = self.holdout_answer[lanes] = self.to_unit(lanes, self.chance(lanes))
        self.rows[lanes, 0], self.lineage_updates[lanes, 0] = self._trained_rows(lanes)
        self.count[lanes] = np.maximum(self.count[lanes], 1)

    # --- scores and rates ---

    def scores(self, lanes: np.ndarray, accuracy: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """Returns what is maximised: accuracy, or minus the log loss, clipped to [-4 log C, 0].

        Args:
            lanes: Which lanes, int64, shape (n,).
            accuracy: Accuracy, balanced where the score is, float64, shape (…, n).
            loss: Log loss [nats], float64, shape (…, n); NaN is worst.
        """
        if not self.needs_losses:
            return accuracy
        return -np.clip(np.nan_to_num(loss, nan=np.inf), 0, 4 * np.log(self.num_classes[lanes]))

    def to_unit(self, lanes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Returns scores of lanes mapped to [0, 1], as Thresholdout and observations have them.

        Args:
            lanes: Which lanes, int64, shape (n,).
            scores: What `scores` returned, float64, shape (n,).
        """
        if not self.needs_losses:
            return scores
        return 1 + scores / (4 * np.log(self.num_classes[lanes]))

    @property
    def needs_losses(self) -> bool:
        """Returns whether scores are made of log losses, which have to be computed for them then."""
        return self.score == "neg_log_loss"

    def chance(self, lanes: np.ndarray) -> np.ndarray:
        """Returns the score of guessing in each of the given lanes, float64, shape (n,)."""
        classes = self.num_classes[lanes]
        return -np.log(classes) if self.needs_losses else 1 / classes

    def clamp(self, rates: np.ndarray) -> np.ndarray:
        """Returns learning rates held to their bounds, float64, of the shape given."""
        low, high = self.lr_bounds
        return np.minimum(np.maximum(rates, low), high)

    def _ask(self, lanes: np.ndarray, train_score: np.ndarray, holdout_score: np.ndarray) -> None:
        """Keep the train scores; ask each lane's holdout once, through Thresholdout.

        Minibatches stand in where there is no train score, the train score where there is no holdout.
        """
        train, holdout = self.to_unit(lanes, train_score), self.to_unit(lanes, holdout_score)
        known, there = self.has_train_score[lanes], self.has_holdout[lanes]
        if not known.all():
            last = self.scores(lanes, self.batch_accuracy[lanes, -1], self.loss[lanes, -1])
            train = np.where(known, train, self.to_unit(lanes, last))
        if there.all():
            answers = self.thresholdout.query(lanes, train, holdout)
        else:
            answers = train.copy()
            answers[there] = self.thresholdout.query(lanes[there], train[there], holdout[there])
        self.train_score[lanes] = train
        self.holdout_answer[lanes] = np.minimum(np.maximum(answers, 0.0), 1.0)

    # --- rows ---

    def exists(self) -> np.ndarray:
        """Returns which rows exist, bool, shape (N, H)."""
        return np.arange(self.num_snapshots) < self.count[:, None]

    def rewindable(self) -> np.ndarray:
        """Returns which rows a lane can rewind to: those that exist and are finite, bool, shape (N, H)."""
        possible = self.exists()
        possible[:, 0] &= ~self.diverged
        return possible

    def _trained_rows(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make rows of lanes whose env step is over, (n, K, M), and the updates in their lineages, (n,)."""
        inner_steps, windows = self.inner_steps[lanes], self.history_length
        ends = np.arange(1, windows + 1) * (inner_steps // windows)[:, None]  # of each window, (n, K)
        before = self.lineage_updates[lanes, 0]
        updates = (self.updates[lanes] - inner_steps)[:, None] + ends
        return self._rows(lanes, updates, before[:, None] + ends), before + inner_steps

    def _rows(self, lanes: np.ndarray, updates: np.ndarray, lineage_updates: np.ndarray) -> np.ndarray:
        measured = Measurement(
            losses=self.loss[lanes],
            accuracies=self.batch_accuracy[lanes],
            learning_rates=self.learning_rate[lanes],
            holdout_answers=self.holdout_answer[lanes],
            train_scores=self.train_score[lanes],
            updates=updates,
            lineage_updates=lineage_updates,
            diverged=self.diverged[lanes],
            holdout_missing=~self.has_holdout[lanes],
            train_missing=~self.has_train_score[lanes],
            movements=self.movement[lanes],
            epochs=self.epochs[lanes],
        )
        numbers = self.num_classes[lanes], self.budget[lanes]
        return make_rows(measured, *numbers, self.lr_bounds, self.metrics)

    def _push(self, lanes: np.ndarray, rows: np.ndarray, lineage_updates: np.ndarray) -> None:
        """Put a row 0 before the others; the oldest row goes where there is no more room."""
        for kept, newest in ((self.rows, rows), (self.lineage_updates, lineage_updates)):
            kept[lanes] = np.concatenate((newest[:, None], kept[lanes][:, :-1]), axis=1)
        self.count[lanes] = np.minimum(self.count[lanes] + 1, self.num_snapshots)

    def _move_up(self, lanes: np.ndarray, distance: np.ndarray) -> None:
        source = np.arange(self.num_snapshots) + distance[:, None]  # (n, H)
        emptied = source >= self.num_snapshots
        source = np.minimum(source, self.num_snapshots - 1)
        for kept in (self.rows, self.lineage_updates):
            moved = kept[lanes[:, None], source]
            moved[emptied] = 0
            kept[lanes] = moved
        self.count[lanes] -= distance
        self.diverged[lanes] = False

    # --- copies ---

    def copy_lane(self, source: int, target: int) -> None:
        """Copy everything of lane `source` to lane `target`."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value[target] = value[source]
        self.thresholdout.copy_lane(source, target)


def window_means(values: np.ndarray, history_length: int) -> np.ndarray:
    """Average over each window of an env step.

    Args:
        values: One for each update, float64, shape (n, T).
        history_length: Number of windows (K), a divisor of T.

    Returns:
        Means, float64, shape (n, K); finite where all values are.
    """
    per_window = values.shape[1] // history_length
    windows = values.reshape(len(values), history_length, per_window)
    with np.errstate(over="ignore"):
        means = np.add.reduce(windows, axis=2) / per_window
    return np.minimum(means, LARGEST)
