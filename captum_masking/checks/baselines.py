"""Baselines as Captum's methods take them, one for each input, or refused in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def baseline_of_each(
    baselines: Any, inputs: tuple[Tensor, ...]
) -> tuple[Tensor | float | None, ...]:
    """Return a baseline that fits each input; None for each where there are none.

    Args:
        baselines: A number or a tensor shaped like the input or like one example of it; a tuple of
            such for several inputs; None.
        inputs: Each ``(B, ...)``.

    Raises:
        TypeError: If a baseline is neither a tensor nor a number.
        ValueError: If there is not one for each input, or one has another shape.

    Source:
        Own.

    Example:
        >>> import torch
        >>> baseline_of_each(0.5, (torch.zeros(2, 3),))
        (0.5,)
    """
    if baselines is None:
        return (None,) * len(inputs)
    given = baselines if isinstance(baselines, tuple) else (baselines,)
    if len(given) != len(inputs):
        raise ValueError(
            f"baselines must be one for each of {len(inputs)} inputs, but got {len(given)}; "
            "pass a tuple, in the order of the inputs."
        )
    for baseline, tensor in zip(given, inputs, strict=True):
        if isinstance(baseline, bool) or not isinstance(baseline, (Tensor, int, float)):
            raise TypeError(
                f"baselines must be tensors or numbers, but got {type(baseline).__name__}; "
                "convert other arrays with torch.as_tensor."
            )
        shapes = (tensor.shape, (1, *tensor.shape[1:]))
        if isinstance(baseline, Tensor) and baseline.shape not in shapes:
            raise ValueError(
                f"baselines must have the shape of the inputs, {tuple(tensor.shape)}, or be one "
                f"example for all of them, but got {tuple(baseline.shape)}; of a set of baselines "
                "pass one, or their mean."
            )
    return given
