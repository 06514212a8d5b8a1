"""Handles of users' data in other processes."""

import os
import pickle
import shutil
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest

import autotrain_env
from autotrain_env import Dataset, SplitSizes, load_dataset, register_dataset
from autotrain_env.data import registry, sharing
from tests.helpers import user_arrays

# Reads a stranger's handle, then sends its own to child processes, and prints the blocks it has owned.
SCRIPT = """
import gc, multiprocessing, pickle, sys

import cloudpickle
import numpy as np
import torch

from autotrain_env import Dataset, load_dataset, register_dataset
from autotrain_env.data.pool import image_pool; from autotrain_env.data.split import split_dataset


def block_of(handle):
    _, (_, ticket, *_) = handle.__reduce__()
    return ticket.block


def visit(connection):
    # Answer questions about handles that arrive, each as a pickle of its own.
    images = None
    while message := connection.recv_bytes():
        first, second = pickle.loads(message)(), pickle.loads(message)()
        assert first is second
        if images is None:
            images = first.images
        assert torch.equal(images, torch.arange(400.0).reshape(100, 4) * 2.5), "did not outlive its handle"
        pool, _ = image_pool((first,), torch.float32, "cpu")
        connection.send((
            first.name, first.labels.tolist(),
            load_dataset("mine") is first, pool.data_ptr() == images.data_ptr(),
            split_dataset(first, first.default_sizes, 3).train_index.tolist(),
            len(pickle.dumps(first)) < 700, pickle.loads(pickle.dumps(first)) is first,
        ))
        del first, second, pool
        gc.collect()


def travel(start_method):
    images = np.arange(400, dtype=np.float32).reshape(100, 4) * 2.5
    # The test part is given, so that the order stays.
    base = Dataset.from_arrays(
        images[:80], np.arange(80) % 3, test_images=images[80:], test_labels=[0, 1] * 10
    )
    register_dataset("mine", base, overwrite=True)
    handle = load_dataset("mine")
    message = cloudpickle.dumps(lambda: handle)
    assert len(message) < 2000, len(message)
    assert pickle.loads(message)() is handle
    context = multiprocessing.get_context(start_method)
    ours, theirs = context.Pipe()
    process = context.Process(target=visit, args=(theirs,))
    process.start()
    train = split_dataset(handle, handle.default_sizes, 3).train_index.tolist()
    for _ in range(2):
        ours.send_bytes(message)
        assert ours.recv() == ("mine", handle.labels.tolist(), True, True, train, True, True)
    ours.send_bytes(b"")
    process.join()
    assert process.exitcode == 0
    print(block_of(base))
    return base


def share(connection):
    # Own shared memory in a child process.
    connection.send_bytes(pickle.dumps(Dataset.from_arrays(np.ones((10, 2)), np.arange(10) % 2)))
    connection.recv()


def receive_from_child():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=share, args=(theirs,))
    process.start()
    handle = pickle.loads(ours.recv_bytes())
    ours.send(None)
    process.join()
    assert process.exitcode == 0
    assert handle.images.sum() == 20  # what is mapped stays until its last user ends
    print(block_of(handle))


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        stranger = pickle.load(file)
    stranger.images[0, 0] = 123  # nobody should; it shows who shares the memory
    receive_from_child()
    own = [travel(start_method) for start_method in sys.argv[3:]][-1]
    with open(sys.argv[2], "wb") as file:
        pickle.dump(own, file)
"""


@pytest.mark.parametrize(
    "start_methods", [("fork",), pytest.param(("fork", "spawn"), marks=pytest.mark.slow)]
)
def test_user_data_travel_without_a_copy_and_leave_nothing_behind(
    tmp_path: Path, start_methods: tuple[str, ...]
):
    handle = Dataset.from_arrays(*user_arrays())
    there, back, script = (tmp_path / name for name in ("there.pickle", "back.pickle", "script.py"))
    there.write_bytes(pickle.dumps(handle))
    script.write_text(SCRIPT)
    process = subprocess.run(
        [sys.executable, str(script), str(there), str(back), *start_methods],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(autotrain_env.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    # Neither the script nor its resource tracker may complain.
    assert (process.returncode, process.stderr) == (0, "")
    blocks = process.stdout.split()
    assert len(set(blocks)) == len(blocks) == 1 + len(start_methods)
    for block in blocks:
        with pytest.raises(FileNotFoundError):
            SharedMemory(block)
    # The process that owned the memory is gone.
    with pytest.raises(RuntimeError, match="dataset 'custom': process .* its shared memory is gone"):
        pickle.loads(back.read_bytes())
    # What has ended there did not take our memory with it, and was no copy.
    assert pickle.loads(there.read_bytes()) is handle
    del handle
    assert pickle.loads(there.read_bytes()).images[0, 0] == 123


def test_user_data_pickle_to_a_ticket_and_come_back_as_the_very_same_handle():
    handle = Dataset.from_arrays(*user_arrays(shape=(1, 28, 28)))
    pickled = pickle.dumps(handle)
    assert len(pickled) < 500 and pickle.dumps(handle) == pickled
    assert pickle.loads(pickled) is handle


def test_what_is_shared_comes_back_bit_for_bit():
    handle = Dataset.from_arrays(*user_arrays(size=7, shape=(1, 5, 3)))
    images, labels = sharing.attach(sharing.share("mine", handle.images, handle.labels, "0a"))
    assert images.dtype == handle.images.dtype and labels.dtype == handle.labels.dtype
    np.testing.assert_array_equal(images.numpy(), handle.images.numpy())
    np.testing.assert_array_equal(labels, handle.labels)


def test_too_little_shared_memory_is_reported_before_it_is_used(monkeypatch: pytest.MonkeyPatch):
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no /dev/shm on this system")
    handle = Dataset.from_arrays(*user_arrays(size=1000, shape=(1000,)))
    usage = shutil.disk_usage("/dev/shm")._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="'custom': 4.0 MB of shared memory .* 1.0 MB are free"):
        pickle.dumps(handle)


# A process that ends: writes the state of an environment on data of its own, and what comes next.
CHECKPOINT = """
import pickle, sys
import gymnasium, numpy as np
from autotrain_env import load_dataset, register_dataset

sys.path.insert(0, sys.argv[1])
from mine import arrays, play

path, kind, task = sys.argv[2:]
if kind == "handle":
    data = load_dataset(arrays())
elif kind == "loader":
    register_dataset("mine", arrays)
    data = "mine"
else:
    register_dataset("mine", load_dataset(arrays()))
    data = "mine"
envs = gymnasium.make_vec("AutoTrain-v0", num_envs=2, dataset=data, budget=60)
envs.reset(seed=3)
envs.step([4, 2])
with open(path, "wb") as file:
    pickle.dump(envs.unwrapped.state_dict() if task == "state" else envs.unwrapped, file)
print(play(envs))
"""
RESUME = """
import pickle, sys
import gymnasium, numpy as np
from autotrain_env import load_dataset, register_dataset

sys.path.insert(0, sys.argv[1])
from mine import arrays, play

path, kind, task = sys.argv[2:]
register_dataset("other", "synthetic")
try:
    pickle.load(open(path, "rb"))
except RuntimeError as error:
    assert "Register the same data" in str(error) and "register_dataset" in str(error), error
else:
    raise AssertionError("data of a process that has ended")
if kind == "handle":
    register_dataset("by another name", load_dataset(arrays()))
    data = "by another name"
elif kind == "loader":
    register_dataset("mine", arrays)
    data = "mine"
else:
    register_dataset("mine", arrays())
    data = "mine"
envs = state = pickle.load(open(path, "rb"))
if task == "state":
    envs = gymnasium.make_vec("AutoTrain-v0", num_envs=2, dataset=data, budget=60)
    envs.reset()
    envs.unwrapped.load_state_dict(state)
print(play(envs))
"""
MINE = """
import numpy as np

def arrays():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    return generator.standard_normal((400, 6)) + labels[:, None], labels

def play(envs):
    return [envs.step([a, b])[0].tobytes().hex()[:4000] for a, b in ((2, 0), (7, 2), (2, 2), (2, 3))]
"""


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("registered", "state"),
        pytest.param("loader", "environment", marks=pytest.mark.slow),
        pytest.param("handle", "state", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_with_own_data_goes_on_in_a_new_process(tmp_path: Path, kind: str, task: str):
    """After the data were registered, as the message says, with the same bits."""
    (tmp_path / "mine.py").write_text(MINE)
    printed = []
    for script in (CHECKPOINT, RESUME):
        arguments = [str(tmp_path), str(tmp_path / "checkpoint.pickle"), kind, task]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=Path(autotrain_env.__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1] != ""


def test_other_data_under_the_same_name_are_not_taken_for_a_checkpoints(monkeypatch: pytest.MonkeyPatch):
    images, labels = user_arrays()
    handle = Dataset.from_arrays(images, labels)
    recipe = handle.__reduce__()
    function, (make, ticket, *more) = recipe
    gone = ticket._replace(block="psm_of_another_time")
    others = {
        "images": (images + 1e-6, labels, {}),
        "labels": (images, np.roll(labels, 1), {}),
        "classes": (images, labels, {"num_classes": 9}),
        "sizes": (images, labels, {"default_sizes": (20, 10, 10)}),
    }
    monkeypatch.setattr(registry, "_REGISTRY", {})
    for name, (other_images, other_labels, kwargs) in others.items():
        if "default_sizes" in kwargs:
            kwargs = {"default_sizes": SplitSizes(*kwargs["default_sizes"])}
        register_dataset(name, Dataset.from_arrays(other_images, other_labels, **kwargs))
    with pytest.raises(RuntimeError, match="Register the same data"):
        function(make, gone, *more)
    register_dataset("custom", (images, labels))
    found = function(make, gone, *more)
    assert found.digest == handle.digest and function(make, gone, *more) is found
    assert load_dataset("custom").images is found.images
