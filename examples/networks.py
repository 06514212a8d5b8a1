"""Networks of the jobs."""

import torch
from torch import Tensor, nn


def cnn(channels: int = 1, classes: int = 10, width: int = 16) -> nn.Module:
    """Returns two convolutions with pooling, and one linear layer, for images of 28 by 28."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * width * 7 * 7, classes)),
    )


def mlp(*sizes: int) -> nn.Module:
    """Returns linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    """Two convolutions with batch normalisation beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()),
            *(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet(classes: int = 10, width: int = 8) -> nn.Module:
    """Returns a residual network of three stages, for images of 32 by 32."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(Residual(width, width, 2), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)),
    )


class Block(nn.Module):
    """A layer of a transformer: attention, then two linear layers, each beside a shortcut."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.read(self.before(tokens)).unflatten(-1, (3, self.heads, -1))  # (n, T, 3, heads, d)
        query, key, value = parts.movedim(2, 0).transpose(2, 3)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        tokens = tokens + self.write(attended.transpose(1, 2).flatten(2))
        return tokens + self.think(self.between(tokens))


class Positions(nn.Module):
    """Adds a vector of its own to each place."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(length, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.vectors.weight[: tokens.shape[1]]


class Mean(nn.Module):
    """Averages over places."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def image_transformer(length: int, features: int, width: int = 32, classes: int = 10) -> nn.Module:
    """Returns a transformer that takes the rows of an image, (n, length, features), for its words."""
    return nn.Sequential(
        *(nn.Linear(features, width), Positions(length, width)),
        *(Block(width, 4, causal=False), Block(width, 4, causal=False)),
        *(Mean(), nn.LayerNorm(width), nn.Linear(width, classes)),
    )


def gpt(vocabulary: int, length: int, width: int = 64) -> nn.Module:
    """Returns a small language model of two layers: from (n, T) to logits (n, T, vocabulary)."""
    return nn.Sequential(
        *(nn.Embedding(vocabulary, width), Positions(length, width)),
        *(Block(width, 4, causal=True), Block(width, 4, causal=True)),
        *(nn.LayerNorm(width), nn.Linear(width, vocabulary)),
    )
