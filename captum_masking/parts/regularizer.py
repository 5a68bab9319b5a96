"""Small masks, at any size of image: an area is a fraction of the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from captum_masking._base.checks import check_weights
from captum_masking.parts.objective import Belief, Judgement, OneOf

__all__ = [
    "Area",
    "AskedArea",
    "PowerArea",
    "Regularizer",
    "SizeAsked",
    "SizeRange",
    "SizeTarget",
    "Sum",
    "TotalVariation",
    "UngatedArea",
    "asked",
    "over_inputs",
    "published",
    "smooth",
]


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

    Raises:
        ValueError: If a weight is negative.

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
        check_weights(weight_in=weight_in, weight_out=weight_out)
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


class UngatedArea:
    """Small masks, asked for everywhere: ``weight * mean(mask)``.

    It pushes on the masks of failing images as well, which :class:`Area` leaves alone; too large a
    weight empties them all.

    Args:
        weight: >= 0.

    Raises:
        ValueError: If the weight is negative.

    Source:
        The L1 penalty of Dabkowski & Gal 2017 and Fong & Vedaldi 2017. The default is own.

    Example:
        >>> import torch
        >>> UngatedArea(weight=2.0)(torch.full((1, 1, 2, 2), 0.25), judgement=None)
        tensor(0.5000)
    """

    def __init__(self, weight: float = 1.0) -> None:
        check_weights(weight=weight)
        self.weight = weight

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch."""
        return self.weight * mask.mean()

    def __repr__(self) -> str:
        return f"UngatedArea(weight={self.weight})"


class PowerArea:
    """Small and sure masks: ``weight * mean((mask + offset) ** power)``.

    A power below 1 makes one pixel of 1 cheaper than two of one half, so values go to 0 or 1.

    Args:
        weight: >= 0.
        power: > 0.
        offset: > 0, in units of the mask: it bounds the gradient where the mask is 0.

    Raises:
        ValueError: If a number lies outside its range.

    Source:
        Dabkowski & Gal 2017, their code.

    Example:
        >>> import torch
        >>> PowerArea(weight=2.0, power=0.5, offset=0.01)(torch.tensor([[[0.0, 0.24]]]), None)
        tensor(0.6000)
    """

    # All three as in their code.
    def __init__(self, weight: float = 8.0, power: float = 0.3, offset: float = 0.0005) -> None:
        check_weights(weight=weight, power=power, offset=offset)
        if not (power and offset):
            raise ValueError(
                f"power and offset must be positive, but got {power} and {offset}; at a mask of 0 "
                "the gradient would otherwise be zero or infinite. Published are 0.3 and 0.0005."
            )
        self.weight, self.power, self.offset = weight, power, offset

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch."""
        return self.weight * (mask + self.offset).pow(self.power).mean()

    def __repr__(self) -> str:
        return f"PowerArea(weight={self.weight}, power={self.power}, offset={self.offset})"


# ---- Smooth masks: neighbouring pixels alike, and nothing along the frame.


class TotalVariation:
    """Smooth masks that end before the frame does.

    ``weight / 2 * mean over images (differences + border * frame)``: the sum of squared
    differences of neighbouring pixels, and of the squared values along the frame (corners count
    for every side they lie on). For two-dimensional masks the first sum does not change when a
    mask is resampled; the second grows with the side and is stated for a side of 224, so that a
    weight tuned at 224 pixels holds at any size and in any number of dimensions.

    Args:
        weight: >= 0. The published weight is 0.001 on each of the two sides of the objective.
        border: Weight of the frame against the differences, >= 0.
        scale_free: False takes the published sum as it stands, at every size.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Phang et al. 2020, after Dabkowski & Gal 2017; at 224 x 224 the published value exactly,
        elsewhere with ``scale_free=False``.

    Example:
        >>> import torch
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 1:3, 1:3] = 1
        >>> TotalVariation(weight=1.0)(mask, judgement=None)  # 8 edges / 2
        tensor(4.)
    """

    reference_px = 224

    def __init__(
        self, weight: float = 0.002, border: float = 0.3, *, scale_free: bool = True
    ) -> None:
        check_weights(weight=weight, border=border)
        self.weight = weight
        self.border = border
        self.scale_free = scale_free

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch; 0 for masks ``(B, F)``, which have no neighbors."""
        axes, zero = range(2, mask.dim()), mask.new_zeros(())
        if not axes:
            return zero
        differences = sum((mask.diff(dim=a).square().sum() for a in axes), start=zero)
        frame = sum((mask.select(a, e).square().sum() for a in axes for e in (0, -1)), start=zero)
        scale, border = self._scales(mask.shape[2:]) if self.scale_free else (1.0, 1.0)
        total = differences + border * self.border * frame
        return self.weight / (2 * len(mask)) * scale * total

    def _scales(self, sides: torch.Size) -> tuple[float, float]:
        """What makes the sum, and the frame within it, independent of the resolution."""
        side = math.prod(sides) ** (1 / len(sides))  # geometric mean
        # 1 for images: their energy is free of scale.
        return side ** (2 - len(sides)), self.reference_px / side

    def __repr__(self) -> str:
        numbers = f"weight={self.weight}, border={self.border}"
        return f"TotalVariation({numbers}, scale_free={self.scale_free})"


# ---- Masks of a given size: one that is fixed, a range, or what the masker was asked for.


class SizeTarget:
    """Masks that are 1 on a given fraction of the image and 0 elsewhere, wherever that is.

    ``weight * mean((sorted(mask) - step) ** 2)``: the values of each mask from the highest down
    against a step of ones on the first ``area`` of them. The pixel in which the step falls counts
    in parts, so that the value does not depend on the resolution.

    Args:
        area: Fraction of the image, in (0, 1).
        weight: >= 0.

    Raises:
        ValueError: If the area lies outside (0, 1), or the weight is negative.

    Source:
        Fong et al. 2019, extremal perturbations: as published where ``area`` is a whole number of
        pixels. Their weight is the default at first and grows by 0.35 % at each of 800 steps.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[[0.1, 0.8, 0.6, 0.1]]])  # against 1 1 0 0: 0.04 0.16 0.01 0.01
        >>> SizeTarget(0.5, weight=4.0)(mask, judgement=None)
        tensor(0.2200)
    """

    def __init__(self, area: float, weight: float = 300.0) -> None:
        if not 0 < area < 1:
            raise ValueError(
                f"area must be a fraction of the image between 0 and 1, both excluded, but got "
                f"{area}; divide a number of pixels by all pixels of the image."
            )
        check_weights(weight=weight)
        self.area, self.weight = area, weight

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch."""
        ones, values = _brightest(mask, self.area), _from_the_highest(mask)
        distance = ones * (1 - values).square() + (1 - ones) * values.square()  # (B, pixels)
        return self.weight * distance.mean()

    def __repr__(self) -> str:
        return f"SizeTarget(area={self.area}, weight={self.weight})"


class SizeRange:
    """Masks whose size lies between two fractions of the image; within, nothing is asked.

    The highest ``low`` of the values of each mask should be 1, those beyond the highest ``high``
    should be 0: ``weight * mean(top * (1 - mask) + beyond * mask)``. A pixel in which a bound
    falls counts in parts, so that the value does not depend on the resolution.

    Args:
        low: Least size, a fraction of the image.
        high: Greatest size; ``0 <= low < high <= 1``.
        weight: >= 0.

    Raises:
        ValueError: If the bounds are not in order within ``[0, 1]``, or the weight is negative.

    Source:
        Stalder et al. 2022: theirs is 0.05 to 0.3 with a weight of 1 for the mask of each class.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[[0.1, 0.8, 0.6, 0.1]]])  # 1 - 0.8 at the top, 0.1 beyond half
        >>> SizeRange(0.25, 0.5)(mask, judgement=None)  # (0.2 + 0.1 + 0.1) / 4
        tensor(0.1000)
    """

    def __init__(self, low: float, high: float, weight: float = 1.0) -> None:
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"low and high must be fractions of the image with 0 <= low < high <= 1, but got "
                f"{low} and {high}; for one size take SizeTarget(area)."
            )
        check_weights(weight=weight)
        self.low, self.high, self.weight = low, high, weight

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        """Return the scalar penalty of a batch."""
        values = _from_the_highest(mask)
        top, beyond = _brightest(mask, self.low), 1 - _brightest(mask, self.high)
        return self.weight * (top * (1 - values) + beyond * values).mean()

    def __repr__(self) -> str:
        return f"SizeRange(low={self.low}, high={self.high}, weight={self.weight})"


class SizeAsked:
    """Masks of the size that the masker was asked for, where the mask already does its work.

    As :class:`~captum_masking.parts.regularizer.Area`, with the distance to the size asked for in
    place
    of the area: ``-weight_in * mean(relu(correct_in - distance))
    - weight_out * mean(relu(confused_out - distance))`` with
    ``distance = |mean of the mask - judgement.area|``.

    Args:
        weight_in: Weight where the masked-in image is still classified correctly, >= 0.
        weight_out: Weight where masking out turned right into wrong, >= 0.
        squared: Whether the distance is squared.

    Raises:
        ValueError: If a weight is negative.
        RuntimeError: In use, if the masker was not asked for a size.

    Source:
        Phang et al. 2020, mask-size conditioning, ``l1`` and, squared, ``l2``; as published.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> said = Judgement(yes, yes, no, target=torch.tensor([1]), area=torch.tensor([0.5]))
        >>> SizeAsked()(torch.full((1, 1, 2, 2), 0.25), said)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
    """

    # As for Area: the published weights of the frozen set-up.
    def __init__(
        self, weight_in: float = 1.0, weight_out: float = 10.0, *, squared: bool = False
    ) -> None:
        check_weights(weight_in=weight_in, weight_out=weight_out)
        self.weight_in, self.weight_out, self.squared = weight_in, weight_out, squared

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        """Return the scalar penalty of a batch (negative: a reward for successes of that size)."""
        distance = self._distance(mask.flatten(1).mean(1), judgement.area)  # (B,)
        inside = (judgement.correct_in.to(mask) - distance).relu().mean()
        outside = (judgement.confused_out.to(mask) - distance).relu().mean()
        return -self.weight_in * inside - self.weight_out * outside

    def _distance(self, area: Tensor, asked: Tensor | None) -> Tensor:
        if asked is None:
            raise RuntimeError(
                "SizeAsked compares each mask with the size that the masker was asked for, but it "
                "was asked for none; train a masker that is told one: "
                "MaskingModel(classifier, masker=partial(Masker, sized=True))."
            )
        difference = area - asked.to(area)
        return difference.square() if self.squared else difference.abs()

    def __repr__(self) -> str:
        weights = f"weight_in={self.weight_in}, weight_out={self.weight_out}"
        return f"SizeAsked({weights}, squared={self.squared})"


def _from_the_highest(mask: Tensor) -> Tensor:
    """Sort the values of each mask, highest first: ``(B, pixels)``."""
    return mask.flatten(1).sort(dim=1, descending=True).values


def _brightest(mask: Tensor, fraction: float) -> Tensor:
    """How much of each pixel in that order, 0 to 1, lies in the highest ``fraction`` of all."""
    pixels = math.prod(mask.shape[1:])
    ranks = torch.arange(pixels, device=mask.device)
    return (fraction * pixels - ranks).clamp(0, 1).to(mask)


# ---- Small masks for the class that was asked for, and none where it is not.


class AskedArea:
    """Small masks where they already do their work, as ``Area``; no mask where the class is not.

    Where the class shares the image with others, masking out has done its work once the class is
    half as likely as in the clean image, since it need not have been the likeliest. What the mask
    covers of other images, or of any image for an absent class, costs ``weight_elsewhere`` times
    its share of all pixels, whether it does its work or not.

    Args:
        weight_in: Weight where the masked-in image shows the class, >= 0.
        weight_out: Weight where masking out took it away, >= 0.
        weight_elsewhere: Weight where the class is not, >= 0.
        belief: How logits are read.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Own; without questions it is the area term of Phang et al. 2020. Where the class is
        not, a mask is pushed as hard as one that succeeds on both sides: 1 + 10.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, yes, no, target=torch.tensor([1]))
        >>> mask = torch.full((1, 1, 2, 2), 0.25)
        >>> AskedArea()(mask, judgement)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
        >>> AskedArea()(mask, judgement._replace(present=torch.tensor([False])))  # 11 * 0.25
        tensor(2.7500)
    """

    def __init__(
        self,
        weight_in: float = 1.0,
        weight_out: float = 10.0,
        weight_elsewhere: float = 11.0,
        *,
        belief: Belief = OneOf(),
    ) -> None:
        check_weights(weight_in=weight_in, weight_out=weight_out, weight_elsewhere=weight_elsewhere)
        self.weight_in = weight_in
        self.weight_out = weight_out
        self.weight_elsewhere = weight_elsewhere
        self.belief = belief

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        """Return the scalar penalty of a batch (negative: a reward for small successes)."""
        area = mask.flatten(1).mean(1)  # (B,)
        kept = self.belief.foremost(judgement.logits_in, judgement.target)
        gone = self._taken_away(judgement)
        reward = self.weight_in * kept.to(area) + self.weight_out * gone.to(area)
        loss = -reward * (1 - area)
        if judgement.present is not None:
            loss = loss * judgement.present + self.weight_elsewhere * self._elsewhere(
                mask, judgement
            )
        return loss.mean()

    def _elsewhere(self, mask: Tensor, judgement: Judgement) -> Tensor:
        if judgement.elsewhere is None:
            return mask.flatten(1).mean(1) * ~judgement.present  # type: ignore[operator]
        return (mask * judgement.elsewhere).flatten(1).mean(1)

    def _taken_away(self, judgement: Judgement) -> Tensor:
        clean, out, target = judgement.logits, judgement.logits_out, judgement.target
        by_itself = self.belief.foremost(clean, target) & ~self.belief.foremost(out, target)
        if judgement.alone is None:
            return by_itself
        halved = self.belief.yes(out, target).exp() < self.belief.yes(clean, target).exp() / 2
        among_others = self.belief.found(clean, target) & halved
        return by_itself.where(judgement.alone, among_others)

    def __repr__(self) -> str:
        return (
            f"AskedArea(weight_in={self.weight_in}, weight_out={self.weight_out}, "
            f"weight_elsewhere={self.weight_elsewhere}, belief={self.belief})"
        )


def asked(belief: Belief = OneOf()) -> Sum:
    """Return the regularizers of maskers that are asked for a class: the default for them.

    Args:
        belief: ``OneOf()``, or ``AnyOf()`` for multi-label classifiers.

    Source:
        Own; as :func:`~captum_masking.parts.regularizer.smooth`.

    Example:
        >>> asked()
        AskedArea(weight_in=1.0, weight_out=10.0, weight_elsewhere=11.0, belief=OneOf())
        + TotalVariation(weight=0.008, border=0.3, scale_free=True)
    """
    return smooth(AskedArea(belief=belief))


# ---- Several regularizers as one, and the two that are used most.


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
