"""Gaussian noise, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor


class Noise:
    """Gaussian noise around the mean colour, every pixel and channel on its own.

    Drawn from torch's global random numbers, as dropout draws.

    Args:
        std: Standard deviation in normalised units, >= 0.

    Raises:
        ValueError: If ``std`` is negative.

    Source:
        Own; the default is the spread of normalised data itself.

    Example:
        >>> pixels = Noise(std=3.0)(torch.zeros(1, 3, 64, 64), hole=torch.ones(1, 1, 64, 64))
        >>> bool(2.9 < pixels.std() < 3.1)
        True
    """

    def __init__(self, std: float = 1.0) -> None:
        if not std >= 0:
            raise ValueError(f"std must be >= 0, but got {std}; 1.0 is the spread of the data.")
        self.std = std

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return noise shaped like ``inputs``."""
        return self.std * torch.randn_like(inputs)

    def __repr__(self) -> str:
        return f"Noise(std={self.std})"
