"""A mask optimised for each of several inputs, and baselines in place of an infill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_masking._captum_compat import TargetType
from captum_masking.checks import channels_in_words
from captum_masking.infill import Mean
from captum_masking.modes import module_of
from captum_masking.outputs import logits_of
from captum_masking.per_input.optimizer import PerInput


def optimize_each(
    function: Callable[..., Any],
    tensors: tuple[Tensor, ...],
    target: TargetType,
    extra: tuple,
    origins: tuple[Tensor | float | None, ...],
    options: PerInput,
    show_progress: bool,
) -> tuple[Tensor, ...]:
    """Optimise the mask of each input in turn, while the others are seen as they are.

    Args:
        function: The classifier, called with all inputs and ``extra``.
        tensors: The inputs, each ``(B, ...)``.
        target: Any form Captum takes.
        extra: Further arguments.
        origins: A baseline for each input that takes the infill's place, or None.
        options: How masks are optimised.
        show_progress: Whether to show a bar.

    Returns:
        A mask for each input.

    Source:
        Own.
    """
    masks = []
    for index, (tensor, origin) in enumerate(zip(tensors, origins, strict=True)):
        seen: Callable[..., Tensor] = _OneOfSeveral(function, index, len(tensors))
        rest = (*tensors[:index], *tensors[index + 1 :], *extra)
        search = options
        if origin is not None:
            start = torch.as_tensor(origin).detach().to(tensor).expand_as(tensor)
            seen, tensor, rest = _From(seen), tensor - start, (start, *rest)
            search = options.but(infill=Mean())
        found = search(
            seen, tensor, target, additional_forward_args=rest, show_progress=show_progress
        )
        masks.append(found)
    return tuple(masks)


class _OneOfSeveral:
    """A classifier as a function of one of its inputs, then the others, to logits."""

    def __init__(self, function: Callable[..., Any], index: int, count: int) -> None:
        self.function, self.index, self.count = function, index, count
        self.__self__ = module_of(function)  # whose modes and flags are borrowed meanwhile

    def __call__(self, one: Tensor, *rest: Any) -> Tensor:
        others, extra = rest[: self.count - 1], rest[self.count - 1 :]
        inputs = (*others[: self.index], one, *others[self.index :])
        with channels_in_words(self.__self__, inputs[0]):
            return logits_of(self.function(*inputs, *extra))


class _From:
    """A classifier as a function of how far an input lies from its baseline.

    What a mask takes off that distance leads back to the baseline: a hole of zeros is filled with
    it, row by row, which an infill, told one image at a time, could not do.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.__self__ = module_of(function)

    def __call__(self, distance: Tensor, start: Tensor, *rest: Any) -> Tensor:
        return self.function(start + distance, *rest)
