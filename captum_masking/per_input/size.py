"""Masks of exactly the area that was asked for."""

from __future__ import annotations

import torch
from torch import Tensor

_HALVINGS = 50  # of an interval of some dozens of logits: down to rounding


def of_area(mask_logits: Tensor, area: float) -> Tensor:
    """Make masks whose mean is a given fraction: one number is added to all logits of each.

    The number depends on the logits, and the gradient knows: a cell that grows pushes all others
    down, so that an optimizer can move the area about but not change it.

    Args:
        mask_logits: ``(B, 1, *spatial)``, at least single precision.
        area: The mean of each mask, in (0, 1).

    Returns:
        Masks, shaped like ``mask_logits``, in ``[0, 1]``.

    Source:
        Own. The derivative is that of the implicit function ``mean(sigmoid(logits + b)) = area``.

    Example:
        >>> of_area(torch.tensor([[[0.0, 0.0, 9.0, 9.0]]]), area=0.5)
        tensor([[[0.0110, 0.0110, 0.9890, 0.9890]]])
    """
    with torch.no_grad():
        added = _bisect(mask_logits, area)
    mask = (mask_logits + added).sigmoid()
    slope = (mask * (1 - mask)).detach()
    # One step of Newton's method from the solution: adds nothing but the derivative of `added`.
    slopes = _mean(slope).clamp_min(torch.finfo(slope.dtype).tiny)
    return (mask_logits + added - (_mean(mask) - _mean(mask).detach()) / slopes).sigmoid()


def _bisect(mask_logits: Tensor, area: float) -> Tensor:
    level = torch.tensor(area, dtype=torch.float64).logit().to(mask_logits)
    flat = mask_logits.flatten(1)
    shape = (-1, *[1] * (mask_logits.dim() - 1))
    low, high = (level - flat.amax(1)).reshape(shape), (level - flat.amin(1)).reshape(shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        small = _mean((mask_logits + middle).sigmoid()) < area
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return (low + high) / 2


def _mean(mask: Tensor) -> Tensor:
    return mask.mean(dim=tuple(range(1, mask.dim())), keepdim=True)
