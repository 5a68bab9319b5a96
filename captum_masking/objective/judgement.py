"""All that was said of one batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
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
        present: Whether the class is in the image, ``(B,)`` bool; None is everywhere.
        alone: Whether the image has no other class in it, ``(B,)`` bool; None is everywhere.
        elsewhere: Where it shows other images than one of the class, ``(B, 1, *spatial)`` bool; all
            of an image that does not have the class. None is where ``present`` is False.

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
    present: Tensor | None = None
    alone: Tensor | None = None
    elsewhere: Tensor | None = None

    def only(self, rows: Tensor | slice) -> Judgement:
        """Keep some images: ``rows`` is ``(B,)`` bool, indices, or a slice."""
        kept = [None if part is None else part[rows] for part in self]
        return Judgement(*kept)  # type: ignore[arg-type]

    @property
    def as_labeled(self) -> Tensor:
        """``(B,)`` bool: the image shows the class that was asked for, and no other."""
        everywhere = torch.ones_like(self.target, dtype=torch.bool)
        present = everywhere if self.present is None else self.present
        return present if self.alone is None else present & self.alone

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
