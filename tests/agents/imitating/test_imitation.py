"""`train dagger`: tasks swept alike by whatever workers, a policy that follows, runs that go on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.evolving.workers import Processes, Serial
from agents.imitating import imitation, sweeps
from agents.imitating.fitting import fit
from agents.imitating.hyperparameters import (
    ImitationHyperparameters,
    check_imitated,
    read_imitation_hyperparameters,
)
from agents.imitating.imitation import Imitation, ImitationProgress, imitate
from agents.imitating.sweeps import Round, States, SweepTrial, _Block
from agents.runs.folder import RunConfig, RunFolder
from agents.runs.lifecycle import Interrupted, Interruption
from agents.training.hyperparameters import load_hyperparameters
from autotrain_env import ENVIRONMENTS, AutoTrainConfig, AutoTrainEnv
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.stacked import make_spec
from autotrain_env.policies.trained import TrainedPolicy, load_policy
from tests.helpers import assert_same
from tests.helpers.runs import assert_same_runs, begun, draw_elsewhere, silent

RUNS = "AutoTrainRuns-v0"
SMALL: dict[str, Any] = {
    "observation_layout": "flat",
    "dataset": "digits",
    "budget": 60,
    "train_size": 100,
    "classifier": "mlp-8",
    "inner_steps": 10,
}
FEW: dict[str, Any] = {
    **{"net_arch": [8], "tasks_per_round": 3, "rates": 4, "walkers": 2, "states_per_task": 20},
    **{"fit_steps": 5, "batch_size": 16, "block_size": 2},
}


def configuration(**more: Any) -> RunConfig:
    given: dict[str, Any] = {
        "algorithm": "dagger",
        "env_id": RUNS,
        "env": SMALL,
        "num_envs": 2,
        "seed": 3,
        "train_steps": 300,
        "checkpoint_steps": 1,
        "evaluation_episodes": 2,
        "hyperparameters": FEW,
    }
    return RunConfig(**(given | more))


def run_of(folder: Path, **more: Any) -> Imitation:
    config = configuration(**more)
    return Imitation(config, begun(folder, config), Serial())


def assert_same_states(one: States, other: States) -> None:
    for name, values in vars(one).items():
        assert_same(getattr(other, name), values, name)


def test_tasks_are_the_same_whoever_plays_them_and_beside_whom(tmp_path: Path):
    run = run_of(tmp_path / "run")
    progress, _ = run.play(ImitationProgress())
    for round_ in (Round(0, 3, None), Round(1, 3, progress.weights)):
        together = run.trial.evaluate(round_, range(5))
        parts = [run.trial.evaluate(round_, members) for members in (range(1), range(1, 4), range(4, 5))]
        joined = run.trial.join(parts)
        assert_same_states(joined.states, together.states)
        assert_same(joined.best, together.best)
        assert_same(joined.walked, together.walked)
        assert (joined.env_steps, joined.updates) == (together.env_steps, together.updates)
    other = run.trial.evaluate(Round(2, 3, progress.weights), range(5))
    assert not np.array_equal(other.best, together.best)


@pytest.mark.slow
def test_processes_play_the_same(tmp_path: Path):
    run = run_of(tmp_path / "run")
    workers = Processes(2)
    try:
        found = workers.evaluate(run.trial, Round(0, 3, None), 5)
    finally:
        workers.close()
    assert_same_states(found.states, run.trial.evaluate(Round(0, 3, None), range(5)).states)


def test_lanes_of_a_task_begin_alike_and_the_first_keep_to_lines(tmp_path: Path):
    trial = run_of(tmp_path / "run").trial
    block = _Block(trial, Round(0, 3, None), [0, 1], None)
    rates = np.stack([block._begin(number) for number in range(2)])
    core = block.core
    episodes = core.episodes
    for task in range(2):
        lanes = slice(task * 6, task * 6 + 6)
        assert len({episode.seed for episode in episodes[lanes]}) == 1
        first = core.lineage.learning_rate[lanes]
        np.testing.assert_allclose(first[:4], rates[task])
        assert first[4] == episodes[task * 6 + 4].task.initial_learning_rate
        assert first[5] not in first[:5]
        losses = core.lineage.loss[lanes]
        assert (losses == losses[0]).all()  # the same network, before any update
    assert episodes[0].seed != episodes[6].seed
    for step in range(6):
        core.step(core.decode(block._act()))
        line = rates * (6 - step - 0.5) / 6.5
        found = core.lineage.learning_rate.reshape(2, 6)[:, :4]
        np.testing.assert_allclose(found, line.clip(1e-6, 100))
    assert not core.lanes.running.any()


def test_final_scores_are_those_of_validation_and_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tasks: list[sweeps.Played] = []

    def watched(played: sweeps.Played, *more: Any) -> np.ndarray:
        tasks.append(played)
        return sweeps_advantages(played, *more)

    sweeps_advantages = sweeps.advantages
    monkeypatch.setattr(sweeps, "advantages", watched)
    block = _Block(run_of(tmp_path / "run").trial, Round(0, 3, None), [0, 1], None)
    block.sweep()
    core, lanes = block.core, np.arange(12)
    test = core.stacks.test(lanes, core.lineage.diverged, best=False)["accuracy"]
    for task, played in enumerate(tasks):
        for lane in range(6):
            at = 6 * task + lane
            split = core.episodes[at].split
            sizes = len(split.validation_labels), len(split.test_labels)
            right = core.lanes.score[at] * sizes[0] + test[at] * sizes[1]
            assert np.sin(played.final[lane]) ** 2 == pytest.approx(right / sum(sizes))
        assert np.sin(played.chance) ** 2 == pytest.approx(0.1)
    assert len(tasks) == 2 and len({*test.tolist()}) > 2


def test_rates_fit_the_update_rule(tmp_path: Path):
    for optimizer, low, high in (("adam", 1e-5, 0.1), ("momentum", 1e-3, 10.0), ("rmsprop", 1e-5, 0.1)):
        trial = run_of(tmp_path / optimizer, env=SMALL | {"optimizer": optimizer}).trial
        rates = _Block(trial, Round(0, 0, None), [0], None)._begin(0)
        np.testing.assert_allclose(rates[[0, -1]], [low, high])


def test_a_fit_takes_what_was_best(tmp_path: Path):
    run = run_of(tmp_path / "run")
    generator = np.random.default_rng(0)
    size, count = run.spec.observation_space.shape[0], run.spec.num_actions
    observations = generator.normal(size=(400, size)).astype(np.float16)
    observations[:, 3:] = 0
    best = np.where(observations[:, 0] > 0, 2, 9)  # a rewind that is hardly ever tried at first, too
    worth = np.full((400, count), -0.1, np.float16)
    worth[np.arange(400), best] = 0.1
    masks = np.ones((400, count), bool)
    masks[::2, 9] = False
    states = States(observations, masks, worth, np.ones(400, np.float32))
    settings = ImitationHyperparameters(net_arch=(16,), fit_steps=500, batch_size=64, learning_rate=0.02)
    before = torch.random.get_rng_state()
    fitted = [fit(states, _spec(run, 16), settings, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(fitted[0][name], fitted[1][name]) for name in fitted[0])
    assert any(not torch.equal(fitted[0][name], fitted[2][name]) for name in fitted[0])
    policy = TrainedPolicy(_spec(run, 16), fitted[0])
    actions, _ = policy.predict(observations.astype(np.float32), masks)
    sure = np.abs(observations[:, 0]) > 0.3
    possible = masks[np.arange(400), best] & sure
    assert (actions == best)[possible].mean() > 0.95
    assert not (actions[::2] == 9).any()


def test_a_fit_knows_what_it_has_seen(tmp_path: Path):
    run = run_of(tmp_path / "run")
    assert run.spec.abstention == {"distance": 2.0, "action": 3}
    progress, _ = run.play(ImitationProgress())
    states = progress.states
    assert states is not None
    seen = torch.from_numpy(states.observations.astype(np.float32))
    distances = run.policy(progress).network.distances
    assert 0 < distances(seen).square().mean() <= 1  # few states: hardly any number is free
    assert (distances(seen + 5) > 2).all()


def _spec(run: Imitation, width: int) -> Any:
    return make_spec(run.spec.observation_space, run.spec.action_space, (width,), masked=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = configuration()
    run = begun(tmp_path_factory.mktemp("whole") / "run", config)
    shares: list[float] = []
    result = imitate(config, run, shares.append, Serial())
    assert shares == sorted(shares) and shares[-1] >= 1 > shares[-2]
    assert result["steps"] >= 300 and 0 < result["updates"] <= result["steps"] * 10
    assert len(run.evaluations.read_text().splitlines()) == len(shares)
    return run


@pytest.mark.xdist_group("imitation")
def test_a_run_that_was_cut_short_ends_as_an_uninterrupted_one(
    whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configuration()
    parts = begun(tmp_path / "parts", config)
    played = Imitation.play

    def fail(self: Imitation, progress: ImitationProgress) -> Any:
        if progress.round >= 1:
            raise RuntimeError("the power went off")
        return played(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Imitation, "play", fail)
        with pytest.raises(RuntimeError, match="power"):
            imitate(config, parts, silent, Serial())
    assert len(parts.checkpoints()) == 1 and not parts.finished
    draw_elsewhere()
    imitate(config, parts, silent, Serial(), resume=True)
    assert_same_runs(whole, parts)


@pytest.mark.xdist_group("imitation")
def test_an_interruption_saves_what_was_played(
    whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Asked(Interruption):
        def __enter__(self) -> Interruption:
            self.asked = True
            return self

        def __exit__(self, *exception: object) -> None:
            pass

    config = configuration()
    parts = begun(tmp_path / "parts", config)
    with monkeypatch.context() as patch:
        patch.setattr(imitation, "Interruption", Asked)
        with pytest.raises(Interrupted):
            imitate(config, parts, silent, Serial())
    imitate(config, parts, silent, Serial(), resume=True)
    assert_same_runs(whole, parts)


@pytest.mark.xdist_group("imitation")
def test_the_policy_acts_in_its_environment(whole: RunFolder):
    policy = load_policy(whole.path)
    env = AutoTrainEnv(**{**SMALL, **_arguments()})
    policy.check_fits(env.observation_space, env.unwrapped.core.action_type)
    assert policy.spec.environment["id"] == RUNS


def _arguments() -> dict[str, Any]:
    return dict(ENVIRONMENTS[RUNS])


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"annealing": "none"}, "annealing='none' is not allowed: it must be 'linear' for dagger"),
        ({"action_type": "continuous", "annealing": "linear"}, "action_type='continuous' is not allowed"),
        ({"lr_factors": (0.5, 2.0)}, "lr_factors=.*factors with 1 among them"),
        ({"lr_factors": (0.5, 1.0)}, "lr_factors=.*below and above 1"),
        ({"score": "neg_log_loss"}, "score='neg_log_loss' is not allowed: it must be an accuracy"),
        ({"tasks": "curriculum"}, "tasks='a curriculum of 3 levels' is not allowed"),
    ],
)
def test_environments_in_which_hindsight_tells_nothing(env: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        check_imitated(AutoTrainConfig(**(_arguments() | env)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rates": 2}, "rates=2 is not allowed"),
        ({"walkers": 0}, "walkers=0 is not allowed"),
        ({"explore": 1.5}, "explore=1.5 is not allowed: it must be between 0 and 1"),
        ({"abstention": 0}, "abstention=0 is not allowed: it must be above 0"),
        ({"net_arch": []}, "net_arch=.* is not allowed"),
        ({"net_arch": [0]}, "net_arch=0 is not allowed"),
        ({"learning_rate": 0}, "learning_rate=0 is not allowed"),
        ({"temperature": 0}, "temperature=0 is not allowed"),
        ({"entropy": -1}, "entropy=-1 is not allowed"),
        (
            {"task_per_round": 3},
            "'task_per_round' is not a known name; the nearest known one is 'tasks_per",
        ),
    ],
)
def test_hyperparameters_that_are_not_allowed(given: dict[str, Any], message: str):
    with pytest.raises(InvalidValueError, match=message):
        read_imitation_hyperparameters(given)


def test_settings_are_what_is_written():
    settings = read_imitation_hyperparameters(FEW | {"n_envs": 3, "n_timesteps": 5})
    assert settings.net_arch == (8,) and settings.rates == 4 and settings.fit_steps == 5
    known = load_hyperparameters("dagger", RUNS)
    assert read_imitation_hyperparameters(known) == ImitationHyperparameters()


def test_the_trial_says_how_many_lanes_a_task_has():
    trial = SweepTrial(RUNS, SMALL, {}, 4, 2, 0.1, 5, 3, 1)
    assert trial.lanes == 6
