"""Localization error and cost of a trained masker beside Captum's own methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from captum.attr import Attribution, IntegratedGradients, LayerAttribution, LayerGradCam, Saliency
from torch import Tensor

from captum_masking.data import BoxedImages, DigitsOnTextures
from captum_masking.metrics.localization import (
    boxes_to_pixels,
    centered_square,
    localization_error,
    localization_error_of_boxes,
    whole_frame,
)
from captum_masking.model import MaskingModel
from captum_masking.modes import eval_mode
from captum_masking.saliency import MaskingSaliency

_TIMED_BATCHES = 4

#: Maps a batch and its classes to a map ``(B, 1, H, W)``, larger for more evidence.
Method = Callable[[Tensor, Tensor], Tensor]


def methods(model: MaskingModel) -> dict[str, Method]:
    """Make each method as a user of Captum would, reduced to one channel.

    Args:
        model: Its classifier is explained; Grad-CAM reads the deepest layer that its masker reads.

    Returns:
        Methods by name.

    Source:
        Captum; gradients are reduced by the sum of absolute values over channels.

    Example:
        See :func:`compare`.
    """
    classifier = model.classifier
    deepest = classifier.get_submodule(model.layers[-1])

    def absolute(method: Attribution, **options: Any) -> Method:
        return lambda inputs, target: (
            method.attribute(inputs.clone().requires_grad_(), target=target, **options)
            .abs()
            .sum(1, keepdim=True)
        )

    def grad_cam(inputs: Tensor, target: Tensor) -> Tensor:
        maps = LayerGradCam(classifier, deepest).attribute(inputs, target, relu_attributions=True)
        return LayerAttribution.interpolate(maps, tuple(inputs.shape[2:]), "bilinear")

    return {
        "Captum Saliency": absolute(Saliency(classifier)),
        "Captum IntegratedGradients": absolute(
            IntegratedGradients(classifier), internal_batch_size=100
        ),
        "Captum LayerGradCam": grad_cam,
        "MaskingSaliency": lambda x, t: MaskingSaliency(model).attribute(x, target=t)[:, :1],
    }


class Score(NamedTuple):
    """How one method did.

    Attributes:
        name: Of the method.
        errors: ``(images,)``, 1 where the object was missed.
        forwards: Time in units of the classifier's own forward pass.

    Source:
        Own.
    """

    name: str
    errors: Tensor
    forwards: float


def compare(
    model: MaskingModel,
    images: BoxedImages | DigitsOnTextures,
    *,
    batch_size: int = 50,
    skip: Collection[str] = (),
) -> list[Score]:
    """Score every method, and the two trivial boxes, on the same images.

    Args:
        model: Trained.
        images: Items ``(image, label)``, each with ``boxes``; the label is the class explained.
        batch_size: Images at a time.
        skip: Names of methods to leave out.

    Returns:
        One score a method, the trivial ones first.

    Source:
        Own; the error is that of Phang et al. 2020.
    """
    batches = _batches(images, batch_size)
    truth = [boxes for _, _, found in batches for boxes in found]
    height, width = batches[0][0].shape[2:]
    scores = [
        Score("whole frame", localization_error_of_boxes(whole_frame(height, width), truth), 0),
        Score(
            "centred square", localization_error_of_boxes(centered_square(height, width), truth), 0
        ),
    ]
    with eval_mode(model):
        forward = _seconds(torch.no_grad()(lambda inputs, _: model(inputs)), batches)
        for name, method in methods(model).items():
            if name in skip:
                continue
            errors = [localization_error(method(x, t).detach(), b) for x, t, b in batches]
            scores.append(Score(name, torch.cat(errors), _seconds(method, batches) / forward))
    return scores


def _batches(images: BoxedImages | DigitsOnTextures, size: int) -> list[tuple]:
    batches = []
    for start in range(0, len(images), size):
        indices = range(start, min(start + size, len(images)))
        inputs, target = zip(*(images[index] for index in indices), strict=True)
        height, width = inputs[0].shape[1:]
        boxes = [boxes_to_pixels(images.boxes[index], height, width) for index in indices]
        batches.append((torch.stack(inputs), torch.tensor(target), boxes))
    return batches


def _seconds(method: Method, batches: list[tuple]) -> float:
    """Time a method on a few batches, after one to warm up."""
    inputs, target, _ = batches[0]
    method(inputs, target)
    started = time.perf_counter()
    for inputs, target, _ in batches[:_TIMED_BATCHES]:
        method(inputs, target)
    return time.perf_counter() - started
