"""Masks, areas and numbers that mean nothing, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_mask_shape(mask: Tensor, inputs: Tensor) -> None:
    """Refuse a mask that is not ``(B, 1, *spatial)`` for inputs ``(B, C, *spatial)``.

    Vectors ``(B, F)`` have masks of their own shape: one value for each element.

    Raises:
        ValueError: Naming both shapes.

    Source:
        Own.

    Example:
        >>> check_mask_shape(torch.ones(2, 1, 4, 4), torch.ones(2, 3, 4, 4))
    """
    expected = (inputs.shape[0], 1, *inputs.shape[2:]) if inputs.dim() > 2 else tuple(inputs.shape)
    if tuple(mask.shape) != expected:
        raise ValueError(
            f"mask must have shape {expected} to match inputs of shape {tuple(inputs.shape)}, "
            f"but got {tuple(mask.shape)}; upsample the mask to the input's size first."
        )


def check_area(area: Any, asks: Sequence[str] = ("area",), *, examples: int | None = None) -> None:
    """Refuse a size that is no fraction of the image, or that nobody asked for.

    Args:
        area: A number, a tensor, or None.
        asks: What the masker wants to be told.
        examples: How many a tensor must be for; None takes any number.

    Raises:
        TypeError: If it is neither a number nor a tensor of numbers.
        ValueError: If the masker takes no size, or one is not between 0 and 1.

    Source:
        Own.

    Example:
        >>> check_area(0.3)
    """
    if area is not None and "area" not in asks:
        raise ValueError(
            f"area={area} was asked for, but this model's masker takes no size; train one that "
            "does: MaskingModel(classifier, masker=partial(Masker, sized=True))."
        )
    if area is None:
        return
    if isinstance(area, bool) or not isinstance(area, (int, float, Tensor)):
        raise TypeError(
            f"area must be a number or a tensor with one for each example, but got {area!r}; "
            "give a fraction of the image, such as 0.3."
        )
    if isinstance(area, Tensor) and examples is not None and area.shape not in ((), (examples,)):
        raise ValueError(
            f"area must be one number or one for each of {examples} examples, but got a tensor of "
            f"shape {tuple(area.shape)}; give area[:{examples}] or a single number."
        )
    if not all(0 < a < 1 for a in torch.as_tensor(area).flatten().tolist()):
        raise ValueError(
            f"area must be a fraction of the image between 0 and 1, both excluded, but got {area}."
        )


def check_finite(tensor: Tensor, name: str, way_out: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: Saying how many values of which examples are not finite.

    Source:
        Own.

    Example:
        >>> check_finite(torch.zeros(2), "inputs", "look at the data.")
    """
    good = tensor.detach().isfinite()
    if not good.all():
        bad = good.logical_not()
        rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.dim() > 1 else []
        where = f" (examples {rows[:8]} of the batch)" if rows else ""
        raise ValueError(
            f"{name} must be finite, but {int(bad.sum())} of {bad.numel()} values are NaN or "
            f"infinite{where}; {way_out}"
        )
