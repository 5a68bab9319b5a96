"""Where a mask meets an image. The only file that decides what 0 and 1 mean: 1 is evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_masking._base.checks import check_mask_shape
from captum_masking._base.tuples import Inputs, as_tuple
from captum_masking.parts.infill import Infill

__all__ = [
    "fill",
    "mask_images",
    "masked_halves",
]


def mask_images(
    inputs: Tensor, mask: Tensor, infill: Infill, infill_out: Infill | None = None
) -> tuple[Tensor, Tensor]:
    """Split images into what the mask keeps and what it hides.

    Args:
        inputs: Images of shape ``(B, C, *spatial)``, normalised as the classifier expects.
        mask: Evidence per pixel in ``[0, 1]``, shape ``(B, 1, *spatial)``; 1 means keep.
        infill: Called as ``infill(inputs, hole)`` with ``hole`` shaped like ``mask``
            (1 means missing); returns pixels on the scale of ``inputs``.
        infill_out: Another one for the masked-out images; None is the same.

    Returns:
        ``(masked_in, masked_out)``, both shaped like ``inputs``: the evidence on infilled
        surroundings, and the surroundings with the evidence infilled.

    Raises:
        ValueError: If ``mask`` does not have shape ``(B, 1, *spatial)``.

    Source:
        Phang et al. 2020, masked-in and masked-out images; every side's infill is told the true
        hole (the published code tells its inpainters the masked-out hole on both sides).

    Example:
        >>> import torch
        >>> inputs, mask = torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> mask_images(inputs, mask, infill=lambda inputs, hole: 0 * inputs)
        (tensor([[[[3., 0.]]]]), tensor([[[[0., 5.]]]]))
    """
    check_mask_shape(mask, inputs)
    return fill(inputs, 1 - mask, infill), fill(inputs, mask, infill_out or infill)


def masked_halves(
    inputs: Inputs, mask: Inputs, infill: Infill, infill_out: Infill | None = None
) -> tuple[Tensor, ...]:
    """Mask a batch for a judge that sees all masked-in examples, then all masked-out ones.

    Args:
        inputs: As for :func:`mask_images`; or several, each with a mask of its own.
        mask: Likewise.
        infill: Likewise.
        infill_out: Likewise.

    Returns:
        ``(2 * B, C, *spatial)`` for each input.

    Source:
        Own.

    Example:
        >>> inputs, mask = torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[1.0, 0.0]]])
        >>> masked_halves(inputs, mask, infill=lambda inputs, hole: 0 * inputs)
        (tensor([[[3., 0.]],
        <BLANKLINE>
                [[0., 5.]]]),)
    """
    pairs = zip(as_tuple(inputs), as_tuple(mask), strict=True)
    return tuple(torch.cat(mask_images(x, m, infill, infill_out)) for x, m in pairs)


def fill(inputs: Tensor, hole: Tensor, infill: Infill) -> Tensor:
    """Replace the hole of each image by its infill.

    Args:
        inputs: Images of shape ``(B, C, *spatial)``.
        hole: What is missing, in ``[0, 1]``, shape ``(B, 1, *spatial)``; 1 means missing.
        infill: Called as ``infill(inputs, hole)``.

    Returns:
        ``(1 - hole) * inputs + hole * infill``, shaped like ``inputs``.

    Source:
        Phang et al. 2020; composition is additive, as published.

    Example:
        >>> import torch
        >>> fill(torch.tensor([[[4.0]]]), torch.tensor([[[0.25]]]), lambda inputs, hole: 0 * inputs)
        tensor([[[3.]]])
    """
    return (1 - hole) * inputs + hole * infill(inputs, hole)
