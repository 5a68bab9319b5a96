"""From masks to boxes, and from boxes to boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics.localization.checks import check_masks

Array = np.ndarray[Any, np.dtype[Any]]


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


def foreground(plane: Array, threshold: float | None) -> Array:
    """Return where a plane ``(H, W)`` exceeds the threshold, or its own mean.

    Nowhere if it is not finite, nor if it is constant and cut at its mean.
    """
    if not np.isfinite(plane).all():
        return np.zeros(plane.shape, dtype=bool)
    # Rounding may put the mean of a constant below the constant, which would then be all on.
    cut = max(plane.mean(), plane.min()) if threshold is None else threshold
    above: Array = plane > cut
    return above


def _largest_part(on: Array) -> tuple[int, int, int, int]:
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
