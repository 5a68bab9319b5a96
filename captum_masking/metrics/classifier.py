"""The logits of a classifier on many images: in eval mode, without gradients, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_masking._base.borrow import evaluated, module_of
from captum_masking._base.captum import ToLogits, as_class_logits, as_they_are, find_to_logits
from captum_masking._base.checks import check_finite, check_inputs, check_same_device, with_rows
from captum_masking.metrics.maps import check_masks, double

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


def check_images(classifier: Any, inputs: Any, batch_size: int = 1) -> None:
    if not callable(classifier):
        raise TypeError(
            f"classifier must be callable as classifier(inputs), but got "
            f"{type(classifier).__name__}; give a module or a function that returns logits."
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
        raise ValueError(f"batch_size must be 1 or more images, but got {batch_size}.")


def check_maps(inputs: Tensor, masks: Tensor) -> None:
    check_masks(masks)
    batch, _, height, width = inputs.shape
    if (len(masks), *masks.shape[-2:]) != (batch, height, width):
        raise ValueError(
            f"masks must have shape {(batch, 1, height, width)} or {(batch, height, width)} to "
            f"match inputs of shape {tuple(inputs.shape)}, but got {tuple(masks.shape)}; "
            "resample the maps to the images' size first."
        )
