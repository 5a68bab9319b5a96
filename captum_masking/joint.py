"""Classifiers of several inputs: one mask for each, from one masker that reads all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from captum_masking.element_masker import ElementMasker
from captum_masking.masker import Masker
from captum_masking.own_encoder import encoder
from captum_masking.tokens import Layout


class OfInput:
    """The layout of a layer that reads one of several inputs.

    Args:
        index: Which input.
        layout: Of the layer's output, as for that input alone.

    Source:
        Own.

    Example:
        >>> import torch
        >>> from captum_masking.tokens import ChannelsLast
        >>> OfInput(1, ChannelsLast())(torch.zeros(2, 4, 6, 8), [(9,), (32, 48)]).shape
        torch.Size([2, 8, 4, 6])
    """

    def __init__(self, index: int, layout: Layout) -> None:
        self.index, self.layout = index, layout

    def __call__(self, output: Tensor, size: Sequence[Any]) -> Tensor:
        """Lay the output out, given the sizes of all inputs."""
        return self.layout(output, size[self.index])

    def __repr__(self) -> str:
        return f"OfInput(index={self.index}, layout={self.layout})"


class JointMasker(nn.Module):
    """A masker for each input, each of which reads the feature maps of all.

    A map with as many spatial dimensions as an input is read as it is; any other is averaged, and
    its mean is the same everywhere.

    Args:
        channels: Of each feature map, in the order they are given to ``forward``.
        inputs: Of each input ``(spatial dimensions, channels)``; vectors have none.
        width: As for :class:`~captum_masking.masker.Masker`.
        own: Whether the feature maps are the inputs, which then go through encoders of the
            masker's own.

    Source:
        Own.

    Example:
        >>> import torch
        >>> masker = JointMasker([8, 16], inputs=[(2, 3), (0, 10)])
        >>> features = [torch.rand(2, 8, 4, 4), torch.rand(2, 16)]
        >>> [tuple(mask_logits.shape) for mask_logits in masker(features, [(4, 4), ()])]
        [(2, 1, 4, 4), (2, 10)]
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        inputs: Sequence[Sequence[int]],
        width: int = 64,
        own: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels),
            "inputs": [list(pair) for pair in inputs],
            "width": width,
            "own": own,
        }
        self.reads_inputs = own
        self.encoders = nn.ModuleList(
            encoder(n, dims, width) for dims, n in (inputs if own else ())
        )
        self.heads = nn.ModuleList(
            Masker([width] * len(channels) if own else channels, dims=dims, width=width)
            if dims
            else ElementMasker([width] * len(channels) if own else channels, elements=n)
            for dims, n in inputs
        )

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[Sequence[int]]
    ) -> tuple[Tensor, ...]:
        """Map features to mask logits, ``(B, 1, *grid)`` or ``(B, elements)`` for each input."""
        if len(self.encoders):
            features = [read(maps) for read, maps in zip(self.encoders, features, strict=True)]
        pairs = zip(self.heads, grid, strict=True)
        return tuple(head([_as_seen(m, cells) for m in features], cells) for head, cells in pairs)


def _as_seen(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a feature to the form of an input: as it is, or its mean at every cell."""
    if maps.dim() - 2 == len(grid):
        return maps
    mean = maps.flatten(2).mean(2) if maps.dim() > 2 else maps
    return mean.reshape(*mean.shape, *[1] * len(grid)).expand(*mean.shape, *grid)
