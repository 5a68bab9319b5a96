"""Does the mask find the object? The published error, with and without the classifier's say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking.metrics.localization.boxes import masks_to_boxes
from captum_masking.metrics.localization.overlap import exact_ious
from captum_masking.metrics.mean import ImageMetric, MeanOverImages


class LocalizationError(ImageMetric):
    """Share of images whose mask misses the object; see `localization_error`.

    Args:
        published: As in `localization_error`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric LE, with the box as in `masks_to_boxes`.

    Example:
        >>> metric = LocalizationError()
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[:, :, :2, :2] = 1
        >>> metric.update(mask, [torch.tensor([[0, 0, 2, 2]]), torch.tensor([[2, 2, 4, 4]])])
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False
    missed: Tensor
    seen: Tensor

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published
        self.add_state("missed", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch.

        Args:
            masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence.
            boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid.

        Raises:
            ValueError: As `localization_error` does.
        """
        errors = localization_error(masks, boxes, published=self.published)
        self.missed += errors.sum().long().to(self.missed.device)
        self.seen += len(errors)

    def compute(self) -> Tensor:
        """Return the share of missed images, a scalar in [0, 1].

        Raises:
            RuntimeError: If no image was scored.
        """
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(masks, boxes) before compute().")
        return self.missed / self.seen

    def __repr__(self) -> str:
        return f"LocalizationError(published={self.published})"


def localization_error(
    masks: Tensor, boxes: Sequence[Tensor], *, published: bool = False
) -> Tensor:
    """Say of each mask whether it misses the object.

    A mask finds its object if the tight box around its largest part overlaps one of the image's
    boxes with an intersection over union above 0.5. A mask without a box (constant, empty, or
    with NaN; see `masks_to_boxes`) misses.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, in pixels of the mask's grid, half-open. A
            box may reach beyond the frame and then counts with its whole area; see `clip_boxes`.
        published: Leave out the last row and column of the mask's box, and cut the true boxes to
            whole pixels, as the published code does.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 where the object is missed, 0 where it is found.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            the boxes are fractions.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric LE. Differs, unless ``published``, in the box, which here
        includes its last row and column, and always in masks without a box, which the published
        code left undefined.

    Example:
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1  # its box is (0, 0, 2, 2)
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 3]])])  # IoU 4 / 6
        tensor([0.])
        >>> localization_error(mask, [torch.tensor([[0, 0, 2, 4]])])  # IoU 4 / 8 is not above 0.5
        tensor([1.])
    """
    found = masks_to_boxes(masks, published=published)
    return _missed(exact_ious(found, boxes, published=published)).to(masks.device)


def localization_error_of_boxes(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Say of each predicted box whether it misses the object.

    This is `localization_error` after the masks have become boxes, and the way to score the
    trivial baselines, since a mask of ones has no box::

        localization_error_of_boxes(whole_frame(224, 224), boxes).mean()
        localization_error_of_boxes(centered_square(224, 224), boxes).mean()

    Args:
        predicted: One box an image ``(B, 4)``, or one for all images ``(4,)``; ``(0, 0, 0, 0)``
            stands for no box.
        boxes: One tensor ``(n, 4)`` an image, n >= 1, on the scale of ``predicted``.

    Returns:
        Float32 ``(B,)`` on the device of ``predicted``: 1 where no box of the image has an
        intersection over union above 0.5 with the predicted one.

    Raises:
        ValueError: If shapes do not fit, an image has no box, a box is empty or not finite, or
            ``boxes`` are fractions while ``predicted`` are pixels.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric LE; the literature's criterion of IoU > 0.5.

    Example:
        >>> from captum_masking.metrics import whole_frame
        >>> boxes = [torch.tensor([[0.0, 0.0, 4.0, 3.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])]
        >>> localization_error_of_boxes(whole_frame(4, 4), boxes)
        tensor([0., 1.])
    """
    return _missed(exact_ious(predicted, boxes)).to(predicted.device)


def _missed(ious: Tensor) -> Tensor:
    return (ious <= 0.5).float()


def om(
    masks: Tensor, boxes: Sequence[Tensor], correct: Tensor, *, published: bool = False
) -> Tensor:
    """Say of each image whether its mask misses the object or its class is not recognized.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence; any dtype and device.
        boxes: One tensor ``(n, 4)`` an image, as in `localization_error`.
        correct: Boolean ``(B,)``: whether the masker's own classifier puts the true class first.
            All true for a baseline without a classifier; OM is then LE.
        published: As in `localization_error`.

    Returns:
        Float32 ``(B,)`` on the masks' device: 1 for an error, 0 where both are right.

    Raises:
        ValueError: As `localization_error` does, and if ``correct`` is not boolean ``(B,)``.
        TypeError: If the boxes of an image are not a tensor.

    Source:
        Phang et al. 2020, metric OM.

    Example:
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> om(mask, [torch.tensor([[0, 0, 2, 2]])] * 2, correct=torch.tensor([True, False]))
        tensor([0., 1.])
    """
    if correct.dtype != torch.bool or correct.shape != masks.shape[:1]:
        raise ValueError(
            f"correct must be a boolean tensor of shape ({len(masks)},), one for each mask, but "
            f"got {correct.dtype} of shape {tuple(correct.shape)}; for logits it is "
            "logits.argmax(1) == target."
        )
    errors = localization_error(masks, boxes, published=published)
    return torch.maximum(errors, (~correct).to(errors))


class OM(MeanOverImages):
    """Share of images missed by the mask or by the classifier; see `om`.

    Args:
        published: As in `localization_error`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Phang et al. 2020, metric OM.

    Example:
        >>> metric = OM()
        >>> mask = torch.zeros(2, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> metric.update(mask, [torch.tensor([[0, 0, 2, 2]])] * 2, torch.tensor([True, False]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, *, published: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> None:
        """Score a batch; the arguments are those of `om`."""
        self.add(om(masks, boxes, correct, published=self.published))

    def __repr__(self) -> str:
        return f"OM(published={self.published})"
