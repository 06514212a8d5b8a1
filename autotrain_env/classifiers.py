"""Architectures, their initialisation, and how a network's numbers lie in a row."""

import copy
import math
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autotrain_env.errors import check, unknown_name

_NO_RANDOMNESS = (
    "layers that draw random numbers are not supported, since lanes must not share a random stream"
)


class Classifier(ABC):
    """Description of an architecture: equal descriptions share one stack."""

    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """How a batch of images lies in memory where networks are computed one by one; for speed alone."""

    @abstractmethod
    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make a network that maps images (B, *image_shape) to logits (B, num_classes)."""


@dataclass(frozen=True)
class MLP(Classifier):
    """Multilayer perceptron with ReLU units.

    Args:
        hidden_sizes: Units of each hidden layer; empty for a linear classifier.
    """

    hidden_sizes: tuple[int, ...] = (32,)

    def __post_init__(self) -> None:
        """Check the sizes."""
        object.__setattr__(self, "hidden_sizes", tuple(self.hidden_sizes))
        positive = all(isinstance(size, int) and size > 0 for size in self.hidden_sizes)
        check(positive, "hidden_sizes", self.hidden_sizes, "positive whole numbers")

    def sizes(self, image_shape: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
        """Units of every layer, from the flattened image to the classes."""
        return (math.prod(image_shape), *self.hidden_sizes, num_classes)

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make the network."""
        layers: list[nn.Module] = [nn.Flatten()]
        sizes = self.sizes(image_shape, num_classes)
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class CNN(Classifier):
    """Small convolutional network: 3x3 convolution, ReLU and 2x2 pooling per stage, one linear layer.

    Args:
        channels: Feature maps of each stage; every stage halves the image.
    """

    channels: tuple[int, ...] = (16, 32)

    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    def __post_init__(self) -> None:
        """Check the sizes."""
        object.__setattr__(self, "channels", tuple(self.channels))
        positive = all(isinstance(size, int) and size > 0 for size in self.channels)
        check(positive and len(self.channels) > 0, "channels", self.channels, "positive whole numbers")

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make the network."""
        depth, height, width = _as_image(self, image_shape)
        shrink = 2 ** len(self.channels)
        check(
            min(height, width) >= shrink,
            "channels",
            self.channels,
            f"at most {int(math.log2(min(height, width)))} stages for images of {height}x{width}",
        )
        layers: list[nn.Module] = []
        for before, after in zip((depth, *self.channels[:-1]), self.channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        features = self.channels[-1] * (height // shrink) * (width // shrink)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, num_classes))


@dataclass(frozen=True)
class ResNet18(Classifier):
    """ResNet-18 (He et al., arXiv:1512.03385) with the CIFAR stem: 3x3 first layer, no first pooling."""

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make the network."""
        from torchvision.models import resnet18

        depth, _, _ = _as_image(self, image_shape)
        network = resnet18(num_classes=num_classes)
        network.conv1 = nn.Conv2d(depth, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        return network


@dataclass(frozen=True)
class Custom(Classifier):
    """A user's own architecture.

    Args:
        factory: Makes the network; called without arguments. Every call must give the same shapes.
            Layers that draw random numbers while they compute (dropout) are refused: a lane's
            trajectory must not depend on its neighbours.
    """

    factory: Callable[[], nn.Module]

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Call the factory and check what it made."""
        network = self.factory()
        if not isinstance(network, nn.Module):
            raise TypeError(f"classifier: the factory returned {network!r}, not a torch.nn.Module")
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                raise ValueError(f"classifier: layer {name!r} is {module}: {_NO_RANDOMNESS}")
        return network


CLASSIFIERS: dict[str, Classifier] = {
    "linear": MLP(hidden_sizes=()),
    "mlp": MLP(),
    "cnn": CNN(),
    "resnet18": ResNet18(),
}


def as_classifier(classifier: str | Classifier | Callable[[], nn.Module]) -> Classifier:
    """Look an architecture up.

    Args:
        classifier: `"linear"`, `"mlp"`, `"cnn"`, `"resnet18"`; `"mlp-200-100-50"` for given hidden
            sizes; a `Classifier`; or a function without arguments that makes an `nn.Module`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of these.
    """
    if isinstance(classifier, Classifier):
        return classifier
    if isinstance(classifier, str):
        if classifier in CLASSIFIERS:
            return CLASSIFIERS[classifier]
        if re.fullmatch(r"mlp(-[1-9]\d*)+", classifier):
            return MLP(tuple(int(size) for size in classifier.split("-")[1:]))
        raise unknown_name("classifier", classifier, [*CLASSIFIERS, "mlp-200-100-50"])
    if isinstance(classifier, nn.Module) or not callable(classifier):
        raise TypeError(
            f"classifier={classifier!r} must be a name, an autotrain_env.Classifier or a function that "
            "makes a torch.nn.Module"
        )
    return Custom(classifier)


def _as_image(classifier: Classifier, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(image_shape) != 3:
        raise ValueError(
            f"classifier={classifier!r} needs images (channels, height, width), but the dataset has "
            f"vectors of shape {image_shape}"
        )
    return image_shape[0], image_shape[1], image_shape[2]


# --- initialisation --------------------------------------------------------------------------------

Scheme = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _uniform(bound: float, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.random(shape, dtype=np.float32) * np.float32(2 * bound) - np.float32(bound)


def _normal(std: float, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(std)


def _orthogonal(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    rows, columns = shape[0], math.prod(shape[1:])
    gaussian = generator.standard_normal((max(rows, columns), min(rows, columns)))
    basis, triangle = np.linalg.qr(gaussian)
    basis *= np.sign(np.diag(triangle))  # makes the distribution uniform (Mezzadri, math-ph/0609050)
    return (basis if rows >= columns else basis.T).reshape(shape).astype(np.float32)


INITIALIZATIONS: dict[str, Scheme] = {
    # He et al., arXiv:1502.01852
    "kaiming_uniform": lambda shape, g: _uniform(math.sqrt(6 / _fans(shape)[0]), shape, g),
    # Glorot and Bengio, AISTATS 2010
    "xavier_uniform": lambda shape, g: _uniform(math.sqrt(6 / sum(_fans(shape))), shape, g),
    # Saxe et al., arXiv:1312.6120
    "orthogonal": _orthogonal,
    # LeCun et al., Efficient BackProp, 1998
    "lecun_normal": lambda shape, g: _normal(math.sqrt(1 / _fans(shape)[0]), shape, g),
    "kaiming_normal": lambda shape, g: _normal(math.sqrt(2 / _fans(shape)[0]), shape, g),
    "xavier_normal": lambda shape, g: _normal(math.sqrt(2 / sum(_fans(shape))), shape, g),
    # Kaiming everywhere but in the last layer, which is zero
    "zero_last_layer": lambda shape, g: _uniform(math.sqrt(6 / _fans(shape)[0]), shape, g),
}
MODULE_DEFAULT = "module_default"  # what the module's own constructor draws


def initialization_names() -> tuple[str, ...]:
    """Names that `initialization=` accepts."""
    return (*INITIALIZATIONS, MODULE_DEFAULT)


def schemes_for_rows(initialization: str, count: int) -> list[str]:
    """Scheme of every row at reset: the task's own first, then the others in turn.

    Args:
        initialization: Scheme of row 0.
        count: Rows in all.
    """
    others = [name for name in INITIALIZATIONS if name != initialization]
    return [initialization] + [others[i % len(others)] for i in range(count - 1)]


# --- layout of a row -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One tensor inside a row: its name, shape and place."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def view(self, rows: Tensor) -> Tensor:
        """The tensor of every lane, shape (n, *shape), sharing memory with `rows` (n, width)."""
        return rows[:, self.start : self.stop].view(rows.shape[0], *self.shape)


def _entries(named: Iterator[tuple[str, Tensor]]) -> tuple[Entry, ...]:
    entries, start = [], 0
    for name, tensor in named:
        stop = start + tensor.numel()
        entries.append(Entry(name, tuple(tensor.shape), start, stop))
        start = stop
    return tuple(entries)


def _state_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that training changes: floating ones and batch normalisation's counters."""
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() or name.endswith("num_batches_tracked"):
            yield name, buffer


@dataclass(frozen=True)
class Layout:
    """Where a network's parameters and buffers lie in a row."""

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """Read the layout off a module."""
        return cls(_entries(iter(module.named_parameters())), _entries(_state_buffers(module)))

    @property
    def num_parameters(self) -> int:
        """Numbers in the parameters."""
        return self.parameters[-1].stop

    @property
    def num_buffers(self) -> int:
        """Numbers in the buffers."""
        return self.buffers[-1].stop if self.buffers else 0


@dataclass(frozen=True)
class Architecture:
    """A classifier for images of one shape and number of classes.

    Args:
        classifier: The description.
        image_shape: (channels, height, width), or (features,).
        num_classes: Number of classes C.
    """

    classifier: Classifier
    image_shape: tuple[int, ...]
    num_classes: int
    template: nn.Module = field(init=False, repr=False, compare=False)
    layout: Layout = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Build a template and check that it fits the data and that every build has its shapes."""
        template = self._build(0)
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "layout", Layout.of(template))
        check(
            len(self.layout.parameters) > 0,
            "classifier",
            self.classifier,
            "a network with parameters",
        )
        again = Layout.of(self._build(1))
        if again != self.layout:
            raise ValueError(
                f"classifier={self.classifier!r}: two networks it made differ in shape: "
                f"{_shapes(self.layout)} and {_shapes(again)}"
            )
        self._check_output()

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
            raise ValueError(
                f"classifier={self.classifier!r} does not take images of shape {self.image_shape}: {error}"
            ) from error
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits)
        if shape != expected:
            raise ValueError(
                f"classifier={self.classifier!r} returns shape {shape} for 2 images; expected {expected}"
            )
        if draws:
            raise ValueError(f"classifier={self.classifier!r} draws random numbers: {_NO_RANDOMNESS}")

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
            Float32, shape (num_parameters + num_buffers,).
        """
        if scheme == MODULE_DEFAULT:
            return self._row_of(self._build(int(generator.integers(2**63))))
        row = self._row_of(self.template)
        weights = [entry for entry in self.layout.parameters if len(entry.shape) >= 2]
        owners = {entry.name.rpartition(".")[0] for entry in weights}
        for entry in self.layout.parameters:
            owner, _, leaf = entry.name.rpartition(".")
            if len(entry.shape) >= 2:
                row[entry.start : entry.stop] = INITIALIZATIONS[scheme](entry.shape, generator).ravel()
            elif owner in owners and "bias" in leaf:
                row[entry.start : entry.stop] = 0
        if scheme == "zero_last_layer":
            row[weights[-1].start : weights[-1].stop] = 0
        return row

    def network(self, weights: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> nn.Module:
        """A network with given weights, behind the normalisation of its images, in evaluation mode.

        Args:
            weights: Parameters and buffers by name.
            mean: Subtracted from images; broadcast with shape (n, *image_shape), as is the next.
            std: What they are divided by then.
        """
        module = copy.deepcopy(self.template)
        module.load_state_dict(dict(weights), strict=False)  # a count of batches is no weight
        return nn.Sequential(OrderedDict(normalize=_Normalize(mean, std), classifier=module)).eval()

    @property
    def num_features(self) -> int:
        """Numbers in one image."""
        return math.prod(self.image_shape)

    def __deepcopy__(self, memo: dict[int, object]) -> "Architecture":
        """Itself, since nothing in it changes."""
        return self

    def _row_of(self, module: nn.Module) -> np.ndarray:
        if Layout.of(module) != self.layout:
            raise ValueError(f"classifier={self.classifier!r}: two networks it made differ in shape")
        tensors = [tensor.detach().float().flatten() for tensor in module.parameters()]
        tensors += [buffer.detach().float().flatten() for _, buffer in _state_buffers(module)]
        return torch.cat(tensors).numpy()


class _Normalize(nn.Module):
    """Images minus their mean, over their standard deviation."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, shape (n, *image_shape)."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images - mean) / std


def _shapes(layout: Layout) -> list[tuple[int, ...]]:
    return [entry.shape for entry in layout.parameters]
