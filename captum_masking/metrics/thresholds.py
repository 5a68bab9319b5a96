"""Localization over all thresholds: MaxBoxAcc, MaxBoxAccV2 and PxAP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics import boxes as parts
from captum_masking.metrics.boxes import Region, box_iou, region_of
from captum_masking.metrics.maps import (
    check_boxes,
    check_masks,
    check_scale,
    check_unit_range,
    finite_planes,
    is_finite,
)
from captum_masking.metrics.mean import ImageMetric

# ---- Localization at the data set's best threshold: MaxBoxAcc and MaxBoxAccV2.

Array = np.ndarray[Any, np.dtype[Any]]

#: The IoU levels of MaxBoxAccV2.
LEVELS = (0.3, 0.5, 0.7)


def thresholds(step: float) -> Tensor:
    """Return the thresholds 0, step, 2 step, ... below 1.

    Args:
        step: From one threshold to the next, in (0, 1].

    Returns:
        Float64 ``(T,)``.

    Raises:
        ValueError: If ``step`` is not in (0, 1].

    Source:
        Choe et al. 2020.

    Example:
        >>> thresholds(0.25)
        tensor([0.0000, 0.2500, 0.5000, 0.7500], dtype=torch.float64)
    """
    if not 0 < step <= 1:
        raise ValueError(f"step must be in (0, 1], but got {step}; the published step is 0.01.")
    return torch.from_numpy(np.arange(0, 1, step))


def max_box_acc(
    masks: Tensor, boxes: Sequence[Tensor], *, step: float = 0.01, published: bool = False
) -> Tensor:
    """Say of each mask at which thresholds the box of its largest part finds the object.

    A mask is quantized to 0..255 and cut above ``floor(t * its maximum)`` for each threshold t.
    Parts hang together by sides or corners, as OpenCV's contours do. An object is found at an IoU
    of 0.5 or more. The score of a data set is the best over thresholds of the mean over images::

        max_box_acc(masks, boxes).float().mean(0).max()

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open.
        step: From one threshold to the next, in (0, 1].
        published: As the published code does, take the part with the largest area inside its
            contour rather than with most pixels, cut true boxes to whole pixels, end predicted
            ones at the last pixel of the frame at most, count the end of every box as inside
            (one pixel more each way), and take a map without any part for its first pixel.

    Returns:
        Boolean ``(B, T)`` on the masks' device; thresholds as `thresholds` gives them. All false
        for a mask of zeros and one with NaN or infinity; any other constant mask is the whole
        frame at every threshold.

    Raises:
        ValueError: If shapes do not fit, a mask leaves [0, 1], an image has no box, a box is
            empty or not finite, or the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Choe et al. 2020, MaxBoxAcc. Differs as said under ``published``, and for NaN, which the
        published code refuses.

    Example:
        >>> mask = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 1.0, 1.0]]])
        >>> max_box_acc(mask, [torch.tensor([[1, 1, 3, 2]])], step=0.25)
        tensor([[False,  True,  True,  True]])
    """
    choose = parts.largest_contour_box if published else parts.largest_part_box
    ious = _ious(masks, boxes, step, published, lambda on, least: choose(on))
    return (ious >= 0.5).to(masks.device)


def max_box_acc_v2(
    masks: Tensor,
    boxes: Sequence[Tensor],
    *,
    step: float = 0.01,
    levels: Sequence[float] = LEVELS,
    published: bool = False,
) -> Tensor:
    """Say of each mask at which IoU levels and thresholds any of its parts' boxes finds the object.

    As `max_box_acc`, with all parts in place of the largest. The score of a data set is the mean
    over levels of the best over thresholds of the mean over images::

        max_box_acc_v2(masks, boxes).float().mean(0).amax(1).mean()

    Args:
        masks: As in `max_box_acc`.
        boxes: As in `max_box_acc`.
        step: As in `max_box_acc`.
        levels: IoUs from which on an object counts as found, each in (0, 1].
        published: As in `max_box_acc`, and take the rims of holes for parts too, as the
            published code does.

    Returns:
        Boolean ``(B, L, T)`` on the masks' device.

    Raises:
        ValueError: As `max_box_acc` does, and if a level is not in (0, 1].
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Choe et al. 2020, MaxBoxAccV2; differs as said under ``published``.

    Example:
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> found = max_box_acc_v2(mask, [torch.tensor([[2, 0, 3, 2]])], step=0.5)  # IoU 1 / 2
        >>> found.tolist()
        [[[True, True], [True, True], [False, False]]]
    """
    check_levels(levels)

    def boxes_of(on: Array, least: float) -> Array:
        found = parts.part_boxes(on, least)
        return np.concatenate([found, parts.hole_boxes(on, least)]) if published else found

    ious = _ious(masks, boxes, step, published, boxes_of, level=min(levels))
    found = ious[:, None] >= torch.tensor(levels, dtype=ious.dtype)[:, None]  # (B, L, T)
    return found.to(masks.device)


def check_levels(levels: Sequence[float]) -> None:
    """Refuse IoU levels outside (0, 1].

    Raises:
        ValueError: If there is none or one lies outside.
    """
    if not len(levels) or not all(0 < level <= 1 for level in levels):
        raise ValueError(f"levels must be IoUs in (0, 1], such as {LEVELS}, but got {levels}.")


# The best IoU of each image at each threshold.

#: ``(on, least) -> boxes`` of a binary plane; parts of fewer than ``least`` pixels may be left out.
_Boxes = Callable[[Array, float], Array]


def _ious(
    masks: Tensor,
    boxes: Sequence[Tensor],
    step: float,
    published: bool,
    boxes_of: _Boxes,
    level: float = 0.0,
) -> Tensor:
    """Return ``(B, T)`` on the CPU; IoUs below ``level`` may come out smaller."""
    check_masks(masks)
    check_boxes(len(masks), boxes)
    check_scale(max(masks.shape[-2:]), boxes)
    check_unit_range(masks)
    steps = thresholds(step).numpy()
    rows = [
        _ious_of_image(plane, truth.detach().cpu().double(), steps, published, boxes_of, level)
        for plane, truth in zip(_quantized(masks), boxes, strict=True)
    ]
    return torch.stack(rows)


def _quantized(masks: Tensor) -> Array:
    planes = masks.detach().reshape(-1, *masks.shape[-2:])
    finite = is_finite(planes)[:, None, None]
    # In the map's own precision, as published: k / 255 in float32 is then k again.
    planes = planes.to(torch.promote_types(planes.dtype, torch.float32)).clamp(0, 1)
    levels: Array = (planes.where(finite, 0) * 255).to(torch.uint8).cpu().numpy()
    return levels


def _ious_of_image(
    plane: Array, truth: Tensor, steps: Array, published: bool, boxes_of: _Boxes, level: float
) -> Tensor:
    cuts = (steps * plane.max()).astype(int)
    # Cuts between which no pixel lies make the same plane, which is looked at once.
    above = plane.size - np.bincount(plane.ravel(), minlength=256).cumsum()
    _, first, again = np.unique(above[cuts], return_index=True, return_inverse=True)
    least = _least_pixels(truth, level)
    found = [boxes_of(plane > cut, least) for cut in cuts[first]]
    best = (_best_published_iou if published else _best_iou)(found, truth, plane.shape)
    return best[torch.from_numpy(again)]


def _least_pixels(truth: Tensor, level: float) -> float:
    # A part of n pixels spans n columns and rows at most, and three more as a hole's rim with the
    # published ends; an IoU of the level needs that share of the smallest true area.
    smallest = (truth[:, 2:] - truth[:, :2]).floor().prod(1).min()
    return float((level * smallest) ** 0.5) - 3


def _best_iou(found: list[Array], truth: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the best IoU ``(n,)`` of each of n lists of boxes; 0 for an empty list."""
    lists = torch.arange(len(found)).repeat_interleave(torch.tensor([len(f) for f in found]))
    ious = box_iou(torch.from_numpy(np.concatenate(found)).double(), truth).amax(1)
    return torch.zeros(len(found), dtype=ious.dtype).scatter_reduce(0, lists, ious, "amax")


def _best_published_iou(found: list[Array], truth: Tensor, shape: tuple[int, ...]) -> Tensor:
    last, grow = np.array([shape[1], shape[0], shape[1], shape[0]]) - 1, np.array([0, 0, 1, 1])
    found = [f if len(f) else np.zeros((1, 4)) for f in found]
    # The end of a box is its last pixel, on both sides.
    ends = [np.minimum(f, last) + grow for f in found]
    return _best_iou(ends, truth.trunc() + torch.from_numpy(grow), shape)


# ---- Localization at the data set's best threshold, counted over batches.


class MaxBoxAcc(ImageMetric):
    """Best share of objects found by the largest part over thresholds; see `max_box_acc`.

    The state is one count for each threshold.

    Args:
        step: As in `max_box_acc`.
        published: As in `max_box_acc`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Choe et al. 2020, MaxBoxAcc.

    Example:
        >>> metric = MaxBoxAcc()
        >>> mask = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 1.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[1, 1, 3, 2]])])
        >>> metric.compute(), metric.best_threshold()
        (tensor(1.), 0.1)
    """

    higher_is_better = True
    found: Tensor
    seen: Tensor

    def __init__(self, *, step: float = 0.01, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step, self.published = step, published
        counts = torch.zeros(len(thresholds(step)), dtype=torch.long)
        self.add_state("found", counts, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc`."""
        found = max_box_acc(masks, boxes, step=self.step, published=self.published)
        self.found += found.sum(0).to(self.found.device)
        self.seen += len(found)

    def accuracies(self) -> Tensor:
        """Return the share of found objects ``(T,)`` by threshold.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.found / self.seen

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]."""
        return self.accuracies().max()

    def best_threshold(self) -> float:
        """Return the threshold at which the share is greatest, the least one."""
        return float(thresholds(self.step)[self.accuracies().argmax().cpu()])

    def __repr__(self) -> str:
        return f"MaxBoxAcc(step={self.step}, published={self.published})"


class MaxBoxAccV2(ImageMetric):
    """Mean over IoU levels of the best share of found objects over thresholds.

    See `max_box_acc_v2`. The state is one count for each level and threshold.

    Args:
        step: As in `max_box_acc`.
        levels: As in `max_box_acc_v2`.
        published: As in `max_box_acc_v2`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Choe et al. 2020, MaxBoxAccV2.

    Example:
        >>> metric = MaxBoxAccV2()
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[2, 0, 3, 2]])])  # IoU 1 / 2: two of three levels
        >>> metric.compute()
        tensor(0.6667)
    """

    higher_is_better = True
    found: Tensor
    seen: Tensor

    def __init__(
        self,
        *,
        step: float = 0.01,
        levels: Sequence[float] = LEVELS,
        published: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_levels(levels)
        self.step, self.levels, self.published = step, levels, published
        counts = torch.zeros(len(levels), len(thresholds(step)), dtype=torch.long)
        self.add_state("found", counts, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc_v2`."""
        found = max_box_acc_v2(
            masks, boxes, step=self.step, levels=self.levels, published=self.published
        )
        self.found += found.sum(0).to(self.found.device)
        self.seen += len(found)

    def accuracies(self) -> Tensor:
        """Return the share of found objects ``(L, T)`` by level and threshold.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.found / self.seen

    def compute(self) -> Tensor:
        """Return the score, a scalar in [0, 1]."""
        return self.accuracies().amax(1).mean()

    def best_thresholds(self) -> Tensor:
        """Return the threshold ``(L,)`` at which each level's share is greatest, the least one."""
        return thresholds(self.step)[self.accuracies().argmax(1).cpu()]

    def __repr__(self) -> str:
        options = f"step={self.step}, levels={self.levels}, published={self.published}"
        return f"MaxBoxAccV2({options})"


# ---- Does a higher value mean object? Average precision over pixels (PxAP).


def pixel_histograms(
    masks: Tensor, truth: Region, *, step: float = 0.001, ignore: Tensor | None = None
) -> Tensor:
    """Count each image's pixels by value, off and on the object.

    The bins are [0, step), [step, 2 step), ... and one for 1. Sums over images are all that
    `average_precision` needs.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device. One with NaN or
            infinity counts as zeros.
        truth: Pixel masks shaped as ``masks``, or boxes, one tensor ``(n, 4)`` an image.
        step: Width of the bins, in (0, 1]. Choe et al. use 0.001, Phang et al. 0.01.
        ignore: Boolean, shaped as ``masks``: pixels to leave out.

    Returns:
        Int64 ``(B, 2, bins)`` on the masks' device; row 0 is off the object, row 1 on it.

    Raises:
        ValueError: If shapes do not fit, a mask leaves [0, 1], an image has no object, or a box
            is empty.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Choe et al. 2020, PxAP.

    Example:
        >>> masks, truth = torch.tensor([[[0.0, 0.6, 1.0]]]), torch.tensor([[[0, 0, 1]]])
        >>> pixel_histograms(masks, truth, step=0.5)
        tensor([[[1, 1, 0],
                 [0, 0, 1]]])
    """
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
    """Return the average precision of histograms: the sum of precision times gain in recall.

    From the highest bin down, all pixels in the bins so far are taken to be on the object.

    Args:
        histograms: ``(..., 2, bins)``, as `pixel_histograms` gives them.

    Returns:
        Float32 ``(...)`` in [0, 1]; NaN where no pixel is on the object.

    Source:
        Choe et al. 2020, PxAP (there in percent).

    Example:
        >>> average_precision(torch.tensor([[1, 0, 1], [0, 1, 1]]))  # 1/2 * 1/2 + 2/3 * 1/2
        tensor(0.5833)
    """
    counts = histograms.flip(-1).cumsum(-1).cpu().double()
    off, on = counts.unbind(-2)
    precision = on / (on + off).clamp(min=1)
    gains = on.diff(dim=-1, prepend=torch.zeros_like(on[..., :1]))
    return ((precision * gains).sum(-1) / on[..., -1]).float().to(histograms.device)


def pxap(
    masks: Tensor, truth: Region, *, step: float = 0.001, ignore: Tensor | None = None
) -> Tensor:
    """Return the average precision of each mask alone. `PxAP` pools the pixels of a data set.

    Args:
        masks: As in `pixel_histograms`.
        truth: As in `pixel_histograms`.
        step: As in `pixel_histograms`.
        ignore: As in `pixel_histograms`.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device. A constant mask, and one with NaN or
        infinity, scores the object's share of the pixels; NaN where all of it is ignored.

    Raises:
        ValueError: As `pixel_histograms` does.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Choe et al. 2020, PxAP, image by image.

    Example:
        >>> pxap(torch.tensor([[[0.0, 0.6, 1.0]]]), torch.tensor([[[0, 0, 1]]]))
        tensor([1.])
    """
    return average_precision(pixel_histograms(masks, truth, step=step, ignore=ignore))


class PxAP(ImageMetric):
    """Average precision over the pooled pixels of a data set.

    See `pixel_histograms` and `average_precision`. The state is the two pooled histograms.

    Args:
        step: As in `pixel_histograms`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Choe et al. 2020, PxAP; here a fraction, there in percent.

    Example:
        >>> metric = PxAP()
        >>> metric.update(torch.tensor([[[0.0, 0.6, 1.0]]]), torch.tensor([[[0, 1, 0]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True
    pixels: Tensor

    def __init__(self, *, step: float = 0.001, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        counts = torch.zeros(2, len(thresholds(step)) + 1, dtype=torch.long)
        self.add_state("pixels", counts, dist_reduce_fx="sum")

    def update(self, masks: Tensor, truth: Region, ignore: Tensor | None = None) -> None:
        """Count a batch; the arguments are those of `pixel_histograms`."""
        counts = pixel_histograms(masks, truth, step=self.step, ignore=ignore)
        self.pixels += counts.sum(0).to(self.pixels.device)

    def compute(self) -> Tensor:
        """Return the pooled average precision, a scalar in [0, 1].

        Raises:
            RuntimeError: If no pixel of an object was seen.
        """
        if self.pixels[1].sum() == 0:
            raise RuntimeError("no object was scored: call update(masks, truth) before compute().")
        return average_precision(self.pixels)

    def __repr__(self) -> str:
        return f"PxAP(step={self.step})"
