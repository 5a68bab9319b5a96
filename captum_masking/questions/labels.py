"""Labels of one class or of several, and the rows of a batch of questions that are as labelled."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_masking.objective import Judgement


def one_label(labels: Tensor) -> Tensor:
    """Return one class of each image: its label, or the first of several.

    Args:
        labels: ``(B,)``, or ``(B, classes)`` of 0 and 1.

    Returns:
        ``(B,)`` integers.

    Raises:
        ValueError: If labels of several classes hold anything but 0 and 1.

    Source:
        Own.

    Example:
        >>> import torch
        >>> one_label(torch.tensor([[0, 1, 1], [0, 0, 1]]))
        tensor([1, 2])
    """
    if labels.dim() < 2:
        return labels
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be 0 and 1, one column a class, but "
            f"hold values from {labels.min()} to {labels.max()}; give class indices as (B,)."
        )
    return labels.long().argmax(1)


def as_labeled(judgement: Judgement, mask: Any = None) -> tuple[Judgement, Any]:
    """Keep the rows that ask for the label of an image as it is; all of them where there are none.

    Args:
        judgement: Of a batch of questions.
        mask: Of it, ``(B, 1, *spatial)``, or a tuple for several inputs.

    Source:
        Own. Accuracies of composed images and absent classes would mean something else.

    Example:
        >>> import torch
        >>> logits = torch.zeros(2, 3)
        >>> there = torch.tensor([True, False])
        >>> said = Judgement(logits, logits, logits, torch.tensor([0, 1]), None, there, there)
        >>> as_labeled(said)[0].target
        tensor([0])
    """
    rows = judgement.as_labeled
    if judgement.present is None or not rows.any():
        return judgement, mask
    masks = tuple(m[rows] for m in mask) if isinstance(mask, tuple) else mask
    masks = masks[rows] if isinstance(mask, Tensor) else masks
    return judgement.only(rows), masks
