"""What a run is measured by: minibatches that have been trained on, and networks on examples."""

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check, check_whole
from autotrain_env.process.stacks import balanced_accuracy

Outcome = tuple[Any, Any, Any]
"""Loss, logits and labels of a batch; a loss of `None` is the log loss."""
Forward = Callable[[nn.Module, Any], Outcome]
"""What a network makes of a batch of a loader."""

PLAIN_CLASSES = 10
"""Classes that a loss without classes is taken to have: its chance level is theirs."""
_IGNORED = -100
_CHUNK_BYTES = 16 * 2**20
_SMALL_BATCH = 64


class Scale:
    """Turns losses and scores into those of a classification, whatever the loss is.

    Args:
        chance_loss: Loss of guessing; `None` for log C.
        num_classes: Number of classes C; `None` to read it off the first logits.
    """

    def __init__(self, chance_loss: float | None, num_classes: int | None) -> None:
        if chance_loss is not None:
            check(0 < chance_loss < math.inf, "chance_loss", chance_loss, "finite and above 0, or None")
        if num_classes is not None:
            check_whole("num_classes", num_classes, 2)
        self.chance_loss = chance_loss
        self.num_classes = num_classes
        self.has_logits: bool | None = None  # until something was seen

    @property
    def classes(self) -> int:
        """Returns C, and `PLAIN_CLASSES` where nothing tells it."""
        return self.num_classes or PLAIN_CLASSES

    @property
    def factor(self) -> float:
        """Returns what a loss is multiplied by, so that the loss of guessing becomes log C."""
        return 1.0 if self.chance_loss is None else math.log(self.classes) / self.chance_loss

    def see(self, logits: Any) -> None:
        """Learn from the first logits how many classes there are; `None` stands for none.

        Raises:
            InvalidValueError: If later ones differ, or there are none and no `chance_loss`.
        """
        if logits is None:
            check(
                self.chance_loss is not None,
                "logits",
                None,
                "given with labels, or else the controller needs chance_loss=, the loss of guessing",
            )
            check(self.has_logits is not True, "logits", None, "given, as they were before")
            self.has_logits = False
            return
        found = logits.shape[-1]
        if self.has_logits is None and self.num_classes is None:
            self.num_classes = found
        self.has_logits = True
        check(found == self.num_classes, "logits", tuple(logits.shape), f"of {self.num_classes} classes")

    def losses(self, losses: np.ndarray) -> np.ndarray:
        """Returns losses on the scale of log C; NaN and infinity stay."""
        return losses if self.chance_loss is None else np.where(losses < 0, 0, losses * self.factor)

    def accuracies(self, losses: np.ndarray) -> np.ndarray:
        """Returns what stands in for accuracy where there are no classes: 1/C at chance, 1 at no loss."""
        assert self.chance_loss is not None
        share = np.nan_to_num(losses / self.chance_loss, nan=np.inf)
        return np.clip(1 - (1 - 1 / self.classes) * share, 0, 1)


def as_classes(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Bring logits and labels into the form (n, C) and (n,).

    Args:
        logits: Shape (..., C) for labels of shape (...); or (n, C, ...) for (n, ...), as
            `torch.nn.functional.cross_entropy` has it; or as many as labels, of two classes each.
        labels: Whole numbers; or probabilities of the classes, shape (..., C).

    Raises:
        InvalidTypeError: If they are no tensors.
        InvalidValueError: If they do not fit.
    """
    for name, value in (("logits", logits), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise InvalidTypeError(f"{name}={type(value).__name__} must be a tensor")
    logits, labels = logits.detach(), labels.detach().to(logits.device)
    soft = labels.is_floating_point() and labels.shape == logits.shape and logits.ndim > 1
    if soft and logits.shape[-1] > 1:
        return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1, labels.shape[-1]).argmax(1)
    if logits.numel() == labels.numel() and logits.ndim <= labels.ndim + 1:  # one logit each
        two = torch.stack((torch.zeros_like(logits), logits), -1)
        return two.reshape(-1, 2), labels.reshape(-1).long()
    if logits.shape[:-1] == labels.shape:
        return logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    if logits.ndim == labels.ndim + 1 and logits.shape[:1] + logits.shape[2:] == labels.shape:
        return logits.movedim(1, -1).reshape(-1, logits.shape[1]), labels.reshape(-1)
    raise InvalidValueError(
        f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)} do not fit: "
        "logits must be (n, C) for labels (n,)"
    )


# --- minibatches ---


class Window:
    """Losses and right answers of the updates since the last decision; they stay on their device.

    Args:
        scale: What losses and classes mean.
    """

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.losses: list[Any] = []
        self.correct: list[Any] = []  # (right answers, answers)

    def __len__(self) -> int:
        """Returns the number of updates."""
        return len(self.losses)

    def add(self, loss: Any, logits: Any, labels: Any) -> None:
        """Add an update.

        Raises:
            InvalidTypeError: If there is no loss, or logits or labels are no tensors.
            InvalidValueError: If the loss is no single number, or logits and labels do not fit.
        """
        if isinstance(loss, Tensor):
            check(loss.numel() == 1, "loss", tuple(loss.shape), "one number, the mean over the minibatch")
            loss = loss.detach().reshape(())
        elif isinstance(loss, (float, int, np.number)):
            loss = torch.tensor(float(loss))
        else:
            raise InvalidTypeError(f"loss={loss!r} must be a tensor or a number")
        if (logits is None) != (labels is None):
            missing = "logits" if logits is None else "labels"
            raise InvalidTypeError(f"{missing}=None must be given, as the other was")
        if logits is None:
            self.scale.see(None)
            counts = None
        else:
            answers, targets = as_classes(logits, labels)
            self.scale.see(answers)
            right = (answers.max(1).indices == targets).sum()
            counts = torch.stack((right, (targets != _IGNORED).sum()))
        self.losses.append(loss)
        self.correct.append(counts)

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns loss, not scaled, and accuracy of each update, float64, shape (n,)."""
        raw = torch.stack(self._together(self.losses)).cpu().double().numpy()
        if self.correct[0] is None:
            return raw, self.scale.accuracies(raw)
        counts = torch.stack(self._together(self.correct)).cpu().numpy().astype(np.float64)
        return raw, counts[:, 0] / np.maximum(counts[:, 1], 1)

    @staticmethod
    def _together(tensors: list[Tensor]) -> list[Tensor]:
        device = tensors[0].device
        return [tensor.to(device) for tensor in tensors]

    def clear(self) -> None:
        """Begin a new interval."""
        self.losses, self.correct = [], []

    def state_dict(self) -> dict[str, Any]:
        """Returns what has been added since `clear`."""
        losses = [loss.cpu().double() for loss in self.losses]
        return {"losses": losses, "correct": [None if c is None else c.cpu() for c in self.correct]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.losses, self.correct = list(state["losses"]), list(state["correct"])


# --- networks on examples ---


class Part(NamedTuple):
    """Results on one part of the data.

    Args:
        accuracy: Share of right answers.
        scored: What scores are made of: the same, or balanced over the classes.
        loss: Mean loss, on the scale of log C.
        finite: Whether all answers were finite.
    """

    accuracy: float
    scored: float
    loss: float
    finite: bool


def plain_forward(model: nn.Module, batch: Any) -> Outcome:
    """Returns loss, logits and labels of a batch `(inputs, labels)`, or of a mapping with `"labels"`.

    Raises:
        InvalidTypeError: If the batch is something else.
    """
    if isinstance(batch, Mapping) and "labels" in batch:
        out = model(**batch)
        return None, out["logits"] if isinstance(out, Mapping) else out.logits, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return None, model(*batch[:-1]), batch[-1]
    raise InvalidTypeError(
        f"a batch of kind {type(batch).__name__} is no pair (inputs, labels): pass forward=, a function of "
        "model and batch that returns loss, logits and labels"
    )


class Source:
    """Examples to measure on: always the same ones.

    Args:
        name: What it is, for messages.
        data: A loader, or tensors `(inputs, labels)`.
        examples: How many examples to use at most; of a loader whole batches, at least one.
        batches: How many batches to use at most, of tensors each of `_SMALL_BATCH` examples; takes the
            place of `examples`.

    Raises:
        InvalidTypeError: If the data are neither.
        InvalidValueError: If there are none.
    """

    def __init__(self, name: str, data: Any, examples: int, batches: int | None) -> None:
        self.name, self.data, self.examples, self.most = name, data, examples, batches
        self.tensors = isinstance(data, (tuple, list)) and all(isinstance(part, Tensor) for part in data)
        if self.tensors:
            check(len(data) >= 2, name, f"{len(data)} tensors", "(inputs, labels)")
            sizes = {len(part) for part in data}
            check(len(sizes) == 1, name, sorted(sizes), "tensors with as many labels as inputs")
            check(min(sizes) > 0, name, "no example", "at least one example")
        elif not hasattr(data, "__iter__"):
            raise InvalidTypeError(f"{name}={type(data).__name__} must be a loader, or (inputs, labels)")
        elif hasattr(data, "__next__"):
            raise InvalidTypeError(f"{name}: an iterator is used up; pass a loader")
        else:
            with contextlib.suppress(TypeError):  # of loaders that do not know their length
                check(len(data) > 0, name, "an empty loader", "one with at least one batch")

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches."""
        if self.tensors:
            per_example = sum(part[0].numel() * part.element_size() for part in self.data)
            size = min(1024, max(16, _CHUNK_BYTES // max(per_example, 1)))
            most = self.examples if self.most is None else self.most * _SMALL_BATCH
            end = min(len(self.data[0]), most)
            for start in range(0, end, size):
                yield tuple(part[start : min(start + size, end)] for part in self.data)
            return
        found = 0
        for number, batch in enumerate(self.data, start=1):
            yield batch
            found += num_examples(batch)
            if number == self.most or (self.most is None and found >= self.examples):
                break
        check(found > 0, self.name, "an empty loader", "one with at least one batch")


class Meter:
    """Measures a network on examples, and leaves everything else as it was.

    Args:
        model: The network.
        optimizer: Its optimiser; one with `train` and `eval` is told when the network is measured.
        forward: What the network makes of a batch.
        scale: What losses and classes mean.
        seed: Seed of whatever loaders draw.
        balanced: Whether scores are of balanced accuracy.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        forward: Forward,
        scale: Scale,
        seed: int,
        balanced: bool = False,
    ) -> None:
        self.model, self.optimizer, self.forward = model, optimizer, forward
        self.scale, self.seed, self.balanced = scale, seed, balanced

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the network into evaluation mode, and every part of it back into its own afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        switches = all(callable(getattr(self.optimizer, name, None)) for name in ("train", "eval"))
        self.model.eval()
        if switches:
            self.optimizer.eval()
        try:
            with torch.no_grad(), undisturbed(self.seed):
                yield
        finally:
            if switches:
                self.optimizer.train()
            for module, training in modes:
                module.training = training

    def measure(self, source: Source) -> Part:
        """Returns the results of the network on examples; only within `evaluating`."""
        model = getattr(self.model, "module", self.model) if is_parallel(self.model) else self.model
        device = next(iter(model.parameters())).device
        correct: list[Tensor] = []
        classes: list[Tensor] = []
        losses: list[Tensor] = []
        finite: list[Tensor] = []
        for batch in source if device.type != "cpu" else small(source):
            loss, logits, labels = self.forward(model, to_device(batch, device))
            if logits is None:
                self.scale.see(None)
                losses.append(torch.as_tensor(loss).detach().reshape(1).repeat(num_examples(batch)))
                continue
            answers, targets = as_classes(logits, labels)
            self.scale.see(answers)
            kept = targets != _IGNORED
            largest, guessed = answers.max(1)
            correct.append((guessed == targets)[kept])
            classes.append(targets[kept])
            finite.append(largest.isfinite().all())
            if loss is None:
                answers = answers.float() if answers.dtype in _HALF else answers
                each = functional.cross_entropy(answers, targets, reduction="none")[kept]
            else:
                each = torch.as_tensor(loss).detach().reshape(1).repeat(int(kept.sum()))
            losses.append(each)
        found = torch.cat(losses).cpu().double().numpy()
        scaled = float(self.scale.losses(found).mean())
        if not correct:
            accuracy = float(self.scale.accuracies(found).mean())
            return Part(accuracy, accuracy, scaled, math.isfinite(scaled))
        right, labels = torch.cat(correct).cpu().numpy(), torch.cat(classes).cpu().numpy()
        accuracy = scored = float(right.mean())
        if self.balanced:
            scored = float(balanced_accuracy(right[None], labels[None], self.scale.classes)[0])
        return Part(accuracy, scored, scaled, bool(torch.stack(finite).all()))


_HALF = (torch.float16, torch.bfloat16)


def is_parallel(model: nn.Module) -> bool:
    """Returns whether a model is a wrapper that talks to other processes when it is called."""
    return isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))


def to_device(batch: Any, device: torch.device) -> Any:
    """Returns a batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def small(batches: Iterable[Any], size: int = _SMALL_BATCH) -> Iterator[Any]:
    """Yields batches cut into small ones, which a processor's caches hold; those it does not know whole."""
    for batch in batches:
        known = type(batch) in (list, tuple) and all(isinstance(part, Tensor) for part in batch)
        count = num_examples(batch)
        if not known or count <= size or any(part.shape[:1] != (count,) for part in batch):
            yield batch
            continue
        for start in range(0, count, size):
            yield tuple(part[start : start + size] for part in batch)


def num_examples(batch: Any) -> int:
    """Returns the length of the first tensor in a batch, 1 where there is none."""
    parts = batch.values() if isinstance(batch, Mapping) else batch
    first = batch if isinstance(batch, Tensor) else next((p for p in parts if isinstance(p, Tensor)), None)
    return len(first) if first is not None and first.ndim else 1


@contextlib.contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Seed all global random streams, and put them back where they were afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed % 2**63)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
