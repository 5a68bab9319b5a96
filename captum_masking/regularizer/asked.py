"""Small masks for the class that was asked for, and none where it is not."""

from __future__ import annotations

from torch import Tensor

from captum_masking.objective import Judgement
from captum_masking.objective.belief import Belief, OneOf
from captum_masking.objective.weights import check_weights
from captum_masking.regularizer.combined import Sum, smooth


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
        Own; as :func:`~captum_masking.regularizer.smooth`.

    Example:
        >>> asked()
        AskedArea(weight_in=1.0, weight_out=10.0, weight_elsewhere=11.0, belief=OneOf())
        + TotalVariation(weight=0.008, border=0.3, scale_free=True)
    """
    return smooth(AskedArea(belief=belief))
