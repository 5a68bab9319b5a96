"""The published method once more, in plain loops: slow, short, and read off the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def masker_loss(
    mask: Any,
    logits: Tensor,
    logits_in: Tensor,
    logits_out: Tensor,
    target: Tensor,
    area: Tensor | None = None,
    *,
    area_in: float,
    area_out: float,
    variation: float,
) -> Any:
    """Masked-in plus masked-out criterion of Phang et al. 2020, images one by one.

    ``mask[b][i][j]`` may hold floats or scalar tensors; ``variation`` is added on both sides. The
    size that was asked for, ``area``, plays no part.
    """
    batch, loss = len(target), 0.0
    for b in range(batch):
        y = int(target[b])
        correct = int(logits[b].argmax()) == y
        correct_in = int(logits_in[b].argmax()) == y
        confused_out = correct and int(logits_out[b].argmax()) != y
        mean = mean_of(mask[b])
        probabilities_in, probabilities_out = softmax(logits_in[b]), softmax(logits_out[b])
        loss = loss - probabilities_in[y].log() / batch
        if correct:
            loss = loss + sum(p * p.log() for p in probabilities_out) / batch
        if correct_in:
            loss = loss - area_in * (1 - mean) / batch
        if confused_out:
            loss = loss - area_out * (1 - mean) / batch
        loss = loss + 2 * variation / (2 * batch) * energy(mask[b])
    return loss


def energy(mask: Any) -> Any:
    """Squared differences of neighbors, and 0.3 times the squares along the four border lines.

    The border's 0.3 is published for a side of 224 and scales with the side, as is documented.
    """
    height, width = len(mask), len(mask[0])
    differences = frame = 0.0
    for i in range(height):
        for j in range(width):
            if i + 1 < height:
                differences = differences + (mask[i + 1][j] - mask[i][j]) ** 2
            if j + 1 < width:
                differences = differences + (mask[i][j + 1] - mask[i][j]) ** 2
    for i in range(height):
        frame = frame + mask[i][0] ** 2 + mask[i][width - 1] ** 2
    for j in range(width):
        frame = frame + mask[0][j] ** 2 + mask[height - 1][j] ** 2
    return differences + 0.3 * 224 / math.sqrt(height * width) * frame


def mean_of(rows: Any) -> Any:
    return sum(value for row in rows for value in row) / (len(rows) * len(rows[0]))


def softmax(row: Tensor) -> Tensor:
    powers = (row - row.max().detach()).exp()
    return powers / powers.sum()


def cells(mask: Tensor) -> list:
    """A mask ``(B, 1, H, W)`` as lists of scalar tensors that carry gradients."""
    return [[list(row.unbind()) for row in image.unbind()] for image in mask[:, 0].unbind()]


def classifier_loss(logits: Sequence[Tensor], target: Tensor) -> Tensor:
    """Cross entropy of each of several answers to the same images, added up."""
    pairs = [(answer[b], int(y)) for answer in logits for b, y in enumerate(target)]
    return torch.stack([-softmax(row)[y].log() for row, y in pairs]).sum() / len(target)


def divergence(one: Sequence[float], other: Sequence[float]) -> float:
    """KL(one || other), with 0 log 0 = 0."""
    return sum(p * math.log(p / q) for p, q in zip(one, other, strict=True) if p > 0)


def hinge(logits: Sequence[float], target: int, maximize: bool, margin: float) -> float:
    best_other = max(logit for index, logit in enumerate(logits) if index != target)
    lead = logits[target] - best_other
    return max(0.0, margin - lead if maximize else margin + lead)


def size_target(values: Sequence[float], ones: int) -> float:
    """Mean squared distance of the sorted values from a step with that many ones."""
    step = [0.0] * (len(values) - ones) + [1.0] * ones
    return sum((v - s) ** 2 for v, s in zip(sorted(values), step, strict=True)) / len(values)


def size_range(values: Sequence[float], least: int, most: int) -> float:
    """Hinge on the sorted values: at least ``least`` ones, at most ``most`` values above 0."""
    loss = 0.0
    for rank, value in enumerate(sorted(values, reverse=True)):
        lower, upper = float(rank < least), float(rank < most)
        loss += max(0.0, lower - value) + max(0.0, value - upper)
    return loss / len(values)


def bilinear(plane: Any, height: int, width: int) -> list[list[float]]:
    """Bilinear resampling with half-pixel centers, one value at a time."""
    rows, columns = len(plane), len(plane[0])

    def taps(index: int, new: int, old: int) -> tuple[int, int, float]:
        place = max((index + 0.5) * old / new - 0.5, 0.0)
        low = min(int(place), old - 1)
        return low, min(low + 1, old - 1), place - low

    out = []
    for i in range(height):
        top, bottom, down = taps(i, height, rows)
        line = []
        for j in range(width):
            left, right, along = taps(j, width, columns)
            upper = plane[top][left] * (1 - along) + plane[top][right] * along
            lower = plane[bottom][left] * (1 - along) + plane[bottom][right] * along
            line.append(float(upper * (1 - down) + lower * down))
        out.append(line)
    return out
