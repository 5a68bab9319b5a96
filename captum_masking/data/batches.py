"""What a loader may give, read as inputs and labels: pairs, dicts, and the batches of streams."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from captum_masking.inputs import Inputs

#: Where the inputs of a batch with names are looked for.
INPUT_NAMES = ("inputs", "image", "images", "pixel_values", "input_values", "x")
#: Where its labels are looked for.
LABEL_NAMES = ("labels", "label", "target", "targets", "y")


def read_batch(batch: Any) -> tuple[Inputs, Tensor]:
    """Read ``(inputs, labels)`` from what a loader gave, and refuse anything else.

    Args:
        batch: A tuple or list ``(inputs, labels, ...)``, of which further elements are ignored; or
            anything with keys (a dict, the batches of Hugging Face) of which exactly one is in
            ``INPUT_NAMES`` and one in ``LABEL_NAMES``. Inputs are a tensor ``(B, ...)``, or a
            tuple or list of them where an example has several; labels are a tensor, a list or an
            array ``(B,)``.

    Returns:
        ``(inputs, labels)``: a tensor or a tuple of tensors, and a tensor. Whether a network can
        train on them is for :func:`~captum_masking.checks.check_examples` to say.

    Raises:
        TypeError: If there are no inputs and labels, more than one of either, or if they are of
            another kind.
        ValueError: If this is one example and not a batch, or if several inputs have not one row
            for every label.

    Source:
        Own; the names are those of torchvision, Hugging Face and time series libraries.

    Example:
        >>> inputs, labels = read_batch({"pixel_values": torch.zeros(2, 3, 8, 8), "label": [4, 1]})
        >>> inputs.shape, labels
        (torch.Size([2, 3, 8, 8]), tensor([4, 1]))
    """
    first, second = _find_pair(batch)
    inputs, labels = _read_inputs(first), _read_labels(second)
    _check_batched(inputs, labels)
    return inputs, labels


def _find_pair(batch: Any) -> tuple[Any, Any]:
    if hasattr(batch, "keys"):  # dict and UserDict have no other base in common with tensor dicts
        return _find(batch, "inputs", INPUT_NAMES), _find(batch, "labels", LABEL_NAMES)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(
            f"the loader must give pairs (inputs, labels), but gave {_kind(batch)}; "
            "a Dataset whose items are (image, label) in a DataLoader does."
        )
    return batch[0], batch[1]


def _find(batch: Any, what: str, names: tuple[str, ...]) -> Any:
    keys = list(batch.keys())
    found = [name for name in names if name in keys]
    if len(found) != 1:
        several = f"several of these, {found}" if found else "none of these"
        raise TypeError(
            f"the loader must give pairs (inputs, labels) or dicts with the {what} under one of "
            f"{list(names)}, but gave {several} among the keys {keys}; rename or remove columns, "
            "or have the collate function return a pair."
        )
    return batch[found[0]]


def _read_inputs(inputs: Any) -> Inputs:
    """Return a tensor as it is, and several as a tuple."""
    if isinstance(inputs, Tensor):
        return inputs
    if isinstance(inputs, (tuple, list)) and inputs and all(isinstance(x, Tensor) for x in inputs):
        return tuple(inputs)
    raise TypeError(
        "the loader must give pairs of tensors (inputs, labels), but its inputs are "
        f"{_kind(inputs)}; make tensors of the images in the data set, and have its collate "
        "function stack them, as torch.utils.data.default_collate does."
    )


def _read_labels(labels: Any) -> Tensor:
    """Return a tensor as it is, and make one of numbers in a list or an array."""
    if isinstance(labels, Tensor):
        return labels
    try:
        return torch.tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            "the loader must give pairs (inputs, labels) with class indices as labels, but its "
            f"labels are {_kind(labels)}; number the classes from 0."
        ) from error


def _check_batched(inputs: Inputs, labels: Tensor) -> None:
    """Refuse single examples, and several inputs that are not of one batch."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    shapes = [tuple(part.shape) for part in parts]
    if not labels.dim() or not all(shapes):
        raise ValueError(
            f"the loader must give batches, but gave one example: inputs of shape "
            f"{_joined(shapes)}, labels of shape {tuple(labels.shape)}; read the data set through "
            "DataLoader(dataset, batch_size=32)."
        )
    if isinstance(inputs, tuple) and any(shape[0] != len(labels) for shape in shapes):
        raise ValueError(
            f"several inputs must have a row for each of the {len(labels)} labels, but have "
            f"shapes {_joined(shapes)}; if these are the images of one batch, have the collate "
            "function stack them into one tensor."
        )


def _kind(part: Any) -> str:
    """Name the type of what came, and of what it holds."""
    name = type(part).__name__
    if not isinstance(part, (tuple, list)):
        return name
    return f"{name} of {' and '.join(sorted({type(x).__name__ for x in part})) or 'nothing'}"


def _joined(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")
