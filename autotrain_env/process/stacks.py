"""The networks of N lanes, in stacks of those that can be computed together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotrain_env.data.sampling import EpochSampler, StreamPosition, permute_rows
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.episodes import GROUPS, Episode, EpisodeMaker, stream
from autotrain_env.process.lineage import window_means
from autotrain_env.training.engine import Trained
from autotrain_env.training.native.library import permute
from autotrain_env.training.stack import LaneStack

_MOST_KNOWN = 64  # partitions of lanes


@dataclass(frozen=True)
class _Group:
    """Lanes that can be computed together.

    Args:
        stack: The stack that holds their networks.
        lanes: Their numbers, int64, shape (n,).
        slots: Their places in the stack, int64, shape (n,).
        at: Where they are among the lanes that were asked for.
        first: Episode of the first one.
    """

    stack: LaneStack
    lanes: np.ndarray
    slots: np.ndarray
    at: np.ndarray | slice
    first: Episode


@dataclass(frozen=True)
class Evaluated:
    """Accuracy and log loss of n networks on the three parts that are measured.

    Args:
        accuracy: Accuracy on train subset, holdout and validation part, float64, shape (3, n).
        scored_accuracy: The accuracy that scores are made of, likewise: balanced where they are.
        loss: Log loss there [nats], float64, shape (3, n); 0 where it was not asked for.
        finite: Whether all logits of train subset and holdout were finite, bool, shape (n,).
    """

    accuracy: np.ndarray
    scored_accuracy: np.ndarray
    loss: np.ndarray
    finite: np.ndarray

    def take(self, which: np.ndarray) -> "Evaluated":
        """Returns the results of some networks, which a bool array of shape (n,) marks."""
        if which.all():
            return self
        accuracy, scored_accuracy = self.accuracy[:, which], self.scored_accuracy[:, which]
        return Evaluated(accuracy, scored_accuracy, self.loss[:, which], self.finite[which])


def balanced_accuracy(correct: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the mean, over the classes that occur, of the share of a class that is classified rightly.

    Args:
        correct: Whether each image is classified rightly, bool, shape (n, E).
        labels: Labels, shape (n, E).
        num_classes: Number of classes C.

    Returns:
        Balanced accuracy of each network, float64, shape (n,).
    """
    count = len(correct)
    bins = (labels + num_classes * np.arange(count)[:, None]).ravel()
    of_class, right = (
        np.bincount(bins, weights, minlength=count * num_classes).reshape(count, num_classes)
        for weights in (None, correct.ravel())
    )
    return (right / np.maximum(of_class, 1)).sum(1) / (of_class > 0).sum(1)


class Stacks:
    """Stacks of networks, and the slot that each lane has in one of them.

    Args:
        config: The environment's arguments.
        num_envs: Number of lanes (N).
        maker: What holds the images.
    """

    def __init__(self, config: AutoTrainConfig, num_envs: int, maker: EpisodeMaker) -> None:
        self.config = config
        self.maker = maker
        self.device = torch.device(config.device)
        self.episodes: list[Episode | None] = [None] * num_envs
        self.slot = np.zeros(num_envs, np.int64)
        self.groups = np.zeros((num_envs, len(GROUPS)), np.int64)  # equal where lanes go together
        self.stacks: dict[int, LaneStack] = {}  # by number of the group
        self._known_groups: dict[tuple[str, bytes], list[_Group]] = {}  # of the episodes there are now
        compiled = config.backend in ("auto", "native")
        self.sampler = EpochSampler(num_envs, permute if compiled else permute_rows)
        # What follows each row, the newest first; only where rewinds bring the same minibatches again.
        self.positions: list[list[StreamPosition]] = [[] for _ in range(num_envs)]
        # In the pool, and labels, int32, (N, E) with room for the lane that has most.
        self.evaluation_index = np.zeros((num_envs, 0), np.int32)
        self.evaluation_labels = np.zeros((num_envs, 0), np.int32)

    def episode(self, lane: int) -> Episode:
        """Returns a lane's current episode; the lane must have been reset."""
        episode = self.episodes[lane]
        assert episode is not None, f"lane {lane} was never reset"
        return episode

    def episodes_of(self, lanes: np.ndarray) -> list[Episode]:
        """Returns the current episodes of lanes, int64, shape (n,)."""
        return [self.episode(lane) for lane in lanes.tolist()]

    def place(self, lane: int, episode: Episode) -> None:
        """Give a lane a slot in the stack of its episode's architecture and kind of optimiser."""
        old, key = self.episodes[lane], episode.groups[0]
        if old is None or old.groups[0] != key:
            if old is not None:
                self._release(old.groups[0], int(self.slot[lane]))
            if key not in self.stacks:
                self.stacks[key] = self._make_stack(episode)
            at_least = len(self.slot) if len(self.stacks) == 1 else 1
            self.slot[lane] = self.stacks[key].acquire(at_least)
        self._known_groups.clear()
        self.episodes[lane] = episode
        self.groups[lane] = episode.groups
        stack, slot = self.stacks[key], int(self.slot[lane])
        stack.set_normalization(slot, episode.split.mean, episode.split.std)
        stack.set_lane_values(slot, episode.task.optimizer)  # type: ignore[arg-type]
        self.sampler.begin(
            lane, stream(episode.seed, "minibatches"), episode.train_examples().view(np.int64)[:, 0]
        )
        self.positions[lane] = []
        count = len(episode.evaluation_index)
        more = count - self.evaluation_index.shape[1]
        if more > 0:
            self.evaluation_index = np.pad(self.evaluation_index, ((0, 0), (0, more)))
            self.evaluation_labels = np.pad(self.evaluation_labels, ((0, 0), (0, more)))
        self.evaluation_index[lane, :count] = episode.evaluation_index
        self.evaluation_labels[lane, :count] = episode.evaluation_labels

    def _release(self, key: int, slot: int) -> None:
        """Take a slot back; a stack in which no lane is left goes, for its kind may never come again."""
        stack = self.stacks[key]
        stack.release(slot)
        if len(stack.free) == len(stack.state):
            del self.stacks[key]

    def _make_stack(self, episode: Episode) -> LaneStack:
        config = self.config
        return LaneStack(
            episode.architecture,
            episode.task.optimizer,  # type: ignore[arg-type]
            config.num_snapshots,
            config.backend,
            config.torch_dtype,
            self.device,
        )

    def _of(self, lane: int) -> tuple[LaneStack, int]:
        """Returns a lane's stack, and its slot there."""
        return self.stacks[self.episode(lane).groups[0]], int(self.slot[lane])

    def _grouped(self, lanes: np.ndarray, what: str) -> list[_Group]:
        """Returns the lanes (int64, shape (n,)) in groups of those that can be computed together."""
        key = (what, lanes.tobytes())
        groups = self._known_groups.get(key)
        if groups is None:
            if len(self._known_groups) >= _MOST_KNOWN:
                self._known_groups.clear()
            groups = self._known_groups[key] = [*self._make_groups(lanes, what)]
        return groups

    def _make_groups(self, lanes: np.ndarray, what: str) -> Iterator[_Group]:
        numbers = self.groups[lanes, GROUPS.index(what)]
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            first = self.episode(int(lanes[at[0]]))
            whole = len(at) == len(lanes)
            yield _Group(
                stack=self.stacks[first.groups[0]],
                lanes=lanes[at],
                slots=self.slot[lanes[at]],
                at=slice(None) if whole else at,
                first=first,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is only remembered."""
        return vars(self) | {"_known_groups": {}}

    @property
    def backends(self) -> tuple[str, ...]:
        """Returns by which backends networks are computed, sorted; none before the first reset."""
        return tuple(sorted({stack.engine.backend for stack in self.stacks.values()}))

    # --- weights ---

    def set_networks(self, lanes: np.ndarray, rows: Sequence[np.ndarray]) -> None:
        """Put new networks in, and keep them as snapshots.

        Args:
            lanes: Which lanes, int64, shape (n,).
            rows: Parameters and buffers of each, float32, shape (P + Q,).
        """
        by_lane = dict(zip(lanes.tolist(), rows, strict=True))
        for group in self._grouped(lanes, "stack"):
            group.stack.set_network(group.slots, np.stack([by_lane[lane] for lane in group.lanes.tolist()]))
        self.snapshot(lanes)

    def snapshot(self, lanes: np.ndarray) -> None:
        """Keep the current states of lanes (int64, shape (n,)), so that they can be rewound to."""
        for group in self._grouped(lanes, "stack"):
            group.stack.snapshot(group.slots)
        if self.config.rewind_minibatches == "same":
            for lane in lanes.tolist():
                before = self.positions[lane][: self.config.num_snapshots - 1]
                self.positions[lane] = [self.sampler.position(lane), *before]

    def rewind(self, lanes: np.ndarray, distance: np.ndarray) -> None:
        """Restore earlier states.

        Args:
            lanes: Which lanes, int64, shape (n,).
            distance: How far back [env steps], int64, shape (n,); such states must exist.
        """
        for group in self._grouped(lanes, "stack"):
            group.stack.rewind(group.slots, distance[group.at])
        if self.config.rewind_minibatches == "same":
            for lane, far in zip(lanes.tolist(), distance.tolist(), strict=True):
                self.positions[lane] = self.positions[lane][far:]
                self.sampler.go_to(lane, self.positions[lane][0])

    def restore_newest(self, lanes: np.ndarray) -> None:
        """Make the current state of lanes (int64, shape (n,)) that of their newest snapshot."""
        for group in self._grouped(lanes, "stack"):
            group.stack.rewind(group.slots, np.zeros(len(group.slots), np.int64))

    def movement(self, lanes: np.ndarray) -> np.ndarray:
        """Returns how far parameters of lanes have moved since their newest snapshots, over their norm.

        Args:
            lanes: Which lanes, int64, shape (n,).

        Returns:
            Shares, float64, shape (n,).
        """
        moved = np.zeros(len(lanes))
        for group in self._grouped(lanes, "stack"):
            moved[group.at] = group.stack.movement(group.slots)
        return moved

    def keep_best(self, lanes: np.ndarray) -> None:
        """Remember the current weights of lanes (int64, shape (n,)) as their best."""
        for group in self._grouped(lanes, "stack"):
            group.stack.keep_best(group.slots)

    def add_noise(self, lane: int, scale: float, generator: np.random.Generator) -> None:
        """Add normal noise to a lane's parameters.

        Args:
            lane: Number of the lane.
            scale: Standard deviation of the noise, over the root mean square of each tensor.
            generator: Generator of the noise.
        """
        stack, slot = self._of(lane)
        stack.add_noise(slot, scale, generator)

    def weights_of(self, lane: int, *, best: bool = False) -> dict[str, Tensor]:
        """Returns parameters and buffers of a lane's network by name, copies.

        Args:
            lane: Number of the lane.
            best: Whether the weights that were best on the guarded holdout, or the current ones.
        """
        stack, slot = self._of(lane)
        parameters, buffers = stack.weights(np.array([slot]), best=best)
        named = stack.architecture.parameter_layout.split(parameters[0])
        named |= stack.architecture.buffer_layout.split(buffers[0])
        return {name: tensor.clone() for name, tensor in named.items()}

    def copy_lane(self, source: int, target: int) -> None:
        """Copy weights, snapshots and minibatches of lane `source` to `target`, which plays its task."""
        stack, slot = self._of(source)
        stack.copy_slot(slot, self._of(target)[1])
        self.sampler.copy_lane(source, target)
        self.positions[target] = self.positions[source].copy()

    # --- training and evaluation ---

    def train(self, lanes: np.ndarray, rates: np.ndarray) -> Trained:
        """Make T updates of each lane, as many as its task says.

        Args:
            lanes: Which lanes, int64, shape (n,).
            rates: Learning rates, float64, shape (n,).

        Returns:
            Means over each of the K windows, with arrays of shape (n, K), and which lanes are finite:
            states, and losses of every update.
        """
        windows = self.config.history_length
        shape = (len(lanes), windows)
        trained = Trained(np.zeros(shape), np.zeros(shape), np.zeros(len(lanes), bool))
        for group in self._grouped(lanes, "training"):
            examples = self._draw_batches(group)
            found = group.stack.train(
                self.maker.pool(group.stack.architecture.num_features),
                group.slots,
                rates[group.at],
                examples[..., 0],
                examples[..., 1],
            )
            trained.losses[group.at] = window_means(found.losses, windows)
            trained.accuracies[group.at] = window_means(found.accuracies, windows)
            trained.finite[group.at] = found.finite & np.isfinite(found.losses).all(1)
        return trained

    def _draw_batches(self, group: _Group) -> np.ndarray:
        """Draw an env step's minibatches: positions in the pool and labels, int32, (n, T, B, 2)."""
        inner_steps, batch_size = group.first.inner_steps, group.first.batch_size
        drawn = self.sampler.draw(group.lanes, inner_steps * batch_size)
        return drawn.view(np.int32).reshape(len(drawn), inner_steps, batch_size, 2)

    def evaluate(self, lanes: np.ndarray, *, losses: bool) -> Evaluated:
        """Evaluate lanes on train subset, holdout and validation part at once.

        Args:
            lanes: Which lanes, int64, shape (n,).
            losses: Whether log losses are wanted.

        Returns:
            Results, with arrays of shape (3, n) and (n,).
        """
        count = len(lanes)
        accuracy, loss, finite = np.zeros((3, count)), np.zeros((3, count)), np.zeros(count, bool)
        balanced = np.zeros((3, count)) if self.config.score == "balanced_accuracy" else None
        for group in self._grouped(lanes, "evaluation"):
            parts = group.first.evaluation_parts
            labels = self.evaluation_labels[group.lanes, : parts[-1].stop]
            evaluation = group.stack.evaluate(
                self.maker.pool(group.stack.architecture.num_features),
                group.slots,
                self.evaluation_index[group.lanes, : parts[-1].stop],
                labels,
                losses=losses,
            )
            # Not the validation part: it must not decide what the agent sees.
            finite[group.at] = evaluation.finite[:, : parts[1].stop].all(1)
            for number, part in enumerate(parts):
                accuracy[number, group.at] = _share(evaluation.correct[:, part])
                if balanced is not None:
                    balanced[number, group.at] = balanced_accuracy(
                        evaluation.correct[:, part], labels[:, part], group.first.dataset.num_classes
                    )
                if evaluation.losses is not None:
                    loss[number, group.at] = _mean(evaluation.losses[:, part])
        return Evaluated(accuracy, accuracy if balanced is None else balanced, loss, finite)

    def test(self, lanes: np.ndarray, diverged: np.ndarray, *, best: bool) -> dict[str, np.ndarray]:
        """Evaluate lanes on the test part.

        Args:
            lanes: Which lanes, int64, shape (n,).
            diverged: Which of them have diverged, bool, shape (n,).
            best: Whether with the best-on-holdout weights, or the current ones.

        Returns:
            Accuracy, balanced accuracy and log loss [nats] by name, each of shape (n,); chance level where
            a network is not finite.
        """
        classes = np.array([episode.dataset.num_classes for episode in self.episodes_of(lanes)])
        accuracy, balanced, loss = 1 / classes, 1 / classes, np.log(classes)
        for group in self._grouped(lanes, "test"):
            at, episodes = group.at, self.episodes_of(group.lanes)
            labels = np.stack([episode.split.test_labels for episode in episodes])
            evaluation = group.stack.evaluate(
                self.maker.pool(group.stack.architecture.num_features),
                group.slots,
                np.stack([episode.split.test_index + episode.offset for episode in episodes]),
                labels,
                losses=True,
                best=best,
            )
            assert evaluation.losses is not None
            usable = evaluation.finite.all(1) & (best | ~diverged[at])
            accuracy[at] = np.where(usable, _share(evaluation.correct), accuracy[at])
            found = balanced_accuracy(evaluation.correct, labels, group.first.dataset.num_classes)
            balanced[at] = np.where(usable, found, balanced[at])
            losses = _mean(evaluation.losses)
            loss[at] = np.where(usable & np.isfinite(losses), losses, loss[at])
        return {"accuracy": accuracy, "balanced_accuracy": balanced, "loss": loss}


def _share(correct: np.ndarray) -> np.ndarray:
    """Returns the share of right answers, bool, shape (n, E), of each network, float64, shape (n,)."""
    return np.add.reduce(correct.view(np.uint8), axis=1, dtype=np.int32) / correct.shape[1]


def _mean(losses: np.ndarray) -> np.ndarray:
    """Returns means over images, float64, shape (n,); infinite where numbers do not reach."""
    with np.errstate(over="ignore"):
        return losses.mean(1, dtype=np.float64)
