"""The controller: a policy decides in somebody's own training loop."""

import dataclasses
import functools
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.control.batches import Rounds
from autotrain_env.control.frozen import freeze, thaw
from autotrain_env.control.looking import Looker
from autotrain_env.control.measuring import (
    Forward,
    Meter,
    Part,
    Scale,
    Window,
    plain_forward,
    undisturbed,
)
from autotrain_env.control.objects import (
    Reinit,
    check_apart,
    check_objects,
    check_reinit,
    claim,
    copy_weights,
    tensors_by_name,
    unwrap,
)
from autotrain_env.control.plan import PROCESS, make_plan, needs_holdout
from autotrain_env.control.rates import Rates
from autotrain_env.control.reports import Reports, RunFacts, summary
from autotrain_env.control.rows import Rows
from autotrain_env.control.snapshots import (
    Snapshots,
    Tree,
    copy_tree,
    is_finite,
    load_state,
)
from autotrain_env.control.team import Team
from autotrain_env.errors import check, check_number
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.trained import TrainedPolicy
from autotrain_env.process.actions import Decisions, Executed
from autotrain_env.process.episodes import stream
from autotrain_env.process.lineage import Lineage
from autotrain_env.process.record import EpisodeHistory, History, StepRecord
from autotrain_env.process.situation import Situation
from autotrain_env.process.thresholdout import Thresholdout
from autotrain_env.training.stack import relative_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STATE_FORMAT = 1
"""Version of what `Controller.state_dict` returns."""

_LANE = np.array([0])


class Controller:
    """A policy scales the learning rate of a training run, rewinds it, starts it anew, or stops it.

    The decision process is that of the environment `AutoTrain-v0`, with the updates made by somebody else:
    every few of them the controller measures the network, shows the policy what it has found, and carries
    out what the policy decides on the model and the optimiser, by their `state_dict` alone.

    ```python
    controller = Controller(model, optimizer, total_updates=20_000, holdout=holdout_loader)
    for images, labels in controller.batches(train_loader):
        logits = model(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss, logits, labels)
    print(controller.summary())
    ```

    The first look is taken, and the first decision carried out, by the constructor.

    **Divergence.** Where a loss or a weight is no longer finite, the updates up to the next rewind are
    counted as spent, and not made; see `AutoTrainEnv`. `divergences` counts how often that happened. The
    network as it was at the last decision can be gone back to (`keep_before_divergence`).

    **Several processes.** With `DistributedDataParallel` each process has a controller; the first one
    measures and decides, all of them carry it out.

    Args:
        model: The network; it may be compiled, or wrapped in `DistributedDataParallel`.
        optimizer: Its optimiser. Parameter groups keep the ratios of their rates; the largest rate is what
            is called the learning rate.
        total_updates: Updates of the whole run.
        policy: What decides: the name of a policy that comes with the package, its folder, the name of a
            schedule, or any policy, such as `Cosine(0.1)`.
        holdout: What the policy sees beside the training itself, guarded by Thresholdout: a loader, tensors
            `(inputs, labels)`, or a function that returns train score and holdout score. `None` for
            policies that can do without, as the one by default.
        train: A loader or tensors of training data, for the train score; no more of it is measured than of
            the holdout. Without it the accuracy on the last minibatches stands in.
        holdout_batches: How many batches of the holdout are measured at most (of tensors, 64 examples are
            one); `None` for as many as cost about 5% of the time of a long run.
        forward: What is measured: a function of model and batch that returns loss, logits and labels; a
            loss of `None` is the log loss. By default batches are `(inputs, labels)`.
        decisions: How many decisions to take; `None` for as many as the policy was trained with.
        updates_per_epoch: Updates in which the training data are gone through once; `None` where that is
            not known. Policies whose metrics are `"epochs"` see it.
        reinit: How another network is drawn: a function that changes the model in place, or
            `"reset_parameters"` for modules that have it; `None` if there is no way.
        also: What else goes back with a rewind, such as a `GradScaler` or an average of weights: anything
            with `state_dict` and `load_state_dict`.
        chance_loss: Loss of guessing, where it is another loss than the log loss of C classes; without
            logits it also makes scores of losses.
        num_classes: Number of classes; `None` to read it off the logits.
        snapshots: Where states to go back to are kept: `"device"`, `"cpu"`, or a folder.
        seed: Seed of Thresholdout's noise, of drawn actions and of networks drawn.
        log: A `.jsonl` file for one line per decision, which `autotrain-watch` and `plot_log` read.
        writer: A `SummaryWriter` of TensorBoard, or anything with its `add_scalar`.
        progress: Whether to show one line in the terminal; `None` for where there is one, and rich.
        resume: What `state_dict` returned: go on from there, instead of a first look.
        **process: Arguments of `AutoTrainConfig` on the decision process, such as `lr_bounds`, `score` or
            `thresholdout`; by default those of the environment which the policy was trained in.

    Raises:
        InvalidTypeError: If an argument is of the wrong kind.
        InvalidValueError: If a value is not allowed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        total_updates: int,
        *,
        policy: str | PathLike[str] | Policy = "real_runs",
        holdout: Any = None,
        train: Any = None,
        holdout_batches: int | None = None,
        forward: Forward = plain_forward,
        decisions: int | None = None,
        updates_per_epoch: float | None = None,
        reinit: Reinit | None = None,
        also: Sequence[Any] = (),
        chance_loss: float | None = None,
        num_classes: int | None = None,
        snapshots: str | PathLike[str] = "device",
        seed: int = 0,
        log: str | PathLike[str] | None = None,
        writer: Any = None,
        progress: bool | None = None,
        resume: Mapping[str, Any] | None = None,
        **process: Any,
    ) -> None:
        self._clock = time.perf_counter()
        self._measuring_time = 0.0
        check_objects(model, optimizer, also)
        self.plan = make_plan(policy, total_updates, decisions, process)
        self.model, self.optimizer, self.also = model, optimizer, list(also)
        self.rates = Rates(optimizer)
        self.policy, self.config = self.plan.policy, self.plan.config
        self.seed = int(seed)
        self.team = Team()
        self._scale = Scale(chance_loss, num_classes)
        check(holdout is not None or not needs_holdout(self.policy), "holdout", None, _NEEDS_HOLDOUT)
        self._meter = Meter(
            *(model, optimizer, forward, self._scale, self.seed),
            balanced=self.config.score == "balanced_accuracy",
        )
        self._looker = Looker(self._meter, self._scale, self.config, holdout, train, holdout_batches)
        self._reinit = check_reinit(model, reinit)
        # Policies that were trained with the basic metrics never met networks that cannot be drawn.
        self._can_reinit = self._reinit is not None or self.config.metrics == "basic"
        self._snapshots = Snapshots([model, optimizer, *self.also], snapshots)
        self._rows = Rows(self._snapshots, self.config.num_snapshots)
        self._epochs = math.nan
        if updates_per_epoch is not None:
            check_number(
                *("updates_per_epoch", updates_per_epoch),
                *(lambda number: 0 < number < math.inf, "finite and above 0"),
            )
            self._epochs = self.plan.budget / updates_per_epoch
        self._begin_numbers()
        self._reports = Reports(log if self.team.leads else None, writer, progress, self.team.leads)
        claim(optimizer, self)
        start = time.perf_counter()
        try:
            if resume is not None:
                self.load_state_dict(resume)
            else:
                self._first_look()
        except BaseException:
            self.close()
            raise
        self._measuring_time += time.perf_counter() - start

    # --- before the beginning ---

    def _begin_numbers(self) -> None:
        config = self.config
        self._lineage = Lineage(
            1,
            config.num_snapshots,
            config.history_length,
            config.lr_bounds,
            config.score,
            Thresholdout(
                1,
                config.thresholdout_threshold,
                config.thresholdout_sigma,
                config.thresholdout_budget,
                config.thresholdout and self._looker.data is not None,
            ),
            config.metrics,
        )
        noise, rate = stream(self.seed, "thresholdout"), self.rates.rate
        lengths = [self.plan.budget], [config.inner_steps]
        measured = [self._looker.measured]
        classes = [self._scale.classes]
        self._lineage.begin(_LANE, classes, *lengths, [rate], [noise], measured, [self._epochs])
        self._action_type = config.make_action_type()
        self._action_generator = stream(self.seed, "actions")
        self._history = EpisodeHistory(1, config.history_length)
        self._window = Window(self._scale)
        self._rounds = Rounds()
        self._initial: list[Tree] | None = None  # of optimiser and others
        self._seen: list[Situation] = []
        self._decided: list[Decisions] = []
        self._executed = Executed.nothing(1)
        self._steps = 0
        self._attempts = 0
        self._calls = 0
        self._stopped = self._over = False
        self.divergences = 0
        self.impossible_reinits = 0
        self._score_is_minibatch = False

    def _first_look(self) -> None:
        """Measure the network, and others where they can be drawn, and take the first decision."""
        if self.learning_rate != self.rates.rate:
            warnings.warn(
                f"the learning rate {self.rates.rate:g} is outside lr_bounds={self.config.lr_bounds} and "
                f"begins as {self.learning_rate:g}; pass lr_bounds= for others",
                stacklevel=3,
            )
        if self._reinit is not None:
            self._initial = copy_tree(self._snapshots.state()[1:])
        if self._reinit is not None and self.config.num_snapshots > 1:
            own = copy_tree(self._snapshots.state()[:1], self._snapshots.device)
            self._draw_rows(range(1, self.config.num_snapshots))
            self.model.load_state_dict(own[0])
            self._put_initial()
        self._push_untrained()
        self._keep_best()
        self._record("reset")
        self._seed_policy()
        everyone = np.ones(1, bool)
        self.policy.reset(self.situation(), everyone)
        self._decide()

    def _seed_policy(self) -> None:
        seed = getattr(self.policy, "seed", None)
        if callable(seed):
            seed(self.seed)

    # --- networks drawn anew ---

    def _draw_rows(self, rows: range) -> None:
        """Draw and measure a network for each row, the last row first; the model is then the last drawn."""
        for row in reversed(rows):
            self._draw(row)
            self._push_untrained()
            if row:
                self._rows.keep()
        self._attempts += 1

    def _draw(self, row: int) -> None:
        number = np.random.SeedSequence(self.seed, spawn_key=(97, self._attempts, row)).generate_state(1)[0]
        with undisturbed(int(number)), torch.no_grad():
            plain = unwrap(self.model)
            if callable(self._reinit):
                self._reinit(plain)
            else:
                for module in plain.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if callable(reset):
                        reset()
        self._put_initial()

    def _put_initial(self) -> None:
        """Let optimiser and the others be as at the beginning; averages of weights begin at the model's."""
        assert self._initial is not None
        for part, state in zip(self._snapshots.parts[1:], self._initial, strict=True):
            load_state(part, state)
        for part in self.also:
            if isinstance(part, nn.Module):
                copy_weights(self.model, part)
        self.rates.set(self.rates.rate)

    def _push_untrained(self) -> None:
        """Measure the model, and put it on top as one that has had no update."""
        found, (train, holdout), _ = self._measure(untrained=True)
        lineage = self._lineage
        lineage.num_classes[0] = self._scale.classes
        lineage.push_untrained(_LANE, np.array([found.loss]), np.array([found.accuracy]), train, holdout)
        self._rows.push()

    # --- measuring ---

    def _measure(self, untrained: bool = False) -> tuple[Part, tuple[np.ndarray, np.ndarray], bool]:
        """Measure the model.

        Returns:
            What there is of training data; train and holdout score, each of shape (1,); whether all
            answers are finite.
        """
        seen = self.team.lead(self._looker.look)
        self._scale.num_classes, self._scale.has_logits = seen.num_classes, seen.has_logits
        self._score_is_minibatch = seen.train is None
        train = seen.train
        if train is None:
            train = self._looker.guess() if untrained else self._of_window()
        holdout = train if seen.holdout is None else seen.holdout
        train_score, holdout_score = (
            self._lineage.scores(_LANE, np.array([part.scored]), np.array([part.loss]))
            for part in (train, holdout)
        )
        return train, (train_score, holdout_score), train.finite and holdout.finite

    def _of_window(self) -> Part:
        """Returns the mean of the last updates, where no training data are measured."""
        losses, accuracies = self._values
        windows = self.config.history_length
        last = slice(-(self.config.inner_steps // windows), None)
        accuracy = float(accuracies[last].mean())
        return Part(accuracy, accuracy, float(losses[last].mean()), True)

    # --- an interval ---

    def step(self, loss: Any, logits: Any = None, labels: Any = None) -> bool:
        """Tell what an update was like, after `optimizer.step()`; now and then this decides.

        With gradient accumulation, call it once for every update.

        Args:
            loss: Mean loss of the minibatch; without a loss scale. NaN counts as divergence.
            logits: What the network answered, shape (n, C), or (…, C), or (n, C, …).
            labels: What would have been right, shape (n,), or (…), or (n, …). Both may be left out where
                `chance_loss` is given.

        Returns:
            Whether the run is over: it was stopped, or all updates are made.

        Raises:
            InvalidTypeError: If there is no loss, or logits or labels are no tensors.
            InvalidValueError: If logits and labels do not fit.
        """
        if self._over:
            return True
        self._window.add(loss, logits, labels)
        self._calls += 1
        self.rates.check(tensors=False)
        if len(self._window) < self._interval():
            return False
        start = time.perf_counter()
        self._end_interval()
        self._measuring_time += time.perf_counter() - start
        return self._over

    def _interval(self) -> int:
        """Returns the updates between the last decision and the next one, or the end."""
        steps = self.config.inner_steps
        last = self._lineage.updates[0] + steps >= self.plan.budget
        return steps + (self.plan.rest if last else 0)

    def _end_interval(self) -> None:
        self.rates.check()
        losses, accuracies, finite = self._gather_window()
        self._window.clear()
        lineage, steps = self._lineage, self.config.inner_steps
        self._values = losses[-steps:], accuracies[-steps:]
        lineage.num_classes[0] = self._scale.classes
        lineage.spend(_LANE)
        if finite:
            _, (train, holdout), finite = self._measure()
        if finite:
            trained, accurate = self._values
            moved = self._movement() if self.config.needs_movement else None
            lineage.push_trained(_LANE, trained[None], accurate[None], train, holdout, moved)
            self._rows.push()
            self._keep_best()
        else:
            self._contain(newly=True)
        self._steps += 1
        self._finish_step()
        if not self._over:
            self._decide()

    def _movement(self) -> np.ndarray | None:
        """Returns how far parameters have moved since the last decision, over their norm, shape (1,)."""
        before = self._rows.newest()
        if before is None:
            return None
        names = [name for name, tensor in self.model.named_parameters() if tensor.requires_grad]
        now = self.model.state_dict()
        flat = [
            torch.cat([state[name].cpu().flatten() for name in names]).numpy() for state in (now, before)
        ]
        return np.array([relative_distance(*flat)])

    def _gather_window(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns losses and accuracies of the updates, means over all processes, and if all is finite."""
        raw, accuracies = self._window.values()
        losses = self._scale.losses(raw)
        finite = bool(np.isfinite(raw).all()) and is_finite(self._snapshots.state()[:2])
        found = self.team.gather((losses, accuracies, finite))
        if len(found) == 1:
            return losses, accuracies, finite
        return (
            np.mean([each[0] for each in found], axis=0),
            np.mean([each[1] for each in found], axis=0),
            all(each[2] for each in found),
        )

    def _contain(self, newly: bool) -> None:
        """Let the current state read as chance level; it cannot be gone back to."""
        self.divergences += newly
        if newly and self.config.keep_before_divergence:
            self._lineage.repeat_newest(_LANE)
            self._rows.push()
        self._lineage.contain(_LANE)
        self._rows.forget_newest()

    def _finish_step(self) -> None:
        self._over = self._stopped or bool(self._lineage.updates[0] >= self.plan.budget)
        self._record(self._executed.in_words()[0])
        if self._over:
            self.close()

    # --- decisions ---

    def situation(self) -> Situation:
        """Returns what the policy decides on, arrays over one lane."""
        lineage = self._lineage
        return Situation(
            rows=lineage.rows.copy(),
            exists=lineage.exists(),
            rewindable=lineage.rewindable(),
            can_reinit=np.array([self._can_reinit]),
            learning_rate=lineage.learning_rate.copy(),
            initial_learning_rate=lineage.initial_learning_rate.copy(),
            updates=lineage.updates.copy(),
            budget=lineage.budget.copy(),
            steps=np.array([self._steps]),
            holdout_answer=lineage.holdout_answer.copy(),
            running=np.array([not self._over]),
            episode_seed=np.array([self.seed], np.int64),
            inner_steps=lineage.inner_steps.copy(),
            lr_bounds=self.config.lr_bounds,
            action_type=self._action_type,
            observation_layout=self.config.observation_layout,
            metrics=self.config.metrics,
            generators=[self._action_generator],
        )

    def _decide(self) -> None:
        """Ask the policy and carry out what it says, again while the network has diverged and stays so."""
        while True:
            situation = self.situation()
            decisions = self.team.lead(functools.partial(self.policy.decide, situation))
            decisions.check(situation.running)
            self._seen.append(situation)
            self._decided.append(decisions)
            self._executed = self._carry_out(decisions)
            if not (self._executed.stop[0] or self._lineage.diverged[0]):
                return
            if not self._executed.stop[0]:
                self._lineage.spend(_LANE)  # such updates are counted, and not made
                self._contain(newly=False)
            self._stopped = bool(self._executed.stop[0])
            self._steps += 1
            self._finish_step()
            if self._over:
                return

    def _carry_out(self, decisions: Decisions) -> Executed:
        """Stop, or else rewind or draw new networks, and change the rates."""
        lineage = self._lineage
        stop = decisions.stop & True
        reinit = decisions.reinit & ~stop
        if reinit[0] and self._reinit is None:
            self.impossible_reinits += 1
            reinit = np.zeros(1, bool)
        if stop[0]:
            return dataclasses.replace(Executed.nothing(1), stop=stop)
        wanted = np.where(decisions.reinit, 0, decisions.rewind)
        distance = lineage.rewind(_LANE, wanted)
        factor = lineage.set_rates(_LANE, decisions, reinit, self.config.reinit_learning_rate)
        self.rates.rate = float(lineage.learning_rate[0])
        if distance[0]:
            self._rows.rewind(int(distance[0]))
        elif reinit[0]:
            self._start_anew()
        if not lineage.diverged[0]:
            self._rows.keep()
        self._rows.count_bytes(self._initial)
        self.rates.set(self.rates.rate)
        return Executed(factor, distance, distance != wanted, reinit, stop)

    def _start_anew(self) -> None:
        self._rows.clear()
        self._lineage.clear(_LANE)
        # The row that the next interval's will push out is not drawn.
        self._draw_rows(range(max(1, self.config.num_snapshots - 1)))

    def _keep_best(self) -> None:
        answer = float(self._lineage.holdout_answer[0])
        if answer > self._rows.best_answer:
            self._rows.best_answer = answer
            with self._meter.evaluating():
                self._rows.keep_best(self.model)

    # --- what the user sees ---

    @property
    def over(self) -> bool:
        """Returns whether the run is over."""
        return self._over

    @property
    def stopped(self) -> bool:
        """Returns whether the policy has stopped it."""
        return self._stopped

    @property
    def diverged(self) -> bool:
        """Returns whether the network has diverged, and nothing has brought it back."""
        return bool(self._lineage.diverged[0])

    @property
    def learning_rate(self) -> float:
        """Returns the learning rate, that of the parameter group with the largest."""
        return float(self._lineage.learning_rate[0])

    @property
    def updates(self) -> int:
        """Returns how many updates have been spent: made, or skipped after a divergence."""
        spent = int(self._lineage.updates[0]) + len(self._window)
        done = self._over and not self._stopped
        return spent + (self.plan.rest if done else 0)

    @property
    def peak_bytes(self) -> int:
        """Returns the bytes of all copies of states that were in memory at once, at most."""
        return self._rows.peak_bytes

    @property
    def history(self) -> History:
        """Returns what happened, a row for each decision and the first look before; see `plot_episode`."""
        return self._history.of(0)

    def batches(self, loader: Any) -> Iterator[Any]:
        """Go round a loader until the run is over.

        Each round is an epoch; a sampler with `set_epoch` is told its number. A resumed controller goes on
        behind the batch at which its state was taken.

        Args:
            loader: A loader, or anything else that can be iterated again and again.

        Yields:
            The batches, as the loader gives them.

        Raises:
            InvalidValueError: If the loader is empty, or is the holdout, or a round went by without `step`.
        """
        if self._looker.data is not None:
            check_apart(self._looker.data, loader, "loader")
        return self._rounds.go(loader, lambda: self._over, lambda: self._calls)

    def close(self) -> None:
        """End the run: let go of the optimiser, the log and the states to go back to.

        A run that is over has done so by itself.
        """
        self._over = True
        self._rows.close()
        self._reports.close()

    def best(self) -> dict[str, Any]:
        """Returns the weights that were best on the guarded holdout: what `model.load_state_dict` takes."""
        return copy_tree(self._rows.best)

    def summary(self) -> str:
        """Returns what happened, in a few lines."""
        return summary(
            self.history,
            RunFacts(
                policy=self.plan.name,
                total_updates=self.plan.total_updates,
                updates=self.updates,
                decisions=len(self._decided),
                over=self._over,
                divergences=self.divergences,
                impossible_reinits=self.impossible_reinits,
                best_answer=self._rows.best_answer,
                has_holdout=self._looker.data is not None,
                train_is_minibatch=self._score_is_minibatch,
                queries=int(self._lineage.thresholdout.queries[0]),
                overridden=self.rates.overridden,
                abstentions=self._abstentions(),
                snapshots=self.config.num_snapshots,
                snapshot_bytes=self._snapshots.bytes,
                peak_bytes=self.peak_bytes,
                place=str(self._snapshots.folder or self._snapshots.device or "the model's device"),
                seconds=time.perf_counter() - self._clock,
                measuring_seconds=self._measuring_time,
            ),
        )

    def _abstentions(self) -> int:
        """Returns how many decisions the policy has left to a fixed action."""
        if not isinstance(self.policy, TrainedPolicy):
            return 0
        return sum(int(self.policy.abstains(situation)[0]) for situation in self._seen)

    def plot(self, path: str | PathLike[str] | None = None) -> "Figure":
        """Draw the run: actions, loss, scores and learning rate.

        Args:
            path: Where to write the picture, as what its ending says; `None` for nowhere.

        Returns:
            The figure.
        """
        from autotrain_env.viewing.run import plot_episode  # matplotlib takes a second to import

        figure = plot_episode(self.history)
        if path is not None:
            figure.savefig(path)
        return figure

    def _record(self, words: str) -> None:
        lineage = self._lineage
        loss = lineage.loss / self._scale.factor
        values: dict[str, Any] = {
            "episode_seed": np.array([self.seed]),
            "lane": np.zeros(1, np.int64),
            "step": np.array([self._steps]),
            "action": np.array([words], object),
            "learning_rate": lineage.learning_rate,
            **vars(self._executed),
            "updates": lineage.updates,
            "loss": loss,
            "batch_accuracy": lineage.batch_accuracy,
            "train_score": lineage.train_score,
            "holdout_answer": lineage.holdout_answer,
            "holdout_queries": lineage.thresholdout.queries,
            "holdout_exhausted": lineage.thresholdout.exhausted,
            "score": np.full(1, np.nan),  # nothing is kept aside for one
            "reward": np.full(1, np.nan),
            "diverged": lineage.diverged,
            "terminated": np.array([self._over]),
            "truncated": np.zeros(1, bool),
        }
        record = StepRecord(values, {})
        self._history.append(_LANE, record)
        if self._steps:
            self._reports.tell(record, self.updates, self.plan.total_updates, self._probabilities())

    def _probabilities(self) -> dict[str, float] | None:
        """Returns the probability of each action, in words, where the policy has any."""
        found = getattr(self.policy, "last_probabilities", None)
        if found is None:
            return None
        rows = np.ones((len(found[0]), self.config.num_snapshots), bool)
        left = np.full(len(rows), self._lineage.steps_left()[0] + 1)  # when it was decided
        told = self._action_type.decide(np.arange(len(rows)), rows, [], left)
        nothing = Executed.nothing(len(rows))
        done = dataclasses.replace(
            nothing, lr_factor=told.lr_factor, rewind=told.rewind, reinit=told.reinit, stop=told.stop
        )
        return {words: round(float(p), 6) for words, p in zip(done.in_words(), found[0], strict=True)}

    # --- resuming ---

    def state_dict(self) -> dict[str, Any]:
        """Returns all that the controller knows, snapshots included, for a checkpoint.

        It holds plain values and tensors alone, so that `torch.load` reads it with `weights_only=True`.
        Save it beside the states of model and optimiser, after `step`.
        """
        return {
            "format": STATE_FORMAT,
            "run": self._run(),
            "lineage": freeze(self._lineage),
            "history": freeze(self._history),
            "window": self._window.state_dict(),
            "scale": freeze(self._scale),
            "rows": self._rows.state_dict(),
            "initial": None if self._initial is None else copy_tree(self._initial),
            "seen": [_varying(situation) for situation in self._seen],
            "decided": [freeze(vars(decisions)) for decisions in self._decided],
            "executed": freeze(vars(self._executed)),
            "ratios": list(self.rates.ratios),
            "numbers": {name: getattr(self, name) for name in _NUMBERS},
            "seconds": [time.perf_counter() - self._clock, self._measuring_time],
            "rounds": self._rounds.state_dict(),
            "log": self._reports.position(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; load the states of model and optimiser, too, after that.

        The policy is brought to where it was by being shown again what it has seen.

        Args:
            state: The state of a controller with the same arguments.

        Raises:
            InvalidValueError: If it is the state of another controller.
        """
        known = isinstance(state, Mapping) and state.get("format") == STATE_FORMAT
        check(known, "state", type(state).__name__, "what Controller.state_dict returned")
        own = self._run()
        for name, value in own.items():
            found = state["run"].get(name)
            check(found == value, f"state's {name}", found, f"{value}: it is of another controller")
        self._begin_numbers()
        thaw(self._lineage, state["lineage"])
        thaw(self._history, state["history"])
        thaw(self._scale, state["scale"])
        self._window.load_state_dict(state["window"])
        self._rows.load_state_dict(state["rows"])
        self._initial = None if state["initial"] is None else copy_tree(state["initial"])
        executed = {name: value.numpy() for name, value in state["executed"].items()}
        self._executed = Executed(**executed)
        for name in _NUMBERS:
            setattr(self, name, state["numbers"][name])
        self.rates.ratios = list(state["ratios"])
        seconds, self._measuring_time = state["seconds"]
        self._clock = time.perf_counter() - seconds
        self._rounds.load_state_dict(state["rounds"])
        self._reports.rewind(state["log"])
        self._show_again(state["seen"], state["decided"])
        self.rates.set(float(self._lineage.learning_rate[0]))

    def _run(self) -> dict[str, Any]:
        """Returns what must agree for a state to be this controller's, as plain values."""
        process = {name: getattr(self.config, name) for name in (*PROCESS, "inner_steps")}
        shapes = {name: list(tensor.shape) for name, tensor in tensors_by_name(self.model).items()}
        return {
            "total_updates": self.plan.total_updates,
            "process": json.dumps(process),
            "model": json.dumps(shapes),
            "policy": type(self.policy).__name__,
            "reinit": self._reinit is not None,
            "holdout": self._looker.data is not None,
            "also": [type(part).__name__ for part in self.also],
        }

    def _show_again(self, seen: list[dict[str, Any]], decided: list[dict[str, Any]]) -> None:
        """Let the policy decide again on all that it has seen, so that it remembers what it did."""
        self._seen, self._decided = [], []
        template = self.situation()
        self._seed_policy()
        for frozen, taken in zip(seen, decided, strict=True):
            varying = {name: value.numpy() for name, value in frozen.items()}
            situation = dataclasses.replace(template, **varying)
            if not self._seen:
                self.policy.reset(situation, np.ones(1, bool))
            decisions = self.policy.decide(situation)
            same = _same(decisions, taken)
            check(same, "state's policy", "another", "this one: it decides otherwise on what was seen")
            self._seen.append(situation)
            self._decided.append(decisions)


_NUMBERS = (
    *("_steps", "_attempts", "_calls", "_stopped", "_over", "_score_is_minibatch"),
    *("divergences", "impossible_reinits"),
)
_NEEDS_HOLDOUT = (
    "a loader, tensors or a function: this policy decides by a holdout; 'real_runs', the default, needs "
    "none, nor do schedules such as Cosine(0.1)"
)
_VARYING = (
    *("rows", "exists", "rewindable", "learning_rate", "initial_learning_rate"),
    *("updates", "budget", "steps", "holdout_answer", "running", "episode_seed"),
)


def _varying(situation: Situation) -> dict[str, Tensor]:
    """Returns what differs from situation to situation, as tensors."""
    return {name: freeze(getattr(situation, name)) for name in _VARYING}


def _same(decisions: Decisions, taken: Mapping[str, Any]) -> bool:
    for name, value in vars(decisions).items():
        if (value is None) != (taken[name] is None):
            return False
        if value is not None and not np.array_equal(value, taken[name].numpy()):
            return False
    return True
