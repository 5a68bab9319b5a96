"""The classifier's objective in joint training."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy

from captum_masking.objective.judgement import Judgement
from captum_masking.objective.weights import check_weights


class KeepRecognizing:
    """The classifier's own loss in joint training: clean, masked-in and masked-out images.

    ``CE(logits) + mean(correct * (weight_in * CE(logits_in) + weight_out * CE(logits_out)))``.
    Learning from the masked-out side is what drives the masker to cover all of the evidence.

    Args:
        weight_in: Weight of the masked-in images, >= 0.
        weight_out: Weight of the masked-out images, >= 0.
        gated: Whether masked images count only where the clean one is recognised.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Phang et al. 2020, classifier loss (both weights 1). Differs: masked images count only
        where the clean one is recognised, as in the masker's loss, so that a classifier trained
        from scratch learns clean images first; ``gated=False`` is as published.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> KeepRecognizing()(Judgement(logits, logits, logits, target))  # 3 log 2
        tensor(2.0794)
    """

    def __init__(
        self, weight_in: float = 1.0, weight_out: float = 1.0, *, gated: bool = True
    ) -> None:
        check_weights(weight_in=weight_in, weight_out=weight_out)
        self.weight_in = weight_in
        self.weight_out = weight_out
        self.gated = gated

    def __call__(self, judgement: Judgement) -> Tensor:
        """Return the scalar loss of a batch."""
        clean, inside, outside = (
            cross_entropy(logits, judgement.target, reduction="none") for logits in judgement[:3]
        )
        masked = self.weight_in * inside + self.weight_out * outside  # (B,)
        return (clean + (judgement.correct * masked if self.gated else masked)).mean()

    def __repr__(self) -> str:
        weights = f"weight_in={self.weight_in}, weight_out={self.weight_out}"
        return f"KeepRecognizing({weights}, gated={self.gated})"
