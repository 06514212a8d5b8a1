"""Run folders: what a training run writes, so that it can be repeated, resumed and reported.

| file | what |
|---|---|
| `run.json` | the whole configuration, seeds and versions |
| `checkpoints/STEPS/` | model, environment and random streams, to go on from; the newest ones are kept |
| `decisions.jsonl` | the MDP log; of `es` that of the evaluations alone |
| `evaluations.jsonl` | the evaluation curve |
| `generations.jsonl` | of `es` alone: fitness, deviation and movement, a row for each generation |
| `tensorboard/` | scalars |
| `policy.json`, `policy.safetensors` | the trained policy, safe to pass on |
| `result.json` | written last: a run that has it is finished |
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from autotrain_env import ENVIRONMENTS, AutoTrainConfig
from autotrain_env.errors import InvalidValueError, check, check_whole, unknown_name
from autotrain_env.files import is_leftover, replace_file
from autotrain_env.policies.trained import WEIGHTS_NAME

RUNS = Path("runs/agents")
"""Where runs are written, and looked for, unless another folder is named."""
RUN_FORMAT = 1
PACKAGES = ("autotrain-env", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib", "torch")
KEPT_CHECKPOINTS = 2
_UNFINISHED = ".unfinished-"  # before the number of the process that writes a checkpoint


@dataclass(frozen=True)
class Configuration:
    """Everything that decides what a run computes, of any kind of run."""

    def differences(self, other: "Configuration") -> list[str]:
        """Returns what differs from another one of the same kind, in words, an entry for each."""
        mine, others = as_plain(asdict(self)), as_plain(asdict(other))
        return [
            f"{name}: {mine[name]!r} and {others[name]!r}" for name in mine if mine[name] != others[name]
        ]


@dataclass(frozen=True)
class RunConfig(Configuration):
    """Everything that decides what the training of an agent computes.

    Args:
        algorithm: Name of the algorithm in the table.
        env_id: The environment's id.
        env: Keyword arguments of the environment.
        num_envs: Lanes.
        seed: Training seed.
        train_steps: Env steps to train for, over all lanes.
        checkpoint_steps: Env steps between two checkpoints, each with an evaluation.
        evaluation_episodes: Episodes of each evaluation.
        hyperparameters: Hyperparameters of the algorithm.
        success_score: Final score from which an episode counts as a success, for a curriculum; `None` for
            tasks of one level.
        start_from: Folder of the policy that training begins with; `None` for a fresh one.
        versions: Versions of the libraries.
    """

    algorithm: str
    env_id: str
    env: dict[str, Any]
    num_envs: int
    seed: int
    train_steps: int
    checkpoint_steps: int
    evaluation_episodes: int
    hyperparameters: dict[str, Any]
    success_score: float | None = None
    start_from: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: {name: version(name) for name in PACKAGES})


class RunFolder:
    """A run's folder.

    Args:
        path: Path of the folder.
    """

    format: ClassVar[int | str] = RUN_FORMAT
    """What `run.json` says of its own form; another kind of run has another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.decisions = path / "decisions.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.generations = path / "generations.jsonl"
        self.tensorboard = path / "tensorboard"

    @property
    def exists(self) -> bool:
        """Returns whether a run has begun here."""
        return (self.path / "run.json").exists()

    @property
    def finished(self) -> bool:
        """Returns whether the run is over."""
        return (self.path / "result.json").exists()

    def open(self, config: Configuration, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or find in it a run that can be gone on with.

        Args:
            config: What is to be computed.
            resume: Whether to go on with a run that is there.
            overwrite: Whether to replace one.

        Raises:
            FileExistsError: If something is there that is not to be overwritten, or is finished.
            InvalidValueError: If the run there was begun with another configuration.
        """
        if not (resume and self.exists):
            self.begin(config, overwrite)
            return
        self.remove_leftovers()
        differences = config.differences(self.config())
        if differences:
            raise InvalidValueError(
                f"{self.path} was begun otherwise (now, and then): {'; '.join(differences)}"
            )
        if self.finished:
            raise FileExistsError(f"{self.path} holds a finished run: nothing is left to resume")

    def begin(self, config: Configuration, overwrite: bool) -> None:
        """Make the folder.

        Raises:
            FileExistsError: If there is something that is not to be overwritten.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is no folder")
        if self.path.exists() and any(not is_leftover(path) for path in self.path.iterdir()):
            if not overwrite:
                state = (
                    "a finished run"
                    if self.finished
                    else "an unfinished run"
                    if self.exists
                    else "other files"
                )
                raise FileExistsError(
                    f"{self.path} holds {state}: use --resume, --overwrite or another --output"
                )
            if not self.exists:
                raise FileExistsError(f"{self.path} holds something that is no run; it is left as it is")
            self._remove()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write("run.json", {"format": self.format, **asdict(config)})

    def _remove(self) -> None:
        """Remove the run so that, if it is cut short, the rest is an unfinished run for `overwrite`."""
        (self.path / "result.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        for path in self.path.iterdir():
            if path.name != "run.json":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.path / "run.json").unlink()

    def config(self) -> RunConfig:
        """Returns the configuration.

        Raises:
            FileNotFoundError: If there is no run.
            InvalidValueError: If the file is damaged or of another format, or asks for an environment that
                is none of this project's.
        """
        content, path = self._read_config(), self.path / "run.json"
        try:
            config = RunConfig(**content)
            for name in ("num_envs", "train_steps", "checkpoint_steps", "evaluation_episodes"):
                check_whole(name, getattr(config, name), 1)
            check_whole("seed", config.seed, 0)
            for name in ("algorithm", "start_from") if config.start_from is not None else ("algorithm",):
                check(isinstance(getattr(config, name), str), name, getattr(config, name), "a text")
            for name in ("hyperparameters", "versions"):
                check(isinstance(getattr(config, name), dict), name, getattr(config, name), "an object")
            check_environment(config.env_id, config.env)
        except (TypeError, ValueError) as error:
            raise InvalidValueError(f"{path} is damaged: {error}") from error
        return config

    def _read_config(self) -> dict[str, Any]:
        """Returns what `run.json` holds beside its format, which is checked."""
        content = self._read("run.json")
        written = content.pop("format", None)
        check(written == self.format, f"{self.path / 'run.json'}: format", written, repr(self.format))
        return content

    def result(self) -> dict[str, Any]:
        """Returns the result.

        Raises:
            FileNotFoundError: If the run is not finished.
            InvalidValueError: If the file is damaged.
        """
        self.check_finished()
        result = self._read("result.json")
        evaluation = result.get("evaluation")
        numbers = [result.get(name) for name in ("steps", "updates", "minutes")]
        numbers.append(evaluation.get("score") if isinstance(evaluation, dict) else None)
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise InvalidValueError(
                f"{self.path / 'result.json'} is damaged: it must hold numbers named steps, updates, "
                f"minutes and evaluation: score"
            )
        return result

    def check_finished(self) -> None:
        """Raise a `FileNotFoundError` if there is a run that is not finished."""
        if self.exists and not self.finished:
            raise FileNotFoundError(f"{self.path} holds an unfinished run: result.json is missing")

    def cost(self) -> tuple[int, float]:
        """Returns the optimiser updates and minutes that training took.

        Those of the run whose policy it began with are counted, too, where that folder is still there.

        Raises:
            FileNotFoundError: If the run is not finished.
            InvalidValueError: If a file is damaged.
        """
        result, start = self.result(), self.config().start_from
        updates, minutes = int(result["updates"]), float(result["minutes"])
        before = None if start is None else RunFolder(Path(start))
        if before is not None and before.finished:
            earlier_updates, earlier_minutes = before.cost()
            return updates + earlier_updates, minutes + earlier_minutes
        return updates, minutes

    def policy_hash(self) -> str:
        """Returns the SHA-256 of the trained policy's weights, as hexadecimal digits."""
        return hashlib.sha256((self.path / WEIGHTS_NAME).read_bytes()).hexdigest()

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; the last thing that a run does."""
        self._write("result.json", result)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        replace_file(self.path / name, (json.dumps(as_plain(content), indent=1) + "\n").encode())

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: {name} is missing")
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise InvalidValueError(f"{path} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise InvalidValueError(f"{path} is damaged: it holds no object")
        return content

    # --- checkpoints ---

    def save_checkpoint(self, steps: int, write: Callable[[Path], None]) -> None:
        """Write a checkpoint, which appears whole or not at all, and forget the oldest.

        One of as many steps that is there already is kept: nothing has been trained since.

        Args:
            steps: Env steps trained so far.
            write: Function that writes it into the folder that it is given.
        """
        folder = self.path / "checkpoints"
        place = folder / f"{steps:010d}"
        if place.exists():
            return
        beside = folder / f"{_UNFINISHED}{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            write(beside)
            for file in beside.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            beside.rename(place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        for old in self.checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def remove_leftovers(self) -> None:
        """Remove what killed processes left of checkpoints; no other process may write this run."""
        for path in (self.path / "checkpoints").glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path)

    def checkpoints(self) -> list[Path]:
        """Returns folders of checkpoints, the oldest first."""
        return sorted(path for path in (self.path / "checkpoints").glob("[0-9]*") if path.is_dir())


def check_environment(env_id: Any, kwargs: Any) -> None:
    """Check an environment that a file describes, before it is made.

    The file may come from elsewhere, an id with a colon makes gymnasium import whatever module stands
    before it, and a log's path would be written to.

    Args:
        env_id: Id of the environment.
        kwargs: Keyword arguments of the environment.

    Raises:
        InvalidValueError: If the id is none of this project's, or an argument none that a run may have.
    """
    if env_id not in tuple(ENVIRONMENTS):
        raise unknown_name("id", env_id, ENVIRONMENTS)
    check(isinstance(kwargs, dict), "environment's arguments", kwargs, "an object")
    known = [entry.name for entry in fields(AutoTrainConfig) if entry.name != "log_path"]
    for name in kwargs:
        if name not in known:
            raise unknown_name("environment's argument", name, known)


def as_plain(value: Any) -> Any:
    """Returns what JSON makes of a value; other things than numbers, texts, lists and mappings as text."""
    return json.loads(json.dumps(value, default=str))


def find_runs(folder: Path) -> list[RunFolder]:
    """Returns all runs below a folder, by path."""
    return [RunFolder(path.parent) for path in sorted(folder.rglob("run.json"))]
