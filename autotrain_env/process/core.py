"""The batched decision process: N networks in training, decided on once per env step."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.errors import check, check_whole
from autotrain_env.process.actions import Decisions, in_words, make_action_type
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.episodes import Episode, EpisodeMaker, stream
from autotrain_env.process.history import EpisodeHistory
from autotrain_env.process.lanes import GROUPS, Done, Lanes, Scores, StepResult
from autotrain_env.process.log import MDPLog
from autotrain_env.process.observations import Measurement, MetricHistory, make_rows
from autotrain_env.process.rewards import Transition, baseline_at, reward_terms, reward_weights
from autotrain_env.process.tasks import Task
from autotrain_env.training.initialization import schemes_for_rows
from autotrain_env.training.stack import LaneStack


class AutoTrainCore:
    """N lanes, each a network in training with its own task, budget and random streams.

    Args:
        config: The environment's arguments.
        num_envs: Lanes (N).

    Raises:
        ValueError: If `num_envs` is no whole number above 0, or a task that can be drawn does not fit its
            data.
        FileNotFoundError: If a dataset is missing.
    """

    def __init__(self, config: AutoTrainConfig, num_envs: int) -> None:
        check_whole("num_envs", num_envs, 1)
        self.config = config
        self.num_envs = num_envs
        self.device = torch.device(config.device)
        self.maker = EpisodeMaker(config)
        self.weights = reward_weights(config)
        self.action_type = make_action_type(config)
        self.lanes = Lanes(num_envs, config.history_length)
        self.episodes: list[Episode | None] = [None] * num_envs
        self.metrics = MetricHistory(num_envs, config.num_snapshots, config.history_length)
        self.history = EpisodeHistory(num_envs, config.history_length)
        self.stacks: dict[int, LaneStack] = {}
        self.log: MDPLog | None = None
        if config.log_path is not None:
            self.log = MDPLog(config.log_path, tuple(self.weights))

    def set_task_level(self, level: int) -> None:
        """Set the curriculum's level for episodes that begin from now on; see `EpisodeMaker`."""
        self.maker.set_task_level(level)

    # --- reset ---

    def reset(
        self, lanes: np.ndarray, episode_seeds: list[int], tasks: list[Task | None] | None = None
    ) -> dict[str, Any]:
        """Begin new episodes.

        Args:
            lanes: Which lanes, int64, shape (n,).
            episode_seeds: The number drawn for each episode; it decides everything random in it.
            tasks: A task for each lane, or `None` where it is to be drawn.

        Returns:
            Information by name, arrays of shape (N,), true of the lanes that were reset.

        Raises:
            ValueError: If a task does not fit; then no lane has changed.
        """
        given = tasks if tasks is not None else [None] * len(lanes)
        episodes = [self.maker.make(seed, task) for seed, task in zip(episode_seeds, given, strict=True)]
        state = self.lanes
        for lane, episode in zip(lanes.tolist(), episodes, strict=True):
            self._place(lane, episode)
            state.budget[lane] = episode.task.budget
            state.num_classes[lane] = episode.dataset.num_classes
            state.learning_rate[lane] = self._clip(episode.task.initial_learning_rate)
        state.updates[lanes] = 0
        state.steps[lanes] = 0
        state.running[lanes] = True
        for flag in (state.terminated, state.truncated, state.diverged):
            flag[lanes] = False
        state.best_holdout_score[lanes] = state.best_score[lanes] = -np.inf
        self._draw_networks(lanes, self._num_initial_rows(), measure=True)
        self._keep_best(lanes)
        self.history.clear(lanes)
        done = Done.nothing(self.num_envs)
        words = np.full(self.num_envs, "reset", dtype=object)
        reward = np.zeros(self.num_envs)
        self._remember(lanes, done, words, reward)
        return self._info(done, words, self._zero_terms())

    def _num_initial_rows(self) -> int:
        return self.config.num_snapshots if self.config.initial_states == "random_inits" else 1

    def _place(self, lane: int, episode: Episode) -> None:
        """Give a lane a slot in the stack of its architecture and kind of optimiser."""
        old, key = self.episodes[lane], episode.groups[0]
        if old is None or old.groups[0] != key:
            if old is not None:
                self.stacks[old.groups[0]].release(int(self.lanes.slot[lane]))
            if key not in self.stacks:
                self.stacks[key] = LaneStack(
                    episode.architecture,
                    episode.task.optimizer,  # type: ignore[arg-type]
                    self.config.num_snapshots,
                    self.config.backend,
                    self.config.torch_dtype,
                    self.device,
                )
            at_least = self.num_envs if len(self.stacks) == 1 else 1
            self.lanes.slot[lane] = self.stacks[key].acquire(at_least)
        self.episodes[lane] = episode
        self.lanes.groups[lane] = episode.groups
        stack = self.stacks[key]
        slot = int(self.lanes.slot[lane])
        stack.set_normalization(slot, episode.split.mean, episode.split.std)
        stack.set_lane_values(slot, episode.task.optimizer)  # type: ignore[arg-type]

    def _draw_networks(self, lanes: np.ndarray, count: int, *, measure: bool) -> None:
        """Draw new networks into rows 0 … count-1, the last row first, and measure them."""
        drawn = [self._draw(self._episode(lane), count) for lane in lanes.tolist()]
        self.lanes.diverged[lanes] = False
        self.metrics.clear(lanes)
        for row in reversed(range(count)):
            for stack, at in self._by_stack(lanes):
                slots = self.lanes.slot[lanes[at]]
                stack.set_network(slots, np.stack([drawn[i][row] for i in at]))
                stack.snapshot(slots)
            self._keep_samplers(lanes)
            if measure:
                self._measure_untrained(lanes)

    def _draw(self, episode: Episode, count: int) -> list[np.ndarray]:
        generator = stream(episode.seed, "initialization", episode.attempt)
        episode.attempt += 1
        schemes = schemes_for_rows(episode.task.initialization, count)
        return [episode.architecture.initial_row(scheme, generator) for scheme in schemes]

    def _measure_untrained(self, lanes: np.ndarray) -> None:
        """Measure networks that had no update; their row repeats one measurement K times."""
        state, windows = self.lanes, self.config.history_length
        scores = self._evaluate(lanes, losses=True)
        state.loss[lanes] = scores.train_loss[:, None]
        state.batch_accuracy[lanes] = scores.train_accuracy[:, None]
        self._take_scores(lanes, scores)
        updates = np.repeat(state.updates[lanes, None], windows, axis=1)
        self.metrics.push(lanes, self._rows(lanes, updates, updates * 0), np.zeros(len(lanes), np.int64))

    # --- one env step ---

    def step(self, decisions: Decisions) -> StepResult:
        """Carry out one decision in every lane that runs.

        Args:
            decisions: Arrays over all N lanes; lanes that have ended ignore theirs.

        Raises:
            ValueError: If an array has the wrong shape, a rate is not above 0 or a distance below 0.
        """
        state = self.lanes
        ran = state.running.copy()
        lanes = np.flatnonzero(ran)
        self._check_decisions(decisions, lanes)
        before = copy.deepcopy(state)
        stop, reinit = decisions.stop & ran, decisions.reinit & ran & ~decisions.stop
        going = np.flatnonzero(ran & ~stop)
        wanted = np.where(ran & ~stop & ~reinit, decisions.rewind, 0)
        distance = np.zeros(self.num_envs, np.int64)
        distance[going] = self._rewind(going, wanted[going])
        self._set_rates(going, decisions.learning_rate[going], reinit[going])
        if reinit.any():
            self._reinitialize(np.flatnonzero(reinit))
        diverged_before = state.diverged.copy()
        self._train(going)
        state.steps[lanes] += 1
        state.terminated[lanes] = stop[lanes] | (state.updates >= state.budget)[lanes]
        if self.config.truncate_after is not None:
            over = ran & (state.steps >= self.config.truncate_after)
            state.truncated[lanes] = (over & ~state.terminated)[lanes]
        state.running &= ~(state.terminated | state.truncated)

        done = Done(distance, distance != wanted, reinit, stop)
        terms = self._reward_terms(before, ran, state.diverged & ~diverged_before)
        reward = sum(terms.values(), np.zeros(self.num_envs))
        words = in_words(before.learning_rate, state.learning_rate, distance, reinit, stop)
        self._remember(lanes, done, words, reward)
        ended = np.flatnonzero(ran & ~state.running)
        final = self._final(ended) if len(ended) else {}
        if self.log is not None:
            self._write_log(self.log, lanes, done, words, reward, terms, final)
        return StepResult(
            reward=reward,
            terminated=state.terminated.copy(),
            truncated=state.truncated.copy(),
            ran=ran,
            info=self._info(done, words, terms),
            final=final,
        )

    def _check_decisions(self, decisions: Decisions, lanes: np.ndarray) -> None:
        for name in ("learning_rate", "rewind", "reinit", "stop"):
            value = getattr(decisions, name)
            check(
                value.shape == (self.num_envs,),
                f"decisions.{name}",
                value,
                f"of shape ({self.num_envs},)",
            )
        rates, rewind = decisions.learning_rate[lanes], decisions.rewind[lanes]
        check(bool(np.all(rates > 0)), "decisions.learning_rate", rates, "above 0")
        check(bool(np.all(rewind >= 0)), "decisions.rewind", rewind, "at least 0")

    def _rewind(self, lanes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Rewind as far as wanted, or else to the oldest finite row.

        Args:
            lanes: Int64, shape (n,).
            wanted: Distance asked for [env steps], int64, shape (n,).

        Returns:
            The distance actually rewound [env steps], int64, shape (n,).
        """
        possible = self.metrics.rewindable()[lanes]
        last = possible.shape[1] - 1
        oldest = np.where(possible.any(1), last - possible[:, ::-1].argmax(1), 0)
        there = (wanted <= last) & possible[np.arange(len(lanes)), np.minimum(wanted, last)]
        distance = np.where((wanted == 0) | there, wanted, oldest)
        moving = distance > 0
        moved, by = lanes[moving], distance[moving]
        self.metrics.rewind(moved, by)
        self.lanes.diverged[moved] = False
        for stack, at in self._by_stack(moved):
            stack.rewind(self.lanes.slot[moved[at]], by[at])
        if self.config.rewind_minibatches == "same" or self.config.rewind_noise > 0:
            for lane, far in zip(moved.tolist(), by.tolist(), strict=True):
                self._after_rewind(lane, far)
        return distance

    def _after_rewind(self, lane: int, distance: int) -> None:
        """Bring the same minibatches again, or add noise, where that was asked for."""
        episode = self._episode(lane)
        if self.config.rewind_minibatches == "same":
            episode.rewind_sampler(distance)
        if self.config.rewind_noise > 0:
            self._stack(lane).add_noise(
                int(self.lanes.slot[lane]), self.config.rewind_noise, episode.noise_generator
            )

    def _keep_samplers(self, lanes: np.ndarray) -> None:
        if self.config.rewind_minibatches == "same":
            for lane in lanes.tolist():
                self._episode(lane).keep_sampler(self.config.num_snapshots)

    def _set_rates(self, lanes: np.ndarray, rates: np.ndarray, reinit: np.ndarray) -> None:
        base = self.lanes.learning_rate[lanes].copy()
        factors = rates / base
        after = self.config.reinit_learning_rate
        if after == "initial":
            initial = [self._episode(lane).task.initial_learning_rate for lane in lanes.tolist()]
            base[reinit] = self._clip(np.array(initial))[reinit]
        elif not isinstance(after, str):
            base[reinit] = after
        rates = np.where(reinit, base * factors, rates)
        self.lanes.learning_rate[lanes] = self._clip(rates)

    def _reinitialize(self, lanes: np.ndarray) -> None:
        """Draw new networks into all rows; the one that this step's row will push out is not drawn."""
        count = max(1, min(self._num_initial_rows(), self.config.num_snapshots - 1))
        self._draw_networks(lanes, count, measure=self.config.num_snapshots > 1)

    def _train(self, lanes: np.ndarray) -> None:
        """Make T updates in each lane, measure, and move the rows on."""
        state = self.lanes
        state.updates[lanes] += self.config.inner_steps
        healthy = lanes[~state.diverged[lanes]]
        losses, accuracies = self._update(healthy)
        finite = np.isfinite(losses).all(1) & self._finite(healthy)
        scores = self._evaluate(healthy[finite], losses=self.config.score == "neg_log_loss")
        finite[finite] = scores.finite
        good = healthy[finite]
        if len(good) < len(lanes):
            self._contain(np.setdiff1d(lanes, good))
        state.loss[good] = self._windows(losses[finite])
        state.batch_accuracy[good] = self._windows(accuracies[finite])
        self._take_scores(good, scores.take(scores.finite))
        for stack, at in self._by_stack(good):
            stack.snapshot(state.slot[good[at]])
        self._keep_samplers(good)
        lineage = self.metrics.lineage_updates[good, 0]
        self.metrics.push(good, self._trained_rows(good), lineage + self.config.inner_steps)
        self._keep_best(good)

    def _contain(self, lanes: np.ndarray) -> None:
        """Let row 0 of diverged lanes read as chance level, and leave their other rows alone."""
        state = self.lanes
        chance = 1 / state.num_classes[lanes]
        state.diverged[lanes] = True
        state.loss[lanes] = np.log(state.num_classes[lanes])[:, None]
        state.batch_accuracy[lanes] = chance[:, None]
        state.score[lanes] = self._chance(lanes)
        state.train_score[lanes] = state.holdout_score[lanes] = self._to_unit(lanes, self._chance(lanes))
        lineage = self.metrics.lineage_updates[lanes, 0]
        self.metrics.replace(lanes, self._trained_rows(lanes), lineage + self.config.inner_steps)

    def _update(self, lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Train; loss and accuracy of every minibatch, both (n, T)."""
        shape = (len(lanes), self.config.inner_steps)
        losses, accuracies = np.zeros(shape), np.zeros(shape)
        for stack, at in self._groups(lanes, "training"):
            losses[at], accuracies[at] = stack.train(
                self.maker.pool(stack.architecture.num_features),
                self.lanes.slot[lanes[at]],
                self.lanes.learning_rate[lanes[at]],
                *self._draw_batches([self._episode(lane) for lane in lanes[at].tolist()]),
            )
        return losses, accuracies

    def _draw_batches(self, episodes: list[Episode]) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the pool and labels of an env step's minibatches, both int32, (n, T, B)."""
        shape = (len(episodes), self.config.inner_steps, episodes[0].task.batch_size)
        indices, labels = np.empty((2, *shape), np.int32)
        for i, episode in enumerate(episodes):
            drawn = episode.sampler.draw(shape[1] * shape[2]).reshape(shape[1:])
            np.take(episode.split.train_index, drawn, out=indices[i], mode="clip")
            labels[i] = episode.split.train_labels[drawn]
        indices += np.array([episode.offset for episode in episodes], np.int32)[:, None, None]
        return indices, labels

    def _finite(self, lanes: np.ndarray) -> np.ndarray:
        finite = np.zeros(len(lanes), bool)
        for stack, at in self._by_stack(lanes):
            finite[at] = stack.finite(self.lanes.slot[lanes[at]])
        return finite

    def _windows(self, values: np.ndarray) -> np.ndarray:
        """Means over each of the K windows of an env step; (n, T) to (n, K)."""
        windows = self.config.history_length
        return values.reshape(len(values), windows, self.config.inner_steps // windows).mean(2)

    # --- measuring ---

    def _evaluate(self, lanes: np.ndarray, *, losses: bool) -> Scores:
        """Evaluate lanes on train subset, holdout and validation part at once."""
        count = len(lanes)
        accuracy, loss, finite = np.zeros((3, count)), np.zeros((3, count)), np.zeros(count, bool)
        for stack, at in self._groups(lanes, "evaluation"):
            episodes = [self._episode(lane) for lane in lanes[at].tolist()]
            evaluation = stack.evaluate(
                self.maker.pool(stack.architecture.num_features),
                self.lanes.slot[lanes[at]],
                np.stack([episode.evaluation_index for episode in episodes]),
                np.stack([episode.evaluation_labels for episode in episodes]),
                losses=losses,
            )
            cuts = np.cumsum(episodes[0].evaluation_sizes)[:2]
            # Not the validation part: it must not decide what the agent sees.
            finite[at] = evaluation.finite[:, : cuts[1]].all(1)
            for part, correct in enumerate(np.split(evaluation.correct, cuts, axis=1)):
                accuracy[part, at] = correct.mean(1)
            if evaluation.losses is not None:
                for part, values in enumerate(np.split(evaluation.losses, cuts, axis=1)):
                    loss[part, at] = values.mean(1, dtype=np.float64)
        scores = self._scores(lanes, accuracy, loss)
        return Scores(scores[0], scores[1], scores[2], loss[0], accuracy[0], finite)

    def _scores(self, lanes: np.ndarray, accuracy: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """What is to be maximised: accuracy, or minus the log loss, clipped."""
        if self.config.score == "accuracy":
            return accuracy
        return -np.clip(np.nan_to_num(loss, nan=np.inf), 0, 4 * np.log(self.lanes.num_classes[lanes]))

    def _to_unit(self, lanes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores of lanes mapped to [0, 1], as Thresholdout and observations have them."""
        if self.config.score == "accuracy":
            return scores
        return 1 + scores / (4 * np.log(self.lanes.num_classes[lanes]))

    def _chance(self, lanes: np.ndarray) -> np.ndarray:
        """Score of guessing."""
        classes = self.lanes.num_classes[lanes]
        return 1 / classes if self.config.score == "accuracy" else -np.log(classes)

    def _take_scores(self, lanes: np.ndarray, scores: Scores) -> None:
        """Keep the scores of lanes; their holdout is asked once, through Thresholdout."""
        state = self.lanes
        on_holdout = self.config.reward_split == "holdout"
        state.score[lanes] = scores.holdout if on_holdout else scores.validation
        state.train_score[lanes] = self._to_unit(lanes, scores.train)
        holdout = self._to_unit(lanes, scores.holdout)
        for i, lane in enumerate(lanes.tolist()):
            guard = self._episode(lane).thresholdout
            answer = guard.query(float(state.train_score[lane]), float(holdout[i]))
            state.holdout_score[lane] = min(max(answer, 0.0), 1.0)

    def _trained_rows(self, lanes: np.ndarray) -> np.ndarray:
        """Rows of lanes whose env step is over, (n, K, M)."""
        config = self.config
        ends = np.arange(1, config.history_length + 1) * (config.inner_steps // config.history_length)
        since = ends - config.inner_steps
        lineage = self.metrics.lineage_updates[lanes, 0]
        return self._rows(lanes, self.lanes.updates[lanes, None] + since, lineage[:, None] + ends)

    def _rows(self, lanes: np.ndarray, updates: np.ndarray, lineage_updates: np.ndarray) -> np.ndarray:
        state = self.lanes
        measured = Measurement(
            losses=state.loss[lanes],
            accuracies=state.batch_accuracy[lanes],
            learning_rates=state.learning_rate[lanes],
            holdout_scores=state.holdout_score[lanes],
            train_scores=state.train_score[lanes],
            updates=updates,
            lineage_updates=lineage_updates,
            diverged=state.diverged[lanes],
        )
        return make_rows(measured, state.num_classes[lanes], state.budget[lanes], self.config.lr_bounds)

    def _keep_best(self, lanes: np.ndarray) -> None:
        """Keep weights whose guarded holdout answer is the best of the episode."""
        state = self.lanes
        better = lanes[state.holdout_score[lanes] > state.best_holdout_score[lanes]]
        state.best_holdout_score[better] = state.holdout_score[better]
        state.best_score[better] = state.score[better]
        for stack, at in self._by_stack(better):
            stack.keep_best(state.slot[better[at]])

    # --- what an env step returns ---

    def _reward_terms(
        self, before: Lanes, ran: np.ndarray, newly_diverged: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Weighted terms of all lanes; 0 in those that did not run."""
        state = self.lanes
        score = state.score
        if self.config.terminal_state == "best_holdout":
            score = np.where(state.terminated, state.best_score, score)
        transition = Transition(
            score_before=before.score,
            score=score,
            updates=state.updates - before.updates,
            updates_used=state.updates,
            terminated=state.terminated,
            newly_diverged=newly_diverged,
            baseline_before=self._baseline(before.updates),
            # One who stops is measured against the whole run: to stop while ahead of it must not pay.
            baseline=self._baseline(np.where(state.terminated, state.budget, state.updates)),
        )
        terms = reward_terms(transition, self.weights, np.maximum(state.budget, 1))
        return {name: np.where(ran, term, 0.0) for name, term in terms.items()}

    def _zero_terms(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.num_envs) for name in self.weights}

    def _baseline(self, updates: np.ndarray) -> np.ndarray:
        scores = np.zeros(self.num_envs)
        for lane, episode in enumerate(self.episodes):
            if episode is not None and episode.curve is not None:
                scores[lane] = baseline_at(episode.curve, updates[lane])
        return scores

    def _remember(self, lanes: np.ndarray, done: Done, words: np.ndarray, reward: np.ndarray) -> None:
        state = self.lanes
        columns = {
            "updates": state.updates,
            "learning_rate": state.learning_rate,
            "score": state.score,
            "train_score": state.train_score,
            "holdout_score": state.holdout_score,
            "loss": state.loss,
            "batch_accuracy": state.batch_accuracy,
            "rewind": done.rewind,
            "reinit": done.reinit,
            "stop": done.stop,
            "diverged": state.diverged,
            "reward": reward,
            "action": words,
        }
        self.history.append(lanes, {name: column[lanes] for name, column in columns.items()})

    def _info(self, done: Done, words: np.ndarray, terms: dict[str, np.ndarray]) -> dict[str, Any]:
        """Information by name; fresh arrays of shape (N,)."""
        state = self.lanes
        guards = [None if episode is None else episode.thresholdout for episode in self.episodes]
        return {
            "score": state.score.copy(),
            "train_score": state.train_score.copy(),
            "holdout_score": state.holdout_score.copy(),
            "learning_rate": state.learning_rate.copy(),
            "updates": state.updates.copy(),
            "holdout_queries": np.array([0 if guard is None else guard.queries for guard in guards]),
            "holdout_exhausted": np.array([guard is not None and guard.exhausted for guard in guards]),
            "diverged": state.diverged.copy(),
            "rewind": done.rewind,
            "rewind_impossible": done.rewind_impossible,
            "action": words,
            "reward_terms": terms,
        }

    def _final(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
        """Test results of the last and of the best-on-holdout weights, and the whole history.

        Returns:
            Arrays of shape (N,) by name, true of the lanes given.
        """
        final: dict[str, np.ndarray] = {}
        for prefix, best in (("", False), ("best_holdout_", True)):
            accuracy, loss = np.zeros(self.num_envs), np.zeros(self.num_envs)
            accuracy[lanes], loss[lanes] = self._test(lanes, best)
            final[f"{prefix}test_accuracy"] = accuracy
            final[f"{prefix}test_loss"] = loss
        final["history"] = np.full(self.num_envs, None, dtype=object)
        for lane in lanes.tolist():
            final["history"][lane] = self.history.of(lane)
        return final

    def _test(self, lanes: np.ndarray, best: bool) -> tuple[np.ndarray, np.ndarray]:
        """Test accuracy and log loss, both (n,); chance level where the network is not finite."""
        classes = self.lanes.num_classes[lanes]
        accuracy, loss = 1 / classes, np.log(classes)
        for stack, at in self._groups(lanes, "test"):
            episodes = [self._episode(lane) for lane in lanes[at].tolist()]
            evaluation = stack.evaluate(
                self.maker.pool(stack.architecture.num_features),
                self.lanes.slot[lanes[at]],
                np.stack([episode.split.test_index + episode.offset for episode in episodes]),
                np.stack([episode.split.test_labels for episode in episodes]),
                losses=True,
                best=best,
            )
            assert evaluation.losses is not None
            usable = evaluation.finite.all(1) & (best | ~self.lanes.diverged[lanes[at]])
            accuracy[at] = np.where(usable, evaluation.correct.mean(1), accuracy[at])
            losses = evaluation.losses.mean(1, dtype=np.float64)
            loss[at] = np.where(usable & np.isfinite(losses), losses, loss[at])
        return accuracy, loss

    def _write_log(
        self,
        log: MDPLog,
        lanes: np.ndarray,
        done: Done,
        words: np.ndarray,
        reward: np.ndarray,
        terms: dict[str, np.ndarray],
        final: dict[str, np.ndarray],
    ) -> None:
        state = self.lanes
        rows: list[Mapping[str, Any]] = []
        for lane in lanes.tolist():
            episode = self._episode(lane)
            row: dict[str, Any] = {
                "episode_seed": episode.seed,
                "lane": lane,
                "step": state.steps[lane],
                "action": words[lane],
                "learning_rate": state.learning_rate[lane],
                "rewind": done.rewind[lane],
                "reinit": done.reinit[lane],
                "stop": done.stop[lane],
                "updates": state.updates[lane],
                "loss": state.loss[lane, -1],
                "train_score": state.train_score[lane],
                "holdout_score": state.holdout_score[lane],
                "holdout_queries": episode.thresholdout.queries,
                "score": state.score[lane],
                "reward": reward[lane],
                "diverged": state.diverged[lane],
                "terminated": state.terminated[lane],
                "truncated": state.truncated[lane],
                "test_accuracy": None if state.running[lane] else final["test_accuracy"][lane],
            }
            row |= {f"reward_{name}": term[lane] for name, term in terms.items()}
            rows.append(row)
        log.write(rows)

    # --- views and copies ---

    def observation(self) -> np.ndarray:
        """Observations of all lanes, a copy: shape (N, H, K, M), or (N, H * K * M) where flat."""
        return self.metrics.observation(self.config.observation_layout)

    def action_masks(self) -> np.ndarray:
        """Which discrete actions are possible now, bool, shape (N, number of actions)."""
        return self.action_type.masks(self.metrics.rewindable())

    def decode(self, actions: np.ndarray) -> Decisions:
        """Decode checked actions of all lanes, shape (N, …)."""
        generators = [self._episode(lane).action_generator for lane in range(self.num_envs)]
        return self.action_type.decode(
            actions, self.lanes.learning_rate, self.metrics.rewindable(), generators
        )

    def task(self, lane: int) -> Task:
        """The task of a lane's current episode."""
        return self._episode(lane).task

    def weights_of(self, lane: int, *, best: bool = False) -> dict[str, Tensor]:
        """Parameters and buffers of a lane's network by name, copies.

        Args:
            lane: Which.
            best: Whether those that were best on the guarded holdout, or the current ones.
        """
        episode = self._episode(lane)
        parameters, buffers = self._stack(lane).weights(self.lanes.slot[[lane]], best=best)
        named = episode.architecture.parameter_layout.split(parameters[0])
        named |= episode.architecture.buffer_layout.split(buffers[0])
        return {name: tensor.clone() for name, tensor in named.items()}

    def network(self, lane: int, *, best: bool = False) -> nn.Module:
        """A lane's network as a module of its own, with the normalisation of its images in front.

        Args:
            lane: Which.
            best: Whether with the weights that were best on the guarded holdout, or the current ones.

        Returns:
            In evaluation mode, on the CPU: from images as the data set holds them (bytes are divided by 255
            there), float32, shape (n, *image_shape), to logits, float32, shape (n, C). Where the lane has
            diverged, the current weights may not be finite.

        Raises:
            ValueError: If there is no such lane.
        """
        check(0 <= lane < self.num_envs, "lane", lane, f"from 0 to {self.num_envs - 1}")
        episode = self._episode(lane)
        weights = self.weights_of(lane, best=best)
        return episode.architecture.network(weights, episode.split.mean, episode.split.std)

    def copy_lane(self, source: int, target: int) -> None:
        """Copy a whole lane: task, weights, rows, streams.

        Args:
            source: The lane to copy.
            target: The lane that becomes its twin.
        """
        for name, lane in (("source", source), ("target", target)):
            check(0 <= lane < self.num_envs, name, lane, f"a lane from 0 to {self.num_envs - 1}")
        if source == target:
            return
        self._place(target, copy.deepcopy(self._episode(source)))
        stack = self._stack(source)
        stack.copy_slot(int(self.lanes.slot[source]), int(self.lanes.slot[target]))
        self.lanes.copy_lane(source, target)
        self.metrics.rows[target] = self.metrics.rows[source]
        self.metrics.lineage_updates[target] = self.metrics.lineage_updates[source]
        self.history.copy_lane(source, target)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while it runs, as a copy that can be pickled."""
        return copy.deepcopy({name: getattr(self, name) for name in self._STATE})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Args:
            state: Of a core with the same arguments.

        Raises:
            ValueError: If it is of another number of lanes or has other entries.
        """
        check(set(state) == set(self._STATE), "state", sorted(state), f"with entries {self._STATE}")
        lanes = len(state["episodes"])
        check(lanes == self.num_envs, "state", f"{lanes} lanes", f"of {self.num_envs} lanes")
        vars(self).update(copy.deepcopy(state))

    _STATE = ("maker", "lanes", "episodes", "metrics", "history", "stacks")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the log: two copies must not write one file."""
        return vars(self) | {"log": None}

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    # --- small helpers ---

    def _episode(self, lane: int) -> Episode:
        episode = self.episodes[lane]
        assert episode is not None, f"lane {lane} was never reset"
        return episode

    def _clip(self, rates: Any) -> Any:
        return np.clip(rates, *self.config.lr_bounds)

    def _stack(self, lane: int) -> LaneStack:
        return self.stacks[self._episode(lane).groups[0]]

    def _by_stack(self, lanes: np.ndarray) -> Iterator[tuple[LaneStack, np.ndarray]]:
        return self._groups(lanes, "stack")

    def _groups(self, lanes: np.ndarray, what: str) -> Iterator[tuple[LaneStack, np.ndarray]]:
        """Lanes that can be computed together: their stack, and their positions in `lanes`."""
        numbers = self.lanes.groups[lanes, GROUPS.index(what)]
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            yield self._stack(int(lanes[at[0]])), at
