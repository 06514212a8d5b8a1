"""Agents, and agents under controls, as jobs."""

import functools
from collections.abc import Callable
from typing import Any

from agents.comparing.controls import DRAWN, Recorder, changed_env, make_control
from agents.comparing.jobs import Job, Setting, described, facts, vector_env_of
from agents.comparing.plan import AGENT, CONTROL
from agents.comparing.records import describe, training_scores
from agents.runs.folder import RunFolder
from agents.runs.progress import Reporter
from autotrain_env.policies.evaluation import evaluate_policy
from autotrain_env.policies.trained import load_policy
from autotrain_env.process.log import read_rows
from autotrain_env.schemas import number

KEPT = ("train_steps", "score", "return", "rewinds", "reinits", "steps", "learning_rate")
"""Columns of an evaluation curve that records keep."""


class AgentJob(Job):
    """An agent, as its run has left it.

    Args:
        setting: The target, and what is played there.
        name: Name of the method.
        run: Run of the agent.
        learning_rate: Rate that every episode begins with; `None` for what the target says.
    """

    def __init__(
        self, setting: Setting, name: str, run: RunFolder, learning_rate: float | None = None
    ) -> None:
        self.run, self.config = run, run.config()
        super().__init__(setting, name, AGENT, self.config.seed)
        self.kwargs = setting.kwargs(self.config.env)
        if learning_rate is not None:
            self.kwargs["initial_learning_rate"] = learning_rate

    @functools.cached_property
    def setup(self) -> dict[str, Any]:
        """Returns the environment and the policy's weights."""
        return self.setting.setup(self.config.env_id, self.kwargs, policy=self.run.policy_hash())

    @property
    def work(self) -> float:
        """Returns one unit for each episode that is played."""
        return self.setting.episodes

    @functools.cached_property
    def training(self) -> dict[str, Any]:
        """Returns the parts of the record that tell of training."""
        curve = read_rows(self.run.evaluations, dict.fromkeys(KEPT, number()), whole=True)
        return {
            "learning_curve": [{name: point[name] for name in KEPT} for point in curve],
            "training": training_scores(self.run),
        }

    def check(self) -> None:
        """Raise an error if the run is damaged, or the policy is for other spaces than the target's."""
        assert self.training
        env = self.setting.make(self.config.env_id, self.kwargs)
        vector_env = vector_env_of(env)
        policy = load_policy(self.run.path)
        policy.check_fits(vector_env.single_observation_space, vector_env.core.action_type)

    def play(self, report: Reporter) -> dict[str, Any]:
        """Play with the likeliest actions."""
        env = self.setting.make(self.config.env_id, self.kwargs)
        results, seconds = self.setting.play(env, load_policy(self.run.path), report)
        updates, minutes = self.run.cost()
        cost = {"seconds": seconds, "train_updates": updates, "train_minutes": minutes}
        return {**facts(env), "cost": cost, **self.training, **describe(results, examples=True)}


def make_recording(setting: Setting, run: RunFolder) -> Callable[[], Recorder]:
    """Returns a function that records an agent on a target's episodes, once, when it is first asked."""

    @functools.cache
    def recording() -> Recorder:
        config = run.config()
        recorded = Recorder(load_policy(run.path), setting.episodes)
        env = setting.make(config.env_id, setting.kwargs(config.env))
        evaluate_policy(env, recorded, setting.episodes, setting.plan.seed)
        return recorded

    return recording


class ControlJob(Job):
    """An agent under a control.

    Args:
        setting: The target, and what is played there.
        name: Name of the method.
        run: Run of the agent.
        control: Name of the control.
        recording: Gives what the agent saw and did on these episodes; asked only where it is needed.
    """

    def __init__(
        self,
        setting: Setting,
        name: str,
        run: RunFolder,
        control: str,
        recording: Callable[[], Recorder],
    ) -> None:
        self.run, self.config, self.control, self.recording = run, run.config(), control, recording
        super().__init__(setting, control, f"{CONTROL}: {name}", self.config.seed)
        self.kwargs = {**setting.kwargs(self.config.env), **changed_env(control)}

    @functools.cached_property
    def setup(self) -> dict[str, Any]:
        """Returns the environment, the policy's weights and the control."""
        return self.setting.setup(
            self.config.env_id, self.kwargs, policy=self.run.policy_hash(), control=self.control
        )

    @property
    def work(self) -> float:
        """Returns one unit for each episode that is played."""
        return self.setting.episodes

    def play(self, report: Reporter) -> dict[str, Any]:
        """Play under the control."""
        env = self.setting.make(self.config.env_id, self.kwargs)
        loaded = load_policy(self.run.path, deterministic=self.control != DRAWN)
        policy = make_control(self.control, loaded, self.recording)
        return described(env, *self.setting.play(env, policy, report))
