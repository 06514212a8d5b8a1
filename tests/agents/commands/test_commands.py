"""The command line `python -m agents`."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.__main__ import main
from agents.commands import evaluate
from agents.commands.arguments import EnvArguments, described_arguments
from agents.commands.train import TrainAgent, TrainEvolution
from agents.runs.folder import RunFolder
from agents.training.algorithms import ALGORITHMS
from autotrain_env import ENVIRONMENTS, AutoTrainConfig, Task
from autotrain_env.policies.trained import load_policy
from tests.helpers.commands import ENV, STEPS, Captured, error_of, train
from tests.helpers.runs import copy_of

pytestmark = pytest.mark.xdist_group("commands")


def test_train_evaluate_and_list(finished: Path, capsys: Captured):
    run = RunFolder(finished)
    config = run.config()
    assert run.finished and run.result()["steps"] >= 120
    assert config.env["budget"] == 60 and config.env["classifier"] == "mlp-6" and config.seed == 0
    main(["evaluate", str(finished), "--episodes", "3", "--num-envs", "2"])
    printed = capsys.readouterr().out
    assert "test_accuracy" in printed and "3 episodes of AutoTrain-v0" in printed
    main(["list", "--folder", str(finished.parent)])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*ALGORITHMS, *ENVIRONMENTS)) and "finished" in printed


def test_evaluation_is_repeatable_and_may_be_on_other_tasks(finished: Path, capsys: Captured):
    outputs = []
    for more in ((), (), ("--env.classifier", "linear")):
        main(["evaluate", str(finished), "--episodes", "2", "--num-envs", "2", *more])
        outputs.append([line for line in capsys.readouterr().out.splitlines() if "test_accuracy" in line])
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_same_command_gives_the_same_policy(finished: Path, tmp_path: Path):
    train(tmp_path / "again")
    first, second = (load_policy(folder).network.state_dict() for folder in (finished, tmp_path / "again"))
    assert all((first[name] == second[name]).all() for name in first)
    train(tmp_path / "other", "--seed", "1")
    other = load_policy(tmp_path / "other").network.state_dict()
    assert any((first[name] != other[name]).any() for name in first)


def test_a_run_is_not_overwritten_unless_asked(finished: Path, tmp_path: Path, capsys: Captured):
    before = {path: path.read_bytes() for path in finished.glob("*.json")}
    command = ("train", "ppo", *ENV, *STEPS, "--output")
    assert "holds a finished run" in error_of(capsys, *command, str(finished))
    assert "nothing is left to resume" in error_of(capsys, *command, str(finished), "--resume")
    (tmp_path / "mine.txt").write_text("mine")
    assert "is no folder" in error_of(capsys, *command, str(tmp_path / "mine.txt"))
    for more in ((), ("--overwrite",)):
        error_of(capsys, *command, str(tmp_path), *more)
        assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert before == {path: path.read_bytes() for path in finished.glob("*.json")}


def test_resuming_with_another_configuration_says_in_what(finished: Path, tmp_path: Path, capsys: Captured):
    run = copy_of(RunFolder(finished), tmp_path / "run", finished=False)
    command = ("train", "ppo", *ENV, *STEPS, "--output", str(run.path), "--resume")
    assert "seed: 5 and 0" in error_of(capsys, *command, "--seed", "5")
    assert "env: {" in error_of(capsys, *command, "--env.inner-steps", "10", "--env.budget", "60")
    main(list(command))
    assert run.finished


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lerning_rate=1", "hyperparameter='lerning_rate'.*nearest known one is 'learning_rate'"),
        ("learning_rate=-1", "hyperparameters={.*not allowed: ValueError.*Invalid learning rate"),
        (
            "learning_rate=lin_x",
            "learning_rate='lin_x' is not allowed: it must be a number, or lin_ and one",
        ),
        ("n_steps=0", "hyperparameters={.*'n_steps': 0.* not allowed"),
        ("policy=Mlp", "hyperparameters={.*'policy': 'Mlp'.* not allowed"),
        ("seed=3", "hyperparameter='seed' is not a known name"),
        ("n_epochs=x", "n_epochs='x' is not allowed: it must be a number"),
        ("gamma=lin_1", "gamma='lin_1' is not allowed"),
        ("noise_type=normal", "noise_type='normal' is not allowed: .* actions are discrete"),
    ],
)
def test_mistakes_in_hyperparameters_leave_everything_as_it_is(
    word: str, message: str, finished: Path, tmp_path: Path, capsys: Captured
):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    for folder, more in ((finished, ("--overwrite",)), (tmp_path / "new", ())):
        command = ("train", "ppo", *ENV, *STEPS, "--hyperparameters", word, "--output", str(folder), *more)
        assert re.search(message, error_of(capsys, *command))
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert not list(tmp_path.iterdir())


def test_an_overwriting_that_is_cut_short_can_be_done_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Through a link to the folder, too."""
    run = copy_of(RunFolder(finished), tmp_path / "run")
    (tmp_path / "link").symlink_to(run.path)
    remove = shutil.rmtree

    def killed(path: Path, **named: Any) -> None:
        if path.name == "tensorboard":
            raise RuntimeError("killed")
        remove(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr("agents.runs.folder.shutil.rmtree", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(run.path, "--overwrite", "--seed", "2")
    assert run.exists and not run.finished
    train(tmp_path / "link", "--overwrite", "--seed", "2")
    assert (tmp_path / "link").is_symlink() and run.finished and run.config().seed == 2


def test_a_policy_to_begin_with_is_not_replaced(finished: Path, tmp_path: Path, capsys: Captured):
    run = copy_of(RunFolder(finished), tmp_path / "run").path
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = ("train", "ppo", *ENV, *STEPS, "--start-from", str(run), "--overwrite", "--output")
    for output in (run, run / ".." / "run", tmp_path):
        assert "another folder than that of start_from" in error_of(capsys, *command, str(output))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_what_a_killed_process_leaves_of_a_file_is_in_nobodys_way(tmp_path: Path):
    (tmp_path / ".run.json.4711.part").write_text("{")
    train(tmp_path, "--resume")
    assert RunFolder(tmp_path).finished


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"id": "given.extra:AutoTrain-v0", "kwargs": {}}, "id='given.extra:AutoTrain-v0' is not a known"),
        ({"id": "CartPole-v1", "kwargs": {}}, "id='CartPole-v1' is not a known name"),
        ({"id": "AutoTrain-v0", "kwargs": {"log_path": "mine.csv"}}, "argument='log_path' is not a known"),
        ({"id": "AutoTrain-v0", "kwargs": [1]}, "environment's arguments=.1. is not allowed"),
        ({"id": ["AutoTrain-v0"], "kwargs": {}}, "id=.'AutoTrain-v0'. is not a known name"),
    ],
)
def test_a_policy_cannot_name_another_environment(
    environment: dict[str, Any],
    message: str,
    finished: Path,
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
):
    """Gymnasium imports the module before a colon, and a log would be written."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "given"
    shutil.copytree(finished, folder)
    (folder / "extra.py").write_text("raise SystemExit(99)")
    content = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(content | {"environment": environment}))
    for command in ("evaluate", "replay"):
        assert re.search(message, error_of(capsys, command, str(folder)))
    content = json.loads((folder / "run.json").read_text())
    content |= {"env_id": environment["id"], "env": environment["kwargs"]}
    (folder / "run.json").write_text(json.dumps(content))
    error = error_of(capsys, "compare", str(folder))
    assert "run.json is damaged" in error and re.search(message, error)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "pppo"), "algorithm='pppo' .* nearest known one is 'ppo'"),
        (("tune", "pppo"), "algorithm='pppo' is not a known name; the nearest known one is 'ppo'"),
        (
            ("train", "ppo", "--id", "AutoTrian-v0"),
            "id='AutoTrian-v0'.*nearest.* is 'AutoTrain-v0'",
        ),
        (
            ("train", "sac", "--id", "AutoTrain-v0"),
            "'sac' cannot act in AutoTrain-v0.*that can: ppo",
        ),
        (
            ("train", "ppo", "--env.action-type", "multi_discrete"),
            "cannot act.*MultiDiscrete.*none here",
        ),
        (("train", "ppo", "--env.optimizer", "adamm"), "optimizer='adamm'.*'adam'"),
        (("train", "ppo", "--env.inner-steps", "7"), "history_length=5"),
        (("train", "ppo", "--train-steps", "-1"), "train_steps=-1"),
        (("train", "ppo", "--num-envs", "0"), "num_envs=0"),
        (("train", "ppo", "--checkpoint-steps", "0"), "checkpoint_steps=0"),
        (("train", "ppo", "--seed", "-1"), "seed=-1"),
        (("evaluate", "nowhere"), "nowhere/policy.json is missing"),
        (("evaluate", "many", "--seed", "0"), "seed=0.*training, tuning and final"),
        (("evaluate", "many", "--seed", "1399999999"), "seed=1399999999"),
        (("evaluate", "many", "--episodes", "0"), "episodes=0"),
        (("evaluate", "many", "--num-envs", "0"), "num_envs=0"),
        (("replay", "many", "--seed", "1000000000"), "seed=1000000000"),
        (("replay", "many", "--output", "picture.pgn"), "ending of output='pgn'.*'png'"),
        (("tune", "ppo", "--seed", "-1"), "seed=-1"),
        (("tune", "ppo", "--seed", "50000"), "seed=50000"),
        (
            ("train", "es", "--hyperparameters", "optimizer={name: adam, bla: 1}"),
            "optimizer=.*bla.* is not allowed",
        ),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, error_of(capsys, *arguments))
    assert not list(tmp_path.iterdir())


def test_an_unknown_argument_names_the_nearest(capsys: Captured):
    assert "--env.inner-steps" in error_of(capsys, "train", "ppo", "--env.iner-steps", "20")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("run.json", c) for c in ("{", "[]", '{"format": 9}', '{"format": 1}')),
        *(("result.json", c) for c in ("{", "[]", "{}", '{"steps": 1, "updates": 20, "minutes": "x"}')),
    ],
)
def test_a_damaged_run_is_named(name: str, content: str, finished: Path, tmp_path: Path, capsys: Captured):
    run = RunFolder(tmp_path)
    for part in ("run.json", "result.json"):
        (tmp_path / part).write_bytes((finished / part).read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.* is damaged|run.json: format=9 .* must be 1"):
        run.config() if name == "run.json" else run.result()
    main(["list", "--folder", str(tmp_path)])
    assert f"error: {tmp_path / name}" in capsys.readouterr().out


def test_a_value_of_another_kind_in_a_run_is_named(finished: Path, tmp_path: Path):
    content = json.loads((finished / "run.json").read_text())
    values = (("train_steps", "x"), ("num_envs", 0), ("seed", -1), ("start_from", 5), ("versions", []))
    for name, value in values:
        (tmp_path / "run.json").write_text(json.dumps(content | {name: value}))
        with pytest.raises(ValueError, match=f"run.json is damaged: {name}="):
            RunFolder(tmp_path).config()


def test_an_unfinished_run_is_called_so(finished: Path, tmp_path: Path, capsys: Captured):
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    for command in ("evaluate", "replay", "compare"):
        assert "holds an unfinished run" in error_of(capsys, command, str(tmp_path))


def test_a_damaged_log_is_named(finished: Path, tmp_path: Path, capsys: Captured):
    run = tmp_path / "ppo"
    shutil.copytree(finished, run)
    log = run / "decisions.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    report = ("report", str(run), "--output", str(tmp_path / "report"))
    few = ("--episodes", "2", "--num-envs", "2", "--output", str(tmp_path / "records"))
    assert "decisions.jsonl, line 120, is damaged" in error_of(capsys, *report)
    assert "decisions.jsonl, line 120, is damaged" in error_of(capsys, "compare", str(run), *few)
    for line in (b"{}\n", b"\xff\xfe\n", b"[1]\n", b"\n"):
        log.write_bytes(line)
        assert "decisions.jsonl, line 1, is damaged:" in error_of(capsys, "compare", str(run), *few)
    assert not (tmp_path / "records").exists()
    shutil.copy(finished / "decisions.jsonl", log)
    curve = (run / "evaluations.jsonl").read_text()
    for line in ("{}", "{", "{}\n"):
        (run / "evaluations.jsonl").write_text(curve + line)
        assert "evaluations.jsonl, line 3, is damaged" in error_of(capsys, "compare", str(run), *few)
    (run / "result.json").unlink()
    log.write_bytes(log.read_bytes()[:-20])
    main(list(report))  # of an unfinished run: its last row is being written
    log.write_text("")
    main(list(report))  # no episode has ended


def test_a_run_of_another_version_says_so(finished: Path, tmp_path: Path, capsys: Captured):
    content: dict[str, Any] = json.loads((finished / "run.json").read_text())
    content["versions"]["torch"] = "1.0"
    (tmp_path / "run.json").write_text(json.dumps(content))
    command = ("train", "ppo", *ENV, *STEPS, "--output", str(tmp_path), "--resume")
    assert "versions: {" in error_of(capsys, *command)


def test_the_arguments_of_the_environment_are_those_of_its_configuration():
    known = {entry.name for entry in dataclasses.fields(AutoTrainConfig)} - {"log_path", "history_in_info"}
    assert [entry.name for entry in dataclasses.fields(EnvArguments)] == [
        entry.name for entry in dataclasses.fields(AutoTrainConfig) if entry.name in known
    ]
    assert all(entry.default is None for entry in dataclasses.fields(EnvArguments))
    assert EnvArguments(inner_steps=10, stop=False).given() == {"inner_steps": 10, "stop": False}


def test_help_says_what_every_argument_does(capsys: Captured):
    described = described_arguments(AutoTrainConfig) | described_arguments(Task)
    commands = ("train ppo", "train es", "tune", "evaluate", "compare", "final", "report", "replay", "list")
    for command in (*commands, "demo"):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        lines = [line.strip("│╭╮╰╯─ ") for line in capsys.readouterr().out.splitlines()]
        options = [n for n, line in enumerate(lines) if re.match("--[a-z]", line)]
        assert options
        for n in options:
            own = lines[n].split()[2:] + ([] if n + 1 in options else lines[n + 1].split())
            assert len(own) > 3, lines[n]
        printed = " ".join(" ".join(lines).split())
        if command not in ("report", "list", "demo"):
            for name, text in described.items():
                if name not in ("log_path", "history_in_info"):
                    assert f"--env.{name.replace('_', '-')}" in printed
                    assert " ".join(text.split()[:3]) in printed
    assert described_arguments(AutoTrainConfig)["inner_steps"].startswith("Optimiser updates")


def test_replay(finished: Path, tmp_path: Path, capsys: Captured):
    main(["replay", str(finished), "--output", str(tmp_path / "run.png")])
    printed = capsys.readouterr().out
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.split() for line in printed.splitlines() if line[:10].strip().isdigit()]
    main(["replay", str(finished), "--output", str(tmp_path / "run.PDF")])
    assert (tmp_path / "run.PDF").read_bytes().startswith(b"%PDF")
    assert [int(row[0]) for row in rows] == [0, 20, 40, 60] and rows[0][1] == "reset"
    assert re.search(r"test accuracy 0\.\d+", printed)


def test_command_lines_are_read_as_they_are_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What every kind of algorithm takes, read as it is to be."""
    read: list[Any] = []
    for kind in (TrainAgent, TrainEvolution):
        monkeypatch.setattr(kind, "run", lambda self, console: read.append(self))
    main(["train", "ppo", "--seed", "3", "--env.dataset", "mnist", "--env.inner-steps", "20", "--resume"])
    main(["train", "es", "--hyperparameters", "policy=gru", "net_arch=[16]", "optimizer=clipup"])
    main(["train", "es", "--topology", "erdos-renyi", "--density", "0.3"])
    main(["train", "es", "--workers", "ray", "--ray-address", "auto", "--output", str(tmp_path)])
    main(["train", "a2c", "--start-from", str(tmp_path)])
    main(["train", "sac", "--env.reinit-learning-rate", "0.1", "--env.lr-bounds", "0.1", "2"])
    ppo, gru, graph, ray, a2c, sac = read
    assert (ppo.algorithm, ppo.seed, ppo.resume) == ("ppo", 3, True)
    assert ppo.env.given() == {"dataset": "mnist", "inner_steps": 20}
    assert gru.hyperparameters == ("policy=gru", "net_arch=[16]", "optimizer=clipup")
    assert (graph.algorithm, graph.topology, graph.density) == ("es", "erdos-renyi", 0.3)
    assert (ray.workers, ray.num_workers, ray.ray_address, ray.output) == ("ray", None, "auto", tmp_path)
    assert (a2c.algorithm, a2c.start_from) == ("a2c", tmp_path)
    assert sac.env.given() == {"reinit_learning_rate": 0.1, "lr_bounds": (0.1, 2.0)}


def test_errors_that_are_not_the_users_keep_their_traceback(
    finished: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*arguments: Any, **named: Any) -> None:
        torch.zeros(2).view(3)  # a RuntimeError
        raise AssertionError

    def broken_library(*arguments: Any, **named: Any) -> None:
        json.loads("{")  # a ValueError, from elsewhere

    for failure, kind in ((broken, RuntimeError), (broken_library, json.JSONDecodeError)):
        monkeypatch.setattr(evaluate, "evaluate_policy", failure)
        with pytest.raises(kind):
            main(["evaluate", str(finished), "--episodes", "2", "--num-envs", "2"])


def test_interrupted_commands_end_with_a_message(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
):
    def interrupt(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "evaluate_policy", interrupt)
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", str(finished), "--episodes", "2", "--num-envs", "2"])
    assert exit_.value.code == 130
    assert "Interrupted" in capsys.readouterr().err
