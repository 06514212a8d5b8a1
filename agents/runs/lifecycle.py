"""What all ways to train have in common: the clock, Ctrl-C, logs that can be cut, the evaluation curve."""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
from torch.utils.tensorboard import SummaryWriter

from agents.runs.folder import RunConfig, RunFolder
from agents.runs.plain import read_state
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env import AutoTrainConfig, AutoTrainVectorEnv
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.trained import TrainedPolicy


class Interrupted(Exception):
    """The user asked to stop; everything has been saved."""


class Stopwatch:
    """Minutes of training, over all its parts.

    Args:
        minutes: Minutes that earlier parts took.
    """

    def __init__(self, minutes: float = 0.0) -> None:
        self.begin = time.monotonic() - 60 * minutes

    @property
    def minutes(self) -> float:
        """Returns the minutes until now."""
        return (time.monotonic() - self.begin) / 60


def note_evaluation(
    folder: RunFolder,
    env: gymnasium.vector.VectorEnv[Any, Any, Any],
    policy: TrainedPolicy,
    episodes: int,
    train_steps: int,
) -> dict[str, float]:
    """Play the development episodes and add a point to a run's evaluation curve.

    Args:
        folder: Folder of the run.
        env: Environment from `make_evaluation_env`.
        policy: Policy as it is now.
        episodes: Number of episodes.
        train_steps: Env steps that it was trained for.

    Returns:
        The point: means over the episodes.
    """
    results = evaluate_policy(env, policy, episodes, DEVELOPMENT_SEED)
    point = {name: float(values.mean()) for name, values in results.items() if "test" not in name}
    point = {"train_steps": float(train_steps), **point}
    with folder.evaluations.open("a") as file:
        file.write(json.dumps(point) + "\n")
    return point


def log_sizes(logs: Iterable[Path]) -> dict[str, int]:
    """Returns bytes in each log that exists, by its name, which are on the disk when it returns."""
    sizes = {}
    for path in logs:
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                sizes[path.name] = os.fstat(file.fileno()).st_size
    return sizes


def truncate_logs(logs: Iterable[Path], sizes: dict[str, int]) -> None:
    """Forget rows that were written after the checkpoint: they will be written again.

    Raises:
        InvalidValueError: If a log is missing, or shorter than the checkpoint says, or does not end with a
            row there; no log is changed then.
    """
    paths = list(logs)
    for path in paths:
        _check_log(path, sizes.get(path.name, 0))
    for path in paths:
        if path.exists():
            os.truncate(path, sizes.get(path.name, 0))


def state_to_resume(config: RunConfig, folder: RunFolder, logs: Iterable[Path]) -> dict[str, Any] | None:
    """Returns what a run's newest checkpoint holds, and forgets what logs have from after it.

    To be called before the run opens its logs.

    Args:
        config: Configuration of the run.
        folder: Its folder.
        logs: Files that it adds rows to.

    Returns:
        The state; `None` where there is no checkpoint yet.

    Raises:
        InvalidValueError: If the checkpoint or a log is damaged.
    """
    checkpoint = folder.newest_checkpoint()
    state = None if checkpoint is None else read_state(checkpoint, config)
    truncate_logs(logs, state["sizes"] if state else {})
    return state


def _check_log(path: Path, size: int) -> None:
    """Raise an `InvalidValueError` unless a log holds so many bytes, the last of which ends a row."""
    found = path.stat().st_size if path.exists() else 0
    if found < size:
        state = f"is shorter ({found:,} bytes)" if path.exists() else "is missing, but is longer"
        raise InvalidValueError(
            f"{path} {state} than the newest checkpoint says ({size:,} bytes): put it back, or train anew "
            f"with --overwrite"
        )
    if size:
        with path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                raise InvalidValueError(
                    f"{path} is damaged: no row ends at byte {size:,}, where the newest checkpoint says so"
                )


def log_scalars(writer: SummaryWriter, prefix: str, values: Mapping[str, Any], steps: int) -> None:
    """Write those of some values that are finite to TensorBoard, as `prefix/name`."""
    for name, value in values.items():
        if math.isfinite(value):
            writer.add_scalar(f"{prefix}/{name}", float(value), steps)


class Interruption:
    """Within it, Ctrl-C asks training to end at the next good moment; a second one ends it at once.

    In other threads than the main one, which alone receives it, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def _ask(self, signum: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> "Interruption":
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def config_of(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoTrainConfig:
    """Returns the configuration of a vector environment, whatever is wrapped around it."""
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    return vector_env.config
