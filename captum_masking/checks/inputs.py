"""Inputs that no classifier can read, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class InputsError(AssertionError, TypeError):
    """Inputs that are no tensor: an ``AssertionError``, as in Captum, and a ``TypeError``.

    Source:
        Own.

    Example:
        >>> issubclass(InputsError, AssertionError) and issubclass(InputsError, TypeError)
        True
    """


class ChannelsError(ValueError, RuntimeError):
    """Inputs of too many or too few channels; a ``RuntimeError``, as in PyTorch, too.

    Source:
        Own.

    Example:
        >>> issubclass(ChannelsError, ValueError) and issubclass(ChannelsError, RuntimeError)
        True
    """


def check_inputs(inputs: Any, *, vectors: bool = False) -> None:
    """Refuse inputs that no classifier of images or signals can read.

    Args:
        inputs: Anything.
        vectors: Whether vectors ``(B, F)`` are taken too.

    Raises:
        InputsError: If ``inputs`` is not a tensor.
        TypeError: If it is not floating point, or sparse.
        ValueError: If it has no batch, channel and spatial dimension.

    Source:
        Own.

    Example:
        >>> check_inputs(torch.rand(1, 3, 8, 8))
    """
    if not isinstance(inputs, Tensor):
        raise InputsError(
            f"inputs must be a tensor (B, C, *spatial), but got {type(inputs).__name__}; "
            "convert it with torch.as_tensor(...) first."
        )
    if not inputs.is_floating_point():
        raise TypeError(
            f"inputs must be floating point, but got {inputs.dtype}; convert with .float(), "
            "divide by 255 if these are pixels, and normalise as the classifier expects."
        )
    if inputs.layout != torch.strided:
        raise TypeError(
            f"inputs must be a dense tensor, but got {inputs.layout}; convert with .to_dense()."
        )
    if inputs.dim() < (2 if vectors else 3):
        raise ValueError(
            f"inputs must have shape (B, C, *spatial){' or (B, F)' if vectors else ''}, but got "
            f"{tuple(inputs.shape)}; add a batch dimension with inputs[None] if this is one "
            "example."
        )
    if 0 in inputs.shape[1:]:
        raise ValueError(
            f"inputs must have a size of at least one, but got shape {tuple(inputs.shape)}; only "
            "the batch may be empty."
        )


def check_number_of_inputs(inputs: Sequence[Any], taken: int | None) -> None:
    """Refuse more or fewer inputs than a model takes.

    Args:
        inputs: A tuple of tensors.
        taken: How many the model takes; None where it is not known.

    Raises:
        TypeError: Naming both numbers.

    Source:
        Own.

    Example:
        >>> check_number_of_inputs([torch.zeros(1)], taken=1)
    """
    words = "one tensor or a tuple of one tensor" if taken == 1 else f"a tuple of {taken} tensors"
    if not inputs or taken is not None and len(inputs) != taken:
        raise TypeError(
            f"inputs must be {words if taken else 'one or several tensors'}, but got "
            f"{len(inputs)} tensors; pass arguments that are not to be explained as "
            "additional_forward_args, or build the model for several inputs with "
            "MaskingModel(classifier, example_inputs=(first, second))."
        )


def check_same_batch(inputs: Sequence[Tensor]) -> None:
    """Refuse several inputs of which some have more examples than others.

    Raises:
        ValueError: Naming the numbers of examples.

    Source:
        Own.

    Example:
        >>> check_same_batch([torch.zeros(2, 3), torch.zeros(2, 1, 8)])
    """
    sizes = [len(tensor) for tensor in inputs]
    if len(set(sizes)) > 1:
        raise ValueError(
            f"several inputs must have one example each for every example, but have {sizes}; "
            "expand those that are shared, or pass them as additional_forward_args."
        )


def check_same_device(inputs: Tensor, module: nn.Module | None) -> None:
    """Refuse inputs on another device than the module's parameters.

    Raises:
        ValueError: Naming both devices.

    Source:
        Own.

    Example:
        >>> check_same_device(torch.zeros(1), torch.nn.Linear(1, 1))
    """
    first = None if module is None else next(module.parameters(), None)
    if first is not None and first.device != inputs.device:
        raise ValueError(
            f"inputs must be on the model's device {first.device}, but are on {inputs.device}; "
            f"move them with inputs.to({str(first.device)!r})."
        )


@contextmanager
def channels_in_words(module: nn.Module | None, inputs: Tensor) -> Iterator[None]:
    """Say it in words if a network fails because of the inputs' dimensions or channels.

    The first layer says how many it takes; a network that accepts others is not disturbed.

    Args:
        module: The network that runs in the body.
        inputs: ``(B, C, *spatial)`` or ``(B, F)``.

    Raises:
        ChannelsError: In place of PyTorch's error.

    Source:
        Own.

    Example:
        >>> network, inputs = nn.Conv2d(3, 4, 3), torch.zeros(1, 1, 8, 8)
        >>> with channels_in_words(network, inputs):
        ...     network(inputs)
        Traceback (most recent call last):
        captum_masking.checks.inputs.ChannelsError: inputs must have 3 channels, as Conv2d ...
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        kind = nn.modules.conv._ConvNd if inputs.dim() > 2 else nn.Linear
        parts = [] if module is None else module.modules()
        first: Any = next((part for part in parts if isinstance(part, kind)), None)
        wrong = None if first is None else _what_is_wrong(first, inputs)
        if wrong is None:
            raise
        raise ChannelsError(f"{wrong}: shape {tuple(inputs.shape)}; {_WAY_OUT}") from error


_WAY_OUT = (
    "channels are the second dimension, after the batch's (one picture: inputs[None]; grey "
    "pictures for a colour network: inputs.repeat(1, 3, 1, 1))."
)


def _what_is_wrong(first: Any, inputs: Tensor) -> str | None:
    """Compare inputs with what a network's first layer takes; None if they fit."""
    name, dims = type(first).__name__, len(getattr(first, "kernel_size", ()))
    if dims and inputs.dim() != dims + 2:
        return f"inputs must have {dims + 2} dimensions, as {name} takes, but have {inputs.dim()}"
    taken = getattr(first, "in_channels", getattr(first, "in_features", None))
    if taken != inputs.shape[1]:
        return f"inputs must have {taken} channels, as {name} takes, but have {inputs.shape[1]}"
    return None
