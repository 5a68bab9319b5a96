"""Classes that are not in an image, and how much mask they get."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_masking.inputs import size_of
from captum_masking.model import MaskingModel


def classes_in(labels: Tensor, parts: Tensor, classes: int) -> Tensor:
    """Say which classes composed images show.

    Args:
        labels: Of the images they were made of, ``(B,)``, or ``(B, classes)`` of 0 and 1.
        parts: Which images each shows, ``(B, parts)``.
        classes: How many there are.

    Returns:
        ``(B, classes)`` bool.

    Source:
        Own.

    Example:
        >>> classes_in(torch.tensor([2, 0]), torch.tensor([[0, 1], [1, 1]]), classes=3)
        tensor([[ True, False,  True],
                [ True, False, False]])
    """
    if labels.dim() == 2:
        return labels[parts].bool().any(1)
    there = torch.zeros(len(parts), classes, dtype=torch.bool, device=labels.device)
    return there.scatter(1, labels[parts], True)


def absent_classes(logits: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a class for each image that is not in it: a quarter of the time the likeliest of these.

    More often, and the label of an image that the classifier mistakes, which is likely too, would
    count as absent. The class with the highest logit is never drawn: of an image that the
    classifier mistakes there is evidence for that one.

    Args:
        logits: ``(B, classes)``.
        there: The classes of each image, ``(B, classes)`` bool.

    Returns:
        ``(target, possible)``, both ``(B,)``; where all classes are there, none is possible.

    Source:
        Own.

    Example:
        >>> logits = torch.tensor([[5.0, 3.0, 1.0]])
        >>> absent_classes(logits, torch.tensor([[False, True, False]]))
        (tensor([2]), tensor([True]))
    """
    logits = logits.detach()
    away = (~there).scatter(1, logits.argmax(1, keepdim=True), False)
    runner_up = logits.float().masked_fill(~away, -math.inf).argmax(1)
    anyone = torch.rand(away.shape).to(logits.device).masked_fill(~away, -1).argmax(1)
    likely = (torch.rand(len(away)) < 0.25).to(logits.device)
    return torch.where(likely, runner_up, anyone), away.any(1)


@torch.no_grad()
def absent_to_present(
    model: MaskingModel, inputs: Tensor, target: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Measure how much mask a class gets that is not there: one of ``fit``'s ``figures``.

    Args:
        model: Target-aware.
        inputs: ``(B, C, *spatial)``.
        target: The class of each, ``(B,)``.
        mask: For ``target``.

    Returns:
        ``absent_to_present``: area of the mask of an absent class over that of the mask for
        ``target``, the median of the batch.

    Source:
        Own.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(36, 3))
        >>> example = torch.rand(2, 1, 8, 8)
        >>> model = MaskingModel(network, target_aware=True, example_inputs=example)
        >>> target, mask = torch.tensor([0, 1]), torch.ones(2, 1, 8, 8)
        >>> list(absent_to_present(model, example, target, mask))
        ['absent_to_present']
    """
    logits, features = model.read(inputs)
    alone = torch.arange(len(target), device=target.device)[:, None]
    there = classes_in(target, alone, logits.shape[1])
    others, possible = absent_classes(logits, there)
    masks = model.decode(features, size_of(inputs), **model.ask(logits, target=others))
    area, asked = (m.flatten(1).mean(1) for m in (masks, mask))
    return {"absent_to_present": (area / asked)[possible].median()}
