"""Small masks, at any size of image: an area is a fraction of the pixels."""

from __future__ import annotations

from torch import Tensor

from captum_masking.objective import Judgement
from captum_masking.objective.weights import check_weights


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
