"""Statistics of masks: area, entropy, roughness, sparseness.

Every function returns NaN for a mask with NaN or infinity; `MaskStatistics` omits and counts these
masks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_masking.metrics.maps import (
    above,
    check_unit_range,
    facts,
    is_finite,
    or_nan,
    planes_of,
)


@facts(higher_is_better=None)
def mask_area(masks: Tensor) -> Tensor:
    """Return the mean of each mask, its area as a fraction of the frame.

    Example:
        >>> mask_area(torch.tensor([[[1.0, 0.5, 0.0, 0.0]]]))
        tensor([0.3750])
    """
    planes = planes_of(masks)
    return or_nan(planes.mean((1, 2)), is_finite(planes))


@facts(higher_is_better=None)
def binarized_area(masks: Tensor) -> Tensor:
    """Return the share of each mask's pixels above its own mean; 0 for a constant mask.

    Example:
        >>> binarized_area(torch.tensor([[[1.0, 0.5, 0.0, 0.0]]]))
        tensor([0.5000])
    """
    planes = planes_of(masks)
    return or_nan(above(planes).to(planes).mean((1, 2)), is_finite(planes))


@facts(higher_is_better=None)
def mask_entropy(masks: Tensor, *, published: bool = False) -> Tensor:
    """Return each mask's entropy in bits, the mean of -m log2 m - (1 - m) log2(1 - m).

    Args:
        published: Only the first term, -m log2 m, which is largest at m = 1 / e.

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
    return or_nan(nats.mean((1, 2)) / math.log(2), is_finite(planes))


@facts(higher_is_better=None, highest=None)
def mask_total_variation(masks: Tensor) -> Tensor:
    """Return the mean squared difference of neighbors, across plus down; means over pairs.

    Example:
        >>> mask_total_variation(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
        tensor([1.])
    """
    planes = planes_of(masks)
    steps = [planes.diff(dim=axis) ** 2 for axis in (1, 2)]
    means = [s.sum((1, 2)) / max(1, s[0].numel()) for s in steps]
    return or_nan(means[0] + means[1], is_finite(planes))


@facts(higher_is_better=None)
def mask_sparseness(masks: Tensor) -> Tensor:
    """Return the Gini index of each mask's absolute values.

    It is 0 where all pixels are equal, zeros too, and 1 - 1 / N where one of N holds everything.

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
    return or_nan(gini.where(total > 0, 0).clamp(min=0), is_finite(planes))
