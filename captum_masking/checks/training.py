"""What a training cannot use, in words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from captum_masking.checks.answers import check_labels
from captum_masking.checks.inputs import check_inputs
from captum_masking.checks.values import check_finite


def check_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Read ``(inputs, labels)`` from what a loader gave, and refuse anything else.

    Args:
        batch: A pair ``(inputs, labels)``; further elements are ignored.

    Returns:
        ``(inputs, labels)``.

    Raises:
        TypeError: If the batch is not a pair of tensors.

    Source:
        Own.

    Example:
        >>> import torch
        >>> inputs, labels = check_pair([torch.zeros(1, 1, 4, 4), torch.tensor([3])])
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(
            f"the loader must give pairs (inputs, labels), but gave {type(batch).__name__}; "
            "a Dataset whose items are (image, label) in a DataLoader does."
        )
    for name, part in zip(("inputs", "labels"), batch, strict=False):
        if not isinstance(part, Tensor):
            raise TypeError(
                f"the loader must give pairs of tensors (inputs, labels), but its {name} are "
                f"{type(part).__name__}; have its collate function stack them."
            )
    return batch[0], batch[1]


def check_examples(inputs: Any, target: Any) -> None:
    """Refuse inputs and labels that cannot be trained on.

    Raises:
        TypeError: If inputs are not floating point, or labels not integers.
        ValueError: If inputs are not finite, or labels not one per input.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_examples(torch.zeros(1, 1, 4, 4), torch.tensor([3]))
    """
    check_inputs(inputs, vectors=True)
    check_labels(target, inputs)
    check_finite(inputs, "inputs", "remove or repair these examples in the data.")


def check_loader(loader: Any, epochs: int = 1, *, name: str = "loader") -> None:
    """Refuse a loader without batches, and a number of epochs that trains nothing.

    Raises:
        TypeError: If the loader has no length.
        ValueError: If it is empty, or ``epochs`` is less than one.

    Source:
        Own.

    Example:
        >>> import torch
        >>> check_loader([(torch.zeros(1, 1, 4, 4), torch.tensor([0]))], epochs=1)
    """
    if not hasattr(loader, "__len__"):
        raise TypeError(
            f"{name} must have a length, but {type(loader).__name__} has none; pass a DataLoader "
            "of a Dataset with a length, or a list of batches."
        )
    if len(loader) == 0 or epochs < 1:
        raise ValueError(
            f"{name} must give images to read, but got {len(loader)} batches and {epochs} "
            "epochs; with few images, drop_last=False keeps the last batch."
        )
