"""The callback in Lightning's own trainer."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.helpers import assert_same
from tests.helpers.loops import loaders, network

lightning = pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
    ),
]


def module(**options: Any) -> Any:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()
            self.automatic_optimization = not options.get("manual", False)

        def forward(self, inputs: Any) -> Any:
            return self.network(inputs)

        def training_step(self, batch: Any, number: int) -> Any:
            inputs, labels = batch
            logits = self(inputs)
            loss = F.cross_entropy(logits, labels)
            if options.get("manual"):
                return None
            return {"loss": loss, "logits": logits, "labels": labels} if options.get("whole") else loss

        def validation_step(self, batch: Any, number: int) -> None:
            return None

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
            if options.get("schedule"):
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]
            return optimizer

    return Module()


def trainer(callback: Any, **arguments: Any) -> Any:
    given = {"max_steps": 150, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    given["default_root_dir"] = tempfile.mkdtemp()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(callbacks=[callback], **quiet, **given | arguments)


def callback(**arguments: Any) -> Any:
    from autotrain_env import AutoTrainCallback

    return AutoTrainCallback(**{"reinit": "reset_parameters", "decisions": 15} | arguments)


@pytest.mark.parametrize("whole", [False, True])
def test_the_policy_trains_the_module(whole: bool):
    train, holdout = loaders()
    found = callback()
    fitted = trainer(found)
    fitted.fit(module(whole=whole), train, holdout)
    controller = found.controller
    assert controller.over and (fitted.global_step == 150 or controller.stopped)
    assert len(set(controller.history["learning_rate"])) > 3
    assert fitted.optimizers[0].param_groups[0]["lr"] == controller.learning_rate
    assert controller.history["batch_accuracy"][-1, -1] > 0.6


def test_the_same_with_either_output():
    histories = []
    for whole in (False, True):
        train, holdout = loaders(shuffle=False)
        found = callback()
        trainer(found).fit(module(whole=whole), train, holdout)
        histories.append(dict(found.controller.history))
    assert_same(*histories)


def test_a_stop_ends_the_training():
    from autotrain_env import EarlyStopping

    train, holdout = loaders()
    found = callback(policy=EarlyStopping("constant", patience=1, threshold=0.5))
    fitted = trainer(found)
    fitted.fit(module(), train, holdout)
    assert found.controller.stopped and fitted.global_step < 150


def test_resumed_from_its_checkpoints(tmp_path: Path):
    def fit(steps: int, path: Path | None = None) -> Any:
        train, holdout = loaders(shuffle=False)
        found = callback()
        checkpoints = lightning.pytorch.callbacks.ModelCheckpoint(
            tmp_path, every_n_train_steps=60, save_top_k=-1, filename="{step}"
        )
        fitted = trainer(found, enable_checkpointing=True, max_steps=150)
        fitted.callbacks.append(checkpoints)
        if steps < 150:
            fitted.callbacks.insert(0, StopAt(steps))
        fitted.fit(module(), train, holdout, ckpt_path=path, weights_only=False)
        return found.controller, fitted

    class StopAt(lightning.pytorch.callbacks.Callback):
        def __init__(self, steps: int) -> None:
            self.steps = steps

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= self.steps

    expected, whole = fit(150)
    for path in tmp_path.iterdir():
        if "60" not in path.name:
            path.unlink()
    (saved,) = tmp_path.iterdir()
    found, resumed = fit(150, saved)
    assert_same(dict(found.history), dict(expected.history))
    for name, weights in whole.model.state_dict().items():
        assert_same(resumed.model.state_dict()[name], weights)


def test_the_controller_is_told_of_epochs():
    train, holdout = loaders()
    for given, updates in (({}, len(train) / 2), ({"updates_per_epoch": 10}, 10)):
        found = callback(policy="constant", metrics="epochs", **given)
        trainer(found, accumulate_grad_batches=2, max_steps=30).fit(module(), train, holdout)
        epochs, missing = found.controller.situation().rows[0, 0, :, -2:].T
        assert 10 ** (4 * epochs) == pytest.approx(30 / updates, rel=1e-4) and not missing.any()


def test_accumulated_gradients_and_mixed_precision():
    train, holdout = loaders()
    found = callback()
    fitted = trainer(found, accumulate_grad_batches=2, precision="bf16-mixed", max_steps=60)
    fitted.fit(module(), train, holdout)
    assert found.controller.over
    assert found.controller.updates == fitted.global_step == 60 or found.controller.stopped


def test_two_devices(tmp_path: Path):
    """In processes of their own, since Lightning starts them from the program."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    program = f"""
import sys
sys.path.insert(0, {str(root)!r})
import torch
from tests.control.test_lightning import callback, loaders, module, trainer

if __name__ == "__main__":
    torch.set_num_threads(1)
    train, holdout = loaders()
    found = callback(policy="random", stop=False)
    fitted = trainer(found, devices=2, strategy="ddp", max_steps=60)
    fitted.fit(module(), train, holdout)
    name = "{tmp_path}/rank%d.pt" % fitted.global_rank
    torch.save({{"actions": list(found.controller.history["action"]),
                "weights": dict(fitted.lightning_module.state_dict())}}, name)
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["actions"] == second["actions"] and len(first["actions"]) == 13
    for name, weights in first["weights"].items():
        if "running" not in name:
            np.testing.assert_array_equal(weights.numpy(), second["weights"][name].numpy())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"manual": True}, "automatic_optimization"), ({"schedule": True}, "lr_scheduler")],
)
def test_what_cannot_be_controlled(options: dict[str, Any], words: str):
    train, holdout = loaders()
    with pytest.raises(ValueError, match=words):
        trainer(callback()).fit(module(**options), train, holdout)


def test_the_holdout_must_be_held_out():
    train, _ = loaders()
    with pytest.raises(ValueError, match="the same data"):
        trainer(callback()).fit(module(), train, train)
