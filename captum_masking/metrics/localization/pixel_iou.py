"""How well the mask fits a pixel mask: intersection over union, cut at its mean or at the best."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.box_accuracy import thresholds
from captum_masking.metrics.localization.checks import check_masks, check_unit_range
from captum_masking.metrics.localization.planes import finite_planes, is_finite, planes_of
from captum_masking.metrics.localization.regions import Region, region_of
from captum_masking.metrics.mean import ImageMetric, MeanOverImages


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
