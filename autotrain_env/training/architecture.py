"""An architecture: a classifier for images of one shape, with the layout of its numbers."""

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.errors import InvalidValueError, check
from autotrain_env.training.classifiers import _NO_RANDOMNESS, Classifier
from autotrain_env.training.initialization import INITIALIZATIONS, MODULE_DEFAULT
from autotrain_env.training.layout import Layout, state_buffers


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

    def __post_init__(self) -> None:
        """Build a template and check that it fits the data and that every build has its shapes."""
        template = self._build(0)
        object.__setattr__(self, "template", template)
        parameters, buffers = Layout.of_module(template)
        object.__setattr__(self, "parameter_layout", parameters)
        object.__setattr__(self, "buffer_layout", buffers)
        check(len(parameters.entries) > 0, "classifier", self.classifier, "a network with parameters")
        object.__setattr__(self, "template_row", self._row_of(template))
        self._check_layout(self._build(1))
        self._check_output()

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
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                logits = network.eval()(images)
                state = torch.get_rng_state()
                network.train()(images)
                draws = not torch.equal(torch.get_rng_state(), state)
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
            raise InvalidValueError(
                f"classifier={self.classifier!r} draws random numbers: {_NO_RANDOMNESS}"
            )

    def _build(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.classifier.build(self.image_shape, self.num_classes)

    def initial_row(self, scheme: str, generator: np.random.Generator) -> np.ndarray:
        """Draw a network: parameters, then buffers.

        Weights (two dimensions or more) follow the scheme, biases of such layers are 0, all else
        (scales of normalisation layers, running statistics) starts as the module's own does.

        Args:
            scheme: One of `initialization_names()`.
            generator: The lane's stream.

        Returns:
            The network's numbers, float32, shape (P + Q,).
        """
        if scheme == MODULE_DEFAULT:
            return self._row_of(self._build(int(generator.integers(2**63))))
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

    def network(self, weights: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> nn.Module:
        """Returns a network with given weights, behind the normalisation of images, in evaluation mode.

        Args:
            weights: Parameters and buffers by name.
            mean: What is subtracted from images; broadcast with shape (n, *image_shape).
            std: What images are divided by then; broadcast likewise.
        """
        module = copy.deepcopy(self.template)
        module.load_state_dict(dict(weights), strict=False)  # a count of batches is no weight
        return nn.Sequential(OrderedDict(normalize=_Normalize(mean, std), classifier=module)).eval()

    @property
    def num_features(self) -> int:
        """Returns how many numbers make an image."""
        return math.prod(self.image_shape)

    def __deepcopy__(self, memo: dict[int, object]) -> "Architecture":
        """Returns the architecture itself, since nothing in it changes."""
        return self

    def _row_of(self, module: nn.Module) -> np.ndarray:
        self._check_layout(module)
        tensors = [tensor.detach().float().flatten() for tensor in module.parameters()]
        tensors += [buffer.detach().float().flatten() for _, buffer in state_buffers(module)]
        return torch.cat(tensors).numpy()


class _Normalize(nn.Module):
    """Images minus their mean, over their standard deviation."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images of shape (n, *image_shape)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images - mean) / std
