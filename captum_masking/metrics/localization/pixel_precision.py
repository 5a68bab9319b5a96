"""Does a higher value mean object? Average precision over pixels (PxAP)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.box_accuracy import thresholds
from captum_masking.metrics.localization.checks import check_masks, check_unit_range
from captum_masking.metrics.localization.planes import finite_planes
from captum_masking.metrics.localization.regions import Region, region_of
from captum_masking.metrics.mean import ImageMetric


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
