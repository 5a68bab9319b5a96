"""What the classifier says of masked images, to a loss: ``objective(judgement) -> scalar``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import cross_entropy


class Judgement(NamedTuple):
    """All that was said of one batch: by the classifier on clean, by the judge on masked images.

    Attributes:
        logits: Of the clean images, ``(B, classes)``.
        logits_in: Of the masked-in images, ``(B, classes)``.
        logits_out: Of the masked-out images, ``(B, classes)``.
        target: Class of each image, ``(B,)``, integers.

    Source:
        Phang et al. 2020; the three gates of the published masker loss are its properties.

    Example:
        >>> import torch
        >>> yes, no = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
        >>> judgement = Judgement(yes, no, no, target=torch.tensor([1]))
        >>> judgement.correct, judgement.correct_in, judgement.confused_out
        (tensor([True]), tensor([False]), tensor([True]))
    """

    logits: Tensor
    logits_in: Tensor
    logits_out: Tensor
    target: Tensor

    @property
    def correct(self) -> Tensor:
        """``(B,)`` bool: the clean image is classified correctly."""
        return self.logits.argmax(1) == self.target

    @property
    def correct_in(self) -> Tensor:
        """``(B,)`` bool: the masked-in image is classified correctly."""
        return self.logits_in.argmax(1) == self.target

    @property
    def correct_out(self) -> Tensor:
        """``(B,)`` bool: the masked-out image is still classified correctly."""
        return self.logits_out.argmax(1) == self.target

    @property
    def confused_out(self) -> Tensor:
        """``(B,)`` bool: right on the clean image, wrong once the evidence is masked out."""
        return self.correct & ~self.correct_out


#: Called as ``objective(judgement)``; returns a scalar, lower is better.
Objective = Callable[[Judgement], Tensor]


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


class Dual:
    """Recognise the masked-in image, recognise nothing in the masked-out one.

    ``weight_in * CE(logits_in, target) - weight_out * mean(correct * entropy(logits_out))``.
    The entropy counts only where the clean image was classified correctly (the mean still
    divides by the whole batch): where there was no recognition there is none to take away.

    Args:
        weight_in: Weight of the masked-in side, >= 0.
        weight_out: Weight of the masked-out side, >= 0.

    Source:
        Phang et al. 2020, masker loss of the final model (classification in, entropy out).

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
        >>> Dual()(Judgement(logits, logits, logits, target))  # log 2 - log 2
        tensor(0.)
    """

    def __init__(self, weight_in: float = 1.0, weight_out: float = 1.0) -> None:
        self.weight_in = weight_in
        self.weight_out = weight_out

    def __call__(self, judgement: Judgement) -> Tensor:
        """Return the scalar loss of a batch."""
        recognised = cross_entropy(judgement.logits_in, judgement.target)
        uncertainty = judgement.correct * entropy(judgement.logits_out)  # (B,)
        return self.weight_in * recognised - self.weight_out * uncertainty.mean()

    def __repr__(self) -> str:
        return f"Dual(weight_in={self.weight_in}, weight_out={self.weight_out})"


class KeepRecognizing:
    """The classifier's own loss in joint training: clean, masked-in and masked-out images.

    ``CE(logits) + mean(correct * (weight_in * CE(logits_in) + weight_out * CE(logits_out)))``.
    Learning from the masked-out side is what drives the masker to cover all of the evidence.

    Args:
        weight_in: Weight of the masked-in images, >= 0.
        weight_out: Weight of the masked-out images, >= 0.
        gated: Whether masked images count only where the clean one is recognised.

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
