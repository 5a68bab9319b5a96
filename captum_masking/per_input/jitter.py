"""Small shifts of an image, so that a mask cannot rest on single pixels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import pad


def shift(images: Tensor, pixels: Sequence[int]) -> Tensor:
    """Move images along their spatial axes; what comes in from outside is zero, the mean.

    Args:
        images: ``(B, C, *spatial)``, normalised.
        pixels: How far along each spatial axis, in pixels; negative is back.

    Returns:
        The moved images, shaped like ``images``.

    Source:
        Olah et al. 2017 (feature visualization) jitter the image that is optimised; here image,
        mask and infill move together.

    Example:
        >>> import torch
        >>> shift(torch.tensor([[[1.0, 2.0, 3.0]]]), [1])
        tensor([[[0., 1., 2.]]])
    """
    frame = [side for step in reversed(pixels) for side in (step, -step)]  # last axis first
    return pad(images, frame) if any(pixels) else images
