"""Reading the class off masks and off their boxes, fold by fold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from captum_masking.checks import check_labels
from captum_masking.metrics.leakage.reader import SIDE_PX, Reader, read_by_ridge
from captum_masking.metrics.leakage.result import Leakage
from captum_masking.metrics.localization import masks_to_boxes
from captum_masking.metrics.localization.checks import check_masks, check_unit_range
from captum_masking.metrics.localization.planes import finite_planes

CHUNK = 256  # masks in double precision at a time


def leakage(
    masks: Tensor,
    labels: Tensor,
    *,
    boxes: Tensor | None = None,
    folds: int = 5,
    seed: int = 0,
    reader: Reader = read_by_ridge,
) -> Leakage:
    """Try to read the class off masks alone, without the images.

    The masks are dealt into folds, each class evenly; a reader learns from all folds but one and
    reads that one, in turn. The same is done with each mask's box, drawn as a rectangle. What is
    read is a lower bound: a better reader might read more.

    An honest mask of an object gives its outline away, and classes have outlines: some leakage is
    no fraud. What speaks is a masker that leaks more than true pixel masks of the same images do,
    or than another method's maps.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device; one an image, or
            copies of an image fall into several folds. Those with NaN or infinity are read as
            zeros.
        labels: Class indices ``(B,)``, of at least two classes.
        boxes: ``(B, 4)`` in pixels of the masks' grid, half-open, ``(0, 0, 0, 0)`` for none; None
            takes `masks_to_boxes` of the masks.
        folds: How many, >= 2.
        seed: Deals the folds. Torch's random state is left alone.
        reader: Learns and reads, see `Reader`.

    Returns:
        Accuracies with standard errors; print it for a table and a sentence.

    Raises:
        ValueError: If shapes do not fit, masks leave [0, 1], there is one class only, or fewer
            masks than folds.
        TypeError: If labels are not integers.

    Source:
        Own.

    Example:
        >>> labels = torch.arange(40) % 2
        >>> masks = torch.zeros(40, 1, 16, 16)
        >>> masks[labels == 0, :, :8], masks[labels == 1, :, 8:] = 1, 1  # upper or lower half
        >>> found = leakage(masks, labels)
        >>> found.accuracy, found.box_accuracy, found.chance
        (1.0, 1.0, 0.5)
    """
    _check(masks, labels, boxes, folds)
    boxes = masks_to_boxes(masks) if boxes is None else boxes
    _, classes, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    fold = _deal(classes, folds, seed)
    right = _read_all(_small(masks), classes, fold, reader)
    box_right = _read_all(_drawn(boxes, *masks.shape[-2:]), classes, fold, reader)
    means = [_mean(values) for values in (right, box_right, right - box_right)]
    numbers = [number for mean in means for number in mean]
    return Leakage(len(masks), len(counts), float(counts.max() / len(masks)), *numbers)


def _check(masks: Tensor, labels: Tensor, boxes: Tensor | None, folds: int) -> None:
    check_masks(masks)
    check_unit_range(masks)
    check_labels(labels, masks)
    if boxes is not None and boxes.shape != (len(masks), 4):
        raise ValueError(
            f"boxes must have shape {(len(masks), 4)}, one for each mask, but got "
            f"{tuple(boxes.shape)}; None takes the boxes of the masks."
        )
    if len(labels.unique()) < 2:
        raise ValueError(
            "labels must be of at least two classes, but all are of one; add masks of others."
        )
    if not 2 <= folds <= len(masks):
        raise ValueError(
            f"folds must be 2 or more and at most the number of masks, {len(masks)}, but got "
            f"{folds}."
        )


def _deal(classes: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold ``(B,)`` of each mask, dealt like cards, one class after the other."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(classes)
    fold[order] = torch.arange(len(classes)) % folds
    return fold


def _read_all(masks: Tensor, classes: Tensor, fold: Tensor, reader: Reader) -> Tensor:
    """Return as 0 or 1, ``(B,)``, which masks were read right by one who had not seen them."""
    right = torch.zeros(len(masks), dtype=torch.float64)
    for index in range(int(fold.max()) + 1):
        unread = fold == index
        said = reader(masks[~unread], classes[~unread], masks[unread])
        right[unread] = (said.cpu() == classes[unread]).double()
    return right


def _mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values and its standard error."""
    return float(values.mean()), float(values.std(correction=0) / len(values) ** 0.5)


def _small(masks: Tensor) -> Tensor:
    parts = [_shrunk(finite_planes(part)) for part in masks.detach().split(CHUNK)]
    return torch.cat(parts)


def _shrunk(planes: Tensor) -> Tensor:
    return adaptive_avg_pool2d(planes[:, None], SIDE_PX).cpu().double()


def _drawn(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return each box as a mask ``(B, 1, 32, 32)``, partly covered cells as their shares."""
    boxes = boxes.detach().cpu().double()
    across = _covered(boxes[:, 0] / width, boxes[:, 2] / width)
    down = _covered(boxes[:, 1] / height, boxes[:, 3] / height)
    return (down[:, :, None] * across[:, None, :])[:, None]


def _covered(start: Tensor, end: Tensor) -> Tensor:
    cells = torch.arange(SIDE_PX, dtype=start.dtype)
    ends = torch.minimum(SIDE_PX * end[:, None], cells + 1)
    return (ends - torch.maximum(SIDE_PX * start[:, None], cells)).clamp(0, 1)
