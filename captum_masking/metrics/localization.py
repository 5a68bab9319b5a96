"""Localization: maps against true boxes and pixel masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_masking.metrics.boxes import Region, exact_ious, masks_to_boxes, region_of
from captum_masking.metrics.maps import (
    above,
    check_masks,
    check_masks_and_boxes,
    check_unit_range,
    double,
    facts,
    finite_planes,
    is_finite,
    planes_of,
)
from captum_masking.metrics.thresholds import thresholds


@facts(higher_is_better=False)
def localization_error(
    masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False
) -> Tensor:
    """Return 1 for each mask that misses the object, 0 for each that finds it (LE).

    A mask finds its object if its box, see `masks_to_boxes`, has an IoU above 0.5 with one of the
    image's boxes. A mask without a box misses; the published code leaves that undefined.

    Args:
        published: Omit the last row and column of the mask's box, and cut the true boxes to whole
            pixels.

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])  # its box is (0, 0, 2, 1)
        >>> localization_error(mask, [torch.tensor([[0, 0, 3, 1]])])  # IoU 2 / 3
        tensor([0.])
    """
    found = masks_to_boxes(masks, published=published)
    return (exact_ious(found, boxes, published=published) <= 0.5).float().to(masks.device)


@facts(higher_is_better=False)
def localization_error_of_boxes(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Return `localization_error` for boxes in place of masks.

    Example:
        >>> predicted = torch.tensor([0, 0, 4, 4])
        >>> localization_error_of_boxes(predicted, [torch.tensor([[0, 0, 4, 3]])])
        tensor([0.])
    """
    return (exact_ious(predicted, boxes) <= 0.5).float().to(predicted.device)


@facts(higher_is_better=False)
def om(
    masks: Tensor, boxes: Sequence[Tensor], correct: Tensor, *, published: bool = False
) -> Tensor:
    """Return 1 where the mask misses the object or the class is not recognized, else 0 (OM).

    Args:
        correct: Boolean ``(B,)``: whether the masker's own classifier puts the true class first.
            All true for a baseline without a classifier; OM is then LE.

    Example:
        >>> masks, box = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([[0, 0, 1, 1]])
        >>> om(masks, [box, box], correct=torch.tensor([True, False]))
        tensor([0., 1.])
    """
    if correct.dtype != torch.bool or correct.shape != masks.shape[:1]:
        raise ValueError(
            f"correct must be a boolean tensor of shape ({len(masks)},), one for each mask, but "
            f"got {correct.dtype} of shape {tuple(correct.shape)}; for logits it is "
            "logits.argmax(1) == target."
        )
    errors = localization_error(masks, boxes, published=published)
    return torch.maximum(errors, (~correct).to(errors))


@facts(higher_is_better=True)
def f1(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the F1 of each mask with the best of the image's boxes.

    Precision is the share of the mask's weight inside the box, recall the share of the box's area
    that the mask covers. The mask is in [0, 1] and not cut at a threshold; pixels that a box cuts
    through count in part. A mask with nothing in the box scores 0.

    Args:
        published: Cut the boxes to whole pixels and add 1e-6 to the denominators of precision
            and F1.

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])
        >>> f1(mask, [torch.tensor([[0, 0, 4, 1], [3, 0, 4, 1]])])  # P = 1, R = 2 / 4
        tensor([0.6667])
    """
    scores, real = _f1_of_each_box(masks, boxes, published)
    return scores.where(real, -1).amax(1).float()


@facts(higher_is_better=True)
def f1_mean(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the `f1` of each mask, averaged over the image's boxes (F1a).

    Example:
        >>> f1_mean(torch.tensor([[[1.0, 0.0]]]), [torch.tensor([[0, 0, 1, 1], [1, 0, 2, 1]])])
        tensor([0.5000])
    """
    scores, real = _f1_of_each_box(masks, boxes, published)
    return (scores.where(real, 0).sum(1) / real.sum(1)).float()


def _f1_of_each_box(
    masks: Tensor, boxes: Sequence[Tensor], published: bool
) -> tuple[Tensor, Tensor]:
    """Return F1 by image and box ``(B, n)``, and which of the n are boxes and not padding."""
    check_masks_and_boxes(masks, boxes)
    planes, epsilon = finite_planes(masks), 1e-6 if published else 0.0
    rows, real = _padded([double(b.to(planes.device)) for b in boxes])  # (B, n, 4), (B, n)
    rows = rows.trunc() if published else rows
    inside = _weight_inside(planes, rows)  # (B, n)
    precision = _ratio(inside, planes.sum((1, 2))[:, None] + epsilon)
    recall = _ratio(inside, (rows[..., 2:] - rows[..., :2]).prod(-1))
    return _ratio(2 * precision * recall, precision + recall + epsilon), real


def _padded(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    rows = pad_sequence(boxes, batch_first=True)
    return rows, torch.arange(rows.shape[1], device=rows.device) < counts[:, None]


def _weight_inside(planes: Tensor, boxes: Tensor) -> Tensor:
    """Return the weight of planes ``(B, H, W)`` inside boxes ``(B, n, 4)`` as ``(B, n)``."""
    height, width = planes.shape[1:]
    down = coverage(boxes[..., 1], boxes[..., 3], height)  # (B, n, H)
    across = coverage(boxes[..., 0], boxes[..., 2], width)  # (B, n, W)
    return ((down @ planes) * across).sum(-1)


def coverage(start: Tensor, end: Tensor, length: int) -> Tensor:
    """Return the share of each cell of a line between start and end."""
    cells = torch.arange(length, device=start.device, dtype=start.dtype)
    covered = torch.minimum(end[..., None], cells + 1) - torch.maximum(start[..., None], cells)
    return covered.clamp(0, 1)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part > 0, part / whole, torch.zeros_like(part))


@facts(higher_is_better=True)
def mask_iou(masks: Tensor, truth: Region, *, threshold: float | None = None) -> Tensor:
    """Return the IoU of each mask, cut at a threshold, with the object; 0 where nothing is left.

    Example:
        >>> mask = torch.tensor([[[0.9, 0.6, 0.1, 0.0]]])  # mean 0.4
        >>> mask_iou(mask, torch.tensor([[[1, 0, 0, 0]]]))
        tensor([0.5000])
    """
    check_masks(masks)
    region, on = region_of(masks, truth), above(planes_of(masks), threshold)
    return (on & region).sum((1, 2)) / (on | region).sum((1, 2)).float()


def mask_iou_by_threshold(masks: Tensor, truth: Region, *, step: float = 0.01) -> Tensor:
    """Return the `mask_iou` ``(B, T)`` of masks in [0, 1] at 0, step, 2 step, ... below 1."""
    check_masks(masks)
    check_unit_range(masks)
    region, planes = region_of(masks, truth), finite_planes(masks)
    cuts = thresholds(step).to(planes)
    # A value is on at the thresholds strictly below it.
    passed = torch.bucketize(planes.reshape(len(planes), -1), cuts)  # (B, H W)
    inside = region.reshape(len(region), -1).float()
    hits, on = _on_at(passed, inside, len(cuts)), _on_at(passed, torch.ones_like(inside), len(cuts))
    return hits / (on + inside.sum(1, keepdim=True) - hits)


def _on_at(passed: Tensor, weight: Tensor, count: int) -> Tensor:
    """Return the weight of the pixels that are on at each threshold ``(B, T)``."""
    # Counts of pixels: exact in float32 up to 16 million.
    tally = torch.zeros(len(passed), count + 1, device=passed.device)
    tally = tally.scatter_add(1, passed, weight)
    return tally.flip(1).cumsum(1).flip(1)[:, 1:]


@facts(higher_is_better=True)
def pointing_game(masks: Tensor, truth: Region, *, tolerance_px: float = 0.0) -> Tensor:
    """Return 1 for each mask whose greatest value lies on the object, else 0.

    Where several pixels share the greatest value, it is the share of them that lie on the object.
    Zhang et al. take the mean over images by class.

    Args:
        tolerance_px: A pixel at most this far from the object counts as a hit. Zhang et al. use 15
            for images of about 500 px.

    Example:
        >>> mask, box = torch.tensor([[[0.0, 0.5, 1.0]]]), torch.tensor([[0, 0, 2, 1]])
        >>> pointing_game(mask, [box]), pointing_game(mask, [box], tolerance_px=1)
        (tensor([0.]), tensor([1.]))
    """
    if not tolerance_px >= 0:
        raise ValueError(f"tolerance_px must be at least 0, but got {tolerance_px}.")
    check_masks(masks)
    region = _grown(region_of(masks, truth), tolerance_px)
    planes = planes_of(masks)
    top = planes == planes.amax((1, 2), keepdim=True)  # nowhere if there is NaN
    hits = (top & region).sum((1, 2)) / top.sum((1, 2)).clamp(min=1)
    return hits.where(is_finite(planes), 0).float()


def _grown(region: Tensor, tolerance_px: float) -> Tensor:
    if not tolerance_px:
        return region
    from scipy import ndimage  # late, so that importing the package stays quick

    far = [ndimage.distance_transform_edt(~plane) for plane in region.cpu().numpy()]
    return torch.from_numpy(np.stack(far) <= tolerance_px).to(region.device)


@facts(higher_is_better=True)
def energy_pointing(masks: Tensor, truth: Region) -> Tensor:
    """Return the share of each mask's positive weight that lies on the object; 0 without weight.

    Example:
        >>> energy_pointing(torch.tensor([[[3.0, 1.0, -9.0]]]), [torch.tensor([[0, 0, 1, 1]])])
        tensor([0.7500])
    """
    check_masks(masks)
    region, weight = region_of(masks, truth), finite_planes(masks).clamp(min=0)
    return _ratio((weight * region).sum((1, 2)), weight.sum((1, 2))).float()


@facts(higher_is_better=True)
def grid_pointing(masks: Tensor, cell: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Return the share of each map's positive weight that lies in the target's cell of a mosaic.

    It is 1 / (rows * columns) for a map that is alike in all cells, and 0 for one without weight.
    :func:`~captum_masking.parts.questions.mosaics` makes mosaics.

    Args:
        cell: Integers ``(B,)``: the cell, in reading order from 0, whose class was explained.

    Example:
        >>> grid_pointing(torch.tensor([[[3.0, 0.0], [-2.0, 1.0]]]), torch.tensor([0]))
        tensor([0.7500])
    """
    check_masks(masks)
    _check_cells(masks, cell, rows, columns)
    height, width = masks.shape[-2] // rows, masks.shape[-1] // columns
    weight = finite_planes(masks).clamp(min=0).reshape(-1, rows, height, columns, width)
    weight = weight.sum((2, 4)).flatten(1)  # (B, cells)
    inside = weight.gather(1, cell.long().to(weight.device)[:, None])[:, 0]
    return _ratio(inside, weight.sum(1)).float()


def _check_cells(masks: Tensor, cell: Tensor, rows: int, columns: int) -> None:
    if masks.shape[-2] % rows or masks.shape[-1] % columns:
        raise ValueError(
            f"maps of mosaics must divide into {rows} x {columns} cells, but "
            f"have shape {tuple(masks.shape)}; make the mosaics with mosaics(...)."
        )
    if cell.shape != masks.shape[:1] or cell.is_floating_point():
        raise ValueError(
            f"cell must hold one integer for each of the {len(masks)} maps, but got {cell.dtype} "
            f"of shape {tuple(cell.shape)}."
        )
    if not ((cell >= 0) & (cell < rows * columns)).all():
        raise ValueError(
            f"cell must lie in 0..{rows * columns - 1}, reading order, but got {cell.tolist()}."
        )
