"""Processes that train one network together: the first decides, and all carry it out."""

import datetime
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")

TIMEOUT = 600.0
"""Seconds that a process waits for the others at a decision, before it gives up with an error."""


class Team:
    """All processes of the default group of `torch.distributed`; this one alone where there is none."""

    def __init__(self) -> None:
        self.together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.rank = dist.get_rank() if self.together else 0
        self.size = dist.get_world_size() if self.together else 1
        self._group: Any = None
        if self.together:  # of its own: the default one may serve a GPU alone, and may wait for long
            self._group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=TIMEOUT))

    @property
    def leads(self) -> bool:
        """Returns whether this process decides."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all processes, in each of them."""
        if not self.together:
            return [value]
        found: list[Any] = [None] * self.size
        self._talk(lambda: dist.all_gather_object(found, value, group=self._group))
        return found

    def lead(self, work: Callable[[], Result]) -> Result:
        """Do some work in the process that decides, and return its result in all of them.

        Args:
            work: What to do; what it returns can be pickled.

        Raises:
            RuntimeError: In the other processes, if the work failed or nothing was heard of it.
        """
        if not self.together:
            return work()
        box: list[Any] = [None, None]
        if self.leads:
            try:
                box[0] = work()
            except BaseException as error:
                box[1] = repr(error)
                self._talk(lambda: dist.broadcast_object_list(box, src=0, group=self._group))
                raise
        self._talk(lambda: dist.broadcast_object_list(box, src=0, group=self._group))
        if box[1] is not None:
            raise RuntimeError(f"the process that decides (rank 0) failed: {box[1]}")
        return box[0]

    def _talk(self, exchange: Callable[[], object]) -> None:
        try:
            exchange()
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} of {self.size} waited for the others at a decision, and one of them "
                f"failed or made fewer updates: {error}"
            ) from error
