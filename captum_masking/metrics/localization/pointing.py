"""Does the mask point at the object? Its greatest value, and the share of its weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_masking.metrics.localization.checks import check_masks
from captum_masking.metrics.localization.planes import finite_planes, is_finite, planes_of
from captum_masking.metrics.localization.regions import Region, region_of
from captum_masking.metrics.mean import MeanOverImages


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
