"""Comparing agents with each other and with baselines, on the same episodes.

`plan_jobs` lists what there is to play, `collect` plays what has no record yet.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agents.comparing.agent_jobs import AgentJob, ControlJob, make_recording
from agents.comparing.baseline_jobs import other_job, schedule_jobs
from agents.comparing.controls import control_names
from agents.comparing.jobs import Job, Setting
from agents.comparing.plan import OWN_TASKS, Plan
from agents.comparing.records import Record, RecordFile, rounded
from agents.comparing.schedule_tuning import VARIANTS, Tuned
from agents.comparing.targets import DEFAULT_RATE, TARGETS, Target, find_target
from agents.runs.folder import RunFolder, as_plain
from agents.runs.progress import Reporter, portion
from autotrain_env.errors import check
from autotrain_env.schemas import as_plain_name


def parse_targets(names: Iterable[str]) -> tuple[Target, ...]:
    """Returns targets of these names; `"own"` stands for the tasks that the runs were trained on.

    Raises:
        InvalidValueError: If one is unknown, or there is none.
    """
    names = tuple(names)
    known = {OWN_TASKS.name: OWN_TASKS, **TARGETS}
    check(len(names) > 0, "targets", names, f"one or more of {', '.join(known)}")
    return tuple(known[name] if name in known else find_target(name) for name in names)


def group_runs(folders: list[Path]) -> dict[str, list[RunFolder]]:
    """Returns runs by method: what differs in its training seed alone is one method.

    A method has the name of its first folder, without the training seed at its end, so that it keeps its
    name whatever it is compared with.

    Raises:
        FileNotFoundError: If a folder holds no finished run.
        InvalidValueError: If a method has two runs of one training seed, or two methods have one name.
    """
    methods: list[tuple[dict[str, Any], list[RunFolder]]] = []
    for path in folders:
        run = RunFolder(path)
        run.result()  # says so where it is not finished
        whole = run.config()
        started = whole.start_from is not None  # from policies that differ by seed, too
        config = as_plain(dataclasses.asdict(whole) | {"seed": None, "start_from": started})
        for known, runs in methods:
            if known == config:
                runs.append(run)
                break
        else:
            methods.append((config, [run]))
    named: dict[str, list[RunFolder]] = {}
    for _, runs in methods:
        seeds = [run.config().seed for run in runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        check(not twice, "runs", [str(run.path) for run in runs], f"of different seeds; twice: {twice}")
        name = as_plain_name(runs[0].path.resolve().name.removesuffix(f"-{seeds[0]}"))
        check(
            name not in named, "runs", str(runs[0].path), "in folders named after their method, and -SEED"
        )
        named[name] = runs
    return named


def plan_jobs(groups: dict[str, list[RunFolder]], plan: Plan, folder: Path) -> list[Job]:
    """Returns what there is to play, target by target, agents first.

    Args:
        groups: Runs by method; see `group_runs`. The first run's environment is that of all baselines.
        plan: What to compare.
        folder: Folder for the records.

    Raises:
        InvalidValueError: If there are fewer than two methods, if the folder holds a record of another
            policy under the name and seed of one of these, or if a run is damaged, or its policy is for
            other spaces than the target's.
    """
    tuned: dict[str, Tuned] = {}
    first = next(iter(groups.values()))[0] if groups else None
    settings = [Setting(plan, target, first, tuned) for target in plan.targets]
    jobs = [job for setting in settings for job in _jobs_of(groups, setting)]
    count = len({(job.method, job.kind) for job in jobs})
    check(count > 1, "methods", [*groups, *plan.baselines], "two or more")
    records = RecordFile(folder).load()
    for job in jobs:
        _check_same_policy(records, job, folder)
        if _known(records, job) is None:
            job.check()
    return jobs


def _jobs_of(groups: dict[str, list[RunFolder]], setting: Setting) -> Iterator[Job]:
    """Yields everything that is to be on record of one target."""
    runs = [(name, run) for name, found in groups.items() for run in found]
    for name, run in runs:
        yield AgentJob(setting, name, run)
    for name, run in runs if setting.target.from_default_rate else ():
        yield AgentJob(setting, f"{name} from the default rate", run, DEFAULT_RATE)
    if setting.plan.controls:
        for name, run in runs:
            recording = make_recording(setting, run)
            for control in control_names():
                yield ControlJob(setting, name, run, control, recording)
    for name in setting.plan.baselines:
        if name in VARIANTS:
            yield from schedule_jobs(setting, name)
        else:
            yield other_job(setting, name)


def collect(jobs: list[Job], folder: Path, report: Reporter) -> dict[str, list[Record]]:
    """Play whatever has no record in the folder yet, and write it there.

    Args:
        jobs: What there is to play; see `plan_jobs`.
        folder: Folder for the records.
        report: Told how far it is.

    Returns:
        Records of every target, agents first.

    Raises:
        InvalidValueError: If two methods did not meet the same tasks.
    """
    file = RecordFile(folder)
    on_record = file.load()
    records: dict[str, list[Record]] = {job.target.name: [] for job in jobs}
    total, done = sum(job.work for job in jobs), 0.0
    for job in jobs:
        record = _known(on_record, job)
        if record is None:
            parts = job.play(portion(report, done, job.work, total))
            record = dataclasses.replace(job.record, **parts)
            file.add(record)
        done += job.work
        report(done / total)
        records[job.target.name].append(record)
    for found in records.values():
        check_pairing(found)
    return records


def _known(records: dict[str, Record], job: Job) -> Record | None:
    """Returns the record of what a job would play, if there is one."""
    record = records.get(job.record.name)
    return record if record is not None and record.setup == rounded(job.record.setup) else None


def _check_same_policy(records: dict[str, Record], job: Job, folder: Path) -> None:
    """Raise an `InvalidValueError` where playing the job would replace what another policy has reached.

    That could not be had again from the run at hand; other changes, as of the number of episodes, could.
    """
    record = records.get(job.record.name)
    if "policy" in job.setup and record is not None:
        check(
            record.setup.get("policy") == job.setup["policy"],
            "output",
            str(folder / record.name),
            f"in a folder without a record of another policy named {job.method!r} with training seed "
            f"{job.seed}: give another one",
        )


def check_pairing(records: list[Record]) -> None:
    """Raise an `InvalidValueError` unless all methods met the same tasks, by their untrained networks."""
    wanted = records[0].columns["initial_train_score"]
    for record in records:
        found = record.columns["initial_train_score"]
        same = len(found) <= len(wanted) and np.allclose(found, wanted[: len(found)], rtol=1e-5)
        seed = "" if record.seed is None else f" (seed {record.seed})"
        check(
            bool(same),
            "tasks",
            f"those of {record.method}{seed}",
            f"those of {records[0].method}: give the tasks to all by --env or --targets",
        )
