"""Which key is which action, for `gymnasium.utils.play`."""

from typing import Any

import numpy as np

from autotrain_env.errors import InvalidTypeError
from autotrain_env.process.actions import (
    ActionType,
    ContinuousActions,
    DiscreteActions,
    MultiDiscreteActions,
)

FACTOR_KEYS = "123456789"  # the factors of the learning rate, from the first
REWIND_KEYS = "qwertyuio"  # one env step back, two, ...
REINIT_KEY, STOP_KEY = "n", "x"
_POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)  # of a continuous factor


def keys_to_action(kind: ActionType) -> dict[str, Any]:
    """Returns the action of every key, and of a factor's and a rewind's together.

    The digits choose a factor of the learning rate; `q`, `w`, `e`, … rewind by one env step, two, three, …;
    `n` re-initialises, `x` stops. No key, and keys that mean nothing together, train on at the same rate.

    Args:
        kind: The type of actions.

    Raises:
        InvalidTypeError: If an action sets the rate itself, so that none leaves it as it is.
    """
    if isinstance(kind, (DiscreteActions, MultiDiscreteActions)):
        factors = kind.lr_factors
    elif isinstance(kind, ContinuousActions):
        factors = tuple(kind.max_lr_factor**position for position in _POSITIONS)
    else:
        raise InvalidTypeError(
            f"action_type={kind.name!r}: actions set the rate itself, and a key cannot leave it as it is; "
            "use another action type, or give keys_to_action="
        )
    same = int(np.argmin(np.abs(np.log(factors))))  # the factor 1, or the one next to it
    first = {key: factor for factor, key in zip(range(len(factors)), FACTOR_KEYS, strict=False)}
    back = {key: rewind for rewind, key in zip(range(1, kind.num_rewinds), REWIND_KEYS, strict=False)}
    keys = {"": _action(kind, same)}  # no key; `play` refuses an empty tuple
    keys |= {key: _action(kind, factor) for key, factor in first.items()}
    keys |= {key: _action(kind, same, rewind) for key, rewind in back.items()}
    if kind.reinit:
        keys[REINIT_KEY] = _action(kind, same, verb="reinit")
    if kind.stop:
        keys[STOP_KEY] = _action(kind, same, verb="stop")
    single = [key for key in keys if key]
    for one in single:
        for other in single:
            if one < other:
                both = first.get(one), back.get(other)
                known = None not in both
                keys[one + other] = _action(kind, *both) if known else keys[""]  # type: ignore[arg-type]
    return keys


def _action(kind: ActionType, factor: int, rewind: int = 0, verb: str = "") -> Any:
    """Returns an action by the position of its factor."""
    if isinstance(kind, DiscreteActions):
        table = len(kind.lr_factors) * kind.num_rewinds
        return {"": rewind * len(kind.lr_factors) + factor, "reinit": table, "stop": table + kind.reinit}[
            verb
        ]
    if isinstance(kind, MultiDiscreteActions):
        return np.array([factor, rewind, {"": 0, "reinit": 1, "stop": 1 + kind.reinit}[verb]])
    assert isinstance(kind, ContinuousActions)
    action = np.full(kind.num_rewinds + 3, -1.0, np.float32)
    action[0] = _POSITIONS[factor]
    action[1 + rewind] = 1.0
    action[-2:] = (verb == "reinit", verb == "stop")
    return action
