"""What a mask looks like, without asking whether it is right: area, entropy, roughness, sparseness.

Every function gives NaN for a mask with NaN or infinity, which has no such property;
`MaskStatistics` leaves these masks out and says how many they were.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.maps import check_unit_range, is_finite, planes_of
from captum_masking.metrics.mean import ImageMetric


def mask_area(masks: Tensor) -> Tensor:
    """Return the mean of each mask, its area as a fraction of the frame.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.

    Returns:
        Float32 ``(B,)`` on the masks' device; NaN for a mask that is not finite.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, "avg_mask".

    Example:
        >>> mask_area(torch.tensor([[[1.0, 0.5, 0.0, 0.0]]]))
        tensor([0.3750])
    """
    planes = planes_of(masks)
    return _or_nan(planes.mean((1, 2)), planes)


def binarized_area(masks: Tensor) -> Tensor:
    """Return the share of each mask's pixels above its own mean.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.

    Returns:
        Float32 ``(B,)`` on the masks' device; 0 for a constant mask (whatever rounding does to
        its mean), NaN for one that is not finite.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, "binarized". There a constant mask gives 0 or 1 by rounding.

    Example:
        >>> binarized_area(torch.tensor([[[1.0, 0.5, 0.0, 0.0]]]))
        tensor([0.5000])
    """
    planes = planes_of(masks)
    cuts = torch.maximum(planes.mean((1, 2), True), planes.amin((1, 2), True))
    return _or_nan((planes > cuts).to(planes).mean((1, 2)), planes)


def area_spread(masks: Tensor) -> Tensor:
    """Return the standard deviation of the masks' areas over the batch.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.

    Returns:
        Float32 scalar, with B (not B - 1) in the denominator: 0 for one mask. Masks that are not
        finite are left out; NaN if none is left.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, "std": this, averaged over batches, which depends on their size.
        `MaskStatistics` gives the spread over all images.

    Example:
        >>> area_spread(torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]))
        tensor(0.5000)
    """
    areas = planes_of(masks).mean((1, 2))
    areas = areas[areas.isfinite()]
    return ((areas - areas.mean()) ** 2).mean().sqrt().float()


def mask_entropy(masks: Tensor, *, published: bool = False) -> Tensor:
    """Return each mask's entropy, the mean over pixels of H(m) = -m log2 m - (1 - m) log2(1 - m).

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1], any dtype and device.
        published: Only the first term, -m log2 m, as in the published code: it is not the entropy
            of a yes or no, and greatest at m = 1 / e.

    Returns:
        Float32 ``(B,)`` in bits per pixel on the masks' device, in [0, 1]; 0 for a binary mask,
        NaN for one that is not finite.

    Raises:
        ValueError: If the masks do not have one of these shapes or leave [0, 1].

    Source:
        Phang et al. 2020, mask entropy; corrected unless ``published``.

    Example:
        >>> mask = torch.tensor([[[1.0, 0.5, 0.0, 0.0]]])
        >>> mask_entropy(mask), mask_entropy(mask, published=True)
        (tensor([0.2500]), tensor([0.1250]))
    """
    check_unit_range(masks)
    planes = planes_of(masks)
    shares = planes.clamp(0, 1)
    nats = torch.special.entr(shares)
    nats = nats if published else nats + torch.special.entr(1 - shares)
    return _or_nan(nats.mean((1, 2)) / math.log(2), planes)


def mask_total_variation(masks: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours, across plus down.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.

    Returns:
        Float32 ``(B,)`` on the masks' device; 0 for a constant mask and along an axis of one
        pixel, NaN for a mask that is not finite.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Phang et al. 2020, mask TV: a mean over pairs, unlike the regularizer's sum.

    Example:
        >>> mask_total_variation(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
        tensor([1.])
    """
    planes = planes_of(masks)
    steps = [planes.diff(dim=axis) ** 2 for axis in (1, 2)]
    means = [s.sum((1, 2)) / max(1, s[0].numel()) for s in steps]
    return _or_nan(means[0] + means[1], planes)


def mask_sparseness(masks: Tensor) -> Tensor:
    """Return the Gini index of each mask's absolute values: how few pixels hold its weight.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.

    Returns:
        Float32 ``(B,)`` on the masks' device: 0 where all pixels are equal, zeros too; 1 - 1 / N
        where one of N holds everything; NaN for a mask that is not finite.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Hurley & Rickard 2009, Gini index; for attributions Chalasani et al. 2020.

    Example:
        >>> mask_sparseness(torch.tensor([[[0.0, 0.0, 0.0, 1.0]], [[1.0, 1.0, 1.0, 1.0]]]))
        tensor([0.7500, 0.0000])
    """
    planes = planes_of(masks)
    # Sorted as they came: half as wide, half the time.
    values = planes.abs() if masks.dtype == torch.float64 else planes.abs().float()
    weights = values.flatten(1).sort(dim=1).values.to(planes)  # (B, N), least first
    count, total = weights.shape[1], weights.sum(1)
    # Of the sum of the k-th least times (N - k + 1/2) / N, k from 1.
    ranks = (count - torch.arange(count, device=weights.device) - 0.5).to(weights) / count
    gini = 1 - 2 * (weights * ranks).sum(1) / total
    return _or_nan(gini.where(total > 0, 0).clamp(min=0), planes)


def _or_nan(values: Tensor, planes: Tensor) -> Tensor:
    return values.where(is_finite(planes), float("nan")).float()


class MaskStatistics(ImageMetric):
    """Statistics of all masks of a data set, by name.

    ``area``, ``area_spread`` (the standard deviation over all images), ``binarized_area``,
    ``entropy``, ``published_entropy``, ``total_variation`` and ``sparseness`` are means over the
    finite masks; ``not_finite`` is the share of the others.

    Args:
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, the mask statistics; `mask_sparseness` for the last. The published
        spread is averaged over batches.

    Example:
        >>> metric = MaskStatistics()
        >>> metric.update(torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]))
        >>> metric.compute()["area"], metric.compute()["area_spread"]
        (tensor(0.5000), tensor(0.5000))
    """

    higher_is_better = None
    plot_upper_bound = None  # total variation reaches 2
    totals: Tensor
    squares: Tensor
    seen: Tensor
    not_finite: Tensor

    names = (
        "area",
        "binarized_area",
        "entropy",
        "published_entropy",
        "total_variation",
        "sparseness",
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        double, count = torch.float64, len(self.names)
        self.add_state("totals", torch.zeros(count, dtype=double), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=double), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("not_finite", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor) -> None:
        """Add a batch of masks ``(B, 1, H, W)`` or ``(B, H, W)`` in [0, 1].

        Raises:
            ValueError: If the masks have another shape or leave [0, 1].
        """
        rows = torch.stack(_statistics(masks)).to(self.totals)  # (S, B)
        rows = rows[:, rows.isfinite().all(0)]
        self.totals += rows.sum(1)
        self.squares += (rows[0] ** 2).sum()
        self.seen += rows.shape[1]
        self.not_finite += len(masks) - rows.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name.

        Raises:
            RuntimeError: If no finite mask was seen.
        """
        if self.seen == 0:
            raise RuntimeError("no finite mask was seen: call update(masks) before compute().")
        means = self.totals / self.seen
        spread = (self.squares / self.seen - means[0] ** 2).clamp(min=0).sqrt()
        values = dict(zip(self.names, means, strict=True)) | {"area_spread": spread}
        values["not_finite"] = self.not_finite / (self.seen + self.not_finite)
        return {name: value.float() for name, value in values.items()}

    def __repr__(self) -> str:
        return "MaskStatistics()"


def _statistics(masks: Tensor) -> list[Tensor]:
    return [
        mask_area(masks),
        binarized_area(masks),
        mask_entropy(masks),
        mask_entropy(masks, published=True),
        mask_total_variation(masks),
        mask_sparseness(masks),
    ]
