"""What classifiers return, and where the logits are in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def logits_of(output: Any) -> Tensor:
    """Read the logits out of whatever a classifier returns.

    A tensor is the logits. Otherwise they are its ``logits``, as an attribute or under that key
    (Hugging Face; Inception and GoogLeNet in train mode), the one tensor of a dict, or the first
    element of a tuple.

    Args:
        output: Of a classifier's forward pass.

    Returns:
        The logits, as they are.

    Raises:
        TypeError: If there is no such tensor.
        NotImplementedError: If the output is a future.

    Source:
        Own.

    Example:
        >>> logits_of({"logits": torch.tensor([[1.0, 2.0]]), "loss": None})
        tensor([[1., 2.]])
    """
    for found in _candidates(output):
        if isinstance(found, Tensor):
            return found
    if isinstance(output, torch.futures.Future):
        raise NotImplementedError(
            "the classifier returned a future, which is not supported; pass a function that waits "
            "for it: lambda inputs: classifier(inputs).wait()."
        )
    held = f" with keys {list(output)}" if isinstance(output, Mapping) else ""
    raise TypeError(
        f"the classifier must return logits (B, classes), as a tensor, as .logits or ['logits'], "
        f"as the one tensor of a dict or the first element of a tuple, but returned "
        f"{type(output).__name__}{held}; wrap it in a module that returns the logits."
    )


def _candidates(output: Any) -> list[Any]:
    """List what may be the logits, in the order of preference."""
    if isinstance(output, Tensor):
        return [output]
    candidates = [getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        candidates += [output.get("logits"), *(tensors if len(tensors) == 1 else [])]
    elif isinstance(output, (tuple, list)):
        candidates += output[:1]
    return candidates
