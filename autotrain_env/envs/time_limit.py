"""`max_episode_steps`: one meaning, whoever is given it."""

import sys
from typing import Any

import gymnasium

from autotrain_env.errors import check_whole

NO_LIMIT = -1  # what `gymnasium.make` takes for that


def with_time_limit(arguments: dict[str, Any], max_episode_steps: int | None) -> dict[str, Any]:
    """Returns arguments with `max_episode_steps` as `truncate_after`; of the two the smaller one counts.

    Args:
        arguments: Arguments of the environment, by name.
        max_episode_steps: Env steps after which an episode is truncated; `None` or -1 for never.

    Raises:
        InvalidValueError: If it is no whole number above 0.
    """
    if max_episode_steps is None or max_episode_steps == NO_LIMIT:
        return arguments
    check_whole("max_episode_steps", max_episode_steps, 1)
    other = arguments.get("truncate_after")
    if other is not None:
        check_whole("truncate_after", other, 1)
    return arguments | {"truncate_after": _smaller(max_episode_steps, other)}


def truncation_within(env: gymnasium.Env[Any, Any], truncate_after: int | None) -> int | None:
    """Returns after how many env steps an episode that is being reset will be truncated; `None` for never.

    `gymnasium.make(..., max_episode_steps=...)` tells an environment nothing of its limit. It puts a
    wrapper around it, which truncates when the step is over: too late for the final figures. The wrappers
    whose `reset` has led here are on the call stack, and nowhere else.

    Args:
        env: The environment, in a call of its `reset`.
        truncate_after: Its own limit [env steps].
    """
    frame = sys._getframe(1)
    limit = truncate_after
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == "reset" and frame.f_code.co_varnames[:1] == ("self",):
            caller = frame.f_locals["self"]
            if isinstance(caller, gymnasium.wrappers.TimeLimit) and caller.unwrapped is env:
                limit = _smaller(caller._max_episode_steps, limit)
    return limit


def _smaller(one: int, other: int | None) -> int:
    return one if other is None else min(one, other)
