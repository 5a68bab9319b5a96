"""How well the mask's box fits the object: the best intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.boxes import box_iou, masks_to_boxes
from captum_masking.metrics.localization.checks import check_boxes, check_predicted, check_scale
from captum_masking.metrics.mean import MeanOverImages


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
        >>> from captum_masking.metrics import whole_frame
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
