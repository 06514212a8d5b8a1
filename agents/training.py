"""Training an agent in a run folder: checkpoints, resuming, the evaluation curve."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
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
from stable_baselines3.common.vec_env import VecMonitor

from agents.algorithms import check_actions, export_policy, find_algorithm, make_model
from agents.progress import Report
from agents.runs import RunConfig, RunFolder
from agents.seeds import DEVELOPMENT_SEED, training_seed
from autotrain_env import AutoTrainConfig, AutoTrainVectorEnv, Curriculum
from autotrain_env.evaluation import evaluate_policy, make_evaluation_env
from autotrain_env.policies import TrainedPolicy
from autotrain_env.sb3 import AutoTrainVecEnv, make_sb3_env


class Interrupted(Exception):
    """The user asked to stop; everything has been saved."""


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
    start = time.monotonic()
    checkpoints = folder.checkpoints() if resume else []
    state = _read_state(checkpoints[-1]) if checkpoints else None
    if resume:
        _truncate(folder.decisions, state["decisions_size"] if state else 0)
        _truncate(folder.evaluations, state["evaluations_size"] if state else 0)
    with closing(
        make_sb3_env(config.env_id, config.num_envs, log_path=folder.decisions, **config.env)
    ) as env:
        check_actions(find_algorithm(config.algorithm), env.action_space, config.env_id)
        if state is None:
            model = make_model(config.algorithm, env, config.hyperparameters, config.seed)
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
        with _interrupts(keeper):
            remaining = config.train_steps - model.num_timesteps
            model.learn(remaining, callback=callbacks, reset_num_timesteps=state is None)
        result = {
            "steps": model.num_timesteps,
            "minutes_since_start_or_resume": (time.monotonic() - start) / 60,
            "evaluation": keeper.evaluate(),
        }
        keeper.save()
        keeper.policy().save(folder.path)
        folder.finish(result)
        return result


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
        self.interrupted = False
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
        if self.interrupted:
            self.save()
            raise Interrupted

    def _on_step(self) -> bool:
        self.report(self.num_timesteps / self.config.train_steps)
        return True

    def policy(self) -> TrainedPolicy:
        """The policy as it is now."""
        return export_policy(self.model, {"id": self.config.env_id, "kwargs": self.config.env})

    def evaluate(self) -> dict[str, float]:
        """Play the development episodes and add a point to the curve; uses none of training's streams."""
        episodes = self.config.evaluation_episodes
        results = evaluate_policy(self.evaluation_env, self.policy(), episodes, DEVELOPMENT_SEED)
        point = {name: float(values.mean()) for name, values in results.items() if "test" not in name}
        point = {"train_steps": float(self.model.num_timesteps), **point}
        with self.folder.evaluations.open("a") as file:
            file.write(json.dumps(point) + "\n")
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
            "decisions_size": self.folder.decisions.stat().st_size,
            "evaluations_size": _size(self.folder.evaluations),
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


def _read_state(checkpoint: Path) -> dict[str, Any]:
    try:
        with (checkpoint / "state.pkl").open("rb") as file:
            return cloudpickle.load(file)
    except Exception as error:  # what a damaged pickle raises may be anything
        raise ValueError(f"{checkpoint / 'state.pkl'} is damaged: {error!r}") from error


def _load_checkpoint(
    checkpoint: Path, state: dict[str, Any], config: RunConfig, env: VecMonitor
) -> BaseAlgorithm:
    model_class = find_algorithm(config.algorithm).model_class
    model: BaseAlgorithm = model_class.load(checkpoint / "model.zip", env, device="cpu", force_reset=False)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(checkpoint / "replay_buffer.pkl")
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


def _core_config(env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> AutoTrainConfig:
    vector_env = env.unwrapped
    assert isinstance(vector_env, AutoTrainVectorEnv)
    return vector_env.config


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _truncate(path: Path, size: int) -> None:
    """Forget rows that were written after the checkpoint: they will be written again."""
    if path.exists():
        os.truncate(path, size)


@contextmanager
def _interrupts(keeper: Keeper) -> Iterator[None]:
    """Let Ctrl-C end training after the rollout that is under way; a second one ends it at once."""

    def ask(signum: int, frame: Any) -> None:
        if keeper.interrupted:
            raise KeyboardInterrupt
        keeper.interrupted = True

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread, which alone receives it
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
