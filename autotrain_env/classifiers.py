"""Architectures, their initialisation, and N of them computed side by side.

A classifier's weights are one row of numbers. A `Network` computes losses, gradients and logits for n
rows at once: multilayer perceptrons by batched matrix products with a backward pass written out, any
other module either by `torch.func.vmap` (`stacked`) or one lane after another (`looped`).
"""

import copy
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from autotrain_env.errors import check, unknown_name

BACKENDS = ("auto", "stacked", "looped")

_NO_RANDOMNESS = (
    "layers that draw random numbers are not supported, since lanes must not share a random stream"
)
_BLOCK_BYTES = 24 * 2**20  # lanes trained together on a CPU: what still fits its caches


class Classifier(ABC):
    """Description of an architecture: equal descriptions share one stack."""

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

    def _row_of(self, module: nn.Module) -> np.ndarray:
        if Layout.of(module) != self.layout:
            raise ValueError(f"classifier={self.classifier!r}: two networks it made differ in shape")
        tensors = [tensor.detach().float().flatten() for tensor in module.parameters()]
        tensors += [buffer.detach().float().flatten() for _, buffer in _state_buffers(module)]
        return torch.cat(tensors).numpy()


def _shapes(layout: Layout) -> list[tuple[int, ...]]:
    return [entry.shape for entry in layout.parameters]


# --- computing n networks --------------------------------------------------------------------------


class Network(ABC):
    """Losses, gradients and logits of n networks of one architecture.

    Args:
        architecture: What they have in common.
    """

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.layout = architecture.layout

    @abstractmethod
    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """How many lanes to train together."""

    @abstractmethod
    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Prepare views for `backward`; all three share memory with what they are made from.

        Args:
            parameters: Shape (n, P).
            buffers: Shape (n, Q); updated in place by `backward`.
            gradients: Shape (n, P); where `backward` writes.
        """

    @abstractmethod
    def backward(self, bound: Any, images: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Set `gradients = decay * gradients + (gradient of the mean loss)`.

        Args:
            bound: What `bind` returned.
            images: Normalised, shape (n, B, channels, pixels).
            labels: Int64, shape (n, B).
            decay: Factor of what `gradients` held; at 0 it is ignored, even if not finite.

        Returns:
            Log loss of every image, and whether it was classified rightly (bool), both (n, B).
        """

    @abstractmethod
    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Logits in evaluation mode.

        Args:
            parameters: Shape (n, P).
            buffers: Shape (n, Q).
            images: Normalised, shape (n, B, channels, pixels).

        Returns:
            Shape (n, C, B): classes before images, which is how softmax runs fast over few classes.
        """


def log_loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Log loss of every image [nats].

    Args:
        log_probabilities: Shape (n, C, B).
        labels: Int64, shape (n, B).

    Returns:
        Shape (n, B).
    """
    return log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1).neg_()


class StackedMLP(Network):
    """Multilayer perceptrons as batched matrix products, with the backward pass written out."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        entries = self.layout.parameters
        self.layers = list(zip(entries[::2], entries[1::2], strict=True))  # (weight, bias)

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """As many as fit the caches on a CPU; all of them elsewhere."""
        if device.type != "cpu":
            return 2**31
        units = sum(weight.shape[1] for weight, _ in self.layers)
        per_lane = 4 * (3 * self.layout.num_parameters + 2 * batch_size * units)
        return max(1, _BLOCK_BYTES // per_lane)

    def _views(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(weight.view(rows), bias.view(rows)) for weight, bias in self.layers]

    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Views of weights (n, out, in) and biases (n, out) of each layer."""
        return self._views(parameters), self._views(gradients)

    @staticmethod
    def _forward(layers: list[tuple[Tensor, Tensor]], images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Inputs of every layer, each (n, B, in), and the logits (n, C, B)."""
        inputs = [images.flatten(2)]
        for weight, bias in layers[:-1]:
            inputs.append(torch.baddbmm(bias.unsqueeze(1), inputs[-1], weight.mT).relu_())
        weight, bias = layers[-1]
        return inputs, torch.baddbmm(bias.unsqueeze(2), weight, inputs[-1].mT)

    def backward(self, bound: Any, images: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Forward and backward pass."""
        parameters, gradients = bound
        inputs, logits = self._forward(parameters, images)
        log_probabilities = torch.log_softmax(logits, 1)
        losses, correct = log_loss(log_probabilities, labels), logits.max(1).indices == labels
        # d loss / d logits = (softmax - one hot) / B by the backward pass of log softmax. Not by softmax
        # or exp: they share the numbers of all lanes out to threads, so that bits depend on n.
        error = torch.zeros_like(logits).scatter_(1, labels.unsqueeze(1), -1 / labels.shape[1])
        error = torch.ops.aten._log_softmax_backward_data(error, log_probabilities, 1, logits.dtype)
        error = error.mT  # (n, B, C)
        for layer in range(len(parameters) - 1, -1, -1):
            weight_gradient, bias_gradient = gradients[layer]
            weight_gradient.baddbmm_(error.mT, inputs[layer], beta=decay)
            if decay:
                bias_gradient.mul_(decay).add_(error.sum(1))
            else:
                bias_gradient.copy_(error.sum(1))
            if layer:
                error = torch.bmm(error, parameters[layer][0])
                error = torch.ops.aten.threshold_backward(error, inputs[layer], 0)
        return losses, correct

    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Logits, shape (n, C, B)."""
        return self._forward(self._views(parameters), images)[1]


class ModuleNetwork(Network):
    """Any `nn.Module`, called functionally with a lane's parameters and buffers."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(architecture)
        with torch.random.fork_rng(devices=[]):
            self.module = architecture.classifier.build(
                architecture.image_shape, architecture.num_classes
            ).to(device, dtype)

    def _images(self, images: Tensor) -> Tensor:
        return images.reshape(*images.shape[:2], *self.architecture.image_shape)

    def _named(self, entries: tuple[Entry, ...], rows: Tensor) -> dict[str, Tensor]:
        return {entry.name: entry.view(rows) for entry in entries}

    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Named views, each of shape (n, ...)."""
        self.module.train()
        return (
            self._named(self.layout.parameters, parameters),
            self._named(self.layout.buffers, buffers),
            self._named(self.layout.parameters, gradients),
        )


def _accumulate(target: Tensor, gradient: Tensor, decay: float) -> None:
    if decay:
        target.mul_(decay).add_(gradient)
    else:
        target.copy_(gradient)


class LoopedNetwork(ModuleNetwork):
    """One lane after another: what is fastest for convolutions on a CPU."""

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """One: a lane's weights stay in the cache for the whole env step."""
        return 1

    def backward(self, bound: Any, images: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of each lane."""
        parameters, buffers, gradients = bound
        losses, correct = [], []
        for lane, lane_images in enumerate(self._images(images)):
            leaves = {name: rows[lane].detach().requires_grad_() for name, rows in parameters.items()}
            # Copies, since batch normalisation writes to them: autograd would take a write to a buffer for
            # one to the parameters, which lie in the same row.
            lane_buffers = {name: rows[lane].clone() for name, rows in buffers.items()}
            with torch.enable_grad():
                logits = functional_call(self.module, leaves | lane_buffers, (lane_images,))
                loss = nn.functional.cross_entropy(logits, labels[lane], reduction="none")
                lane_gradients = torch.autograd.grad(loss.mean(), list(leaves.values()))
            for name, gradient in zip(leaves, lane_gradients, strict=True):
                _accumulate(gradients[name][lane], gradient, decay)
            for name, buffer in lane_buffers.items():
                buffers[name][lane].copy_(buffer)
            losses.append(loss.detach())
            correct.append(logits.detach().max(1).indices == labels[lane])
        return torch.stack(losses), torch.stack(correct)

    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Logits, shape (n, C, B)."""
        self.module.eval()
        named = self._named(self.layout.parameters, parameters)
        named |= self._named(self.layout.buffers, buffers)
        lanes = [
            functional_call(self.module, {name: rows[lane] for name, rows in named.items()}, (lane_images,))
            for lane, lane_images in enumerate(self._images(images))
        ]
        return torch.stack(lanes).mT


class VmapNetwork(ModuleNetwork):
    """All lanes at once through `torch.func.vmap`: for accelerators."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(architecture, dtype, device)
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True))
        self._logits = vmap(lambda state, images: functional_call(self.module, state, (images,)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the transformed functions, which cannot be pickled."""
        return {"architecture": self.architecture, "layout": self.layout, "module": self.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the transformed functions anew."""
        self.__dict__.update(state)
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True))
        self._logits = vmap(lambda state, images: functional_call(self.module, state, (images,)))

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, dict[str, Tensor]]]:
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        logits = functional_call(self.module, parameters | buffers, (images,))
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return losses.mean(), (losses, logits, buffers)

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """All lanes on an accelerator, a few on a CPU."""
        return 8 if device.type == "cpu" else 64

    def backward(self, bound: Any, images: Tensor, labels: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Forward and backward pass."""
        parameters, buffers, gradients = bound
        lane_gradients, (_, (losses, logits, new_buffers)) = self._gradients(
            parameters, buffers, self._images(images), labels
        )
        for name, gradient in lane_gradients.items():
            _accumulate(gradients[name], gradient, decay)
        for name, buffer in new_buffers.items():
            buffers[name].copy_(buffer)
        return losses, logits.max(2).indices == labels

    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Logits, shape (n, C, B)."""
        self.module.eval()
        state = self._named(self.layout.parameters, parameters)
        state |= self._named(self.layout.buffers, buffers)
        return self._logits(state, self._images(images)).mT


def make_network(
    architecture: Architecture, backend: str, dtype: torch.dtype, device: torch.device
) -> Network:
    """Choose how n networks are computed.

    Args:
        architecture: What they have in common.
        backend: `"stacked"`, `"looped"`, or `"auto"`: stacked for multilayer perceptrons everywhere and
            for all networks on an accelerator, looped for other networks on a CPU.
        dtype: Of the weights.
        device: Where they lie.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if backend != "looped" and isinstance(architecture.classifier, MLP):
        return StackedMLP(architecture)
    if backend == "looped" or (backend == "auto" and device.type == "cpu"):
        return LoopedNetwork(architecture, dtype, device)
    return VmapNetwork(architecture, dtype, device)
