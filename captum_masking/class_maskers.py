"""Two more maskers that take a class, by a table of classes: a selector, and one mask per class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_masking.masker import Masker, UNetMasker


class _OfClasses(nn.Module):
    """What maskers with a table of classes share: what they ask for, and their settings."""

    asks = ("target",)

    def __init__(self, channels: Sequence[int], *, classes: int, width: int, dims: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(
                "classes must be the number of the classifier's logits, at least 1, but got "
                f"{classes}."
            )
        self.settings = {
            "channels": list(channels),
            "classes": classes,
            "width": width,
            "dims": dims,
        }


class ClassSelector(_OfClasses):
    """A masker that sees only those cells of the deepest features that are like the class.

    Each class has an embedding as long as the deepest features; the sigmoid of its product with
    the features of a cell gates that cell, before the decoder sees it.

    Args:
        channels: Of each feature map, finest first: the last one is the deepest.
        classes: How many there are; the table has one row for each.
        width: Of the decoder.
        dims: Spatial dimensions.

    Raises:
        ValueError: If there are no classes, or no feature map.

    Source:
        Dabkowski & Gal 2017, their feature filter and decoder. Differs: the product is divided by
        the square root of the channels, so that gates start near one half for any network.

    Example:
        >>> masker = ClassSelector([5, 3], classes=10, width=4)
        >>> features = [torch.rand(2, 5, 4, 4), torch.rand(2, 3, 2, 2)]
        >>> masker(features, grid=(4, 4), target=torch.tensor([7, 0])).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = 64, dims: int = 2
    ) -> None:
        super().__init__(channels, classes=classes, width=width, dims=dims)
        self.decoder = UNetMasker(channels, width=width, dims=dims)
        self.embedding = nn.Embedding(classes, channels[-1])

    def forward(self, features: Sequence[Tensor], grid: Sequence[int], *, target: Tensor) -> Tensor:
        """Map features to mask logits ``(B, 1, *grid)`` for the classes ``target``, ``(B,)``."""
        *finer, deepest = features
        likeness = torch.einsum("bc...,bc->b...", deepest, self.embedding(target))
        gate = (likeness / math.sqrt(deepest.shape[1])).sigmoid()[:, None]  # (B, 1, *cells)
        return self.decoder([*finer, deepest * gate], grid)


class MaskPerClass(_OfClasses):
    """A masker that makes a mask for every class at once, of which the one asked for is taken.

    Args:
        channels: Of each feature map.
        classes: How many there are; more than a few hundred cost more memory than they are worth.
        width: Channels after each 1x1 convolution.
        dims: Spatial dimensions.

    Raises:
        ValueError: If there are no classes, or no feature map.

    Source:
        Stalder et al. 2022 (NN-Explainer), their one mask for each class; the decoder is
        :class:`~captum_masking.masker.Masker`'s.

    Example:
        >>> masker = MaskPerClass([5, 3], classes=10, width=4)
        >>> features = [torch.rand(2, 5, 4, 4), torch.rand(2, 3, 2, 2)]
        >>> masker(features, grid=(4, 4), target=torch.tensor([7, 0])).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = 64, dims: int = 2
    ) -> None:
        super().__init__(channels, classes=classes, width=width, dims=dims)
        self.decoder = Masker(channels, width=width, dims=dims, outputs=classes)

    def forward(self, features: Sequence[Tensor], grid: Sequence[int], *, target: Tensor) -> Tensor:
        """Map features to mask logits ``(B, 1, *grid)`` for the classes ``target``, ``(B,)``."""
        masks = self.decoder(features, grid)  # (B, classes, *grid)
        return masks[torch.arange(len(masks), device=masks.device), target][:, None]
