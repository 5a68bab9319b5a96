"""The Saliency Metric: is the image recognized from a small crop of it?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_masking._base.captum import TargetType
from captum_masking._base.target import as_class_logits, class_indices
from captum_masking.metrics.answers import (
    Classifier,
    MeanScore,
    answers,
    check_maps,
    check_question,
    chosen,
)
from captum_masking.metrics.boxes import masks_to_boxes
from captum_masking.metrics.maps import check_masks, check_predicted, double, is_finite, planes_of

_LEAST_AREA = 0.05  # Dabkowski & Gal 2017; below it a crop gets no cheaper


def salient_boxes(masks: Tensor, threshold: float | None = None) -> Tensor:
    """Return the tightest box around all that is salient in each mask.

    The mask is cut at its own mean (strictly above), as in `masks_to_boxes`, which boxes only the
    largest part.

    Args:
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.
        threshold: One value for all masks in place of their means; a constant mask above it is
            then the whole frame.

    Returns:
        Float32 ``(B, 4)`` on the masks' device, in pixels, half-open; ``(0, 0, 0, 0)`` is no box:
        a constant mask, one with NaN or infinity, and one that nowhere exceeds the threshold.

    Raises:
        ValueError: If the masks do not have one of these shapes.

    Source:
        Dabkowski & Gal 2017, the rectangle of their Saliency Metric.

    Example:
        >>> salient_boxes(torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]]))
        tensor([[0., 0., 3., 2.]])
    """
    check_masks(masks)
    planes = planes_of(masks)
    # Rounding may put the mean of a constant below the constant, which would then be all on.
    cut = torch.maximum(planes.mean((1, 2), True), planes.amin((1, 2), True))
    on = planes > (cut if threshold is None else threshold)
    on &= is_finite(planes)[:, None, None]
    (x0, x1), (y0, y1) = _ends(on.any(1)), _ends(on.any(2))
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def _ends(on: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first place of each row ``(B, N)`` that is on and the one after the last."""
    first, length = on.int().argmax(1), on.shape[1]
    end = length - on.flip(1).int().argmax(1)
    return first, end.where(on.any(1), 0)


def saliency_metric(
    classifier: Classifier,
    inputs: Tensor,
    masks: Tensor,
    target: TargetType,
    *,
    threshold: float | None = None,
    published: bool = False,
    batch_size: int = 32,
) -> Tensor:
    """Return the Saliency Metric of each mask: log of its box's area minus log of the confidence.

    ``log(max(a, 0.05)) - log(p)``, natural logarithms, for the area a of the box as a fraction of
    the frame, and the target's probability p on the crop, enlarged to the size of the image
    (bicubic, aspect ratio not kept). Lower is better. A mask without a box (constant, empty, or
    with NaN; see `salient_boxes`) is judged by an image of the mean color, with a = 0.05.

    Args:
        classifier: The one that judges, called as ``classifier(inputs)``; returns logits
            ``(B, classes)``. Published is the original classifier, also where the masker was
            trained with another one.
        inputs: ``(B, C, H, W)``, floating point, normalised so that zero is the mean color.
        masks: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence.
        target: Any form Captum takes; None is the class predicted for the whole image.
        threshold: One value for all masks in place of their means.
        published: Box the largest part only and leave out its last row and column, as the code
            of Phang et al. does; a part of one row or column then has no box.
        batch_size: Images shown to the classifier at a time.

    Returns:
        Float32 ``(B,)``, at least log(0.05) = -2.996, on the device of ``inputs``.

    Raises:
        ValueError: If shapes do not fit, or inputs are not finite.
        TypeError: If the classifier is not callable, or inputs are not floating point.
        TargetError: If the target does not name one class for each image.

    Source:
        Dabkowski & Gal 2017, Saliency Metric: the rectangle holds all that is salient. Phang et
        al. 2020 box the largest part alone: ``published``, or with its last row and column
        ``saliency_metric_of_boxes(classifier, inputs, masks_to_boxes(masks), target)``.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # the crop is 2 everywhere
        >>> saliency_metric(torch.nn.Flatten(), inputs, mask, target=0)  # log 1/2 - log 1/4
        tensor([0.6931])
    """
    check_question(classifier, inputs, batch_size)
    check_maps(inputs, masks)
    found = (
        masks_to_boxes(masks, threshold, published=True)
        if published
        else salient_boxes(masks, threshold)
    )
    return saliency_metric_of_boxes(classifier, inputs, found, target, batch_size=batch_size)


def saliency_metric_of_boxes(
    classifier: Classifier,
    inputs: Tensor,
    predicted: Tensor,
    target: TargetType,
    *,
    batch_size: int = 32,
) -> Tensor:
    """Return the Saliency Metric of boxes in place of masks, such as the trivial baselines.

    Args:
        classifier: As in `saliency_metric`.
        inputs: As in `saliency_metric`.
        predicted: One box an image ``(B, 4)``, or one for all images ``(4,)``, in pixels,
            half-open; rounded to whole pixels and clipped to the frame. ``(0, 0, 0, 0)`` stands
            for no box.
        target: As in `saliency_metric`.
        batch_size: As in `saliency_metric`.

    Returns:
        Float32 ``(B,)`` on the device of ``inputs``.

    Raises:
        ValueError: As `saliency_metric` does, and if the boxes have another shape.
        TypeError: As `saliency_metric` does.
        TargetError: As `saliency_metric` does.

    Source:
        Dabkowski & Gal 2017, Saliency Metric.

    Example:
        >>> from captum_masking.metrics.boxes import whole_frame
        >>> inputs = torch.zeros(1, 1, 2, 2)
        >>> saliency_metric_of_boxes(torch.nn.Flatten(), inputs, whole_frame(2, 2), target=0)
        tensor([1.3863])
    """
    check_question(classifier, inputs, batch_size)
    boxes = _whole_pixels(predicted, inputs)
    asked = inputs.detach()
    shown = answers(classifier, _crops(asked, boxes, batch_size))
    whole = shown if target is not None else answers(classifier, asked.split(batch_size))
    classes = class_indices(whole, target)
    height, width = inputs.shape[2:]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).to(inputs.device) / (height * width)
    confidence = chosen(double(as_class_logits(shown)).log_softmax(1), classes)
    return (double(areas).clamp(min=_LEAST_AREA).log() - confidence).float()


def _whole_pixels(predicted: Tensor, inputs: Tensor) -> Tensor:
    """Return boxes ``(B, 4)`` of integers within the frame, on the CPU."""
    check_predicted(predicted)
    if predicted.dim() == 2 and len(predicted) != len(inputs):
        raise ValueError(
            f"predicted must hold one box for each of {len(inputs)} images, or be one box (4,) "
            f"for all, but got {len(predicted)} boxes."
        )
    height, width = inputs.shape[2:]
    ends = torch.tensor([width, height, width, height])
    boxes = predicted.detach().cpu().double().nan_to_num(0).round()
    boxes = torch.minimum(boxes.clamp(min=0), ends).long().expand(len(inputs), 4)
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    return boxes.masked_fill(empty[:, None], 0)


def _crops(inputs: Tensor, boxes: Tensor, batch_size: int) -> Iterator[Tensor]:
    for images, found in zip(inputs.split(batch_size), boxes.split(batch_size), strict=True):
        yield torch.cat([_crop(*pair) for pair in zip(images, found.tolist(), strict=True)])


def _crop(image: Tensor, box: list[int]) -> Tensor:
    x0, y0, x1, y1 = box
    if x1 <= x0:
        return torch.zeros_like(image)[None]
    pixels = image[None, :, y0:y1, x0:x1]
    wide = pixels.float() if pixels.dtype.itemsize < 4 else pixels
    resized = interpolate(wide, image.shape[1:], mode="bicubic", align_corners=False)
    return resized.to(image.dtype)


class SaliencyMetric(MeanScore):
    """Mean over images of `saliency_metric`.

    Args:
        threshold: As in `saliency_metric`.
        published: As in `saliency_metric`.
        batch_size: Images shown to the classifier at a time.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Dabkowski & Gal 2017, Saliency Metric; with ``published`` SM of Phang et al. 2020.

    Example:
        >>> metric = SaliencyMetric()
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, mask, target=0)
        >>> metric.compute()
        tensor(0.6931)
    """

    higher_is_better = False
    plot_lower_bound = math.log(_LEAST_AREA)
    plot_upper_bound = None
    score = staticmethod(saliency_metric)
    options = ("threshold", "published", "batch_size")

    def __init__(
        self,
        *,
        threshold: float | None = None,
        published: bool = False,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.threshold, self.published, self.batch_size = threshold, published, batch_size
