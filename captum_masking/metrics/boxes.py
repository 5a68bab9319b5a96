"""Convert masks to boxes and boxes to masks, and compare boxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics.maps import (
    above,
    check_boxes,
    check_predicted,
    check_scale,
    check_truth,
    facts,
    planes_of,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: The objects: boxes, one tensor ``(n, 4)`` per image, or pixel masks of 0 and 1.
Region = Sequence[Tensor] | Tensor

SIDES = None  # neighbors share a side
CORNERS = np.ones((3, 3), dtype=bool)  # or a corner, as in OpenCV's contours


def part_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the half-open boxes ``(n, 4)`` of all parts with at least ``least`` pixels."""
    parts, sizes = _label(on, CORNERS)
    return _boxes_of(parts, sizes >= least)


def hole_boxes(on: Array, least: float = 0.0) -> Array:
    """Return the boxes ``(n, 4)`` of the rims of holes, which are one pixel wider on each side."""
    parts, sizes = _label(~on, SIDES)
    boxes = _boxes_of(parts, sizes >= least)
    height, width = on.shape
    inner = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < (width, height)).all(1)
    return boxes[inner] + (-1, -1, 1, 1)


def largest_part_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the part with most pixels; ties: the first."""
    parts, sizes = _label(on, SIDES)
    if not len(sizes):
        return np.empty((0, 4))
    return _boxes_of(parts, np.arange(len(sizes)) == sizes.argmax())


def largest_contour_box(on: Array) -> Array:
    """Return the box ``(n, 4)``, n = 0 or 1, of the largest `contour_area`; ties: the last."""
    parts, sizes = _label(on, CORNERS)
    if not len(sizes):
        return np.empty((0, 4))
    least = _largest_contour(parts, np.arange(len(sizes)) == sizes.argmax())[1]
    # A part of n pixels spans n columns and rows at most, and its contour (n - 1)^2.
    return _largest_contour(parts, (sizes - 1.0) ** 2 >= least)[0]


def _largest_contour(parts: Array, chosen: Array) -> tuple[Array, float]:
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
    """Return the area inside a part's contour through pixel centers, with its holes."""
    off = np.ones((part.shape[0] + 2, part.shape[1] + 2), dtype=bool)
    off[1:-1, 1:-1] = ~part
    filled = (_label(off, SIDES)[0] != 1).astype(np.int8)  # part 1 holds the first pixel: outside
    corners = filled[:-1, :-1] + filled[:-1, 1:] + filled[1:, :-1] + filled[1:, 1:]
    return float((corners == 4).sum() + (corners == 3).sum() / 2)


class Parts(NamedTuple):
    """The parts of a plane at all cuts: half-open boxes ``(n, 4)``, pixels, and cuts."""

    boxes: Array
    sizes: Array
    cuts: Array


def parts_at_cuts(levels: Array) -> Parts:
    """Find the parts connected by sides or corners at every cut, in reading order.

    Pixels are on at cuts ``0 .. level - 1``. All cuts are one graph of runs, pixels in a row.
    """
    from scipy.sparse import csgraph, csr_matrix

    framed = np.pad(levels.astype(np.int64), ((0, 1), (1, 1)))  # a border of zeros
    line, size = framed.shape[1], framed.size
    rise, framed = np.diff(framed.ravel()), framed.ravel()
    starts, ends = _places(rise, framed[:-1], size), _places(-rise, framed[1:], size)
    # A run touches consecutive runs of the next row.
    first = np.searchsorted(ends, starts + line)
    counts = np.searchsorted(starts, ends + line, "right") - first
    touched, pointers = _ranges(first, counts), np.concatenate([[0], counts.cumsum()])
    links = np.ones(len(touched), dtype=bool), touched, pointers
    found, part = csgraph.connected_components(csr_matrix(links, (len(starts),) * 2), False)
    boxes, cuts = np.empty((found, 4), dtype=np.int64), np.empty(found, dtype=np.int64)
    left, right, rows = starts % line, ends % line, starts % size // line
    boxes[:, 0], boxes[:, 2] = line, 0
    np.minimum.at(boxes[:, 0], part, left)
    np.maximum.at(boxes[:, 2], part, right)
    # Runs are in reading order; the last one of each part stays.
    boxes[part[::-1], 1], boxes[part, 3] = rows[::-1], rows + 1
    cuts[part] = starts // size
    return Parts(boxes, np.bincount(part, right - left, minlength=found), cuts)


def _places(rise: Array, low: Array, size: int) -> Array:
    """Return the position of each rise at every cut that it passes, cuts in order."""
    there = np.flatnonzero(rise > 0)
    cuts = _ranges(low[there], rise[there])
    return np.sort(cuts * size + np.repeat(there, rise[there]))


def _ranges(first: Array, counts: Array) -> Array:
    """Join ranges of consecutive numbers, given by first number and length."""
    before = counts.cumsum() - counts
    return np.arange(counts.sum()) + np.repeat(first - before, counts)


def _label(on: Array, neighbors: Array | None) -> tuple[Array, Array]:
    """Return the number of each pixel's part, 1 upwards in reading order, and the parts' sizes."""
    from scipy import ndimage  # late, so that importing the package stays quick

    parts, count = ndimage.label(on, neighbors)
    return parts, np.bincount(parts.ravel(), minlength=count + 1)[1:]


def _boxes_of(parts: Array, chosen: Array) -> Array:
    from scipy import ndimage

    if len(chosen) > 50:  # often thousands of specks: number the chosen parts only
        numbers = np.zeros(len(chosen) + 1, dtype=np.int32)
        numbers[1:][chosen] = np.arange(1, chosen.sum() + 1)
        parts, chosen = numbers[parts], chosen[chosen]
    spans = ndimage.find_objects(parts)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in compress(spans, chosen)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def masks_to_boxes(
    masks: Tensor, threshold: float | None = None, *, published: bool = False
) -> Tensor:
    """Return the tight box around the largest part of each mask, last row and column included.

    Parts are connected by sides; the first in reading order wins ties.

    Args:
        published: Omit the part's last row and column; a part of one row or column then has a box
            of area 0.

    Returns:
        Float32 ``(B, 4)``, half-open. ``(0, 0, 0, 0)`` means no box: for a constant mask cut at its
        mean, a mask with NaN or infinity, and a mask that never exceeds the threshold.

    Example:
        >>> masks_to_boxes(torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]]))
        tensor([[1., 1., 3., 2.]])
    """
    planes = above(planes_of(masks), threshold).cpu().numpy()
    boxes = [largest_part_box(on).sum(0) for on in planes]  # of one box, or of none
    found = torch.from_numpy(np.stack(boxes)).to(masks.device, torch.float32)
    if published:
        found[:, 2:] = torch.maximum(found[:, 2:] - 1, found[:, :2])
    return found


def salient_boxes(masks: Tensor, threshold: float | None = None) -> Tensor:
    """Return the tight boxes ``(B, 4)`` around all of each mask that is on."""
    on = above(planes_of(masks), threshold)
    (x0, x1), (y0, y1) = _ends(on.any(1)), _ends(on.any(2))
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def _ends(on: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first position of each row ``(B, N)`` that is on, and one after the last."""
    first, length = on.int().argmax(1), on.shape[1]
    end = length - on.flip(1).int().argmax(1)
    return first, end.where(on.any(1), 0)


def boxes_to_pixels(boxes: Tensor, height: int, width: int) -> Tensor:
    """Turn boxes ``(..., 4)`` in fractions of the frame into pixels of a grid, not rounded.

    Example:
        >>> boxes_to_pixels(torch.tensor([[0.0, 0.5, 0.25, 1.0]]), height=100, width=200)
        tensor([[  0.,  50.,  50., 100.]])
    """
    return boxes * torch.tensor([width, height, width, height], device=boxes.device)


def whole_frame(height: int, width: int) -> Tensor:
    """Return the box ``(4,)`` of the whole frame, baseline "max" of Phang et al. 2020.

    Example:
        >>> whole_frame(2, 3)
        tensor([0., 0., 3., 2.])
    """
    return centered_square(height, width, area=1.0)


def centered_square(height: int, width: int, area: float = 0.5) -> Tensor:
    """Return a box ``(4,)`` in the middle of the frame, a strong baseline.

    It covers the fraction ``area`` of the frame, with the same aspect ratio, in whole pixels.

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


def boxes_to_masks(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return boolean masks ``(B, 1, height, width)`` of the pixels whose center lies in a box.

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
    """Return the object's pixels as boolean ``(B, H, W)`` on the masks' device."""
    height, width = masks.shape[-2:]
    if isinstance(truth, Tensor):
        check_truth(masks, truth)
        return truth.reshape(-1, height, width).to(masks.device) == 1
    check_boxes(len(masks), truth)
    return boxes_to_masks(truth, height, width)[:, 0].to(masks.device)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU ``(N, M)`` of every pair of boxes, 0 where both are empty."""
    from torchvision import ops  # late, so that importing the package stays quick

    found: Tensor = ops.box_iou(boxes, others)
    return found.nan_to_num(0.0)


@facts(higher_is_better=True)
def best_box_iou(masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the IoU of each mask's box with the best of the image's boxes; 0 without a box.

    `localization_error` compares it with 0.5; ``published`` means the same.

    Example:
        >>> mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])  # its box is (0, 0, 2, 1)
        >>> best_box_iou(mask, [torch.tensor([[0, 0, 4, 1], [3, 0, 4, 1]])])
        tensor([0.5000])
    """
    found = masks_to_boxes(masks, published=published)
    return exact_ious(found, boxes, published=published).float().to(masks.device)


@facts(higher_is_better=True)
def best_box_iou_of_boxes(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Return `best_box_iou` for boxes in place of masks."""
    return exact_ious(predicted, boxes).float().to(predicted.device)


def exact_ious(predicted: Tensor, boxes: Sequence[Tensor], *, published: bool = False) -> Tensor:
    """Return the best IoU of each image, float64 ``(B,)`` on the CPU, so that 1/2 stays exact."""
    check_predicted(predicted)
    rows = predicted.expand(len(boxes), 4) if predicted.dim() == 1 else predicted
    check_boxes(len(rows), boxes)
    check_scale(float(rows.max()), boxes)
    rows = rows.detach().cpu().double()
    truth = [b.to(rows).trunc() if published else b.to(rows) for b in boxes]
    ious = [box_iou(row[None], b).max() for row, b in zip(rows, truth, strict=True)]
    return torch.stack(ious)
