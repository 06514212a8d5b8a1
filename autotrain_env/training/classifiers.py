"""Classifiers: descriptions of architectures, by which networks are built."""

import math
import numbers
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import cloudpickle
import torch
from torch import nn

from autotrain_env.errors import (
    InvalidTypeError,
    InvalidValueError,
    check,
    check_callable,
    check_name,
    in_brief,
    unknown_name,
)

_LARGEST_LAYER, _MOST_LAYERS = 2**20, 1000


def _check_sizes(argument: str, sizes: Any, least: int) -> None:
    listed = isinstance(sizes, (tuple, list)) and least <= len(sizes) <= _MOST_LAYERS
    whole = listed and all(isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in sizes)
    check(whole and all(size > 0 for size in sizes), argument, sizes, "positive whole numbers")
    check(all(s <= _LARGEST_LAYER for s in sizes), argument, sizes, f"at most {_LARGEST_LAYER:,} each")


class Classifier(ABC):
    """Description of an architecture: equal descriptions share one stack."""

    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """How a batch of images lies in memory where networks are computed one by one; for speed alone."""

    @property
    def flattens(self) -> bool:
        """Returns whether it flattens its images, so that images and feature vectors are alike to it."""
        return False

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
        _check_sizes("hidden_sizes", self.hidden_sizes, least=0)
        object.__setattr__(self, "hidden_sizes", tuple(map(int, self.hidden_sizes)))

    @property
    def flattens(self) -> bool:
        """Returns that it does."""
        return True

    def sizes(self, image_shape: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
        """Returns the units of every layer, from the flattened image to the classes."""
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
        _check_sizes("channels", self.channels, least=1)
        object.__setattr__(self, "channels", tuple(map(int, self.channels)))

    def sizes(self, image_shape: tuple[int, ...], num_classes: int) -> tuple[int, ...]:
        """Returns the maps of every stage, from the image's channels on, then the number of classes."""
        return (image_shape[0], *self.channels, num_classes)

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


NORMALIZATIONS = ("batch_norm", "layer_norm")


@dataclass(frozen=True)
class Normalized(Classifier):
    """A multilayer perceptron, or small CNN, with a normalisation before every ReLU.

    Args:
        classifier: The network without it.
        kind: `"batch_norm"` (Ioffe and Szegedy, arXiv:1502.03167), or `"layer_norm"` (Ba et al.,
            arXiv:1607.06450), over all units of a layer, or all maps and pixels of a stage.
    """

    classifier: MLP | CNN
    kind: str = "batch_norm"

    def __post_init__(self) -> None:
        """Check both."""
        if not isinstance(self.classifier, (MLP, CNN)):
            raise InvalidTypeError(f"classifier={in_brief(self.classifier)} must be an MLP or a CNN")
        check_name("kind", self.kind, NORMALIZATIONS)

    @property
    def flattens(self) -> bool:
        """Returns whether the network without normalisation does."""
        return self.classifier.flattens

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Make the network."""
        layers: list[nn.Module] = []
        for layer in self.classifier.build(image_shape, num_classes).children():
            if isinstance(layer, nn.ReLU):
                layers.append(self._after(layers[-1]))
            layers.append(layer)
        return nn.Sequential(*layers)

    def _after(self, layer: nn.Module) -> nn.Module:
        """Returns the normalisation of what a layer makes."""
        batch_norm = self.kind == "batch_norm"
        if isinstance(layer, nn.Linear):
            units = layer.out_features
            return nn.BatchNorm1d(units) if batch_norm else nn.LayerNorm(units)
        assert isinstance(layer, nn.Conv2d)
        maps = layer.out_channels
        return nn.BatchNorm2d(maps) if batch_norm else nn.GroupNorm(1, maps)


@dataclass(frozen=True)
class Custom(Classifier):
    """A user's own architecture.

    Args:
        factory: Makes the network; called without arguments. Every call must give the same shapes, and all
            that is random in it must come from the global generators of torch, NumPy or Python, which are
            seeded. Parameters and buffers belong to a lane; parameters that want no gradient stay as they
            are. Anything else that a network holds must be the same in all of them and stay as it is.
            Layers that draw random numbers while they compute (dropout) are refused: a lane's
            trajectory must not depend on its neighbours.
    """

    factory: Callable[[], nn.Module]

    def build(self, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Call the factory and check what it made."""
        network = self.factory()
        if not isinstance(network, nn.Module):
            raise InvalidTypeError(f"classifier: the factory returned {network!r}, not a torch.nn.Module")
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the factory by value where it has no name that others know, such as a lambda."""
        try:
            content = cloudpickle.dumps(self.factory)
        except Exception as error:  # what it holds on to may raise anything
            raise InvalidTypeError(
                f"classifier={in_brief(self.factory)} cannot be pickled: {error}. Give a function that "
                f"holds on to plain values alone, or one defined in a module"
            ) from error
        return _unpickled, (content,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Custom":
        """Returns the architecture itself, since nothing in it changes."""
        return self


def _unpickled(content: bytes) -> Custom:
    """Returns the architecture whose factory was pickled by value."""
    return Custom(pickle.loads(content))


BUILT_IN = (MLP, CNN, Normalized, ResNet18)
"""Classifiers whose networks hold nothing but parameters and buffers: nobody has to look."""

CLASSIFIERS: dict[str, Classifier] = {
    "linear": MLP(hidden_sizes=()),
    "mlp": MLP(),
    "cnn": CNN(),
    "resnet18": ResNet18(),
}


def as_classifier(classifier: str | Classifier | Callable[[], nn.Module]) -> Classifier:
    """Look an architecture up.

    Args:
        classifier: `"linear"`, `"mlp"`, `"cnn"`, `"resnet18"`; `"mlp-200-100-50"` or `"cnn-8-16"` for
            given sizes; `"cnn+batch_norm"` or `"mlp-100-50+layer_norm"` with normalisations; a
            `Classifier`; or a function without arguments that makes an `nn.Module`.

    Raises:
        InvalidValueError: If the name is unknown.
        InvalidTypeError: If it is none of these.
    """
    if isinstance(classifier, str):
        if classifier in CLASSIFIERS:
            return CLASSIFIERS[classifier]
        name, plus, kind = classifier.partition("+")
        if plus and kind in NORMALIZATIONS and re.fullmatch(r"(mlp|cnn)(-[1-9]\d*)*", name):
            return Normalized(as_classifier(name), kind)  # type: ignore[arg-type]
        if re.fullmatch(r"(mlp|cnn)(-[1-9]\d*)+", classifier):
            sizes = tuple(int(size[:20]) for size in classifier.split("-")[1:])
            return MLP(sizes) if classifier.startswith("mlp") else CNN(sizes)
        known = [*CLASSIFIERS, "mlp-200-100-50", "cnn-8-16", "cnn+batch_norm", "mlp+layer_norm"]
        raise unknown_name("classifier", classifier, known)
    if isinstance(classifier, Classifier):
        return classifier
    if isinstance(classifier, nn.Module) or not callable(classifier):
        raise InvalidTypeError(
            f"classifier={in_brief(classifier)} must be a name, an autotrain_env.Classifier or a function "
            "that makes a torch.nn.Module"
        )
    check_callable("classifier", classifier, 0)
    return Custom(classifier)


def _as_image(classifier: Classifier, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(image_shape) != 3:
        raise InvalidValueError(
            f"classifier={classifier!r} needs images (channels, height, width), but the dataset has "
            f"vectors of shape {image_shape}"
        )
    return image_shape[0], image_shape[1], image_shape[2]
