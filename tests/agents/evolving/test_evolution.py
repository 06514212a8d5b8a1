"""`train es` in a run folder: resuming, what is left, what is refused."""

import math
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.__main__ import main
from agents.comparing.records import load_records
from agents.evolving.evolution import Evolution, evolve
from agents.evolving.hyperparameters import read_hyperparameters, replace_hyperparameters
from agents.evolving.members import Generation, Outcome, Trial
from agents.evolving.workers import Serial
from agents.runs.folder import KEPT_CHECKPOINTS, RunConfig, RunFolder
from agents.runs.lifecycle import Interrupted
from agents.runs.plain import read_state
from agents.runs.seeds import FINAL_SEED, MAX_ENVS, MAX_SEEDS, evolution_seed
from agents.training.hyperparameters import load_hyperparameters
from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import (
    CMAES,
    ClipUp,
    Decay,
    EvolutionStrategy,
    Novelty,
    RandomSearch,
    Shaping,
    SparseEvolutionStrategy,
    StudentTNoise,
)
from autotrain_env.policies.trained import load_policy
from tests.helpers.commands import Captured, error_of
from tests.helpers.runs import (
    SMALL,
    assert_kills_change_nothing,
    assert_same_runs,
    begun,
    copy_of,
    draw_elsewhere,
    rows_of,
    silent,
)

TINY = {"population_size": 6, "block_size": 4, "policy": "mlp", "net_arch": [3], "perturbation_std": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"optimizer": {"name": "clipup", "momentum": 0.8}, "learned_std": "tensor"},
    "linear": {"policy": "linear", "net_arch": [], "normalize": False, "masked": True, "episodes": 2},
    "gru": {"policy": "gru", "net_arch": [2, 3], "scaling": "fan_in"},
    "sampled": {"deterministic": False, "fitness": "score"},
    "low_rank": {"rank": 2, "learned_std": "global"},
    "novelty": {"novelty": "nsra", "distribution": {"name": "student_t", "degrees": 5}},
    "sparse": {"strategy": "sparse", "topology": "ring", "broadcast_every": 2},
    "cma_es": {"strategy": "cma_es", "separable": True},
    "random_search": {"strategy": "random_search"},
}
everywhere = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.xdist_group(f"evolved-{kind}")) for kind in KINDS]
)


def configuration(kind: str = "mlp", **kwargs: Any) -> RunConfig:
    given: dict[str, Any] = {
        "algorithm": "es",
        "env_id": "AutoTrain-v0",
        "env": SMALL,
        "num_envs": 2,
        "seed": 3,
        "train_steps": 90,
        "checkpoint_steps": 30,
        "evaluation_episodes": 3,
        "hyperparameters": TINY | KINDS[kind],
    }
    return RunConfig(**(given | kwargs))


Whole = Callable[[str], RunFolder]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Gives the finished run of a kind, each evolved once; tests copy it before they change it."""
    folder, runs = tmp_path_factory.mktemp("evolved"), {}

    def get(kind: str) -> RunFolder:
        if kind not in runs:
            config = configuration(kind)
            run = begun(folder / kind, config)
            shares: list[float] = []
            assert evolve(config, run, shares.append, Serial()) == run.result()
            assert shares == sorted(shares) and shares[-1] >= 1.0
            runs[kind] = run
        return runs[kind]

    return get


class PowerCut(Serial):
    """Fails in the generation of a number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def evaluate(self, trial: Trial, generation: Generation, members: int) -> Outcome:
        if generation.number == self.number:
            raise RuntimeError("the power went off")
        return super().evaluate(trial, generation, members)


@everywhere
def test_resumed_equals_uninterrupted(kind: str, whole: Whole, tmp_path: Path):
    config = configuration(kind)
    parts = begun(tmp_path / "parts", config)
    last = whole(kind).result()["generations"] - 1
    assert last >= 2
    for number in (1, last):
        with pytest.raises(RuntimeError, match="power"):
            evolve(config, parts, silent, PowerCut(number), resume=True)
        draw_elsewhere()
    assert parts.checkpoints()
    evolve(config, parts, silent, Serial(), resume=True)
    assert_same_runs(whole(kind), parts)


@pytest.mark.xdist_group("evolved-mlp")
def test_a_resumed_run_counts_the_minutes_before(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = copy_of(whole("mlp"), tmp_path / "run")
    assert 0 < run.result()["minutes"] < 60
    assert 0 < read_state(run.checkpoints()[-1], configuration())["minutes"] < 60
    monkeypatch.setattr(
        "agents.runs.lifecycle.read_state", lambda *found: read_state(*found) | {"minutes": 100.0}
    )
    assert 100 < evolve(configuration(), run, silent, Serial(), resume=True)["minutes"] < 160


@everywhere
def test_what_a_run_leaves(kind: str, whole: Whole):
    run = whole(kind)
    result = run.result()
    assert run.finished and result["steps"] >= 90
    assert 1 <= len(run.checkpoints()) <= KEPT_CHECKPOINTS
    rows = rows_of(run.generations)
    assert [row["generation"] for row in rows] == list(range(1, result["generations"] + 1))
    assert rows[-1]["train_steps"] == result["steps"]
    for row in rows:
        assert row["worst"] <= row["mean"] <= row["best"] and 0 <= row["score"] <= 1
    points = [row["train_steps"] for row in rows_of(run.evaluations)]
    assert points[-1] == result["steps"] and len(set(points)) == len(points) >= 2
    assert len({row["episode_seed"] for row in rows_of(run.decisions)}) == 3  # of the evaluations
    assert list(run.tensorboard.glob("events*"))
    policy = load_policy(run.path)
    assert policy.spec.environment == {
        "id": "AutoTrain-v0",
        "kwargs": SMALL,
        "decisions": 3,
    }
    assert policy.deterministic
    assert not list(run.path.rglob(".*"))


@pytest.mark.xdist_group("evolved-mlp")
def test_ctrl_c_saves_and_leaves(whole: Whole, tmp_path: Path):
    config = configuration()
    parts = begun(tmp_path / "parts", config)
    interrupted: list[float] = []
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(share: float) -> None:
        if not interrupted:
            interrupted.append(share)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        evolve(config, parts, interrupt, Serial())
    assert interrupted and not parts.finished and len(rows_of(parts.generations)) == 1
    assert signal.getsignal(signal.SIGINT) is handler
    evolve(config, parts, silent, Serial(), resume=True)
    assert_same_runs(whole("mlp"), parts)


@pytest.mark.xdist_group("evolved-mlp")
def test_a_checkpoint_of_another_version_is_refused(whole: Whole, tmp_path: Path):
    run = copy_of(whole("mlp"), tmp_path / "run", finished=False)
    for path in run.checkpoints():  # as earlier versions left them: without a list, pickled
        (path / "state.json").rename(path / "state.pkl")
    (run.path / "checkpoints.json").unlink()
    log = run.decisions.read_text()
    run.decisions.write_text(log.replace("holdout_answer", "holdout_score"))  # as its logs had it
    with pytest.raises(InvalidValueError, match="made by another version.*--overwrite"):
        evolve(configuration(), run, silent, Serial(), resume=True)


ENV = ("--env.budget", "60", "--env.classifier", "mlp-8", "--env.train-size", "100")
SIZES = ("population_size=6", "block_size=2", "policy=mlp", "net_arch=[3]")
STEPS = ("--train-steps", "90", "--checkpoint-steps", "40", "--evaluation-episodes", "2")
COMMAND = ("train", "es", *ENV, *STEPS, "--hyperparameters", *SIZES)


COMPARISON = ("--baselines", "random", "--episodes", "2", "--num-envs", "2", "--output")


@pytest.fixture(scope="session")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The finished run of a command."""
    folder = tmp_path_factory.mktemp("evolved") / "serial"
    main([*COMMAND, "--output", str(folder)])
    return RunFolder(folder)


@pytest.mark.slow
def test_all_workers_leave_the_same_run(evolved: RunFolder, tmp_path: Path):
    for kind in ("processes", "ray"):
        workers = ("--workers", kind, "--num-workers", "2")
        main([*COMMAND, "--output", str(tmp_path / kind), *workers])
        assert_same_runs(evolved, RunFolder(tmp_path / kind))


@pytest.mark.xdist_group("evolved")
def test_a_run_is_evaluated_compared_and_reported(evolved: RunFolder, tmp_path: Path):
    main(["evaluate", str(evolved.path), "--episodes", "2", "--num-envs", "2"])
    main(["compare", str(evolved.path), *COMPARISON, str(tmp_path / "c")])
    (record,) = (record for record in load_records([tmp_path / "c"]) if record.kind == "agent")
    assert record.cost["train_updates"] == evolved.result()["updates"]
    main(["report", str(evolved.path), "--output", str(tmp_path / "page")])
    assert (tmp_path / "page" / "serial_generations.png").stat().st_size > 10_000


@pytest.mark.xdist_group("evolved")
def test_another_seed_gives_another_policy(evolved: RunFolder, tmp_path: Path):
    main([*COMMAND, "--output", str(tmp_path / "other"), "--seed", "1"])
    one, other = (load_policy(path).network.state_dict() for path in (evolved.path, tmp_path / "other"))
    assert not torch.equal(one["layers.2.weight"], other["layers.2.weight"])


@pytest.mark.slow
def test_threads_change_no_bit_of_what_is_shipped(tmp_path: Path):
    """The default task, whose products are large enough to be shared out."""
    for threads in (1, 2):
        config = configuration(
            env={"observation_layout": "flat"},
            hyperparameters=load_hyperparameters("es", "AutoTrain-v0") | {"threads": threads},
            train_steps=1_800,
            checkpoint_steps=900,
        )
        evolve(config, begun(tmp_path / str(threads), config), silent, Serial())
    assert_same_runs(RunFolder(tmp_path / "1"), RunFolder(tmp_path / "2"))


@pytest.mark.slow
def test_killed_at_random_moments_every_run_resumes(tmp_path: Path):
    assert_kills_change_nothing([sys.executable, "-m", "agents", *COMMAND, "--output"], tmp_path, 20)


def test_fitness_that_is_no_number_is_skipped_and_said(tmp_path: Path):
    class Broken(Serial):
        def evaluate(self, trial: Trial, generation: Generation, members: int) -> Outcome:
            outcome = super().evaluate(trial, generation, members)
            if generation.number == 1:
                outcome.fitness[:] = math.nan
            return outcome

    config = configuration()
    run = begun(tmp_path / "run", config)
    evolve(config, run, silent, Broken())
    rows = rows_of(run.path / "generations.jsonl")
    assert [row["skipped"] for row in rows[:3]] == [False, True, False]


def test_members_meet_the_same_tasks_and_generations_others(tmp_path: Path):
    seeds: list[tuple[int, ...]] = []

    class Spy(Serial):
        def evaluate(self, trial: Trial, generation: Generation, members: int) -> Outcome:
            seeds.append(generation.task_seeds)
            return super().evaluate(trial, generation, members)

    for seed in (0, 1):
        config = configuration("linear", seed=seed)
        evolve(config, begun(tmp_path / str(seed), config), silent, Spy())
    flat = [seed for of_generation in seeds for seed in of_generation]
    assert len(set(flat)) == len(flat) > 4 and all(len(of_generation) == 2 for of_generation in seeds)
    assert min(flat) > FINAL_SEED + MAX_SEEDS * MAX_ENVS
    assert evolution_seed(0, 10**8 - 1) < evolution_seed(1, 0)
    for seed, episode in ((MAX_SEEDS, 0), (0, 10**8), (-1, 0)):
        with pytest.raises(ValueError, match=r"seed=|episode="):
            evolution_seed(seed, episode)


def test_policies_begin_alike_but_for_their_noise(tmp_path: Path):
    config = configuration("linear")
    run = Evolution(config, begun(tmp_path / "run", config), Serial())
    policy = run.policy(run.start())
    (weight, bias) = (policy.network.state_dict()[f"layers.1.{name}"] for name in ("weight", "bias"))
    assert not weight.any() and int(bias.argmin()) == len(bias) - 1  # which is to stop


def test_hyperparameters_are_read():
    for env_id in ("AutoTrain-v0", "AutoTrainContinuous-v0", "AutoTrainPrototype-v0", "AutoTrainRISA-v0"):
        settings, strategy = read_hyperparameters(load_hyperparameters("es", env_id))
        assert settings.strategy == "evolution" and isinstance(strategy, EvolutionStrategy)
    given = {
        "n_envs": 3,
        "population_size": 20,
        "learning_rate": {"start": 0.1, "half_life": 5},
        "perturbation_std": {"start": 0.2, "half_life": 5, "floor": 0.1},
        "distribution": {"name": "student_t", "degrees": 4},
        "optimizer": {"name": "clipup", "max_speed": 3},
        "shaping": {"name": "top_k", "k": 3},
        "novelty": {"kind": "nsra", "neighbors": 4},
    }
    settings, strategy = read_hyperparameters(given)
    assert strategy == EvolutionStrategy(
        population_size=20,
        learning_rate=Decay(0.1, 5),
        perturbation_std=Decay(0.2, 5, 0.1),
        distribution=StudentTNoise(4),
        optimizer=ClipUp(max_speed=3),
        shaping=Shaping("top_k", 3),
        novelty=Novelty("nsra", 4),
    )
    kinds = {
        "sparse": SparseEvolutionStrategy(20),
        "cma_es": CMAES(20),
        "random_search": RandomSearch(20),
    }
    for name, wanted in kinds.items():
        assert read_hyperparameters({"strategy": name, "population_size": 20})[1] == wanted


def test_another_strategy_takes_what_it_knows_of_the_file():
    known = load_hyperparameters("es", "AutoTrain-v0")
    for name in ("evolution", "sparse", "cma_es", "random_search"):
        given = replace_hyperparameters(known, {"strategy": name, "population_size": 20})
        assert read_hyperparameters(given)[1].population_size == 20
        assert given["n_envs"] == known["n_envs"]
        with pytest.raises(ValueError, match="'masks'"):
            read_hyperparameters(replace_hyperparameters(known, {"strategy": name, "masks": True}))
    with pytest.raises(ValueError, match="strategy='cma'.*nearest known one is 'cma_es'"):
        replace_hyperparameters(known, {"strategy": "cma"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "evolve"}, "strategy='evolve'"),
        ({"policy": "cnn"}, "policy='cnn'"),
        ({"fitness": "loss"}, "fitness='loss'"),
        ({"episodes": 0}, "episodes=0"),
        ({"block_size": 0}, "block_size=0"),
        ({"policy": "linear", "net_arch": [3]}, "net_arch=.*linear"),
        ({"policy": "gru", "net_arch": []}, "net_arch="),
        ({"net_arch": 16}, "net_arch=16.*list"),
        ({"perturbation_sdt": 0.1}, "perturbation_sdt.*nearest known one is 'perturbation_std'"),
        ({"strategy": "cma_es", "mirrored": True}, "strategy='cma_es'='mirrored'"),
        ({"population_size": 7}, "population_size=7.*even"),
        ({"optimizer": {"name": "adan"}}, "optimizer='adan'"),
        ({"distribution": {"name": "normal"}}, "distribution="),
        ({"novelty": "nes"}, "novelty kind='nes'"),
        ({"learning_rate": {"foo": 1}}, "learning_rate=.*unexpected keyword argument 'foo'"),
        ({"optimizer": {"name": "adam", "foo": 1}}, "optimizer=.*unexpected keyword argument 'foo'"),
        ({"perturbation_std": "x"}, "perturbation_std.*not convert string"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        read_hyperparameters(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "star"), "topology='star'"),
        (("--topology", "ring", "--density", "0.5"), "density=0.5.*erdos-renyi"),
        (("--topology", "erdos-renyi", "--density", "2"), r"density=2.*\(0, 1\]"),
        (("--topology", "erdos-renyi", "--density", "0.01"), "density=0.01.*falls into 3 parts"),
        (("--workers", "mpi"), "workers='mpi'"),
        (("--num-workers", "2"), "num_workers=2.*serial"),
        (("--env.tasks", "curriculum"), "of 3 levels.*es follows no curriculum"),
        (("--seed", "50000"), "seed=50000.*below 50000"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: Captured
):
    assert re.search(message, error_of(capsys, *COMMAND, "--output", str(tmp_path / "run"), *arguments))
    assert not (tmp_path / "run").exists()


def test_arguments_of_others_are_refused(tmp_path: Path, capsys: Captured):
    output = ("--output", str(tmp_path / "run"))
    for algorithm, argument in (
        ("ppo", ("--topology", "ring")),
        ("dqn", ("--start-from", str(tmp_path))),
        ("es", ("--success-score", "0.5")),
    ):
        assert f"options: {argument[0]}" in error_of(capsys, "train", algorithm, *ENV, *output, *argument)
    assert "policy.json" in error_of(capsys, "train", "ppo", *ENV, *output, "--start-from", str(tmp_path))
    assert not (tmp_path / "run").exists()
    assert "algorithm='es'" in error_of(capsys, "tune", "es")


@pytest.mark.xdist_group("evolved")
def test_a_resume_with_another_population_says_in_what(evolved: RunFolder, capsys: Captured):
    output = ("--output", str(evolved.path), "--resume")
    said = error_of(capsys, *COMMAND, "population_size=8", *output)
    assert "was begun otherwise" in said and "'population_size': 8" in said


def test_a_run_that_has_just_begun_is_reported(tmp_path: Path):
    run = begun(tmp_path / "run", configuration())
    with pytest.raises(RuntimeError, match="power"):
        evolve(configuration(), run, silent, PowerCut(0))
    run.generations.touch()
    main(["report", str(run.path), "--output", str(tmp_path / "page")])
    assert "unfinished" in (tmp_path / "page" / "index.html").read_text()
