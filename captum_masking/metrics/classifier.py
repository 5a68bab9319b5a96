"""Run a classifier in batches, and measure its robustness and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.borrow import evaluated, module_of, seeded
from captum_masking._base.captum import ToLogits, as_class_logits, as_they_are, find_to_logits
from captum_masking._base.checks import (
    check_area,
    check_finite,
    check_inputs,
    check_labels,
    check_same_device,
    with_rows,
)
from captum_masking.metrics.maps import check_masks, double, most_salient
from captum_masking.parts.infill import Infill, Mean
from captum_masking.parts.masking import mask_images

#: Maps images ``(B, C, H, W)`` to logits ``(B, classes)``.
Classifier = Callable[[Tensor], Tensor]


@torch.no_grad()
def logits_of(classifier: Classifier, batches: Iterable[Tensor]) -> Tensor:
    return torch.cat([output for _, output in outputs_of(classifier, ((x, x) for x in batches))])


@torch.no_grad()
def probabilities_of(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return probabilities ``(N, L)`` of pairs: images ``(n, C, H, W)`` and classes ``(n, L)``."""
    pairs = outputs_of(classifier, batches)
    return torch.cat([softmax(output).gather(1, classes) for classes, output in pairs])


def outputs_of(
    classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    to_logits: ToLogits | None = None
    with evaluated(classifier) as network:
        for images, labels in batches:
            output = with_rows(network(images), images)
            to_logits = to_logits or find_to_logits(network, output, (images,), network)
            yield labels, (to_logits or as_they_are)(output)


def softmax(output: Tensor) -> Tensor:
    return double(as_class_logits(output)).softmax(1)


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes[:, None])[:, 0]


# ---- Quality of a classifier


@torch.no_grad()
def occluded_accuracy(
    classifier: Classifier,
    inputs: Tensor,
    target: Tensor,
    masks: Tensor | None = None,
    *,
    areas: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    infill: Infill = Mean(),
    seed: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return ``(B, areas)``: 1 where a class is still recognized with a part of the image hidden.

    The same seed hides the same parts, so two classifiers can be compared image by image.

    Args:
        target: The true classes, integers ``(B,)``.
        masks: Their most salient pixels are hidden. None hides a rectangle at a random place with
            the frame's aspect ratio; larger areas contain the smaller ones.
        areas: Hidden shares of the pixels, in [0, 1).

    Example:
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> target = torch.tensor([0])
        >>> occluded_accuracy(torch.nn.Flatten(), inputs, target, masks, areas=(0.0, 0.5))
        tensor([[1., 0.]])
    """
    check_images(classifier, inputs, batch_size)
    check_labels(target, inputs)
    for area in areas:
        check_area(area or None)  # 0 is allowed
    if masks is not None:
        check_maps(inputs, masks)
    corners = torch.rand(len(inputs), 2, generator=torch.Generator().manual_seed(seed))
    right = []
    for area in areas:
        holes = _rectangles(inputs, corners, area) if masks is None else most_salient(masks, area)
        parts = inputs.detach().split(batch_size), holes.to(inputs).split(batch_size)
        with seeded(inputs, seed):  # for random infills
            hidden = (mask_images(*pair, infill)[1] for pair in zip(*parts, strict=True))
            output = as_class_logits(logits_of(classifier, hidden))
        check_labels(target, inputs, classes=output.shape[1])
        right.append(output.argmax(1) == target.to(output.device))
    return torch.stack(right, dim=1).float()


def _rectangles(inputs: Tensor, corners: Tensor, area: float) -> Tensor:
    """Return holes ``(B, 1, H, W)`` inside the frame, placed by two numbers in [0, 1]."""
    holes = torch.zeros(len(inputs), 1, *inputs.shape[2:])
    sides = [round(side * area**0.5) for side in inputs.shape[2:]]
    for hole, corner in zip(holes, corners.tolist(), strict=True):
        pairs = zip(corner, inputs.shape[2:], sides, strict=True)
        top, left = (round(share * (whole - side)) for share, whole, side in pairs)
        hole[:, top : top + sides[0], left : left + sides[1]] = 1
    return holes


@torch.no_grad()
def calibration_error(
    classifier: Classifier,
    inputs: Tensor,
    target: Tensor,
    *,
    bins: int = 15,
    batch_size: int = 32,
) -> Tensor:
    """Return the expected calibration error of all images, in [0, 1]; lower is better.

    The mean over images of ``|accuracy - confidence|`` of their bin of confidence. With only a few
    hundred images it is some points too high.

    Args:
        target: The true classes, integers ``(B,)``.
        bins: Number of equal bins in [0, 1].

    Source:
        Guo et al. 2017, the expected calibration error.

    Example:
        >>> inputs = torch.tensor([[[[0.0, 9.0]]], [[[0.0, 9.0]]]])  # sure of class 1, right once
        >>> calibration_error(torch.nn.Flatten(), inputs, torch.tensor([1, 0]))
        tensor(0.4999)
    """
    # Late, since torchmetrics is slow to import.
    from torchmetrics.functional.classification import multiclass_calibration_error

    check_images(classifier, inputs, batch_size)
    scores = softmax(logits_of(classifier, inputs.detach().split(batch_size)))
    check_labels(target, inputs, classes=scores.shape[1])
    return multiclass_calibration_error(
        scores.float(), target.to(scores.device), scores.shape[1], n_bins=bins, norm="l1"
    )


def check_images(classifier: Any, inputs: Any, batch_size: int = 1) -> None:
    if not callable(classifier):
        raise TypeError(
            f"classifier must be callable as classifier(inputs), but got "
            f"{type(classifier).__name__}; pass a module or a function that returns logits."
        )
    check_inputs(inputs)
    if inputs.dim() != 4 or not inputs.numel():
        raise ValueError(
            f"inputs must be images (B, C, H, W), at least one, but got {tuple(inputs.shape)}; "
            "add a batch dimension with inputs[None] if this is one image."
        )
    check_finite(inputs, "inputs", "remove or repair these images.")
    check_same_device(inputs, module_of(classifier))
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}.")


def check_maps(inputs: Tensor, masks: Tensor) -> None:
    check_masks(masks)
    batch, _, height, width = inputs.shape
    if (len(masks), *masks.shape[-2:]) != (batch, height, width):
        raise ValueError(
            f"masks must have shape {(batch, 1, height, width)} or {(batch, height, width)} to "
            f"match inputs of shape {tuple(inputs.shape)}, but got {tuple(masks.shape)}; "
            "resample the maps to the images' size first."
        )
