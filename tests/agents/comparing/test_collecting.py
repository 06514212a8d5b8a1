"""`python -m agents compare`, `final` and `report`: the same tasks for all, played once, told truly."""

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.__main__ import main
from agents.comparing import jobs
from agents.comparing.collecting import check_pairing, parse_targets
from agents.comparing.plan import BASELINES, OTHERS, WAYS
from agents.comparing.records import FILE, Record, load_record, load_records
from agents.comparing.schedule_search import SEARCHED
from agents.comparing.schedule_tuning import GRID, VARIANTS
from agents.comparing.targets import DEFAULT_RATE, FINAL, RUNS, TARGETS, Target
from agents.reporting.report import write_report
from agents.reporting.summaries import summarize, summarize_groups
from agents.runs.folder import RunFolder
from autotrain_env import AutoTrainConfig, make_evaluation_env
from autotrain_env.policies.schedules import as_schedule
from autotrain_env.policies.trained import load_policy
from autotrain_env.process.observations import METRICS
from autotrain_env.process.task_presets import as_task_distribution
from tests.helpers.commands import Captured, error_of, train

FEW = ("--episodes", "4", "--num-envs", "4", "--configuration-episodes", "2", "--one-episodes", "2")
CONSTANT = ("--baselines", "constant", "--ways")


CONTROLS = ["drawn actions", "another episode's actions", "no re-init", "unguarded holdout"]
"""One of each kind; all are played elsewhere."""

pytestmark = pytest.mark.xdist_group("comparison")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.reporting.report._figures", lambda records, rows: iter(()))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere, by themselves."""
    monkeypatch.setattr("agents.reporting.statistics.RESAMPLES", 500)


@pytest.fixture(scope="session")
def runs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, its twin of another training seed, and a run whose policy re-initialises all the time."""
    folder = tmp_path_factory.mktemp("runs")
    named = {"ppo": finished, "twin": folder / "twin", "bad": folder / "bad"}
    for copy, seed, algorithm in (("twin", 7, "ppo"), ("bad", 0, "a2c")):
        shutil.copytree(named["ppo"], named[copy])
        content = json.loads((named[copy] / "run.json").read_text())
        content |= {"seed": seed, "algorithm": algorithm}
        (named[copy] / "run.json").write_text(json.dumps(content))
    policy = load_policy(named["bad"])
    last = max(policy.network.state_dict(), key=lambda name: (name.split(".")[1], name.endswith("bias")))
    assert last.endswith("bias")
    policy.network.state_dict()[last][20] = 1e6  # re-initialise in every env step
    policy.save(named["bad"])
    return named


@pytest.fixture(scope="session")
def compared(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("records")
    command = ["compare", *map(str, runs.values()), *FEW, "--episodes", "24", "--num-envs", "24"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.comparing.collecting.control_names", lambda: CONTROLS)
        main([*command, *CONSTANT, "own", "one", "--controls", "--output", str(output)])
    return output


def by_label(records: list[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["kind"], row["method"]): row for row in summarize(records)}


def ordered(folder: Path) -> list[Record]:
    return sorted(load_records([folder]), key=lambda record: record.label != ("agent", "ppo"))


def test_no_difference_between_equal_runs(runs: dict[str, Path], tmp_path: Path):
    """Two methods whose policies are the same, since how often a run is evaluated changes no policy."""
    same = tmp_path / "same"
    shutil.copytree(runs["ppo"], same)
    content = json.loads((same / "run.json").read_text())
    (same / "run.json").write_text(json.dumps(content | {"evaluation_episodes": 3}))
    main(
        ["compare", str(runs["ppo"]), str(same), *FEW, "--baselines", "--output", str(tmp_path / "records")]
    )
    rows = by_label(ordered(tmp_path / "records"))
    assert set(rows) == {("agent", "ppo"), ("agent", "same")}
    row = rows["agent", "same"]
    assert row["lead_of_first"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert row["first_is"] == "not worse" and row["probability_that_first_is_better"][
        "mean"
    ] == pytest.approx(0.5)


def test_a_planted_difference_is_found(compared: Path):
    rows = by_label(ordered(compared))
    ppo, bad = rows["agent", "ppo"], rows["agent", "bad"]
    assert (ppo["seeds"], bad["seeds"], ppo["episodes"]) == (2, 1, 24)
    assert bad["first_is"] == "better" and bad["lead_of_first"]["low"] > 0
    assert np.isclose(rows[WAYS["one"], "constant"]["chosen"]["learning_rate"], GRID, rtol=1e-5).any()
    assert rows[WAYS["own"], "constant"]["chosen"] == {}
    assert rows[WAYS["one"], "constant"]["cost"]["updates_to_choose"] == 8 * 2 * 60
    assert 20 * 110 < ppo["cost"]["train_updates"] <= 20 * 120  # stops make none
    assert rows["control: ppo", "no re-init"]["lead_of_first"]["mean"] == 0
    assert rows["control: bad", "no re-init"]["test_accuracy"]["mean"] > bad["test_accuracy"]["mean"]


def test_every_record_says_how_networks_were_computed(compared: Path):
    assert {len(record.backends) for record in ordered(compared)} == {1}


def test_drawn_actions_differ_only_where_a_policy_is_not_certain(compared: Path):
    records = {(record.kind, record.method, record.seed): record for record in ordered(compared)}
    unsure, drawn = records["agent", "ppo", 0], records["control: ppo", "drawn actions", 0]
    assert not np.array_equal(drawn.columns["score"], unsure.columns["score"])
    certain, drawn = records["agent", "bad", 0], records["control: bad", "drawn actions", 0]
    np.testing.assert_array_equal(drawn.columns["score"], certain.columns["score"])


def test_what_is_on_record_is_not_played_again(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ["compare", str(runs["ppo"]), *FEW, *CONSTANT, "own", "--output", str(tmp_path)]
    main(command)
    before = {path: path.read_bytes() for path in tmp_path.rglob(FILE)}
    played = []
    original = jobs.evaluate_policy

    def counted(*arguments: Any, **named: Any) -> Any:
        played.append(arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(jobs, "evaluate_policy", counted)
    main(command)
    assert not played and before == {path: path.read_bytes() for path in tmp_path.rglob(FILE)}
    main([*command, "--baselines", "constant", "random"])
    assert len(played) == 1
    main([*command, "--episodes", "5"])
    assert len(played) == 3
    # What a schedule's rate is chosen from decides its results, too; a record has the seconds it took.
    best = tmp_path / "own" / "best_of_8_of_each_episode.constant"
    main([*command, "--ways", "episode"])
    made = load_record(best).as_line()
    main([*command, "--ways", "episode"])
    assert load_record(best).as_line() == made
    monkeypatch.setattr(Target, "grid", GRID * 2)
    main([*command, "--ways", "episode"])
    assert load_record(best).as_line() != made
    main([*command, "--episodes", "5"])
    assert all(len(record.columns["score"]) == 5 for record in load_records([tmp_path]) if record.seed == 0)


def test_a_comparison_that_is_cut_short_keeps_what_was_played(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ["compare", str(runs["ppo"]), str(runs["bad"]), *FEW, *CONSTANT, "own"]
    original, calls = jobs.evaluate_policy, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(jobs, "evaluate_policy", interrupted)
    with pytest.raises(SystemExit):
        main([*command, "--output", str(tmp_path)])
    assert [record.name for record in load_records([tmp_path])] == ["own/agent.ppo.0"]
    main([*command, "--output", str(tmp_path)])
    assert len(calls) == 4 and len(load_records([tmp_path])) == 3


def test_a_method_keeps_its_name_whatever_it_is_compared_with(runs: dict[str, Path], tmp_path: Path):
    rest = (*FEW, *CONSTANT, "own", "--output", str(tmp_path))
    main(["compare", str(runs["bad"]), *rest])
    before = load_record(tmp_path / "own" / "agent.bad.0").as_line()
    main(["compare", str(runs["bad"]), str(runs["ppo"]), *rest])
    assert [record.name for record in load_records([tmp_path / "own" / "agent.*"])] == [
        "own/agent.bad.0",
        "own/agent.ppo.0",
    ]
    assert load_record(tmp_path / "own" / "agent.bad.0").as_line() == before


def test_a_record_of_another_policy_is_not_replaced(
    runs: dict[str, Path], tmp_path: Path, capsys: Captured
):
    rest = (*FEW, *CONSTANT, "own", "--output", str(tmp_path / "records"))
    main(["compare", str(runs["ppo"]), *rest])
    before = {path: path.read_bytes() for path in tmp_path.rglob(FILE)}
    other = tmp_path / "other" / "ppo"
    shutil.copytree(runs["bad"], other)
    message = error_of(capsys, "compare", str(other), *rest, "--episodes", "5")
    assert "agent.ppo.0'" in message and "another policy named 'ppo' with training seed 0" in message
    assert before == {path: path.read_bytes() for path in (tmp_path / "records").rglob(FILE)}


SOME = ("constant", "cosine")


@pytest.mark.parametrize("schedules", [SOME, pytest.param(tuple(VARIANTS), marks=pytest.mark.slow)])
def test_every_baseline_meets_the_same_tasks(
    schedules: tuple[str, ...], runs: dict[str, Path], tmp_path: Path
):
    baselines = (*schedules, *OTHERS)
    command = ["compare", str(runs["ppo"]), *FEW, "--baselines", *baselines, "--ways", *WAYS]
    main([*command, "--num-envs", "8", "--output", str(tmp_path)])
    records = ordered(tmp_path)
    check_pairing(records)
    rows = by_label(records)
    holdout = len(set(schedules) & set(SEARCHED))
    assert len(rows) == 1 + 4 * len(schedules) + holdout + len(OTHERS)
    kinds = {kind for kind, _ in rows}
    assert kinds == {"agent", *WAYS.values(), "no schedule"}
    assert rows["best of 8 of each episode", "population"]["updates"] == 8 * 60
    assert (
        rows["best of 8 of each episode", "search"]["updates"]
        == RunFolder(runs["ppo"]).cost()[0] // (4 * 60) * 60
    )
    assert (
        rows[WAYS["own"], "constant"]["test_accuracy"] == rows["no schedule", "do nothing"]["test_accuracy"]
    )
    one, mine = rows[WAYS["holdout"], "constant"], rows[WAYS["configuration"], "constant"]
    assert one["test_accuracy"] != mine["test_accuracy"]
    assert rows[WAYS["configuration"], "cosine"]["normalized"] == pytest.approx(1)
    # eight rates, then three parameters at the best and at those beside it
    tried = [(8 + 3 * rates) * 2 * 60 for rates in (2, 3)]
    for way in ("one", "configuration", "holdout"):
        assert rows[WAYS[way], "constant"]["cost"]["updates_to_choose"] == 8 * 2 * 60
        assert rows[WAYS[way], "cosine"]["cost"]["updates_to_choose"] in tried


@pytest.mark.parametrize("name", VARIANTS)
def test_every_schedule_has_the_parameters_that_are_tried(name: str):
    schedule: Any = as_schedule(name)
    tried = [dataclasses.replace(schedule, **own) for own in VARIANTS[name]]
    assert len({repr(other) for other in tried}) == len(tried)
    assert set(BASELINES) == {*VARIANTS, *OTHERS}


def test_agents_and_schedules_make_the_same_first_observation(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """But for the holdout, which schedules read unguarded."""
    seen: list[np.ndarray] = []
    original = jobs.evaluate_policy

    def watched(env: Any, policy: Any, episodes: int, seed: int, **named: Any) -> Any:
        observation, _ = env.reset(seed=[seed + k for k in range(env.num_envs)])
        seen.append(observation.reshape(env.num_envs, 4, 5, 9))
        return original(env, policy, episodes, seed, **named)

    monkeypatch.setattr(jobs, "evaluate_policy", watched)
    main(["compare", str(runs["ppo"]), *FEW, *CONSTANT, "own", "--output", str(tmp_path)])
    agent, schedule = seen
    guarded = [list(METRICS).index(name) for name in ("holdout_answer", "generalization_gap")]
    others = np.setdiff1d(np.arange(9), guarded)
    np.testing.assert_array_equal(agent[..., others], schedule[..., others])
    assert (agent[..., guarded] != schedule[..., guarded]).any()


def test_targets_replace_the_tasks_of_the_run(runs: dict[str, Path], tmp_path: Path):
    command = ["compare", str(runs["ppo"]), *FEW, *CONSTANT, "own", "--output", str(tmp_path)]
    main([*command, "--targets", "digits_network", "own", "--env.budget", "40"])
    setups = {record.target: record.setup["env"] for record in load_records([tmp_path])}
    assert setups["own"]["classifier"] == "mlp-6" and setups["own"]["train_size"] == 80
    assert setups["digits_network"]["classifier"] == "mlp-100-50"
    assert setups["digits_network"]["train_size"] == 400
    assert setups["own"]["budget"] == setups["digits_network"]["budget"] == 40
    records: dict[str, list[Record]] = {}
    for record in ordered(tmp_path):
        records.setdefault(record.target, []).append(record)
    groups = {(row["group"], row["method"]): row for row in summarize_groups(records)}
    assert groups["unseen network", "constant"]["targets"] == ["digits_network"]
    lead = summarize(records["digits_network"])[1]["lead_of_first"]
    assert groups["unseen network", "constant"]["lead_of_first"]["mean"] == pytest.approx(lead["mean"])


def test_what_was_before_a_divergence_is_kept_for_agents_alone(runs: dict[str, Path], tmp_path: Path):
    """So that records of schedules serve agents of either kind."""
    command = ["compare", str(runs["ppo"]), *FEW, *CONSTANT, "own", "--output", str(tmp_path)]
    main([*command, "--env.keep-before-divergence", "True"])
    setups = {record.kind: record.setup["env"] for record in load_records([tmp_path])}
    assert setups["agent"]["keep_before_divergence"]
    assert all("keep_before_divergence" not in env for kind, env in setups.items() if kind != "agent")
    assert len(setups) == 2


def test_a_group_leaves_out_what_has_other_seeds_on_some_target(compared: Path):
    found = ordered(compared)
    fewer = [record for record in found if record.label != ("agent", "ppo") or record.seed == 0]
    rows = summarize_groups({"own": found, "default": found})
    assert {row["method"] for row in rows} > {"ppo", "bad"}
    bad = [record for record in found if record.label == ("agent", "bad")]
    first = [record for record in found if record.label == ("agent", "ppo")]
    rows = summarize_groups({"own": [*bad, *first], "default": [*bad, *first[:1]]})
    assert [row["method"] for row in rows] == ["bad"]
    assert not summarize_groups({"own": found, "default": fewer})


def test_compare_refuses(runs: dict[str, Path], tmp_path: Path, capsys: Captured):
    run, out = str(runs["ppo"]), ("--output", str(tmp_path / "records"))
    again = tmp_path / "again"
    shutil.copytree(runs["ppo"], again)
    assert "of different seeds; twice: [0]" in error_of(capsys, "compare", run, str(again), *out)
    assert "two or more" in error_of(capsys, "compare", run, "--baselines", *out)
    for seed in ("5", "999999990", "1000000000", "1399999999", "1400000000", str(10**13)):
        assert f"seed={seed} is not" in error_of(capsys, "compare", run, "--seed", seed, *out)
    assert "names that differ" in error_of(capsys, "compare", run, *CONSTANT, "own", "own", *out)
    assert "ways=()" in error_of(capsys, "compare", run, *CONSTANT, *out)
    assert "baseline='cosin'" in error_of(capsys, "compare", run, "--baselines", "cosin", *out)
    assert "way='all'" in error_of(capsys, "compare", run, "--ways", "all", *out)
    assert "target='mnst_noisy'" in error_of(capsys, "compare", run, "--targets", "mnst_noisy", *out)
    assert "python -m agents final" in error_of(capsys, "compare", run, "--targets", "fashion", *out)
    assert "episodes=0" in error_of(capsys, "compare", run, "--episodes", "0", *out)
    assert "holds no run" in error_of(capsys, "compare", str(tmp_path / "nothing"), *out)
    (again / "result.json").unlink()
    assert "unfinished run" in error_of(capsys, "compare", str(again), *out)
    assert not (tmp_path / "records").exists()
    train(tmp_path / "other", "--env.label-noise", "0.4", algorithm="a2c")
    several = ("compare", run, str(tmp_path / "other"), *FEW, "--baselines")
    assert "tasks='those of other (seed 0)'" in error_of(capsys, *several, *out)
    main([*several, "--env.label-noise", "0.1", *out])


def test_final_targets_are_for_final_and_looks_are_counted(
    runs: dict[str, Path], tmp_path: Path, capsys: Captured
):
    records = tmp_path / "records"
    run, out = str(runs["ppo"]), ("--output", str(records))
    assert "final targets" in error_of(capsys, "final", run, "--targets", "default", *out)
    assert not records.exists()
    tiny = ("--env.train-size", "80", "--env.budget", "20", "--env.classifier", "mlp-4")
    for look in (1, 2):
        main(["final", run, "--targets", "digits_deep", *FEW, *tiny, *CONSTANT, "own", *out])
        assert f"Look number {look}" in capsys.readouterr().out
    other = tmp_path / "other" / runs["ppo"].name
    shutil.copytree(runs["bad"], other)
    refused = ("final", str(other), "--targets", "digits_deep", *FEW, *tiny, *CONSTANT, "own", *out)
    assert "another policy" in error_of(capsys, *refused)
    again = ("final", run, "--targets", "digits_deep", *FEW, *CONSTANT, "own", *out, "--env.budget", "40")
    assert "env.action_space" in error_of(capsys, *again, "--env.num-rewinds", "2")
    first, second = map(json.loads, (records / "looks.jsonl").read_text().splitlines())
    assert (first["look"], second["look"]) == (1, 2) and first["targets"] == ["digits_deep"]
    assert first["policies"] == second["policies"] and len(first["policies"][runs["ppo"].name]) == 64
    assert {record.setup["episode_seed"] for record in load_records([records])} == {1_400_000_000}


def test_targets_are_well_formed():
    assert {target.stage for target in TARGETS.values()} == {"development", "final"}
    assert all(target.name == name and target.episodes >= 24 for name, target in TARGETS.items())
    assert [target.name for target in parse_targets(["own", "default"])] == ["own", "default"]
    final = [target.env["dataset"] for target in TARGETS.values() if target.stage == FINAL]
    assert {"fashion_mnist", "cifar10"} < set(final)
    kept_out = {name.split("_")[0] for name in final} | {"glyphs", "scenes", "mnist", "breast", "wine"}
    for preset in ("real_runs", "training_runs"):
        tasks = as_task_distribution(preset)
        sets = {name for part in tasks.levels[0].parts for name in part.possible("dataset")}
        assert not [name for name in sets if any(word in name for word in kept_out - {"digits"})]
    with pytest.raises(ValueError, match="targets"):
        parse_targets([])


def test_final_targets_of_real_runs_are_a_balanced_twelve():
    names = [target.name.split("_") for target in RUNS]
    assert len(RUNS) == 12 == len({target.name for target in RUNS})
    for first, second in itertools.combinations(range(5), 2):
        pairs = [(name[first], name[second]) for name in names]
        assert set(map(pairs.count, pairs)) == {3}
    for target in RUNS:
        config = AutoTrainConfig(**target.env | {"dataset": "synthetic", "classifier": "mlp-4"})
        assert target.stage == FINAL and target.env["optimizer"] in target.name
        assert config.budget in (600, 5000) and str(config.budget) in target.name
        assert target.grid[[0, -1]] == pytest.approx(target.rates) and len(target.grid) == 8
        assert target.rates[0] <= DEFAULT_RATE <= target.rates[1] and target.from_default_rate


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("AUTOTRAIN_DATA"), reason="AUTOTRAIN_DATA names no folder")
def test_targets_of_real_runs_fit_their_data():
    for target in TARGETS.values():
        if target.from_default_rate:
            env = make_evaluation_env("AutoTrainRuns-v0", 1, **target.env)
            observations, _ = env.reset(seed=0)
            assert np.isfinite(observations).all()


def test_rows_of_a_target_with_a_default_rate(runs: dict[str, Path], tmp_path: Path):
    sizes = ("--env.budget", "40", "--env.classifier", "mlp-4", "--configuration-episodes", "1")
    rows = ("--baselines", "constant", "default_rate", "schedulefree_adamw", "--ways", "configuration")
    command = ("compare", str(runs["ppo"]), *FEW, *sizes, *rows, "--output", str(tmp_path))
    main([*command, "--targets", "digits_adamw"])
    records = {record.method: record for record in load_records([tmp_path])}
    assert set(records) == {
        *("ppo", "ppo from the default rate", "constant", "default rate", "schedulefree adamw"),
    }
    starts = {name: record.curve["learning_rate"][0] for name, record in records.items()}
    assert starts["ppo from the default rate"] == pytest.approx(1e-3) != pytest.approx(starts["ppo"])
    assert records["default rate"].setup["env"]["lr_bounds"] == [1e-8, 100]
    grid = np.geomspace(1e-5, 0.1, 8)
    assert np.isclose(records["constant"].chosen["learning_rate"], grid, rtol=1e-5).any()


def test_a_reward_may_be_measured_against_a_record(compared: Path, tmp_path: Path, capsys: Captured):
    path = compared / "own" / "one_for_all_training_tasks.constant"
    curve = load_record(path).curve
    run = tmp_path / "run"
    train(run, "--env.reward", "baseline", "--env.baseline", str(path))
    assert RunFolder(run).config().env["baseline"] == [curve["updates"], curve["score"]]
    main(["evaluate", str(run), "--episodes", "2", "--num-envs", "2"])
    assert "return" in capsys.readouterr().out
    bad = ("train", "ppo", "--env.reward", "baseline", "--output", str(tmp_path / "bad"))
    assert "baseline=None" in error_of(capsys, *bad)
    assert "nowhere" in error_of(capsys, *bad, "--env.baseline", str(tmp_path / "nowhere"))
    other = error_of(capsys, *bad, "--env.baseline", str(path), "--env.score", "neg_log_loss")
    assert "a record of score='neg_log_loss', not of 'accuracy'" in other
    assert "is no record" in error_of(capsys, *bad, "--env.baseline", str(run / "run.json"))
    assert not (tmp_path / "bad").exists()


# --- report ---


def test_a_report_is_one_page_with_figures_and_numbers(compared: Path, tmp_path: Path, capsys: Captured):
    main(["report", str(compared), "--output", str(tmp_path)])
    assert "index.html" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text()
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    names = (
        "actions",
        "comparison",
        "episode_highest",
        "episode_median",
        "learning",
        "profiles",
        "progress",
        "training",
    )
    assert pictures == [f"own_{name}.png" for name in names]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # self-contained
    for text in (
        "control: ppo",
        "another episode&#39;s actions",
        "one for all training tasks",
        "it has paid",
    ):
        assert text in page
    rows = list(csv.DictReader((tmp_path / "numbers.csv").open()))
    table = (tmp_path / "tables.md").read_text()
    assert re.search(r"\| ppo +\| 2 ", table) and table.count("\n|") == len(rows) + 2 + len(
        {r["kind"] for r in rows}
    )
    expected = by_label(ordered(compared))
    assert len(rows) == len(expected)
    for row in rows:
        found = expected[row["kind"], row["method"]]
        assert float(row["test_accuracy_mean"]) == found["test_accuracy"]["mean"]
        assert float(row["lead_of_first_low"]) == found["lead_of_first"]["low"]


def test_a_policy_that_stops_before_the_first_update_is_reported(compared: Path, tmp_path: Path):
    (record,) = (r for r in load_records([compared]) if r.label == ("agent", "bad"))
    columns = record.columns | {"updates": np.zeros(24)}
    curve = {name: values[:2] for name, values in record.curve.items()} | {"updates": [0.0, 0.0]}
    actions = {name: values[:1] for name, values in record.actions.items()}
    stopped = dataclasses.replace(record, columns=columns, curve=curve, actions=actions)
    with warnings.catch_warnings(action="error"):
        page = write_report([stopped], tmp_path).read_text()
    assert "it trains no network" in page and "it has paid after" not in page


@pytest.mark.usefixtures("no_figures")
def test_a_report_shows_the_training_of_runs(runs: dict[str, Path], compared: Path, tmp_path: Path):
    main(["report", str(runs["ppo"]), "--output", str(tmp_path / "alone")])
    names = {path.name for path in (tmp_path / "alone").iterdir()}
    assert names == {"index.html", "numbers.csv", "tables.md", "ppo_training.png", "ppo_log.png"}
    main(["report", str(runs["ppo"]), str(compared), "--output", str(tmp_path / "both")])
    page = (tmp_path / "both" / "index.html").read_text()
    assert "Training of ppo" in page and "control: ppo" in page


@pytest.mark.usefixtures("no_figures")
def test_a_report_may_be_about_another_method(compared: Path, tmp_path: Path, capsys: Captured):
    main(["report", str(compared), "--first", "bad", "--output", str(tmp_path)])
    rows = {(r["kind"], r["method"]): r for r in csv.DictReader((tmp_path / "numbers.csv").open())}
    assert rows["agent", "ppo"]["first_is"] == "worse"
    message = error_of(capsys, "report", str(compared), "--first", "sac", "--output", str(tmp_path / "no"))
    assert "first='sac'" in message and "bad" in message and not (tmp_path / "no").exists()


@pytest.mark.usefixtures("no_figures")
def test_a_report_grows_with_the_records(compared: Path, tmp_path: Path):
    records = ordered(compared)
    agents = [record for record in records if record.kind == "agent" and record.method == "ppo"]
    write_report(agents[:1], tmp_path / "one")
    write_report(agents, tmp_path / "two")
    seeds = [
        list(csv.DictReader((tmp_path / name / "numbers.csv").open()))[0]["seeds"]
        for name in ("one", "two")
    ]
    assert seeds == ["1", "2"]


def test_records_of_other_tasks_are_not_compared(compared: Path, tmp_path: Path):
    records = ordered(compared)
    records[1].columns["initial_train_score"][0] += 0.5
    with pytest.raises(ValueError, match="tasks="):
        write_report(records, tmp_path)
