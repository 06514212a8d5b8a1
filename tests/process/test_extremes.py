"""The largest and smallest numbers allowed: no finite action raises or warns, rewards are finite."""

import warnings
from typing import Any

import numpy as np
import pytest

from autotrain_env import AutoTrainVectorEnv
from autotrain_env.errors import InvalidValueError
from autotrain_env.process.actions import Decisions
from autotrain_env.process.rewards import LARGEST, LARGEST_SCORE, REWARD_PRESETS, REWARD_TERMS
from tests.helpers import ACTION_TYPES, tiny

SMALLEST_FLOAT, LARGEST_FLOAT = 5e-324, float(np.finfo(np.float64).max)
RATES = (SMALLEST_FLOAT, 1e-308, 1e-300, 1e-38, 1e-4, 1.0, 100.0, 1e38, 1e300, LARGEST_FLOAT)
FACTORS = (1 + 2**-52, 1.5, 5.0, 1e10, 1e300, LARGEST_FLOAT)


def configuration(generator: np.random.Generator, action_type: str) -> dict[str, Any]:
    low, high = sorted(generator.choice(len(RATES), 2, replace=False))
    factors = (*generator.choice(FACTORS, 2), *(1 / generator.choice(FACTORS, 2)), SMALLEST_FLOAT)
    presets = [name for name in REWARD_PRESETS if name != "baseline"]
    rewards = [*presets, {name: generator.choice((-LARGEST, LARGEST, 1.0)) for name in REWARD_TERMS}]
    return {
        "action_type": action_type,
        "lr_bounds": (RATES[low], RATES[high]),
        "lr_factors": factors,
        "max_lr_factor": generator.choice(FACTORS),
        "initial_learning_rate": float(generator.choice(RATES)),
        "reinit_learning_rate": float(generator.choice(RATES)),
        "reward": rewards[generator.integers(len(rewards))],
        "baseline": ([0, 10], [-LARGEST_SCORE, LARGEST_SCORE]),
        "time_cost": float(generator.choice((0.0, LARGEST))),
        "divergence_penalty": float(generator.choice((0.0, LARGEST))),
        "final_reward_scale": float(generator.choice((0.0, LARGEST))),
        "inter_reward": LARGEST,
        "step_cost": generator.choice((None, LARGEST)),
        "score": str(generator.choice(("accuracy", "neg_log_loss"))),
        "dtype": str(generator.choice(("float32", "float64"))),
        "optimizer": str(generator.choice(("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"))),
        "rewind_noise": float(generator.choice((0.0, LARGEST))),
    }


def extreme(env: AutoTrainVectorEnv, generator: np.random.Generator) -> Any:
    """An action, its numbers often at the ends of the space or next to 0."""
    action = env.action_space.sample()
    if action.dtype == np.float32:
        ends = np.array([-1, 1, 0, -0.0, 1e-45, -1e-45, 0.9, 0.95], np.float32)
        at_end = generator.random(action.shape) < 0.7
        action = np.where(at_end, generator.choice(ends, action.shape), action).astype(np.float32)
        action[..., -1] = np.where(
            generator.random(2) < 0.9, np.minimum(action[..., -1], 0.9), action[..., -1]
        )
    return action


def play(action_type: str, configurations: int) -> int:
    generator, steps = np.random.default_rng(ACTION_TYPES.index(action_type)), 0
    for _ in range(configurations):
        config = configuration(generator, action_type)
        env = AutoTrainVectorEnv(2, autoreset_mode="SameStep", **tiny(**config))
        env.reset(seed=int(generator.integers(1000)))
        env.action_space.seed(int(generator.integers(1000)))
        low, high = config["lr_bounds"]
        for _ in range(12):
            observation, reward, _, _, info = env.step(extreme(env, generator))
            assert np.isfinite(observation).all(), config
            assert np.isfinite(reward).all() and np.isfinite(reward.astype(np.float32)).all(), config
            assert all(
                np.isfinite(term).all()
                for term in info["reward_terms"].values()
                if term.dtype == np.float64
            ), config
            assert ((info["learning_rate"] >= low) & (info["learning_rate"] <= high)).all(), config
            assert np.isfinite(info["lr_factor"]).all() and (info["lr_factor"] > 0).all(), config
            steps += 1
    return steps


@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_no_finite_action_raises_or_warns(action_type: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert play(action_type, 15) == 180


@pytest.mark.slow
@pytest.mark.parametrize("action_type", ACTION_TYPES)
def test_no_finite_action_raises_or_warns_in_many_configurations(action_type: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert play(action_type, 400) == 4800


@pytest.mark.parametrize("factor", [SMALLEST_FLOAT, 1e-300, 1e300, LARGEST_FLOAT])
def test_decisions_of_any_factor_are_held_to_the_bounds(factor: float):
    env = AutoTrainVectorEnv(1, **tiny(lr_bounds=(1e-300, 1e300)))
    env.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            env.core.step(Decisions.scale(np.array([factor])))
    (rate,) = env.core.lineage.learning_rate
    assert rate == (1e300 if factor > 1 else 1e-300)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        *(
            ({"reward": {name: 1.1e20}}, f"reward\\['{name}'\\]")
            for name in REWARD_TERMS
            if "base" not in name
        ),
        *(
            ({name: 1e308}, name)
            for name in ("time_cost", "divergence_penalty", "step_cost", "inter_reward")
        ),
        ({"final_reward_scale": 1e308}, "final_reward_scale"),
        ({"reward": "baseline", "baseline": ([0, 1], [0, 1e308])}, "baseline"),
    ],
)
def test_weights_that_make_infinite_rewards_are_refused(kwargs: dict[str, Any], name: str):
    with pytest.raises(InvalidValueError, match=f"^{name}=.* at most 1e"):
        AutoTrainVectorEnv(1, **tiny(**kwargs))
