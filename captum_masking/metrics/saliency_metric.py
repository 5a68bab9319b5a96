"""The Saliency Metric: is the image recognized from a small crop of it?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_masking._base.captum import TargetType, as_class_logits, class_indices
from captum_masking.metrics.boxes import masks_to_boxes, salient_boxes
from captum_masking.metrics.classifier import (
    Classifier,
    check_images,
    check_maps,
    logits_of,
    of_class,
)
from captum_masking.metrics.maps import check_predicted, double, facts

_LEAST_AREA = 0.05  # Dabkowski & Gal 2017; below it a crop gets no cheaper

_facts = facts(higher_is_better=False, lowest=math.log(_LEAST_AREA), highest=None)


@_facts
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
    """Return the log of the area of each mask's box minus the log of the confidence in its crop.

    ``log(max(a, 0.05)) - log(p)``, natural logarithms, for the area a of the box as a fraction of
    the frame, and the target's probability p on the crop, enlarged to the size of the image
    (bicubic, aspect ratio not kept). The box holds all pixels above the threshold. A mask without a
    box is scored on an image of the mean color, with a = 0.05. The paper uses the original
    classifier as judge, also for a masker that was trained with another one.

    Args:
        published: Box the largest part only and leave out its last row and column, as the code
            of Phang et al. does; a part of one row or column then has no box.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])  # the crop is 2 everywhere
        >>> saliency_metric(torch.nn.Flatten(), inputs, mask, target=0)  # log 1/2 - log 1/4
        tensor([0.6931])
    """
    check_images(classifier, inputs, batch_size)
    check_maps(inputs, masks)
    boxes_of = partial(masks_to_boxes, published=True) if published else salient_boxes
    found = boxes_of(masks, threshold)
    return saliency_metric_of_boxes(classifier, inputs, found, target, batch_size=batch_size)


@_facts
def saliency_metric_of_boxes(
    classifier: Classifier,
    inputs: Tensor,
    predicted: Tensor,
    target: TargetType,
    *,
    batch_size: int = 32,
) -> Tensor:
    """Return `saliency_metric` for boxes, rounded to whole pixels and clipped to the frame."""
    check_images(classifier, inputs, batch_size)
    boxes, images = _whole_pixels(predicted, inputs), inputs.detach()
    crops = logits_of(classifier, _crops(images, boxes, batch_size))
    whole = crops if target is not None else logits_of(classifier, images.split(batch_size))
    height, width = inputs.shape[2:]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1).to(inputs.device) / (height * width)
    confidence = double(as_class_logits(crops)).log_softmax(1)
    confidence = of_class(confidence, class_indices(whole, target))
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
