"""Regularizers for small and smooth masks; an area is a fraction of the pixels.

A regularizer is called as ``regularizer(mask, judgement)`` with a mask ``(B, 1, *spatial)`` in
``[0, 1]`` and returns a scalar, lower is better; a plain function is enough. Weights are >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from captum_masking._base.checks import check_area, check_weights
from captum_masking.parts.objective import Belief, Judgement, OneOf

__all__ = [
    "Area",
    "AskedArea",
    "GuidedByInput",
    "PowerArea",
    "Regularizer",
    "SizeAsked",
    "SizeRange",
    "SizeTarget",
    "Sum",
    "TotalVariation",
    "UngatedArea",
    "asked",
    "smooth",
]

#: Called as ``regularizer(mask, judgement)``; returns a scalar, lower is better.
Regularizer = Callable[[Tensor, Judgement], Tensor]


@dataclass(frozen=True)
class Area:
    """Small masks, only for images that the mask already handles correctly.

    ``-weight_in * mean(relu(correct_in - area)) - weight_out * mean(relu(confused_out - area))``
    with ``area`` the mean of each mask: an L1 penalty on successes and nothing on failures, so
    that the mask of a failing image is never pushed towards empty. Negative: a reward.

    Source:
        Phang et al. 2020, area term of the masker loss; defaults of the frozen set-up (joint: 1
        and 15), per pixel fraction.

    Example:
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, yes, no, target=torch.tensor([1]))
        >>> Area()(torch.full((1, 1, 2, 2), 0.25), judgement)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
    """

    weight_in: float = 1.0
    weight_out: float = 10.0

    def __post_init__(self) -> None:
        check_weights(weight_in=self.weight_in, weight_out=self.weight_out)

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        return _reward(_area(mask), judgement, self.weight_in, self.weight_out)


@dataclass(frozen=True)
class UngatedArea:
    """Small masks everywhere: ``weight * mean(mask)``.

    It also shrinks the masks of failing images, unlike :class:`Area`; too large a weight empties
    all masks.

    Source:
        The L1 penalty of Dabkowski & Gal 2017 and Fong & Vedaldi 2017; the default weight is ours.

    Example:
        >>> UngatedArea(weight=2.0)(torch.full((1, 1, 2, 2), 0.25), judgement=None)
        tensor(0.5000)
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        return self.weight * mask.mean()


@dataclass(frozen=True)
class PowerArea:
    """Small and sure masks: ``weight * mean((mask + offset) ** power)``.

    A power below 1 makes one pixel of 1 cheaper than two of one half, so values go to 0 or 1.

    Args:
        power: > 0.
        offset: > 0, in units of the mask: it bounds the gradient where the mask is 0.

    Source:
        Dabkowski & Gal 2017, their code.

    Example:
        >>> PowerArea(weight=2.0, power=0.5, offset=0.01)(torch.tensor([[[0.0, 0.24]]]), None)
        tensor(0.6000)
    """

    weight: float = 8.0
    power: float = 0.3
    offset: float = 0.0005

    def __post_init__(self) -> None:
        check_weights(weight=self.weight, power=self.power, offset=self.offset)
        if not (self.power and self.offset):
            raise ValueError(
                f"power and offset must be positive, but got {self.power} and {self.offset}; at a "
                "mask of 0 the gradient would otherwise be zero or infinite. Published are 0.3 and "
                "0.0005."
            )

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        return self.weight * (mask + self.offset).pow(self.power).mean()


@dataclass(frozen=True)
class GuidedByInput:
    """Make masks that nearly keep the input follow its high values.

    An input counts as kept where the cosine of its angle to ``mask * input`` is at least
    ``similarity``. Its mask then costs ``weight`` times the binary cross entropy to where the input
    is at least ``threshold`` of its maximum, and nothing else. For inputs whose zero is nothing,
    such as :class:`~captum_masking.data.audio.LogMagnitude`'s, late in a training.

    Args:
        otherwise: The regularizer of the masks that keep less.

    Source:
        Paissan et al. 2024 (L-MAC), fine-tuning, as in their code. Differs: the guide is the input
        itself, also where that is a mixture (theirs: its first sound alone), and both kinds of
        masks count by their share of the batch.

    Example:
        >>> logits, target = torch.zeros(1, 2), torch.tensor([0])
        >>> inputs = torch.tensor([[[[4.0, 1.0]]]])
        >>> judgement = Judgement(logits, logits, logits, target, inputs=inputs)
        >>> guided = GuidedByInput(UngatedArea(), weight=1.0)
        >>> guided(torch.full((1, 1, 1, 2), 0.5), judgement)  # log 2
        tensor(0.6931)
        >>> guided(torch.tensor([[[[0.0, 0.5]]]]), judgement)  # a cosine of 0.24: its area
        tensor(0.2500)
    """

    otherwise: Regularizer
    weight: float = 4.0
    threshold: float = 0.35
    similarity: float = 0.6

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        inputs = judgement.inputs
        if inputs is None:
            raise RuntimeError(
                "GuidedByInput compares each mask with its input, but the judgement has none; it "
                "is for classifiers of one input."
            )
        kept = cosine_similarity(inputs.flatten(1), (mask * inputs).flatten(1)) >= self.similarity
        height = inputs.amax(1, keepdim=True)  # of the highest channel
        highest = height.amax(tuple(range(1, height.dim())), keepdim=True)
        guide = height >= self.threshold * highest
        right = mask.where(guide, 1 - mask)
        wrong = -right.clamp(min=torch.finfo(mask.dtype).tiny).log()
        loss = self.weight * (kept * _area(wrong)).mean()
        if kept.all():
            return loss
        rest = self.otherwise(mask[~kept], judgement.only(~kept))
        return loss + (~kept).float().mean() * rest


def _area(mask: Tensor) -> Tensor:
    return mask.flatten(1).mean(1)  # (B,)


def _reward(cost: Tensor, judgement: Judgement, weight_in: float, weight_out: float) -> Tensor:
    """Return minus what is left of each success, 1, once its cost ``(B,)`` is subtracted."""
    inside = (judgement.correct_in.to(cost) - cost).relu().mean()
    outside = (judgement.confused_out.to(cost) - cost).relu().mean()
    return -weight_in * inside - weight_out * outside


@dataclass(frozen=True)
class TotalVariation:
    """Smooth masks that end before the frame does.

    ``weight / 2 * mean over images (differences + border * frame)``: the sum of squared
    differences of neighboring pixels, and of the squared values along the frame (corners count
    for every side they are on). For two-dimensional masks the first sum does not change when a
    mask is resampled; the second grows with the side and is stated for a side of 224, so that a
    weight tuned at 224 pixels holds at any size and in any number of dimensions. Masks ``(B, F)``
    have no neighbors and cost 0.

    Args:
        weight: The published weight is 0.001 on each of the two sides of the objective.
        border: Weight of the frame against the differences.
        scale_free: False takes the published sum as it stands, at every size.

    Source:
        Phang et al. 2020, after Dabkowski & Gal 2017; at 224 x 224 the published value exactly,
        elsewhere with ``scale_free=False``.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., 1:3, 1:3] = 1
        >>> TotalVariation(weight=1.0)(mask, judgement=None)  # 8 edges / 2
        tensor(4.)
    """

    weight: float = 0.002
    border: float = 0.3
    _: KW_ONLY
    scale_free: bool = True

    def __post_init__(self) -> None:
        check_weights(weight=self.weight, border=self.border)

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        axes, zero = range(2, mask.dim()), mask.new_zeros(())
        if not axes:
            return zero
        differences = sum((mask.diff(dim=a).square().sum() for a in axes), start=zero)
        frame = sum((mask.select(a, e).square().sum() for a in axes for e in (0, -1)), start=zero)
        scale, border = _scales(mask.shape[2:]) if self.scale_free else (1.0, 1.0)
        total = differences + border * self.border * frame
        return self.weight / (2 * len(mask)) * scale * total


def _scales(sides: torch.Size, reference_px: int = 224) -> tuple[float, float]:
    """Return what makes the sum, and the frame within it, independent of the resolution."""
    side = math.prod(sides) ** (1 / len(sides))  # geometric mean
    # 1 for images: their energy is free of scale.
    return side ** (2 - len(sides)), reference_px / side


@dataclass(frozen=True)
class SizeTarget:
    """Masks that are 1 on a given fraction of the image and 0 elsewhere.

    ``weight * mean((sorted(mask) - step) ** 2)``: the values of each mask from the highest down
    against a step of ones on the first ``area`` of them. The pixel in which the step falls counts
    in parts, so that the value does not depend on the resolution.

    Args:
        area: Fraction of the image, in (0, 1).

    Source:
        Fong et al. 2019, extremal perturbations: as published where ``area`` is a whole number of
        pixels. Their weight is the default at first and grows by 0.35 % at each of 800 steps.

    Example:
        >>> mask = torch.tensor([[[0.1, 0.8, 0.6, 0.1]]])  # against 1 1 0 0: 0.04 0.16 0.01 0.01
        >>> SizeTarget(0.5, weight=4.0)(mask, judgement=None)
        tensor(0.2200)
    """

    area: float
    weight: float = 300.0

    def __post_init__(self) -> None:
        check_area(self.area)
        check_weights(weight=self.weight)

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        values = _from_the_highest(mask)
        ones = _shared_by_equals(_brightest(mask, self.area), values)
        distance = ones * (1 - values).square() + (1 - ones) * values.square()  # (B, pixels)
        return self.weight * distance.mean()


def _shared_by_equals(ones: Tensor, values: Tensor) -> Tensor:
    """Give each of the sorted values ``(B, pixels)`` the mean of ``ones`` over those equal to it.

    The loss is the same, but its gradient treats them alike, whatever order sorting left them in.
    """
    with torch.no_grad():
        lower = values.diff(dim=1) < -4 * torch.finfo(values.dtype).eps
        group = torch.nn.functional.pad(lower.cumsum(1), (1, 0))
        ones = ones.expand_as(values)
        total, count = (
            torch.zeros_like(values).scatter_add(1, group, x) for x in (ones, torch.ones_like(ones))
        )
        return (total / count.clamp_min(1)).gather(1, group)


@dataclass(frozen=True)
class SizeRange:
    """Masks whose size is between two fractions of the image, ``0 <= low < high <= 1``.

    The highest ``low`` of the values of each mask should be 1, those beyond the highest ``high``
    should be 0: ``weight * mean(top * (1 - mask) + beyond * mask)``. A pixel in which a bound
    falls counts in parts, so that the value does not depend on the resolution.

    Source:
        Stalder et al. 2022: theirs is 0.05 to 0.3 with a weight of 1 for the mask of each class.

    Example:
        >>> mask = torch.tensor([[[0.1, 0.8, 0.6, 0.1]]])  # 1 - 0.8 at the top, 0.1 beyond half
        >>> SizeRange(0.25, 0.5)(mask, judgement=None)  # (0.2 + 0.1 + 0.1) / 4
        tensor(0.1000)
    """

    low: float
    high: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"low and high must be fractions of the image with 0 <= low < high <= 1, but got "
                f"{self.low} and {self.high}; for one size take SizeTarget(area)."
            )
        check_weights(weight=self.weight)

    def __call__(self, mask: Tensor, judgement: Judgement | None) -> Tensor:
        values = _from_the_highest(mask)
        top, beyond = _brightest(mask, self.low), 1 - _brightest(mask, self.high)
        return self.weight * (top * (1 - values) + beyond * values).mean()


@dataclass(frozen=True)
class SizeAsked:
    """Masks of the question's area, only for images that the mask already handles correctly.

    As :class:`~captum_masking.parts.regularizer.Area`, with the distance to that size in place of
    the area: ``distance = |mean of the mask - judgement.area|``.

    Args:
        squared: Whether the distance is squared.

    Source:
        Phang et al. 2020, mask-size conditioning, ``l1`` and, squared, ``l2``; as published, with
        the weights of the frozen set-up.

    Example:
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, yes, no, torch.tensor([1]), area=torch.tensor([0.5]))
        >>> SizeAsked()(torch.full((1, 1, 2, 2), 0.25), judgement)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
    """

    weight_in: float = 1.0
    weight_out: float = 10.0
    _: KW_ONLY
    squared: bool = False

    def __post_init__(self) -> None:
        check_weights(weight_in=self.weight_in, weight_out=self.weight_out)

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        distance = self._distance(_area(mask), judgement.area)  # (B,)
        return _reward(distance, judgement, self.weight_in, self.weight_out)

    def _distance(self, area: Tensor, given: Tensor | None) -> Tensor:
        if given is None:
            raise RuntimeError(
                "SizeAsked compares each mask with the size that the masker was given, but it was "
                "given none; train a masker that takes one: "
                "MaskingModel(classifier, masker=partial(Masker, sized=True))."
            )
        difference = area - given.to(area)
        return difference.square() if self.squared else difference.abs()


def _from_the_highest(mask: Tensor) -> Tensor:
    """Sort the values of each mask, highest first: ``(B, pixels)``."""
    return mask.flatten(1).sort(dim=1, descending=True).values


def _brightest(mask: Tensor, fraction: float) -> Tensor:
    """Return how much of each pixel in that order, 0 to 1, is in the highest ``fraction``."""
    pixels = math.prod(mask.shape[1:])
    ranks = torch.arange(pixels, device=mask.device)
    return (fraction * pixels - ranks).clamp(0, 1).to(mask)


@dataclass(frozen=True)
class AskedArea:
    """Small masks as with ``Area``, and empty masks where the class is absent.

    Where the class shares the image with others, masking out has done its work once the class is
    half as likely as in the clean image, since it need not have been the likeliest. What the mask
    covers of other images, or of any image for an absent class, costs ``weight_elsewhere`` times
    its share of all pixels, whether it does its work or not. By default a mask is pushed as hard
    there as one that succeeds on both sides: 1 + 10.

    Args:
        weight_in: Where the masked-in image shows the class.
        weight_out: Where masking out took it away.
        weight_elsewhere: Where the class is not.
        belief: How logits are read: ``OneOf()``, or ``AnyOf()`` for multi-label classifiers.

    Example:
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, yes, no, target=torch.tensor([1]))
        >>> mask = torch.full((1, 1, 2, 2), 0.25)
        >>> AskedArea()(mask, judgement)  # -1 * 0.75 - 10 * 0.75
        tensor(-8.2500)
        >>> AskedArea()(mask, judgement._replace(present=torch.tensor([False])))  # 11 * 0.25
        tensor(2.7500)
    """

    weight_in: float = 1.0
    weight_out: float = 10.0
    weight_elsewhere: float = 11.0
    _: KW_ONLY
    belief: Belief = OneOf()

    def __post_init__(self) -> None:
        check_weights(
            weight_in=self.weight_in,
            weight_out=self.weight_out,
            weight_elsewhere=self.weight_elsewhere,
        )

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        area = _area(mask)
        kept = self.belief.foremost(judgement.logits_in, judgement.target).to(area)
        gone = self._taken_away(judgement).to(area)
        loss = -(self.weight_in * kept + self.weight_out * gone) * (1 - area)
        if judgement.present is not None:
            elsewhere = self.weight_elsewhere * _elsewhere(mask, judgement)
            loss = loss * judgement.present + elsewhere
        return loss.mean()

    def _taken_away(self, judgement: Judgement) -> Tensor:
        clean, out, target = judgement.logits, judgement.logits_out, judgement.target
        by_itself = self.belief.foremost(clean, target) & ~self.belief.foremost(out, target)
        if judgement.alone is None:
            return by_itself
        halved = self.belief.yes(out, target).exp() < self.belief.yes(clean, target).exp() / 2
        among_others = self.belief.found(clean, target) & halved
        return by_itself.where(judgement.alone, among_others)


def _elsewhere(mask: Tensor, judgement: Judgement) -> Tensor:
    """Return how much of each image the mask covers where the class is not, ``(B,)``."""
    if judgement.elsewhere is None:
        return _area(mask) * ~judgement.present  # type: ignore[operator]
    return _area(mask * judgement.elsewhere)


class Sum:
    """Several regularizers as one, each already weighted.

    Example:
        >>> Sum(lambda mask, judgement: 1, lambda mask, judgement: 2)(None, None)
        3
    """

    def __init__(self, *terms: Regularizer) -> None:
        self.terms = terms

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        losses = [term(mask, judgement) for term in self.terms]
        return sum(losses[1:], start=losses[0])

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


def over_inputs(
    regularizer: Regularizer, mask: Tensor | tuple[Tensor, ...], judgement: Judgement
) -> Tensor:
    """Regularize one mask, or the masks of several inputs: the mean of the penalties of each."""
    masks = mask if isinstance(mask, tuple) else (mask,)
    penalties = [regularizer(each, judgement) for each in masks]
    return sum(penalties[1:], start=penalties[0]) / len(penalties)


def smooth(size: Regularizer | None = None, *, variation: float = 0.008) -> Sum:
    """Return the default: area, and total variation with four times its published weight.

    As published is ``Sum(Area(), TotalVariation())``.

    The published mask is upsampled from a grid of stride 4 by repeating values. Where the mask
    comes from a coarser grid by linear interpolation, the same map has about a quarter of that
    variation: its ramps are spread over four times as many pixels. The area weights are those of
    the frozen set-up in joint training too: there the published 15 on the masked-out side made
    masks smaller than the objects (measured in ``benchmarks/README.md``).

    Args:
        size: A term in place of the area; None is ``Area()``.
        variation: Weight of the variation.

    Example:
        >>> smooth()
        Area(weight_in=1.0, weight_out=10.0)
        + TotalVariation(weight=0.008, border=0.3, scale_free=True)
    """
    return Sum(Area() if size is None else size, TotalVariation(weight=variation))


def asked(belief: Belief = OneOf()) -> Sum:
    """Return the trainer's default regularizers for target-aware maskers.

    Example:
        >>> asked()
        AskedArea(weight_in=1.0, weight_out=10.0, weight_elsewhere=11.0, belief=OneOf())
        + TotalVariation(weight=0.008, border=0.3, scale_free=True)
    """
    return smooth(AskedArea(belief=belief))
