"""Masks as planes ``(B, H, W)`` that one can calculate with."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking.metrics.localization.checks import check_masks


def double(values: Tensor) -> Tensor:
    """Return the values in double precision, or in single where the device has no double."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def planes_of(masks: Tensor) -> Tensor:
    """Return masks ``(B, 1, H, W)`` or ``(B, H, W)`` as detached planes in double precision."""
    check_masks(masks)
    return double(masks.detach().reshape(-1, *masks.shape[-2:]))


def is_finite(masks: Tensor) -> Tensor:
    """Say of each mask whether all its values are finite, ``(B,)``."""
    flat = masks.reshape(len(masks), -1)
    return flat.amin(1).isfinite() & flat.amax(1).isfinite()  # either is NaN if any value is


def finite_planes(masks: Tensor) -> Tensor:
    """Return `planes_of` masks, those with NaN or infinity as zeros: no evidence."""
    planes = planes_of(masks)
    finite = is_finite(planes)
    return planes if finite.all() else planes.where(finite[:, None, None], 0)


def min_max(masks: Tensor) -> Tensor:
    """Scale each map to [0, 1]: its least value becomes 0, its greatest 1.

    Metrics that compare a map with a threshold, or read it as coverage, need this of attributions;
    masks are in [0, 1] as they are.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any scale, dtype and device.

    Returns:
        Shaped as ``masks``, at least float32. A constant map becomes zeros, since it singles
        nothing out; one with NaN or infinity becomes NaN all over, which every metric scores as
        no evidence.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Choe et al. 2020 require maps scaled so. Phang et al. 2020 turn a constant map into ones.

    Example:
        >>> min_max(torch.tensor([[[-1.0, 0.0, 3.0]], [[2.0, 2.0, 2.0]]]))
        tensor([[[0.0000, 0.2500, 1.0000]],
        <BLANKLINE>
                [[0.0000, 0.0000, 0.0000]]])
    """
    planes = planes_of(masks)
    low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    scaled = torch.where(high > low, (planes - low) / (high - low), torch.zeros_like(planes))
    scaled = scaled.where(is_finite(planes)[:, None, None], float("nan"))
    return scaled.reshape(masks.shape).to(torch.promote_types(masks.dtype, torch.float32))
