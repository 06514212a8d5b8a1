"""The one evaluation loop, for trained agents, schedules and portfolios alike."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from autotrain_env.envs.vector_env import AutoTrainVectorEnv
from autotrain_env.errors import InvalidTypeError, check, check_name, check_whole
from autotrain_env.policies.portfolio import Portfolio
from autotrain_env.policies.protocol import Policy
from autotrain_env.process.record import FINAL_COLUMNS, History


def make_evaluation_env(env_id: str, num_envs: int, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    """Returns a vector environment for `evaluate_policy`; of a curriculum it draws the hardest tasks.

    Args:
        env_id: Id of the environment, such as `"AutoTrain-v0"`.
        num_envs: Number of lanes (N).
        kwargs: Arguments of the environment.

    Raises:
        InvalidTypeError: If that id is of an environment of another kind.
    """
    env = gymnasium.make_vec(
        env_id, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED.value, **kwargs
    )
    vector_env = _check_env(env)
    vector_env.set_task_level(len(vector_env.config.task_distribution.levels) - 1)
    return env


def evaluate_policy(
    env: VectorEnv[Any, Any, Any],
    policy: Policy,
    episodes: int,
    seed: int | Sequence[int] = 0,
    *,
    history: bool = False,
    progress: Callable[[float], object] | None = None,
    before_step: Callable[[AutoTrainVectorEnv], object] | None = None,
) -> dict[str, np.ndarray]:
    """Play a fixed set of episodes.

    Episode k is played in lane k mod N, as that lane's (k // N)-th, and is seeded `seed + k`. So every
    policy meets the same tasks, whatever the number of lanes, and no episode counts for ending early. On
    the CPU, lanes agree bit for bit, and N changes no result of a policy that decides lane by lane.

    | key | of each episode |
    |---|---|
    | `test_accuracy`, `test_balanced_accuracy`, `test_loss` | of the last weights |
    | `best_holdout_test_accuracy`, … | the same three of those best on the guarded holdout |
    | `score`, `train_score` | at the end: on the reward's split, and on the train subset |
    | `holdout_answer` | at the end: what Thresholdout said |
    | `initial_train_score` | of the untrained network: tells whether two methods met the same tasks |
    | `return` | sum of rewards |
    | `updates`, `steps` | optimiser updates used, env steps |
    | `initial_learning_rate`, `learning_rate` | of the task (within the bounds), and at the end |
    | `rewinds`, `reinits`, `divergences` | how many (a divergence lasts until it is left) |
    | `stopped` | whether it ended by stop |
    | `history` | what the environment's `history` returns (object), only where asked for |

    Args:
        env: An `AutoTrainVectorEnv` in autoreset mode `DISABLED`. It is left with all lanes ended.
        policy: An agent or a schedule.
        episodes: How many episodes to play.
        seed: Seed of the first one, or a seed for each: episodes of one seed meet the same task, and
            differ in the policy's decisions alone.
        history: Whether to keep histories.
        progress: Called after each env step with the share of the work that is done, 0 to 1.
        before_step: Called with the environment before each decision, for drivers that act on its lanes
            (population-based training copies some); policies themselves see no environment.

    Returns:
        Arrays of shape (episodes,) by name.

    Raises:
        InvalidTypeError: If the environment is of another kind.
        InvalidValueError: If it resets by itself, `episodes` is below 1, or there are not as many seeds.
    """
    check_whole("episodes", episodes, 1)
    seeds = _episode_seeds(seed, episodes)
    vector_env = _check_env(env)
    num_envs, state = vector_env.num_envs, vector_env.core.lanes
    episode = np.arange(num_envs)  # that each lane plays, or is to begin
    surplus = episode >= episodes  # lanes without an episode: they are stopped at once
    due = np.ones(num_envs, bool)
    returns = np.zeros(num_envs)
    rows: list[dict[str, Any]] = [{} for _ in range(episodes)]
    while True:
        if due.any():
            # a lane without an episode plays the last one, and is stopped at once
            chosen = seeds[np.minimum(episode, episodes - 1)].tolist()
            vector_env.reset(seed=chosen, options={"reset_mask": due})
            policy.reset(vector_env.situation(), due.copy())
            returns[due] = 0
        elif not state.running.any():
            return _as_columns(rows, history)
        if before_step is not None:
            before_step(vector_env)
        ran = state.running.copy()
        decisions = policy.decide(vector_env.situation())
        decisions = dataclasses.replace(decisions, stop=decisions.stop | surplus)
        _, reward, _, _, info = vector_env.step_decisions(decisions)
        returns += reward
        ended = ran & ~state.running
        for lane in np.flatnonzero(ended & ~surplus).tolist():
            rows[episode[lane]] = _episode_row(info, lane, returns[lane], vector_env.history(lane))
        episode[ended] += num_envs
        due = ended & (episode < episodes)
        if progress is not None:
            share = (vector_env.core.lineage.updates / vector_env.core.lineage.budget)[state.running]
            progress((sum(map(bool, rows)) + float(share.sum())) / episodes)


def evaluate_portfolio(
    env: VectorEnv[Any, Any, Any],
    members: Sequence[Policy],
    episodes: int,
    seed: int | Sequence[int] = 0,
    *,
    by: str = "holdout_answer",
    history: bool = False,
    progress: Callable[[float], object] | None = None,
) -> dict[str, np.ndarray]:
    """Play each of a fixed set of episodes with all members, and keep the best.

    Args:
        env: As for `evaluate_policy`; its number of lanes is a multiple of the number of members.
        members: The policies; see `Portfolio`.
        episodes: How many episodes to play.
        seed: Seed of the first one, or a seed for each.
        by: What tells which is best: `"holdout_answer"`, which the guard has made coarse, or `"score"`, on
            images that no policy has seen.
        history: Whether to keep histories.
        progress: Called after each env step with the share of the work that is done, 0 to 1.

    Returns:
        What `evaluate_policy` returns, of the member that is best at the end (the first of those that are
        equal), but `updates` of all members together; and `member`, its number, int64. All of shape
        (episodes,).

    Raises:
        InvalidTypeError: As `evaluate_policy`.
        InvalidValueError: As `evaluate_policy`, if `by` is another name, or if members or lanes do not fit;
            see `Portfolio`.
    """
    check_whole("episodes", episodes, 1)
    check_name("by", by, ("holdout_answer", "score"))
    portfolio = Portfolio(members)
    count = len(portfolio.members)
    seeds = np.repeat(_episode_seeds(seed, episodes), count).tolist()
    found = evaluate_policy(env, portfolio, len(seeds), seeds, history=history, progress=progress)
    groups = {name: values.reshape(episodes, count) for name, values in found.items()}
    best = groups[by].argmax(1)
    chosen = {name: values[np.arange(episodes), best] for name, values in groups.items()}
    return chosen | {"updates": groups["updates"].sum(1), "member": best}


def _episode_seeds(seed: int | Sequence[int], episodes: int) -> np.ndarray:
    if isinstance(seed, (int, np.integer)):
        check_whole("seed", seed, 0)
        return seed + np.arange(episodes)
    for one in seed:
        check_whole("seed", one, 0)
    check(len(seed) == episodes, "seed", f"{len(seed)} seeds", f"one, or a seed for each of {episodes}")
    return np.array(seed, np.int64)


def _check_env(env: VectorEnv[Any, Any, Any]) -> AutoTrainVectorEnv:
    vector_env = getattr(env, "unwrapped", env)
    if not isinstance(vector_env, AutoTrainVectorEnv):
        raise InvalidTypeError(f"env={env!r} must be an AutoTrainVectorEnv")
    mode = vector_env.autoreset_mode
    check(
        mode == AutoresetMode.DISABLED, "autoreset_mode", mode, "AutoresetMode.DISABLED for an evaluation"
    )
    return vector_env


def _episode_row(info: dict[str, Any], lane: int, episode_return: float, past: History) -> dict[str, Any]:
    healthy = ~past["diverged"][:-1] | (past["rewind"][1:] > 0) | past["reinit"][1:]  # before training
    return {
        **{name: info[name][lane] for name in FINAL_COLUMNS},
        "score": past["score"][-1],
        "train_score": past["train_score"][-1],
        "holdout_answer": past["holdout_answer"][-1],
        "initial_train_score": past["train_score"][0],
        "return": episode_return,
        "updates": past["updates"][-1],
        "steps": len(past["updates"]) - 1,
        "initial_learning_rate": past["learning_rate"][0],
        "learning_rate": past["learning_rate"][-1],
        "rewinds": np.count_nonzero(past["rewind"]),
        "reinits": np.count_nonzero(past["reinit"]),
        "divergences": np.count_nonzero(past["diverged"][1:] & healthy),
        "stopped": past["stop"][-1],
        "history": past,
    }


def _as_columns(rows: list[dict[str, Any]], history: bool) -> dict[str, np.ndarray]:
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "history"}
    if history:
        columns["history"] = np.empty(len(rows), dtype=object)
        columns["history"][:] = [row["history"] for row in rows]
    return columns


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the mean of a sample with its 95% interval (BCa bootstrap, seeded).

    The bootstrap is bias-corrected and accelerated (Efron, Journal of the American Statistical Association
    82, 1987), with 5,000 resamples.

    Args:
        values: The sample, shape (n,).

    Returns:
        Mean, lower end, upper end; all equal where the values are.

    Raises:
        InvalidValueError: If the sample is empty or of another shape.
    """
    values = np.asarray(values, dtype=np.float64)
    check(values.ndim == 1 and len(values) > 0, "values", values, "of shape (n,) with n at least 1")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), float(values[0])
    from scipy import stats  # takes a second to import

    found = stats.bootstrap((values,), np.mean, n_resamples=5000, rng=np.random.default_rng(0))
    return float(values.mean()), float(found.confidence_interval.low), float(found.confidence_interval.high)
