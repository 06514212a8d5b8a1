"""A window where there is a display, a message elsewhere."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from autotrain_env.viewing.window import LARGEST, Window, tile
from tests.helpers import tiny

ROOT = Path(__file__).resolve().parents[2]
makes = pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is shown, on a display that nobody sees; pictures come without pauses."""
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("autotrain_env.envs.env.RENDER_FPS", 0)
    monkeypatch.setattr("autotrain_env.envs.vector_env.RENDER_FPS", 0)
    yield lambda: pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    pygame.display.quit()


def test_a_window_shows_what_pictures_show(screen: Any):
    env = gymnasium.make("AutoTrain-v0", render_mode="human", **tiny())
    plain = gymnasium.make("AutoTrain-v0", render_mode="rgb_array", **tiny())
    env.reset(seed=0)
    plain.reset(seed=0)
    np.testing.assert_array_equal(screen(), plain.render())
    for action in (2, 7, 15):
        env.step(action)
        plain.step(action)
        np.testing.assert_array_equal(screen(), plain.render())
    assert env.render() is None
    env.close()


def test_a_window_for_all_lanes(screen: Any):
    env = gymnasium.make_vec("AutoTrain-v0", num_envs=3, render_mode="human", **tiny())
    assert env.render() is None  # before the first reset
    env.reset(seed=0)
    env.step(np.full(3, 2))
    height, width, _ = screen().shape
    assert width <= LARGEST[0] and height <= LARGEST[1]
    plain = gymnasium.make("AutoTrain-v0", render_mode="rgb_array", **tiny())
    plain.reset(seed=1)
    plain.step(2)
    corner = screen()[: height // 2, width // 2 :].mean()
    assert corner == pytest.approx(plain.render().mean(), abs=4)
    assert screen()[height // 2 + 2 :, width // 2 + 2 :].min() > 250
    env.close()


@makes
def test_copies_of_an_environment_with_a_window(screen: Any, make: Any):
    env = make("AutoTrain-v0", render_mode="human", **tiny()).unwrapped
    env.reset(seed=0)
    for twin in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        twin.step(twin.action_space.sample())
        twin.close()
    env.close()


@makes
def test_without_pygame_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, make: Any):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(ImportError, match=r"needs pygame: install it with `pip install pygame`"):
        make("AutoTrain-v0", render_mode="human", **tiny())


def test_without_a_display_the_message_says_so():
    pytest.importorskip("pygame")
    script = (
        "import gymnasium, autotrain_env\n"
        "for make in (gymnasium.make, gymnasium.make_vec):\n"
        "    try:\n"
        "        make('AutoTrain-v0', render_mode='human')\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.count("there is no display here; use render_mode='rgb_array'") == 2, done.stderr


@makes
@pytest.mark.parametrize("display", ["", ":0"])
def test_an_environment_names_the_modes_that_work_here(
    monkeypatch: pytest.MonkeyPatch, make: Any, display: str
):
    """Gymnasium's checker tries them all."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("sys.platform", "linux")
    modes = make("AutoTrain-v0", **tiny()).metadata["render_modes"]
    assert modes == (["ansi", "human", "rgb_array"] if display else ["ansi", "rgb_array"])


def test_tiles():
    pictures = [np.full((2, 3, 3), number, np.uint8) for number in range(5)]
    whole = tile(pictures)
    assert whole.shape == (4, 9, 3)
    assert whole[:, ::3, 0].tolist() == [[0, 1, 2]] * 2 + [[3, 4, 255]] * 2
    assert tile(pictures[:1]).shape == (2, 3, 3)


def test_a_window_that_never_opened_can_be_closed(screen: Any):
    Window("", 4).close()
