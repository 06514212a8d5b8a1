"""Evaluation of a model on all that a loader gives."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check_whole, in_brief


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Measure a model's mean log loss and accuracy over the images of a loader.

    Every image counts once, also where the last minibatch is smaller than the others. The model computes in
    evaluation mode, and is left in the mode it was in.

    Args:
        model: A model that gives logits, or logarithms of probabilities, shape (B, C).
        loader: Minibatches of images (B, ...) and labels (B,), such as a `torch.utils.data.DataLoader`.
        max_batches: How many minibatches are looked at; by default all.
        device: Where images and labels are put; by default they stay where they are.

    Returns:
        `log_loss` [nats], `accuracy`, and `images`, on how many.

    Raises:
        InvalidTypeError: If the model is none, or an item of the loader is no pair of tensors.
        InvalidValueError: If the loader gives nothing, or the number of minibatches is below 1.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"model={in_brief(model)} must be a torch.nn.Module")
    if max_batches is not None:
        check_whole("max_batches", max_batches, 1)
    was_training = model.training
    model.eval()
    loss, right, count = 0.0, 0, 0
    try:
        with torch.no_grad():
            for number, batch in enumerate(loader, start=1):
                images, labels = (tensor.to(device) for tensor in _pair(batch))
                logits = model(images)
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
                right += int((logits.argmax(1) == labels).sum())
                count += len(labels)
                if number == max_batches:
                    break
    finally:
        model.train(was_training)
    if count == 0:
        raise InvalidValueError("loader: gave no image")
    return {"log_loss": loss / count, "accuracy": right / count, "images": count}


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if (
        not isinstance(batch, (list, tuple))
        or len(batch) != 2
        or not all(isinstance(tensor, Tensor) for tensor in batch)
    ):
        raise InvalidTypeError(f"loader: gave {in_brief(batch)}, which is no pair of images and labels")
    return batch[0], batch[1]
