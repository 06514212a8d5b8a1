"""Training in a run folder: resuming, being killed, what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.runs.folder import KEPT_CHECKPOINTS, RunConfig, RunFolder
from agents.runs.session import Interrupted, read_state
from agents.training.algorithms import ALGORITHMS
from agents.training.callbacks import CurriculumCallback, Keeper
from agents.training.session import train
from autotrain_env.policies.trained import load_policy

ROOT = Path(__file__).parents[3]
SMALL = {
    "observation_layout": "flat",
    "dataset": "digits",
    "budget": 60,
    "train_size": 100,
    "classifier": "mlp-8",
}
ON_POLICY = {"policy": "MlpPolicy", "n_steps": 6, "gamma": 1.0}
OFF_POLICY = {"policy": "MlpPolicy", "learning_starts": 16, "buffer_size": 200}
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "ppo": ON_POLICY | {"batch_size": 6, "learning_rate": "lin_0.001"},
    "maskable_ppo": ON_POLICY | {"batch_size": 6},
    "recurrent_ppo": ON_POLICY | {"policy": "MlpLstmPolicy", "batch_size": 6},
    "trpo": ON_POLICY | {"batch_size": 6},
    "a2c": ON_POLICY,
    "dqn": OFF_POLICY | {"exploration_fraction": 0.8},
    "qrdqn": OFF_POLICY | {"exploration_fraction": 0.8},
    "sac": OFF_POLICY,
    "td3": OFF_POLICY | {"noise_type": "normal", "noise_std": 0.2},
    "ars": {"policy": "LinearPolicy", "n_delta": 2, "n_top": 1, "n_eval_episodes": 2},
}


def configuration(algorithm: str = "ppo", **kwargs: Any) -> RunConfig:
    given: dict[str, Any] = {
        "algorithm": algorithm,
        "env_id": ALGORITHMS[algorithm].env_id,
        "env": SMALL,
        "num_envs": 2,
        "seed": 3,
        "train_steps": 96,
        "checkpoint_steps": 24,
        "evaluation_episodes": 2,
        "hyperparameters": HYPERPARAMETERS[algorithm],
    }
    return RunConfig(**(given | kwargs))


def begun(folder: Path, config: RunConfig) -> RunFolder:
    run = RunFolder(folder)
    run.begin(config, overwrite=False)
    return run


def silent(share: float) -> None:
    """Report nothing."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_runs(left: RunFolder, right: RunFolder) -> None:
    one, other = (load_policy(run.path).network.state_dict() for run in (left, right))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows_of(left.decisions) == rows_of(right.decisions)
    assert rows_of(left.evaluations) == rows_of(right.evaluations)
    assert left.result()["steps"] == right.result()["steps"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resumed_equals_uninterrupted(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same parameters, decisions and evaluations, whatever the process had drawn in between."""
    config = configuration(algorithm)
    whole = begun(tmp_path / "whole", config)
    train(config, whole, silent)

    parts = begun(tmp_path / "parts", config)
    on_step = Keeper._on_step

    def fail(self: Keeper) -> bool:
        if self.model.num_timesteps >= 60:
            raise RuntimeError("the power went off")
        return on_step(self)

    monkeypatch.setattr(Keeper, "_on_step", fail)
    with pytest.raises(RuntimeError, match="power"):
        train(config, parts, silent)
    assert not parts.finished and len(parts.checkpoints()) > 0
    monkeypatch.undo()
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    train(config, parts, silent, resume=True)
    assert_same_runs(whole, parts)
    made = len(rows_of(whole.decisions))  # ARS lets lanes go on whose episode it no longer needs
    assert whole.result()["steps"] <= made <= whole.result()["steps"] * (2 if algorithm == "ars" else 1)


def test_a_run_cut_short_in_its_last_evaluation_is_the_same_in_the_end(tmp_path: Path):
    config = configuration()
    whole, parts = begun(tmp_path / "whole", config), begun(tmp_path / "parts", config)
    train(config, whole, silent)
    train(config, parts, silent)
    (parts.path / "result.json").unlink()
    (parts.path / "policy.json").unlink()
    train(config, parts, silent, resume=True)
    assert_same_runs(whole, parts)


def test_a_resumed_run_counts_the_minutes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = configuration()
    run = begun(tmp_path / "run", config)
    assert 0 < train(config, run, silent)["minutes"] < 60
    assert 0 < read_state(run.checkpoints()[-1])["minutes"] < 60
    monkeypatch.setattr(
        "agents.training.session.read_state", lambda path: read_state(path) | {"minutes": 100.0}
    )
    assert 100 < train(config, run, silent, resume=True)["minutes"] < 160


def test_the_cost_counts_the_run_that_training_began_with(tmp_path: Path):
    before = begun(tmp_path / "before", configuration())
    rest = {"steps": 96, "evaluation": {"score": 0.5}}
    before.finish({"updates": 192, "minutes": 1.5, **rest})
    after = begun(tmp_path / "after", configuration(start_from=str(before.path)))
    after.finish({"updates": 8, "minutes": 0.25, **rest})
    assert (before.cost(), after.cost()) == ((192, 1.5), (200, 1.75))
    (tmp_path / "before" / "result.json").unlink()
    assert after.cost() == (8, 0.25)
    after.finish(rest)
    with pytest.raises(ValueError, match="result.json is damaged: it must hold numbers named steps, upda"):
        after.cost()


def test_what_a_run_leaves(tmp_path: Path):
    config = configuration()
    run = begun(tmp_path / "run", config)
    shares: list[float] = []
    result = train(config, run, shares.append)
    assert (result["steps"], result["updates"]) == (96, 96 * 20)
    assert run.finished and run.result() == result
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert not run.config().differences(config)
    assert [int(path.name) for path in run.checkpoints()] == [72, 96][-KEPT_CHECKPOINTS:]
    assert [row["train_steps"] for row in rows_of(run.evaluations)] == [24, 48, 72, 96]
    rows = rows_of(run.decisions)
    assert len(rows) == 96 and {row["lane"] for row in rows} == {0, 1}
    assert list(run.tensorboard.glob("events*"))
    assert load_policy(run.path).spec.environment == {"id": "AutoTrain-v0", "kwargs": SMALL}
    assert not list(run.path.rglob(".*"))


def test_evaluations_do_not_touch_training(tmp_path: Path):
    runs = []
    for name, episodes in (("few", 1), ("many", 5)):
        config = configuration(evaluation_episodes=episodes)
        run = begun(tmp_path / name, config)
        train(config, run, silent)
        runs.append(load_policy(run.path).network.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_training_seeds_share_no_task(tmp_path: Path):
    seen = []
    for seed in (0, 1):
        config = configuration(seed=seed, train_steps=24)
        run = begun(tmp_path / str(seed), config)
        train(config, run, silent)
        seen.append({row["episode_seed"] for row in rows_of(run.decisions)})
    assert seen[0] and not seen[0] & seen[1]


@pytest.mark.parametrize(("moment", "saved"), [(0.3, 36), (0.95, 96)])
def test_ctrl_c_saves_and_leaves(moment: float, saved: int, tmp_path: Path):
    """At the end of the rollout that is under way, also of the last one."""
    usual = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    config = configuration()
    whole, parts = begun(tmp_path / "whole", config), begun(tmp_path / "parts", config)
    train(config, whole, silent)

    interrupted: list[float] = []

    def interrupt(share: float) -> None:
        if share > moment and not interrupted:
            interrupted.append(share)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, parts, interrupt)
    assert interrupted and not parts.finished
    assert int(parts.checkpoints()[-1].name) == saved
    assert signal.getsignal(signal.SIGINT) is usual
    train(config, parts, silent, resume=True)
    assert_same_runs(whole, parts)


def test_a_curriculum_rises_and_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[CurriculumCallback] = []

    def make(*arguments: Any) -> CurriculumCallback:
        made.append(CurriculumCallback(*arguments, window=5))
        return made[-1]

    monkeypatch.setattr("agents.training.callbacks.CurriculumCallback", make)
    config = configuration(env=SMALL | {"tasks": "curriculum"}, success_score=0.0)
    whole, parts = begun(tmp_path / "whole", config), begun(tmp_path / "parts", config)
    train(config, whole, silent)
    assert made[0].level == 2
    interrupted: list[float] = []

    def interrupt(share: float) -> None:
        if share > 0.2 and not interrupted:
            interrupted.append(share)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(config, parts, interrupt)
    assert made[1].level == 1
    train(config, parts, silent, resume=True)
    assert made[2].level == 2
    assert_same_runs(whole, parts)
    with pytest.raises(ValueError, match="success_score=None"):
        Keeper(configuration(env=SMALL | {"tasks": "curriculum"}), whole, silent)


COMMAND = (sys.executable, "-m", "agents", "train", "ppo", "--num-envs", "2", "--env.budget", "60")
SMALL_STEPS = ("--checkpoint-steps", "60", "--evaluation-episodes", "1", "--train-steps", "600")


@pytest.mark.slow
def test_killed_at_random_moments_every_run_resumes(tmp_path: Path):
    """What was done before the newest checkpoint is kept; the end is that of an undisturbed run."""
    config_args = (*COMMAND, *SMALL_STEPS, "--output")
    start = time.monotonic()
    subprocess.run([*config_args, tmp_path / "whole"], cwd=ROOT, check=True, capture_output=True)
    usual = time.monotonic() - start
    generator, kills, round_ = random.Random(0), 0, 0
    while kills < 20:
        run = RunFolder(tmp_path / f"parts{round_}")
        saved = [0]
        while not run.finished:
            process = subprocess.Popen([*config_args, run.path, "--resume"], cwd=ROOT, stdout=-3, stderr=-3)
            try:
                process.wait(timeout=generator.uniform(0, usual))
                assert process.returncode == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
            newest = max([0, *(int(path.name) for path in run.checkpoints())])
            lines = run.decisions.read_bytes().count(b"\n") if run.decisions.exists() else 0
            assert lines - newest <= 60  # no more than an interval is to be done again
            saved.append(max([saved[-1], *(int(path.name) for path in run.checkpoints())]))
            assert not run.checkpoints() or int(run.checkpoints()[-1].name) == saved[-1]  # none is lost
        assert_same_runs(RunFolder(tmp_path / "whole"), run)
        round_ += 1


def test_a_full_disk_leaves_the_newest_checkpoint(tmp_path: Path):
    run = begun(tmp_path / "run", configuration())
    run.save_checkpoint(10, lambda folder: (folder / "file").write_text("good") and None)

    def full(folder: Path) -> None:
        (folder / "file").write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run.save_checkpoint(20, full)
    (only,) = (run.path / "checkpoints").iterdir()
    assert only.name == "0000000010" and (only / "file").read_text() == "good"


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer.pkl", "state.pkl"])
@pytest.mark.parametrize("content", [b"nonsense", b"", b"half", None])
def test_a_damaged_checkpoint_is_named(name: str, content: bytes | None, tmp_path: Path):
    config = configuration("dqn", train_steps=48)
    run = begun(tmp_path / "run", config)
    train(config, run, silent)
    file = run.checkpoints()[-1] / name
    if content is None:
        file.unlink()
    else:
        half = file.read_bytes()[: file.stat().st_size // 2]
        file.write_bytes(half if content == b"half" else content)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        train(config, run, silent, resume=True)
