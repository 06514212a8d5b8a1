"""AutoTrain: a Gymnasium environment in which an agent trains a neural network.

Everything that a user needs is here by name; the functions of evolution strategies are in
`autotrain_env.evolution`, those of courses on optimisation in `autotrain_env.optimization`, pictures of
searches, descents and trainings in `autotrain_env.viewing`.
"""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

# On some processors the last bits of a product depend on where its factors lie in memory, and so a lane's
# bits would on its neighbours, unless MKL is told to be reproducible. It reads this at its first call.
os.environ.setdefault("MKL_CBWR", "AUTO")

import gymnasium
import torch

from autotrain_env.control.controller import Controller
from autotrain_env.data.dataset import Dataset, SplitSizes
from autotrain_env.data.registry import load_dataset, register_dataset
from autotrain_env.data.split import Split, split_dataset
from autotrain_env.data.synthetic import synthetic
from autotrain_env.data.synthetic_images import synthetic_images
from autotrain_env.envs.env import AutoTrainEnv
from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.policies.evaluation import (
    evaluate_policy,
    evaluate_portfolio,
    make_evaluation_env,
    mean_interval,
)
from autotrain_env.policies.portfolio import FromRate, Portfolio
from autotrain_env.policies.protocol import Policy
from autotrain_env.policies.random_agent import RandomAgent
from autotrain_env.policies.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    EarlyStopping,
    Exponential,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    StepDecay,
    WarmupCosine,
    as_schedule,
)
from autotrain_env.policies.trained import TrainedPolicy, load_policy
from autotrain_env.process.actions import Decisions
from autotrain_env.process.config import AutoTrainConfig
from autotrain_env.process.core import AutoTrainCore
from autotrain_env.process.observations import METRICS
from autotrain_env.process.situation import Situation
from autotrain_env.process.task_distributions import (
    Choice,
    Curriculum,
    LogUniform,
    Mixture,
    RandomSeed,
    TaskDistribution,
    Uniform,
)
from autotrain_env.process.tasks import Task
from autotrain_env.training.classifiers import CNN, MLP, Classifier, Custom, Normalized, ResNet18
from autotrain_env.training.initialization import INITIALIZATIONS
from autotrain_env.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if hasattr(os, "register_at_fork"):
    # A forked process has none of its parent's threads, and torch would wait for them for ever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

if TYPE_CHECKING:
    from autotrain_env.control.lightning import AutoTrainCallback
    from autotrain_env.control.transformers import AutoTrainTrainerCallback
    from autotrain_env.envs.sb3 import AutoTrainVecEnv, make_sb3_env
    from autotrain_env.viewing.comparison import plot_comparison
    from autotrain_env.viewing.logs import plot_log, read_log
    from autotrain_env.viewing.run import plot_episode

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "ENVIRONMENTS",
    "INITIALIZATIONS",
    "METRICS",
    "MLP",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "AutoTrainCallback",
    "AutoTrainConfig",
    "AutoTrainCore",
    "AutoTrainEnv",
    "AutoTrainTrainerCallback",
    "AutoTrainVecEnv",
    "AutoTrainVectorEnv",
    "Choice",
    "Classifier",
    "Constant",
    "Controller",
    "Cosine",
    "Curriculum",
    "Custom",
    "Dataset",
    "Decisions",
    "EarlyStopping",
    "Exponential",
    "FromRate",
    "LogUniform",
    "Mixture",
    "Normalized",
    "OneCycle",
    "Optimizer",
    "Policy",
    "Portfolio",
    "RMSprop",
    "RandomAgent",
    "RandomSeed",
    "ReduceOnPlateau",
    "ResNet18",
    "Schedule",
    "Situation",
    "Split",
    "SplitSizes",
    "StepDecay",
    "Task",
    "TaskDistribution",
    "TrainedPolicy",
    "Uniform",
    "WarmupCosine",
    "as_schedule",
    "evaluate_policy",
    "evaluate_portfolio",
    "load_dataset",
    "load_policy",
    "make_evaluation_env",
    "make_sb3_env",
    "mean_interval",
    "plot_comparison",
    "plot_episode",
    "plot_log",
    "read_log",
    "register_dataset",
    "split_dataset",
    "synthetic",
    "synthetic_images",
]

ENVIRONMENTS: dict[str, dict[str, object]] = {
    "AutoTrain-v0": {},
    # for policies that are to serve any run: the observation says what is missing of it and how far weights
    # move, rates are as low as adaptive rules ask for, and fall to 0 unless actions say otherwise
    "AutoTrainRuns-v0": {
        "metrics": "movement",
        "lr_bounds": (1e-6, 100.0),
        "annealing": "linear",
        "lr_factors": (0.1, 0.4, 0.8, 1.0, 1.25, 2.5, 10.0),
    },
    # the first prototype: sign reward on the holdout, which is not guarded
    "AutoTrainPrototype-v0": {
        "lr_factors": (0.9, 1.0, 1.1),
        "reward": "sign",
        "reward_split": "holdout",
        "thresholdout": False,
    },
    # reduced instruction set: no rewind, reward for improvement less a cost of time
    "AutoTrainRISA-v0": {"num_rewinds": 1, "reward": "risa"},
    "AutoTrainContinuous-v0": {"action_type": "continuous"},
    # for software that takes an id alone, and does not flatten observations
    "AutoTrainFlat-v0": {"observation_layout": "flat"},
    "AutoTrainContinuousFlat-v0": {"action_type": "continuous", "observation_layout": "flat"},
}

for _id, _kwargs in ENVIRONMENTS.items():
    gymnasium.register(
        id=_id,
        entry_point="autotrain_env.envs.env:AutoTrainEnv",
        vector_entry_point="autotrain_env.envs.vector_env:AutoTrainVectorEnv",
        kwargs=_kwargs,
    )

_LATER = {  # name: package that it needs, and where it is
    "AutoTrainCallback": ("lightning", "autotrain_env.control.lightning"),
    "AutoTrainTrainerCallback": ("transformers", "autotrain_env.control.transformers"),
    "AutoTrainVecEnv": ("stable_baselines3", "autotrain_env.envs.sb3"),
    "make_sb3_env": ("stable_baselines3", "autotrain_env.envs.sb3"),
    "plot_comparison": ("matplotlib", "autotrain_env.viewing.comparison"),
    "plot_episode": ("matplotlib", "autotrain_env.viewing.run"),
    "plot_log": ("matplotlib", "autotrain_env.viewing.logs"),
    "read_log": ("matplotlib", "autotrain_env.viewing.logs"),
}
_MISSING = [name for name, (needed, _) in _LATER.items() if importlib.util.find_spec(needed) is None]
__all__ = [name for name in __all__ if name not in _MISSING]


def __getattr__(name: str) -> Any:
    """Import what needs a package that is slow to import, or may be missing, where it is asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name][1]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
