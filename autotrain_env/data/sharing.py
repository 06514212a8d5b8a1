"""Shared memory: how images and labels reach other processes without a copy in each."""

from __future__ import annotations

import math
import multiprocessing.util
import os
import shutil
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch


class Ticket(NamedTuple):
    """Where images and labels lie: what is sent to another process instead of them.

    Attributes:
        name: What messages call the data set.
        block: Name of the block of shared memory.
        process: The process that it belongs to.
        images_shape: Shape of the images, (n, *image_shape).
        digest: What tells these data from others, in processes that cannot map them.
    """

    name: str
    block: str
    process: int
    images_shape: tuple[int, ...]
    digest: str


class SharedMemoryGoneError(RuntimeError):
    """The process that shared a data set has ended, or runs on another machine.

    Args:
        ticket: What was to be mapped.
    """

    def __init__(self, ticket: Ticket) -> None:
        super().__init__(
            f"dataset {ticket.name!r}: process {ticket.process}, which pickled it, has ended or runs on "
            "another machine, and its shared memory is gone. Register the same data in this process, under "
            "any name (autotrain_env.register_dataset), and read this again."
        )
        self.ticket = ticket


def share(name: str, images: torch.Tensor, labels: npt.NDArray[np.int64], digest: str) -> Ticket:
    """Copy images and labels to shared memory, where they stay until this process ends.

    Args:
        name: What messages call the data set.
        images: Images, float32, on the CPU, shape (n, *image_shape).
        labels: Labels, shape (n,).
        digest: What tells these data from others.

    Returns:
        The ticket for `attach`.

    Raises:
        OSError: If there is too little shared memory.
    """
    num_bytes = labels.nbytes + images.nbytes
    _check_free_memory(name, num_bytes)
    block = SharedMemory(create=True, size=num_bytes)
    # Negative: after the end of child processes, which may still have to attach.
    multiprocessing.util.Finalize(None, block.unlink, exitpriority=-100)
    shared_images, shared_labels = _map(block, tuple(images.shape))
    shared_images.copy_(images)
    shared_labels[:] = labels
    return Ticket(name, block.name, os.getpid(), tuple(images.shape), digest)


def attach(ticket: Ticket) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """Map what another process has shared; what is mapped stays as long as it is in use.

    Args:
        ticket: What `share` returned there.

    Returns:
        Images and labels, not copied.

    Raises:
        SharedMemoryGoneError: If the process that shared them has ended.
    """
    try:
        block = _open(ticket.block)
    except FileNotFoundError:
        raise SharedMemoryGoneError(ticket) from None
    return _map(block, ticket.images_shape)


class _MappedBytes:
    """The bytes of a block for NumPy, mapped as long as an array or tensor uses them.

    An array made from this object holds on to it, and it to the block. An array made from the
    block's own buffer would make the block fail to close, with a message on stderr.
    """

    def __init__(self, block: SharedMemory) -> None:
        self.block = block
        view = np.ndarray(block.size, dtype=np.uint8, buffer=block.buf)
        self.__array_interface__ = view.__array_interface__


def _map(block: SharedMemory, images_shape: tuple[int, ...]) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
    """View a block as labels (first, being wider) and images."""
    memory = np.asarray(_MappedBytes(block))
    labels_end = images_shape[0] * np.dtype(np.int64).itemsize
    images_end = labels_end + math.prod(images_shape) * np.dtype(np.float32).itemsize
    images = memory[labels_end:images_end].view(np.float32).reshape(images_shape)
    return torch.from_numpy(images), memory[:labels_end].view(np.int64)


def _open(block_name: str) -> SharedMemory:
    """Attach to a block without becoming its owner."""
    if sys.version_info >= (3, 13):
        return SharedMemory(block_name, track=False)
    # Older versions let the tracker remove the block when the first process attached to it ends.
    register = resource_tracker.register
    resource_tracker.register = lambda name, rtype: None
    try:
        return SharedMemory(block_name)
    finally:
        resource_tracker.register = register


def _check_free_memory(name: str, num_bytes: int) -> None:
    """Report a lack of shared memory, which otherwise kills the process at the first write."""
    folder = "/dev/shm"
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else math.inf
    if num_bytes > free:
        raise OSError(
            f"dataset {name!r}: {num_bytes / 1e6:,.1f} MB of shared memory are needed to send it "
            f"to another process, {free / 1e6:,.1f} MB are free in {folder} (containers often set "
            "a low limit). Raise it, or load the data in each process."
        )
