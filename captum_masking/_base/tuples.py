"""What a classifier is asked about: one tensor, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: What a classifier is asked about: one tensor, or several where it takes several.
Inputs = Tensor | tuple[Tensor, ...]


def one_or_several(inputs: Any) -> Any:
    """Take one tensor out of a tuple of one, as Captum passes it; leave the rest as it is.

    Source:
        Own.

    Example:
        >>> one_or_several((torch.tensor(1.0),))
        tensor(1.)
    """
    return inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs


def size_of(inputs: Inputs) -> Sequence[Any]:
    """Return the spatial size of inputs, or those of several.

    Source:
        Own.

    Example:
        >>> size_of((torch.zeros(2, 3, 4, 5), torch.zeros(2, 7)))
        (torch.Size([4, 5]), torch.Size([]))
    """
    if isinstance(inputs, tuple):
        return tuple(tensor.shape[2:] for tensor in inputs)
    return inputs.shape[2:]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return one tensor as a tuple of one, and several as they are.

    Source:
        Own.

    Example:
        >>> as_tuple(torch.tensor(1.0))
        (tensor(1.),)
    """
    return inputs if isinstance(inputs, tuple) else (inputs,)


def moved(inputs: Inputs, device: torch.device, layout: torch.memory_format) -> Inputs:
    """Bring inputs to a device, and images to a memory format.

    Args:
        inputs: One tensor, or several.
        device: The model's.
        layout: ``torch.channels_last`` is for images ``(B, C, H, W)``; others are left as they are.

    Source:
        Own.

    Example:
        >>> moved(torch.zeros(1, 2, 3), torch.device("cpu"), torch.channels_last).shape
        torch.Size([1, 2, 3])
    """
    there = tuple(
        tensor.to(
            device,
            non_blocking=True,
            memory_format=layout
            if tensor.dim() == 4 or layout != torch.channels_last
            else torch.preserve_format,
        )
        for tensor in as_tuple(inputs)
    )
    return there if isinstance(inputs, tuple) else there[0]
