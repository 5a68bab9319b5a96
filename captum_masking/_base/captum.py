"""What Captum passes: tuples and targets; its private names are imported here and nowhere else."""

from __future__ import annotations

from typing import Any

import torch
from captum._utils.common import (
    _format_additional_forward_args as _format_additional_forward_args,
)
from captum._utils.common import _select_targets as _select_targets
from captum._utils.progress import progress as progress
from captum._utils.typing import TargetType as TargetType
from captum._utils.typing import TensorOrTupleOfTensorsGeneric as TensorOrTupleOfTensorsGeneric
from captum.log import log_usage as log_usage
from torch import Tensor

from captum_masking._base.checks import TargetError, check_one_row, check_output

#: What users pass: one tensor, or several for a classifier that takes several.
Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def unpacked(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values


def as_class_logits(output: Tensor) -> Tensor:
    logits = output.reshape(len(output), -1) if len(output) else output.reshape(0, 2)
    return logits if logits.shape[1] > 1 else torch.cat([torch.zeros_like(logits), logits], dim=1)


def class_indices(output: Tensor, target: TargetType) -> Tensor:
    """Turn any form of Captum's target, or None for the predicted class, into (B,) columns."""
    check_output(output)
    if target is None:
        check_one_row(output)
        return as_class_logits(output).argmax(1) if len(output) else output.new_zeros(0).long()
    if len(output) == 0:
        return torch.zeros(0, dtype=torch.long, device=output.device)
    if output[0].numel() == 1 and target in (0, 1):
        return torch.full((len(output),), int(target), device=output.device)
    indices = torch.arange(output[0].numel(), device=output.device).reshape(1, *output.shape[1:])
    try:
        _refuse_booleans_and_fractions(target)
        if isinstance(target, Tensor):
            target = target.long()  # older PyTorch gathers by 64-bit indices only
        return _select_targets(indices.expand_as(output), target).reshape(len(output))
    except (AssertionError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise _target_error(output, target) from error


def _refuse_booleans_and_fractions(target: TargetType) -> None:
    values = torch.as_tensor(target)
    if values.dtype == torch.bool or values.is_floating_point():
        raise TypeError("a target is a whole number")


def _target_error(output: Tensor, target: TargetType) -> TargetError:
    examples, classes = len(output), tuple(output.shape[1:])
    ranges = " x ".join(f"0..{size - 1}" for size in classes) or "none (one score each)"
    got = f"shape {tuple(target.shape)}, " if isinstance(target, Tensor) else ""
    text = repr(target.tolist() if isinstance(target, Tensor) else target)
    return TargetError(
        f"target must be an int, or a list or tensor with one int (or one tuple) for each of "
        f"{examples} examples, in the range {ranges} of an output of shape {tuple(output.shape)}, "
        f"but got {got}{text if len(text) < 80 else text[:77] + '...'}; "
        "pass target=None for the predicted class."
    )
