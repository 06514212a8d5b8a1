"""Training in a run folder: resuming, being killed, what is refused."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.runs.folder import KEPT_CHECKPOINTS, RunConfig, RunFolder
from agents.runs.lifecycle import Interrupted
from agents.runs.plain import STATE_FORMAT, read_state
from agents.training.algorithms import ALGORITHMS
from agents.training.callbacks import CurriculumCallback, Keeper
from agents.training.models import WITH_CRITIC
from agents.training.session import train
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.trained import load_policy
from tests.helpers.runs import (
    SMALL,
    assert_kills_change_nothing,
    assert_same_runs,
    begun,
    copy_of,
    draw_elsewhere,
    rows_of,
    seal,
    silent,
)

ON_POLICY = {"policy": "MlpPolicy", "n_steps": 6, "gamma": 1.0}
OFF_POLICY = {"policy": "MlpPolicy", "learning_starts": 16, "buffer_size": 200}
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "ppo": ON_POLICY | {"batch_size": 6, "n_epochs": 3, "learning_rate": "lin_0.001"},
    "maskable_ppo": ON_POLICY | {"batch_size": 6, "n_epochs": 3},
    "recurrent_ppo": ON_POLICY
    | {
        "policy": "MlpLstmPolicy",
        "batch_size": 6,
        "n_epochs": 3,
        "policy_kwargs": {"lstm_hidden_size": 16},
    },
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


Whole = Callable[[str], RunFolder]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Gives the finished run of an algorithm, each trained once; tests copy it before they change it."""
    folder, runs = tmp_path_factory.mktemp("whole"), {}

    def get(algorithm: str = "ppo") -> RunFolder:
        if algorithm not in runs:
            config = configuration(algorithm)
            run = begun(folder / algorithm, config)
            shares: list[float] = []
            train(config, run, shares.append)
            assert shares == sorted(shares) and shares[-1] >= 1.0
            runs[algorithm] = run
        return runs[algorithm]

    return get


def of_training(algorithm: str, *marks: Any) -> Any:
    """An algorithm as a parameter, in the group of the tests that share its training."""
    return pytest.param(algorithm, marks=[pytest.mark.xdist_group(f"whole-{algorithm}"), *marks])


of_ppo = pytest.mark.xdist_group("whole-ppo")

KINDS = ("ppo", "recurrent_ppo", "dqn", "ars")
"""Algorithms that keep different things: rollouts, a memory, a buffer of steps, candidates."""


@pytest.mark.parametrize(
    "algorithm",
    [of_training(name, *([] if name in KINDS else [pytest.mark.slow])) for name in ALGORITHMS],
)
def test_resumed_equals_uninterrupted(
    algorithm: str, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same parameters, decisions and evaluations, whatever the process had drawn in between."""
    config = configuration(algorithm)
    parts = begun(tmp_path / "parts", config)
    on_step = Keeper._on_step

    def fail(self: Keeper) -> bool:
        if self.model.num_timesteps >= 60:
            raise RuntimeError("the power went off")
        return on_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_on_step", fail)
        with pytest.raises(RuntimeError, match="power"):
            train(config, parts, silent)
    assert not parts.finished and len(parts.checkpoints()) > 0
    draw_elsewhere()
    train(config, parts, silent, resume=True)
    assert_same_runs(whole(algorithm), parts)
    steps = parts.result()["steps"]
    made = len(rows_of(parts.decisions))  # ARS lets lanes go on whose episode it no longer needs
    assert steps <= made <= steps * (2 if algorithm == "ars" else 1)


@of_ppo
def test_a_run_cut_short_in_its_last_evaluation_is_the_same_in_the_end(whole: Whole, tmp_path: Path):
    parts = copy_of(whole("ppo"), tmp_path / "parts", finished=False)
    train(configuration(), parts, silent, resume=True)
    assert_same_runs(whole("ppo"), parts)


@of_ppo
def test_a_resumed_run_counts_the_minutes_before(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert 0 < whole("ppo").result()["minutes"] < 60
    run = copy_of(whole("ppo"), tmp_path / "run", finished=False)
    assert 0 < read_state(run.checkpoints()[-1], configuration())["minutes"] < 60
    monkeypatch.setattr(
        "agents.runs.lifecycle.read_state", lambda *found: read_state(*found) | {"minutes": 100.0}
    )
    assert 100 < train(configuration(), run, silent, resume=True)["minutes"] < 160


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
    with pytest.raises(ValueError, match="result.json is damaged: .*with 'updates' among them"):
        after.cost()


@of_ppo
def test_what_a_run_leaves(whole: Whole):
    run = whole("ppo")
    result = run.result()
    assert (result["steps"], result["updates"]) == (96, 96 * 20)
    assert run.finished and not run.config().differences(configuration())
    assert [int(path.name) for path in run.checkpoints()] == [72, 96][-KEPT_CHECKPOINTS:]
    assert [row["train_steps"] for row in rows_of(run.evaluations)] == [24, 48, 72, 96]
    rows = rows_of(run.decisions)
    assert len(rows) == 96 and {row["lane"] for row in rows} == {0, 1}
    assert list(run.tensorboard.glob("events*"))
    assert load_policy(run.path).spec.environment == {
        "id": "AutoTrain-v0",
        "kwargs": SMALL,
        "decisions": 3,
    }
    assert not list(run.path.rglob(".*"))


@of_ppo
def test_evaluations_do_not_touch_training(whole: Whole, tmp_path: Path):
    config = configuration(evaluation_episodes=5)
    run = begun(tmp_path / "more", config)
    train(config, run, silent)
    one, other = (load_policy(each.path).network.state_dict() for each in (whole("ppo"), run))
    assert all(torch.equal(one[name], other[name]) for name in one)


@of_ppo
def test_training_seeds_share_no_task(whole: Whole, tmp_path: Path):
    config = configuration(seed=4, train_steps=24)
    run = begun(tmp_path / "other", config)
    train(config, run, silent)
    one, other = ({row["episode_seed"] for row in rows_of(each.decisions)} for each in (whole("ppo"), run))
    assert one and other and not one & other


@of_ppo
@pytest.mark.parametrize(("moment", "saved"), [(0.3, 36), (0.95, 96)])
def test_ctrl_c_saves_and_leaves(moment: float, saved: int, whole: Whole, tmp_path: Path):
    """At the end of the rollout that is under way, also of the last one."""
    usual = signal.getsignal(signal.SIGINT)  # ignored, where a shell runs the tests in the background
    config = configuration()
    parts = begun(tmp_path / "parts", config)
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
    assert_same_runs(whole("ppo"), parts)


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
    saved: dict[Path, int] = {}

    def watch(run: RunFolder) -> None:
        steps = [int(path.name) for path in run.checkpoints()]
        newest = max([0, *steps])
        lines = run.decisions.read_bytes().count(b"\n") if run.decisions.exists() else 0
        assert lines - newest <= 60  # no more than an interval is to be done again
        assert newest >= saved.get(run.path, 0)  # none is lost
        saved[run.path] = newest

    assert_kills_change_nothing([*COMMAND, *SMALL_STEPS, "--output"], tmp_path, 20, watch)


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


FILES = ("state.json", "state.safetensors", "files.json")


@of_ppo
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"nonsense", b"", b"half", None])
def test_a_damaged_checkpoint_is_named(name: str, content: bytes | None, whole: Whole, tmp_path: Path):
    run = copy_of(whole("ppo"), tmp_path / "run", finished=False)
    before = {path.name: path.read_bytes() for path in (run.decisions, run.evaluations)}
    file = run.checkpoints()[-1] / name
    if content is None:
        file.unlink()
    else:
        half = file.read_bytes()[: file.stat().st_size // 2]
        file.write_bytes(half if content == b"half" else content)
    with pytest.raises(InvalidValueError, match=f"{name} is (damaged|missing)"):
        train(configuration(), run, silent, resume=True)
    assert before == {path.name: path.read_bytes() for path in (run.decisions, run.evaluations)}


@of_ppo
@pytest.mark.parametrize("how", ["no list", "another format"])
def test_a_checkpoint_of_another_version_is_refused(how: str, whole: Whole, tmp_path: Path):
    run = copy_of(whole("ppo"), tmp_path / "run", finished=False)
    if how == "no list":
        (run.path / "checkpoints.json").unlink()
    else:
        state = run.checkpoints()[-1] / "state.json"
        own = f'"format":{STATE_FORMAT}'
        assert own in state.read_text()
        state.write_text(state.read_text().replace(own, f'"format":{STATE_FORMAT - 1}'))
        seal(run)
    with pytest.raises(InvalidValueError, match="made by another version.*--overwrite"):
        train(configuration(), run, silent, resume=True)


@pytest.mark.parametrize("algorithm", WITH_CRITIC)
def test_a_critic_learns_before_the_actor_is_trained(algorithm: str, tmp_path: Path):
    def weights(train_steps: int, critic_steps: int) -> dict[str, torch.Tensor]:
        given = HYPERPARAMETERS[algorithm] | {"critic_steps": critic_steps}
        config = configuration(algorithm, hyperparameters=given, train_steps=train_steps)
        run = begun(tmp_path / f"{train_steps}-{critic_steps}", config)
        train(config, run, silent)
        states = [read_state(checkpoint, config)["model"] for checkpoint in run.checkpoints()]
        critics = [state["parameters"]["policy"]["value_net.weight"] for state in states]
        assert len(critics) == 1 or not torch.equal(critics[0], critics[-1])  # always trained
        return load_policy(run.path).network.state_dict()

    def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[bool]:
        return [not torch.equal(one[name], other[name]) for name in one]

    kept, trained = weights(24, 24), weights(48, 24)
    assert not any(differ(kept, weights(48, 48)))
    assert all(differ(kept, trained)) and all(differ(kept, weights(24, 0)))
    assert any(differ(weights(48, 0), trained))
