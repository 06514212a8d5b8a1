"""A controller as a callback of Lightning; this module needs `lightning` (the extra of that name)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autotrain_env.control.controller import Controller
from autotrain_env.control.measuring import plain_forward
from autotrain_env.control.objects import check_apart
from autotrain_env.errors import InvalidTypeError, InvalidValueError, MissingPackageError, check

try:
    from lightning.pytorch.callbacks import Callback
except ImportError as error:
    raise MissingPackageError(
        "AutoTrainCallback needs Lightning: install this package with its extra `lightning`"
    ) from error


class AutoTrainCallback(Callback):
    """A policy controls the training of a `LightningModule`, for automatic optimisation with one optimiser.

    The number of updates is the trainer's (`max_steps`, or epochs times batches). The holdout is the
    trainer's validation loader, unless another is given. `training_step` returns the loss with the logits
    and labels, `{"loss": loss, "logits": logits, "labels": labels}`; where it returns the loss alone, the
    module's own output and the last part of the batch are taken.

    Do without a schedule in `configure_optimizers`. The controller's state is part of checkpoints.

    Args:
        holdout: A loader, tensors or a function, as in `Controller`; `None` for the validation loader.
        forward: A function of module and batch that returns loss, logits and labels; `None` for batches
            `(inputs, labels)` of which the module makes logits.
        **arguments: Further arguments of `Controller`, such as `policy`, `train` or `reinit`.
    """

    def __init__(self, holdout: Any = None, forward: Any = None, **arguments: Any) -> None:
        super().__init__()
        self.holdout, self.forward, self.arguments = holdout, forward, arguments
        self.controller: Controller | None = None
        self._resume: Any = None
        self._hook: Any = None
        self._output: Any = None
        self._step = 0

    # --- what Lightning calls ---

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the first look, or go on from a checkpoint."""
        check(
            bool(pl_module.automatic_optimization),
            "automatic_optimization",
            False,
            "True: with manual optimisation, drive an autotrain_env.Controller in training_step",
        )
        optimizers = trainer.optimizers
        check(len(optimizers) == 1, "optimizers", len(optimizers), "one optimiser")
        check(
            not trainer.lr_scheduler_configs, "lr_scheduler", "a schedule", "none: the controller sets it"
        )
        check_apart(self._holdout(trainer), trainer.train_dataloader, "the train loader")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        also = [*self.arguments.get("also", ()), *([scaler] if scaler is not None else [])]
        given = {name: value for name, value in self.arguments.items() if name != "also"}
        self.controller = Controller(
            pl_module,
            optimizers[0],
            total_updates(trainer),
            holdout=self._holdout(trainer),
            forward=self._in_precision(trainer),
            also=also,
            resume=self._resume,
            **{"updates_per_epoch": updates_per_epoch(trainer), **given},
        )
        self._step = trainer.global_step
        self._hook = pl_module.register_forward_hook(self._keep_output)
        trainer.should_stop = trainer.should_stop or self.controller.over

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the controller of an update, and of no batch that brought none (accumulated gradients)."""
        if trainer.global_step == self._step or self.controller is None:
            return
        self._step = trainer.global_step
        if self.controller.step(*self._outcome(outputs, batch)):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Let go of the module."""
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of the module."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """Returns the controller's state, for a checkpoint."""
        return {} if self.controller is None else self.controller.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a controller's state until the training begins."""
        self._resume = state_dict or None

    # --- details ---

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _keep_output(self, module: Any, inputs: Any, output: Any) -> None:
        # With several processes Lightning calls training_step through the module, which returns a loss.
        if module.training and isinstance(output, Tensor) and output.ndim:
            self._output = output.detach()

    def _outcome(self, outputs: Any, batch: Any) -> tuple[Any, Any, Any]:
        if isinstance(outputs, Mapping) and "logits" in outputs:
            return outputs["loss"], outputs["logits"], outputs["labels"]
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if self.arguments.get("chance_loss") is not None and self._output is None:
            return loss, None, None
        if self._output is None or not isinstance(batch, (tuple, list)):
            raise InvalidTypeError(
                'training_step must return {"loss": ..., "logits": ..., "labels": ...}, or call the module '
                "on a batch (inputs, labels)"
            )
        return loss, self._output, batch[-1]

    def _holdout(self, trainer: Any) -> Any:
        if self.holdout is not None:
            return self.holdout
        loaders = trainer.val_dataloaders
        if isinstance(loaders, (list, tuple)):
            loaders = loaders[0] if loaders else None
        return loaders

    def _in_precision(self, trainer: Any) -> Any:
        forward = plain_forward if self.forward is None else self.forward

        def measured(model: Any, batch: Any) -> Any:
            with trainer.precision_plugin.forward_context():
                return forward(model, batch)

        return measured


def updates_per_epoch(trainer: Any) -> float | None:
    """Returns how many updates a trainer makes in an epoch; `None` where its loader has no length."""
    batches = trainer.num_training_batches
    return batches / trainer.accumulate_grad_batches if 0 < batches < float("inf") else None


def total_updates(trainer: Any) -> int:
    """Returns how many updates a trainer will make.

    Raises:
        InvalidValueError: If nothing bounds them.
    """
    total = trainer.estimated_stepping_batches
    if not total or total == float("inf") or total < 0:
        raise InvalidValueError("Trainer(max_steps=...) or max_epochs= must say how many updates there are")
    return int(total)
