"""The objective of a masker that is asked for a class, which may share the image or be absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_masking.objective.belief import Belief, OneOf
from captum_masking.objective.criterion import Entropy
from captum_masking.objective.dual import Dual
from captum_masking.objective.judgement import Judgement

if TYPE_CHECKING:
    from captum_masking.objective import Criterion


class Believe:
    """See the class that was asked for where it is there, and do not where it is not.

    ``-log p(target)``, or ``-log(1 - p(target))`` for an absent class. With ``OneOf()`` a class is
    only believed where all the others are excluded, so the mask must keep to its own evidence.

    Args:
        belief: How logits are read.

    Source:
        Own; cross entropy as in Phang et al. 2020 where the class is there.

    Example:
        >>> logits, target = torch.zeros(1, 4), torch.tensor([0])
        >>> said = Judgement(logits, logits, logits, target)
        >>> Believe()(logits, said)  # log 4
        tensor([1.3863])
        >>> Believe()(logits, said._replace(present=torch.tensor([False])))  # -log 3/4
        tensor([0.2877])
    """

    def __init__(self, belief: Belief = OneOf()) -> None:
        self.belief = belief

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        yes = self.belief.yes(logits, judgement.target)
        if judgement.present is None:
            return -yes
        return -torch.where(judgement.present, yes, self.belief.no(logits, judgement.target))

    def __repr__(self) -> str:
        return f"Believe(belief={self.belief})"


class Vanish:
    """Leave nothing of the class that was asked for; other classes may stay.

    An image of one class alone is judged by ``alone``. Of an image with other classes in it only
    the target must vanish, and this counts only where the clean image showed it. An absent class
    is 0: there is nothing to take away.

    Args:
        alone: Criterion for images of one class.
        belief: How logits are read.

    Source:
        Own; ``Entropy()`` is that of Phang et al. 2020, as published.

    Example:
        >>> logits, target = torch.tensor([[1.0, 0.0, 0.0]] * 2), torch.tensor([0, 0])
        >>> said = Judgement(logits, logits, logits, target, alone=torch.tensor([True, False]))
        >>> Vanish()(logits, said)  # minus its entropy; log(0.5761 / (1 / 3))
        tensor([-0.9753,  0.5472])
    """

    def __init__(self, alone: Criterion = Entropy(), belief: Belief = OneOf()) -> None:
        self.alone, self.belief = alone, belief

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        by_itself = self.alone(logits, judgement)
        if judgement.alone is not None:
            left = self.belief.still_there(logits, judgement.target)
            left = left * self.belief.found(judgement.logits, judgement.target)
            by_itself = torch.where(judgement.alone, by_itself, left)
        return by_itself if judgement.present is None else by_itself * judgement.present

    def __repr__(self) -> str:
        return f"Vanish(alone={self.alone}, belief={self.belief})"


def target_aware(belief: Belief = OneOf()) -> Dual:
    """Return the objective of maskers that are asked for a class: the trainer's default for them.

    Args:
        belief: ``OneOf()``, or ``AnyOf()`` for multi-label classifiers.

    Source:
        Own.

    Example:
        >>> target_aware().inside
        Believe(belief=OneOf())
    """
    return Dual(inside=Believe(belief), outside=Vanish(belief=belief))
