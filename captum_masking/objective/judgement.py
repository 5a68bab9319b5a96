"""All that was said of one batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Judgement(NamedTuple):
    """All that was said of one batch: by the classifier on clean, by the judge on masked images.

    Attributes:
        logits: Of the clean images, ``(B, classes)``.
        logits_in: Of the masked-in images, ``(B, classes)``.
        logits_out: Of the masked-out images, ``(B, classes)``.
        target: Class of each image, ``(B,)``, integers.
        area: The size that the masker was asked for, a fraction of each image ``(B,)``, or None
            where it was not asked.

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
    area: Tensor | None = None

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
