"""The ring of states: its semantics against a list, and rewinds in the environment bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autotrain_env import AutoTrainEnv, AutoTrainVectorEnv, Task
from autotrain_env.training.snapshots import SnapshotRing
from autotrain_env.training.stack import LaneStack

CPU = torch.device("cpu")
WIDTH = 3


# --- against a list ---


class Lists:
    """What a ring stands for: a list of rows per lane, the newest first."""

    def __init__(self, capacity: int, num_snapshots: int) -> None:
        self.rows: list[list[float]] = [[] for _ in range(capacity)]
        self.num_snapshots = num_snapshots

    def push(self, lane: int, value: float) -> None:
        self.rows[lane] = [value, *self.rows[lane]][: self.num_snapshots]

    def rewind(self, lane: int, distance: int) -> float:
        del self.rows[lane][:distance]
        return self.rows[lane][0]


operations = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "rewind", "rewind", "clear", "grow"]),
        st.lists(st.integers(0, 3), unique=True, max_size=4),  # lanes, in any order
        st.lists(st.integers(0, 4), min_size=4, max_size=4),  # distances, clamped to what is there
    ),
    max_size=40,
)


@given(num_snapshots=st.integers(1, 5), operations=operations)
def test_a_ring_is_a_list_of_rows(
    num_snapshots: int, operations: list[tuple[str, list[int], list[int]]]
) -> None:
    ring = SnapshotRing(4, num_snapshots, WIDTH, torch.float64, CPU)
    lists = Lists(4, num_snapshots)
    pushed = 0
    for name, chosen, distances in operations:
        lanes = np.array(chosen, dtype=np.int64)
        if name == "push":
            values = np.arange(pushed, pushed + len(lanes)) + 1.0
            pushed += len(lanes)
            ring.push(lanes, torch.from_numpy(values)[:, None].expand(-1, WIDTH))
            for lane, value in zip(chosen, values, strict=True):
                lists.push(lane, value)
        elif name == "rewind":
            lanes = np.array([lane for lane in chosen if lists.rows[lane]], dtype=np.int64)
            far = [min(d, len(lists.rows[lane]) - 1) for lane, d in zip(lanes, distances, strict=False)]
            rows = ring.rewind(lanes, np.array(far, dtype=np.int64))
            expected = [lists.rewind(lane, d) for lane, d in zip(lanes.tolist(), far, strict=True)]
            assert rows.shape == (len(lanes), WIDTH)
            assert rows.tolist() == [[value] * WIDTH for value in expected]
        elif name == "clear":
            ring.clear(lanes)
            for lane in chosen:
                lists.rows[lane] = []
        else:
            ring.grow(len(ring.head) + 2)
        assert ring.count[:4].tolist() == [len(rows) for rows in lists.rows]
    # Every row that is left can be reached.
    for lane, rows in enumerate(lists.rows):
        for value in list(rows):
            assert ring.rewind(np.array([lane]), np.array([0])).tolist() == [[value] * WIDTH]
            if len(lists.rows[lane]) > 1:
                lists.rewind(lane, 1)
                ring.rewind(np.array([lane]), np.array([1]))


def test_what_a_rewind_returns_is_a_copy():
    ring = SnapshotRing(1, 2, WIDTH, torch.float32, CPU)
    row = torch.ones(1, WIDTH)
    ring.push(np.array([0]), row)
    row.zero_()  # and what was pushed was copied, too
    restored = ring.rewind(np.array([0]), np.array([0]))
    assert restored.tolist() == [[1.0] * WIDTH]
    restored.zero_()
    assert ring.rewind(np.array([0]), np.array([0])).tolist() == [[1.0] * WIDTH]


@pytest.mark.parametrize("distance", [-1, 2, 3, 100])
def test_a_rewind_beyond_the_rows_is_refused_and_changes_nothing(distance: int):
    ring = SnapshotRing(2, 3, WIDTH, torch.float32, CPU)
    for value in (1.0, 2.0):
        ring.push(np.array([0, 1]), torch.full((2, WIDTH), value))
    with pytest.raises(ValueError, match=r"distance=.*must be in \[0, rows kept="):
        ring.rewind(np.array([0, 1]), np.array([1, distance]))
    assert ring.count.tolist() == [2, 2]
    assert ring.rewind(np.array([0, 1]), np.array([0, 0]))[:, 0].tolist() == [2.0, 2.0]
    ring.clear(np.array([1]))
    with pytest.raises(ValueError, match="distance="):
        ring.rewind(np.array([1]), np.array([0]))


# --- in the environment ---


def batch_norm_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))


class Recorder:
    """The rows of all slots as every env step finds them, after the rewind, and leaves them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.before: dict[int, Tensor] = {}
        self.after: dict[int, Tensor] = {}
        train = LaneStack.train

        def recorded(stack: LaneStack, pool: Tensor, slots: np.ndarray, *more: Any) -> Any:
            self.before = {slot: stack.state[slot].clone() for slot in slots.tolist()}
            result = train(stack, pool, slots, *more)
            self.after = {slot: stack.state[slot].clone() for slot in slots.tolist()}
            return result

        monkeypatch.setattr(LaneStack, "train", recorded)


SETTINGS: dict[str, Any] = {"inner_steps": 2, "history_length": 1, "num_snapshots": 4, "stop": False}
TASK: dict[str, Any] = {
    "train_size": 40,
    "holdout_size": 20,
    "validation_size": 20,
    "batch_size": 8,
    "initial_learning_rate": 0.05,
    "budget": 2 * 60,
}


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adam"])
@pytest.mark.parametrize("classifier", ["mlp-5", batch_norm_network], ids=["mlp", "batch norm"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_rewind_restores_every_bit(
    classifier: Any, optimizer: str, dtype: str, monkeypatch: pytest.MonkeyPatch
):
    """Random actions: every step begins with the bits that its row ended with, then goes on."""
    recorder = Recorder(monkeypatch)
    env = AutoTrainEnv(dtype=dtype, **SETTINGS)
    task = Task(classifier=classifier, optimizer=optimizer, **TASK)
    env.reset(seed=1, options={"task": task})
    stack = next(iter(env.core.stacks.stacks.values()))
    # At reset every row was in the current state once; only row 0 still is.
    rows: list[Tensor | None] = [stack.state[0].clone(), None, None, None]
    generator, distances, checked = np.random.default_rng(0), set(), set()
    for _ in range(40):
        rewind = int(generator.integers(4)) if generator.random() < 0.3 else 0
        info = env.step(rewind * 5 + int(generator.integers(3)))[4]
        assert not info["diverged"]
        distance = info["rewind"]
        distances.add(distance)
        rows = rows[distance:]
        if rows[0] is not None:
            assert bits(recorder.before[0]) == bits(rows[0])
            checked.add(distance)
        assert bits(recorder.after[0]) != bits(recorder.before[0])
        assert bits(recorder.after[0]) == bits(stack.state[0])
        rows = [recorder.after[0], recorder.before[0], *rows[1:]][:4]
    assert distances == checked == {0, 1, 2, 3}


@settings(max_examples=25)
@given(actions=st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=1, max_size=20))
def test_every_lane_rewinds_within_its_own_lineage(actions: list[list[int]]):
    """Any actions in three lanes: the bits a step begins with are those of the row it went back to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        recorder = Recorder(monkeypatch)
        env = AutoTrainVectorEnv(num_envs=3, autoreset_mode="Disabled", **SETTINGS)
        env.reset(seed=3, options={"task": Task(classifier="mlp-5", optimizer="adam", **TASK)})
        stack = next(iter(env.core.stacks.stacks.values()))
        slots = env.core.stacks.slot
        rows: list[list[Tensor | None]] = [[stack.state[slot].clone()] + [None] * 3 for slot in slots]
        for step in actions:
            info = env.step(np.array(step))[4]
            for lane, slot in enumerate(slots.tolist()):
                if step[lane] == 20:  # re-init
                    begin = recorder.before[slot]
                    assert not begin[stack.num_parameters :].any()
                    rows[lane] = [begin, None, None, None]
                    assert info["rewind"][lane] == 0
                distance = int(info["rewind"][lane])
                assert (
                    distance <= (step[lane] // 5 if step[lane] < 20 else 0)
                    or info["rewind_impossible"][lane]
                )
                rows[lane] = rows[lane][distance:]
                if rows[lane][0] is not None:
                    assert bits(recorder.before[slot]) == bits(rows[lane][0])
                rows[lane] = [recorder.after[slot], recorder.before[slot], *rows[lane][1:]][:4]


def test_untrained_rows_come_back_with_fresh_optimizer_state(monkeypatch: pytest.MonkeyPatch):
    """Rows 1 … H-1 at reset are other networks: no moments, no counter, running statistics of a start."""
    recorder = Recorder(monkeypatch)
    env = AutoTrainEnv(**SETTINGS)
    task = Task(classifier=batch_norm_network, optimizer="adam", **TASK)
    starts = []
    for distance in range(4):
        env.reset(seed=1, options={"task": task})
        stack = next(iter(env.core.stacks.stacks.values()))
        env.step(distance * 5 + 2)
        start = recorder.before[0]
        state = start[stack.num_parameters : stack.buffers_start]
        assert not state.any()
        buffers = torch.tensor([0.0] * 6 + [1.0] * 6 + [0.0])
        assert torch.equal(start[stack.buffers_start :], buffers)
        assert torch.equal(stack.state[0, stack.buffers_start - 1], torch.tensor(2.0))
        starts.append(bits(start))
    assert len(set(starts)) == 4


def test_the_same_row_gives_another_run_with_fresh_minibatches(monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder(monkeypatch)
    env = AutoTrainEnv(**SETTINGS)
    env.reset(seed=1, options={"task": Task(classifier="mlp-5", **TASK)})
    env.step(2)
    first_before, first_after = recorder.before[0], recorder.after[0]
    env.step(7)  # one step back, same rate: the same start …
    assert bits(recorder.before[0]) == bits(first_before)
    assert bits(recorder.after[0]) != bits(first_after)  # … but other minibatches
