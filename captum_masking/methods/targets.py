"""Targets for detectors and segmentation networks: functions from their output to a score.

A target is called with the model's output for the examples, or for several copies of the batch, one
after the other. It returns one score each, ``(n * B,)``; any function will do. Targets work with
every method of :mod:`captum_masking.methods` and with ``MaskingSaliency`` of a model without a
masker.
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
    """A detector's confidence in given boxes.

    The sum over boxes of the largest ``score * IoU`` of a detection with that label, or 0.
    Detectors drop low scores, which leaves no gradient; lower their limit, for example
    ``box_score_thresh=0.001``.

    Args:
        boxes: One tensor ``(n, 4)`` per example, in pixels.
        labels: One tensor ``(n,)`` of integers per example.

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
        classes: One class, or one per example.
        region: Weights of pixels, ``(B, 1, *spatial)``, resampled to the size of the logits. None
            is everywhere.
        mean: Whether to divide by the size of the region; False is the sum.

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
            f"the target is made for {given} examples, but the model returned {count}; make one "
            "target per batch."
        )
