"""AutoTrain: a Gymnasium environment in which an agent trains a neural network."""

import gymnasium

from autotrain_env.actions import Decisions
from autotrain_env.classifiers import CNN, MLP, Classifier, Custom, ResNet18
from autotrain_env.config import AutoTrainConfig
from autotrain_env.core import AutoTrainCore
from autotrain_env.data import Dataset, SplitSizes
from autotrain_env.datasets import load_dataset, register_dataset
from autotrain_env.env import AutoTrainEnv
from autotrain_env.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from autotrain_env.policies import load_policy
from autotrain_env.synthetic_data import synthetic
from autotrain_env.tasks import Choice, Curriculum, LogUniform, RandomSeed, Task, TaskDistribution, Uniform
from autotrain_env.vector_env import AutoTrainVectorEnv

__version__ = "0.1.0"

__all__ = [
    "CNN",
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "AutoTrainConfig",
    "AutoTrainCore",
    "AutoTrainEnv",
    "AutoTrainVectorEnv",
    "Choice",
    "Classifier",
    "Curriculum",
    "Custom",
    "Dataset",
    "Decisions",
    "LogUniform",
    "Optimizer",
    "RMSprop",
    "RandomSeed",
    "ResNet18",
    "SplitSizes",
    "Task",
    "TaskDistribution",
    "Uniform",
    "load_dataset",
    "load_policy",
    "register_dataset",
    "synthetic",
]

ENVIRONMENTS: dict[str, dict[str, object]] = {
    "AutoTrain-v0": {},
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
}

for _id, _kwargs in ENVIRONMENTS.items():
    gymnasium.register(
        id=_id,
        entry_point="autotrain_env.env:AutoTrainEnv",
        vector_entry_point="autotrain_env.vector_env:AutoTrainVectorEnv",
        kwargs=_kwargs,
    )
