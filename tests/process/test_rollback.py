"""After an env step that failed everything is as it was, and the next one is that of an undisturbed run."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
from torch import Tensor, nn

from autotrain_env import AutoTrainVectorEnv
from autotrain_env.process.stacks import Stacks
from autotrain_env.training.stack import LaneStack
from tests.helpers import Actions, assert_same, tiny, weights

WILD = {"lr_factors": (1e-9, 0.5, 1.0, 2.0, 1e30), "lr_bounds": (1e-30, 1e30)}
CASES: dict[str, dict[str, Any]] = {
    "momentum": {},
    "adam": {"optimizer": "adam"},
    "divergence": WILD,
    "states before divergences kept": WILD | {"keep_before_divergence": True},
    "same minibatches": {"rewind_minibatches": "same"},
    "noise after rewinds": {"rewind_noise": 0.1},
    "no snapshots": {"num_snapshots": 1},
    "zeros": {"initial_states": "zeros"},
    "budget of the holdout": {"thresholdout_budget": 2, "thresholdout_threshold": 0.001},
    "looped": {"backend": "looped"},
    "stacked": {"backend": "stacked"},
    "small batches": {"train_size": 9, "batch_size": 7},
}


@contextmanager
def failing(owner: type, name: str, after: bool, error: type[BaseException]) -> Iterator[None]:
    """Let a method fail, before or after it has done its work."""
    method = getattr(owner, name)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if after:
            method(*args, **kwargs)
        raise error("on purpose")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        yield


def compare(env: AutoTrainVectorEnv, twin: AutoTrainVectorEnv) -> None:
    assert_same(env.core.observation(), twin.core.observation())
    assert_same(env.action_masks(), twin.action_masks())
    for lane in range(env.num_envs):
        assert_same(weights(env, lane), weights(twin, lane))
        assert env.history(lane) == twin.history(lane)
    for name in ("lanes", "lineage"):
        mine, other = vars(getattr(env.core, name)), vars(getattr(twin.core, name))
        for key, value in mine.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, other[key], err_msg=key)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("owner", "method", "after", "error"),
    [
        (Stacks, "_draw_batches", True, MemoryError),
        (LaneStack, "train", True, RuntimeError),
        (Stacks, "train", True, KeyboardInterrupt),
        (Stacks, "evaluate", False, RuntimeError),
        (Stacks, "evaluate", True, KeyboardInterrupt),
        (Stacks, "snapshot", True, RuntimeError),  # of networks drawn anew
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_step_that_fails_changes_nothing(
    name: str, owner: type, method: str, after: bool, error: type[BaseException]
):
    kwargs = tiny(autoreset_mode="Disabled", initial_learning_rate=0.1, budget=80) | CASES[name]
    env, twin = (gymnasium.make_vec("AutoTrain-v0", num_envs=6, **kwargs).unwrapped for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    draws = [Actions(env, lane, stop=lane == 5) for lane in range(6)]
    failed = 0
    for _ in range(12):
        actions = np.stack([draw() for draw in draws])
        in_commit = method == "snapshot" and not (actions == env.single_action_space.n - 2).any()
        if not in_commit:
            with failing(owner, method, after, error):
                try:
                    done = env.step(actions)  # where all lanes have diverged nothing is trained
                except error as caught:
                    assert str(caught) == "on purpose"
                    done, failed = None, failed + 1
                    compare(env, twin)
            assert_same(done or env.step(actions), twin.step(actions))
        else:
            assert_same(env.step(actions), twin.step(actions))
        compare(env, twin)
    assert failed > 0


class Moody(nn.Module):
    """A user's network that fails now and then."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        if Moody.fails and self.training:
            raise RuntimeError("out of memory, say")
        return self.norm(self.layer(x))


def test_a_network_that_fails_in_mid_step_can_be_trained_on():
    env = gymnasium.make("AutoTrain-v0", **tiny(classifier=Moody))
    env.reset(seed=0)
    env.step(2)
    twin = copy.deepcopy(env)
    Moody.fails = True
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            env.step(7)
    finally:
        Moody.fails = False
    assert env.unwrapped.history() == twin.unwrapped.history()
    assert env.unwrapped.core.lineage.updates.tolist() == [4]
    for action in (7, 2, 15, 2):
        assert_same(env.step(action), twin.step(action))


def test_a_failed_step_leaves_no_row_in_the_log(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "log.jsonl"
    env = gymnasium.make("AutoTrain-v0", **tiny(log_path=path))
    env.reset(seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(Stacks, "train", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            env.step(2)
    env.step(2)
    assert len(path.read_text().splitlines()) == 1
