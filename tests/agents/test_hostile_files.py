"""Every kind of file, changed at random: what comes out is a message of ours, or the file's content."""

import contextlib
import gzip
import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

import agents
from agents.commands.policy_arguments import environment_of
from agents.comparing.agent_jobs import AgentJob
from agents.comparing.jobs import Setting
from agents.comparing.looks import note_look
from agents.comparing.plan import OWN_TASKS, Plan
from agents.comparing.records import load_records, read_generations, training_scores
from agents.reporting.figures import plot_generations, plot_training
from agents.reporting.report import make_tables, write_report
from agents.runs.folder import RunFolder
from agents.runs.plain import read_plain
from autotrain_env.errors import UserError
from autotrain_env.policies.trained import load_policy
from autotrain_env.viewing.logs import history_of_log, plot_log, read_log
from tests.helpers.mutations import as_json, damaged, mutated
from tests.helpers.runs import copy_of

pytestmark = pytest.mark.xdist_group("commands")
RECORDS = Path(agents.__file__).parent / "results" / "default_task" / "records.jsonl.gz"


@pytest.fixture(scope="module")
def given(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind."""
    run = tmp_path_factory.mktemp("given") / "run"
    shutil.copytree(finished, run)
    rows = [
        {
            "generation": k,
            "episodes": 8 * k,
            "score": k / 10,
            "best": 0.5,
            "mean": 0.4,
            "worst": 0.1,
            "std": 0.1,
        }
        for k in range(1, 6)
    ]
    (run / "generations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = (run / "decisions.jsonl").read_text().splitlines()[:12]
    table = [json.loads(line) for line in lines]
    (run / "decisions.csv").write_text(
        "\n".join(
            [",".join(table[0]), *(",".join(f'"{value}"' for value in row.values()) for row in table)]
        )
    )
    (run / "decisions.jsonl").write_text("\n".join(lines) + "\n")
    (run / "looks.jsonl").write_text('{"look": 1}\n{"look": 2}\n')
    lines_of_records = gzip.decompress(RECORDS.read_bytes()).splitlines()
    chosen = [line for line in lines_of_records if b'"agent"' in line][:2] + lines_of_records[-2:]
    for at, line in enumerate(chosen):
        record = json.loads(line)
        for name, values in record["columns"].items():
            record["columns"][name] = values[:5]
        chosen[at] = json.dumps(record).encode()
    (run / "records.jsonl.gz").write_bytes(gzip.compress(b"".join(line + b"\n" for line in chosen)))
    return run


def draw(figure: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that a font lacks
        FigureCanvasAgg(figure).draw()


def use_policy(folder: Path) -> None:
    policy = load_policy(folder)
    policy.predict(np.zeros((2, *policy.spec.observation_space.shape), np.float32))
    environment_of(policy, {}, 1).close()


def use_run(folder: Path) -> None:
    run = RunFolder(folder)
    run.config()
    run.cost()
    run.checkpoints()


def use_log(name: str) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        rows = read_log(folder / name)
        seed = rows[0].get("episode_seed") if rows else None
        history_of_log(folder / name, seed)
        draw(plot_log(folder / name, seed))

    return use


def use_curve(folder: Path) -> None:
    setting = Setting(Plan((OWN_TASKS,), (), ("own",), 0), OWN_TASKS, RunFolder(folder), {})
    assert AgentJob(setting, "x", RunFolder(folder)).training


def use_generations(folder: Path) -> None:
    run = RunFolder(folder)
    draw(plot_training({"x": training_scores(run)}))
    found = read_generations(run)
    if found:
        draw(plot_generations(found))


def use_records(folder: Path) -> None:
    make_tables(load_records([folder / "records.jsonl.gz"]))


def use_report(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_report(load_records([folder / "records.jsonl.gz"]), folder / "report")


def use_checkpoint(folder: Path) -> None:
    path = RunFolder(folder).newest_checkpoint()
    if path is not None:
        read_plain(path, _config(folder))


def _config(folder: Path) -> Any:
    return environment_of(load_policy(folder), {}, 1).unwrapped.config


def use_state(folder: Path) -> None:
    """As a stranger seals it: digests are right."""
    path = sorted((folder / "checkpoints").iterdir())[-1]
    read_plain(path, _config(folder))


Use = Callable[[Path], None]
KINDS: dict[str, tuple[str, Use]] = {
    "policy": ("policy.json", use_policy),
    "weights": ("policy.safetensors", use_policy),
    "run": ("run.json", use_run),
    "result": ("result.json", use_run),
    "list": ("checkpoints.json", use_checkpoint),
    "manifest": ("checkpoints/*/files.json", use_checkpoint),
    "state": ("checkpoints/*/state.json", use_state),
    "arrays": ("checkpoints/*/state.safetensors", use_state),
    "log": ("decisions.jsonl", use_log("decisions.jsonl")),
    "table": ("decisions.csv", use_log("decisions.csv")),
    "curve": ("evaluations.jsonl", use_curve),
    "generations": ("generations.jsonl", use_generations),
    "records": ("records.jsonl.gz", use_records),
    "looks": ("looks.jsonl", lambda folder: note_look(folder / "looks.jsonl", [], []) and None),
}


def mutations(content: bytes, name: str, generator: random.Random) -> Iterator[bytes]:
    """Yields changed contents for ever: of bytes, and of what JSON says."""
    packed = name.endswith(".gz")
    inner = gzip.decompress(content) if packed else content
    lines = inner.splitlines() if ".jsonl" in name else [inner]
    header = 8 + int.from_bytes(content[:8], "little") if name.endswith(".safetensors") else 0
    while True:
        if name.endswith(".csv") or generator.random() < 0.3:
            yield damaged(content, generator)
            continue
        if header:
            changed = as_json(mutated(json.loads(content[8:header]), generator))
            yield len(changed).to_bytes(8, "little") + changed + content[header:]
            continue
        at = generator.randrange(len(lines))
        changed = as_json(mutated(json.loads(lines[at]), generator))
        whole = b"\n".join([*lines[:at], changed, *lines[at + 1 :]]) + b"\n"
        yield gzip.compress(whole, 1) if packed else whole


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def fuzz(kind: str, given: Path, folder: Path, count: int, use: Use | None = None) -> dict[str, int]:
    """Change a file many times; returns how many were taken and refused."""
    pattern, usual = KINDS[kind]
    use = use or usual
    run = folder / "run"
    shutil.copytree(given, run)
    (file,) = sorted(run.glob(pattern))[-1:]
    content, outcome = file.read_bytes(), {"taken": 0, "refused": 0}
    before = tree(folder.parent)
    changes = mutations(content, file.name, random.Random(kind))
    for number in range(count):
        change = next(changes)
        file.write_bytes(change)
        start = time.monotonic()
        try:
            use(run)
            outcome["taken"] += 1
        except (UserError, OSError) as error:
            assert len(str(error)) < 4000
            outcome["refused"] += 1
        except Exception as error:
            (folder / "failing").write_bytes(change)
            raise AssertionError(f"mutation {number} of {file.name}: {error!r}") from error
        assert time.monotonic() - start < 30
    after = {path for path in tree(folder.parent) - before if str(run / "report") not in path}
    assert not after, after
    return outcome


@pytest.mark.parametrize("kind", KINDS)
def test_only_our_own_errors_come_out(
    kind: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    outcome = fuzz(kind, given, tmp_path, 25 if kind in ("log", "table", "generations", "records") else 60)
    assert outcome["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_only_our_own_errors_come_out_of_1000_mutations(
    kind: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    print(kind, fuzz(kind, given, tmp_path, 1000))


@pytest.mark.slow
def test_reports_of_changed_records_stay_in_their_folder(given: Path, tmp_path: Path):
    print(fuzz("records", given, tmp_path, 200, use_report))


# Names, never paths -----------------------------------------------------------------------------------

ELSEWHERE = (
    "../x",
    "../../x",
    "/tmp/hostile-x",
    "a/b",
    "..",
    "C:\\x",
    "a\\..\\b",
    "~/x",
    "a/../../x",
    "x\0",
)


def fields_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the places of all texts, and of the names of fields."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield (*path, "name of", key)
            yield from fields_of(entry, (*path, key))
    elif isinstance(value, list):
        for at, entry in enumerate(value[:2]):
            yield from fields_of(entry, (*path, at))
    yield path


def with_value(value: Any, path: tuple[Any, ...], new: str) -> Any:
    changed = json.loads(json.dumps(value))
    parent = changed
    if "name of" in path:
        for key in path[: path.index("name of")]:
            parent = parent[key]
        parent[new] = parent.pop(path[-1])
        return changed
    if not path:
        return new
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return changed


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_record_of_any_target_makes_no_figure_elsewhere(target: str, given: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    lines = gzip.decompress((given / "records.jsonl.gz").read_bytes()).splitlines()
    changed = [json.dumps(json.loads(line) | {"target": target}).encode() + b"\n" for line in lines]
    (tmp_path / "in" / "records.jsonl.gz").write_bytes(gzip.compress(b"".join(changed)))
    before = tree(tmp_path) | set(map(str, Path("/tmp").glob("hostile-x*")))
    with pytest.raises(UserError, match=r"records\.jsonl\.gz, line 1, is no record: target="):
        write_report(load_records([tmp_path / "in"]), tmp_path / "deep" / "report")
    assert tree(tmp_path) | set(map(str, Path("/tmp").glob("hostile-x*"))) == before


@pytest.mark.parametrize(
    "kind", ["policy", "run", "result", "list", "log", "curve", "generations", "records"]
)
def test_no_field_of_any_file_is_a_path(
    kind: str, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each field, and each name of a field, says a path in turn; nothing is written outside."""
    monkeypatch.chdir(tmp_path)
    pattern, use = KINDS[kind]
    run = tmp_path / "run"
    shutil.copytree(given, run)
    (file,) = run.glob(pattern)
    packed, content = file.suffix == ".gz", file.read_bytes()
    inner = gzip.decompress(content) if packed else content
    lines = inner.splitlines() if ".jsonl" in file.name else [inner]
    first, before, tried = json.loads(lines[0]), tree(tmp_path), 0
    for at, path in enumerate(fields_of(first)):
        new = ELSEWHERE[at % 4]
        changed = json.dumps(with_value(first, path, new)).encode()
        whole = b"\n".join([changed, *lines[1:]]) + b"\n"
        file.write_bytes(gzip.compress(whole, 1) if packed else whole)
        with contextlib.suppress(UserError, OSError):
            use(run)
        assert tree(tmp_path) == before, path
        assert not list(Path("/tmp").glob("hostile-x*")), path
        tried += 1
    assert tried > 3


# Sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_files_of_200_gb_are_refused_at_once(kind: str, given: Path, tmp_path: Path):
    """Their size is looked at before they are read."""
    pattern, use = KINDS[kind]
    run = tmp_path / "run"
    shutil.copytree(given, run)
    (file,) = sorted(run.glob(pattern))[-1:]
    os.truncate(file, 200 * 10**9)
    start = time.monotonic()
    with pytest.raises(UserError, match=file.name):
        use(run)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.complex64, torch.int64],
)
def test_weights_of_other_dtypes_are_named(dtype: torch.dtype, given: Path, tmp_path: Path):
    run = copy_of(RunFolder(given), tmp_path / "run").path
    weights = safetensors.torch.load_file(run / "policy.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name].to(dtype)
    try:
        safetensors.torch.save_file(weights, run / "policy.safetensors")
    except (KeyError, ValueError, safetensors.SafetensorError):
        pytest.skip("this version of safetensors cannot write it")
    with pytest.raises(UserError, match=rf"policy.safetensors.*{name}"):
        load_policy(run)


@pytest.mark.parametrize("depth", [65, 1000, 100_000])
@pytest.mark.parametrize(
    "kind", ["policy", "run", "result", "list", "log", "curve", "generations", "records", "looks"]
)
def test_files_nested_deep_are_refused(depth: int, kind: str, given: Path, tmp_path: Path):
    pattern, use = KINDS[kind]
    run = tmp_path / "run"
    shutil.copytree(given, run)
    (file,) = run.glob(pattern)
    content = b"[" * depth + b"]" * depth + b"\n"
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    with pytest.raises(UserError, match=f"{file.name}.*nested"):
        use(run)


def test_pipes_and_folders_in_place_of_files_are_refused(given: Path, tmp_path: Path):
    """A pipe without a writer would be waited for."""
    run = tmp_path / "run"
    shutil.copytree(given, run)
    for name in ("evaluations.jsonl", "decisions.jsonl"):
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises(UserError, match="a plain file"):
            read_log(run / name)
    for name, use in (("run.json", use_run), ("policy.json", use_policy)):
        content = (run / name).read_bytes()
        (run / name).unlink()
        os.mkfifo(run / name)
        with pytest.raises((UserError, FileNotFoundError), match=name):
            use(run)
        (run / name).unlink()
        (run / name).write_bytes(content)


def test_a_small_file_that_stands_for_a_huge_one_is_refused(tmp_path: Path):
    (tmp_path / "records.jsonl.gz").write_bytes(gzip.compress(bytes(600 * 2**20), 9))
    assert (tmp_path / "records.jsonl.gz").stat().st_size < 10**6
    with pytest.raises(UserError, match=r"records\.jsonl\.gz is damaged: it stands for more than"):
        load_records([tmp_path])
