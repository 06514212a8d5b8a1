"""The command line in tests: small trainings, messages of what is refused."""

from pathlib import Path

import pytest

from agents.__main__ import main

ENV = ("--env.budget", "60", "--env.classifier", "mlp-6", "--env.train-size", "80")
STEPS = (
    *("--num-envs", "2", "--train-steps", "120"),
    *("--checkpoint-steps", "60", "--evaluation-episodes", "2"),
)
Captured = pytest.CaptureFixture[str]


def train(folder: Path, *more: str, algorithm: str = "ppo") -> None:
    """Train an agent for 120 env steps."""
    main(["train", algorithm, *ENV, *STEPS, "--output", str(folder), *more])


def error_of(capsys: Captured, *arguments: str) -> str:
    """What a command that the user got wrong says, in one line."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    assert exit_.value.code == 2
    return " ".join(capsys.readouterr().err.split())
