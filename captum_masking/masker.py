"""Feature maps to mask logits: the paper's small decoder, and a deeper one beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from captum_masking.evidence import EVIDENCE
from captum_masking.layers import BATCH_NORMS, CONVOLUTIONS

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
        raw: Indices of feature maps that go into the last convolution as they are.
        classes: If not 0, the masker is told a class: an embedding of ``width`` numbers, appended
            to every feature map.
        sized: Whether the masker is told a size: the area asked for, appended likewise.
        evidence: Whether the masker is told where the classifier sees the class: the maps of
            :func:`~captum_masking.evidence.evidence`, appended likewise, and to the last
            convolution as well. They need no table, so there may be any number of classes, and
            classes that were never asked for in training.
        outputs: Masks made at once.

    Attributes:
        asks: What ``forward`` wants to be told: of ``"target"``, ``"area"`` and ``"evidence"``.

    Raises:
        ValueError: If there is no feature map, or an index in ``raw`` does not exist.

    Source:
        Phang et al. 2020, final masker (198,017 parameters on the two deepest stages of
        ResNet-50) and its options. The last convolution starts small, so that masks start near
        0.5; the published initialisation starts saturated.

    Example:
        >>> masker = Masker([1024, 2048])
        >>> sum(parameter.numel() for parameter in masker.parameters())
        198017
        >>> masker([torch.rand(1, 1024, 14, 14), torch.rand(1, 2048, 7, 7)], grid=(14, 14)).shape
        torch.Size([1, 1, 14, 14])
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 64,
        dims: int = 2,
        raw: Sequence[int] = (),
        classes: int = 0,
        sized: bool = False,
        evidence: bool = False,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        _check_channels(channels, raw)
        self.settings = {
            "channels": list(channels),
            "width": width,
            "dims": dims,
            "raw": list(raw),
            "classes": classes,
            "sized": sized,
            "evidence": evidence,
            "outputs": outputs,
        }
        self.asks = ("target",) * (classes > 0 or evidence)
        self.asks += ("area",) * sized + ("evidence",) * evidence
        # Channels that carry the question.
        told = width * (classes > 0) + sized + EVIDENCE * evidence
        self.embedding = nn.Embedding(classes, width) if classes else None
        self.scale = BATCH_NORMS[dims](EVIDENCE) if evidence else None  # logits have any scale
        self.reduce = nn.ModuleList(
            nn.Identity() if index in raw else reduction(n + told, width, dims)
            for index, n in enumerate(channels)
        )
        widths = [n + told if index in raw else width for index, n in enumerate(channels)]
        self.final = final_convolution(sum(widths) + EVIDENCE * evidence, dims, outputs)
        if evidence:
            _start_with(self.final)

    def forward(
        self,
        features: Sequence[Tensor],
        grid: Sequence[int],
        *,
        target: Tensor | None = None,
        area: Tensor | None = None,
        evidence: Tensor | None = None,
    ) -> Tensor:
        """Map features to mask logits.

        Args:
            features: One map ``(B, channels, *spatial)`` for each entry of ``channels``.
            grid: Spatial size of the logits.
            target: Classes asked for, ``(B,)``, where ``classes`` was given.
            area: Fraction of each image asked for, ``(B,)``, where ``sized`` was given.
            evidence: Maps ``(B, 3, *spatial)`` for the class asked for, where ``evidence`` was.

        Returns:
            Mask logits ``(B, 1, *grid)``, or ``(B, outputs, *grid)``.
        """
        told, direct = [], []
        if self.embedding is not None:
            told.append(self.embedding(target))  # (B, width)
        if self.settings["sized"]:
            told.append(area.to(features[0])[:, None])  # type: ignore[union-attr]  # (B, 1)
        if self.scale is not None:
            direct.append(self.scale(evidence.to(features[0])))  # type: ignore[union-attr]
        reduced = [
            reduce(_append(maps, [*told, *direct]))
            for reduce, maps in zip(self.reduce, features, strict=True)
        ]
        return self.final(torch.cat([linear(maps, grid) for maps in [*reduced, *direct]], dim=1))


class UNetMasker(nn.Module):
    """A deeper decoder: from the coarsest map to the finest, joining the next one at each level.

    At each level the map so far is resampled to the size of the next finer feature map, joined
    with that map's reduction, and sent through two 3x3 convolutions.

    Args:
        channels: Channels of each feature map, finest first, as
            :func:`~captum_masking.encoder.find_layers` gives them.
        width: Channels throughout.
        dims: Spatial dimensions.

    Raises:
        ValueError: If there is no feature map.

    Source:
        Own, after U-Net (Ronneberger et al. 2015), to compare the published masker with a deeper
        one; Dabkowski & Gal 2017 use a decoder of this kind.

    Example:
        >>> masker = UNetMasker([1024, 2048])
        >>> masker([torch.rand(1, 1024, 14, 14), torch.rand(1, 2048, 7, 7)], grid=(28, 28)).shape
        torch.Size([1, 1, 28, 28])
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64, dims: int = 2) -> None:
        super().__init__()
        _check_channels(channels, ())
        self.settings = {"channels": list(channels), "width": width, "dims": dims}
        self.reduce = nn.ModuleList(reduction(n, width, dims) for n in channels)
        self.join = nn.ModuleList(
            nn.Sequential(_block(2 * width, width, dims), _block(width, width, dims))
            for _ in channels[1:]
        )
        self.final = final_convolution(width, dims)

    def forward(self, features: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
        """Map features to mask logits; as :meth:`Masker.forward`."""
        *finer, maps = (reduce(m) for reduce, m in zip(self.reduce, features, strict=True))
        for join, skip in zip(self.join, reversed(finer), strict=True):
            maps = join(torch.cat([linear(maps, skip.shape[2:]), skip], dim=1))
        return self.final(linear(maps, grid))


def reduction(channels: int, width: int, dims: int) -> nn.Module:
    """Make the 1x1 convolution, batch norm and ReLU that every feature map goes through.

    Source:
        Phang et al. 2020.

    Example:
        >>> reduction(5, 4, dims=2)(torch.rand(2, 5, 3, 3)).shape
        torch.Size([2, 4, 3, 3])
    """
    convolution = CONVOLUTIONS[dims](channels, width, 1, bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](width), nn.ReLU())


def final_convolution(channels: int, dims: int, outputs: int = 1) -> nn.Module:
    """Make the 3x3 convolution to mask logits; these start within about +-0.3.

    Source:
        Phang et al. 2020; the small start is our own.

    Example:
        >>> final_convolution(5, dims=1)(torch.rand(2, 5, 7)).shape
        torch.Size([2, 1, 7])
    """
    final = CONVOLUTIONS[dims](channels, outputs, 3, padding=1)
    weight, bias = final.parameters()
    nn.init.normal_(weight, std=0.01)
    nn.init.zeros_(bias)
    return final


def _block(channels: int, width: int, dims: int) -> nn.Module:
    convolution = CONVOLUTIONS[dims](channels, width, 3, padding=1, bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](width), nn.ReLU())


def _start_with(final: nn.Module) -> None:
    """Let a new mask follow the evidence, its last input channels, at the same cell from the start.

    Masks that hardly depend on the class at first are shrunk for absent and present ones alike.
    """
    weight = final.get_parameter("weight").detach().flatten(2)  # (outputs, channels, 3 ** dims)
    weight[:, -EVIDENCE:-1, weight.shape[2] // 2] = 0.5


def _append(maps: Tensor, told: Sequence[Tensor]) -> Tensor:
    """Append what the masker is told to a map: ``(B, n)`` to every cell, ``(B, n, *grid)`` to its.

    Maps of another grid are resampled to that of the map.
    """
    cells = maps.shape[2:]
    return torch.cat([maps, *(_over(t, cells) for t in told)], dim=1) if told else maps


def _over(told: Tensor, cells: Sequence[int]) -> Tensor:
    if told.dim() > 2:
        return linear(told, cells)
    return told.reshape(*told.shape, *[1] * len(cells)).expand(*told.shape, *cells)


def _check_channels(channels: Sequence[int], raw: Sequence[int]) -> None:
    if not channels:
        raise ValueError(
            "a masker must read at least one feature map, but got channels=[]; name the modules "
            "to read with MaskingModel(classifier, layers=[...])."
        )
    if not set(raw) <= set(range(len(channels))):
        raise ValueError(
            f"raw must list indices of the {len(channels)} feature maps, but got {list(raw)}; "
            "count from 0."
        )
