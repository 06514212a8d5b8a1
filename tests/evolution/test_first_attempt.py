"""The attempt that stays at the share of one class, on digits, and its mends."""

import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from autotrain_env.evolution import EvolutionStrategy
from autotrain_env.evolution.classifiers import ClassifierProblem
from autotrain_env.evolution.curves import Trained
from autotrain_env.evolution.first_attempt import MENDS, Attempt, AttemptedMLP, inverse_log_loss

HIDDEN, IMAGES = (40, 20), 300


def tried(attempt: Attempt, generations: int = 60) -> tuple[ClassifierProblem, Trained]:
    problem = attempt.problem("digits", HIDDEN, train_size=IMAGES)
    return problem, attempt.run(problem, generations, measurements=3)


def share_of_zeros(problem: ClassifierProblem) -> float:
    labels = torch.cat([labels for _, labels in problem.part("validation")])
    return float((labels == 0).double().mean())


def test_it_dies_and_calls_everything_a_zero():
    problem, trained = tried(Attempt())
    last = trained.points[-1]
    assert last.accuracy == pytest.approx(share_of_zeros(problem))
    assert last.log_loss == pytest.approx(math.log(10), abs=0.01)


def test_normalised_pixels_alone_let_it_learn_and_all_mends_let_it_learn_more():
    _, alone = tried(Attempt().changed(MENDS["pixels normalised"]), 100)
    before_minibatches = list(MENDS.values())[:6]
    _, together = tried(Attempt().changed(*before_minibatches), 100)
    assert alone.points[-1].accuracy > 0.25
    assert together.points[-1].accuracy > max(0.8, alone.points[-1].accuracy)


def test_changes_add_up_and_leave_the_attempt_as_it_was():
    attempt = Attempt()
    changed = attempt.changed(
        {"strategy": {"rank": 1}}, {"inverse": False}, {"strategy": {"mirrored": True}}
    )
    assert changed.strategy == {**attempt.strategy, "rank": 1, "mirrored": True}
    assert not changed.inverse and attempt == Attempt()
    with pytest.raises(TypeError, match="inverted"):
        attempt.changed({"inverted": True})


def test_every_mend_is_a_strategy():
    for mend in MENDS.values():
        changed = Attempt().changed(mend)
        assert changed != Attempt() and EvolutionStrategy(**changed.strategy).population_size >= 50


def pixels_seen(attempt: Attempt) -> Tensor:
    """What the first layer of the network sees of the train part."""
    problem = attempt.problem("digits", HIDDEN, train_size=IMAGES)
    network = problem.architecture.classifier.build(problem.dataset.image_shape, 10)
    assert isinstance(network, nn.Sequential)
    images = torch.cat([images for images, _ in problem.part("train")])
    before = next(number for number, layer in enumerate(network) if isinstance(layer, nn.Linear))
    return network[:before](images.view(-1, *problem.dataset.image_shape))


def test_the_network_sees_pixels_up_to_255():
    raw = pixels_seen(Attempt())
    assert float(raw.min()) == pytest.approx(0, abs=1e-3) and float(raw.max()) == pytest.approx(
        255, rel=1e-5
    )
    assert abs(float(pixels_seen(Attempt(raw_pixels=False)).mean())) < 0.05


def test_all_images_are_seen_unless_there_are_minibatches():
    assert Attempt().problem("digits", HIDDEN, train_size=IMAGES).batch_size == IMAGES
    assert Attempt(batch_size=20).problem("digits", HIDDEN, train_size=IMAGES).batch_size == 20
    whole = Attempt().problem("digits", HIDDEN)
    assert whole.batch_size == whole.train_size > IMAGES


def test_weights_begin_at_zero_and_biases_do_not():
    attempt = Attempt()
    problem = attempt.problem("digits", HIDDEN, train_size=IMAGES)
    for name, tensor in attempt.parameters(problem, 2).items():
        assert bool(tensor.any()) == name.endswith("bias")
    drawn = Attempt(zero_weights=False).parameters(problem, 2)
    assert all(bool(tensor.any()) == name.endswith("weight") for name, tensor in drawn.items())


def test_the_inverse_is_that_of_the_loss_and_outputs_are_rectified():
    logits, labels = torch.randn(3, 7, 4), torch.arange(7) % 4
    losses = torch.stack([nn.functional.cross_entropy(member, labels) for member in logits])
    torch.testing.assert_close(inverse_log_loss(logits, labels), 1 / losses)
    images = torch.randn(5, 6)
    assert (AttemptedMLP((3,), True, None).build((6,), 4)(images) >= 0).all()
    assert (AttemptedMLP((3,), False, (2.0, 1.0)).build((6,), 4)(images) < 0).any()
    classifier = AttemptedMLP((3,), True, (2.0, 1.0))
    assert pickle.loads(pickle.dumps(classifier)) == classifier
