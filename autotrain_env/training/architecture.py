"""An architecture: a classifier for images of one shape, with the layout of its numbers."""

import copy
import math
import pickle
import random
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.errors import InvalidTypeError, InvalidValueError, check
from autotrain_env.training.classifiers import BUILT_IN, Classifier
from autotrain_env.training.initialization import INITIALIZATIONS, MODULE_DEFAULT
from autotrain_env.training.lane_checks import (
    check_alike,
    check_exchangeable,
    check_repeatable,
    check_steady,
)
from autotrain_env.training.layout import Layout, kept_tensors, trained_tensors
from autotrain_env.training.module_checks import (
    NO_RANDOMNESS,
    check_batch_of_one,
    check_module,
    check_trains,
)


@dataclass(frozen=True)
class Architecture:
    """A classifier for images of one shape and number of classes.

    Args:
        classifier: The description.
        image_shape: Shape of an image: (channels, height, width), or (features,).
        num_classes: Number of classes C.
    """

    classifier: Classifier
    image_shape: tuple[int, ...]
    num_classes: int
    template: nn.Module = field(init=False, repr=False, compare=False)
    template_row: np.ndarray = field(init=False, repr=False, compare=False)  # its numbers, (P + Q,)
    parameter_layout: Layout = field(init=False, repr=False, compare=False)
    buffer_layout: Layout = field(init=False, repr=False, compare=False)
    written: tuple[str, ...] = field(init=False, repr=False, compare=False)
    whole_dtypes: Mapping[str, torch.dtype] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Build a template and check that it fits the data, and that lanes can have networks of their own.

        `parameter_layout` is that of the parameters in training. `buffer_layout` is that of all else that
        belongs to one network: frozen parameters, and buffers of every dtype. `written` names those of them
        that a network may write to, which are the buffers; `whole_dtypes` has the dtypes of those that are
        no floats.
        """
        template = self._build(0)
        check_module(template)
        try:
            template = copy.deepcopy(template)  # a factory may give the same module at every call
        except RuntimeError as error:
            raise InvalidValueError(f"classifier={self.classifier!r} cannot be copied: {error}") from error
        object.__setattr__(self, "template", template)
        parameters, buffers = Layout.of_module(template)
        object.__setattr__(self, "parameter_layout", parameters)
        object.__setattr__(self, "buffer_layout", buffers)
        kept = kept_tensors(template)
        for name, tensor in (trained_tensors(template) | kept).items():
            if tensor.is_complex():
                raise InvalidValueError(
                    f"classifier={self.classifier!r}: {name!r} is complex, of dtype {tensor.dtype}; it "
                    "must be real"
                )
        frozen = dict(template.named_parameters())
        object.__setattr__(self, "written", tuple(name for name in kept if name not in frozen))
        dtypes = {name: tensor.dtype for name, tensor in kept.items() if not tensor.is_floating_point()}
        object.__setattr__(self, "whole_dtypes", dtypes)
        check(
            len(parameters.entries) > 0,
            "classifier",
            self.classifier,
            "a network with parameters" + (", of which not all are frozen" if frozen else ""),
        )
        object.__setattr__(self, "template_row", self._row_of(template))
        others = [
            self._build(seed) for seed in ((1,) if isinstance(self.classifier, BUILT_IN) else (1, 2, 3))
        ]
        for other in others:
            self._check_layout(other)
        self._check_output()
        check_trains(self.classifier, template, self.image_shape, self.num_classes)
        if not isinstance(self.classifier, BUILT_IN):
            self._check_lanes(others)

    def check_batch_size(self, batch_size: int) -> None:
        """Check that networks can be trained on minibatches of so many images.

        Raises:
            InvalidValueError: If they cannot.
        """
        if batch_size == 1:
            check_batch_of_one(self.classifier, self.template, self.image_shape)

    def _check_layout(self, network: nn.Module) -> None:
        found, own = Layout.of_module(network), (self.parameter_layout, self.buffer_layout)
        if found != own:
            shapes = [[entry.shape for entry in layout.entries] for layout in (own[0], found[0])]
            raise InvalidValueError(
                f"classifier={self.classifier!r}: two networks it made differ in shape: "
                f"{shapes[0]} and {shapes[1]}"
            )

    def _check_output(self) -> None:
        images = torch.zeros(2, *self.image_shape)
        expected = (2, self.num_classes)
        network = copy.deepcopy(self.template)
        try:
            with torch.no_grad(), seeded(0):
                states = _global_streams()
                logits = network.eval()(images)
                self.set_training(network)(images)
                draws = _global_streams() != states
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InvalidValueError(
                f"classifier={self.classifier!r} does not take images of shape {self.image_shape}: {error}"
            ) from error
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)
        if shape != expected:
            raise InvalidValueError(
                f"classifier={self.classifier!r} returns shape {shape} for 2 images; expected {expected}"
            )
        if draws:
            raise InvalidValueError(f"classifier={self.classifier!r} draws random numbers: {NO_RANDOMNESS}")

    def _check_lanes(self, others: list[nn.Module]) -> None:
        """Check that nothing is lost of a network where lanes have parameters and buffers alone."""
        check_repeatable(self.classifier, self.template, self._build(0))
        images = torch.randn(4, *self.image_shape, generator=torch.Generator().manual_seed(0))
        for other in others:
            check_alike(self.classifier, self.template, other)
            check_exchangeable(self.classifier, self.template, other, images)
        check_steady(self.classifier, self.set_training(copy.deepcopy(self.template)), images)

    def set_training(self, network: nn.Module) -> nn.Module:
        """Put a network of this architecture into training mode, and return it.

        Parts that the classifier made in evaluation mode, inside a network in training mode, keep theirs:
        normalisation that is to stay as it was pre-trained.
        """
        network.train()
        if self.template.training:
            for name, part in self.template.named_modules():
                if not part.training:
                    network.get_submodule(name).training = False
        return network

    def _build(self, seed: int) -> nn.Module:
        with seeded(seed):
            return self.classifier.build(self.image_shape, self.num_classes)

    def initial_row(self, scheme: str, generator: np.random.Generator) -> np.ndarray:
        """Draw a network: parameters, then buffers.

        Weights (two dimensions or more) follow the scheme, biases of such layers are 0, all else
        (scales of normalisation layers, running statistics, frozen parameters) starts as the module's own
        does. With `"module_default"` everything does, as one call of the classifier makes it.

        Args:
            scheme: One of `initialization_names()`.
            generator: The lane's stream.

        Returns:
            The network's numbers, float32, shape (P + Q,).
        """
        if scheme == MODULE_DEFAULT:
            network = self._build(int(generator.integers(2**63)))
            self._check_layout(network)
            if not isinstance(self.classifier, BUILT_IN):
                check_alike(self.classifier, self.template, network)
            return self._row_of(network)
        row = self.template_row.copy()
        weights = [entry for entry in self.parameter_layout.entries if len(entry.shape) >= 2]
        owners = {entry.name.rpartition(".")[0] for entry in weights}
        for entry in self.parameter_layout.entries:
            owner, _, leaf = entry.name.rpartition(".")
            if len(entry.shape) >= 2:
                row[entry.start : entry.stop] = INITIALIZATIONS[scheme](entry.shape, generator).ravel()
            elif owner in owners and "bias" in leaf:
                row[entry.start : entry.stop] = 0
        if scheme == "zero_last_layer":
            row[weights[-1].start : weights[-1].stop] = 0
        return row

    def network(
        self, weights: Mapping[str, Tensor], mean: Tensor, std: Tensor, *, from_bytes: bool
    ) -> nn.Module:
        """Returns a network with given weights, behind the normalisation of images, in evaluation mode.

        Args:
            weights: Parameters and buffers by name.
            mean: What is subtracted from images; broadcast with shape (n, *image_shape).
            std: What images are divided by then; broadcast likewise.
            from_bytes: Whether images may be bytes, which are divided by 255 first.
        """
        module = copy.deepcopy(self.template)
        tensors = dict(module.named_parameters()) | dict(module.named_buffers())
        with torch.no_grad():
            for name, values in weights.items():
                tensors[name].copy_(values)
        return nn.Sequential(
            OrderedDict(normalize=_Normalize(mean, std, from_bytes), classifier=module)
        ).eval()

    @property
    def num_features(self) -> int:
        """Returns how many numbers make an image."""
        return math.prod(self.image_shape)

    def __deepcopy__(self, memo: dict[int, object]) -> "Architecture":
        """Returns the architecture itself, since nothing in it changes."""
        return self

    def _row_of(self, module: nn.Module) -> np.ndarray:
        self._check_layout(module)
        tensors = trained_tensors(module) | kept_tensors(module)
        for name in self.whole_dtypes:
            exact = tensors[name].float().to(tensors[name].dtype)
            check(
                torch.equal(exact, tensors[name]),
                "classifier",
                self.classifier,
                f"a network whose {name!r} holds whole numbers of at most 24 bits, as float32 does",
            )
        return torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()]).numpy()


_SEEDING = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global random streams of torch, NumPy and Python for a while, one thread at a time."""
    with _SEEDING, torch.random.fork_rng(devices=[]):
        python, numpy = random.getstate(), np.random.get_state()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _global_streams() -> tuple[bytes, bytes, str]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        pickle.dumps(np.random.get_state()),
        repr(random.getstate()),
    )


class _Normalize(nn.Module):
    """Images minus their mean, over their standard deviation."""

    def __init__(self, mean: Tensor, std: Tensor, from_bytes: bool) -> None:
        super().__init__()
        self.from_bytes = from_bytes
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images of shape (n, *image_shape)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        if images.dtype == torch.uint8:
            if not self.from_bytes:
                raise InvalidTypeError(
                    "images are bytes, but those that this network was trained on were not: give them in "
                    "the same units"
                )
            images = images.to(mean.dtype) / 255
        elif self.from_bytes and not images.is_floating_point():
            raise InvalidTypeError(
                f"images are of dtype {images.dtype}, but those that this network was trained on were "
                "bytes: give bytes, or floats from 0 to 1"
            )
        return (images.to(mean.dtype) - mean) / std
