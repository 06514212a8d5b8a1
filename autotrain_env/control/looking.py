"""The look at a network before each decision: on training data and holdout, or as somebody else says."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from autotrain_env.control.measuring import Meter, Part, Scale, Source
from autotrain_env.control.objects import check_apart
from autotrain_env.errors import InvalidTypeError, check
from autotrain_env.process.config import AutoTrainConfig

_MEASURED_SHARE = 0.025  # of an interval's examples; twice, of holdout and of training data
_LEAST_EXAMPLES = 400
_TYPICAL_BATCH = 32


class Seen(NamedTuple):
    """What a look has found; it can be sent to other processes.

    Args:
        train: Results on training data, `None` where nobody measures them.
        holdout: Results on the holdout, `None` where there is none.
        num_classes: Number of classes, as far as it is known.
        has_logits: Whether there are classes, as far as it is known.
    """

    train: Part | None
    holdout: Part | None
    num_classes: int | None
    has_logits: bool | None


class Looker:
    """Measures a network on as many examples as a run of some length can afford.

    Args:
        meter: What measures.
        scale: What losses and classes mean.
        config: The decision process.
        holdout: A loader, tensors, a function that returns train score and holdout score, or `None`.
        train: A loader, tensors, or `None`.
        batches: How many batches to measure at most; `None` for what a run of that length can afford.

    Raises:
        InvalidTypeError: If holdout or training data are something else.
        InvalidValueError: If they are empty, or the same.
    """

    def __init__(
        self,
        meter: Meter,
        scale: Scale,
        config: AutoTrainConfig,
        holdout: Any,
        train: Any,
        batches: int | None,
    ) -> None:
        self.data = holdout
        self._meter, self._scale = meter, scale
        self._of_losses = config.score == "neg_log_loss"
        self._function: Callable[[], Any] | None = None
        self._holdout: Source | None = None
        self._train: Source | None = None
        if holdout is None:
            return
        check_apart(holdout, train, "train")
        if callable(holdout) and not hasattr(holdout, "__iter__"):
            self._function = holdout
            return
        size = int(getattr(train, "batch_size", None) or _TYPICAL_BATCH)
        examples = max(_LEAST_EXAMPLES, int(_MEASURED_SHARE * config.inner_steps * size))
        self._holdout = Source("holdout", holdout, examples, batches)
        if train is not None:
            self._train = Source("train", train, examples, batches)

    @property
    def measured(self) -> str:
        """Returns what is measured, one of `tasks.MEASURED`."""
        if self.data is None:
            return "nothing"
        return "holdout" if self._function is None and self._train is None else "train_and_holdout"

    def look(self) -> Seen:
        """Measure the network as it is.

        Raises:
            InvalidTypeError: If the function returns something else than two numbers.
            InvalidValueError: If its numbers are no scores, or a loader is empty.
        """
        train = holdout = None
        if self._function is not None:
            with self._meter.evaluating():
                train, holdout = self._given()
        elif self._holdout is not None:
            with self._meter.evaluating():
                holdout = self._meter.measure(self._holdout)
                train = None if self._train is None else self._meter.measure(self._train)
        return Seen(train, holdout, self._scale.num_classes, self._scale.has_logits)

    def guess(self) -> Part:
        """Returns what guessing gets."""
        classes = self._scale.classes
        return Part(1 / classes, 1 / classes, math.log(classes), True)

    def _given(self) -> tuple[Part, Part]:
        assert self._function is not None
        given = self._function()
        if not (isinstance(given, (tuple, list)) and len(given) == 2):
            raise InvalidTypeError(f"holdout() returned {given!r}; expected (train score, holdout score)")
        train, holdout = (self._as_part(float(score)) for score in given)
        return train, holdout

    def _as_part(self, score: float) -> Part:
        guess, finite = self.guess(), math.isfinite(score)
        if self._of_losses:
            loss = float(self._scale.losses(np.array(-score)))
            return Part(guess.accuracy, guess.scored, loss, finite)
        if finite:
            check(0 <= score <= 1, "holdout()", score, "accuracies, from 0 to 1")
        return Part(score, score, guess.loss, finite)
