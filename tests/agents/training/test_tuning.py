"""`python -m agents tune`: a study that can be interrupted, and says what it was."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from agents.__main__ import main
from agents.training import tuning
from agents.training.algorithms import ALGORITHMS
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from agents.training.tuning import (
    SPACES,
    Study,
    open_study,
    run_study,
    suggest,
    write_hyperparameters,
)
from autotrain_env.envs.sb3 import make_sb3_env
from tests.helpers import tiny
from tests.helpers.commands import ENV, Captured, error_of

SMALL = ("--train-steps", "120", "--num-envs", "2", "--evaluation-episodes", "2", "--evaluations", "2")


def make_study(**more: Any) -> Study:
    env = tiny(observation_layout="flat")
    return Study(
        **{
            "algorithm": "a2c",
            "env_id": "AutoTrain-v0",
            "env": env,
            "num_envs": 2,
            "train_steps": 120,
            "evaluations": 2,
            "evaluation_episodes": 2,
            "seed": 0,
        }
        | more
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_space_gives_hyperparameters_that_the_algorithm_takes(name: str):
    env_id = ALGORITHMS[name].env_id
    known = load_hyperparameters(name, env_id)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    env = make_sb3_env(env_id, 2, **tiny(observation_layout="flat"))
    for _ in range(2):
        chosen = suggest(name, study.ask(), known)
        assert chosen.keys() >= known.keys() and chosen != known
        assert chosen.get("gamma", 1.0) == 1.0
        make_model(name, env, chosen)
    assert SPACES.keys() == ALGORITHMS.keys()


def test_a_study_is_gone_on_with(tmp_path: Path, capsys: Captured):
    storage = tmp_path / "study.db"
    command = ["tune", "a2c", *ENV, *SMALL, "--storage", str(storage), "--trials"]
    main([*command, "1"])
    (first,) = optuna.load_study(study_name=None, storage=f"sqlite:///{storage}").trials
    main([*command, "2"])
    trials = optuna.load_study(study_name=None, storage=f"sqlite:///{storage}").trials
    assert len(trials) == 2 and trials[0].params == first.params and trials[0].value == first.value
    assert len({trial.params["learning_rate"] for trial in trials}) == 2
    assert "best validation score" in capsys.readouterr().out
    assert "train_steps: 240 and 120" in error_of(capsys, *command, "3", "--train-steps", "240")
    assert "trials=0" in error_of(capsys, *command, "0")
    storage.write_text("my own notes")
    assert "an SQLite file, or a new one" in error_of(capsys, *command, "3")
    assert storage.read_text() == "my own notes"
    storage.write_bytes(b"SQLite format 3\0" + 200 * b"x")
    assert "is damaged" in error_of(capsys, *command, "3")


NAMED = tiny(dataset="synthetic", observation_layout="flat")  # which is the same in every process
SLOW = """
import sys, time
from pathlib import Path
from agents.training import tuning
from agents.training.tuning import open_study, run_study
from tests.agents.training.test_tuning import NAMED, make_study

def evaluate(self):
    print(self.trial.number, flush=True)
    time.sleep(float(sys.argv[3]))
    return 0.5

tuning.Pruning.evaluate = evaluate
tuning.HEARTBEAT_INTERVAL, tuning.GRACE_PERIOD = 1, int(sys.argv[4])
made = open_study(study := make_study(env=NAMED), Path(sys.argv[1]))
run_study(study, made, int(sys.argv[2]), lambda share: None)
"""


def start_study(storage: Path, trials: int, seconds: float, grace: int = 90) -> "subprocess.Popen[str]":
    """Begin a study, or go on with it, in another process; it prints the numbers of its trials."""
    arguments = [str(storage), str(trials), str(seconds), str(grace)]
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_can_work_on_one_study(tmp_path: Path):
    """Neither takes the other's trial for one that was killed, nor tries the same."""
    storage = tmp_path / "study.db"
    study = make_study(env=NAMED)
    open_study(study, storage)
    processes = [start_study(storage, 4, 1.0) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    made = open_study(study, storage)
    assert {trial.state for trial in made.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert 4 <= len(made.trials) <= 5
    assert len({trial.params["learning_rate"] for trial in made.trials}) == len(made.trials)


@pytest.mark.slow
def test_a_trial_of_a_killed_process_is_made_again(tmp_path: Path):
    storage = tmp_path / "study.db"
    process = start_study(storage, 1, 600, grace=2)
    assert process.stdout is not None and process.stdout.readline() == "0\n"
    process.kill()
    process.communicate()
    study = make_study(env=NAMED)
    assert [trial.state for trial in open_study(study, storage).trials] == [TrialState.RUNNING]
    time.sleep(3)
    after = start_study(storage, 1, 0.0, grace=2)
    assert after.communicate(timeout=120)[0] == "1\n1\n"
    made = open_study(study, storage)
    assert [trial.state for trial in made.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_was_given_up_meanwhile_does_not_end_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As when a computer was asleep, and another process went on."""
    study = make_study()
    made = open_study(study, tmp_path / "study.db")

    def evaluate(self: Any) -> float:
        if self.trial.number == 0:
            open_study(study, tmp_path / "study.db").tell(0, state=TrialState.FAIL)
        return 0.5

    monkeypatch.setattr(tuning.Pruning, "evaluate", evaluate)
    run_study(study, made, 1, lambda share: None)
    assert [trial.state for trial in made.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_an_error_of_a_trial_ends_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def evaluate(self: Any) -> float:
        raise ValueError("no score")

    monkeypatch.setattr(tuning.Pruning, "evaluate", evaluate)
    study = make_study()
    made = open_study(study, tmp_path / "study.db")
    with pytest.raises(ValueError, match="no score"):
        run_study(study, made, 1, lambda share: None)


def test_a_study_draws_the_same_however_often_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tuning.Pruning, "evaluate", lambda self: float(self.trial.number))
    study, drawn = make_study(), []
    for name, parts in (("whole", [3]), ("parts", [1, 3])):
        for trials in parts:
            made = open_study(study, tmp_path / name)
            run_study(study, made, trials, lambda share: None)
        drawn.append([trial.params for trial in made.trials])
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3


def test_bad_trials_are_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trials are scored by their number, the later the worse."""
    monkeypatch.setattr(tuning.Pruning, "evaluate", lambda self: -float(self.trial.number))
    study = make_study()
    made = open_study(study, tmp_path / "study.db")
    run_study(study, made, 7, lambda share: None)
    states = [trial.state for trial in made.trials]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED] * 3
    assert made.best_trial.number == 0


def test_the_file_says_how_large_the_study_was(tmp_path: Path):
    study = make_study()
    made = open_study(study, tmp_path / "study.db")
    run_study(study, made, 1, lambda share: None)
    path = tmp_path / "a2c.yml"
    kept = "# AutoTrainRISA-v0: best of 12 trials (2 of them pruned)\n# of 10 env steps.\n# on {}.\n"
    path.write_text(kept + "AutoTrainRISA-v0: {gamma: 1.0}\n")
    write_hyperparameters(study, made, path)
    text = path.read_text()
    assert text.count("best of 12 trials") == 1 and kept in text
    write_hyperparameters(study, made, path)
    assert path.read_text() == text
    assert "best of 1 trials (0 of them pruned)" in text and "of 120 env steps" in text
    entries = yaml.safe_load(text)
    assert entries["AutoTrainRISA-v0"] == {"gamma": 1.0}
    assert entries["AutoTrain-v0"] == made.best_trial.user_attrs["hyperparameters"]
    assert entries["AutoTrain-v0"]["gamma"] == 1.0 and entries["AutoTrain-v0"]["policy"] == "MlpPolicy"
