"""Does the mask's weight lie on the object, and all over it? F1 of the continuous mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_masking.metrics.localization.boxes import box_area
from captum_masking.metrics.localization.checks import (
    check_boxes,
    check_masks,
    check_scale,
    check_unit_range,
)
from captum_masking.metrics.localization.planes import double, finite_planes
from captum_masking.metrics.mean import MeanOverImages


def f1(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the F1 of each mask with the best of the image's boxes.

    Of the mask's weight, precision is the share inside the box; of the box's area, recall is the
    share that the mask covers; F1 = 2 PR / (P + R). The mask is not cut at a threshold.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open. A
            box may cut through pixels, whose weight then counts in part. It may reach beyond the
            frame: recall's denominator is its whole area, as published; see `clip_boxes`.
        published: Cut the boxes to whole pixels and add 1e-6 to the denominators of precision
            and F1, as the published code does.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device. A mask of zeros, one with NaN or infinity
        and one with nothing in the box score 0; a constant mask scores by the box's area.

    Raises:
        ValueError: If shapes do not fit, a mask leaves [0, 1], an image has no box, a box is
            empty or not finite, or the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric F1. Differs, unless ``published``, in boxes that are not whole
        pixels (there truncated) and in the denominators' 1e-6.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> f1(mask, [torch.tensor([[0, 0, 2, 4], [3, 3, 4, 4]])])  # P = 1, R = 4 / 8
        tensor([0.6667])
    """
    scores, real = _f1_of_each_box(masks, boxes, published)
    return scores.where(real, -1).amax(1).float()


def f1_mean(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the F1 of each mask, averaged over the image's boxes (F1a).

    Args:
        masks: As in `f1`.
        boxes: As in `f1`.
        published: As in `f1`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device, at most `f1`.

    Raises:
        ValueError: As `f1` does.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric F1a; differs as `f1` does.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> f1_mean(mask, [torch.tensor([[0, 0, 2, 4], [3, 3, 4, 4]])])
        tensor([0.3333])
    """
    scores, real = _f1_of_each_box(masks, boxes, published)
    return (scores.where(real, 0).sum(1) / real.sum(1)).float()


def _f1_of_each_box(
    masks: Tensor, boxes: Sequence[Tensor], published: bool
) -> tuple[Tensor, Tensor]:
    """Return F1 by image and box ``(B, n)``, and which of the n are boxes and not padding."""
    check_masks(masks)
    check_boxes(len(masks), boxes)
    check_scale(max(masks.shape[-2:]), boxes)
    check_unit_range(masks)
    planes, epsilon = finite_planes(masks), 1e-6 if published else 0.0
    rows, real = _padded([double(b.to(planes.device)) for b in boxes])  # (B, n, 4), (B, n)
    rows = rows.trunc() if published else rows
    inside = weight_inside(planes, rows)  # (B, n)
    precision = _ratio(inside, planes.sum((1, 2))[:, None] + epsilon)
    recall = _ratio(inside, box_area(rows))
    return _ratio(2 * precision * recall, precision + recall + epsilon), real


def _padded(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    counts = torch.tensor([len(b) for b in boxes], device=boxes[0].device)
    rows = pad_sequence(boxes, batch_first=True)
    return rows, torch.arange(rows.shape[1], device=rows.device) < counts[:, None]


def weight_inside(planes: Tensor, boxes: Tensor) -> Tensor:
    """Return the weight of planes ``(B, H, W)`` inside boxes ``(B, n, 4)`` as ``(B, n)``."""
    height, width = planes.shape[1:]
    down = _coverage(boxes[..., 1], boxes[..., 3], height)  # (B, n, H)
    across = _coverage(boxes[..., 0], boxes[..., 2], width)  # (B, n, W)
    return ((down @ planes) * across).sum(-1)


def _coverage(start: Tensor, end: Tensor, length: int) -> Tensor:
    """Return how much of each cell of a line lies between start and end, 0 to 1."""
    cells = torch.arange(length, device=start.device, dtype=start.dtype)
    covered = torch.minimum(end[..., None], cells + 1) - torch.maximum(start[..., None], cells)
    return covered.clamp(min=0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(part > 0, part / whole, torch.zeros_like(part))


class F1(MeanOverImages):
    """Mean over images of F1 with the best box; see `f1`.

    Args:
        published: As in `f1`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric F1.

    Example:
        >>> metric = F1()
        >>> metric.update(torch.ones(1, 1, 4, 4), [torch.tensor([[0, 0, 4, 2]])])
        >>> metric.compute()
        tensor(0.6667)
    """

    higher_is_better = True

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `f1`."""
        self.add(f1(masks, boxes, published=self.published))

    def __repr__(self) -> str:
        return f"F1(published={self.published})"


class F1Mean(MeanOverImages):
    """Mean over images of F1 averaged over the image's boxes (F1a); see `f1_mean`.

    Args:
        published: As in `f1`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric F1a.

    Example:
        >>> metric = F1Mean()
        >>> metric.update(torch.ones(1, 1, 4, 4), [torch.tensor([[0, 0, 4, 2], [0, 0, 4, 4]])])
        >>> metric.compute()
        tensor(0.8333)
    """

    higher_is_better = True

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `f1_mean`."""
        self.add(f1_mean(masks, boxes, published=self.published))

    def __repr__(self) -> str:
        return f"F1Mean(published={self.published})"
