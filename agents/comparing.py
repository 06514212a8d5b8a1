"""Comparing trained agents with each other and with schedules, on the same tasks."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import rich.box
from rich.table import Table

from agents.baselines import GRID, tune
from agents.progress import Report, portion
from agents.runs import RunFolder, as_plain
from agents.seeds import MAX_ENVS, MAX_SEEDS
from agents.statistics import bootstrap, compare, interquartile_mean, worst_share
from autotrain_env.errors import check, unknown_name
from autotrain_env.evaluation import Policy, evaluate_policy
from autotrain_env.policies import load_policy
from autotrain_env.schedules import SCHEDULES, Schedule, as_schedule

OWN_RATES, ONE_RATE = "each task's own rate", "one rate for all tasks"

Environment = gymnasium.vector.VectorEnv[Any, Any, Any]


@dataclass
class Method:
    """One method and its results.

    Args:
        name: Of the method.
        group: `"agents"`, or how a schedule's rate was chosen.
        runs: Folders of its runs, one for each training seed; none of a schedule.
        learning_rate: The tuned rate of a schedule, if any.
        results: Columns of `evaluate_policy`, each of shape (seeds, episodes).
    """

    name: str
    group: str = "agents"
    runs: list[str] = field(default_factory=list)
    learning_rate: float | None = None
    results: dict[str, np.ndarray] = field(default_factory=dict)


def group_runs(folders: list[Path]) -> dict[str, list[RunFolder]]:
    """Runs by method: what differs in its training seed alone is one method.

    Raises:
        FileNotFoundError: If a folder holds no finished run.
        ValueError: If a method has two runs of one training seed.
    """
    methods: list[tuple[dict[str, Any], list[RunFolder]]] = []
    for path in folders:
        run = RunFolder(path)
        run.result()  # says so where it is not finished
        config = as_plain(dataclasses.asdict(run.config()) | {"seed": None})
        for known, runs in methods:
            if known == config:
                runs.append(run)
                break
        else:
            methods.append((config, [run]))
    named: dict[str, list[RunFolder]] = {}
    for config, runs in methods:
        seeds = [run.config().seed for run in runs]
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        check(not twice, "runs", [str(run.path) for run in runs], f"of different seeds; twice: {twice}")
        alone = [other["algorithm"] for other, _ in methods].count(config["algorithm"]) == 1
        named[config["algorithm"] if alone else f"{config['algorithm']} ({runs[0].path.name})"] = runs
    return named


def make_env(run: RunFolder, overrides: dict[str, Any], num_envs: int) -> Environment:
    """The environment that a run was trained in, some of its arguments replaced, for an evaluation."""
    config = run.config()
    kwargs = config.env | overrides
    return gymnasium.make_vec(config.env_id, num_envs=num_envs, autoreset_mode="Disabled", **kwargs)


def evaluate_methods(
    groups: dict[str, list[RunFolder]],
    schedules: list[str],
    overrides: dict[str, Any],
    episodes: int,
    tuning_episodes: int,
    seed: int,
    num_envs: int,
    report: Report,
) -> list[Method]:
    """Let every method play the same episodes: agents, then schedules at the tasks' own rates and tuned.

    Args:
        groups: Runs by method; see `group_runs`.
        schedules: Names.
        overrides: Arguments of the environment.
        episodes: Episodes of each run and schedule.
        tuning_episodes: Episodes for each rate that is tried, on tuning seeds.
        seed: Of the first episode.
        num_envs: Lanes.
        report: Told how far it is.

    Raises:
        ValueError: If there are fewer than two methods, the seeds overlap with those of training, or two
            methods did not meet the same tasks.
    """
    check(len(groups) + len(schedules) > 1, "methods", [*groups, *schedules], "two or more")
    first = MAX_SEEDS * MAX_ENVS
    check(seed >= first, "seed", seed, f"at least {first}: below that are the seeds of training")
    for name in schedules:
        if name not in SCHEDULES:
            raise unknown_name("schedule", name, SCHEDULES)
    methods: list[Method] = []
    tuning = len(GRID) * tuning_episodes
    total = episodes * (sum(map(len, groups.values())) + 2 * len(schedules)) + tuning * len(schedules)
    played = 0

    def part(size: int) -> Report:
        nonlocal played
        played += size
        return portion(report, played - size, size, total)

    def play(env: Environment, policy: Policy) -> dict[str, np.ndarray]:
        return evaluate_policy(env, policy, episodes, seed, progress=part(episodes))

    for name, runs in groups.items():
        columns = []
        for run in runs:
            env = make_env(run, overrides, num_envs)
            columns.append(play(env, load_policy(run.path)))
        stacked = {key: np.stack([c[key] for c in columns]) for key in columns[0]}
        paths = [str(run.path) for run in runs]
        methods.append(Method(name, runs=paths, results=stacked))
    env = make_env(next(iter(groups.values()))[0], overrides, num_envs)
    tuned = []
    for name in schedules:
        schedule = as_schedule(name)
        methods.append(Method(name, OWN_RATES, results=_one(play(env, schedule))))
        if isinstance(schedule, Schedule):
            rate = tune(env, schedule, tuning_episodes, part(tuning))
            results = _one(play(env, schedule.with_learning_rate(rate)))
            tuned.append(Method(name, ONE_RATE, learning_rate=rate, results=results))
    methods += tuned
    check_pairing(methods)
    return methods


def _one(results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[None] for name, values in results.items()}


def check_pairing(methods: list[Method]) -> None:
    """Raise a `ValueError` unless all methods met the same tasks, by their untrained networks."""
    wanted = methods[0].results["initial_train_score"][0]
    for method in methods:
        for run, found in enumerate(method.results["initial_train_score"]):
            check(
                np.array_equal(found, wanted),
                "tasks",
                f"those of {method.name} (run {run})",
                f"those of {methods[0].name}: give the tasks to all by --env",
            )


def summarize(methods: list[Method]) -> list[dict[str, Any]]:
    """Plain numbers of every method; differences are the first method's lead over each."""
    summaries = []
    for method in methods:
        accuracy = method.results["test_accuracy"]
        found = compare(methods[0].results["test_accuracy"], accuracy)
        summaries.append(
            {
                "method": method.name,
                "group": method.group,
                "runs": method.runs,
                "learning_rate": method.learning_rate,
                "seeds": len(accuracy),
                "episodes": accuracy.shape[1],
                "test_accuracy": dataclasses.asdict(bootstrap(accuracy, np.mean)),
                "interquartile_mean": interquartile_mean(accuracy),
                "median": float(np.median(accuracy)),
                "worst_5_percent": worst_share(accuracy),
                "best_holdout_test_accuracy": float(method.results["best_holdout_test_accuracy"].mean()),
                "train_accuracy": float(method.results["train_score"].mean()),
                "lead_of_first": dataclasses.asdict(found.difference),
                "probability_that_first_is_better": dataclasses.asdict(found.probability),
                "first_is": found.verdict,
            }
        )
    return summaries


def as_table(summaries: list[dict[str, Any]]) -> Table:
    """The summary as a table of percentages; "best kept" is of the weights best on the holdout."""
    first = summaries[0]
    title = f"test accuracy [%], {first['episodes']} paired episodes; the lead of {first['method']}"
    table = Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for name in ("method", "mean", "IQM", "worst 5%", "best kept", "lead", "first is"):
        left = name in ("method", "first is")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "first is")
    group = ""
    for row in summaries:
        if row["group"] != group:
            group = row["group"]
            table.add_row(f"[bold]{group}")
        mean, lead = ({k: 100 * v for k, v in row[k].items()} for k in ("test_accuracy", "lead_of_first"))
        rate, is_first = row["learning_rate"], row is first
        detail = f" ({rate:.2g})" if rate is not None else f" × {row['seeds']}" if row["seeds"] > 1 else ""
        table.add_row(
            f" {row['method']}{detail}",
            "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**mean),
            f"{100 * row['interquartile_mean']:.1f}",
            f"{100 * row['worst_5_percent']:.1f}",
            f"{100 * row['best_holdout_test_accuracy']:.1f}",
            "" if is_first else "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**lead),
            "" if is_first else row["first_is"],
        )
    return table
