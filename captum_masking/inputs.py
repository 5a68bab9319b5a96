"""What a classifier is asked about: one tensor, or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

#: What a classifier is asked about: one tensor, or several where it takes several.
Inputs = Tensor | tuple[Tensor, ...]


def one_or_several(inputs: Any) -> Any:
    """Take one tensor out of a tuple of one, as Captum passes it; leave the rest as it is.

    Source:
        Own.

    Example:
        >>> import torch
        >>> one_or_several((torch.tensor(1.0),))
        tensor(1.)
    """
    return inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs


def size_of(inputs: Inputs) -> Sequence[Any]:
    """Return the spatial size of inputs, or those of several.

    Source:
        Own.

    Example:
        >>> import torch
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
        >>> import torch
        >>> as_tuple(torch.tensor(1.0))
        (tensor(1.),)
    """
    return inputs if isinstance(inputs, tuple) else (inputs,)
