"""A window that shows pictures as they come."""

import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotrain_env.errors import InvalidValueError, MissingPackageError

LARGEST = (1600, 900)  # width and height of a window [pixels]


class Window:
    """A window on this computer's display, opened with the first picture.

    Copies, also in other processes, open windows of their own.

    Args:
        title: What stands above it.
        fps: Pictures per second at most; `show` waits for that long.

    Raises:
        MissingPackageError: If pygame is not installed.
        InvalidValueError: If there is no display.
    """

    def __init__(self, title: str, fps: int) -> None:
        self.title, self.fps = title, fps
        self._pygame = _start_display()
        self._screen: Any = None
        self._clock = self._pygame.time.Clock()

    def __reduce__(self) -> tuple[type["Window"], tuple[str, int]]:
        return Window, (self.title, self.fps)

    def show(self, picture: np.ndarray) -> None:
        """Show a picture, uint8, shape (height, width, 3), smaller where it would not fit."""
        pygame = self._pygame
        height, width = picture.shape[:2]
        scale = min(1.0, LARGEST[0] / width, LARGEST[1] / height)
        size = (round(scale * width), round(scale * height))
        if self._screen is None or self._screen.get_size() != size:
            pygame.display.init()
            self._screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self.title)
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._screen.blit(pygame.transform.smoothscale(surface, size), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        """Close the window, if it is open."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None


def can_open_window() -> bool:
    """Returns whether there seems to be pygame and a display, without starting either."""
    installed = "pygame" in sys.modules or importlib.util.find_spec("pygame") is not None
    return installed and (sys.platform != "linux" or any(map(os.environ.get, _DISPLAYS)))


_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


def _start_display() -> Any:
    """Returns pygame, with its display started."""
    try:
        import pygame
    except ImportError as error:
        raise MissingPackageError(
            "render_mode='human' needs pygame: install it with `pip install pygame`, or this package with "
            "its extra `play`"
        ) from error
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
    except pygame.error:
        driver = "offscreen"
    # SDL falls back on drawing where nobody sees it, which is right only for those who ask for it.
    if driver in ("offscreen", "dummy", "evdev") and os.environ.get("SDL_VIDEODRIVER") != driver:
        raise InvalidValueError(
            "render_mode='human' opens a window, and there is no display here; use render_mode='rgb_array' "
            "(gymnasium.wrappers.RecordVideo makes a video of it) or 'ansi'"
        )
    return pygame


def tile(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures of one shape side by side, in rows, white where there are too few."""
    height, width, _ = pictures[0].shape
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    whole = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = picture
    return whole
