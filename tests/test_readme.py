"""The README's scripts run as they stand."""

import re
import runpy
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
SCRIPTS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
WAYS = {
    "make": "gymnasium.make(",
    "make_vec": "make_vec(",
    "sb3": "make_sb3_env",
    "own data": "load_dataset",
    "trained policy": "load_policy",
    "evolution": "EvolutionStrategy",
}


def test_there_is_a_script_for_each_way_of_use():
    assert len(SCRIPTS) == len(WAYS)
    for script, words in zip(SCRIPTS, WAYS.values(), strict=True):
        assert words in script
        assert len([line for line in script.splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("index", range(len(SCRIPTS)), ids=list(WAYS))
def test_script_runs(
    index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SCRIPTS[index])
    names = runpy.run_path(str(script))
    printed = capsys.readouterr().out
    if "test_accuracy" in SCRIPTS[index]:
        assert re.search(r"test accuracy 0\.\d+", printed)
    if "model.save" in SCRIPTS[index]:
        assert (tmp_path / "agent.zip").exists()
        assert names["model"].num_timesteps >= 20_000
    if "load_policy" in SCRIPTS[index]:
        assert names["results"]["test_accuracy"][0] > 0.9
        assert isinstance(names["network"], torch.nn.Module)
    if "EvolutionStrategy" in SCRIPTS[index]:
        assert names["state"].parameters.norm() < 0.5
    if "classifier=lambda" in SCRIPTS[index]:
        assert names["observation"].shape == names["env"].observation_space.shape
