"""Where the object is, pixel by pixel: from boxes, or from pixel masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_masking.metrics.localization.checks import check_boxes, check_scale, check_truth

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
