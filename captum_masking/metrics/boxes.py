"""Masks to boxes, boxes to masks, and how well boxes agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics.maps import (
    check_boxes,
    check_masks,
    check_predicted,
    check_scale,
    check_truth,
)
from captum_masking.metrics.mean import MeanOverImages

# ---- The parts of a binary plane that hang together by sides or corners, as their boxes.
#
# Eight neighbours are what OpenCV's contours follow. Arrays in, arrays out, on the CPU.

Array = np.ndarray[Any, np.dtype[Any]]

_EIGHT = np.ones((3, 3), dtype=bool)


def part_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the half-open boxes ``(n, 4)`` of all parts with at least ``least`` pixels."""
    parts, sizes = label(on, _EIGHT)
    return _boxes_of(parts, sizes >= least)


def hole_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the boxes ``(n, 4)`` of the rims of all holes with at least ``least`` pixels.

    A hole is off, hangs together by its sides and does not reach the frame; its rim is the ring
    of pixels around it, so the box is one pixel wider than the hole on all four sides.
    """
    parts, sizes = label(~on, None)
    boxes = _boxes_of(parts, sizes >= least)
    height, width = on.shape
    inner = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < (width, height)).all(1)
    return boxes[inner] + (-1, -1, 1, 1)


def largest_part_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the part with most pixels; ties: the first."""
    parts, sizes = label(on, _EIGHT)
    return _boxes_of(parts, _only(sizes, sizes.argmax())) if len(sizes) else np.empty((0, 4))


def largest_contour_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the part with the largest `contour_area`.

    Ties: the last in reading order, which OpenCV lists first.
    """
    parts, sizes = label(on, _EIGHT)
    if not len(sizes):
        return np.empty((0, 4))
    least = _largest_contour(parts, _only(sizes, sizes.argmax()))[1]
    # A part of n pixels spans n columns and rows at most, and its contour (n - 1)^2.
    return _largest_contour(parts, (sizes - 1.0) ** 2 >= least)[0]


def _largest_contour(parts: Array, chosen: Array) -> tuple[Array, float]:
    """Return the box ``(1, 4)`` and the area of the chosen part with the largest contour."""
    boxes, numbers = _boxes_of(parts, chosen), np.flatnonzero(chosen) + 1
    bounds, best, most = (boxes[:, 2:] - boxes[:, :2] - 1).prod(1), 0, -1.0
    for index in np.argsort(-bounds, kind="stable"):
        if bounds[index] < most:
            break
        (x0, y0, x1, y1), number = boxes[index], numbers[index]
        area = contour_area(parts[y0:y1, x0:x1] == number) if bounds[index] else 0.0
        if (area, number) > (most, numbers[best]):
            best, most = index, area
    return boxes[best : best + 1], most


def contour_area(part: Array) -> float:
    """Return the area inside the closed line through the centers of a part's outer pixels.

    Holes count. Between four neighbouring centers the line encloses the whole unit square if all
    four are in, half of it if three are: a rectangle of h x w pixels has (h - 1)(w - 1), a line
    nothing.
    """
    off = np.ones((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    off[1:-1, 1:-1] = ~part
    filled = (_label(off, None)[0] != 1).astype(np.int8)  # part 1 holds the first pixel: outside
    corners = filled[:-1, :-1] + filled[:-1, 1:] + filled[1:, :-1] + filled[1:, 1:]
    return float((corners == 4).sum() + (corners == 3).sum() / 2)


def label(on: Array, structure: Array | None) -> tuple[Array, Array]:
    """Return the number of each pixel's part, 1 upwards in reading order, and the parts' sizes."""
    parts, count = _label(on, structure)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]


def _label(on: Array, structure: Array | None) -> tuple[Array, int]:
    from scipy import ndimage  # late, so that importing the package stays quick

    found: tuple[Array, int] = ndimage.label(on, structure)
    return found


def _only(sizes: Array, index: Any) -> Array:
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[index] = True
    return chosen


def _boxes_of(parts: Array, chosen: Array) -> Array:
    from scipy import ndimage

    if len(chosen) > 50:  # often thousands of specks: number the chosen parts only
        numbers = np.zeros(len(chosen) + 1, dtype=np.int32)
        numbers[1:][chosen] = np.arange(1, chosen.sum() + 1)
        parts, chosen = numbers[parts], chosen[chosen]
    spans = ndimage.find_objects(parts)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in compress(spans, chosen)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


# ---- From masks to boxes, and from boxes to boxes.

Array_boxes = np.ndarray[Any, np.dtype[Any]]


def masks_to_boxes(
    masks: Tensor, threshold: float | None = None, *, published: bool = False
) -> Tensor:
    """Return the tight box around the largest part of each mask.

    The mask is cut at its own mean (strictly above). Of the parts that hang together by their
    sides (not corners) the one with the most pixels is kept; of equals, the first in reading
    order. The box includes the part's last row and column.

    No box: a constant mask (whatever rounding does to its mean), one with NaN or infinity, and
    one that nowhere exceeds the threshold.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.
        threshold: One value for all masks in place of their means; a constant mask above it is
            then the whole frame.
        published: Leave out the part's last row and column, as the published code does; a part
            of one row or column then has a box of area 0.

    Returns:
        Float32 ``(B, 4)`` on the masks' device, in pixels, half-open; ``(0, 0, 0, 0)`` is no box.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, the box behind metric LE. Differs, unless ``published``: the published
        box excludes the last row and column and so is one pixel short on both axes. What it does
        with constant masks is undefined; here they never have a box.

    Example:
        >>> masks = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
        >>> masks_to_boxes(masks)
        tensor([[1., 1., 3., 2.]])
        >>> masks_to_boxes(masks, published=True)
        tensor([[1., 1., 2., 1.]])
        >>> masks_to_boxes(torch.full((1, 1, 8, 8), 0.3))
        tensor([[0., 0., 0., 0.]])
    """
    check_masks(masks)
    planes = masks.detach().reshape(-1, *masks.shape[-2:]).cpu()
    boxes = [_largest_part(foreground(plane.double().numpy(), threshold)) for plane in planes]
    found = torch.tensor(boxes, dtype=torch.float32, device=masks.device).reshape(-1, 4)
    if published:
        found[:, 2:] = torch.maximum(found[:, 2:] - 1, found[:, :2])
    return found


def foreground(plane: Array_boxes, threshold: float | None) -> Array_boxes:
    """Return where a plane ``(H, W)`` exceeds the threshold, or its own mean.

    Nowhere if it is not finite, nor if it is constant and cut at its mean.
    """
    if not np.isfinite(plane).all():
        return np.zeros(plane.shape, dtype=bool)
    # Rounding may put the mean of a constant below the constant, which would then be all on.
    cut = max(plane.mean(), plane.min()) if threshold is None else threshold
    above: Array_boxes = plane > cut
    return above


def _largest_part(on: Array_boxes) -> tuple[int, int, int, int]:
    from scipy import ndimage  # late, so that importing the package stays quick

    parts, _ = ndimage.label(on)  # sides only; parts are numbered in reading order from 1
    sizes = np.bincount(parts.ravel())[1:]
    if not len(sizes):
        return (0, 0, 0, 0)
    rows, columns = ndimage.find_objects(parts)[sizes.argmax()]  # argmax: the first of equals
    return (columns.start, rows.start, columns.stop, rows.stop)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union of every pair of boxes.

    Args:
        boxes: ``(N, 4)``, half-open.
        others: ``(M, 4)``, on the same scale.

    Returns:
        ``(N, M)`` in [0, 1]; 0 where a box is empty.

    Source:
        The usual definition; the pairs are laid out as in ``torchvision.ops.box_iou``.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        tensor([[0.3333]])
    """
    start = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    end = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    intersection = (end - start).clamp(min=0).prod(-1)  # (N, M)
    union = box_area(boxes)[:, None] + box_area(others)[None] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(union))


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of boxes ``(..., 4)``, 0 for empty ones."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def boxes_to_pixels(boxes: Tensor, height: int, width: int) -> Tensor:
    """Turn boxes in fractions of the frame into pixels of a grid.

    Args:
        boxes: ``(..., 4)`` with x as fractions of the width, y of the height.
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        ``(..., 4)`` in pixels, not rounded.

    Source:
        Own.

    Example:
        >>> boxes_to_pixels(torch.tensor([[0.0, 0.5, 0.25, 1.0]]), height=100, width=200)
        tensor([[  0.,  50.,  50., 100.]])
    """
    return boxes * torch.tensor([width, height, width, height], device=boxes.device)


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Cut boxes to what is visible in the frame, and drop those wholly outside.

    All box metrics count a box that reaches beyond the frame with its whole area, as published:
    no mask can then reach an IoU or recall of 1. Clip the boxes first to score what is visible.

    Args:
        boxes: ``(n, 4)`` in pixels, half-open.
        height: Rows of the frame.
        width: Columns of the frame.

    Returns:
        ``(m, 4)``, m <= n, within ``(0, 0, width, height)``.

    Source:
        Own; the correction to the denominators of LE, OM and F1 in Phang et al. 2020.

    Example:
        >>> clip_boxes(torch.tensor([[-5, 1, 2, 9], [8, 0, 9, 1]]), height=4, width=4)
        tensor([[0, 1, 2, 4]])
    """
    ends = torch.tensor([width, height, width, height], device=boxes.device).to(boxes.dtype)
    clipped = torch.minimum(boxes.clamp(min=0), ends)
    return clipped[(clipped[:, :2] < clipped[:, 2:]).all(1)]


def whole_frame(height: int, width: int) -> Tensor:
    """Return the box of the whole frame, the first trivial baseline.

    Returns:
        Float32 ``(4,)`` in pixels; score it with `localization_error_of_boxes`.

    Source:
        Phang et al. 2020, baseline "max".

    Example:
        >>> whole_frame(2, 3)
        tensor([0., 0., 3., 2.])
    """
    return centered_square(height, width, area=1.0)


def centered_square(height: int, width: int, area: float = 0.5) -> Tensor:
    """Return a box in the middle of the frame, the second trivial baseline and a strong one.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        area: Fraction of the frame in (0, 1]. The box is as wide to high as the frame is, hence
            a square where the frame is one.

    Returns:
        Float32 ``(4,)`` in whole pixels, as the box of a mask is (158 x 158 of 224 x 224 for half
        of the area); score it with `localization_error_of_boxes`.

    Raises:
        ValueError: If ``area`` is not in (0, 1].

    Source:
        Dabkowski & Gal 2017, baseline "centre box", half of the area.

    Example:
        >>> centered_square(4, 8, area=0.25)
        tensor([2., 1., 6., 3.])
    """
    if not 0 < area <= 1:
        raise ValueError(f"area must be a fraction of the frame in (0, 1], but got {area}.")
    (x0, x1), (y0, y1) = (_middle(length, area**0.5) for length in (width, height))
    return torch.tensor([x0, y0, x1, y1], dtype=torch.float32)


def _middle(length: int, fraction: float) -> tuple[int, int]:
    side = max(1, round(length * fraction))
    return (length - side) // 2, (length - side) // 2 + side


# ---- Where the object is, pixel by pixel: from boxes, or from pixel masks.

#: Boxes, one tensor ``(n, 4)`` an image as in `localization_error`, or pixel masks shaped as the
#: masks: boolean, or 0 and 1.
Region = Sequence[Tensor] | Tensor


def boxes_to_masks(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Mark the pixels of each image whose center lies in one of its boxes.

    Args:
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels, half-open.
        height: Rows of the grid.
        width: Columns of the grid.

    Returns:
        Boolean ``(B, 1, height, width)`` on the device of the first boxes.

    Raises:
        ValueError: If an image has no box, a box is empty or not finite, or all are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Own.

    Example:
        >>> boxes_to_masks([torch.tensor([[1, 0, 3, 1], [0, 1, 1, 2]])], 2, 3).int()
        tensor([[[[0, 1, 1],
                  [1, 0, 0]]]], dtype=torch.int32)
    """
    check_boxes(len(boxes), boxes)
    check_scale(max(height, width), boxes)
    device = boxes[0].device
    return torch.stack([_union(truth.to(device), height, width) for truth in boxes])


def _union(boxes: Tensor, height: int, width: int) -> Tensor:
    down = _between(boxes[:, 1], boxes[:, 3], height)  # (n, H)
    across = _between(boxes[:, 0], boxes[:, 2], width)  # (n, W)
    return (down[:, :, None] & across[:, None, :]).any(0, keepdim=True)  # (1, H, W)


def _between(start: Tensor, end: Tensor, length: int) -> Tensor:
    centers = torch.arange(length, device=start.device) + 0.5
    return (start[:, None] <= centers) & (centers < end[:, None])


def region_of(masks: Tensor, truth: Region) -> Tensor:
    """Return where the object is as boolean ``(B, H, W)`` on the masks' device.

    Raises:
        ValueError: If the truth does not fit the masks; see `check_boxes` and `check_truth`.
    """
    height, width = masks.shape[-2:]
    if isinstance(truth, Tensor):
        check_truth(masks, truth)
        return truth.reshape(-1, height, width).to(masks.device) == 1
    check_boxes(len(masks), truth)
    return boxes_to_masks(truth, height, width)[:, 0].to(masks.device)


# ---- How well the mask's box fits the object: the best intersection over union.


def best_box_iou(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the intersection over union of each mask's box with the best of the image's boxes.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open. A
            box may reach beyond the frame and then counts with its whole area; see `clip_boxes`.
        published: As in `localization_error`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device; 0 for a mask without a box.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, the quantity that metric LE compares with 0.5.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1  # its box is (0, 0, 2, 2)
        >>> best_box_iou(mask, [torch.tensor([[0, 0, 2, 4], [3, 3, 4, 4]])])
        tensor([0.5000])
    """
    found = masks_to_boxes(masks, published=published)
    return exact_ious(found, boxes, published=published).float().to(masks.device)


def best_box_iou_of_boxes(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Return `best_box_iou` for boxes in place of masks, such as the trivial baselines.

    Args:
        predicted: One box an image ``(B, 4)``, or one for all images ``(4,)``; ``(0, 0, 0, 0)``
            stands for no box.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, on the scale of ``predicted``.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the device of ``predicted``.

    Raises:
        ValueError: As `best_box_iou` does.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        As `best_box_iou`.

    Example:
        >>> best_box_iou_of_boxes(whole_frame(4, 4), [torch.tensor([[0, 0, 4, 3]])])
        tensor([0.7500])
    """
    return exact_ious(predicted, boxes).float().to(predicted.device)


def exact_ious(predicted: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the best IoU of each image as float64 ``(B,)`` on the CPU.

    Boxes are few, and an IoU of exactly one half must stay so. ``published`` cuts the true boxes
    to whole pixels.
    """
    check_predicted(predicted)
    rows = predicted.expand(len(boxes), 4) if predicted.dim() == 1 else predicted
    check_boxes(len(rows), boxes)
    check_scale(float(rows.max()), boxes)
    rows = rows.detach().cpu().double()
    truth = [b.to(rows).trunc() if published else b.to(rows) for b in boxes]
    ious = [box_iou(row[None], b).max() for row, b in zip(rows, truth, strict=True)]
    return torch.stack(ious)


class BoxIoU(MeanOverImages):
    """Mean over images of the IoU of the mask's box with the best true box; see `best_box_iou`.

    Args:
        published: As in `localization_error`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, the quantity that metric LE compares with 0.5.

    Example:
        >>> metric = BoxIoU()
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> metric.update(mask, [torch.tensor([[0, 0, 2, 4]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `best_box_iou`."""
        self.add(best_box_iou(masks, boxes, published=self.published))

    def __repr__(self) -> str:
        return f"BoxIoU(published={self.published})"
