"""What all ways to train have in common: the clock, Ctrl-C, logs that can be cut, the evaluation curve."""

import json
import math
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
from torch.utils.tensorboard import SummaryWriter

from agents.runs.folder import RunFolder
from agents.runs.seeds import DEVELOPMENT_SEED
from autotrain_env import AutoTrainConfig, AutoTrainVectorEnv
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.trained import TrainedPolicy

STATE_NAME = "state.pkl"
STATE_FORMAT = 2
"""Changes with what checkpoints hold, and where the classes live that they are made of."""


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


def write_state(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write what a checkpoint holds in `state.pkl`, its format before it.

    Args:
        checkpoint: Folder of the checkpoint.
        state: Anything that can be pickled, by name.
    """
    with (checkpoint / STATE_NAME).open("wb") as file:
        pickle.dump(STATE_FORMAT, file)
        cloudpickle.dump(state, file)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds in `state.pkl`.

    Raises:
        InvalidValueError: If it is damaged, or was written by a version that writes another format.
    """
    path = checkpoint / STATE_NAME
    other = InvalidValueError(
        f"{path} was made by another version of this project: go on with that version, or train anew with "
        f"--overwrite"
    )
    try:
        with path.open("rb") as file:
            if pickle.load(file) != STATE_FORMAT:
                raise other
            return pickle.load(file)
    except InvalidValueError:
        raise
    except (ModuleNotFoundError, AttributeError) as error:  # it names what is no longer there
        raise other from error
    except Exception as error:  # what a damaged pickle raises may be anything
        raise InvalidValueError(f"{path} is damaged: {error!r}") from error


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
    """Returns bytes in each log that exists, by its name."""
    return {path.name: path.stat().st_size for path in logs if path.exists()}


def truncate_logs(logs: Iterable[Path], sizes: dict[str, int]) -> None:
    """Forget rows that were written after the checkpoint: they will be written again."""
    for path in logs:
        if path.exists():
            os.truncate(path, sizes.get(path.name, 0))


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
