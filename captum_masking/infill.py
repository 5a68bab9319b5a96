"""What is painted where the mask leaves a hole: ``infill(inputs, hole) -> pixels``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Called as ``infill(inputs, hole)``: images ``(B, C, *spatial)`` and what is missing of them,
#: ``(B, 1, *spatial)`` in ``[0, 1]`` with 1 for missing; returns pixels shaped like ``inputs``.
Infill = Callable[[Tensor, Tensor], Tensor]


class Mean:
    """The mean colour of the data: zero, since inputs arrive normalised.

    Source:
        Phang et al. 2020, the infill of the final model. In normalised space zero is the data's
        mean colour, not black.

    Example:
        >>> Mean()(torch.ones(1, 1, 1, 2), hole=torch.ones(1, 1, 1, 2))
        tensor([[[[0., 0.]]]])
    """

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return zeros shaped like ``inputs``."""
        return torch.zeros_like(inputs)

    def __repr__(self) -> str:
        return "Mean()"
