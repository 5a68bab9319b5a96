"""One colour for the whole hole: the data's mean, black, a given one, or a random one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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


class Color:
    """A given colour.

    Args:
        color: In normalised space: one number, or one for each channel.

    Raises:
        ValueError: When called, if the inputs do not have as many channels as the colour.

    Source:
        Own.

    Example:
        >>> Color(color=(1.0, -1.0))(torch.zeros(1, 2, 2), hole=torch.ones(1, 1, 2))
        tensor([[[ 1.,  1.],
                 [-1., -1.]]])
    """

    def __init__(self, color: float | Sequence[float]) -> None:
        self.color = color

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return the colour at every pixel of ``inputs``."""
        return _paint(inputs, torch.as_tensor(self.color, dtype=inputs.dtype, device=inputs.device))

    def __repr__(self) -> str:
        return f"Color(color={self.color})"


class Black:
    """Black: what zero becomes when images are normalised, ``-mean / std``.

    Args:
        mean: The mean that the normalisation takes off, one number or one for each channel.
        std: What it then divides by, > 0, likewise.

    Raises:
        ValueError: If a ``std`` is not positive; when called, if the inputs do not have as many
            channels as the constants.

    Source:
        Own; the constants are those of the user's own normalisation.

    Example:
        >>> Black(mean=0.5, std=0.25)(torch.zeros(1, 1, 2), hole=torch.ones(1, 1, 2))
        tensor([[[-2., -2.]]])
    """

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        if not (torch.as_tensor(std) > 0).all():
            raise ValueError(
                f"std must be positive, but got {std}; give the constants that the inputs were "
                "normalised with, as in Normalize(mean, std)."
            )
        self.mean, self.std = mean, std

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return black at every pixel of ``inputs``."""
        mean, std = (torch.as_tensor(value).to(inputs) for value in (self.mean, self.std))
        return _paint(inputs, -mean / std)

    def __repr__(self) -> str:
        return f"Black(mean={self.mean}, std={self.std})"


class UniformColor:
    """One random colour for each image: every channel uniform in a range.

    Drawn from torch's global random numbers, as dropout draws.

    Args:
        low: Lower end of the range, in normalised units.
        high: Upper end.

    Raises:
        ValueError: If ``low`` is above ``high``.

    Source:
        Own; a random colour as in Dabkowski & Gal 2017, but over the whole range of pixels.

    Example:
        >>> colors = UniformColor()(torch.zeros(2, 3, 8, 8), hole=torch.ones(2, 1, 8, 8))
        >>> colors.flatten(2).std(2).any(), colors.unique().numel()  # one for each channel
        (tensor(False), 6)
    """

    # Black and white of photographs, normalised as usual for ImageNet, lie near -2.1 and 2.6:
    # this is the largest round range that every one of its channels can show.
    def __init__(self, low: float = -2.0, high: float = 2.0) -> None:
        if not low <= high:
            raise ValueError(f"low must not be above high, but got {low} and {high}; swap them.")
        self.low, self.high = low, high

    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return one colour per image, at every pixel of it."""
        return _paint(inputs, inputs.new_empty(inputs.shape[:2]).uniform_(self.low, self.high))

    def __repr__(self) -> str:
        return f"UniformColor(low={self.low}, high={self.high})"


def _paint(inputs: Tensor, color: Tensor) -> Tensor:
    """Spread a colour ``()``, ``(C,)`` or ``(B, C)`` over images."""
    if color.dim() and color.shape[-1] != inputs.shape[1]:
        raise ValueError(
            f"the colour must have one value for each of the {inputs.shape[1]} channels of inputs "
            f"{tuple(inputs.shape)}, but got {color.shape[-1]}; give one number to paint all "
            "channels alike."
        )
    axes = [1] * (inputs.dim() - 2)
    return torch.zeros_like(inputs) + color.reshape(*color.shape, *axes)
