"""Whole images side by side at full size, and a question about each of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_masking.questions.absent import absent_classes, classes_in

_ROWS = _COLUMNS = 2


class Tiled(NamedTuple):
    """Mosaics of 2 x 2 whole images: twice as high and wide as these, and a quarter as many.

    Attributes:
        inputs: Mosaics, ``(B // 4, C, 2 * H, 2 * W)``.
        labels: Of the images, ``(B,)``, or ``(B, classes)`` of 0 and 1.
        parts: Which images each mosaic shows, in reading order, ``(B // 4, 4)``.

    Source:
        Own; the mosaics are those of the grid pointing game (Boehle et al. 2021).

    Example:
        >>> tiled = Tiled.of(torch.rand(9, 3, 6, 6), torch.arange(9))
        >>> tiled.inputs.shape
        torch.Size([2, 3, 12, 12])
        >>> len(tiled.ask_all(torch.zeros(2, 10)))  # one for each image, and an absent class
        5
    """

    inputs: Tensor
    labels: Tensor
    parts: Tensor

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor) -> Tiled:
        """Lay the images of a batch side by side, in random order; up to three are left out."""
        cells = _ROWS * _COLUMNS
        order = torch.randperm(len(inputs))[: len(inputs) // cells * cells].to(inputs.device)
        from captum_masking.metrics.localization import mosaics  # it brings torchmetrics

        return cls(mosaics(inputs[order], _ROWS, _COLUMNS), labels, order.reshape(-1, cells))

    def ask_all(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Ask for a class of each image, and for an absent one.

        Args:
            logits: Of the mosaics, ``(B // 4, classes)``.

        Returns:
            Pairs ``(target, shut)``: classes ``(B // 4,)``, and where they are not,
            ``(B // 4, 1, 2 * H, 2 * W)`` bool.
        """
        there = classes_in(self.labels, self.parts, logits.shape[1])
        single = self.labels if self.labels.dim() == 1 else self.labels.argmax(1)
        targets = [*single[self.parts].unbind(1), absent_classes(logits, there)[0]]
        return [(target, self._elsewhere(target)) for target in targets]

    def _elsewhere(self, target: Tensor) -> Tensor:
        labels = self.labels[self.parts]  # (mosaics, 4), or (mosaics, 4, classes)
        if labels.dim() == 2:
            has = labels == target[:, None]
        else:
            index = target[:, None, None].expand(-1, labels.shape[1], 1)
            has = labels.gather(2, index)[..., 0].bool()
        height, width = (side // 2 for side in self.inputs.shape[2:])
        cells = ~has.reshape(-1, 1, _ROWS, _COLUMNS)
        return cells.repeat_interleave(height, 2).repeat_interleave(width, 3)
