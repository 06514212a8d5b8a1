"""`evolve`: a classifier in a run folder; resuming, workers, what is refused."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from agents.__main__ import main
from agents.evolving.classifier_figures import plot_evolved_classifier
from agents.evolving.classifiers import (
    PICTURE_NAME,
    WEIGHTS_NAME,
    Chosen,
    EvolveConfig,
    EvolveFolder,
    evolve_classifier,
    make_trial,
    problem_of,
    read_classifier_hyperparameters,
)
from agents.evolving.workers import Serial, Workers, make_workers
from agents.runs.folder import RunFolder
from agents.runs.lifecycle import Interrupted
from autotrain_env.errors import InvalidValueError
from autotrain_env.evolution import Cosine, Decay
from tests.helpers.commands import Captured, error_of
from tests.helpers.runs import draw_elsewhere, rows_of, silent

SMALL: dict[str, Any] = {"population_size": 24, "batch_size": 20, "block_size": 4, "learned_std": "tensor"}
WORDS = tuple(f"{name}={value}" for name, value in SMALL.items())
COMMAND = (
    *("evolve", "--dataset", "digits", "--classifier", "mlp-12", "--generations", "12"),
    *("--train-size", "200", "--evaluation-generations", "4", "--hyperparameters", *WORDS),
)


def configuration(**more: Any) -> EvolveConfig:
    arguments: dict[str, Any] = {
        "dataset": "digits",
        "classifier": "mlp-12",
        "seed": 3,
        "generations": 12,
        "evaluation_generations": 4,
        "train_size": 200,
        "validation_size": None,
        "hyperparameters": SMALL,
    }
    return EvolveConfig(**(arguments | more))


def evolved(path: Path, report: Any = silent, workers: Workers | None = None, **more: Any) -> EvolveFolder:
    """A run from its beginning, or gone on with where there is one."""
    folder, config = EvolveFolder(path), configuration(**more)
    folder.open(config, resume=True, overwrite=False, of_others=False)
    evolve_classifier(config, folder, report, workers or Serial(), resume=True)
    return folder


def result_of(folder: EvolveFolder) -> dict[str, Any]:
    return json.loads((folder.path / "result.json").read_text())


def assert_same(left: EvolveFolder, right: EvolveFolder) -> None:
    """Two runs came to the same network by the same way, bit for bit."""
    assert (left.path / WEIGHTS_NAME).read_bytes() == (right.path / WEIGHTS_NAME).read_bytes()
    assert rows_of(left.generations) == rows_of(right.generations)
    without_time = [
        [{name: row[name] for name in row if name != "minutes"} for row in rows_of(folder.evaluations)]
        for folder in (left, right)
    ]
    assert without_time[0] == without_time[1]
    results = [{**result_of(folder), "minutes": 0} for folder in (left, right)]
    assert results[0] == results[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EvolveFolder:
    """A run that nothing disturbed."""
    return evolved(tmp_path_factory.mktemp("evolve") / "whole")


def test_the_command_writes_a_network_that_torch_loads(tmp_path: Path, capsys: Captured):
    main([*COMMAND, "--output", str(tmp_path / "run")])
    folder = EvolveFolder(tmp_path / "run")
    assert folder.finished and (folder.path / PICTURE_NAME).read_bytes().startswith(b"\x89PNG")
    assert any(folder.tensorboard.iterdir())
    result, evaluations = result_of(folder), rows_of(folder.evaluations)
    assert [row["generation"] for row in evaluations] == [0, 4, 8, 12]
    assert (
        evaluations[-1]["forward_passes"] == result["forward_passes"] == 12 * (24 + 8) * 20
    )  # and the centre
    assert len(rows_of(folder.generations)) == result["generations"] == 12
    best = max(evaluations, key=lambda row: (row["accuracy"], -row["log_loss"]))
    assert best["generation"] == result["chosen_generation"]
    config = folder.config()
    task = problem_of(make_trial(config, read_classifier_hyperparameters(config.hyperparameters, 12)[0]))
    module = config_module(task)
    module.load_state_dict(safetensors.torch.load_file(folder.path / WEIGHTS_NAME))
    images = torch.cat([images for images, _ in task.part("test")]).view(-1, *task.dataset.image_shape)
    with torch.no_grad():
        right = module(images).argmax(1) == torch.from_numpy(task.split.test_labels.copy())
    assert float(right.float().mean()) == pytest.approx(result["test"]["accuracy"])
    assert f"test accuracy {result['test']['accuracy']:.4f}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InvalidValueError, match="format='evolve 1' is not allowed"):
        RunFolder(folder.path).config()
    with pytest.raises(FileExistsError, match="holds a finished run: nothing is left to resume"):
        folder.open(config, resume=True, overwrite=False, of_others=False)
    with pytest.raises(FileExistsError, match="holds a finished run: use --overwrite or another --output"):
        folder.open(config, resume=False, overwrite=False, of_others=False)


def config_module(task: Any) -> torch.nn.Module:
    return task.architecture.classifier.build(task.dataset.image_shape, task.dataset.num_classes)


@pytest.mark.parametrize("at", [0, 5, 8])
def test_a_run_goes_on_bit_for_bit_after_ctrl_c(tmp_path: Path, whole: EvolveFolder, at: int):
    def interrupt(share: float) -> None:
        if share == (at + 1) / 12:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        evolved(tmp_path, interrupt)
    assert EvolveFolder(tmp_path).checkpoints()[-1].name == f"{at + 1:010d}"
    draw_elsewhere()
    assert_same(evolved(tmp_path), whole)


@pytest.mark.parametrize("at", [2, 6, 12])
def test_a_run_goes_on_bit_for_bit_after_its_process_died(tmp_path: Path, whole: EvolveFolder, at: int):
    def die(share: float) -> None:
        if share == at / 12:
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        evolved(tmp_path, die)
    draw_elsewhere()
    assert_same(evolved(tmp_path), whole)


@pytest.mark.slow
def test_processes_change_nothing(tmp_path: Path, whole: EvolveFolder):
    workers = make_workers("processes", 2)
    try:
        assert_same(evolved(tmp_path, workers=workers), whole)
    finally:
        workers.close()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_changes_nothing(tmp_path: Path, whole: EvolveFolder):
    pytest.importorskip("ray")
    workers = make_workers("ray", 2, announce=lambda text: None)
    try:
        assert_same(evolved(tmp_path, workers=workers), whole)
    finally:
        workers.close()


def test_it_says_about_ten_times_how_good_the_network_is(tmp_path: Path):
    said: list[str] = []
    for number, generations in enumerate((3, 40)):
        folder = EvolveFolder(tmp_path / str(number))
        config = configuration(generations=generations, evaluation_generations=1)
        folder.open(config, resume=False, overwrite=False, of_others=False)
        evolve_classifier(config, folder, silent, Serial(), announce=said.append)
    assert len(said) == 3 + 10
    best = result_of(folder)["validation"]["accuracy"]
    assert said[-1] == f"generation 40 of 40: validation accuracy {best:.4f}"


def test_another_seed_or_rank_is_another_run(tmp_path: Path, whole: EvolveFolder):
    found = {(whole.path / WEIGHTS_NAME).read_bytes()}
    for number, more in enumerate(({"seed": 4}, {"hyperparameters": {**SMALL, "rank": None}})):
        found.add((evolved(tmp_path / str(number), **more).path / WEIGHTS_NAME).read_bytes())
    assert len(found) == 3
    with pytest.raises(InvalidValueError, match="seed: 5 and 4"):
        EvolveFolder(tmp_path / "0").open(
            configuration(seed=5), resume=True, overwrite=False, of_others=False
        )


def test_a_cnn_is_evolved_too(tmp_path: Path):
    hyperparameters = {"population_size": 4, "batch_size": 20}
    folder = evolved(tmp_path, classifier="cnn", generations=2, hyperparameters=hyperparameters)
    assert result_of(folder)["generations"] == 2 and (folder.path / PICTURE_NAME).exists()


def test_validation_chooses_by_accuracy_then_by_loss():
    def found(accuracy: float, log_loss: float) -> Chosen:
        return Chosen(torch.zeros(1), 0, {"accuracy": accuracy, "log_loss": log_loss})

    first = found(0.5, 1.0)
    for other, wins in ((found(0.6, 2.0), True), (found(0.5, 0.9), True), (found(0.5, 1.0), False)):
        assert (first.better_of(other) is other) == wins
    assert first.better_of(found(0.9, float("nan"))).validation["accuracy"] == 0.9


def test_the_rate_follows_the_schedule():
    def rate(**given: Any) -> Any:
        return read_classifier_hyperparameters(given, 100)[1].learning_rate

    assert rate(learning_rate=0.2) == Cosine(0.2, 100, 0.002)
    assert rate(learning_rate=0.2, schedule="constant") == 0.2
    assert rate(learning_rate={"start": 0.2, "half_life": 5}) == Decay(0.2, 5)


def test_units_are_drawn_where_they_see_whole_images():
    rows = [{"generation": 0, "accuracy": 0.1}, {"generation": 5, "accuracy": 0.6}]
    result = {"chosen_generation": 5, "test": {"accuracy": 0.55}}
    for weight, shape, pictures in (
        (torch.randn(30, 12), (3, 2, 2), 25),
        (torch.zeros(2, 12), (12,), 0),
        (torch.zeros(2, 3, 3, 3), (3, 2, 2), 0),
    ):
        weights = {"bias": torch.zeros(2), "w": weight}
        figure = plot_evolved_classifier(rows, result, weights, {"w": torch.ones_like(weight)}, shape)
        axes = [axes for part in figure.subfigs for axes in part.axes] or figure.axes
        assert sum(len(each.images) for each in axes) == pictures
        assert list(axes[0].lines[0].get_ydata()) == [10, 60]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hyperparameters", "rank=13"), "rank=13 is not allowed: it must be at most 10"),
        (("--hyperparameters", "rank=0"), "rank=0"),
        (("--hyperparameters", "population_size=7"), "population_size=7"),
        (("--hyperparameters", "batch_size=2000"), "batch_size=2000"),
        (("--hyperparameters", "ranks=1"), "hyperparameter of evolve='ranks' is not a known name"),
        (("--hyperparameters", "schedule=linear"), "schedule='linear'"),
        (("--hyperparameters", "novelty=nsr"), "None: classifiers show no behaviour"),
        (("--hyperparameters", "threads=0"), "threads=0"),
        (("--classifier", "mpl-3"), "classifier='mpl-3'"),
        (("--generations", "0"), "generations=0"),
        (("--evaluation-generations", "0"), "evaluation_generations=0"),
        (("--train-size", "5000"), "train_size=5000"),
        (("--workers", "threads"), "workers='threads'"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_said_before_anything_is_written(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: Captured
):
    command = ("evolve", "--dataset", "digits", "--output", str(tmp_path / "run"), *words)
    assert message in error_of(capsys, *command)
    assert not (tmp_path / "run").exists()
