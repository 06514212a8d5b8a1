"""Packages that only some uses need: not imported before, and named where they are missing."""

import importlib
import importlib.util
import subprocess
import sys

import pytest
import torch

import autotrain_env
from autotrain_env import Controller, Cosine
from autotrain_env.errors import MissingPackageError
from tests.helpers.loops import network

PROGRAM = """
import sys
import autotrain_env
slow = {"matplotlib", "scipy.stats", "pandas", "torchvision", "sklearn", "stable_baselines3"}
print(sorted(slow & set(sys.modules)))
from autotrain_env import Controller, plot_log
from autotrain_env.viewing import watch
heavy = {"lightning", "pytorch_lightning", "transformers", "accelerate", "tensorboard", "rich"}
print(sorted(heavy & set(sys.modules)))
"""


def test_they_are_not_imported_with_the_package():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["[]", "[]"]


@pytest.mark.parametrize(
    ("name", "module", "needed"),
    [
        ("AutoTrainCallback", "autotrain_env.control.lightning", "lightning.pytorch.callbacks"),
        ("AutoTrainTrainerCallback", "autotrain_env.control.transformers", "transformers"),
    ],
)
def test_where_they_are_missing(name: str, module: str, needed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, needed, None)  # type: ignore[arg-type]
    with pytest.raises(MissingPackageError, match=f"{name} needs .* its extra"):
        getattr(autotrain_env, name)
    with pytest.raises(MissingPackageError):
        importlib.import_module(module)


def test_a_line_in_the_terminal_needs_rich(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "rich" else find(name))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(MissingPackageError, match="progress=True needs rich"):
        Controller(model, optimizer, 60, policy=Cosine(0.1), progress=True)
    Controller(model, optimizer, 60, policy=Cosine(0.1))
