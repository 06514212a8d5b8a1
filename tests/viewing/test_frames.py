"""Frames of videos: cheap, and with axes that stand still."""

import time
from typing import Any

import gymnasium
import numpy as np
import pytest

from autotrain_env import AutoTrainEnv, plot_episode
from autotrain_env.envs.sb3 import make_sb3_env
from autotrain_env.viewing import frames
from autotrain_env.viewing.run import EPISODE_SIZE
from tests.helpers import tiny
from tests.helpers.pictures import RUNS, SMALL, overlapping

SCALES = frames.Scales(
    budget=80,
    lr_bounds=(1e-4, 100.0),
    num_snapshots=4,
    num_classes=10,
    score="accuracy",
    score_label="validation",
)


def make_frames(name: str) -> list[np.ndarray]:
    """A frame after the reset and after each step of one of these runs."""
    actions, kwargs = RUNS[name]
    env = AutoTrainEnv(render_mode="rgb_array", **SMALL | kwargs)
    env.reset(seed=1)
    made = [env.render()]
    for action in actions[:40]:
        over = env.step(np.int64(action))[2]
        made.append(env.render())
        if over:
            break
    return made


def panels(scales: frames.Scales = SCALES) -> np.ndarray:
    """Which pixels belong to the four panels or to the words above them, bool, shape (height, width)."""
    canvas = frames._canvas(scales)
    height = round(100 * EPISODE_SIZE[1])
    inside = np.zeros((height, round(100 * EPISODE_SIZE[0])), bool)
    for box in [axes.get_window_extent() for axes in canvas._panels]:
        x0, y0, x1, y1 = (round(value) for value in box.extents)
        inside[height - y1 - 6 : height - y0 + 6, x0 - 6 : x1 + 6] = True
    inside[:20] = True
    return inside


@pytest.mark.parametrize("name", [name for name in RUNS if name != "log loss"])
@pytest.mark.filterwarnings("error")
def test_nothing_but_the_curves_changes_from_frame_to_frame(name: str):
    made = make_frames(name)
    outside = ~panels()
    for frame in made:
        assert frame.dtype == np.uint8 and frame.shape == (640, 720, 3)
    if "lr_bounds" not in RUNS[name][1] and "budget" not in RUNS[name][1]:
        blank = make_frames("reset")[0]
        for frame in made:
            np.testing.assert_array_equal(frame[outside], blank[outside])
    for before, after in zip(made[:-1], made[1:], strict=True):
        assert (before != after).any()


def test_what_was_drawn_stays_where_it_was():
    """Two env steps left of the present, a frame is the one before, but for the words above."""
    made = make_frames("everything")
    canvas = frames._canvas(SCALES)
    box = canvas._panels[0].get_window_extent()
    for step in range(4, len(made)):
        until = round(box.x0 + box.width * (step - 2) / 20)
        np.testing.assert_array_equal(made[step][20:, :until], made[step - 1][20:, :until])


def test_axes_keep_the_whole_budget():
    made = make_frames("many rewinds")
    canvas = frames._canvas(SCALES)
    box = canvas._panels[-1].get_window_extent()
    ink = [np.flatnonzero((frame != made[0])[20:].any((0, 2))).max() for frame in made[1:]]
    expected = box.x0 + box.width * (0.01 + np.arange(1, len(ink) + 1) / len(ink)) / 1.02
    assert np.abs(np.array(ink) - expected).max() < 8
    assert (np.diff(ink) > 10).all()


def test_a_frame_depends_on_its_run_alone():
    """Not on what was drawn before, by this or another environment."""
    alone = make_frames("everything")
    make_frames("divergence")
    make_frames("many rewinds")
    for frame, again in zip(alone, make_frames("everything"), strict=True):
        np.testing.assert_array_equal(frame, again)
    alone[-1][:] = 0
    assert make_frames("everything")[-1].any()


@pytest.mark.filterwarnings("error")
def test_frames_of_log_losses_and_of_what_lies_beyond_the_scales():
    made = make_frames("log loss")
    assert (made[0] != made[-1]).any()
    env = AutoTrainEnv(**SMALL)
    env.reset(seed=0)
    env.step(np.int64(2))
    history = env.history()
    history["loss"][:] = np.array([[np.nan, np.inf], [1e9, 1e-9]])
    assert (frames.render_rgb(history, SCALES) != make_frames("reset")[0]).any()


@pytest.mark.parametrize("score", ["accuracy", "neg_log_loss"])
def test_words_do_not_overlap(score: str):
    canvas = frames._FrameCanvas(frames.Scales(600, (1e-4, 100.0), 4, 10, score, "validation"))
    canvas._words.set_text("update    600   rewind 3, lr x0.8")
    canvas._words.set_animated(False)
    assert overlapping(canvas._canvas.figure) == []


def test_a_frame_is_much_cheaper_than_a_picture():
    env = AutoTrainEnv(render_mode="rgb_array", **SMALL)
    env.reset(seed=0)
    env.render()

    def fastest(draw: Any, times: int) -> float:
        found = []
        for _ in range(times):
            start = time.perf_counter()
            draw()
            found.append(time.perf_counter() - start)
        return min(found)

    picture = fastest(lambda: plot_episode(env.history()).savefig("/dev/null", format="raw"), 2)
    assert fastest(env.render, 10) < picture / 10


def test_frames_per_second_reach_those_who_make_videos():
    env = make_sb3_env("AutoTrain-v0", 2, render_mode="rgb_array", **tiny(observation_layout="flat"))
    inner: Any = env.venv
    for made in (env, inner):
        assert made.metadata["render_fps"] == 4 and "rgb_array" in made.metadata["render_modes"]
    env.reset()
    assert len(env.get_images()) == 2 and env.render().shape[2] == 3
    assert gymnasium.make("AutoTrain-v0").metadata["render_fps"] == 4
    assert gymnasium.make_vec("AutoTrain-v0", num_envs=2).metadata["render_fps"] == 4


@pytest.mark.parametrize("kind", ["scalar", "sb3"])
def test_videos(tmp_path: Any, kind: str):
    moviepy = pytest.importorskip("moviepy")
    kwargs = tiny(observation_layout="flat", render_mode="rgb_array")
    if kind == "scalar":
        env = gymnasium.wrappers.RecordVideo(gymnasium.make("AutoTrain-v0", **kwargs), str(tmp_path))
        env.reset(seed=0)
        over = False
        while not over:
            *_, over, _, _ = env.step(2)
        env.close()
    else:
        from stable_baselines3.common.vec_env import VecVideoRecorder

        made = make_sb3_env("AutoTrain-v0", 2, **kwargs)
        recorder = VecVideoRecorder(made, str(tmp_path), lambda step: step == 0, video_length=6)
        recorder.reset()
        for _ in range(8):
            recorder.step(np.array([2, 2]))
        recorder.close()
    (path,) = tmp_path.glob("*.mp4")
    clip = moviepy.VideoFileClip(str(path))
    assert clip.fps == 4
    clip.close()
