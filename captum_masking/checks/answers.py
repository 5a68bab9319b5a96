"""What classifiers answer, and what is asked of them, in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class TargetError(AssertionError, ValueError, IndexError):
    """A target that does not name one class per example.

    It is an ``AssertionError`` and an ``IndexError``, as Captum raises, and a ``ValueError``, as
    Python would.

    Source:
        Own.

    Example:
        >>> issubclass(TargetError, AssertionError) and issubclass(TargetError, ValueError)
        True
    """


def check_output(output: Any) -> None:
    """Refuse a classifier's answer that is not a tensor.

    Raises:
        TypeError: Naming what came.

    Source:
        Own.

    Example:
        >>> check_output(torch.zeros(2, 10))
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"the classifier must return a tensor of logits (B, classes), but returned "
            f"{type(output).__name__}; wrap it, for example in a function returning output.logits."
        )


def check_logits(logits: Any) -> None:
    """Refuse a classifier's answer that is not ``(B, classes)`` logits.

    Raises:
        TypeError: If the answer is not a tensor.
        ValueError: If it does not have two dimensions.

    Source:
        Own.

    Example:
        >>> check_logits(torch.zeros(2, 10))
    """
    check_output(logits)
    if logits.dim() != 2:
        raise ValueError(
            f"the classifier must return logits of shape (B, classes), but returned "
            f"{tuple(logits.shape)}; wrap it in a module that returns one row per example."
        )


def check_labels(target: Any, inputs: Tensor, classes: int | None = None) -> None:
    """Refuse labels that are not one class index per input.

    Args:
        target: What the loader gave as labels.
        inputs: The batch they belong to.
        classes: Number of logits, where it is known already.

    Raises:
        TypeError: If the labels are not an integer tensor.
        ValueError: If there is not one per input, or one lies outside ``[0, classes)``.

    Source:
        Own.

    Example:
        >>> check_labels(torch.tensor([0, 9]), torch.zeros(2, 1, 4, 4), classes=10)
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(
            f"labels must be a tensor of integers (B,), but got {got}; "
            "the loader must give pairs (inputs, labels) with labels as class indices."
        )
    if target.shape != inputs.shape[:1]:
        raise ValueError(
            f"labels must have shape {tuple(inputs.shape[:1])}, one per input, "
            f"but got {tuple(target.shape)}."
        )
    if classes is not None and len(target) and not 0 <= target.min() <= target.max() < classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for a classifier with {classes} logits, but got "
            f"{target.min().item()}..{target.max().item()}; check the label column, or give the "
            "classifier as many outputs as there are classes."
        )
