"""Trainings that several test modules share; modules that use one are a group of their own under xdist."""

from pathlib import Path

import pytest

from tests.helpers.commands import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of PPO, which tests copy before they change it."""
    folder = tmp_path_factory.mktemp("runs") / "ppo"
    train(folder)
    return folder
