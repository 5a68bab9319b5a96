"""Several regularizers as one, and the two that are used most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from captum_masking.objective import Judgement
from captum_masking.regularizer.area import Area
from captum_masking.regularizer.variation import TotalVariation

if TYPE_CHECKING:
    from captum_masking.regularizer import Regularizer


class Sum:
    """Several regularizers as one.

    Args:
        terms: Regularizers, each already weighted.

    Source:
        Own.

    Example:
        >>> Sum(lambda mask, judgement: 1, lambda mask, judgement: 2)(None, None)
        3
    """

    def __init__(self, *terms: Regularizer) -> None:
        self.terms = terms

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        """Return the sum of the terms."""
        losses = [term(mask, judgement) for term in self.terms]
        return sum(losses[1:], start=losses[0])

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


def over_inputs(
    regularizer: Regularizer, mask: Tensor | tuple[Tensor, ...], judgement: Judgement
) -> Tensor:
    """Regularize one mask, or the masks of several inputs: the mean of the penalties of each.

    Args:
        regularizer: Called for each mask.
        mask: ``(B, 1, *spatial)``, or a tuple of such.
        judgement: Of the batch.

    Source:
        Own.

    Example:
        >>> import torch
        >>> halves = torch.full((1, 1, 2), 0.5), torch.full((1, 1, 3), 0.25)
        >>> over_inputs(lambda mask, judgement: mask.mean(), halves, None)
        tensor(0.3750)
    """
    masks = mask if isinstance(mask, tuple) else (mask,)
    penalties = [regularizer(each, judgement) for each in masks]
    return sum(penalties[1:], start=penalties[0]) / len(penalties)


def published() -> Sum:
    """Area gated on success, and total variation, with the constants of the frozen set-up.

    Source:
        Phang et al. 2020: 1 and 10 for the area; 0.001 on each of two sides for the variation.

    Example:
        >>> published()
        Area(weight_in=1.0, weight_out=10.0)
        + TotalVariation(weight=0.002, border=0.3, scale_free=True)
    """
    return Sum(Area(), TotalVariation())


def smooth(size: Regularizer | None = None, *, variation: float = 0.008) -> Sum:
    """The published terms with four times the variation's weight: the default.

    The published mask is upsampled from a grid of stride 4 by repeating values. Where the mask
    comes from a coarser grid by linear interpolation, the same map has about a quarter of that
    variation: its ramps are spread over four times as many pixels.

    The area weights are those of the frozen set-up in joint training too. The published 15 on the
    masked-out side made masks smaller than the objects of photographs in a short joint training.

    Args:
        size: A term in place of the area; None is ``Area()``.
        variation: Weight of the variation.

    Source:
        Own; measured in ``benchmarks/README.md``.

    Example:
        >>> smooth()
        Area(weight_in=1.0, weight_out=10.0)
        + TotalVariation(weight=0.008, border=0.3, scale_free=True)
    """
    return Sum(Area() if size is None else size, TotalVariation(weight=variation))
