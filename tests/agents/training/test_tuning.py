"""`python -m agents tune`: a study that can be interrupted, and says what it was."""

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
    finished_trials,
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


def test_a_trial_of_a_killed_process_is_made_again(tmp_path: Path):
    study = make_study()
    made = open_study(study, tmp_path / "study.db")
    made.ask()  # never told
    again = open_study(study, tmp_path / "study.db")
    assert [trial.state for trial in again.trials] == [TrialState.FAIL]
    run_study(study, again, 1, lambda share: None)
    assert len(finished_trials(again)) == 1


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
