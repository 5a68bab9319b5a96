"""What a classifier says of whole images and of their masked halves, asked for when needed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.infill import Infill, Mean
from captum_masking.masking import mask_images
from captum_masking.metrics.faithfulness.asking import (
    Classifier,
    answers,
    check_maps,
    check_question,
    chosen,
    softmax,
)
from captum_masking.metrics.faithfulness.means import MeanScore
from captum_masking.metrics.localization.checks import check_unit_range
from captum_masking.metrics.localization.planes import finite_planes
from captum_masking.target import class_indices


class Masked:
    """Images, their masks in [0, 1], and the classifier's probabilities ``(B, classes)``.

    Masks with NaN or infinity count as zeros, no evidence. Each of the three answers costs one
    pass of the classifier over the images, the first time that it is asked for.
    """

    def __init__(
        self,
        classifier: Classifier,
        inputs: Tensor,
        masks: Tensor,
        target: TargetType,
        *,
        infill: Infill,
        batch_size: int,
    ) -> None:
        check_question(classifier, inputs, batch_size)
        check_maps(inputs, masks)
        check_unit_range(masks)
        self.classifier, self.inputs = classifier, inputs.detach()
        self.infill, self.batch_size = infill, batch_size
        self.masks = finite_planes(masks)[:, None].clamp(0, 1).to(inputs)
        output = answers(classifier, self.inputs.split(batch_size))
        self.clean, self.target = softmax(output), class_indices(output, target)

    @cached_property
    def masked_in(self) -> Tensor:
        """Of the evidence on infilled surroundings."""
        return self._ask(0)

    @cached_property
    def masked_out(self) -> Tensor:
        """Of the surroundings, with the evidence infilled."""
        return self._ask(1)

    # In the same batches as the clean images: a mask of ones then gives the very same numbers.
    @torch.no_grad()
    def _ask(self, side: int) -> Tensor:
        batches = zip(
            self.inputs.split(self.batch_size), self.masks.split(self.batch_size), strict=True
        )
        shown = (mask_images(x, mask, self.infill)[side] for x, mask in batches)
        return softmax(answers(self.classifier, shown))

    def of_target(self, probabilities: Tensor) -> Tensor:
        """Return the target's share of probabilities ``(B, classes)``, ``(B,)``."""
        return chosen(probabilities, self.target)

    def of_others(self, probabilities: Tensor) -> Tensor:
        """Return what the target leaves to the others: 1 - p, without its rounding near p = 1."""
        return probabilities.scatter(1, self.target[:, None], 0).sum(1)


class MaskedMean(MeanScore):
    """Mean over images of a function of masked images.

    Args:
        infill: What fills the holes.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Own.

    Example:
        >>> from captum_masking.metrics import FidIn
        >>> isinstance(FidIn(), MaskedMean), FidIn()
        (True, FidIn(infill=Mean(), batch_size=32))
    """

    options = ("infill", "batch_size")

    def __init__(self, *, infill: Infill = Mean(), batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.infill, self.batch_size = infill, batch_size
