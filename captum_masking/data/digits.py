"""Handwritten digits on photographed textures: a data set that needs no download.

The digit's pixels are known; neither brightness nor hue gives them away.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from captum_masking._base.checks import check_count, needed

Array = np.ndarray[Any, np.dtype[Any]]

HELD_OUT_DIGITS = 450  # the last of 1,797, a quarter
HELD_OUT_COLUMNS = 128  # the right quarter of each texture of 512 x 512 pixels
CROP_PX = (80, 128)  # side of a crop of the texture before it is scaled; at most twice the image's
DIGIT_SIDE = (0.3, 0.7)  # height of a digit as a fraction of the image's side
DIGIT_CELLS = 8 + 2  # an empty cell around each digit, so that strokes end softly


class DigitsOnTextures(Dataset[tuple[Tensor, int]]):
    """Handwritten digits, random in place, size and color, on random crops of textures.

    Image ``i`` depends on ``(seed, train, i)`` only, so a longer set starts with the shorter one.
    Training and held-out images share no digit and no pixel of a texture. The random states of
    torch and numpy do not change.

    Args:
        count: Number of images, >= 1.
        size: Side of the images in pixels, >= 16.
        train: Whether to use the training or the held-out digits and textures.
        seed: Whole number >= 0.

    Attributes:
        images: Pixels, uint8 ``(count, 3, size, size)``.
        labels: One int in 0..9 per image.
        masks: The digit's strokes, bool ``(count, 1, size, size)``: pixels with at least half of
            their color from the digit.
        boxes: The tight box of each mask, half-open fractions, one tensor ``(1, 4)`` per image.
        class_names: ``"0"`` to ``"9"``.

    Source:
        Digits: UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998), as
        scikit-learn ships them. Textures: brick, grass and gravel of scikit-image, all CC0.

    Example:
        >>> digits = DigitsOnTextures(2, size=32)
        >>> image, label = digits[0]
        >>> image.shape, -1 <= image.min() <= image.max() <= 1, label in range(10)
        (torch.Size([3, 32, 32]), tensor(True), True)
        >>> digits.boxes[0].shape, digits.masks.shape
        (torch.Size([1, 4]), torch.Size([2, 1, 32, 32]))
    """

    def __init__(self, count: int, *, size: int = 64, train: bool = True, seed: int = 0) -> None:
        check_count("count", count)
        check_count("size", size, least=16)
        check_count("seed", seed, least=0)
        self.size, self.train, self.seed = size, bool(train), seed
        source = load_source(self.train)
        self.images = torch.empty(count, 3, size, size, dtype=torch.uint8)
        self.masks = torch.empty(count, 1, size, size, dtype=torch.bool)
        self.labels: list[int] = []
        for index in range(count):
            rng = np.random.default_rng([seed, self.train, index])
            image, mask, label = _compose(source, size, rng)
            self.images[index] = torch.from_numpy(image)
            self.masks[index, 0] = torch.from_numpy(mask)
            self.labels.append(label)
        self.boxes = _box_list(self.masks)
        self.class_names = [str(label) for label in range(10)]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index] / 127.5 - 1, self.labels[index]

    def pixel_mask(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the digit's pixels, and that no pixel is ignored.

        As :meth:`SegmentedImages.pixel_mask`; ``size`` is ``(height, width)``.
        """
        strokes = interpolate(self.masks[index][None].float(), size, mode="nearest-exact")[0, 0] > 0
        return strokes, torch.zeros_like(strokes)

    def __repr__(self) -> str:
        return (
            f"DigitsOnTextures({len(self)}, size={self.size}, train={self.train}, seed={self.seed})"
        )

    # Each pickled tensor takes a file descriptor in a DataLoader; boxes follow from the masks.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "boxes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, boxes=_box_list(state["masks"]))


class _Source(NamedTuple):
    """One half of the digits ``(n, 10, 10)`` in [0, 1], their labels, and of the textures."""

    digits: Array
    labels: Array
    textures: list[Array]  # (512, columns) each, zero mean and unit variance


@lru_cache(maxsize=2)
def load_source(train: bool) -> _Source:
    """Read the digits and textures of one half."""
    libraries, run = ("skimage", "sklearn.datasets"), "'captum-masking[demo]'"
    scikit, sets = (needed(each, by="digits on textures", run=run) for each in libraries)
    rows = slice(None, -HELD_OUT_DIGITS) if train else slice(-HELD_OUT_DIGITS, None)
    columns = slice(None, -HELD_OUT_COLUMNS) if train else slice(-HELD_OUT_COLUMNS, None)
    bunch = sets.load_digits()
    digits = np.pad(bunch.images[rows] / 16, ((0, 0), (1, 1), (1, 1)))
    images = (scikit.data.brick(), scikit.data.grass(), scikit.data.gravel())
    cut = [image[:, columns] for image in images]
    textures = [(part - part.mean()) / part.std() for part in cut]
    return _Source(digits, bunch.target[rows], textures)


def _compose(source: _Source, size: int, rng: np.random.Generator) -> tuple[Array, Array, int]:
    """Draw an image, uint8 ``(3, size, size)``, its mask, bool ``(size, size)``, and its label."""
    choice = rng.integers(len(source.digits))
    relief = _draw_relief(source.textures[rng.integers(len(source.textures))], size, rng)
    cover = _draw_cover(source.digits[choice], size, rng)
    ground, ink = _draw_colors(rng)
    # A little of the relief shows through the ink, as paint on a wall does.
    shade = relief * (0.12 * (1 - cover) + 0.04 * cover)  # (size, size)
    color = ground * (1 - cover) + ink * cover  # (3, size, size)
    image = (255 * (color + shade)).round().clip(0, 255).astype(np.uint8)
    return image, cover >= 0.5, int(source.labels[choice])


def _draw_relief(texture: Array, size: int, rng: np.random.Generator) -> Array:
    side = min(int(rng.integers(*CROP_PX, endpoint=True)), 2 * size)
    top, left = rng.integers(0, np.array(texture.shape) - side, endpoint=True)
    crop = np.rot90(texture[top : top + side, left : left + side], int(rng.integers(4)))
    return _stretch(_stretch(crop[:, :: rng.choice([-1, 1])], size).T, size)


def _stretch(image: Array, rows: int) -> Array:
    """Resample an image to a number of rows, linearly."""
    last = len(image) - 1
    at = ((np.arange(rows) + 0.5) * len(image) / rows - 0.5).clip(0, last)  # pixel centers
    above = at.astype(int)
    below, share = np.minimum(above + 1, last), (at - above)[:, None]
    stretched: Array = image[above] * (1 - share) + image[below] * share
    return stretched


def _draw_cover(digit: Array, size: int, rng: np.random.Generator) -> Array:
    """Scale a digit, place it at random, and return its opacity ``(size, size)``."""
    side = round(size * rng.uniform(*DIGIT_SIDE) * DIGIT_CELLS / 8)
    top, left = rng.integers(0, size - side, size=2, endpoint=True)
    weights = _bicubic(DIGIT_CELLS, side)
    # einsum and not @: threads of a matrix library cost more than such small products.
    ink = np.einsum("jk,lk->jl", np.einsum("ij,jk->ik", weights, digit), weights)
    cover = np.zeros((size, size))
    # Strokes fade in between 0.3 and 0.55 of full ink: less fills the loops of bold digits, more
    # opens those of thin ones.
    cover[top : top + side, left : left + side] = (ink - 0.3) / 0.25
    return cover.clip(0, 1)


@lru_cache(maxsize=256)
def _bicubic(before: int, after: int) -> Array:
    identity = torch.eye(before, dtype=torch.float64)[None, None]
    weights: Array = interpolate(identity, size=(after, before), mode="bicubic")[0, 0].numpy()
    return weights


def _draw_colors(rng: np.random.Generator) -> tuple[Array, Array]:
    # Lighter or darker than the ground by a third of the range, so that the ink can be read.
    ground, step = rng.uniform(0.25, 0.75), rng.uniform(0.32, 0.45)
    fits = [luma for luma in (ground - step, ground + step) if 0.05 <= luma <= 0.95]
    return _draw_hue(ground, rng), _draw_hue(float(rng.choice(fits)), rng)


def _draw_hue(luma: float, rng: np.random.Generator) -> Array:
    angle, chroma = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    red_green, blue = np.array([0.89, -0.45, 0.0]), np.array([-0.11, -0.11, 0.89])
    color: Array = luma + chroma * (np.cos(angle) * red_green + np.sin(angle) * blue)
    return color.clip(0, 1).reshape(3, 1, 1)


def _box_list(masks: Tensor) -> list[Tensor]:
    (x0, x1), (y0, y1) = (_first_and_end(masks[:, 0].any(axis)) for axis in (1, 2))
    boxes = torch.stack((x0, y0, x1, y1), dim=1).float() / masks.shape[-1]
    return list(boxes[:, None])  # (1, 4) each


def _first_and_end(line: Tensor) -> tuple[Tensor, Tensor]:
    line = line.byte()  # (B, L); argmax gives the first of equals
    return line.argmax(1), line.shape[1] - line.flip(1).argmax(1)
