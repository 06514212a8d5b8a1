"""Where the members of a generation are evaluated: here, in other processes, or on a Ray cluster.

What comes out is the same everywhere, bit for bit: members are made from a seed and their numbers, are
evaluated in blocks of a fixed size with a fixed number of threads, and are put together in their order.
That holds for equal versions of the libraries and one type of CPU.
"""

import importlib
import multiprocessing
import multiprocessing.connection
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from autotrain_env.errors import MissingPackageError, check, check_whole, unknown_name

ATTEMPTS = 10
"""Times that members are evaluated anew because a worker died, before giving up."""


MOST_TASKS = 4
"""Tasks for each worker, so that one that has done its own takes over from others; but each has at least as
many members as a trial says, where there are so many, since few are slow side by side."""


GenerationT = TypeVar("GenerationT", contravariant=True)
OutcomeT = TypeVar("OutcomeT")


class Trial(Protocol[GenerationT, OutcomeT]):
    """How members of a search are tried; the same for a whole run."""

    @property
    def block_size(self) -> int:
        """Returns how many members are evaluated at once."""

    @property
    def enough_members(self) -> int:
        """Returns how many members make a task worth sending to a worker."""

    def evaluate(self, generation: GenerationT, members: range) -> OutcomeT:
        """Evaluate some members, of which the first begins a block, as in any process."""

    def join(self, outcomes: list[OutcomeT]) -> OutcomeT:
        """Returns the outcome of all members together, in their order."""


class Workers(Protocol):
    """Evaluate generations."""

    def evaluate(self, trial: Trial[Any, OutcomeT], generation: Any, members: int) -> OutcomeT:
        """Evaluate all members of a generation.

        Args:
            trial: How members are evaluated.
            generation: Which generation it is.
            members: Number of members.
        """

    def close(self) -> None:
        """End the workers."""


def split_members(members: int, block_size: int, num_workers: int) -> list[range]:
    """Returns ranges of members for each worker: whole blocks, as even as can be."""
    blocks = -(-members // block_size)
    count = min(num_workers, blocks)
    ends = [block_size * (blocks * (worker + 1) // count) for worker in range(count)]
    return [range(start, min(end, members)) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def count_tasks(members: int, num_workers: int, enough_members: int) -> int:
    """Returns the number of tasks that a generation is cut into for workers of unequal speed."""
    return num_workers * min(MOST_TASKS, max(1, members // (num_workers * enough_members)))


class Serial:
    """One vectorised rollout in this process."""

    def evaluate(self, trial: Trial[Any, OutcomeT], generation: Any, members: int) -> OutcomeT:
        """See `Workers.evaluate`."""
        return trial.evaluate(generation, range(members))

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


def end_with_parent() -> None:
    """Let this worker end when the process that began it does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # nobody is left to whom anything could be said

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


class Processes:
    """Worker processes on this machine; members of one that dies are evaluated by others.

    Args:
        num_workers: Number of processes.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.pool = self._make_pool()

    def _make_pool(self) -> ProcessPoolExecutor:
        # not forked: threads of torch do not survive that
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.num_workers, context, initializer=end_with_parent)

    def evaluate(self, trial: Trial[Any, OutcomeT], generation: Any, members: int) -> OutcomeT:
        """See `Workers.evaluate`.

        Raises:
            RuntimeError: If workers die again and again.
        """
        count = count_tasks(members, self.num_workers, trial.enough_members)
        ranges = split_members(members, trial.block_size, count)
        outcomes: dict[int, OutcomeT] = {}
        for _ in range(ATTEMPTS):
            missing = [range_ for range_ in ranges if range_.start not in outcomes]
            if not missing:
                return trial.join([outcomes[range_.start] for range_ in ranges])
            try:
                futures: dict[int, Future[OutcomeT]] = {
                    range_.start: self.pool.submit(trial.evaluate, generation, range_) for range_ in missing
                }
                for start, future in futures.items():
                    outcomes[start] = future.result()
            except BrokenProcessPool:
                self.pool.shutdown(wait=False, cancel_futures=True)
                self.pool = self._make_pool()
        raise RuntimeError(f"worker processes died {ATTEMPTS} times while evaluating one generation")

    def close(self) -> None:
        """End the processes; what they have begun is waited for, as it would be when this process ends."""
        self.pool.shutdown(cancel_futures=True)


class Ray:
    """Tasks on a Ray cluster, some for each CPU that it has in this generation; nodes may come and go.

    A worker that dies is replaced, and its members evaluated anew, by Ray itself.

    Args:
        num_workers: CPUs of a cluster that is begun here, where no address is given.
        address: Address of a running cluster, `"auto"` for the one this machine belongs to.
        announce: Told what was begun or joined.

    Raises:
        MissingPackageError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
    """

    def __init__(self, num_workers: int, address: str | None, announce: Callable[[str], object]) -> None:
        try:
            self.ray = importlib.import_module("ray")
        except ImportError as error:
            raise MissingPackageError(
                "workers='ray' needs Ray: pip install 'autotrain-env[distributed]'"
            ) from error
        self.is_ours = not self.ray.is_initialized()
        if self.is_ours:
            self._connect(num_workers, address)
        announce(f"Ray: {'joined ' + address if address else 'began a cluster here'}, {self._cpus()} CPUs")
        self.task = self.ray.remote(num_cpus=1, max_retries=ATTEMPTS)(_evaluate)

    def _connect(self, num_workers: int, address: str | None) -> None:
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
        if address is None:
            self.ray.init(address="local", num_cpus=num_workers, **options)
            return
        nobody = f"ray_address={address!r}: no Ray cluster answers there"
        try:
            if ":" in address:  # Ray itself would end this process if nobody did
                host, _, port = address.rpartition("://")[2].rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            self.ray.init(address=address, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"{nobody}: {error}") from error

    def _cpus(self) -> int:
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def evaluate(self, trial: Trial[Any, OutcomeT], generation: Any, members: int) -> OutcomeT:
        """See `Workers.evaluate`."""
        sent = self.ray.put(trial), self.ray.put(generation)  # once to each node
        count = count_tasks(members, self._cpus(), trial.enough_members)
        ranges = split_members(members, trial.block_size, count)
        return trial.join(self.ray.get([self.task.remote(*sent, range_) for range_ in ranges]))

    def close(self) -> None:
        """Leave the cluster, or end the one that was begun here."""
        if self.is_ours:
            self.ray.shutdown()


def _evaluate(trial: Trial[Any, OutcomeT], generation: Any, members: range) -> OutcomeT:
    return trial.evaluate(generation, members)


KINDS_OF_WORKERS = ("serial", "processes", "ray")


def make_workers(
    kind: str,
    num_workers: int | None = None,
    address: str | None = None,
    announce: Callable[[str], object] = print,
) -> Workers:
    """Make workers.

    Args:
        kind: `"serial"`, `"processes"` or `"ray"`.
        num_workers: Processes, or CPUs of a Ray cluster begun here; by default as many as there are CPUs.
        address: Address of a running Ray cluster.
        announce: Told what was begun or joined.

    Raises:
        ConnectionError: If there is no Ray cluster at the address.
        InvalidValueError: If an argument is not allowed, or goes with another kind.
        MissingPackageError: If Ray is wanted but not installed.
    """
    if kind not in KINDS_OF_WORKERS:
        raise unknown_name("workers", kind, KINDS_OF_WORKERS)
    check(address is None or kind == "ray", "ray_address", address, "None but for workers='ray'")
    check(num_workers is None or kind != "serial", "num_workers", num_workers, "None for workers='serial'")
    check(
        num_workers is None or address is None, "num_workers", num_workers, "None where a cluster is joined"
    )
    count = num_workers if num_workers is not None else os.cpu_count() or 1
    check_whole("num_workers", count, 1)
    if kind == "serial":
        return Serial()
    return Processes(count) if kind == "processes" else Ray(count, address, announce)
