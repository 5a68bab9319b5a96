"""Further arguments of a classifier, of which some have one row per input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def usable(argument: Any) -> Any:
    """Copy a tensor: one made in inference mode cannot take part in a backward pass.

    Source:
        Own.

    Example:
        >>> usable("switch")
        'switch'
    """
    return argument.clone() if isinstance(argument, Tensor) else argument


def rows_of(arguments: tuple[Any, ...], rows: Tensor, batch: int) -> tuple[Any, ...]:
    """Take some rows of every argument that has one row per input.

    Args:
        arguments: Of the classifier, of any kind.
        rows: Indices of inputs.
        batch: How many inputs there are.

    Returns:
        The arguments; those without a row per input as they are.

    Source:
        Captum's rule: a tensor whose first axis is the batch has one row per input.

    Example:
        >>> rows_of((torch.tensor([5.0, 6.0]), "on"), torch.tensor([1]), batch=2)
        (tensor([6.]), 'on')
    """
    return tuple(a[rows] if _has_rows(a, batch) else a for a in arguments)


def twice(arguments: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """Repeat every argument that has one row per input, for masked-in and masked-out.

    Source:
        Own.

    Example:
        >>> twice((torch.tensor([5.0]), "on"), batch=1)
        (tensor([5., 5.]), 'on')
    """
    return tuple(torch.cat([a, a]) if _has_rows(a, batch) else a for a in arguments)


def _has_rows(argument: Any, batch: int) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 0 and len(argument) == batch
