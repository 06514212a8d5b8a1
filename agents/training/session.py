"""Training an agent in a run folder: checkpoints, resuming, the evaluation curve."""

from contextlib import closing
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.runs.folder import RunConfig, RunFolder
from agents.runs.lifecycle import state_to_resume
from agents.runs.progress import Reporter
from agents.runs.seeds import training_seed
from agents.training.algorithms import check_action_space, find_algorithm
from agents.training.callbacks import CriticFirst, Keeper
from agents.training.checkpoints import load_checkpoint
from agents.training.models import make_model
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.policies.trained import load_policy


def train(
    config: RunConfig, folder: RunFolder, report: Reporter, *, resume: bool = False
) -> dict[str, Any]:
    """Train an agent, or go on with it.

    Args:
        config: What to train, and how.
        folder: Folder where the run is written; it holds the configuration already.
        report: Told how far it is.
        resume: Whether to go on from the newest checkpoint, if there is one.

    Returns:
        What is written to `result.json`.

    Raises:
        InvalidValueError: If the algorithm cannot act in the environment.
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    state = state_to_resume(config, folder, (folder.decisions, folder.evaluations)) if resume else None
    with closing(make_lanes(config, log_path=folder.decisions)) as env:
        check_action_space(find_algorithm(config.algorithm), env.action_space, config.env_id)
        if state is None:
            model = begin_model(config, env)
            env.seed(training_seed(config.seed, config.num_envs))
        else:
            checkpoint = folder.newest_checkpoint()
            assert checkpoint is not None  # whose state it is
            model = load_checkpoint(checkpoint, state, config, env)
        model.set_logger(configure(str(folder.tensorboard), ["tensorboard"]))
        keeper = Keeper(config, folder, report)
        if state is not None:
            keeper.load_state_dict(state)
        _learn(model, keeper, config.train_steps, is_new=state is None)
        result = {
            "steps": model.num_timesteps,
            "updates": int(env.get_attr("core")[0].lineage.all_updates.sum()),
            "minutes": keeper.stopwatch.minutes,
            "evaluation": keeper.evaluate(),
        }
        keeper.policy().save(folder.path)
        folder.finish(result)
        return result


def _learn(model: BaseAlgorithm, keeper: Keeper, train_steps: int, *, is_new: bool) -> None:
    """Train until all env steps are taken, and save the end.

    Raises:
        Interrupted: After Ctrl-C, once a checkpoint is saved.
    """
    callbacks: list[BaseCallback] = [keeper]
    if keeper.curriculum is not None:
        callbacks.append(keeper.curriculum)
    critic_steps = keeper.config.hyperparameters.get("critic_steps", 0)
    if critic_steps > 0:
        callbacks.append(CriticFirst(critic_steps))
    with keeper.interruption:
        remaining = train_steps - model.num_timesteps
        model.learn(remaining, callback=callbacks, reset_num_timesteps=is_new)
        keeper.save()  # before the last evaluation: what is cut short from here on is done again
        keeper.leave_if_asked()


def make_lanes(config: RunConfig, **more: Any) -> VecMonitor:
    """Returns the environment that a run is trained in.

    Args:
        config: What to train, and how.
        more: Further arguments of the environment.
    """
    group_size = config.hyperparameters.get("group_size", 1)
    return make_sb3_env(config.env_id, config.num_envs, group_size=group_size, **more, **config.env)


def begin_model(config: RunConfig, env: VecEnv) -> BaseAlgorithm:
    """Returns the model that a run begins with.

    Args:
        config: What to train, and how.
        env: Environment where it is trained; from `make_sb3_env`.

    Raises:
        InvalidValueError: If a hyperparameter is not allowed, or the policy to begin with does not fit.
    """
    policy = None if config.start_from is None else load_policy(config.start_from)
    return make_model(config.algorithm, env, config.hyperparameters, config.seed, policy)
