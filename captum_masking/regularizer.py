"""What a mask should look like whatever it hides: ``regularizer(mask, judgement) -> scalar``."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from captum_masking.objective import Judgement

#: Called as ``regularizer(mask, judgement)`` with a mask ``(B, 1, *spatial)`` in ``[0, 1]``;
#: returns a scalar, lower is better.
Regularizer = Callable[[Tensor, Judgement], Tensor]


class Area:
    """Small masks, asked for only where the mask already does its work.

    ``-weight_in * mean(relu(correct_in - area)) - weight_out * mean(relu(confused_out - area))``
    with ``area`` the mean of each mask: an L1 penalty on successes and nothing on failures, so
    that the mask of a failing image is never pushed towards empty.

    Args:
        weight_in: Weight where the masked-in image is still classified correctly, >= 0.
        weight_out: Weight where masking out turned right into wrong, >= 0.

    Source:
        Phang et al. 2020, area term of the masker loss; defaults of the frozen set-up.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, yes, no, target=torch.tensor([1]))
        >>> Area()(torch.full((1, 1, 2, 2), 0.25), judgement)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
    """

    # Published for the frozen classifier: 1 and 10 (joint: 1 and 15), per pixel fraction.
    def __init__(self, weight_in: float = 1.0, weight_out: float = 10.0) -> None:
        self.weight_in = weight_in
        self.weight_out = weight_out

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        """Return the scalar penalty of a batch (negative: a reward for small successes)."""
        area = mask.flatten(1).mean(1)  # (B,)
        inside = (judgement.correct_in.to(area) - area).relu().mean()
        outside = (judgement.confused_out.to(area) - area).relu().mean()
        return -self.weight_in * inside - self.weight_out * outside

    def __repr__(self) -> str:
        return f"Area(weight_in={self.weight_in}, weight_out={self.weight_out})"


class TotalVariation:
    """Smooth masks that end before the frame does.

    ``weight / 2 * mean over images (differences + border * frame)``: the sum of squared
    differences of neighbouring pixels, and of the squared values along the frame (corners count
    for every side they lie on). For two-dimensional masks the first sum does not change when a
    mask is resampled; the second grows with the side and is stated for a side of 224, so that a
    weight tuned at 224 pixels holds at any size and in any number of dimensions.

    Args:
        weight: >= 0. The published weight is 0.001 on each of the two sides of the objective.
        border: Weight of the frame against the differences.

    Source:
        Phang et al. 2020, after Dabkowski & Gal 2017; at 224 x 224 the published value exactly.

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 1:3, 1:3] = 1
        >>> TotalVariation(weight=1.0)(mask, judgement=None)  # 8 edges / 2
        tensor(4.)
    """

    reference_px = 224

    def __init__(self, weight: float = 0.002, border: float = 0.3) -> None:
        self.weight = weight
        self.border = border

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch."""
        axes = range(2, mask.dim())
        side = math.prod(mask.shape[2:]) ** (1 / len(axes))  # geometric mean of the sides
        differences = sum(mask.diff(dim=axis).square().sum() for axis in axes)
        frame = sum(mask.select(axis, end).square().sum() for axis in axes for end in (0, -1))
        scale = side ** (2 - len(axes))  # 1 for images: their energy is free of scale
        total = differences + self.border * frame * self.reference_px / side
        return self.weight / (2 * len(mask)) * scale * total

    def __repr__(self) -> str:
        return f"TotalVariation(weight={self.weight}, border={self.border})"


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


def published() -> Sum:
    """Area gated on success, and total variation, with the constants of the frozen set-up.

    Source:
        Phang et al. 2020: 1 and 10 for the area; 0.001 on each of two sides for the variation.

    Example:
        >>> published()
        Area(weight_in=1.0, weight_out=10.0) + TotalVariation(weight=0.002, border=0.3)
    """
    return Sum(Area(), TotalVariation())


def smooth() -> Sum:
    """The published terms with four times the variation's weight: the default.

    The published mask is upsampled from a grid of stride 4 by repeating values. Where the mask
    comes from a coarser grid by linear interpolation, the same map has about a quarter of that
    variation: its ramps are spread over four times as many pixels.

    The area weights are those of the frozen set-up in joint training too. The published 15 on the
    masked-out side made masks smaller than the objects of photographs in a short joint training.

    Source:
        Own; measured in ``benchmarks/README.md``.

    Example:
        >>> smooth()
        Area(weight_in=1.0, weight_out=10.0) + TotalVariation(weight=0.008, border=0.3)
    """
    return Sum(Area(), TotalVariation(weight=0.008))
