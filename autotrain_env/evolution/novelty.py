"""Novelty: reward for behaviour unlike what was seen before (Conti and others, arXiv:1712.06560)."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autotrain_env.errors import InvalidTypeError, check, check_whole, unknown_name

NOVELTY_KINDS = ("ns", "nsr", "nsra")


@dataclass(frozen=True)
class Novelty:
    """How novelty and fitness share in a member's utility.

    A member's novelty is the mean distance of its behaviour to the nearest ones in an archive of what the
    centre of each generation did. Its utility is w times that of fitness plus 1 - w times that of novelty.

    | kind | w |
    |---|---|
    | `"ns"` | 0: novelty alone |
    | `"nsr"` | 1/2 |
    | `"nsra"` | 1 at first; more by `step` with every new best centre, less after `patience` without one |

    Args:
        kind: One of the kinds above.
        neighbors: How many behaviours in the archive are counted as near (k).
        step: Step of the weight, for `"nsra"`, in (0, 1].
        patience: How many generations may pass without a new best centre, for `"nsra"`.
    """

    kind: str = "nsr"
    neighbors: int = 10
    step: float = 0.05
    patience: int = 10

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind not in NOVELTY_KINDS:
            raise unknown_name("novelty kind", self.kind, NOVELTY_KINDS)
        check_whole("neighbors", self.neighbors, 1)
        check(0 < self.step <= 1, "step", self.step, "in (0, 1]")
        check_whole("patience", self.patience, 1)

    def start(self) -> "Archive":
        """Returns an empty archive."""
        return Archive(self, weight={"ns": 0.0, "nsr": 0.5, "nsra": 1.0}[self.kind])


@dataclass(frozen=True)
class Archive:
    """Behaviours seen so far; nothing is changed in place.

    Args:
        settings: How novelty counts.
        weight: Weight of fitness (w).
        behaviors: Archived behaviours, shape (entries, b); `None` before the first.
        best: Fitness of the best centre.
        since_best: Generations since the best centre.
    """

    settings: Novelty
    weight: float
    behaviors: Tensor | None = None
    best: float = -math.inf
    since_best: int = 0

    def add(self, behaviors: Tensor, centre_fitness: float) -> tuple[Tensor, "Archive"]:
        """Archive what the centre did, and measure the other members against everything archived.

        Args:
            behaviors: Behaviours of all members, the centre last, shape (n + 1, b).
            centre_fitness: Fitness of the centre.

        Returns:
            Novelty of the members, shape (n,), NaN where behaviour is not finite; the archive after it.

        Raises:
            InvalidValueError: If behaviours are of another length than those archived.
        """
        known = behaviors[:0] if self.behaviors is None else self.behaviors
        check(
            known.shape[1] == behaviors.shape[1],
            "behaviors",
            f"of shape {tuple(behaviors.shape)}",
            f"of length {known.shape[1]}, as those archived",
        )
        if behaviors[-1].isfinite().all():
            known = torch.cat((known, behaviors[-1:]))
        after = replace(self, behaviors=known)._adapt(centre_fitness)
        return after.novelty(behaviors[:-1]), after

    def novelty(self, behaviors: Tensor) -> Tensor:
        """Returns the mean distance to the nearest archived behaviours, shape (n,); 0 without any."""
        if self.behaviors is None or not len(self.behaviors):
            return behaviors.new_zeros(len(behaviors))
        # not by way of a matrix product, whose differences of large numbers lose small distances
        distances = torch.cdist(behaviors, self.behaviors, compute_mode="donot_use_mm_for_euclid_dist")
        count = min(self.settings.neighbors, len(self.behaviors))
        return distances.topk(count, dim=1, largest=False).values.mean(1)

    def _adapt(self, centre_fitness: float) -> "Archive":
        if self.settings.kind != "nsra":
            return self
        step = self.settings.step
        if centre_fitness > self.best:
            return replace(self, best=centre_fitness, since_best=0, weight=min(1.0, self.weight + step))
        if self.since_best + 1 < self.settings.patience:
            return replace(self, since_best=self.since_best + 1)
        return replace(self, since_best=0, weight=max(0.0, self.weight - step))


def check_behaviors(behaviors: Any, count: int, wanted: bool) -> Tensor | None:
    """Check the members' behaviours.

    Args:
        behaviors: Behaviours, numbers of shape (count, b), or `None`.
        count: Number of members.
        wanted: Whether there must be some.

    Returns:
        The behaviours, float64, on the CPU.

    Raises:
        InvalidTypeError: If they are no numbers.
        InvalidValueError: If they are missing, not wanted, or of another shape.
    """
    if not wanted:
        check(behaviors is None, "behaviors", behaviors, "None without novelty")
        return None
    check(behaviors is not None, "behaviors", None, f"numbers of shape ({count}, b), for novelty")
    try:
        values = torch.as_tensor(behaviors).to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidTypeError(f"behaviors={behaviors!r} must be numbers: {error}") from error
    check(
        values.ndim == 2 and len(values) == count and values.shape[1] > 0,
        "behaviors",
        f"of shape {tuple(values.shape)}",
        f"of shape ({count}, b)",
    )
    return values
