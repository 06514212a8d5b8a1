"""A controller as a callback of Hugging Face's `Trainer`; this module needs `transformers`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from autotrain_env.control.controller import Controller
from autotrain_env.errors import InvalidTypeError, MissingPackageError, check

try:
    from transformers import TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ImportError as error:
    raise MissingPackageError(
        "AutoTrainTrainerCallback needs Transformers: install this package with its extra `transformers`"
    ) from error

STATE_NAME = "autotrain_controller.pt"
"""File of the controller's state in a checkpoint's folder."""
_IGNORED = -100


class AutoTrainTrainerCallback(TrainerCallback):
    """A policy controls the training of `transformers.Trainer`.

    Set `lr_scheduler_type="constant"`, since the controller sets the rate. Labels must reach the model as
    `labels`, so that its output has a loss: without label smoothing, and without a loss of one's own. The
    controller's state is saved in each checkpoint's folder, and found there when the training is resumed.

    Args:
        holdout: A dataset, which is collated as the training data are, or what `Controller` takes.
        shift: Whether the answer at a place is compared with the label at the next one; `None` for what the
            model is: true of causal language models.
        **arguments: Further arguments of `Controller`, such as `policy`, `train` or `lr_bounds`.
    """

    def __init__(self, holdout: Any, shift: bool | None = None, **arguments: Any) -> None:
        self.holdout, self.shift, self.arguments = holdout, shift, arguments
        self.controller: Controller | None = None
        self._hook: Any = None
        self._losses: list[Any] = []
        self._last: tuple[Any, Any] = (None, None)

    # --- what the trainer calls ---

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take the first look, or go on from a checkpoint."""
        kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        check(kind == "constant", "lr_scheduler_type", kind, '"constant": the controller sets the rate')
        model, optimizer = given["model"], given["optimizer"]
        scaler = getattr(optimizer, "scaler", None)
        optimizer = getattr(optimizer, "optimizer", optimizer)  # within accelerate's
        if self.shift is None:
            self.shift = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        also = [*self.arguments.get("also", ()), *([scaler] if scaler is not None else [])]
        known = updates_per_epoch(args, given.get("train_dataloader"))
        arguments = {"forward": self._forward, "updates_per_epoch": known, **self.arguments, "also": also}
        self.controller = Controller(
            model,
            optimizer,
            state.max_steps,
            holdout=self._loader(args, given.get("train_dataloader")),
            resume=self._saved(args, state),
            **arguments,
        )
        self._scheduler = given["lr_scheduler"]
        self._follow()
        self._hook = model.register_forward_hook(self._keep, with_kwargs=True)
        control.should_training_stop = self.controller.over

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Tell the controller of an update."""
        assert self.controller is not None
        if not self._losses:
            raise InvalidTypeError(
                "no loss was seen: labels must reach the model as `labels`, without label smoothing and "
                "without compute_loss_func"
            )
        sums, counts = torch.stack(self._losses).T
        over = self.controller.step(sums.sum() / counts.sum(), *self._last)
        self._losses, self._last = [], (None, None)
        self._follow()
        control.should_training_stop = control.should_training_stop or over

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Save the controller's state in the checkpoint's folder."""
        if self.controller is not None and self.controller.team.leads:
            folder = _checkpoint(args, state)
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self.controller.state_dict(), folder / STATE_NAME)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Let go of the model."""
        if self._hook is not None:
            self._hook.remove()

    # --- details ---

    def _keep(self, module: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Remember what came of a minibatch; of several for one update the answers to the last."""
        labels = kwargs.get("labels")
        loss = getattr(output, "loss", None)
        if not module.training or labels is None or loss is None:
            return
        self._last = self._aligned(output.logits.detach(), labels)
        answers = (self._last[1] != _IGNORED).sum()
        whole = kwargs.get("num_items_in_batch")  # where given, the loss is a sum over that
        total = loss.detach().reshape(()) * (answers if whole is None else whole)
        self._losses.append(torch.stack((total, answers.to(total))))

    def _aligned(self, logits: Any, labels: Any) -> tuple[Any, Any]:
        return (logits[:, :-1], labels[:, 1:]) if self.shift else (logits, labels)

    def _forward(self, model: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        return (None, *self._aligned(model(**batch).logits, batch["labels"]))

    def _loader(self, args: Any, train: Any) -> Any:
        holdout = self.holdout
        if not hasattr(holdout, "__getitem__") or isinstance(holdout, (tuple, list)):
            return holdout
        collate = getattr(train, "collate_fn", None)
        return DataLoader(holdout, args.per_device_eval_batch_size, collate_fn=collate)

    def _saved(self, args: Any, state: Any) -> Any:
        path = _checkpoint(args, state) / STATE_NAME
        return torch.load(path) if state.global_step and path.exists() else None

    def _follow(self) -> None:
        """Let the trainer's constant schedule be constant at the controller's rates."""
        assert self.controller is not None
        schedule = getattr(self._scheduler, "scheduler", self._scheduler)  # within accelerate's
        schedule.base_lrs = self.controller.rates.current()


def updates_per_epoch(args: Any, loader: Any) -> float | None:
    """Returns how many updates a trainer makes in an epoch; `None` where its loader has no length."""
    try:
        return len(loader) / args.gradient_accumulation_steps
    except TypeError:
        return None


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
