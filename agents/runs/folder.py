"""Run folders: what a training run writes, so that it can be repeated, resumed and reported.

| file | what |
|---|---|
| `run.json` | the whole configuration, seeds and versions |
| `checkpoints/STEPS/` | model, environment and random streams, to go on from; the newest ones are kept |
| `checkpoints.json` | which checkpoints there are, with digests: no other ones count |
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
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from autotrain_env import ENVIRONMENTS, AutoTrainConfig
from autotrain_env.control.plan import trained_decisions
from autotrain_env.errors import InvalidValueError, check, unknown_name
from autotrain_env.files import is_leftover, replace_file
from autotrain_env.policies.trained import LARGEST_WEIGHTS, WEIGHTS_NAME
from autotrain_env.schemas import (
    MIB,
    Kind,
    anything,
    conform,
    file_part,
    mapping,
    number,
    optional,
    parse_json,
    plain_name,
    read_json,
    read_limited,
    structure,
    text,
    whole,
)
from autotrain_env.training.native.library import Library, best_library

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

RUNS = Path("runs/agents")
"""Where runs are written, and looked for, unless another folder is named."""
RUN_FORMAT = 1
LIST_NAME, MANIFEST_NAME, LOCK_NAME = "checkpoints.json", "files.json", ".lock"
PACKAGES = ("autotrain-env", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib", "torch")
KEPT_CHECKPOINTS = 2
OF_MACHINES = ("log_path", "data_root", "download")
"""Arguments of the environment that are said anew on every machine."""
_UNFINISHED = ".unfinished-"  # before the number of the process that writes a checkpoint


def versions() -> dict[str, str]:
    """Returns the versions of the libraries, and the instruction set of the compiled engine."""
    engine = best_library()
    found = {name: version(name) for name in PACKAGES}
    return found | {"engine": engine.instructions if isinstance(engine, Library) else "none"}


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
        versions: Versions of the libraries, and which compiled engine was there.
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
    versions: dict[str, str] = field(default_factory=versions)


_CONFIG: Kind = structure(
    {
        "algorithm": plain_name,
        "env_id": anything,  # `check_environment` says more
        "env": anything,
        "num_envs": whole(1, 10**6),
        "seed": whole(0),
        "train_steps": whole(1, 10**12),
        "checkpoint_steps": whole(1, 10**12),
        "evaluation_episodes": whole(1, 10**6),
        "hyperparameters": mapping(anything),
    },
    {
        "success_score": optional(number()),
        "start_from": optional(text(4096)),
        "versions": mapping(text(200)),
    },
)
_RESULT: Kind = structure(
    {
        "steps": whole(0),
        "updates": whole(0),
        "minutes": number(0),
        "evaluation": structure({"score": number()}, others=number(missing=True)),
    },
    others=anything,
)
_OWNER: Kind = structure({"process": whole(0), "host": text(300)})
_DIGEST = text(64)


def _step_name(field: str, value: Any) -> str:
    """Takes the name of a checkpoint's folder; as a `Kind`."""
    check(
        isinstance(value, str) and re.fullmatch(r"\d{10,15}", value) is not None, field, value, "10 digits"
    )
    return value


def _size_and_digest(field: str, value: Any) -> tuple[int, str]:
    """Takes the size of a file and its digest; as a `Kind`."""
    check(isinstance(value, list) and len(value) == 2, field, value, "a size and a digest")
    return whole(0)(f"{field}[0]", value[0]), _DIGEST(f"{field}[1]", value[1])


_LIST: Kind = structure({"checkpoints": mapping(_DIGEST, _step_name, 100)})
_MANIFEST: Kind = structure({"files": mapping(_size_and_digest, file_part, 100)})
_of_any_format: Kind = structure({"format": anything}, others=anything)
LARGEST_JSON = 16 * MIB


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

    def open(self, config: Configuration, *, resume: bool, overwrite: bool, of_others: bool) -> None:
        """Make the folder, or find in it a run that can be gone on with.

        Args:
            config: What is to be computed.
            resume: Whether to go on with a run that is there.
            overwrite: Whether to replace one.
            of_others: Whether to go on with a run that another account has written, too.

        Raises:
            FileExistsError: If something is there that is not to be overwritten, or is finished.
            InvalidValueError: If the run there was begun with another configuration, or by another account.
        """
        if not (resume and self.exists):
            self.begin(config, overwrite)
            return
        foreign = self.foreign_files()
        if foreign and not of_others:
            raise InvalidValueError(
                f"{foreign[0]} was written by another account ({_account(foreign[0])}): --of-others goes "
                f"on with it nevertheless"
            )
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
        if self.path.exists() and any(not is_passing(path) for path in self.path.iterdir()):
            if not overwrite:
                state = (
                    "a finished run"
                    if self.finished
                    else "an unfinished run"
                    if self.exists
                    else "other files"
                )
                ways = "--overwrite" if self.finished else "--resume, --overwrite"
                raise FileExistsError(f"{self.path} holds {state}: use {ways} or another --output")
            if not self.exists:
                raise FileExistsError(f"{self.path} holds something that is no run; it is left as it is")
            self._remove()
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(LIST_NAME, {"checkpoints": {}})
        self._write("run.json", {"format": self.format, **asdict(config)})

    def _remove(self) -> None:
        """Remove the run so that, if it is cut short, the rest is an unfinished run for `overwrite`."""
        (self.path / "result.json").unlink(missing_ok=True)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        for path in self.path.iterdir():
            if path.name not in ("run.json", LOCK_NAME):
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
        config = RunConfig(**conform(content, _CONFIG, str(path)))
        try:
            check_environment(config.env_id, config.env)
        except InvalidValueError as error:
            raise InvalidValueError(f"{path} is damaged: {error}") from error
        return config

    def _read_config(self) -> dict[str, Any]:
        """Returns what `run.json` holds beside its format, which is checked."""
        content = self._read("run.json", _of_any_format)
        written = content.pop("format")
        check(written == self.format, f"{self.path / 'run.json'}: format", written, repr(self.format))
        return content

    def result(self) -> dict[str, Any]:
        """Returns the result.

        Raises:
            FileNotFoundError: If the run is not finished.
            InvalidValueError: If the file is damaged.
        """
        self.check_finished()
        return self._read("result.json", _RESULT)

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
        updates, minutes, seen = 0, 0.0, set()
        run: RunFolder | None = self
        while run is not None and run.path.resolve() not in seen:  # a run of a stranger may name itself
            seen.add(run.path.resolve())
            result, start = run.result(), run.config().start_from
            updates, minutes = updates + int(result["updates"]), minutes + float(result["minutes"])
            run = None if start is None else RunFolder(Path(start))
            if run is not None and not run.finished:
                run = None
        return updates, minutes

    def policy_hash(self) -> str:
        """Returns the SHA-256 of the trained policy's weights, as hexadecimal digits."""
        return hashlib.sha256(read_limited(self.path / WEIGHTS_NAME, LARGEST_WEIGHTS)).hexdigest()

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result; the last thing that a run does."""
        self._write("result.json", result)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        replace_file(self.path / name, (json.dumps(as_plain(content), indent=1) + "\n").encode())

    def _read(self, name: str, kind: Kind) -> dict[str, Any]:
        path = self.path / name
        if not path.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: {name} is missing")
        return read_json(path, kind, LARGEST_JSON)

    # --- one process at a time ---

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Returns a context in which no other process trains in this folder, on systems that have `flock`.

        The lock ends with the process that holds it, however that ends.

        Raises:
            InvalidValueError: If another process does; the message names it.
        """
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._lock_file()
        try:
            owner = {"process": os.getpid(), "host": socket.gethostname()}
            file.truncate(0)
            file.write(json.dumps(owner).encode())
            file.flush()
            yield
        finally:
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            file.close()
            if is_new and self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    def _lock_file(self) -> BinaryIO:
        """Returns the file of the lock, locked.

        Raises:
            InvalidValueError: If another process has it.
        """
        place = self.path / LOCK_NAME
        while True:
            file = place.open("a+b")
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if place.exists() and os.fstat(file.fileno()).st_ino == place.stat().st_ino:
                    return file  # otherwise it is that of a process that has just ended
                file.close()
            except BlockingIOError as error:
                file.close()
                raise InvalidValueError(
                    f"{self.path} is being written by {self._owner()}: wait for its end, or end it first"
                ) from error

    def _owner(self) -> str:
        """Returns who holds the lock, in words."""
        try:
            owner = read_json(self.path / LOCK_NAME, _OWNER, 10_000)
        except (InvalidValueError, OSError):  # it has not said so yet
            return "another process"
        return f"process {owner['process']} on {owner['host']}"

    def foreign_files(self) -> list[Path]:
        """Returns what belongs to another account than this process's, of what a run is gone on with."""
        if not hasattr(os, "getuid"):
            return []
        paths = [self.path, self.path / "run.json", self.path / LIST_NAME, self.path / "checkpoints"]
        paths += sorted((self.path / "checkpoints").rglob("*"))
        return [path for path in paths if os.path.lexists(path) and path.lstat().st_uid != os.getuid()]

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
        listed = self._listed()
        if place.name in listed and place.exists():
            return
        beside = folder / f"{_UNFINISHED}{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            write(beside)
            manifest = _manifest(beside)
            (beside / MANIFEST_NAME).write_bytes(manifest)
            for file in beside.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            shutil.rmtree(place, ignore_errors=True)  # one that is not listed does not count
            beside.rename(place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        listed |= {place.name: hashlib.sha256(manifest).hexdigest()}
        kept = dict(sorted(listed.items())[-KEPT_CHECKPOINTS:])
        self._write(LIST_NAME, {"checkpoints": kept})
        for old in listed.keys() - kept.keys():
            shutil.rmtree(folder / old)

    def remove_leftovers(self) -> None:
        """Remove what killed processes left of checkpoints; no other process may write this run."""
        for path in (self.path / "checkpoints").glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path)

    def checkpoints(self) -> list[Path]:
        """Returns folders of checkpoints, the oldest first: of those that the run itself lists.

        Raises:
            InvalidValueError: If the list is damaged, or one on it is missing.
        """
        found = [self.path / "checkpoints" / name for name in sorted(self._listed())]
        for path in found:
            if not path.is_dir() or path.is_symlink():
                raise InvalidValueError(f"{path} is missing, which {self.path / LIST_NAME} lists")
        return found

    def _listed(self) -> dict[str, str]:
        """Returns the digests of all checkpoints that count, by the names of their folders."""
        path = self.path / LIST_NAME
        if path.exists():
            return read_json(path, _LIST, LARGEST_JSON)["checkpoints"]
        unlisted = sorted((self.path / "checkpoints").glob("[0-9]*"))
        if unlisted:
            raise InvalidValueError(
                f"{unlisted[-1]} was made by another version of this project, or by somebody else: {path} "
                f"is missing, which lists the checkpoints of a run. Train anew with --overwrite"
            )
        return {}

    def newest_checkpoint(self) -> Path | None:
        """Returns the folder of the newest checkpoint, every file of which is as it was written.

        Raises:
            InvalidValueError: If one is missing, has changed or was added; the message names it.
        """
        listed = self._listed()
        found = self.checkpoints()
        if not found:
            return None
        _check_files(found[-1], listed[found[-1].name])
        return found[-1]


def _account(path: Path) -> str:
    """Returns the name of the account that a file belongs to."""
    try:
        return path.owner()
    except (KeyError, NotImplementedError):
        return f"number {path.lstat().st_uid}"


def _manifest(folder: Path) -> bytes:
    """Returns sizes and digests of all files of a folder, as JSON."""
    files = {path.name: [path.stat().st_size, _digest(path)] for path in sorted(folder.iterdir())}
    return (json.dumps({"files": files}, indent=1) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def _check_files(folder: Path, digest: str) -> None:
    """Raise an `InvalidValueError` unless the files of a checkpoint are those that were written."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        raise InvalidValueError(f"{path} is missing")
    content = read_limited(path, LARGEST_JSON)
    if hashlib.sha256(content).hexdigest() != digest:
        raise InvalidValueError(f"{path} is damaged: it is not the one that was written")
    files = conform(parse_json(content, str(path)), _MANIFEST, str(path))["files"]
    for name, (size, wanted) in files.items():
        place = folder / name
        if place.is_symlink() or not place.is_file():
            raise InvalidValueError(f"{place} is damaged: it is missing")
        if place.stat().st_size != size or _digest(place) != wanted:
            raise InvalidValueError(f"{place} is damaged: it is not as it was written")
    others = sorted({path.name for path in folder.iterdir()} - {MANIFEST_NAME, *files})
    check(not others, f"files of {folder}", others, "those alone that the checkpoint lists")


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


def is_passing(path: Path) -> bool:
    """Returns whether a file is none of a run's: a leftover, or a lock."""
    return is_leftover(path) or path.name == LOCK_NAME


def portable(env: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of an environment without those that belong to a machine: paths, and downloading.

    What others have written must decide neither where this machine looks or writes nor what it asks for.
    """
    return {name: value for name, value in env.items() if name not in OF_MACHINES}


def recorded_environment(config: RunConfig) -> dict[str, Any]:
    """Returns what a trained policy says of its environment: id, arguments, and decisions in an episode."""
    arguments = {**ENVIRONMENTS.get(config.env_id, {}), **config.env}
    return {
        "id": config.env_id,
        "kwargs": portable(config.env),
        "decisions": trained_decisions(arguments),
    }


def as_plain(value: Any) -> Any:
    """Returns what JSON makes of a value; other things than numbers, texts, lists and mappings as text."""
    return json.loads(json.dumps(value, default=str))


def find_runs(folder: Path) -> list[RunFolder]:
    """Returns all runs below a folder, by path."""
    return [RunFolder(path.parent) for path in sorted(folder.rglob("run.json"))]
