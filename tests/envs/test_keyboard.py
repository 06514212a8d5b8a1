"""Playing by hand: `gymnasium.utils.play` without a mapping."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from autotrain_env.envs.keyboard import FACTOR_KEYS
from tests.helpers import ACTION_TYPES, IDS, tiny

KINDS = [(env_id, {}) for env_id in IDS] + [("AutoTrain-v0", {"action_type": ACTION_TYPES[1]})]
KINDS += [
    ("AutoTrain-v0", {"stop": False}),
    ("AutoTrain-v0", {"reinit": False, "action_type": "multi_discrete"}),
    ("AutoTrain-v0", {"lr_factors": (0.5, 0.9, 1.1, 4.0)}),
    ("AutoTrain-v0", {"lr_factors": tuple(0.5 + 0.1 * i for i in range(12))}),
]
kinds = pytest.mark.parametrize(("env_id", "kwargs"), KINDS)


def played(env_id: str, keys: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Information after a step by some keys, two steps after a reset."""
    given = tiny(initial_learning_rate=0.1, rewind_sampling="argmax", annealing="none")
    env = gymnasium.make(env_id, **given | kwargs)
    env.reset(seed=0)
    mapping = env.unwrapped.get_keys_to_action()
    assert all(action in env.action_space for action in mapping.values())
    for _ in range(2):
        env.step(mapping[""])
    return env.step(mapping[keys])[-1]


@kinds
def test_the_resting_action_leaves_the_rate_as_it_is(env_id: str, kwargs: dict[str, Any]):
    info = played(env_id, "", kwargs)
    nearest = 1.1 if len(kwargs.get("lr_factors", ())) == 4 else 1.0  # where there is no 1
    assert info["lr_factor"] == pytest.approx(nearest) and info["action"] == 0


@kinds
def test_keys_do_what_they_say(env_id: str, kwargs: dict[str, Any]):
    env = gymnasium.make(env_id, **tiny(**kwargs)).unwrapped
    mapping, config = env.get_keys_to_action(), env.config
    if config.action_type == "continuous":
        factors = [config.max_lr_factor**position for position in (-1, -0.5, 0, 0.5, 1)]
    else:
        factors = list(config.lr_factors[:9])
    for key, factor in zip(FACTOR_KEYS, factors, strict=False):
        info = played(env_id, key, kwargs)
        assert info["lr_factor"] == pytest.approx(factor) and info["action"] == 0
    assert ("q" in mapping) == (config.num_rewinds > 1)
    if config.num_rewinds > 1:
        info = played(env_id, "2w", kwargs)
        assert info["rewind"] == 2 and info["lr_factor"] == pytest.approx(factors[1])
        assert played(env_id, "q", kwargs)["rewind"] == 1
    assert ("n" in mapping) == config.reinit and ("x" in mapping) == config.stop
    if config.reinit:
        assert played(env_id, "n", kwargs)["action"] == 2
    if config.stop:
        assert played(env_id, "x", kwargs)["action"] == 3


def test_no_two_keys_together_do_anything_by_surprise():
    """`play` takes action 0 for combinations that it does not know: a fifth of the rate."""
    mapping = gymnasium.make("AutoTrain-v0", **tiny()).unwrapped.get_keys_to_action()
    single = sorted(key for key in mapping if len(key) == 1)
    known = {"".join(sorted(keys)) for keys in mapping}
    assert {one + other for one in single for other in single if one < other} <= known


def test_actions_that_set_the_rate_have_no_keys():
    env = gymnasium.make("AutoTrain-v0", **tiny(action_type="learning_rate"))
    with pytest.raises(TypeError, match="action_type='learning_rate': actions set the rate itself"):
        env.unwrapped.get_keys_to_action()


def test_gymnasiums_play_works_without_a_mapping(monkeypatch: pytest.MonkeyPatch):
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils.play import play

    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gymnasium.make("AutoTrain-v0", render_mode="rgb_array", **tiny())
    seen: list[tuple[Any, ...]] = []
    script = iter(["", "", "1", "1", "q", "x", "stop"])

    def press(*_: Any) -> None:
        """Lift all keys and press others, as a player would between two steps."""
        seen.append((_[2], _[6]["lr_factor"], _[6]["action"]))
        keys = next(script)
        for key in "12345qwenx":
            pygame.event.post(pygame.event.Event(pygame.KEYUP, key=ord(key)))
        if keys == "stop":
            pygame.event.post(pygame.event.Event(pygame.QUIT))
            return
        for key in keys:
            pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=ord(key)))

    play(env, callback=press, seed=0, fps=1000)
    assert [action for action, *_ in seen][:6] == [2, 2, 2, 0, 0, 7]
    assert [factor for _, factor, _ in seen][:3] == [1.0] * 3
    np.testing.assert_array_equal([number for *_, number in seen][:6], [0, 0, 0, 0, 0, 1])
