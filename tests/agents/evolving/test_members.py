"""Members of a generation: all of them meet the same tasks."""

import gymnasium
import numpy as np
import torch

from agents.evolving.members import Generation, Trial, evaluate_members
from autotrain_env import AutoTrainVectorEnv
from autotrain_env.policies.moments import Moments
from autotrain_env.policies.stacked import make_spec, policy_layout
from tests.helpers import spaces_of

ENV = {"observation_layout": "flat", "budget": 60, "train_size": 100, "classifier": "mlp-8"}


def test_equal_members_do_equally_well_since_they_meet_the_same_tasks() -> None:
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=1, autoreset_mode="Disabled", **ENV).unwrapped
    assert isinstance(env, AutoTrainVectorEnv)
    spec = make_spec(*spaces_of(env), (4,))
    trial = Trial("AutoTrain-v0", ENV, spec.as_json(), 2, 3, "return", True, True, 1)
    parameters = torch.randn(policy_layout(spec).size, generator=torch.Generator().manual_seed(0))
    moments = Moments.empty(int(np.prod(env.single_observation_space.shape)))

    def outcome(*seeds: int) -> tuple[list[float], np.ndarray]:
        generation = Generation(0, seeds, parameters.repeat(5, 1), moments, seed=5)
        found = evaluate_members(trial, generation, range(5))
        assert found.behaviors is not None
        return found.fitness.tolist(), found.behaviors

    fitness, behaviors = outcome(11, 12)
    assert len(set(fitness)) == 1
    assert (behaviors == behaviors[0]).all()
    # The mean over both tasks, which differ.
    first, second = (outcome(seed, seed)[0][0] for seed in (11, 12))
    assert first != second
    assert np.isclose(fitness[0], (first + second) / 2)
