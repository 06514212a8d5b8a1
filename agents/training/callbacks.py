"""What happens beside training: checkpoints, evaluations, the curriculum."""

from pathlib import Path
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.runs.folder import RunConfig, RunFolder, recorded_environment
from agents.runs.lifecycle import (
    Interrupted,
    Interruption,
    Stopwatch,
    config_of,
    log_sizes,
    note_evaluation,
)
from agents.runs.plain import write_plain
from agents.runs.progress import Reporter
from agents.training.checkpoints import MONITORED, environments_of, model_state, random_state
from agents.training.export import export_policy
from autotrain_env import Curriculum
from autotrain_env.errors import InvalidValueError
from autotrain_env.policies.evaluation import make_evaluation_env
from autotrain_env.policies.trained import TrainedPolicy


class Keeper(BaseCallback):
    """Saves checkpoints and evaluates, between two rollouts, when nothing is under way.

    Args:
        config: The run's configuration.
        folder: Folder where it is written.
        report: Told how far training is.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, report: Reporter) -> None:
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
        distribution = config_of(self.evaluation_env).task_distribution
        if isinstance(distribution, Curriculum):
            if config.success_score is None:
                raise InvalidValueError(
                    "success_score=None: tasks with levels need a score that counts as success"
                )
            self.curriculum = CurriculumCallback(distribution, config.success_score)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint: the clock, and the curriculum's level.

        Args:
            state: What `read_state` found there.
        """
        self.stopwatch = Stopwatch(state["minutes"])
        if self.curriculum is not None:
            self.curriculum.load_state_dict(state["curriculum"])

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
        """Returns the policy as it is now."""
        return export_policy(self.model, recorded_environment(self.config))

    def evaluate(self) -> dict[str, float]:
        """Play the development episodes and add a point to the curve; training's streams stay the same."""
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
        monitor, env = environments_of(self.model)
        if self.config.start_from is not None:
            self.policy().save(folder)  # says what layers the model has, as the hyperparameters do not
        state = {
            "model": model_state(self.model),
            "env": env.env.state_dict(),
            "monitor": {name: getattr(monitor, name) for name in MONITORED},
            "random": random_state(self.model),
            "curriculum": None if self.curriculum is None else self.curriculum.state_dict(),
            "sizes": log_sizes((self.folder.decisions, self.folder.evaluations)),
            "minutes": self.stopwatch.minutes,
        }
        write_plain(folder, state)


class CriticFirst(BaseCallback):
    """Keeps an actor as it is while the critic learns what it is worth.

    A policy that training begins with comes without a critic; advantages by one that knows nothing yet
    would undo what the policy can do.

    Args:
        steps: Env steps until the actor is trained, too.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_rollout_end(self) -> None:
        policy = self.model.policy
        assert isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy)
        for module in (policy.mlp_extractor.policy_net, policy.action_net):
            module.requires_grad_(self.num_timesteps > self.steps)

    def _on_step(self) -> bool:
        return True


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
        """Returns what changes while it runs."""
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
