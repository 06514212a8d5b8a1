"""Going back to before an env step that failed: nothing was counted or drawn, no weight has changed."""

import copy
from typing import Any

import numpy as np
from torch import Tensor

from autotrain_env.process.actions import Decisions
from autotrain_env.process.lanes import Lanes
from autotrain_env.process.lineage import Lineage
from autotrain_env.process.stacks import Stacks
from autotrain_env.training.snapshots import put_rows, take_rows
from autotrain_env.training.stack import LaneStack


class BeforeStep:
    """What lanes were before an env step.

    It costs little: arrays over lanes are copied, weights hardly. A lane's newest snapshot has those of the
    last step's end, and the step that is to come keeps its own when it has succeeded. Only lanes whose
    snapshots say something else, or are drawn anew, are copied.

    Args:
        lanes: How far each lane is.
        lineage: The numbers of each lane.
        stacks: The networks.
        decisions: What is to be done.
        ran: In which lanes, bool, shape (N,).
    """

    def __init__(
        self, lanes: Lanes, lineage: Lineage, stacks: Stacks, decisions: Decisions, ran: np.ndarray
    ) -> None:
        self.stacks = stacks
        self._arrays = [
            (owner, name, value.copy())
            for owner in (lanes, lineage, lineage.thresholdout)
            for name, value in vars(owner).items()
            if isinstance(value, np.ndarray)
        ]
        self._heads = [(stack.ring, stack.ring.head.copy()) for stack in stacks.stacks.values()]
        self._taken = stacks.sampler.taken.copy()
        self.healthy = (ran & ~lineage.diverged).nonzero()[0]
        new = decisions.reinit & ran & lanes.can_reinit
        moved = new | ((decisions.rewind > 0) & ran)
        self._diverged = self._rows((moved & lineage.diverged).nonzero()[0])
        self._renew(lineage, new.nonzero()[0])
        self._keep_streams(moved.nonzero()[0])

    def _rows(self, lanes: np.ndarray) -> list[tuple[LaneStack, np.ndarray, Tensor]]:
        """Returns copies of the current states of lanes, by stack."""
        groups = self.stacks._grouped(lanes, "stack") if len(lanes) else []
        return [
            (group.stack, group.slots, take_rows(group.stack.state, (group.slots,))) for group in groups
        ]

    def _renew(self, lineage: Lineage, lanes: np.ndarray) -> None:
        """Keep what drawing new networks changes."""
        groups = self.stacks._grouped(lanes, "stack") if len(lanes) else []
        self._snapshots = [
            (group.stack, group.slots, take_rows(group.stack.ring.rows, (group.slots,))) for group in groups
        ]
        self._attempts = [(episode, episode.attempt) for episode in self.stacks.episodes_of(lanes)]
        self._guards = lineage.thresholdout
        self._guard_generators = {lane: self._guards.generator(lane) for lane in lanes.tolist()}

    def _keep_streams(self, lanes: np.ndarray) -> None:
        """Keep the streams that rewinding lanes draw from or go back in."""
        config, self._positions, self._noise = self.stacks.config, {}, []
        if config.rewind_minibatches == "same":
            for lane in lanes.tolist():
                kept: Any = (self.stacks.sampler.position(lane), self.stacks.positions[lane].copy())
                self._positions[lane] = kept
        if config.rewind_noise > 0:
            self._noise = [
                (episode, copy.deepcopy(episode.noise_generator))
                for episode in self.stacks.episodes_of(lanes)
            ]

    def restore(self) -> None:
        """Make everything what it was."""
        for owner, name, value in self._arrays:
            setattr(owner, name, value)
        for stack, slots, rows in self._snapshots:
            put_rows(stack.ring.rows, (slots,), rows)
        for ring, head in self._heads:
            ring.head = head
        if len(self.healthy):
            self.stacks.restore_newest(self.healthy)
        for stack, slots, rows in self._diverged:
            put_rows(stack.state, (slots,), rows)
        for episode, attempt in self._attempts:
            episode.attempt = attempt
        for lane, generator in self._guard_generators.items():
            self._guards.set_generator(lane, generator)
        self.stacks.sampler.put_back(self._taken)
        for lane, (position, positions) in self._positions.items():
            self.stacks.sampler.go_to(lane, position)
            self.stacks.positions[lane] = positions
        for episode, generator in self._noise:
            episode.noise_generator = generator
