"""One tensor or several: a tuple at the door, a tuple inside, unpacked at the exit."""

from __future__ import annotations

from typing import Any

from torch import Tensor

#: What users pass: one tensor, or several for a classifier that takes several.
Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def unpacked(values: tuple[Any, ...]) -> Any:
    return values[0] if len(values) == 1 else values
