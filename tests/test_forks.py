"""Forked processes, as Gymnasium's and other people's vector environments make them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAKE = """
import sys
import gymnasium, torch
import autotrain_env
torch.set_num_threads(2)
kwargs = {"train_size": 200} | (dict(classifier="cnn") if "cnn" in sys.argv else {})
"""
# Whatever the parent has done with torch's threads before.
WARM = """
images = torch.randn(1000, 1000)
(images @ images).sum()
env = gymnasium.make("AutoTrain-v0", **kwargs)
env.reset(seed=0)
env.step(2)
"""
ASYNC = """
envs = gymnasium.make_vec("AutoTrain-v0", num_envs=2, vectorization_mode="async", **kwargs)
envs.reset(seed=0)
envs.step([2, 2])
envs.close()
"""
FORK = """
import multiprocessing
def play(seed):
    env = gymnasium.make("AutoTrain-v0", **kwargs)
    env.reset(seed=seed)
    env.step(2)
    return torch.get_num_threads()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(play, range(4)) == [1] * 4
"""
PARENT = "assert torch.get_num_threads() == 2\nprint('done')\n"


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="there are no forks here")
@pytest.mark.parametrize("more", [(), ("cnn",)], ids=["mlp", "cnn"])
@pytest.mark.parametrize("children", [ASYNC, FORK], ids=["async", "pool"])
@pytest.mark.parametrize("before", [pytest.param("", marks=pytest.mark.slow), WARM], ids=["cold", "warm"])
def test_forked_processes_do_not_hang(before: str, children: str, more: tuple[str, ...]):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    script = MAKE + before + children + PARENT
    done = subprocess.run(
        [sys.executable, "-c", script, *more],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
