"""N networks of one architecture computed side by side.

A `Network` computes losses, gradients and logits for n rows of weights at once: multilayer perceptrons by
batched matrix products with a backward pass written out, any other module either by `torch.func.vmap`
(`stacked`) or one lane after another (`looped`).
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from autotrain_env.training.architecture import Architecture
from autotrain_env.training.classifiers import MLP

_BLOCK_BYTES = 32 * 2**20  # lanes trained together on a CPU: what still fits its caches


class Network(ABC):
    """Losses, gradients and logits of n networks of one architecture.

    Args:
        architecture: What they have in common.
    """

    backend: ClassVar[str]
    """The name by which such networks can be asked for."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.parameter_layout = architecture.parameter_layout
        self.buffer_layout = architecture.buffer_layout

    @abstractmethod
    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """Returns how many lanes to train together."""

    @abstractmethod
    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Prepare views for `backward`; all three share memory with what they are made from.

        Args:
            parameters: Parameters of each network, shape (n, P).
            buffers: Buffers of each network, shape (n, Q); `backward` updates them in place.
            gradients: Room in which `backward` writes gradients, shape (n, P).
        """

    @abstractmethod
    def backward(
        self, bound: Any, images: Tensor, labels: Tensor, decay: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Set `gradients = decay * gradients + (gradient of the mean loss)`.

        Args:
            bound: What `bind` returned.
            images: Normalised images, shape (n, B, features).
            labels: Labels, int64, shape (n, B).
            decay: Factor of what `gradients` held, shape (n, 1); `None` to ignore it, even if not finite.

        Returns:
            Log loss of every image, and whether it was classified rightly (bool), both (n, B).
        """

    @abstractmethod
    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Compute logits in evaluation mode.

        Args:
            parameters: Parameters of each network, shape (n, P).
            buffers: Buffers of each network, shape (n, Q).
            images: Normalised images, shape (n, B, features).

        Returns:
            Logits, shape (n, C, B): classes before images, which is how softmax runs fast over few classes.
        """


def log_loss(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Compute the log loss of every image [nats].

    Args:
        log_probabilities: Logarithms of the classes' probabilities, shape (n, C, B).
        labels: Labels, int64, shape (n, B).

    Returns:
        Losses, shape (n, B).
    """
    return log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1).neg_()


class StackedMLP(Network):
    """Multilayer perceptrons as batched matrix products, with the backward pass written out."""

    backend: ClassVar[str] = "stacked"

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        entries = self.parameter_layout.entries
        self.layers = list(zip(entries[::2], entries[1::2], strict=True))  # (weight, bias)

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """Returns as many as fit the caches on a CPU, and all of them elsewhere."""
        if device.type != "cpu":
            return 2**31
        units = sum(weight.shape[1] for weight, _ in self.layers)
        per_lane = 4 * (3 * self.parameter_layout.size + 2 * batch_size * units)
        return max(1, _BLOCK_BYTES // per_lane)

    def _views(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(weight.view(rows), bias.view(rows)) for weight, bias in self.layers]

    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Returns views of weights (n, out, in) and biases (n, out) of each layer."""
        return self._views(parameters), self._views(gradients)

    @staticmethod
    def _forward(layers: list[tuple[Tensor, Tensor]], images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Returns the inputs of every layer, each (n, B, in), and the logits (n, C, B)."""
        inputs = [images]
        for weight, bias in layers[:-1]:
            inputs.append(torch.baddbmm(bias.unsqueeze(1), inputs[-1], weight.mT).relu_())
        weight, bias = layers[-1]
        # A product with a single column, of a single lane, is another routine, which rounds differently.
        hidden = inputs[-1] if images.shape[1] > 1 else inputs[-1].expand(-1, 2, -1)
        return inputs, torch.baddbmm(bias.unsqueeze(2), weight, hidden.mT)[..., : images.shape[1]]

    def backward(
        self, bound: Any, images: Tensor, labels: Tensor, decay: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the forward and the backward pass."""
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
            # Not baddbmm_: a layer's part of all rows is not contiguous, and then torch goes lane by lane.
            _accumulate(weight_gradient, torch.bmm(error.mT, inputs[layer]), decay)
            _accumulate(bias_gradient, error.sum(1), decay)
            if layer:
                error = torch.bmm(error, parameters[layer][0])
                error = torch.ops.aten.threshold_backward(error, inputs[layer], 0)
        return losses, correct

    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Compute logits, shape (n, C, B)."""
        return self._forward(self._views(parameters), images)[1]


class _Observed(nn.Module):
    """A network that returns, with its logits, what its buffers are then: written to, or made anew."""

    def __init__(self, network: nn.Module, buffers: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.buffers_written = buffers

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute logits."""
        logits = self.network(images)
        return logits, {name: self.network.get_buffer(name).detach() for name in self.buffers_written}


class ModuleNetwork(Network):
    """Any `nn.Module`, called functionally with a lane's parameters and with what else belongs to it."""

    def __init__(self, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(architecture)
        template = copy.deepcopy(architecture.template).to(device, dtype)
        self.module = _Observed(template, architecture.written)

    def _images(self, images: Tensor) -> Tensor:
        return images.reshape(*images.shape[:2], *self.architecture.image_shape)

    def bind(self, parameters: Tensor, buffers: Tensor, gradients: Tensor) -> Any:
        """Returns named views, each of shape (n, ...)."""
        self.architecture.set_training(self.module.network)
        return (
            self.parameter_layout.split(parameters),
            self.buffer_layout.split(buffers),
            self.parameter_layout.split(gradients),
        )

    def _call(
        self, parameters: dict[str, Tensor], kept: dict[str, Tensor], images: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute logits of one lane (B, C), and its buffers after it.

        Args:
            parameters: The lane's parameters in training.
            kept: What else belongs to it, which is not written to.
            images: Images, shape (B, *image_shape).
        """
        own = {}
        for name, tensor in kept.items():
            if name in self.architecture.whole_dtypes:
                own[name] = tensor.to(self.architecture.whole_dtypes[name])
            # Copies, since batch normalisation writes to them: autograd would take a write to a buffer for
            # one to the parameters, which lie in the same row.
            elif name in self.architecture.written:
                own[name] = tensor.clone()
            else:
                own[name] = tensor
        state = {f"network.{name}": tensor for name, tensor in (parameters | own).items()}
        return functional_call(self.module, state, (images,))


def _accumulate(target: Tensor, gradient: Tensor, decay: Tensor | None) -> None:
    if decay is None:
        target.copy_(gradient)
    else:
        torch.addcmul(gradient, target, decay.view(-1, *[1] * (target.dim() - 1)), out=target)


class LoopedNetwork(ModuleNetwork):
    """One lane after another: what is fastest for convolutions on a CPU."""

    backend: ClassVar[str] = "looped"

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """Returns 1, so that a lane's weights stay in the cache for the whole env step."""
        return 1

    def _by_lane(self, images: Tensor) -> Iterator[Tensor]:
        memory_format = self.architecture.classifier.memory_format
        for lane_images in self._images(images):
            yield lane_images.to(memory_format=memory_format)

    def backward(
        self, bound: Any, images: Tensor, labels: Tensor, decay: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the forward and the backward pass of each lane."""
        parameters, buffers, gradients = bound
        losses, correct = [], []
        for lane, lane_images in enumerate(self._by_lane(images)):
            at = slice(lane, lane + 1)
            leaves = {name: rows[lane].detach().requires_grad_() for name, rows in parameters.items()}
            kept = {name: rows[lane] for name, rows in buffers.items()}
            with torch.enable_grad():
                logits, new_buffers = self._call(leaves, kept, lane_images)
                loss = nn.functional.cross_entropy(logits, labels[lane], reduction="none")
                # What a minibatch does not use gets zeros.
                lane_gradients = torch.autograd.grad(
                    loss.mean(), list(leaves.values()), materialize_grads=True
                )
            for name, gradient in zip(leaves, lane_gradients, strict=True):
                _accumulate(gradients[name][at], gradient[None], None if decay is None else decay[at])
            for name, buffer in new_buffers.items():
                buffers[name][lane].copy_(buffer)
            losses.append(loss.detach())
            correct.append(logits.detach().max(1).indices == labels[lane])
        return torch.stack(losses), torch.stack(correct)

    def logits(self, parameters: Tensor, buffers: Tensor, images: Tensor) -> Tensor:
        """Compute logits, shape (n, C, B)."""
        self.module.eval()
        split, kept = self.parameter_layout.split(parameters), self.buffer_layout.split(buffers)
        lanes = [
            self._call(
                {name: rows[lane] for name, rows in split.items()},
                {name: rows[lane] for name, rows in kept.items()},
                lane_images,
            )[0]
            for lane, lane_images in enumerate(self._by_lane(images))
        ]
        return torch.stack(lanes).mT


class VmapNetwork(ModuleNetwork):
    """All lanes at once through `torch.func.vmap`: for accelerators."""

    backend: ClassVar[str] = "stacked"

    def __init__(self, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(architecture, dtype, device)
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True))
        self._logits = vmap(lambda parameters, kept, images: self._call(parameters, kept, images)[0])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the transformed functions, which cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name not in ("_gradients", "_logits")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the transformed functions anew."""
        self.__dict__.update(state)
        self._gradients = vmap(grad_and_value(self._loss, has_aux=True))
        self._logits = vmap(lambda parameters, kept, images: self._call(parameters, kept, images)[0])

    def _loss(
        self,
        parameters: dict[str, Tensor],
        kept: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, dict[str, Tensor]]]:
        logits, new_buffers = self._call(parameters, kept, images)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return losses.mean(), (losses, logits, new_buffers)

    def lanes_per_block(self, batch_size: int, device: torch.device) -> int:
        """Returns a few on a CPU, more on an accelerator."""
        return 8 if device.type == "cpu" else 64

    def backward(
        self, bound: Any, images: Tensor, labels: Tensor, decay: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute the forward and the backward pass."""
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
        """Compute logits, shape (n, C, B)."""
        self.module.eval()
        split, kept = self.parameter_layout.split(parameters), self.buffer_layout.split(buffers)
        return self._logits(split, kept, self._images(images)).mT


def make_network(
    architecture: Architecture, backend: str, dtype: torch.dtype, device: torch.device
) -> Network:
    """Choose how n networks are computed by torch.

    Args:
        architecture: What they have in common.
        backend: `"stacked"`, `"looped"`, or `"auto"`: stacked for multilayer perceptrons everywhere and
            for all networks on an accelerator, looped for other networks on a CPU.
        dtype: Dtype of the weights.
        device: Device that holds the weights.
    """
    if backend != "looped" and isinstance(architecture.classifier, MLP):
        return StackedMLP(architecture)
    if backend == "looped" or (backend == "auto" and device.type == "cpu"):
        return LoopedNetwork(architecture, dtype, device)
    return VmapNetwork(architecture, dtype, device)
