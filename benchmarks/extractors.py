"""Does it help an agent to see its observation as (H, K, M)? PPO with three kinds of feature extractor.

Run by `python -m benchmarks.extractors --help`. `flat` and `attention` are those of `agents/`;
`convolution`, which was tried and left out, has 1-D convolutions over the H · K windows, newest first. All
have the same layers behind them, and are trained on the same tasks.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from gymnasium import spaces
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.reporting.statistics import bootstrap, compare
from agents.runs.seeds import DEVELOPMENT_SEED, training_seed
from agents.training.algorithms import REWARD
from agents.training.hyperparameters import load_hyperparameters
from agents.training.models import make_model
from autotrain_env import AutoTrainVectorEnv, Decisions
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.policies.evaluation import evaluate_policy


class Convolution(BaseFeaturesExtractor):
    """Two 1-D convolutions over the windows of all states, (N, H, K, M) to (N, H * channels)."""

    def __init__(self, space: spaces.Box, channels: int = 32) -> None:
        rows, windows, metrics = space.shape
        super().__init__(space, rows * channels)
        self.layers = nn.Sequential(
            nn.Conv1d(metrics, channels, 3, padding=1),
            nn.Tanh(),
            nn.Conv1d(channels, channels, windows, stride=windows),
            nn.Tanh(),
            nn.Flatten(),
        )

    def forward(self, observation: Tensor) -> Tensor:
        newest_first = observation.flip(2).flatten(1, 2)  # windows stand oldest first within a state
        return self.layers(newest_first.transpose(1, 2))


EXTRACTORS: dict[str, dict[str, Any]] = {
    "flat": {},
    "attention": {"extractor": "attention"},
    "convolution": {"policy_kwargs": {"features_extractor_class": Convolution}},
}


@dataclass
class Arguments:
    """Train PPO with each extractor, and compare."""

    seeds: int = 3
    """Training seeds of each extractor."""

    train_steps: int = 115_200
    """Env steps of each training."""

    episodes: int = 200
    """Paired episodes of each agent, on development seeds."""

    output: Path = Path("runs/bench/extractors.json")
    """File for the numbers."""


class Greedy:
    """A model's likeliest actions as a policy."""

    def __init__(self, model: PPO) -> None:
        self.model = model

    def reset(self, env: AutoTrainVectorEnv, lanes: np.ndarray) -> None:
        pass

    def decide(self, env: AutoTrainVectorEnv, observation: np.ndarray) -> Decisions:
        return env.core.decode(self.model.predict(observation, deterministic=True)[0])


def train(name: str, seed: int, steps: int) -> PPO:
    """Train one agent."""
    hyperparameters = load_hyperparameters("ppo", "AutoTrain-v0")
    num_envs = hyperparameters["n_envs"]
    env = make_sb3_env("AutoTrain-v0", num_envs, reward=REWARD)
    replaced = EXTRACTORS[name]
    if "policy_kwargs" in replaced:
        replaced = {"policy_kwargs": hyperparameters["policy_kwargs"] | replaced["policy_kwargs"]}
    model: Any = make_model("ppo", env, hyperparameters, seed, **replaced)
    env.seed(training_seed(seed, num_envs))
    return model.learn(steps)


def main() -> None:
    arguments, console = tyro.cli(Arguments), Console()
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=64, autoreset_mode="Disabled")
    accuracy = {}
    for name in EXTRACTORS:
        rows = []
        for seed in range(arguments.seeds):
            agent = Greedy(train(name, seed, arguments.train_steps))
            results = evaluate_policy(env, agent, arguments.episodes, DEVELOPMENT_SEED)
            rows.append(results["score"])
            console.print(f"{name}, seed {seed}: validation accuracy {100 * rows[-1].mean():.2f}")
        accuracy[name] = np.stack(rows)
    numbers = {}
    for name, values in accuracy.items():
        mean, lead = bootstrap(values), compare(values, accuracy["flat"])
        numbers[name] = {"mean": vars(mean), "lead_over_flat": vars(lead.difference), "is": lead.verdict}
        console.print(
            f"{name}: {100 * mean.mean:.2f} [{100 * mean.low:.2f}, {100 * mean.high:.2f}], over flat "
            f"{100 * lead.difference.mean:+.2f} [{100 * lead.difference.low:+.2f}, "
            f"{100 * lead.difference.high:+.2f}]"
        )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"seeds": arguments.seeds, "results": numbers}, indent=1))


if __name__ == "__main__":
    main()
