"""One side of the objective: ``criterion(logits, judgement) -> (B,)``, lower is better."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import cross_entropy

from captum_masking.objective.judgement import Judgement


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each prediction.

    Args:
        logits: ``(B, classes)``.

    Returns:
        ``(B,)``, in nats, between 0 and ``log(classes)``.

    Source:
        Shannon 1948; natural logarithm as in Phang et al. 2020.

    Example:
        >>> import torch
        >>> entropy(torch.zeros(1, 2))
        tensor([0.6931])
    """
    log_probabilities = logits.log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


class Classification:
    """Recognise the image, or do not: cross entropy to the target, or minus that.

    Args:
        maximize: True pushes towards the target, False away from it.

    Source:
        Phang et al. 2020, the "classification" criterion; not gated, as published.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 2)
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Classification()(logits, said), Classification(maximize=False)(logits, said)
        (tensor([0.6931]), tensor([-0.6931]))
    """

    def __init__(self, *, maximize: bool = True) -> None:
        self.maximize = maximize

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        loss = cross_entropy(logits, judgement.target, reduction="none")
        return loss if self.maximize else -loss

    def __repr__(self) -> str:
        return f"Classification(maximize={self.maximize})"


class Entropy:
    """Be unsure of the image, or sure: minus the entropy of the prediction, or plus.

    Args:
        maximize: True pushes towards a uniform prediction, False towards a sure one of whatever
            class.
        gated: Whether an image counts only where its clean version was classified correctly
            (others are 0, and the mean still divides by the whole batch): where there was no
            recognition there is none to take away.

    Source:
        Phang et al. 2020, the "entropy" criterion; gated, as published.

    Example:
        >>> import torch
        >>> clean, unsure = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> Entropy()(unsure, Judgement(clean, unsure, unsure, target=torch.tensor([1])))
        tensor([-0.6931])
    """

    def __init__(self, *, maximize: bool = True, gated: bool = True) -> None:
        self.maximize = maximize
        self.gated = gated

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in nats."""
        loss = -entropy(logits) if self.maximize else entropy(logits)
        return judgement.correct * loss if self.gated else loss

    def __repr__(self) -> str:
        return f"Entropy(maximize={self.maximize}, gated={self.gated})"


class Hinge:
    """Put the target's logit above all others by a margin, or below the best of them.

    ``relu(best_other - target + margin)``, or with ``maximize=False``
    ``relu(target - best_other + margin)``.

    Args:
        maximize: True pushes towards the target, False away from it.
        margin: Beyond this distance, in logits, nothing is pushed any more.

    Raises:
        ValueError: If the margin is not finite; in use, if there is no second class.

    Source:
        Dabkowski & Gal 2017, their code: ``Hinge(margin=1.0)`` on the preserved image and
        ``Hinge(maximize=False, margin=5.0)`` on the destroyed one.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.5, 0.0]])
        >>> said = Judgement(logits, logits, logits, target=torch.tensor([0]))
        >>> Hinge()(logits, said)  # 1.5 - 2 + 1
        tensor([0.5000])
    """

    def __init__(self, *, maximize: bool = True, margin: float = 1.0) -> None:
        if not math.isfinite(margin):
            raise ValueError(f"margin must be finite, but got {margin}; published are 1 and 5.")
        self.maximize = maximize
        self.margin = margin

    def __call__(self, logits: Tensor, judgement: Judgement) -> Tensor:
        """Return a loss for each image, ``(B,)``, in logits."""
        if logits.shape[1] < 2:
            raise ValueError(
                f"Hinge compares the target with another class, but the classifier gives "
                f"{logits.shape[1]} logit; use one with a logit for each of two or more classes."
            )
        index = judgement.target[:, None]
        lead = logits.gather(1, index)[:, 0] - logits.scatter(1, index, -math.inf).amax(1)  # (B,)
        return (self.margin - lead if self.maximize else self.margin + lead).relu()

    def __repr__(self) -> str:
        return f"Hinge(maximize={self.maximize}, margin={self.margin})"
