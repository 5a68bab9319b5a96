"""What a training cannot use, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from captum_masking.checks.answers import check_labels
from captum_masking.checks.inputs import check_inputs
from captum_masking.checks.values import check_finite


def check_examples(inputs: Any, target: Any) -> None:
    """Refuse inputs, one tensor or a tuple of several, and labels that cannot be trained on.

    Raises:
        TypeError: If inputs are not floating point, or labels not integers.
        ValueError: If inputs are not finite, or labels not one per input.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_examples(torch.zeros(1, 1, 4, 4), torch.tensor([3]))
    """
    for tensor in inputs if isinstance(inputs, tuple) else (inputs,):
        check_inputs(tensor, vectors=True)
        check_labels(target, tensor)
        check_finite(tensor, "inputs", "remove or repair these examples in the data.")


def check_loader(loader: Any, epochs: int = 1, *, name: str = "loader") -> None:
    """Refuse a loader without batches, and a number of epochs that trains nothing.

    Raises:
        TypeError: If the loader cannot be iterated over.
        ValueError: If it is empty, if ``epochs`` is less than one, or if there are several and it
            can be read once only.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_loader([(torch.zeros(1, 1, 4, 4), torch.tensor([0]))], epochs=1)
    """
    if not hasattr(loader, "__iter__"):
        raise TypeError(
            f"{name} must give batches, but {type(loader).__name__} cannot be iterated over; pass "
            "a DataLoader, or a list of batches."
        )
    if epochs > 1 and isinstance(loader, Iterator):
        raise ValueError(
            f"{name} must be readable {epochs} times, but {type(loader).__name__} is an iterator, "
            "which ends once; pass a DataLoader, a list, or an object that starts anew in __iter__."
        )
    count = length_of(loader)
    if count == 0 or epochs < 1:
        raise ValueError(
            f"{name} must give images to read, but got {count} batches and {epochs} "
            "epochs; with few images, drop_last=False keeps the last batch."
        )


def length_of(loader: Any) -> int | None:
    """Say how many batches a loader gives, or None where it does not know.

    Source:
        Own.

    Example:
        >>> length_of([1, 2]), length_of(iter([1]))
        (2, None)
    """
    try:
        return len(loader)
    except TypeError:  # a DataLoader has __len__, also where its stream has none
        return None
