"""Tuning an algorithm's hyperparameters with Optuna: a study that can be interrupted and gone on with."""

import itertools
import json
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState
from stable_baselines3.common.callbacks import BaseCallback

from agents.runs.folder import as_plain
from agents.runs.progress import Reporter, portion
from agents.runs.seeds import MAX_SEEDS, TUNING_SEED, training_seed
from agents.training.export import export_policy
from agents.training.hyperparameters import HYPERPARAMETERS, load_hyperparameters
from agents.training.models import make_model
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.errors import InvalidValueError, check
from autotrain_env.files import replace_file
from autotrain_env.policies.evaluation import evaluate_policy, make_evaluation_env

# Trials train with the last seeds of all, which no run should use.
FIRST_TRIAL_SEED = MAX_SEEDS - 10_000

# A process tells every so often that its trial is still at work; one that has told nothing for longer was
# killed, and its trial counts as failed. So several processes can work on one study. [s]
HEARTBEAT_INTERVAL, GRACE_PERIOD = 15, 90
_LOCK_TIMEOUT = 60  # for which a process waits while another one writes [s]

_SQLITE = b"SQLite format 3\0"  # at the head of such a file

NETWORKS = {"32": [32], "64-64": [64, 64], "128-128": [128, 128]}
Space = Callable[[Trial], dict[str, Any]]


def _rate(trial: Trial) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True)}


def _network(trial: Trial, known: dict[str, Any]) -> dict[str, Any]:
    chosen = NETWORKS[trial.suggest_categorical("network", list(NETWORKS))]
    return {"policy_kwargs": known.get("policy_kwargs", {}) | {"net_arch": chosen}}


def _credit(trial: Trial) -> dict[str, Any]:
    return {"gae_lambda": trial.suggest_categorical("gae_lambda", [0.95, 0.98, 1.0])}


def _ppo(trial: Trial) -> dict[str, Any]:
    return {
        **_rate(trial),
        **_credit(trial),
        "batch_size": trial.suggest_categorical("batch_size", [240, 480, 960]),
        "n_epochs": trial.suggest_int("n_epochs", 3, 12),
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 0.03, log=True),
    }


def _a2c(trial: Trial) -> dict[str, Any]:
    return {
        **_rate(trial),
        **_credit(trial),
        "n_steps": trial.suggest_categorical("n_steps", [5, 10, 30]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-4, 0.03, log=True),
    }


def _trpo(trial: Trial) -> dict[str, Any]:
    return {
        **_rate(trial),
        **_credit(trial),
        "target_kl": trial.suggest_float("target_kl", 0.003, 0.03, log=True),
        "n_critic_updates": trial.suggest_int("n_critic_updates", 5, 20),
    }


def _values(trial: Trial) -> dict[str, Any]:
    return {
        **_rate(trial),
        "batch_size": trial.suggest_categorical("batch_size", [128, 256, 512]),
        "gradient_steps": trial.suggest_categorical("gradient_steps", [4, 8, 16]),
        "target_update_interval": trial.suggest_categorical("target_update_interval", [640, 1920, 5760]),
        "exploration_fraction": trial.suggest_float("exploration_fraction", 0.1, 0.6),
    }


def _actor_critic(trial: Trial) -> dict[str, Any]:
    return {
        **_rate(trial),
        "batch_size": trial.suggest_categorical("batch_size", [128, 256, 512]),
        "gradient_steps": trial.suggest_categorical("gradient_steps", [2, 4, 8]),
        "tau": trial.suggest_float("tau", 0.002, 0.02, log=True),
    }


def _ars(trial: Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.003, 0.1, log=True),
        "delta_std": trial.suggest_float("delta_std", 0.01, 0.2, log=True),
    }


SPACES: dict[str, Space] = {
    "ppo": _ppo,
    "maskable_ppo": _ppo,
    "recurrent_ppo": _ppo,
    "a2c": _a2c,
    "trpo": _trpo,
    "dqn": _values,
    "qrdqn": _values,
    "sac": _actor_critic,
    "td3": _actor_critic,
    "ars": _ars,
}
"""What is tuned of each algorithm, beside its network; γ stays 1."""

OWN_NETWORK = ("recurrent_ppo", "ars")  # whose network is not tuned


@dataclass(frozen=True)
class Study:
    """What a study tries; one that is gone on with must be the same.

    Args:
        algorithm: Name of the algorithm in the table.
        env_id: The environment's id.
        env: Keyword arguments of the environment.
        num_envs: Lanes.
        train_steps: Env steps of each trial.
        evaluations: Evaluations of each trial, after equal numbers of steps, at which it may be pruned.
        evaluation_episodes: Episodes of each, on tuning seeds.
        seed: Seed of the sampler; trial k trains with a seed of its own.
    """

    algorithm: str
    env_id: str
    env: dict[str, Any]
    num_envs: int
    train_steps: int
    evaluations: int
    evaluation_episodes: int
    seed: int


def open_study(study: Study, storage: Path) -> optuna.Study:
    """Begin a study, or go on with it, also beside other processes that are at work on it.

    Args:
        study: What it tries.
        storage: SQLite file.

    Raises:
        InvalidValueError: If the file holds a study that tries something else, or is no database.
    """
    if storage.exists():
        with storage.open("rb") as file:
            head = file.read(len(_SQLITE))
        check(head in (b"", _SQLITE), "storage", str(storage), "an SQLite file, or a new one")
    storage.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = optuna.create_study(
            study_name=f"{study.algorithm} {study.env_id}",
            storage=_open_storage(storage),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
            direction="maximize",
            load_if_exists=True,
        )
    except Exception as error:  # what a damaged file raises may be anything
        raise InvalidValueError(f"storage={str(storage)!r} is damaged: {error!r}") from error
    wanted, known = as_plain(asdict(study)), made.user_attrs.get("setup")
    if known is None:
        made.set_user_attr("setup", wanted)
    else:
        differences = [f"{name}: {wanted[name]!r} and {known.get(name)!r}" for name in wanted]
        differences = [
            text for name, text in zip(wanted, differences, strict=True) if wanted[name] != known.get(name)
        ]
        check(not differences, f"{storage}", "; ".join(differences), "a study begun alike (now, and then)")
    return made


def _open_storage(path: Path) -> optuna.storages.RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            f"sqlite:///{path}",
            engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT}},
            heartbeat_interval=HEARTBEAT_INTERVAL,
            grace_period=GRACE_PERIOD,
        )


def run_study(study: Study, made: optuna.Study, trials: int, report: Reporter) -> None:
    """Try until so many trials are finished, pruned ones and those of other processes included.

    Trials of others that are under way are not waited for: each of several processes may end one more.

    Args:
        study: What to try.
        made: Study from `open_study`.
        trials: Number of trials.
        report: Told how far it is.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = load_hyperparameters(study.algorithm, study.env_id)
    while (finished := len(finished_trials(made))) < trials:
        part = portion(report, finished, 1, trials)
        attempt = _Attempt(study, known, part)
        try:
            made.optimize(attempt, n_trials=1)
        except Exception:
            if not attempt.given_up:
                raise


class _Attempt:
    """Makes one trial, and sees whether another process has given it up meanwhile.

    As where a computer was asleep: the trial counts as failed, and Optuna lets nobody change that.

    Args:
        study: What to try.
        known: Hyperparameters that are known.
        report: Told how far it is.
    """

    def __init__(self, study: Study, known: dict[str, Any], report: Reporter) -> None:
        self.study, self.known, self.report = study, known, report
        self.given_up = False

    def __call__(self, trial: Trial) -> float:
        """Returns the score of a trial."""
        try:
            return _try(self.study, trial, self.known, self.report)
        finally:
            self.given_up = trial.study.trials[trial.number].state == TrialState.FAIL


def finished_trials(made: optuna.Study) -> list[FrozenTrial]:
    """Returns trials that were completed or pruned."""
    return made.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])


def suggest(algorithm: str, trial: Trial, known: dict[str, Any]) -> dict[str, Any]:
    """Returns the hyperparameters of a trial: those that are known, some of them replaced."""
    network = {} if algorithm in OWN_NETWORK else _network(trial, known)
    return known | SPACES[algorithm](trial) | network


def _try(study: Study, trial: Trial, known: dict[str, Any], report: Reporter) -> float:
    # Of the trial's own: processes side by side must not draw the same, nor one that begins anew.
    trial.study.sampler = optuna.samplers.TPESampler(seed=1000 * study.seed + trial.number)
    hyperparameters = suggest(study.algorithm, trial, known)
    trial.set_user_attr("hyperparameters", hyperparameters)
    seed = FIRST_TRIAL_SEED + trial.number
    with closing(make_sb3_env(study.env_id, study.num_envs, **study.env)) as env:
        model = make_model(study.algorithm, env, hyperparameters, seed)
        env.seed(training_seed(seed, study.num_envs))
        pruning = Pruning(study, trial, report)
        model.learn(study.train_steps, callback=pruning)
        return pruning.evaluate()


class Pruning(BaseCallback):
    """Evaluates a trial while it trains, and ends it where it is worse than most.

    Args:
        study: What is tried.
        trial: The trial.
        report: Told how far it is.
    """

    def __init__(self, study: Study, trial: Trial, report: Reporter) -> None:
        super().__init__()
        self.study, self.trial, self.report = study, trial, report
        self.interval = study.train_steps / study.evaluations
        self.evaluations = 1
        self.env = make_evaluation_env(study.env_id, min(64, study.evaluation_episodes), **study.env)

    def evaluate(self) -> float:
        """Returns the mean validation score of the networks at the end of tuning episodes."""
        policy = export_policy(self.model)
        return float(
            evaluate_policy(self.env, policy, self.study.evaluation_episodes, TUNING_SEED)["score"].mean()
        )

    def _on_step(self) -> bool:
        self.report(self.num_timesteps / self.study.train_steps)
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < self.evaluations * self.interval or getattr(self.model, "under_way", False):
            return
        self.trial.report(self.evaluate(), self.evaluations)
        self.evaluations += 1
        if self.trial.should_prune():
            raise optuna.TrialPruned


_COMMENT_LINES = 3  # of a study


def write_hyperparameters(study: Study, made: optuna.Study, path: Path | None = None) -> Path:
    """Put the best hyperparameters into the algorithm's file, with a line on the study that found them.

    Args:
        study: What was tried.
        made: The finished study.
        path: The file; by default that of the algorithm in `agents/hyperparams/`.
    """
    path = path or HYPERPARAMETERS / f"{study.algorithm}.yml"
    trials = finished_trials(made)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    env = json.dumps(as_plain(study.env))
    comment = (
        f"# {study.env_id}: best of {len(trials)} trials ({pruned} of them pruned)\n"
        f"# of {study.train_steps:,} env steps, by the mean validation score "
        f"of {study.evaluation_episodes} tuning episodes: {made.best_value:.4f}\n# on {env}.\n"
    )
    before = path.read_text() if path.exists() else ""
    entries = yaml.safe_load(before) or {}
    entries[study.env_id] = made.best_trial.user_attrs["hyperparameters"]
    text = yaml.dump(json.loads(json.dumps(entries)), sort_keys=False)
    replace_file(path, (comment + _other_comments(before, study.env_id) + text).encode())
    return path


def _other_comments(text: str, env_id: str) -> str:
    """Returns the comments at the head of a file, but for that on an earlier study of an id."""
    head = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))
    begins = [n for n, line in enumerate(head) if line.startswith(f"# {env_id}: best of")]
    for n in reversed(begins):
        del head[n : n + _COMMENT_LINES]
    return "".join(head)
