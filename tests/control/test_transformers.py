"""The callback in the trainer of Hugging Face, with networks made on the spot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests.helpers import assert_same

transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.clients,
    pytest.mark.filterwarnings(
        "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
    ),
]
WORDS, LENGTH = 13, 8


class Sentences(Dataset):
    """Sentences in which each word follows from the last; labels are they themselves, or a class."""

    def __init__(self, first: int, last: int, classes: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        starts = torch.randint(0, WORDS, (last,), generator=generator)[first:]
        steps = torch.randint(1, 3, (last,), generator=generator)[first:]
        self.words = (starts[:, None] + steps[:, None] * torch.arange(LENGTH)) % WORDS
        self.labels = steps - 1 if classes else self.words

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"input_ids": self.words[at], "labels": self.labels[at]}


def make_model(classes: bool) -> Any:
    torch.manual_seed(0)
    size = {"n_positions": LENGTH, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": WORDS}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = transformers.GPT2Config(**size, **no_dropout, pad_token_id=0, num_labels=2, bos_token_id=0)
    config.eos_token_id = 0
    kind = transformers.GPT2ForSequenceClassification if classes else transformers.GPT2LMHeadModel
    return kind(config)


def trainer(folder: Path, callback: Any, classes: bool = False, **arguments: Any) -> Any:
    given = {"max_steps": 120, "learning_rate": 0.01, "lr_scheduler_type": "constant", "save_steps": 45}
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "logging_steps": 1000}
    return transformers.Trainer(
        model=make_model(classes),
        args=transformers.TrainingArguments(
            str(folder), per_device_train_batch_size=16, **quiet, **given | arguments
        ),
        train_dataset=Sentences(0, 256, classes),
        callbacks=[callback],
    )


def make(classes: bool = False, **arguments: Any) -> Any:
    from autotrain_env import AutoTrainTrainerCallback

    holdout = Sentences(256, 356, classes)
    return AutoTrainTrainerCallback(
        holdout, **{"decisions": 12, "policy": "random", "stop": False} | arguments
    )


@pytest.mark.parametrize("classes", [False, True])
def test_the_policy_trains_the_model(tmp_path: Path, classes: bool):
    callback = make(classes, policy="many", stop=True)
    training = trainer(tmp_path, callback, classes)
    training.train()
    controller = callback.controller
    assert controller.over and (training.state.global_step == 120 or controller.stopped)
    assert controller._scale.num_classes == (2 if classes else WORDS)
    assert len(set(controller.history["learning_rate"])) > 3
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(controller.learning_rate)
    assert controller.rates.overridden == 0
    assert controller.history["holdout_answer"][-1] > (0.6 if classes else 0.5)


def test_what_is_told_of_minibatches_is_right(tmp_path: Path):
    """Losses and accuracies of next words, also where gradients are accumulated."""
    seen: list[tuple[float, float]] = []
    callback = make(policy="constant", metrics="epochs")
    training = trainer(tmp_path, callback, gradient_accumulation_steps=2, max_steps=25)

    class Watch(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            model.register_forward_hook(self.look, with_kwargs=True)

        def look(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if module.training:
                logits, labels = output.logits[:, :-1].detach(), kwargs["labels"][:, 1:]
                loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels)
                seen.append((loss.item(), (logits.argmax(-1) == labels).float().mean().item()))

    training.add_callback(Watch())
    training.train()
    losses = np.array([loss for loss, _ in seen]).reshape(25, 2).mean(1)
    history = callback.controller.history  # a window of one update each
    np.testing.assert_allclose(history["loss"][1:].ravel(), losses, rtol=1e-5)
    np.testing.assert_allclose(history["batch_accuracy"][1:].ravel(), [a for _, a in seen][1::2], rtol=1e-5)
    epochs, missing = callback.controller.situation().rows[0, 0, :, -2:].T
    assert 10 ** (4 * epochs) == pytest.approx(callback.controller.plan.budget / 8, rel=1e-4)  # of 256 / 32
    assert not missing.any()


def test_resumed_from_its_checkpoints(tmp_path: Path):
    whole = make()
    training = trainer(tmp_path / "whole", whole)
    training.train()
    assert (tmp_path / "whole" / "checkpoint-45" / "autotrain_controller.pt").exists()
    resumed = make()
    again = trainer(tmp_path / "whole", resumed)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-45"))
    assert_same(dict(resumed.controller.history), dict(whole.controller.history))
    for name, weights in training.model.state_dict().items():
        assert_same(again.model.state_dict()[name], weights)


def test_another_schedule_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match='lr_scheduler_type=.linear.*"constant"'):
        trainer(tmp_path, make(), lr_scheduler_type="linear").train()


def test_labels_that_do_not_reach_the_model(tmp_path: Path):
    with pytest.raises(TypeError, match="without label smoothing"):
        trainer(tmp_path, make(), label_smoothing_factor=0.1).train()
