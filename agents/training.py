"""Training an agent in a run folder: checkpoints, resuming, the evaluation curve."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.algorithms import check_actions, export_policy, find_algorithm, make_model
from agents.progress import Report
from agents.runs import RunConfig, RunFolder
from agents.seeds import DEVELOPMENT_SEED, training_seed
from autotrain_env import AutoTrainConfig, AutoTrainVectorEnv, Curriculum
from autotrain_env.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies import TrainedPolicy, load_policy
from autotrain_env.sb3 import AutoTrainVecEnv, make_sb3_env


class Interrupted(Exception):
    """The user asked to stop; everything has been saved."""


class Stopwatch:
    """Minutes of training, over all its parts.

    Args:
        minutes: What earlier parts took.
    """

    def __init__(self, minutes: float = 0.0) -> None:
        self.begin = time.monotonic() - 60 * minutes

    @property
    def minutes(self) -> float:
        """Until now."""
        return (time.monotonic() - self.begin) / 60


def train(config: RunConfig, folder: RunFolder, report: Report, *, resume: bool = False) -> dict[str, Any]:
    """Train an agent, or go on with it.

    Args:
        config: What to train, and how.
        folder: Where the run is written; it holds the configuration already.
        report: Told how far it is.
        resume: Whether to go on from the newest checkpoint, if there is one.

    Returns:
        What is written to `result.json`.

    Raises:
        ValueError: If the algorithm cannot act in the environment.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    checkpoints = folder.checkpoints() if resume else []
    state = read_state(checkpoints[-1]) if checkpoints else None
    if resume:
        truncate_logs((folder.decisions, folder.evaluations), state["sizes"] if state else {})
    with closing(
        make_sb3_env(config.env_id, config.num_envs, log_path=folder.decisions, **config.env)
    ) as env:
        check_actions(find_algorithm(config.algorithm), env.action_space, config.env_id)
        if state is None:
            model = begin_model(config, env)
            env.seed(training_seed(config.seed, config.num_envs))
        else:
            model = _load_checkpoint(checkpoints[-1], state, config, env)
        model.set_logger(configure(str(folder.tensorboard), ["tensorboard"]))
        keeper = Keeper(config, folder, report)
        callbacks: list[BaseCallback] = [keeper]
        if keeper.curriculum is not None:
            callbacks.append(keeper.curriculum)
            if state is not None:
                keeper.curriculum.load_state_dict(state["curriculum"])
        keeper.stopwatch = Stopwatch(state["minutes"] if state else 0.0)
        with keeper.interruption:
            remaining = config.train_steps - model.num_timesteps
            model.learn(remaining, callback=callbacks, reset_num_timesteps=state is None)
            keeper.save()  # before the last evaluation: what is cut short from here on is done again
            keeper.leave_if_asked()
        result = {
            "steps": model.num_timesteps,
            "updates": model.num_timesteps * _core_config(keeper.evaluation_env).inner_steps,
            "minutes": keeper.stopwatch.minutes,
            "evaluation": keeper.evaluate(),
        }
        keeper.policy().save(folder.path)
        folder.finish(result)
        return result


def begin_model(config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    """The model that a run begins with.

    Args:
        config: What to train, and how.
        env: Where; from `make_sb3_env`.

    Raises:
        ValueError: If a hyperparameter is not allowed, or the policy to begin with does not fit.
    """
    policy = None if config.start_from is None else load_policy(config.start_from)
    return make_model(config.algorithm, env, config.hyperparameters, config.seed, policy)


class Keeper(BaseCallback):
    """Saves checkpoints and evaluates, between two rollouts, when nothing is under way.

    Args:
        config: The run's configuration.
        folder: Where it is written.
        report: Told how far training is.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, report: Report) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.report = report
        self.interruption = Interruption()
        self.stopwatch = Stopwatch()
        self.due = 0
        self.evaluation_env = make_evaluation_env(
            config.env_id, min(config.num_envs, config.evaluation_episodes), **config.env
        )
        self.curriculum: CurriculumCallback | None = None
        distribution = _core_config(self.evaluation_env).task_distribution
        if isinstance(distribution, Curriculum):
            if config.success_score is None:
                raise ValueError(
                    "success_score=None: tasks with levels need a score that counts as success"
                )
            self.curriculum = CurriculumCallback(distribution, config.success_score)

    def _on_training_start(self) -> None:
        self._set_due()

    def _set_due(self) -> None:
        interval = self.config.checkpoint_steps
        self.due = (self.model.num_timesteps // interval + 1) * interval

    def _on_rollout_start(self) -> None:
        if getattr(self.model, "under_way", False):
            return
        if self.model.num_timesteps >= self.due:
            self.evaluate()
            self.save()
            self._set_due()
        if self.interruption.asked:
            self.save()
            self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """Raise `Interrupted` after Ctrl-C; a checkpoint must be saved."""
        if self.interruption.asked:
            raise Interrupted

    def _on_step(self) -> bool:
        self.report(self.num_timesteps / self.config.train_steps)
        return True

    def policy(self) -> TrainedPolicy:
        """The policy as it is now."""
        return export_policy(self.model, {"id": self.config.env_id, "kwargs": self.config.env})

    def evaluate(self) -> dict[str, float]:
        """Play the development episodes and add a point to the curve; uses none of training's streams."""
        episodes, steps = self.config.evaluation_episodes, self.model.num_timesteps
        point = note_evaluation(self.folder, self.evaluation_env, self.policy(), episodes, steps)
        for name in ("score", "return", "rewinds", "reinits", "learning_rate", "steps"):
            self.logger.record(f"evaluation/{name}", point[name])
        self.logger.dump(self.model.num_timesteps)
        return point

    def save(self) -> None:
        """Write a checkpoint."""
        self.folder.save_checkpoint(self.model.num_timesteps, self._write_checkpoint)

    def _write_checkpoint(self, folder: Path) -> None:
        model = self.model
        model.save(folder / "model.zip")
        if isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(folder / "replay_buffer.pkl")
        monitor, env = _environments(model)
        state = {
            "env": env.env.state_dict(),
            "monitor": {name: getattr(monitor, name) for name in _MONITORED},
            "lstm_states": getattr(model, "_last_lstm_states", None),
            "random": _random_state(model),
            "curriculum": None if self.curriculum is None else self.curriculum.state_dict(),
            "sizes": log_sizes((self.folder.decisions, self.folder.evaluations)),
            "minutes": self.stopwatch.minutes,
        }
        with (folder / "state.pkl").open("wb") as file:
            cloudpickle.dump(state, file)


_MONITORED = ("episode_returns", "episode_lengths", "episode_count")


def _environments(model: BaseAlgorithm) -> tuple[VecMonitor, AutoTrainVecEnv]:
    monitor = model.get_env()
    assert isinstance(monitor, VecMonitor) and isinstance(monitor.venv, AutoTrainVecEnv)
    return monitor, monitor.venv


def _random_state(model: BaseAlgorithm) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "action_space": model.action_space.np_random.bit_generator.state,
    }


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds in `state.pkl`.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with (checkpoint / "state.pkl").open("rb") as file:
            return cloudpickle.load(file)
    except Exception as error:  # what a damaged pickle raises may be anything
        raise ValueError(f"{checkpoint / 'state.pkl'} is damaged: {error!r}") from error


def _load_checkpoint(
    checkpoint: Path, state: dict[str, Any], config: RunConfig, env: VecMonitor
) -> BaseAlgorithm:
    model = _load_model(checkpoint, config, env)
    if isinstance(model, ARS):  # loading draws new weights, and then only replaces the policy's
        vars(model)["weights"] = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()
    if state["lstm_states"] is not None:
        model._last_lstm_states = state["lstm_states"]  # type: ignore[attr-defined]
    monitor, vec_env = _environments(model)
    vec_env._reset_seeds()  # loading has seeded it once more
    vec_env.env.load_state_dict(state["env"])
    vars(monitor).update(state["monitor"])
    drawn = state["random"]
    random.setstate(drawn["python"])
    np.random.set_state(drawn["numpy"])
    torch.set_rng_state(drawn["torch"])
    model.action_space.np_random.bit_generator.state = drawn["action_space"]
    return model


def _load_model(checkpoint: Path, config: RunConfig, env: VecMonitor) -> BaseAlgorithm:
    """A checkpoint's model, with its replay buffer where it has one.

    Raises:
        ValueError: If a file is missing or damaged.
    """
    model_class = find_algorithm(config.algorithm).model_class
    path = checkpoint / "model.zip"
    try:
        with path.open("rb") as file:
            model: BaseAlgorithm = model_class.load(file, env, device="cpu", force_reset=False)
        if isinstance(model, OffPolicyAlgorithm):
            path = checkpoint / "replay_buffer.pkl"
            with path.open("rb") as file:
                model.load_replay_buffer(file)
    except Exception as error:  # what a damaged file raises may be anything
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return model


def _core_config(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoTrainConfig:
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    return vector_env.config


def note_evaluation(
    folder: RunFolder,
    env: gymnasium.vector.VectorEnv[Any, Any, Any],
    policy: TrainedPolicy,
    episodes: int,
    train_steps: int,
) -> dict[str, float]:
    """Play the development episodes and add a point to a run's evaluation curve.

    Args:
        folder: Of the run.
        env: From `make_evaluation_env`.
        policy: As it is now.
        episodes: How many.
        train_steps: Env steps that it was trained for.

    Returns:
        The point: means over the episodes.
    """
    results = evaluate_policy(env, policy, episodes, DEVELOPMENT_SEED)
    point = {name: float(values.mean()) for name, values in results.items() if "test" not in name}
    point = {"train_steps": float(train_steps), **point}
    with folder.evaluations.open("a") as file:
        file.write(json.dumps(point) + "\n")
    return point


def log_sizes(logs: Iterable[Path]) -> dict[str, int]:
    """Bytes in each log that exists, by its name."""
    return {path.name: path.stat().st_size for path in logs if path.exists()}


def truncate_logs(logs: Iterable[Path], sizes: dict[str, int]) -> None:
    """Forget rows that were written after the checkpoint: they will be written again."""
    for path in logs:
        if path.exists():
            os.truncate(path, sizes.get(path.name, 0))


class Interruption:
    """Within it, Ctrl-C asks training to end at the next good moment; a second one ends it at once.

    In other threads than the main one, which alone receives it, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def _ask(self, signum: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> "Interruption":
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        """Listen no more."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class CurriculumCallback(BaseCallback):
    """Moves the curriculum's level by the agent's success while it trains.

    Args:
        curriculum: The levels.
        success_score: Final score from which an episode counts as a success.
        window: Episodes between two decisions.
    """

    def __init__(self, curriculum: Curriculum, success_score: float, window: int = 100) -> None:
        super().__init__()
        self.curriculum = curriculum
        self.success_score = success_score
        self.window = window
        self.level = 0
        self._successes: list[bool] = []

    def state_dict(self) -> dict[str, Any]:
        """What changes while it runs."""
        return {"level": self.level, "successes": list(self._successes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; the environment keeps its own level."""
        self.level, self._successes = state["level"], list(state["successes"])

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._successes.append(info["score"] >= self.success_score)
        if len(self._successes) >= self.window:
            self.level = self.curriculum.next_level(self.level, self._successes)
            self.training_env.env_method("set_task_level", self.level)
            self.logger.record("curriculum/level", self.level)
            self._successes.clear()
        return True
