"""Fingerprints of everything that a change of form must leave as it is, to the last bit.

    python -m benchmarks.fingerprints before.json       # then change the code
    python -m benchmarks.fingerprints after.json --against before.json

A fingerprint is the SHA-256 of observations, rewards, final test results and trained weights of an episode
under a script of all kinds of actions, of the parameters after a short training by PPO and by evolution,
and of what the policy `many` decides. They hold for one machine and one set of library versions: kernels
round differently elsewhere. Networks are computed by torch, or with `--native` by the compiled engine.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

import autotrain_env
from autotrain_env import evaluate_policy

SEEDS = (0, 1, 2)
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("AutoTrain-v0", {}),
    "mixed": ("AutoTrain-v0", {"tasks": "mixed"}),
    "many": ("AutoTrain-v0", {"tasks": "many", "observation_layout": "flat"}),
    "cnn": ("AutoTrain-v0", {"classifier": "cnn", "optimizer": "adam", "budget": 160}),
    "prototype": ("AutoTrainPrototype-v0", {"score": "neg_log_loss"}),
    "risa": ("AutoTrainRISA-v0", {"terminal_state": "best_holdout"}),
    "continuous": ("AutoTrainContinuous-v0", {"reinit_learning_rate": "initial"}),
    "multi_discrete": ("AutoTrain-v0", {"action_type": "multi_discrete", "rewind_minibatches": "same"}),
    "learning_rate": ("AutoTrain-v0", {"action_type": "learning_rate", "initial_states": "zeros"}),
}
GRU = ("policy=gru", "net_arch=[8]", "population_size=16")
TRAININGS = {
    "ppo": ("ppo", "--train-steps", "1920", "--num-envs", "16"),
    "es": ("es", "--train-steps", "1920"),
    "es, GRU": ("es", "--train-steps", "960", "--hyperparameters", *GRU),
}


class Fingerprint:
    """A hash that grows with arrays, numbers and nested containers of them."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def add(self, value: Any) -> None:
        if isinstance(value, dict):
            for name in sorted(value):
                self.hash.update(name.encode())
                self.add(value[name])
        elif isinstance(value, torch.Tensor):
            self.add(value.detach().cpu().numpy())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.hash.update(f"{value.dtype}{value.shape}".encode())
            self.hash.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, (list, tuple, np.ndarray)):
            for entry in value:
                self.add(entry)
        else:
            self.hash.update(repr(value).encode())


def columns_of(history: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of a history that every version has."""
    names = (
        "updates",
        "learning_rate",
        "score",
        "train_score",
        "loss",
        "batch_accuracy",
        "rewind",
        "reward",
    )
    return {name: history[name] for name in (*names, "reinit", "stop", "diverged", "action")}


def scripted_action(space: gymnasium.Space[Any], step: int) -> Any:
    """A sample, but for stops and re-inits, which come at set steps."""
    while True:
        action = space.sample()
        if isinstance(space, gymnasium.spaces.Discrete):
            if action < space.n - 2 or (step in (7, 19) and action == space.n - 2):
                return action
        elif isinstance(space, gymnasium.spaces.MultiDiscrete):
            if action[2] == 0 or (step in (7, 19) and action[2] == 1):
                return action
        else:
            if len(action) > 2:
                action[-2:] = (1.0 if step in (7, 19) else -1.0), -1.0
            return action


def play(env_id: str, arguments: dict[str, Any], seed: int) -> str:
    """An episode of the scalar environment."""
    env = gymnasium.make(env_id, **arguments)
    env.action_space.seed(seed)
    fingerprint = Fingerprint()
    observation, info = env.reset(seed=seed)
    over, step = False, 0
    while not over:
        fingerprint.add(observation)
        observation, reward, terminated, truncated, info = env.step(scripted_action(env.action_space, step))
        fingerprint.add((observation, reward, terminated, truncated))
        fingerprint.add({name: info[name] for name in ("score", "train_score", "learning_rate", "updates")})
        shown = {name: info[name] for name in ("diverged", "rewind", "reward_terms")}
        words = env.unwrapped.history()["action"][-1]  # type: ignore[attr-defined]
        fingerprint.add(shown | {"action": words})
        over, step = terminated or truncated, step + 1
    tested = (f"{best}test_{name}" for best in ("", "best_holdout_") for name in ("accuracy", "loss"))
    fingerprint.add({name: info[name] for name in tested})
    fingerprint.add(columns_of(env.unwrapped.history()))  # type: ignore[attr-defined]
    for best in (False, True):
        fingerprint.add(dict(env.unwrapped.network(best=best).state_dict()))  # type: ignore[attr-defined]
    return fingerprint.hash.hexdigest()


def play_side_by_side(tasks: str) -> str:
    """Two episodes of a lane each, eight lanes, with automatic resets."""
    arguments = {"tasks": tasks, "budget": 300, "autoreset_mode": "SameStep"}
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=8, **arguments)
    envs.action_space.seed(0)
    fingerprint = Fingerprint()
    observations, _ = envs.reset(seed=0)
    for _ in range(35):
        observations, rewards, terminated, truncated, info = envs.step(envs.action_space.sample())
        words = [envs.unwrapped.history(lane)["action"][-1] for lane in range(8)]  # type: ignore[attr-defined]
        fingerprint.add((observations, rewards, terminated, truncated, words, info["rewind"]))
    return fingerprint.hash.hexdigest()


def decisions_of_many() -> str:
    """What the shipped policy does in six episodes of the tasks `many`."""
    arguments = {"tasks": "many", "observation_layout": "flat", "autoreset_mode": "Disabled"}
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=6, **arguments)
    results = evaluate_policy(envs, autotrain_env.load_policy("many"), 6, history=True)
    fingerprint = Fingerprint()
    for history in results["history"]:
        fingerprint.add(columns_of(history))
    return fingerprint.hash.hexdigest()


def train(arguments: tuple[str, ...]) -> str:
    """The weights that a short training ends in."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "agents", "train", *arguments]
        command += ["--checkpoint-steps", "960", "--evaluation-episodes", "4", "--output", f"{folder}/run"]
        subprocess.run(command, check=True, capture_output=True)
        fingerprint = Fingerprint()
        fingerprint.add((Path(folder) / "run" / "policy.safetensors").read_bytes())
        return fingerprint.hash.hexdigest()


def collect() -> dict[str, str]:
    """All fingerprints by name."""
    found = {}
    for name, (env_id, arguments) in ENVIRONMENTS.items():
        for seed in SEEDS:
            found[f"{name}, seed {seed}"] = play(env_id, arguments, seed)
    for tasks in ("default", "mixed", "many"):
        found[f"8 lanes of {tasks}"] = play_side_by_side(tasks)
    found["decisions of many"] = decisions_of_many()
    for name, arguments in TRAININGS.items():
        found[f"training by {name}"] = train(arguments)
    return found


def main() -> None:
    """Write the fingerprints, and hold them against others; ends with status 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", type=Path, help="file for the fingerprints, JSON")
    parser.add_argument("--against", type=Path, help="file with those to be held against")
    parser.add_argument("--native", action="store_true", help="compute networks by the compiled engine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as nothing:
        if not options.native:  # an empty cache and no compiler, here and in every process that is started
            os.environ |= {"AUTOTRAIN_CACHE": nothing, "CXX": "no-compiler"}
        found = collect()
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} fingerprints in {options.output}")
    if options.against is not None:
        wanted = json.loads(options.against.read_text())
        differing = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
        print("\n".join(f"differs: {name}" for name in differing) or "all are the same")
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()
