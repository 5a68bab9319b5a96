"""Localization over all thresholds: MaxBoxAcc, MaxBoxAccV2 and PxAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics import boxes as parts
from captum_masking.metrics.boxes import Array, Region, box_iou, region_of
from captum_masking.metrics.maps import (
    check_masks,
    check_masks_and_boxes,
    check_unit_range,
    facts,
    finite_planes,
    is_finite,
)

LEVELS = (0.3, 0.5, 0.7)  # the IoUs of MaxBoxAccV2


def thresholds(step: float) -> Tensor:
    """Return the thresholds 0, step, 2 step, ... below 1 as float64 ``(T,)``."""
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], but got {step}; the published step is 0.01.")
    return torch.from_numpy(np.arange(0, 1, step))


def max_box_acc(
    masks: Tensor, boxes: Sequence[Tensor], *, step: float = 0.01, published: bool = False
) -> Tensor:
    """Return at which thresholds the box of each mask's largest part finds the object.

    A mask in [0, 1] is quantized to 0..255 and cut above ``floor(t * its maximum)`` for each
    threshold t of 0, step, 2 step, ... below 1. Parts are connected by sides or corners. An object
    is found at an IoU of at least 0.5. A mask of zeros or with NaN finds nothing; any other
    constant mask is the whole frame. `MaxBoxAcc` takes the best threshold of a data set.

    Args:
        published: Take the part with the largest area inside its contour instead of the most
            pixels, cut true boxes to whole pixels, end predicted boxes at the frame's last pixel,
            count the end of every box as inside (one pixel more each way), and use the first pixel
            of a map without parts.

    Returns:
        Boolean ``(B, T)``.

    Example:
        >>> mask = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 1.0, 1.0]]])
        >>> max_box_acc(mask, [torch.tensor([[1, 1, 3, 2]])], step=0.25)
        tensor([[False,  True,  True,  True]])
    """
    if published:
        ious = _published_ious(masks, boxes, step, lambda on, _: parts.largest_contour_box(on))
    else:
        ious = best_ious(masks, boxes, step=step)[:, 0]
    return (ious >= 0.5).to(masks.device)


def max_box_acc_v2(
    masks: Tensor,
    boxes: Sequence[Tensor],
    *,
    step: float = 0.01,
    levels: Sequence[float] = LEVELS,
    published: bool = False,
) -> Tensor:
    """Return at which IoU levels and thresholds the box of any part of a mask finds the object.

    As `max_box_acc`, with all parts instead of the largest: boolean ``(B, L, T)``.

    Args:
        levels: Smallest IoUs of a found object, each in (0, 1].
        published: As in `max_box_acc`, and the rims of holes count as parts too.

    Example:
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> max_box_acc_v2(mask, [torch.tensor([[2, 0, 3, 2]])], step=0.5).tolist()  # IoU 1 / 2
        [[[True, True], [True, True], [False, False]]]
    """
    check_levels(levels)

    def boxes_of(on: Array, least: float) -> Array:
        return np.concatenate([parts.part_boxes(on, least), parts.hole_boxes(on, least)])

    if published:
        ious = _published_ious(masks, boxes, step, boxes_of, level=min(levels))
    else:
        ious = best_ious(masks, boxes, step=step)[:, 1]
    return at_levels(ious, levels).to(masks.device)


def at_levels(ious: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Return whether IoUs ``(B, T)`` reach each level, ``(B, L, T)``."""
    return ious[:, None] >= torch.tensor(levels, dtype=ious.dtype)[:, None]


def check_levels(levels: Sequence[float]) -> None:
    if not len(levels) or not all(0 < level <= 1 for level in levels):
        raise ValueError(f"levels must be IoUs in (0, 1], such as {LEVELS}, but got {levels}.")


def best_ious(masks: Tensor, boxes: Sequence[Tensor], *, step: float = 0.01) -> Tensor:
    """Return the best IoU of the largest part's box, and of any, ``(B, 2, T)`` on the CPU."""
    check_masks_and_boxes(masks, boxes)
    steps = thresholds(step).numpy()
    pairs = zip(_quantized(masks), boxes, strict=True)
    return torch.stack([_best_ious_of_image(*pair, steps) for pair in pairs])


def _best_ious_of_image(plane: Array, truth: Tensor, steps: Array) -> Tensor:
    cuts, again = _distinct_cuts(plane, steps)
    found = parts.parts_at_cuts(np.searchsorted(cuts, np.arange(256))[plane])
    ious = box_iou(torch.from_numpy(found.boxes).double(), truth.detach().cpu().double()).amax(1)
    most = np.zeros(len(cuts), dtype=np.int64)
    np.maximum.at(most, found.cuts, found.sizes)
    largest = np.flatnonzero(found.sizes == most[found.cuts])
    present, first = np.unique(found.cuts[largest], return_index=True)  # of equal ones, the first
    best = torch.zeros(2, len(cuts), dtype=ious.dtype)
    best[0, present] = ious[largest[first]]
    best[1].scatter_reduce_(0, torch.from_numpy(found.cuts), ious, "amax")
    return best[:, again]


def _distinct_cuts(plane: Array, steps: Array) -> tuple[Array, Array]:
    """Return cuts that make different planes, in order, and which of them stands for each step."""
    cuts = (steps * plane.max()).astype(int)
    below = np.bincount(plane.ravel(), minlength=256).cumsum()
    _, first, again = np.unique(below[cuts], return_index=True, return_inverse=True)
    return cuts[first], again


def _quantized(masks: Tensor) -> Array:
    planes = masks.detach().reshape(-1, *masks.shape[-2:])
    finite = is_finite(planes)[:, None, None]
    # In the map's own precision, as published: k / 255 in float32 is then k again.
    planes = planes.to(torch.promote_types(planes.dtype, torch.float32)).clamp(0, 1)
    levels: Array = (planes.where(finite, 0) * 255).to(torch.uint8).cpu().numpy()
    return levels


#: ``(on, least) -> boxes`` of a binary plane; parts of fewer than ``least`` pixels may be left out.
_Boxes = Callable[[Array, float], Array]


def _published_ious(
    masks: Tensor, boxes: Sequence[Tensor], step: float, boxes_of: _Boxes, level: float = 0.0
) -> Tensor:
    """Return the best IoU ``(B, T)`` at each threshold, on the CPU; inexact below ``level``."""
    check_masks_and_boxes(masks, boxes)
    steps = thresholds(step).numpy()
    rows = []
    for plane, given in zip(_quantized(masks), boxes, strict=True):
        cuts, again = _distinct_cuts(plane, steps)
        truth = given.detach().cpu().double()
        least = _least_pixels(truth, level)
        found = [boxes_of(plane > cut, least) for cut in cuts]
        rows.append(_best_published_iou(found, truth, plane.shape)[again])
    return torch.stack(rows)


def _least_pixels(truth: Tensor, level: float) -> float:
    # A part of n pixels spans n columns and rows at most, and three more as a hole's rim with the
    # published ends; an IoU of the level needs that share of the smallest true area.
    smallest = (truth[:, 2:] - truth[:, :2]).floor().prod(1).min()
    return float((level * smallest) ** 0.5) - 3


def _best_published_iou(found: list[Array], truth: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the best IoU ``(n,)`` of each of n lists of boxes."""
    last, grow = np.array([shape[1], shape[0], shape[1], shape[0]]) - 1, np.array([0, 0, 1, 1])
    found = [f if len(f) else np.zeros((1, 4)) for f in found]
    # The end of a box is its last pixel, on both sides.
    ends = torch.from_numpy(np.minimum(np.concatenate(found), last) + grow).double()
    ious = box_iou(ends, truth.trunc() + torch.from_numpy(grow)).amax(1)
    lists = torch.arange(len(found)).repeat_interleave(torch.tensor([len(f) for f in found]))
    return torch.zeros(len(found), dtype=ious.dtype).scatter_reduce(0, lists, ious, "amax")


def pixel_histograms(
    masks: Tensor, truth: Region, *, step: float = 0.001, ignore: Tensor | None = None
) -> Tensor:
    """Count each image's pixels by value, off and on the object: int64 ``(B, 2, bins)``."""
    check_masks(masks)
    check_unit_range(masks)
    region, planes = region_of(masks, truth), finite_planes(masks).clamp(0, 1)
    edges = torch.cat([thresholds(step)[1:], torch.ones(1, dtype=torch.float64)]).to(planes)
    bins = len(edges) + 1
    places = torch.bucketize(planes, edges, right=True) + bins * region  # (B, H, W)
    counted = torch.ones_like(places) if ignore is None else _kept(masks, ignore).to(places)
    tally = torch.zeros(len(planes), 2 * bins, dtype=torch.long, device=planes.device)
    tally.scatter_add_(1, places.flatten(1), counted.flatten(1))
    return tally.reshape(-1, 2, bins)


def _kept(masks: Tensor, ignore: Tensor) -> Tensor:
    if ignore.dtype != torch.bool or ignore.numel() != masks.numel():
        raise ValueError(
            f"ignore must be boolean of shape {tuple(masks.shape)}, as the masks, but got "
            f"{ignore.dtype} of shape {tuple(ignore.shape)}; for a label map it is labels == 255."
        )
    return ~ignore.reshape(-1, *masks.shape[-2:])


def average_precision(histograms: Tensor) -> Tensor:
    """Return the sum of precision times gain in recall of histograms ``(..., 2, bins)``."""
    counts = histograms.flip(-1).cumsum(-1).cpu().double()
    off, on = counts.unbind(-2)
    precision = on / (on + off).clamp(min=1)
    gains = on.diff(dim=-1, prepend=torch.zeros_like(on[..., :1]))
    return ((precision * gains).sum(-1) / on[..., -1]).float().to(histograms.device)


@facts(higher_is_better=True)
def pxap(
    masks: Tensor, truth: Region, *, step: float = 0.001, ignore: Tensor | None = None
) -> Tensor:
    """Return the average precision of each mask alone. `PxAP` pools the pixels of a data set.

    Masks are in [0, 1]. A constant mask, or one with NaN, scores the object's share of the pixels.
    The value is NaN if the whole object is ignored.

    Args:
        step: Width of the bins of values, in (0, 1]. Choe et al. use 0.001, Phang et al. 0.01.
        ignore: Boolean, shaped as ``masks``: pixels to leave out.

    Example:
        >>> pxap(torch.tensor([[[0.0, 0.6, 1.0]]]), torch.tensor([[[0, 0, 1]]]))
        tensor([1.])
    """
    return average_precision(pixel_histograms(masks, truth, step=step, ignore=ignore))
