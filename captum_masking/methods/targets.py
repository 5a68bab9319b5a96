"""Targets that are no class: functions from what a detector or segmentation network returns.

A target is called with what the model returns, for the examples as they are or for several copies
of them one after the other, and returns one score for each, ``(n * B,)``. A function is enough;
these are the usual ones. They work with every method of :mod:`captum_masking.methods` and with
``MaskingSaliency`` of a model without a masker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.boxes import box_iou
from captum_masking.parts.masker import linear

__all__ = ["BoxScores", "RegionLogits"]


class BoxScores:
    """How surely a detector finds given boxes again.

    The sum over boxes of ``score * IoU`` of the detection of that label for which it is highest; 0
    where there is none. Detectors leave out what scores too low: the score is then flat, and a
    method that follows gradients has nothing to go by. Lower their limit,
    ``box_score_thresh=0.001`` or alike.

    Args:
        boxes: For each example ``(n, 4)``, in pixels, as the model gives them.
        labels: For each example ``(n,)``, integers.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([1])
        >>> half = {"boxes": torch.tensor([[0.0, 0, 2, 4]]), "labels": labels}
        >>> BoxScores([boxes], [labels])([{**half, "scores": torch.tensor([0.8])}])
        tensor([0.4000])
    """

    def __init__(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        if [len(each) for each in boxes] != [len(each) for each in labels]:
            raise ValueError(
                "expected for each example as many labels as boxes, but got "
                f"{[len(each) for each in labels]} and {[len(each) for each in boxes]}."
            )
        self.boxes, self.labels = list(boxes), list(labels)

    def __call__(self, output: Sequence[dict[str, Tensor]]) -> Tensor:
        """Score the detections of each example: dicts with boxes, labels and scores."""
        _check_copies(len(output), len(self.boxes))
        return torch.stack(
            [self._score(found, i % len(self.boxes)) for i, found in enumerate(output)]
        )

    def _score(self, found: dict[str, Tensor], index: int) -> Tensor:
        boxes, scores = self.boxes[index].to(found["boxes"]), found["scores"]
        if not len(scores) or not len(boxes):
            return scores.sum() * 0
        alike = self.labels[index].to(scores.device)[:, None] == found["labels"]
        return (box_iou(boxes, found["boxes"]) * scores * alike).amax(1).sum()


class RegionLogits:
    """The logits of a class of a segmentation network, over a region of each example.

    Args:
        classes: One, or one for each example.
        region: ``(B, 1, *spatial)``, where it is 1, or how much a pixel counts; resampled to the
            size of the logits. None is everywhere.
        mean: Whether to divide by the size of the region, which keeps the score as large as one
            logit; False is the sum.

    Example:
        >>> logits, region = torch.tensor([[[[1.0, 2.0]], [[3.0, 7.0]]]]), torch.ones(1, 1, 1, 2)
        >>> RegionLogits(1, region)({"out": logits}), RegionLogits(1, region, mean=False)(logits)
        (tensor([5.]), tensor([10.]))
    """

    def __init__(
        self, classes: int | Sequence[int], region: Tensor | None = None, *, mean: bool = True
    ) -> None:
        self.classes = [classes] if isinstance(classes, int) else list(classes)
        self.region, self.mean = region, mean

    def __call__(self, output: Any) -> Tensor:
        """Score logits ``(n * B, K, *spatial)``; out of a dict, those named ``out``."""
        logits: Tensor = output if isinstance(output, Tensor) else output["out"]
        region = logits.new_ones(1, 1, *logits.shape[2:]) if self.region is None else self.region
        region = linear(region.to(logits), logits.shape[2:])
        rows = torch.arange(len(logits), device=logits.device)
        for given in (len(region), len(self.classes)):
            _check_copies(len(logits), given)
        classes = torch.tensor(self.classes, device=logits.device)[rows % len(self.classes)]
        region = region[rows % len(region), 0]
        summed = (logits[rows, classes] * region).flatten(1).sum(1)
        return summed / region.flatten(1).sum(1).clamp_min(1e-12) if self.mean else summed


def _check_copies(count: int, given: int) -> None:
    if not given or count % given:
        raise ValueError(
            f"the target is made for {given} examples, but the model answered for {count}; make "
            "one for each batch, and explain a few examples with a target of their own."
        )
