"""Where a map is, against boxes and masks that people drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from captum_masking.metrics.boxes import Region, box_area, exact_ious, masks_to_boxes, region_of
from captum_masking.metrics.maps import (
    check_boxes,
    check_masks,
    check_scale,
    check_unit_range,
    double,
    finite_planes,
    is_finite,
    planes_of,
)
from captum_masking.metrics.mean import ImageMetric, MeanOverImages
from captum_masking.metrics.thresholds import thresholds

# ---- Does the mask find the object? The published error, with and without the classifier's say.


class LocalizationError(ImageMetric):
    """Share of images whose mask misses the object; see `localization_error`.

    Args:
        published: As in `localization_error`.
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
    missed: Tensor
    seen: Tensor

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published
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
        errors = localization_error(masks, boxes, published=self.published)
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

    def __repr__(self) -> str:
        return f"LocalizationError(published={self.published})"


def localization_error(
    masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False
) -> Tensor:
    """Say of each mask whether it misses the object.

    A mask finds its object if the tight box around its largest part overlaps one of the image's
    boxes with an intersection over union above 0.5. A mask without a box (constant, empty, or
    with NaN; see `masks_to_boxes`) misses.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open. A
            box may reach beyond the frame and then counts with its whole area; see `clip_boxes`.
        published: Leave out the last row and column of the mask's box, and cut the true boxes to
            whole pixels, as the published code does.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 where the object is missed, 0 where it is found.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric LE. Differs, unless ``published``, in the box, which here
        includes its last row and column, and always in masks without a box, which the published
        code left undefined.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1  # its box is (0, 0, 2, 2)
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 3]])])  # IoU 4 / 6
        tensor([0.])
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 4]])])  # IoU 4 / 8 is not above 0.5
        tensor([1.])
    """
    found = masks_to_boxes(masks, published=published)
    return _missed(exact_ious(found, boxes, published=published)).to(masks.device)


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
        >>> from captum_masking.metrics.boxes import whole_frame
        >>> boxes = [torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
        >>> localization_error_of_boxes(whole_frame(4, 4), boxes)
        tensor([0., 1.])
    """
    return _missed(exact_ious(predicted, boxes)).to(predicted.device)


def _missed(ious: Tensor) -> Tensor:
    return (ious <= 0.5).float()


def om(
    masks: Tensor, boxes: Sequence[Tensor], correct: Tensor, *, published: bool = False
) -> Tensor:
    """Say of each image whether its mask misses the object or its class is not recognized.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, as in `localization_error`.
        correct: Boolean ``(B,)``: whether the masker's own classifier puts the true class first.
            All true for a baseline without a classifier; OM is then LE.
        published: As in `localization_error`.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 for an error, 0 where both are right.

    Raises:
        ValueError: As `localization_error` does, and if ``correct`` is not boolean ``(B,)``.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric OM.

    Example:
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> om(mask, [torch.tensor([[0, 0, 2, 2]])] * 2, correct=torch.tensor([True, False]))
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


class OM(MeanOverImages):
    """Share of images missed by the mask or by the classifier; see `om`.

    Args:
        published: As in `localization_error`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric OM.

    Example:
        >>> metric = OM()
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> metric.update(mask, [torch.tensor([[0, 0, 2, 2]])] * 2, torch.tensor([True, False]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> None:
        """Score a batch; the arguments are those of `om`."""
        self.add(om(masks, boxes, correct, published=self.published))

    def __repr__(self) -> str:
        return f"OM(published={self.published})"


# ---- Does the mask's weight lie on the object, and all over it? F1 of the continuous mask.


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


# ---- How well the mask fits a pixel mask: intersection over union, cut at its mean or at the best.


def mask_iou(masks: Tensor, truth: Region, *, threshold: float | None = None) -> Tensor:
    """Return the intersection over union of each mask, cut at a threshold, with the object.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and device.
        truth: Pixel masks shaped as ``masks``, or boxes, one tensor ``(n, 4)`` an image.
        threshold: Where the masks are cut, strictly above; each at its own mean if None.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device; 0 for a mask that nowhere exceeds the
        threshold, a constant one cut at its mean, and one with NaN or infinity.

    Raises:
        ValueError: If shapes do not fit, an image has no object, or a box is empty.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        The usual definition, with the mask cut as for metric LE of Phang et al. 2020.

    Example:
        >>> mask = torch.tensor([[[0.9, 0.6, 0.1, 0.0]]])  # mean 0.4
        >>> mask_iou(mask, torch.tensor([[[1, 0, 0, 0]]]))
        tensor([0.5000])
        >>> mask_iou(mask, torch.tensor([[[1, 0, 0, 0]]]), threshold=0.75)
        tensor([1.])
    """
    check_masks(masks)
    region, planes = region_of(masks, truth), planes_of(masks)
    cut = _own_cut(planes) if threshold is None else threshold
    on = (planes > cut) & is_finite(planes)[:, None, None]
    return (on & region).sum((1, 2)) / (on | region).sum((1, 2)).float()


def _own_cut(planes: Tensor) -> Tensor:
    # Rounding may put the mean of a constant below the constant, which would then be all on.
    return torch.maximum(planes.mean((1, 2), True), planes.amin((1, 2), True))


def mask_iou_by_threshold(masks: Tensor, truth: Region, *, step: float = 0.01) -> Tensor:
    """Return `mask_iou` of each mask at each of the thresholds 0, step, 2 step, ... below 1.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device.
        truth: As in `mask_iou`.
        step: From one threshold to the next, in (0, 1].

    Returns:
        Float32 ``(B, T)`` on the masks' device.

    Raises:
        ValueError: As `mask_iou` does, and if a mask leaves [0, 1].
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Own; the thresholds are those of Choe et al. 2020, not relative to the mask's maximum.

    Example:
        >>> mask = torch.tensor([[[0.9, 0.6, 0.1, 0.0]]])
        >>> mask_iou_by_threshold(mask, torch.tensor([[[1, 0, 0, 0]]]), step=0.5)
        tensor([[0.3333, 0.5000]])
    """
    check_masks(masks)
    check_unit_range(masks)
    region, planes = region_of(masks, truth), finite_planes(masks)
    cuts = thresholds(step).to(planes)
    # The number of thresholds strictly below a value: it is on at just these.
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


class MaskIoU(MeanOverImages):
    """Mean over images of the IoU with pixel masks, each mask cut at its mean; see `mask_iou`.

    Args:
        threshold: As in `mask_iou`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        As `mask_iou`.

    Example:
        >>> metric = MaskIoU()
        >>> metric.update(torch.tensor([[[0.9, 0.6, 0.1, 0.0]]]), torch.tensor([[[1, 0, 0, 0]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, *, threshold: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threshold = threshold

    def update(self, masks: Tensor, truth: Region) -> None:
        """Score a batch; the arguments are those of `mask_iou`."""
        self.add(mask_iou(masks, truth, threshold=self.threshold))

    def __repr__(self) -> str:
        return f"MaskIoU(threshold={self.threshold})"


class MaxMaskIoU(ImageMetric):
    """Mean over images of the IoU with pixel masks, at the data set's best threshold.

    See `mask_iou_by_threshold`. The state is one sum for each threshold.

    Args:
        step: As in `mask_iou_by_threshold`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own, after the choice of the threshold by Choe et al. 2020.

    Example:
        >>> metric = MaxMaskIoU()
        >>> metric.update(torch.tensor([[[0.9, 0.5, 0.1, 0.0]]]), torch.tensor([[[1, 0, 0, 0]]]))
        >>> metric.compute(), metric.best_threshold()
        (tensor(1.), 0.5)
    """

    higher_is_better = True
    total: Tensor
    seen: Tensor

    def __init__(self, *, step: float = 0.01, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step
        self.add_state("total", torch.zeros_like(thresholds(step)), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, truth: Region) -> None:
        """Score a batch; the arguments are those of `mask_iou_by_threshold`."""
        ious = mask_iou_by_threshold(masks, truth, step=self.step)
        self.total += ious.to(self.total).sum(0)
        self.seen += len(ious)

    def means(self) -> Tensor:
        """Return the mean IoU ``(T,)`` by threshold.

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, truth) before compute().")
        return (self.total / self.seen).float()

    def compute(self) -> Tensor:
        """Return the mean IoU at the best threshold, a scalar in [0, 1]."""
        return self.means().max()

    def best_threshold(self) -> float:
        """Return the threshold at which the mean IoU is greatest, the least one."""
        return float(thresholds(self.step)[self.means().argmax().cpu()])

    def __repr__(self) -> str:
        return f"MaxMaskIoU(step={self.step})"


# ---- Does the mask point at the object? Its greatest value, and the share of its weight.


def pointing_game(masks: Tensor, truth: Region, *, tolerance_px: float = 0.0) -> Tensor:
    """Say of each mask whether its greatest value lies on the object.

    Where several pixels share the greatest value, as in masks that are enlarged from a coarse
    grid, it is the share of them that lie on the object: the chance of a hit if one of them is
    drawn. A constant mask thus scores as a guess would.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and device.
        truth: Boxes, one tensor ``(n, 4)`` an image, or pixel masks shaped as ``masks``.
        tolerance_px: Also a hit is a pixel whose center is at most as far from that of a pixel
            of the object. Zhang et al. use 15 for images of about 500 px.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 for a hit, 0 for a miss, between for ties; 0 for
        a mask with NaN or infinity.

    Raises:
        ValueError: If shapes do not fit, an image has no object, a box is empty, or
            ``tolerance_px`` is negative.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Zhang et al. 2018 (excitation backprop), the pointing game. Ties are our own.

    Example:
        >>> mask, box = torch.tensor([[[0.0, 0.5, 1.0]]]), torch.tensor([[0, 0, 2, 1]])
        >>> pointing_game(mask, [box]), pointing_game(mask, [box], tolerance_px=1)
        (tensor([0.]), tensor([1.]))
    """
    if not tolerance_px >= 0:
        raise ValueError(f"tolerance_px must be 0 or more pixels, but got {tolerance_px}.")
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


def energy_pointing(masks: Tensor, truth: Region) -> Tensor:
    """Return the share of each mask's positive weight that lies on the object.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and device; negative
            values count as 0.
        truth: Boxes, one tensor ``(n, 4)`` an image, or pixel masks shaped as ``masks``.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device; 0 for a mask without positive values and
        one with NaN or infinity. A constant mask scores the object's share of the frame.

    Raises:
        ValueError: If shapes do not fit, an image has no object, or a box is empty.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Wang et al. 2020 (Score-CAM), the energy-based pointing game.

    Example:
        >>> mask = torch.tensor([[[3.0, 1.0, -9.0]]])
        >>> energy_pointing(mask, [torch.tensor([[0, 0, 1, 1]])])
        tensor([0.7500])
    """
    check_masks(masks)
    region, weight = region_of(masks, truth), finite_planes(masks).clamp(min=0)
    inside, total = (weight * region).sum((1, 2)), weight.sum((1, 2))
    return torch.where(total > 0, inside / total, torch.zeros_like(total)).float()


class PointingGame(MeanOverImages):
    """Share of images at whose object the mask points; see `pointing_game`.

    Args:
        tolerance_px: As in `pointing_game`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Zhang et al. 2018, the pointing game. There the share is taken by class, and the mean over
        classes; here over images.

    Example:
        >>> metric = PointingGame(tolerance_px=1.0)
        >>> metric.update(torch.tensor([[[0.0, 0.5, 1.0]]]), [torch.tensor([[0, 0, 2, 1]])])
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, *, tolerance_px: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tolerance_px = tolerance_px

    def update(self, masks: Tensor, truth: Region) -> None:
        """Score a batch; the arguments are those of `pointing_game`."""
        self.add(pointing_game(masks, truth, tolerance_px=self.tolerance_px))

    def __repr__(self) -> str:
        return f"PointingGame(tolerance_px={self.tolerance_px})"


class EnergyPointing(MeanOverImages):
    """Mean over images of the share of weight on the object; see `energy_pointing`.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Wang et al. 2020, the energy-based pointing game.

    Example:
        >>> metric = EnergyPointing()
        >>> metric.update(torch.tensor([[[3.0, 1.0]]]), [torch.tensor([[0, 0, 1, 1]])])
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    def update(self, masks: Tensor, truth: Region) -> None:
        """Score a batch; the arguments are those of `energy_pointing`."""
        self.add(energy_pointing(masks, truth))


# ---- The grid pointing game: of several images in one frame, does the map find the target's?


def grid_pointing(masks: Tensor, cell: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Return the share of each map's positive weight that lies in the target's cell.

    Args:
        masks: Maps of mosaics, ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and
            device; negative values count as 0. H is a multiple of ``rows``, W of ``columns``.
        cell: Integers ``(B,)``: the cell, in reading order from 0, whose class was explained.
        rows: Images on top of each other.
        columns: Images side by side.

    Returns:
        Float32 ``(B,)`` in [0, 1] on the masks' device. A map that does not tell the cells apart,
        a constant one too, scores 1 / (rows * columns); one without positive values, or with NaN
        or infinity, 0.

    Raises:
        ValueError: If shapes do not fit or there is no such cell.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

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
    return torch.where(inside > 0, inside / weight.sum(1), torch.zeros_like(inside)).float()


def _check_cells(masks: Tensor, cell: Tensor, rows: int, columns: int) -> None:
    if masks.shape[-2] % rows or masks.shape[-1] % columns:
        raise ValueError(
            f"maps of mosaics of {rows} x {columns} images must divide into as many cells, but "
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


class GridPointing(MeanOverImages):
    """Mean over maps of the share of weight in the target's cell; see `grid_pointing`.

    Args:
        rows: As in `grid_pointing`.
        columns: As in `grid_pointing`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

    Example:
        >>> metric = GridPointing()
        >>> metric.update(torch.ones(1, 1, 4, 4), torch.tensor([3]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = True

    def __init__(self, *, rows: int = 2, columns: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rows, self.columns = rows, columns

    def update(self, masks: Tensor, cell: Tensor) -> None:
        """Score a batch; the arguments are those of `grid_pointing`."""
        self.add(grid_pointing(masks, cell, self.rows, self.columns))

    def __repr__(self) -> str:
        return f"GridPointing(rows={self.rows}, columns={self.columns})"
