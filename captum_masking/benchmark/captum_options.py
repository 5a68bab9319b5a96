"""Settings of Captum's methods that depend on the image, each printed as what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Fitted(Protocol):
    """What turns inputs ``(B, C, H, W)`` into the value of a setting."""

    def __call__(self, inputs: Tensor) -> Any:
        """Return the value for these inputs."""


@dataclass(frozen=True)
class Sevenths:
    """A window over all channels whose sides are so many sevenths of the frame, rounded up.

    Args:
        count: 2 is 64 of 224 pixels.

    Source:
        Own.

    Example:
        >>> Sevenths(2)(torch.zeros(1, 3, 224, 8))
        (3, 64, 4)
    """

    count: int

    def __call__(self, inputs: Tensor) -> tuple[int, int, int]:
        """Return ``(C, height, width)``."""
        height, width = (min(side, self.count * math.ceil(side / 7)) for side in inputs.shape[2:])
        return inputs.shape[1], height, width


@dataclass(frozen=True)
class Patches:
    """A grid of patches, numbered in reading order.

    Args:
        across: Patches along each side; fewer where there are fewer pixels.

    Source:
        Own.

    Example:
        >>> Patches(2)(torch.zeros(1, 3, 2, 4))
        tensor([[[[0, 0, 1, 1],
                  [2, 2, 3, 3]]]])
    """

    across: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the number of each pixel's patch, ``(1, 1, H, W)``, without a gap."""
        rows, columns = (
            torch.arange(side, device=inputs.device) * min(self.across, side) // side
            for side in inputs.shape[2:]
        )
        return (rows[:, None] * (columns[-1] + 1) + columns)[None, None]


@dataclass(frozen=True)
class OfRange:
    """A share of the distance from the least to the greatest value of the image.

    Args:
        share: In (0, 1].

    Source:
        Smilkov et al. 2017 measure the noise of SmoothGrad so.

    Example:
        >>> OfRange(0.25)(torch.tensor([[[[-1.0, 3.0]]]]))
        1.0
    """

    share: float

    def __call__(self, inputs: Tensor) -> float:
        """Return the share for the one image that is given."""
        return self.share * float(inputs.max() - inputs.min())


@dataclass(frozen=True)
class ZeroAndNoise:
    """Two baselines: zero, the mean color, and noise with the image's own mean and spread.

    Source:
        Own; Lundberg & Lee 2017 leave the distribution open.

    Example:
        >>> ZeroAndNoise()(torch.ones(1, 3, 2, 2)).mean((1, 2, 3))
        tensor([0., 1.])
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return ``(2, C, H, W)`` for the one image that is given."""
        spread, mean = torch.std_mean(inputs.detach())
        return torch.cat([torch.zeros_like(inputs), torch.randn_like(inputs) * spread + mean])


def fit(options: Mapping[str, Any], inputs: Tensor) -> dict[str, Any]:
    """Return the options with those that depend on the inputs worked out.

    Source:
        Own.

    Example:
        >>> fit({"n_samples": 5, "strides": Sevenths(1)}, torch.zeros(1, 3, 224, 224))
        {'n_samples': 5, 'strides': (3, 32, 32)}
    """
    return {name: value(inputs) if callable(value) else value for name, value in options.items()}


def words(options: Mapping[str, Any]) -> str:
    """Print options for the report.

    Source:
        Own.

    Example:
        >>> words({"n_samples": 5, "strides": Sevenths(1)})
        'n_samples=5, strides=Sevenths(count=1)'
    """
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
