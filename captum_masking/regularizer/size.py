"""Masks of a given size: one that is fixed, a range, or what the masker was asked for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_masking.objective import Judgement
from captum_masking.objective.weights import check_weights


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

    As :class:`~captum_masking.regularizer.Area`, with the distance to the size asked for in place
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
