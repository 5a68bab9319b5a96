"""Does the mask find the object? A mask becomes a box, and the box is held against the true ones.

Boxes are ``(x0, y0, x1, y1)`` in pixels of the mask's grid, half-open: the one around pixel
(row 2, column 5) alone is ``(5, 2, 6, 3)``. Data sets give fractions; see `boxes_to_pixels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

Array = np.ndarray[Any, np.dtype[Any]]


class LocalizationError(Metric):
    """Share of images whose mask misses the object; see `localization_error`.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric LE, with the box as in `masks_to_boxes`.

    Example:
        >>> metric = LocalizationError()
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[:, :, :2, :2] = 1
        >>> metric.update(mask, [torch.tensor([[0, 0, 2, 2]]), torch.tensor([[2, 2, 4, 4]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0
    missed: Tensor
    seen: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("missed", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch.

        Args:
            masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence.
            boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid.

        Raises:
            ValueError: As `localization_error` does.
        """
        errors = localization_error(masks, boxes)
        self.missed += errors.sum().long().to(self.missed.device)
        self.seen += len(errors)

    def compute(self) -> Tensor:
        """Return the share of missed images, a scalar in [0, 1].

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.missed / self.seen


def localization_error(masks: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Say of each mask whether it misses the object.

    A mask finds its object if the tight box around its largest part overlaps one of the image's
    boxes with an intersection over union above 0.5. A mask without a box (constant, empty, or
    with NaN; see `masks_to_boxes`) misses.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open. A
            box may reach beyond the frame and then counts with its whole area.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 where the object is missed, 0 where it is found.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric LE. Differs in the box, which here includes its last row and
        column, and in masks without a box, which the published code left undefined.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1  # its box is (0, 0, 2, 2)
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 3]])])  # IoU 4 / 6
        tensor([0.])
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 4]])])  # IoU 4 / 8 is not above 0.5
        tensor([1.])
    """
    return localization_error_of_boxes(masks_to_boxes(masks), boxes)


def localization_error_of_boxes(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Say of each predicted box whether it misses the object.

    This is `localization_error` after the masks have become boxes, and the way to score the
    trivial baselines, since a mask of ones has no box::

        localization_error_of_boxes(whole_frame(224, 224), boxes).mean()
        localization_error_of_boxes(centered_square(224, 224), boxes).mean()

    Args:
        predicted: One box an image ``(B, 4)``, or one for all images ``(4,)``; ``(0, 0, 0, 0)``
            stands for no box.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, on the scale of ``predicted``.

    Returns:
        Float32 ``(B,)`` on the device of ``predicted``: 1 where no box of the image has an
        intersection over union above 0.5 with the predicted one.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            ``boxes`` are fractions while ``predicted`` are pixels.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric LE; the literature's criterion of IoU > 0.5.

    Example:
        >>> boxes = [torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
        >>> localization_error_of_boxes(whole_frame(4, 4), boxes)
        tensor([0., 1.])
    """
    _check_predicted(predicted)
    rows = predicted.expand(len(boxes), 4) if predicted.dim() == 1 else predicted
    _check_boxes(len(rows), boxes)
    _check_scale(rows, boxes)
    # On the CPU in double precision: boxes are few, and an IoU of exactly one half must stay so.
    found = [
        bool((box_iou(row[None], truth.to(row)) > 0.5).any())
        for row, truth in zip(rows.detach().cpu().double(), boxes, strict=True)
    ]
    return 1 - torch.tensor(found, dtype=torch.float32, device=predicted.device)


# From mask to box.


def masks_to_boxes(masks: Tensor, threshold: float | None = None) -> Tensor:
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

    Returns:
        Float32 ``(B, 4)`` on the masks' device, in pixels, half-open; ``(0, 0, 0, 0)`` is no box.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, the box behind metric LE. Differs: the published box excludes the last
        row and column and so is one pixel short on both axes.

    Example:
        >>> masks = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])
        >>> masks_to_boxes(masks)
        tensor([[1., 1., 3., 2.]])
        >>> masks_to_boxes(torch.full((1, 1, 8, 8), 0.3))
        tensor([[0., 0., 0., 0.]])
    """
    _check_masks(masks)
    planes = masks.detach().reshape(-1, *masks.shape[-2:]).cpu().double().numpy()
    boxes = [_largest_part(_foreground(plane, threshold)) for plane in planes]
    return torch.tensor(boxes, dtype=torch.float32, device=masks.device).reshape(-1, 4)


def _foreground(plane: Array, threshold: float | None) -> Array:
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


# Boxes.


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
    union = _area(boxes)[:, None] + _area(others)[None] - intersection
    return torch.where(intersection > 0, intersection / union, torch.zeros_like(union))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


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


# At the door.


def _check_masks(masks: Tensor) -> None:
    if not (masks.dim() == 3 or (masks.dim() == 4 and masks.shape[1] == 1)) or not masks.numel():
        raise ValueError(
            f"masks must have shape (B, 1, H, W) or (B, H, W), but got {tuple(masks.shape)}; "
            "reduce an attribution over its channels first, for example with .sum(1)."
        )


def _check_predicted(predicted: Tensor) -> None:
    if predicted.dim() not in (1, 2) or predicted.shape[-1] != 4:
        raise ValueError(
            f"predicted boxes must have shape (B, 4) or (4,), but got {tuple(predicted.shape)}; "
            "masks_to_boxes(masks) makes them from masks."
        )


def _check_boxes(images: int, boxes: Sequence[Tensor]) -> None:
    if len(boxes) != images or images == 0:
        raise ValueError(
            f"boxes must be a list with one tensor (n, 4) for each image, but got {len(boxes)} "
            f"entries for {images} images; put the boxes of one image into one tensor."
        )
    for image, truth in enumerate(boxes):
        _check_box_list(truth, image)


def _check_box_list(truth: Tensor, image: int) -> None:
    if not isinstance(truth, Tensor):
        raise TypeError(
            f"boxes[{image}] must be a tensor (n, 4), but got {type(truth).__name__}; convert it "
            "with torch.as_tensor(...)."
        )
    if truth.dim() != 2 or truth.shape[1] != 4:
        raise ValueError(
            f"boxes[{image}] must have shape (n, 4), but got {tuple(truth.shape)}; write one box "
            "as box[None]."
        )
    if not len(truth):
        raise ValueError(
            f"boxes[{image}] must hold at least one box, but is empty; leave images without boxes "
            "out of a localization metric."
        )
    if not (truth.isfinite().all() and (truth[:, :2] < truth[:, 2:]).all()):
        raise ValueError(
            f"boxes[{image}] must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1, but got "
            f"{truth.tolist()}; convert (x, y, width, height), and drop empty boxes."
        )


def _check_scale(predicted: Tensor, boxes: Sequence[Tensor]) -> None:
    values = torch.cat([truth.detach().reshape(-1).cpu().double() for truth in boxes])
    fractions = 0 <= values.min() <= values.max() <= 1 and (values % 1).any()
    if fractions and predicted.max() > 1:  # no object lies within the first pixel
        raise ValueError(
            f"boxes must be in pixels, as the predicted boxes are, which reach "
            f"{predicted.max():g}, but none exceeds 1; convert fractions with "
            "boxes_to_pixels(boxes, height, width)."
        )
