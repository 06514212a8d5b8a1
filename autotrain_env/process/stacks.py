"""The networks of N lanes, in stacks of those that can be computed together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.episodes import GROUPS, Episode, EpisodeMaker
from autotrain_env.training.stack import LaneStack


@dataclass(frozen=True)
class Evaluated:
    """Accuracy and log loss of n networks on the three parts that are measured.

    Args:
        accuracy: Accuracy on train subset, holdout and validation part, float64, shape (3, n).
        loss: Log loss there [nats], float64, shape (3, n); 0 where it was not asked for.
        finite: Whether all logits of train subset and holdout were finite, bool, shape (n,).
    """

    accuracy: np.ndarray
    loss: np.ndarray
    finite: np.ndarray

    def take(self, which: np.ndarray) -> "Evaluated":
        """Returns the results of some networks, which a bool array of shape (n,) marks."""
        return Evaluated(self.accuracy[:, which], self.loss[:, which], self.finite[which])


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
        self.episodes[lane] = episode
        self.groups[lane] = episode.groups
        stack, slot = self.stacks[key], int(self.slot[lane])
        stack.set_normalization(slot, episode.split.mean, episode.split.std)
        stack.set_lane_values(slot, episode.task.optimizer)  # type: ignore[arg-type]

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

    def _grouped(self, lanes: np.ndarray, what: str) -> Iterator[tuple[LaneStack, np.ndarray]]:
        """Yields the stack of lanes that can be computed together, and their positions in `lanes`."""
        numbers = self.groups[lanes, GROUPS.index(what)]
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            yield self._of(int(lanes[at[0]]))[0], at

    # --- weights ---

    def set_networks(self, lanes: np.ndarray, rows: Sequence[np.ndarray]) -> None:
        """Put new networks in, and keep them as snapshots.

        Args:
            lanes: Which lanes, int64, shape (n,).
            rows: Parameters and buffers of each, float32, shape (P + Q,).
        """
        for stack, at in self._grouped(lanes, "stack"):
            stack.set_network(self.slot[lanes[at]], np.stack([rows[i] for i in at]))
        self.snapshot(lanes)

    def snapshot(self, lanes: np.ndarray) -> None:
        """Keep the current states of lanes (int64, shape (n,)), so that they can be rewound to."""
        for stack, at in self._grouped(lanes, "stack"):
            stack.snapshot(self.slot[lanes[at]])

    def rewind(self, lanes: np.ndarray, distance: np.ndarray) -> None:
        """Restore earlier states.

        Args:
            lanes: Which lanes, int64, shape (n,).
            distance: How far back [env steps], int64, shape (n,); such states must exist.
        """
        for stack, at in self._grouped(lanes, "stack"):
            stack.rewind(self.slot[lanes[at]], distance[at])

    def keep_best(self, lanes: np.ndarray) -> None:
        """Remember the current weights of lanes (int64, shape (n,)) as their best."""
        for stack, at in self._grouped(lanes, "stack"):
            stack.keep_best(self.slot[lanes[at]])

    def add_noise(self, lane: int, scale: float, generator: np.random.Generator) -> None:
        """Add normal noise to a lane's parameters.

        Args:
            lane: Number of the lane.
            scale: Standard deviation of the noise, over the root mean square of each tensor.
            generator: Generator of the noise.
        """
        stack, slot = self._of(lane)
        stack.add_noise(slot, scale, generator)

    def finite(self, lanes: np.ndarray) -> np.ndarray:
        """Returns whether all numbers of lanes' states are finite, bool, shape (n,)."""
        finite = np.zeros(len(lanes), bool)
        for stack, at in self._grouped(lanes, "stack"):
            finite[at] = stack.finite(self.slot[lanes[at]])
        return finite

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
        """Copy weights and snapshots of lane `source` to lane `target`, which plays the same task."""
        stack, slot = self._of(source)
        stack.copy_slot(slot, self._of(target)[1])

    # --- training and evaluation ---

    def train(self, lanes: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make T updates of each lane.

        Args:
            lanes: Which lanes, int64, shape (n,).
            rates: Learning rates, float64, shape (n,).

        Returns:
            Mean log loss [nats] and accuracy of every minibatch, float64, both (n, T).
        """
        shape = (len(lanes), self.config.inner_steps)
        losses, accuracies = np.zeros(shape), np.zeros(shape)
        for stack, at in self._grouped(lanes, "training"):
            losses[at], accuracies[at] = stack.train(
                self.maker.pool(stack.architecture.num_features),
                self.slot[lanes[at]],
                rates[at],
                *self._draw_batches(self.episodes_of(lanes[at])),
            )
        return losses, accuracies

    def _draw_batches(self, episodes: list[Episode]) -> tuple[np.ndarray, np.ndarray]:
        """Draw an env step's minibatches: positions in the pool and labels, both int32, (n, T, B)."""
        shape = (len(episodes), self.config.inner_steps, episodes[0].task.batch_size)
        indices, labels = np.empty((2, *shape), np.int32)
        for i, episode in enumerate(episodes):
            drawn = episode.sampler.draw(shape[1] * shape[2]).reshape(shape[1:])
            np.take(episode.split.train_index, drawn, out=indices[i], mode="clip")
            labels[i] = episode.split.train_labels[drawn]
        indices += np.array([episode.offset for episode in episodes], np.int32)[:, None, None]
        return indices, labels

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
        for stack, at in self._grouped(lanes, "evaluation"):
            episodes = self.episodes_of(lanes[at])
            evaluation = stack.evaluate(
                self.maker.pool(stack.architecture.num_features),
                self.slot[lanes[at]],
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
                    loss[part, at] = _mean(values)
        return Evaluated(accuracy, loss, finite)

    def test(self, lanes: np.ndarray, diverged: np.ndarray, *, best: bool) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate lanes on the test part.

        Args:
            lanes: Which lanes, int64, shape (n,).
            diverged: Which of them have diverged, bool, shape (n,).
            best: Whether with the best-on-holdout weights, or the current ones.

        Returns:
            Accuracy and log loss [nats], both (n,); chance level where a network is not finite.
        """
        classes = np.array([episode.dataset.num_classes for episode in self.episodes_of(lanes)])
        accuracy, loss = 1 / classes, np.log(classes)
        for stack, at in self._grouped(lanes, "test"):
            episodes = self.episodes_of(lanes[at])
            evaluation = stack.evaluate(
                self.maker.pool(stack.architecture.num_features),
                self.slot[lanes[at]],
                np.stack([episode.split.test_index + episode.offset for episode in episodes]),
                np.stack([episode.split.test_labels for episode in episodes]),
                losses=True,
                best=best,
            )
            assert evaluation.losses is not None
            usable = evaluation.finite.all(1) & (best | ~diverged[at])
            accuracy[at] = np.where(usable, evaluation.correct.mean(1), accuracy[at])
            losses = _mean(evaluation.losses)
            loss[at] = np.where(usable & np.isfinite(losses), losses, loss[at])
        return accuracy, loss


def _mean(losses: np.ndarray) -> np.ndarray:
    """Returns means over images, float64, shape (n,); infinite where numbers do not reach."""
    with np.errstate(over="ignore"):
        return losses.mean(1, dtype=np.float64)
