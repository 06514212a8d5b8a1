"""Synthetic images: families of classification problems whose pictures are made of random numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from autotrain_env.data.dataset import TEST_FRACTION, Dataset, from_recipe
from autotrain_env.errors import check, check_name, check_number, check_whole

_MOST_PIXELS, _MOST_CLASSES, _MOST_IMBALANCE = 10**9, 1000, 1000
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 64
_CHUNK = 1000
"""Images drawn at a time: what is made on the way stays small."""
_FINER = 2
"""Pixels of a canvas, from which images are taken, for each pixel of theirs."""

_Floats: TypeAlias = "npt.NDArray[np.float32]"


def synthetic_images(
    kind: str = "shapes",
    *,
    seed: int = 0,
    size: int = 4000,
    difficulty: float = 0.5,
    num_classes: int = 10,
    channels: int = 1,
    side: int = 28,
    imbalance: float = 1.0,
) -> Dataset:
    """Make a classification problem out of pictures that random numbers draw.

    `"shapes"`: every class has two closed figures, filled, of random outline. `"patterns"`: every class has
    three smooth pictures. `"glyphs"`: every class is a sign of a few strokes, random curves, written in
    twelve hands. These three are seen turned, scaled, shifted and bent, in random colours.

    `"textures"`: every class is a sum of three plane waves with directions and lengths of its own, and
    random phases: no pixel by itself says anything of the class.

    `"teacher_cnn"`: smooth random pictures, labelled by a random convolutional network whose features are
    averaged over the picture.

    `"scenes"`: a figure before a ground, both of random fields whose spectrum is that of photographs, so
    that pixels far apart are correlated. Every class has four outlines of the figure, and colours that both
    tend to, the less so the higher the difficulty.

    How far pictures are moved and bent, and the noise on them, white and smooth, grow with the difficulty;
    scenes have no noise. The same arguments give the same handle while it is in use; pixels are bytes.

    Args:
        kind: Kind of pictures.
        seed: Seed of everything.
        size: Number of images: 80% of them form the pool, 20% the test part. At least 4.
        difficulty: Difficulty, from 0 (little noise, little moved) to 1.
        num_classes: Number of classes, at least 2.
        channels: 1 for grey, or 3 for colours.
        side: Height and width [pixels], from 8 to 64.
        imbalance: How many times as many images the largest class has as the smallest; classes between
            them fall off evenly on a log scale.

    Returns:
        The handle. Its name is that by which `load_dataset` finds the same set.

    Raises:
        InvalidValueError: If an argument is out of its range or `kind` is unknown.
    """
    check_name("kind", kind, IMAGE_KINDS)
    check_whole("seed", seed, 0, 2**64 - 1)
    check_whole("size", size, 4, _MOST_PIXELS)
    check_number("difficulty", difficulty, lambda number: 0 <= number <= 1, "in [0, 1]")
    check_whole("num_classes", num_classes, 2, _MOST_CLASSES)
    check(channels in (1, 3), "channels", channels, "1 or 3")
    check_whole("side", side, _SMALLEST_SIDE, _LARGEST_SIDE)
    allowed = f"from 1 to {_MOST_IMBALANCE}"
    check_number("imbalance", imbalance, lambda number: 1 <= number <= _MOST_IMBALANCE, allowed)
    few = size * channels * side**2 <= _MOST_PIXELS
    check(few, "(size, channels, side)", (size, channels, side), f"at most {_MOST_PIXELS:,} pixels")
    numbers = (float(difficulty), num_classes, int(channels), side, float(imbalance))
    return from_recipe(_make, kind, seed, size, *numbers)


class _Problem(NamedTuple):
    """The arguments of `synthetic_images` but for kind and seed."""

    size: int
    difficulty: float
    num_classes: int
    channels: int
    side: int
    imbalance: float

    def name(self, kind: str, seed: int) -> str:
        """Returns the name by which `named_images` finds the set."""
        difficulty, imbalance = (
            np.format_float_positional(number, trim="-") for number in (self.difficulty, self.imbalance)
        )
        shape = f"{self.num_classes}-{self.channels}x{self.side}"
        return f"{kind}-{seed}-{self.size}-{difficulty}-{shape}-{imbalance}"


_Sample: TypeAlias = "tuple[_Floats, npt.NDArray[np.int64]]"
"""Images, shape (size, channels, side, side), and labels, shape (size,)."""


def named_images(name: str) -> Dataset | None:
    """Returns the set of a name `KIND-SEED-SIZE-DIFFICULTY[-CLASSES[-CHANNELSxSIDE[-IMBALANCE]]]`.

    Args:
        name: Such as `"shapes-3-12000-0.5-10-1x28-4"`; any other gives `None`.

    Raises:
        InvalidValueError: If a number in it is out of its range.
    """
    found = IMAGE_NAME.fullmatch(name)
    if found is None:
        return None
    kind, seed, size, difficulty, classes, channels, side, imbalance = found.groups()
    return synthetic_images(
        kind,
        seed=int(seed),
        size=int(size),
        difficulty=float(difficulty),
        num_classes=int(classes or 10),
        channels=int(channels or 1),
        side=int(side or 28),
        imbalance=float(imbalance or 1),
    )


def _make(kind: str, seed: int, *arguments: float) -> Dataset:
    problem = _Problem(*arguments)  # type: ignore[arg-type]
    images, labels = IMAGE_KINDS[kind](np.random.default_rng(seed), problem)
    pixels = np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)
    pool_size = problem.size - max(1, round(TEST_FRACTION * problem.size))
    dataset = Dataset.from_arrays(
        pixels[:pool_size],
        labels[:pool_size],
        name=problem.name(kind, seed),
        num_classes=problem.num_classes,
        test_images=pixels[pool_size:],
        test_labels=labels[pool_size:],
    )
    return replace(dataset, built_in=True)


def _shares(problem: _Problem) -> npt.NDArray[np.float64]:
    """Returns each class's share of the images, shape (C,), the largest first."""
    falling = problem.imbalance ** -(np.arange(problem.num_classes) / (problem.num_classes - 1))
    return falling / falling.sum()


def _draw_labels(generator: np.random.Generator, problem: _Problem) -> npt.NDArray[np.int64]:
    """Draw labels in random order, of each class its share to within one image."""
    ends = np.round(np.cumsum(_shares(problem)) * problem.size).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    return generator.permutation(np.repeat(np.arange(problem.num_classes), counts))


# --- smooth fields ---


def _interpolation(coarse: int, fine: int) -> _Floats:
    """Returns the matrix, shape (coarse, fine), that draws straight lines between so many numbers."""
    place = np.linspace(0, coarse - 1, fine)
    return np.maximum(0, 1 - np.abs(place - np.arange(coarse)[:, None])).astype(np.float32)


def _smooth(generator: np.random.Generator, count: int, coarse: int, side: int) -> _Floats:
    """Draw smooth random fields, shape (count, side, side), of variance about a half."""
    between = _interpolation(coarse, side)
    grid = generator.standard_normal((count, coarse, coarse), np.float32)
    return np.asarray(between.T @ grid @ between, np.float32)


def _photographic(generator: np.random.Generator, count: int, side: int, exponent: float) -> _Floats:
    """Draw fields with about the spectrum of photographs, variance about 1, shape (count, side, side).

    They are sums of smooth fields, each twice as fine as the one before; the first is a constant. An
    amplitude that falls as the frequency to the power of -1, as in photographs, makes all of these equally
    strong.
    """
    octaves = np.arange(int(math.log2(side)) + 1)
    strengths = 2.0 ** (octaves * (1 - exponent))
    strengths[0] /= 2
    strengths *= math.sqrt(2) / np.linalg.norm(strengths)
    fields = np.zeros((count, side, side), np.float32)
    for coarse, strength in zip((2**octaves).tolist(), strengths.tolist(), strict=True):
        fields += strength * _smooth(generator, count, coarse, side)
    return fields


# --- pictures from canvases ---


def _pictures(
    generator: np.random.Generator, problem: _Problem, canvases: _Floats, labels: npt.NDArray[np.int64]
) -> _Floats:
    """Take pictures of canvases: turned, scaled, shifted, bent, coloured, with noise.

    Args:
        generator: Stream to draw from.
        problem: What is asked for.
        canvases: Ink, 0 to 1, shape (C, variants, S, S).
        labels: Class of each picture, shape (size,).
    """
    images = np.empty((problem.size, problem.channels, problem.side, problem.side), np.float32)
    for start in range(0, problem.size, _CHUNK):
        chunk = images[start : start + _CHUNK]
        classes = labels[start : start + _CHUNK]
        variant = generator.integers(canvases.shape[1], size=len(classes))
        row, column = _places(generator, problem, len(classes), canvases.shape[2])
        ink = canvases[classes[:, None, None], variant[:, None, None], row, column]
        _colour(generator, ink, chunk)
        _add_noise(generator, problem, chunk)
    return images


def _places(
    generator: np.random.Generator, problem: _Problem, count: int, canvas: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draw where on its canvas each pixel of a picture lies: rows and columns, (count, side, side)."""
    side, difficulty = problem.side, problem.difficulty
    angle, stretch, down, right = generator.uniform(-1, 1, (4, count, 1, 1)).astype(np.float32)
    angle = angle * (0.1 + 0.5 * difficulty)
    scale = np.exp(-stretch * (0.1 + 0.25 * difficulty))
    shift = 0.1 + 0.2 * difficulty
    x = np.linspace(-1, 1, side, dtype=np.float32)[None, None, :]
    y = x.transpose(0, 2, 1)
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    places = []
    for place in (sine * x + cosine * y + down * shift, cosine * x - sine * y + right * shift):
        bent = place + (0.04 + 0.12 * difficulty) * _smooth(generator, count, 4, side)
        pixel = ((bent + 1) * (canvas / 2)).astype(np.int64)
        places.append(np.clip(pixel, 0, canvas - 1))
    return places[0], places[1]


def _colour(generator: np.random.Generator, ink: _Floats, images: _Floats) -> None:
    """Give each picture a ground and an ink of random colours, at least 0.3 apart in brightness."""
    count, channels = images.shape[:2]
    tint = generator.uniform(-0.15, 0.15, (2, count, channels, 1, 1)).astype(np.float32)
    ground = generator.uniform(0, 0.35, (count, 1, 1, 1)).astype(np.float32)
    contrast = generator.uniform(0.3, 0.65, (count, 1, 1, 1)).astype(np.float32)
    if channels == 1:
        tint[:] = 0
    images[:] = ground + tint[0] + (contrast + tint[1] - tint[0]) * ink[:, None]


def _add_noise(generator: np.random.Generator, problem: _Problem, images: _Floats) -> None:
    """Add white and smooth noise, in place."""
    count, channels, side = images.shape[:3]
    white = generator.standard_normal(images.shape, np.float32)
    white *= 0.02 + 0.12 * problem.difficulty
    images += white
    smooth = _smooth(generator, count * channels, max(3, side // 4), side)
    images += 0.15 * problem.difficulty * smooth.reshape(images.shape)


# --- the kinds ---


def _canvas_size(problem: _Problem) -> int:
    return _FINER * problem.side


def _figures(generator: np.random.Generator, problem: _Problem, variants: int) -> _Floats:
    """Draw closed figures, filled, of random outline: ink, shape (C, variants, S, S)."""
    canvas = _canvas_size(problem)
    waves = np.arange(1, 7)
    place = np.linspace(-1, 1, canvas)
    angle, radius = np.arctan2(place[:, None], place), np.hypot(place[:, None], place)
    shape = (problem.num_classes, variants, len(waves), 1, 1)
    height = generator.standard_normal(shape) / np.sqrt(waves)[:, None, None]
    phase = generator.uniform(0, 2 * math.pi, shape)
    bulge = (height * np.cos(waves[:, None, None] * angle + phase)).sum(2)
    outline = 0.8 / (1 + np.exp(-0.8 * bulge))
    return np.clip((outline - radius) * canvas / 4 + 0.5, 0, 1).astype(np.float32)


def _shapes(generator: np.random.Generator, problem: _Problem) -> _Sample:
    labels = _draw_labels(generator, problem)
    return _pictures(generator, problem, _figures(generator, problem, 2), labels), labels


def _patterns(generator: np.random.Generator, problem: _Problem) -> _Sample:
    labels, canvas = _draw_labels(generator, problem), _canvas_size(problem)
    fields = _smooth(generator, 3 * problem.num_classes, 7, canvas)
    canvases = np.asarray(1 / (1 + np.exp(-5 * fields)), np.float32)
    shape = (problem.num_classes, 3, canvas, canvas)
    return _pictures(generator, problem, canvases.reshape(shape), labels), labels


def _glyphs(generator: np.random.Generator, problem: _Problem) -> _Sample:
    hands, canvas = 12, _canvas_size(problem)
    labels = _draw_labels(generator, problem)
    along = np.linspace(0, 1, 24, dtype=np.float32)
    bezier = np.stack([math.comb(3, k) * along**k * (1 - along) ** (3 - k) for k in range(4)])
    place = np.linspace(-1, 1, canvas, dtype=np.float32)
    canvases = np.empty((problem.num_classes, hands, canvas, canvas), np.float32)
    for of_class in canvases:
        controls = generator.uniform(-0.75, 0.75, (int(generator.integers(2, 4)), 1, 2, 4))
        hand = 0.08 * generator.standard_normal((len(controls), hands, 2, 4))
        points = (controls + hand).astype(np.float32) @ bezier  # (strokes, hands, 2, 24)
        rows = np.square(points[:, :, 0, :, None] - place)  # (strokes, hands, 24, canvas)
        columns = np.square(points[:, :, 1, :, None] - place)
        width = generator.uniform(0.08, 0.16, (hands, 1, 1))
        for at in range(hands):
            apart = np.sqrt((rows[:, at, :, :, None] + columns[:, at, :, None, :]).min((0, 1)))
            of_class[at] = np.clip((width[at] - apart) * canvas / 4 + 0.5, 0, 1)
    return _pictures(generator, problem, canvases, labels), labels


def _textures(generator: np.random.Generator, problem: _Problem) -> _Sample:
    labels, basis = _draw_labels(generator, problem), _wave_basis(generator, problem)
    num_classes, variants, waves = basis.shape[0], basis.shape[1], basis.shape[2] // 2
    heights = 0.1 * generator.uniform(0.3, 1, (num_classes, 1, waves))
    if problem.channels > 1:
        heights = heights * generator.uniform(0.2, 1, (num_classes, problem.channels, waves))
    shape = (problem.channels, problem.side, problem.side)
    images = np.empty((problem.size, *shape), np.float32)
    group = labels * variants + generator.integers(variants, size=problem.size)
    for number in range(num_classes * variants):
        members, label = np.flatnonzero(group == number), number // variants
        phase = generator.uniform(0, 2 * math.pi, (len(members), 1, waves))
        height = heights[label] * generator.uniform(0.6, 1.2, (len(members), 1, waves))
        strength = np.concatenate((height * np.cos(phase), height * np.sin(phase)), axis=2)
        seen = strength.astype(np.float32) @ basis[label, number % variants]  # (members, channels, pixels)
        images[members] = 0.5 + seen.reshape(-1, *shape)
    for start in range(0, problem.size, _CHUNK):
        _add_noise(generator, problem, images[start : start + _CHUNK])
    return images, labels


def _wave_basis(generator: np.random.Generator, problem: _Problem) -> _Floats:
    """Draw the waves of each class, in four variants: cosines and sines, shape (C, 4, 6, pixels)."""
    side, waves = problem.side, (problem.num_classes, 1, 3, 1)
    direction = generator.uniform(0, math.pi, waves)
    cycles = side * generator.uniform(0.08, 0.3, waves)
    jitter = 0.15 * problem.difficulty * generator.standard_normal((2, problem.num_classes, 4, 3, 1))
    direction, cycles = direction + jitter[0], cycles * np.exp(jitter[1])
    row, column = (place.ravel() / side for place in np.mgrid[:side, :side])
    angle = 2 * math.pi * cycles * (np.cos(direction) * row + np.sin(direction) * column)
    return np.concatenate((np.cos(angle), np.sin(angle)), axis=2).astype(np.float32)


def _teacher_cnn(generator: np.random.Generator, problem: _Problem) -> _Sample:
    size, difficulty, num_classes, channels, side, _ = problem
    images = np.empty((size, channels, side, side), np.float32)
    for start in range(0, size, _CHUNK):
        chunk = images[start : start + _CHUNK]
        count = len(chunk) * channels
        fields = _smooth(generator, count, 3, side) + _smooth(generator, count, max(4, side // 3), side)
        chunk[:] = 0.5 + 0.18 * fields.reshape(chunk.shape)
    first = generator.standard_normal((8, channels, 5, 5), np.float32) / math.sqrt(25 * channels)
    last = generator.standard_normal((16, num_classes), np.float32)
    features = []
    for start in range(0, size, _CHUNK):
        seen = torch.from_numpy((images[start : start + _CHUNK] - 0.5) / 0.18)
        maps = functional.conv2d(seen, torch.from_numpy(first), stride=2).numpy()
        features.append(np.concatenate((maps.clip(0).mean((2, 3)), (-maps).clip(0).mean((2, 3))), axis=1))
    found = np.concatenate(features)
    found = (found - found.mean(0)) / found.std(0)
    logits = found @ last
    logits = (logits - logits.mean(0)) / logits.std(0)
    logits += 0.5 * difficulty**2 * generator.gumbel(size=logits.shape)
    for start in range(0, size, _CHUNK):
        _add_noise(generator, problem, images[start : start + _CHUNK])
    return images, _in_shares(logits, _shares(problem))


def _scenes(generator: np.random.Generator, problem: _Problem) -> _Sample:
    size, difficulty, num_classes, channels, side, _ = problem
    labels = _draw_labels(generator, problem)
    canvases = _figures(generator, problem, 4)
    exponent, colourful = generator.uniform(1.0, 1.4), generator.uniform(0.1, 0.35)
    tendency = generator.standard_normal((2, num_classes, channels, 1, 1), np.float32)
    # how far classes lie apart in colour, in deviations of the fields
    clarity = 4 * 10 ** (-1.4 * difficulty)
    images = np.empty((size, channels, side, side), np.float32)
    for start in range(0, size, _CHUNK):
        chunk = images[start : start + _CHUNK]
        classes = labels[start : start + _CHUNK]
        count = len(classes)
        variant = generator.integers(canvases.shape[1], size=count)
        row, column = _places(generator, problem, count, canvases.shape[2])
        ink = canvases[classes[:, None, None], variant[:, None, None], row, column][:, None]
        for part, share in enumerate((1 - ink, ink)):
            grey = _photographic(generator, count, side, exponent)[:, None]
            tint = _photographic(generator, count * channels, side, exponent).reshape(chunk.shape)
            tint -= tint.mean(1, keepdims=True)
            field = grey + colourful * tint + clarity * tendency[part, classes]
            chunk[:] = share * field if part == 0 else chunk + share * field
    return 0.5 + 0.22 / math.hypot(1, clarity) * images, labels


def _in_shares(logits: npt.NDArray[np.floating], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns the largest logit's class, after constants that bring classes about to their shares."""
    constants = np.zeros(len(shares))
    for _ in range(60):
        labels = np.argmax(logits + constants, axis=1)
        found = np.bincount(labels, minlength=len(shares)) + 1
        constants += 0.3 * np.log(shares * found.sum() / found)
    return labels.astype(np.int64)


IMAGE_KINDS: dict[str, Callable[[np.random.Generator, _Problem], _Sample]] = {
    "shapes": _shapes,
    "patterns": _patterns,
    "textures": _textures,
    "teacher_cnn": _teacher_cnn,
    "scenes": _scenes,
    "glyphs": _glyphs,
}

IMAGE_NAME = re.compile(
    rf"({'|'.join(IMAGE_KINDS)})-(\d+)-(\d+)-([01]|[01]?\.\d+)"
    r"(?:-(\d+)(?:-([13])x(\d+)(?:-(\d+(?:\.\d+)?))?)?)?"
)
