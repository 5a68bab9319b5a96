"""Feature maps to mask logits: the paper's small decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def linear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps linearly along every spatial axis (bilinearly, for images).

    Args:
        maps: ``(B, channels, *spatial)`` with one to three spatial dimensions.
        size: The new ``spatial``.

    Returns:
        ``(B, channels, *size)``; values stay within the range of ``maps``.

    Source:
        Phang et al. 2020 use it inside the masker; here the mask itself is upsampled so too.

    Example:
        >>> linear(torch.tensor([[[0.0, 1.0]]]), [4])
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return interpolate(maps, tuple(size), mode=_LINEAR[maps.dim() - 2], align_corners=False)


def nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps by repeating their nearest value.

    Args:
        maps: ``(B, channels, *spatial)`` with one to three spatial dimensions.
        size: The new ``spatial``.

    Returns:
        ``(B, channels, *size)``.

    Source:
        Phang et al. 2020, final upsampling of the published mask.

    Example:
        >>> nearest(torch.tensor([[[0.0, 1.0]]]), [4])
        tensor([[[0., 0., 1., 1.]]])
    """
    return interpolate(maps, tuple(size), mode="nearest")


class Masker(nn.Module):
    """Each feature map to ``width`` channels, all to one grid, then a 3x3 convolution to logits.

    Args:
        channels: Channels of each feature map, in the order they are given to ``forward``.
        width: Channels after each 1x1 convolution.
        dims: Spatial dimensions: 1 for signals, 2 for images, 3 for volumes.

    Source:
        Phang et al. 2020, final masker (198,017 parameters on the two deepest stages of
        ResNet-50). The last convolution starts small, so that masks start near 0.5; the
        published initialisation starts saturated.

    Example:
        >>> masker = Masker([1024, 2048])
        >>> sum(parameter.numel() for parameter in masker.parameters())
        198017
        >>> masker([torch.rand(1, 1024, 14, 14), torch.rand(1, 2048, 7, 7)], grid=(14, 14)).shape
        torch.Size([1, 1, 14, 14])
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64, dims: int = 2) -> None:
        super().__init__()
        self.settings = {"channels": list(channels), "width": width, "dims": dims}
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        batch_norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]
        self.reduce = nn.ModuleList(
            nn.Sequential(convolution(n, width, 1, bias=False), batch_norm(width), nn.ReLU())
            for n in channels
        )
        self.final = convolution(width * len(channels), 1, 3, padding=1)
        nn.init.normal_(self.final.weight, std=0.01)  # logits start within about +-0.3
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
        """Map features to mask logits.

        Args:
            features: One map ``(B, channels, *spatial)`` for each entry of ``channels``.
            grid: Spatial size of the logits.

        Returns:
            Mask logits ``(B, 1, *grid)``.
        """
        reduced = [reduce(maps) for reduce, maps in zip(self.reduce, features, strict=True)]
        return self.final(torch.cat([linear(maps, grid) for maps in reduced], dim=1))
