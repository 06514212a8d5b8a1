"""The batched decision process: N networks in training, decided on once per env step."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from autotrain_env.errors import check, check_whole
from autotrain_env.process.actions import ACTION_NUMBERS, Decisions, Executed
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.descriptions import check_same
from autotrain_env.process.episodes import Episode, EpisodeMaker, stream
from autotrain_env.process.lanes import Lanes, StepResult
from autotrain_env.process.lineage import Lineage
from autotrain_env.process.log import MDPLog
from autotrain_env.process.record import EpisodeHistory, History, StepRecord
from autotrain_env.process.rewards import Transition, baseline_at, reward_terms
from autotrain_env.process.rollback import BeforeStep
from autotrain_env.process.situation import Situation
from autotrain_env.process.stacks import Evaluated, Stacks
from autotrain_env.process.tasks import Task
from autotrain_env.process.thresholdout import Thresholdout
from autotrain_env.training.initialization import schemes_for_rows


@dataclass(frozen=True)
class _TrainedLanes:
    """What T updates have brought.

    Args:
        lanes: Lanes whose updates were counted, int64, shape (n,).
        good: Those of them that were trained and are finite, int64, shape (m,).
        losses: Mean log loss of the minibatches of every window [nats], float64, shape (m, K).
        accuracies: Accuracy on them, float64, shape (m, K).
        found: What the networks make of the parts that are measured.
    """

    lanes: np.ndarray
    good: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray
    found: Evaluated


class AutoTrainCore:
    """N lanes, each a network in training with its own task, budget and random streams.

    It conducts: the lineage has the numbers that an agent sees, the stacks have the networks, the episodes
    their tasks, data and streams.

    Args:
        config: The environment's arguments.
        num_envs: Number of lanes (N).

    Raises:
        InvalidValueError: If `num_envs` is no whole number above 0, or a task that can be drawn does not
            fit its data.
        FileNotFoundError: If a dataset is missing.
    """

    _STATE = ("maker", "lanes", "lineage", "history", "stacks")

    def __init__(self, config: AutoTrainConfig, num_envs: int) -> None:
        check_whole("num_envs", num_envs, 1)
        self.config = config
        self.num_envs = num_envs
        self.truncate_after = config.truncate_after
        self.maker = EpisodeMaker(config)
        self.reward_weights = config.reward_settings().weights()
        self.action_type = config.make_action_type()
        self.lanes = Lanes(num_envs)
        self.lineage = Lineage(
            num_envs,
            config.num_snapshots,
            config.history_length,
            config.lr_bounds,
            config.score,
            Thresholdout(
                num_envs,
                config.thresholdout_threshold,
                config.thresholdout_sigma,
                config.thresholdout_budget,
                config.thresholdout,
            ),
            config.metrics,
        )
        self.stacks = Stacks(config, num_envs, self.maker)
        self.history = EpisodeHistory(num_envs, config.history_length)
        self.log: MDPLog | None = None
        if config.log_path is not None:
            self.log = MDPLog(config.log_path, tuple(self.reward_weights))

    def set_task_level(self, level: int) -> None:
        """Set the curriculum's level for episodes that begin from now on.

        Args:
            level: The level, from 0, the easiest.

        Raises:
            InvalidValueError: If there is no such level.
        """
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
            InvalidValueError: If a task does not fit; then no lane has changed.
        """
        given = tasks if tasks is not None else [None] * len(lanes)
        episodes = [self.maker.make(seed, task) for seed, task in zip(episode_seeds, given, strict=True)]
        for lane, episode in zip(lanes.tolist(), episodes, strict=True):
            self.stacks.place(lane, episode)
        self.maker.forget_unused(self.stacks.episodes)
        self.lanes.begin(lanes, episode_seeds, [episode.task.can_reinit for episode in episodes])
        self.lineage.begin(
            lanes,
            [episode.dataset.num_classes for episode in episodes],
            [episode.task.budget for episode in episodes],
            [episode.inner_steps for episode in episodes],
            [episode.task.initial_learning_rate for episode in episodes],
            [stream(episode.seed, "thresholdout") for episode in episodes],
            [episode.task.measured for episode in episodes],
            [episode.epochs if episode.task.epochs_known else np.nan for episode in episodes],
        )
        several = self.lanes.can_reinit[lanes]
        for some, count in ((lanes[several], self._num_initial_rows()), (lanes[~several], 1)):
            if len(some):
                self._draw_networks(some, count, measure=True)
        self._keep_best(lanes)
        self.history.clear(lanes)
        record = self._record(None, np.zeros(self.num_envs), self._no_reward())
        self.history.append(lanes, record)
        return record.info()

    def _num_initial_rows(self) -> int:
        return self.config.num_snapshots if self.config.initial_states == "random_inits" else 1

    def _draw_networks(self, lanes: np.ndarray, count: int, *, measure: bool) -> None:
        """Draw new networks into rows 0 … count-1, the last row first, and measure them."""
        drawn = [self._draw(episode, count) for episode in self.stacks.episodes_of(lanes)]
        self.lineage.clear(lanes)
        for row in reversed(range(count)):
            self.stacks.set_networks(lanes, [rows[row] for rows in drawn])
            if measure:
                self._measure_untrained(lanes)

    def _draw(self, episode: Episode, count: int) -> list[np.ndarray]:
        generator = stream(episode.seed, "initialization", episode.attempt)
        episode.attempt += 1
        schemes = schemes_for_rows(episode.task.initialization, count)
        return [episode.architecture.initial_row(scheme, generator) for scheme in schemes]

    def _measure_untrained(self, lanes: np.ndarray) -> None:
        found = self.stacks.evaluate(lanes, losses=True)
        train, holdout = self._take_scores(lanes, found)
        self.lineage.push_untrained(lanes, found.loss[0], found.accuracy[0], train, holdout)

    def _take_scores(self, lanes: np.ndarray, found: Evaluated) -> tuple[np.ndarray, np.ndarray]:
        """Keep the score that the reward looks at; return train and holdout score, both of shape (n,)."""
        train, holdout, validation = self.lineage.scores(lanes, found.scored_accuracy, found.loss)
        self.lanes.score[lanes] = holdout if self.config.reward_split == "holdout" else validation
        return train, holdout

    # --- one env step ---

    def step(self, decisions: Decisions) -> StepResult:
        """Carry out one decision in every lane that runs.

        Where a network cannot be trained or evaluated (an error of a user's module, too little memory, an
        interruption), everything is as it was before, and the error is passed on.

        Args:
            decisions: Arrays over all N lanes; lanes that have ended ignore theirs.

        Returns:
            Reward, flags and information of the step, arrays over all N lanes.

        Raises:
            InvalidValueError: If an array has the wrong shape, a factor or rate is not above 0 or a
                distance below 0.
        """
        state = self.lanes
        ran = state.running.copy()
        lanes = ran.nonzero()[0]
        decisions.check(ran)
        score, updates = state.score.copy(), self.lineage.updates.copy()
        before = BeforeStep(state, self.lineage, self.stacks, decisions, ran)
        try:
            executed = self._prepare(decisions, ran)
            diverged = self.lineage.diverged.copy()
            trained = self._train((ran & ~executed.stop).nonzero()[0])
        except BaseException:
            before.restore()
            raise
        self._keep(trained)
        self._end_episodes(lanes, executed.stop)
        terms = self._reward_terms(score, updates, ran, self.lineage.diverged & ~diverged)
        reward = sum(terms.values(), np.zeros(self.num_envs))
        record = self._record(executed, reward, terms)
        self.history.append(lanes, record)
        ended = (ran & ~state.running).nonzero()[0]
        final = self._final(ended) if len(ended) else {}
        if self.log is not None:
            self.log.write(record.log_rows(lanes, final))
        return StepResult(
            reward=reward,
            terminated=state.terminated.copy(),
            truncated=state.truncated.copy(),
            ran=ran,
            info=record.info(),
            final=final,
        )

    def _prepare(self, decisions: Decisions, ran: np.ndarray) -> Executed:
        """Rewind or re-initialise, and change the rates: carry out all that comes before the updates."""
        stop, goes_on = decisions.stop & ran, ran & ~decisions.stop
        reinit = decisions.reinit & goes_on & self.lanes.can_reinit
        going = goes_on.nonzero()[0]
        wanted = np.where(goes_on & ~decisions.reinit, decisions.rewind, 0)
        distance, factor = np.zeros(self.num_envs, np.int64), np.ones(self.num_envs)
        if wanted.any():
            distance[going] = self._rewind(going, wanted[going])
        factor[going] = self.lineage.set_rates(going, decisions, reinit, self.config.reinit_learning_rate)
        if reinit.any():
            # The row that this step's will push out is not drawn.
            count = max(1, min(self._num_initial_rows(), self.config.num_snapshots - 1))
            self._draw_networks(reinit.nonzero()[0], count, measure=self.config.num_snapshots > 1)
        return Executed(factor, distance, distance != wanted, reinit, stop)

    def _rewind(self, lanes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Rewind as far as wanted, or else to the oldest finite row; see `Lineage.rewind`."""
        distance = self.lineage.rewind(lanes, wanted)
        moved, by = lanes[distance > 0], distance[distance > 0]
        self.stacks.rewind(moved, by)
        if self.config.rewind_noise > 0:
            for lane, episode in zip(moved.tolist(), self.stacks.episodes_of(moved), strict=True):
                self.stacks.add_noise(lane, self.config.rewind_noise, episode.noise_generator)
        return distance

    def _train(self, lanes: np.ndarray) -> _TrainedLanes:
        """Make T updates in each lane, and measure."""
        lineage = self.lineage
        lineage.spend(lanes)
        healthy = lanes[~lineage.diverged[lanes]]
        losses, accuracies, finite = self.stacks.train(healthy, lineage.learning_rate[healthy])
        found = self.stacks.evaluate(healthy[finite], losses=lineage.needs_losses)
        finite[finite] = found.finite
        return _TrainedLanes(
            lanes, healthy[finite], losses[finite], accuracies[finite], found.take(found.finite)
        )

    def _keep(self, trained: _TrainedLanes) -> None:
        """Move the rows on: what was measured becomes row 0."""
        good = trained.good
        if len(good) < len(trained.lanes):
            self._contain(np.setdiff1d(trained.lanes, good))
        train, holdout = self._take_scores(good, trained.found)
        moved = self.stacks.movement(good) if self.config.needs_movement else None
        self.stacks.snapshot(good)
        self.lineage.push_trained(good, trained.losses, trained.accuracies, train, holdout, moved)
        self._keep_best(good)

    def _contain(self, lanes: np.ndarray) -> None:
        """Let the states of lanes read as chance level, on top of those before or in their place."""
        newly = lanes[~self.lineage.diverged[lanes]]
        if self.config.keep_before_divergence and len(newly):
            self.stacks.snapshot(newly)  # never restored; the one before it moves down
            self.lineage.repeat_newest(newly)
        self.lineage.contain(lanes)
        self.lanes.score[lanes] = self.lineage.chance(lanes)

    def _keep_best(self, lanes: np.ndarray) -> None:
        """Keep weights whose guarded holdout answer is the best of the episode."""
        state, answer = self.lanes, self.lineage.holdout_answer
        better = lanes[answer[lanes] > state.best_holdout_answer[lanes]]
        if not len(better):
            return
        state.best_holdout_answer[better] = answer[better]
        state.best_score[better] = state.score[better]
        self.stacks.keep_best(better)

    def _end_episodes(self, lanes: np.ndarray, stop: np.ndarray) -> None:
        """Count the env step of the lanes that ran, and see which episodes are over."""
        state = self.lanes
        state.steps[lanes] += 1
        state.terminated[lanes] = (stop | (self.lineage.updates >= self.lineage.budget))[lanes]
        if self.truncate_after is not None:
            over = state.steps >= self.truncate_after
            state.truncated[lanes] = (over & ~state.terminated)[lanes]
        state.running &= ~(state.terminated | state.truncated)

    # --- what an env step returns ---

    def _reward_terms(
        self, score_before: np.ndarray, updates_before: np.ndarray, ran: np.ndarray, diverged: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the weighted terms of all lanes, shape (N,); 0 in those that did not run."""
        state, lineage = self.lanes, self.lineage
        score = state.score
        if self.config.terminal_state == "best_holdout":
            score = np.where(state.terminated, state.best_score, score)
        transition = Transition(
            score_before=score_before,
            score=score,
            updates=lineage.updates - updates_before,
            updates_used=lineage.updates,
            terminated=state.terminated,
            newly_diverged=diverged,
            baseline_before=self._baseline(updates_before),
            # One who stops is measured against the whole run: to stop while ahead of it must not pay.
            baseline=self._baseline(np.where(state.terminated, lineage.budget, lineage.updates)),
        )
        terms = reward_terms(transition, self.reward_weights, np.maximum(lineage.budget, 1))
        return {name: np.where(ran, term, 0.0) for name, term in terms.items()}

    def _no_reward(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.num_envs) for name in self.reward_weights}

    def _baseline(self, updates: np.ndarray) -> np.ndarray:
        scores = np.zeros(self.num_envs)
        if self.config.baseline is None:
            return scores
        for lane, episode in enumerate(self.stacks.episodes):
            if episode is not None and episode.curve is not None:
                scores[lane] = baseline_at(episode.curve, updates[lane])
        return scores

    def _record(
        self, executed: Executed | None, reward: np.ndarray, terms: dict[str, np.ndarray]
    ) -> StepRecord:
        """Returns what this step was, or the beginning: arrays that go on changing, to be used at once.

        Args:
            executed: What was done; `None` for a beginning.
            reward: Reward of the step, shape (N,).
            terms: Terms of the reward, each of shape (N,).
        """
        state, lineage = self.lanes, self.lineage
        words = np.full(self.num_envs, "reset", dtype=object)
        numbers = np.full(self.num_envs, ACTION_NUMBERS["reset"])
        if executed is None:
            executed = Executed.nothing(self.num_envs)
        else:
            words, numbers = executed.in_words(), executed.numbers()
        values = {
            "episode_seed": state.episode_seed,
            "lane": np.arange(self.num_envs),
            "step": state.steps,
            "action": words,
            "action_number": numbers,
            "learning_rate": lineage.learning_rate,
            **vars(executed),
            "updates": lineage.updates,
            "loss": lineage.loss,
            "batch_accuracy": lineage.batch_accuracy,
            "train_score": lineage.train_score,
            "holdout_answer": lineage.holdout_answer,
            "holdout_queries": lineage.thresholdout.queries,
            "holdout_exhausted": lineage.thresholdout.exhausted,
            "score": state.score,
            "reward": reward,
            "diverged": lineage.diverged,
            "terminated": state.terminated,
            "truncated": state.truncated,
        }
        return StepRecord(values, terms)

    def _final(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
        """Test the last and the best-on-holdout weights, and add the whole history where it is asked for.

        Returns:
            Arrays of shape (N,) by name, true of the lanes given.
        """
        final: dict[str, np.ndarray] = {}
        for prefix, best in (("", False), ("best_holdout_", True)):
            tested = self.stacks.test(lanes, self.lineage.diverged[lanes], best=best)
            for name, values in tested.items():
                final[f"{prefix}test_{name}"] = np.zeros(self.num_envs)
                final[f"{prefix}test_{name}"][lanes] = values
        if self.config.history_in_info:
            final["history"] = np.full(self.num_envs, None, dtype=object)
            for lane in lanes.tolist():
                final["history"][lane] = self.history.of(lane)
        return final

    # --- views and copies ---

    @property
    def episodes(self) -> list[Episode | None]:
        """Returns the lanes' current episodes, `None` for a lane that was never reset."""
        return self.stacks.episodes

    def situation(self) -> Situation:
        """Returns what policies decide on; every lane must have been reset."""
        lineage, episodes = self.lineage, self.stacks.episodes_of(np.arange(self.num_envs))
        return Situation(
            rows=lineage.rows.copy(),
            exists=lineage.exists(),
            rewindable=lineage.rewindable(),
            can_reinit=self.lanes.can_reinit.copy(),
            learning_rate=lineage.learning_rate.copy(),
            initial_learning_rate=lineage.initial_learning_rate.copy(),
            updates=lineage.updates.copy(),
            budget=lineage.budget.copy(),
            steps=self.lanes.steps.copy(),
            holdout_answer=lineage.holdout_answer.copy(),
            running=self.lanes.running.copy(),
            episode_seed=self.lanes.episode_seed.copy(),
            inner_steps=lineage.inner_steps.copy(),
            lr_bounds=self.config.lr_bounds,
            action_type=self.action_type,
            observation_layout=self.config.observation_layout,
            metrics=self.config.metrics,
            generators=[episode.action_generator for episode in episodes],
        )

    def observation(self) -> np.ndarray:
        """Returns all lanes' observations, a copy, float32: (N, H, K, M), or (N, H * K * M) where flat."""
        rows = self.lineage.rows.copy()
        return rows.reshape(len(rows), -1) if self.config.observation_layout == "flat" else rows

    def action_masks(self) -> np.ndarray:
        """Returns which discrete actions are possible now, bool, shape (N, number of actions).

        Raises:
            InvalidTypeError: If actions are continuous.
        """
        return self.action_type.masks(self.lineage.rewindable(), self.lanes.can_reinit)

    def decode(self, actions: np.ndarray) -> Decisions:
        """Returns the decisions that checked actions of all lanes, shape (N, …), stand for."""
        episodes = self.stacks.episodes_of(np.arange(self.num_envs))
        generators = [episode.action_generator for episode in episodes]
        lineage = self.lineage
        return self.action_type.decide(actions, lineage.rewindable(), generators, lineage.steps_left())

    def history_of(self, lane: int) -> History:
        """Returns what a lane's episode was so far, one row per decision, the state at reset first.

        Args:
            lane: Number of the lane, which must have been reset.

        Raises:
            InvalidValueError: If there is no such lane.
        """
        check(0 <= lane < self.num_envs, "lane", lane, f"from 0 to {self.num_envs - 1}")
        return self.history.of(lane)

    def task(self, lane: int) -> Task:
        """Returns the task of a lane's current episode."""
        return self.stacks.episode(lane).task

    def network(self, lane: int, *, best: bool = False) -> nn.Module:
        """Returns a lane's network as a module of its own, the normalisation of its images in front.

        Args:
            lane: Number of the lane.
            best: Whether with the weights that were best on the guarded holdout, or the current ones.

        Returns:
            In evaluation mode, on the CPU: from images as they were given to the data set, shape
            (n, *image_shape), to logits, float32, shape (n, C). Bytes are divided by 255 where the data
            set's images were bytes, and are refused otherwise; floats are taken as they are. Where the lane
            has diverged, the current weights may not be finite.

        Raises:
            InvalidValueError: If there is no such lane.
        """
        check(0 <= lane < self.num_envs, "lane", lane, f"from 0 to {self.num_envs - 1}")
        episode = self.stacks.episode(lane)
        weights = self.stacks.weights_of(lane, best=best)
        split, from_bytes = episode.split, episode.dataset.from_bytes
        return episode.architecture.network(weights, split.mean, split.std, from_bytes=from_bytes)

    def copy_lane(self, source: int, target: int) -> None:
        """Copy a whole lane: task, weights, rows, streams.

        Args:
            source: The lane to copy.
            target: The lane that becomes its twin.

        Raises:
            InvalidValueError: If there is no such lane.
        """
        for name, lane in (("source", source), ("target", target)):
            check(0 <= lane < self.num_envs, name, lane, f"a lane from 0 to {self.num_envs - 1}")
        if source == target:
            return
        self.stacks.place(target, copy.deepcopy(self.stacks.episode(source)))
        for part in (self.stacks, self.lineage, self.lanes, self.history):
            part.copy_lane(source, target)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that changes while it runs, as a copy that can be pickled."""
        state = copy.deepcopy({name: getattr(self, name) for name in self._STATE})
        return state | {"arguments": dict(self.config.descriptions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Args:
            state: What `state_dict` of a core with the same arguments returned.

        Raises:
            InvalidValueError: If it is of another number of lanes, of an environment with other arguments,
                or has other entries.
        """
        entries = {*self._STATE, "arguments"}
        check(set(state) == entries, "state", sorted(state), f"with entries {sorted(entries)}")
        check_same(state["arguments"], self.config.descriptions)
        lanes = len(state["stacks"].episodes)
        check(lanes == self.num_envs, "state", f"{lanes} lanes", f"of {self.num_envs} lanes")
        vars(self).update(copy.deepcopy({name: state[name] for name in self._STATE}))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the log: two copies must not write one file."""
        return vars(self) | {"log": None}

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()
