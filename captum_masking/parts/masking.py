"""Apply masks to images. Only this file decides what 0 and 1 mean: 1 is evidence."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from captum_masking._base.checks import check_mask_shape
from captum_masking.parts.infill import Infill

__all__ = ["mask_images"]

Tensors = tuple[Tensor, ...]


@overload
def mask_images(
    inputs: Tensor, mask: Tensor, infill: Infill, infill_out: Infill | None = None
) -> tuple[Tensor, Tensor]: ...
@overload
def mask_images(
    inputs: Tensors, mask: Tensors, infill: Infill, infill_out: Infill | None = None
) -> tuple[Tensors, Tensors]: ...
def mask_images(  # type: ignore[no-untyped-def]
    inputs, mask, infill, infill_out=None
):
    """Return the masked-in and masked-out images.

    Args:
        inputs: Images ``(B, C, *spatial)``, normalized as the classifier expects; a tuple of
            such for a classifier that takes several inputs.
        mask: Evidence per pixel in ``[0, 1]``, ``(B, 1, *spatial)``; 1 means keep. For several
            inputs a tuple, one for each.
        infill: Called as ``infill(inputs, hole)`` with ``hole`` shaped like ``mask``
            (1 means missing); returns pixels on the scale of ``inputs``.
        infill_out: Infill of the masked-out images; None takes ``infill``.

    Returns:
        ``(masked_in, masked_out)``, each like ``inputs``: the evidence on infilled surroundings,
        and the surroundings with the evidence infilled.

    Source:
        Phang et al. 2020. On either side the infill gets the true hole (the published code gives
        its inpainters the masked-out hole on both).

    Example:
        >>> inputs, mask = torch.tensor([[[[3.0, 5.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
        >>> mask_images(inputs, mask, infill=lambda inputs, hole: 0 * inputs)
        (tensor([[[[3., 0.]]]]), tensor([[[[0., 5.]]]]))
    """
    if isinstance(inputs, tuple):
        pairs = zip(inputs, mask, strict=True)
        halves = [mask_images(x, m, infill, infill_out) for x, m in pairs]
        masked_in, masked_out = zip(*halves, strict=True)
        return masked_in, masked_out
    check_mask_shape(mask, inputs)
    infill_out = infill if infill_out is None else infill_out
    return fill(inputs, 1 - mask, infill), fill(inputs, mask, infill_out)


def masked_halves(
    inputs: Tensor | Tensors,
    mask: Tensor | Tensors,
    infill: Infill,
    infill_out: Infill | None = None,
    context: Tensors = (),
) -> Tensors:
    """Return all masked-in examples, then all masked-out ones: ``(2 * B, ...)`` for each input.

    The additional arguments ``context`` follow, repeated twice.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    mask = mask if isinstance(mask, tuple) else (mask,)
    halves = zip(*mask_images(inputs, mask, infill, infill_out), strict=True)
    both = [*zip(halves, inputs, strict=True), *(((rows, rows), rows) for rows in context)]
    return tuple(torch.cat(pair).to(x.dtype) for pair, x in both)


def fill(inputs: Tensor, hole: Tensor, infill: Infill) -> Tensor:
    """Replace the hole of each image, ``(B, 1, *spatial)`` with 1 for missing, by its infill."""
    return (1 - hole) * inputs + hole * infill(inputs, hole)
