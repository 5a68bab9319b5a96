"""The masker's objective: masked-in and masked-out images, each judged by a criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from captum_masking.objective.criterion import Classification, Entropy
from captum_masking.objective.judgement import Judgement
from captum_masking.objective.weights import check_weights

if TYPE_CHECKING:
    from captum_masking.objective import Criterion


class Dual:
    """Recognise the masked-in image, recognise nothing in the masked-out one.

    ``weight_in * mean(inside(logits_in)) + weight_out * mean(outside(logits_out))``. By default
    that is ``CE(logits_in, target) - mean(correct * entropy(logits_out))``. A side that is None or
    weighs nothing is absent: its criterion is not asked.

    Args:
        weight_in: Weight of the masked-in side, >= 0.
        weight_out: Weight of the masked-out side, >= 0.
        inside: Criterion of the masked-in images, or None.
        outside: Criterion of the masked-out images, or None.

    Raises:
        TypeError: If a criterion cannot be called.
        ValueError: If a weight is negative, or no side is left.

    Source:
        Phang et al. 2020, masker loss; the defaults are those of the final model (classification
        in, entropy out).

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> Dual()(Judgement(logits, logits, logits, target))  # log 2 - log 2
        tensor(0.)
        >>> Dual(outside=None)(Judgement(logits, logits, logits, target))
        tensor(0.6931)
    """

    def __init__(
        self,
        weight_in: float = 1.0,
        weight_out: float = 1.0,
        *,
        inside: Criterion | None = Classification(),
        outside: Criterion | None = Entropy(),
    ) -> None:
        check_weights(
            weight_in=weight_in,
            weight_out=weight_out,
            way_out="a criterion says itself which way it pushes, as Entropy(maximize=False) does.",
        )
        _check_criteria(inside=inside, outside=outside)
        self.weight_in, self.weight_out = weight_in, weight_out
        self.inside, self.outside = inside, outside
        if (inside is None or not weight_in) and (outside is None or not weight_out):
            raise ValueError(
                f"an objective needs at least one side, but got {self!r}; give inside=... a "
                "criterion and weight_in > 0, or outside=... and weight_out > 0, or both."
            )

    def __call__(self, judgement: Judgement) -> Tensor:
        """Return the scalar loss of a batch."""
        sides = (
            (self.weight_in, self.inside, judgement.logits_in),
            (self.weight_out, self.outside, judgement.logits_out),
        )
        terms = [
            weight * criterion(logits, judgement).mean()
            for weight, criterion, logits in sides
            if criterion is not None and weight
        ]
        return sum(terms[1:], start=terms[0])

    def __repr__(self) -> str:
        weights = f"weight_in={self.weight_in}, weight_out={self.weight_out}"
        return f"Dual({weights}, inside={self.inside}, outside={self.outside})"


def _check_criteria(**criteria: Criterion | None) -> None:
    for name, criterion in criteria.items():
        if criterion is not None and (not callable(criterion) or isinstance(criterion, type)):
            raise TypeError(
                f"{name} must be callable as criterion(logits, judgement) or None, but got "
                f"{criterion!r}; give an object such as Classification() or Entropy()."
            )
