"""Turn a layer's output into a map: channels first, channels last, or tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.data.audio import mel

__all__ = ["ChannelsFirst", "ChannelsLast", "Layout", "MelRows", "OfInput", "Tokens", "Vectors"]


#: Called as ``layout(output, size)`` with a layer's output and the spatial size of the inputs;
#: returns a map ``(B, channels, *grid)``.
Layout = Callable[[Tensor, Sequence[int]], Tensor]

_MOST_EXTRA_TOKENS = 16  # class, distillation and register tokens: at most 9 in common models


@dataclass(frozen=True)
class ChannelsFirst:
    """The layout of convolutions, ``(B, C, *grid)``."""

    def __call__(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Return the output."""
        return output


@dataclass(frozen=True)
class ChannelsLast:
    """The layout of window transformers, ``(B, *grid, C)``."""

    def __call__(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Move the channels to the front."""
        return output.movedim(-1, 1)


@dataclass(frozen=True)
class MelRows:
    """A map with rows equally spaced in mel, for inputs with rows equally spaced in Hz.

    Classifiers of sounds read few bands, wide ones at high frequencies. Rows are resampled linearly
    to the frequencies of the inputs.

    Args:
        highest_hz: Frequency of the last row of inputs and map; the first is 0 Hz.
        stride: Rows of the inputs per row of the result.

    Example:
        >>> import torch
        >>> bands = torch.linspace(0, 2840, 80).reshape(1, 1, 80, 1)  # the pitch of each, in mel
        >>> rows = MelRows(highest_hz=8000.0, stride=128)(bands, size=(513, 1))
        >>> (700 * (10 ** (rows / 2595) - 1)).round().flatten()  # back to Hz
        tensor([   0., 2000., 4000., 6000., 8000.])
    """

    highest_hz: float
    stride: int = 4

    def __call__(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Resample the rows."""
        count = max(2, math.ceil(size[0] / self.stride))
        frequencies = torch.linspace(0, self.highest_hz, count, device=output.device)
        pitches = mel(frequencies) / mel(frequencies[-1])
        at = pitches * (output.shape[2] - 1)  # in rows of the output
        rows = torch.arange(output.shape[2], device=output.device)
        hats = (1 - (at[:, None] - rows).abs()).clamp(min=0).to(output)
        return hats @ output


@dataclass(frozen=True)
class Vectors:
    """A hidden vector ``(B, C)`` of inputs without spatial axes."""

    def __call__(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Return the output."""
        return output


@dataclass(frozen=True)
class Tokens:
    """A sequence ``(B, N, C)`` of extra tokens, followed by one token per patch, row by row.

    Args:
        prefix: Number of tokens before the patches: class, distillation, registers.
        stride: Input pixels per patch and axis.
        suffix: Number of tokens after the patches: the detection tokens of YOLOS.

    Example:
        >>> import torch
        >>> Tokens(prefix=1, stride=(16, 16))(torch.zeros(2, 1 + 2 * 3, 8), size=(32, 48)).shape
        torch.Size([2, 8, 2, 3])
    """

    prefix: int
    stride: Sequence[float]
    suffix: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", tuple(self.stride))

    def __call__(self, output: Tensor, size: Sequence[int]) -> Tensor:
        """Lay the patches out as a grid."""
        patches = output[:, self.prefix : output.shape[1] - self.suffix]
        grid = self._grid(patches.shape[1], size)
        return patches.transpose(1, 2).reshape(patches.shape[0], output.shape[2], *grid)

    def _grid(self, count: int, size: Sequence[int]) -> tuple[int, ...]:
        """Find the grid of ``count`` cells nearest to one cell per stride, of the same aspect."""
        if len(size) == 1:
            return (count,)
        wanted = [side / stride for side, stride in zip(size, self.stride, strict=True)]
        around = [{math.floor(w + 1e-6), math.ceil(w - 1e-6)} for w in wanted]
        fitting = [grid for grid in itertools.product(*around) if math.prod(grid) == count]
        if not fitting and len(size) == 2:  # strides other than whole patches
            fitting = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
            fitting = [grid for grid in fitting if _skew(grid, wanted) < 0.25]
        if not fitting:
            raise ValueError(
                f"expected a layer's {count} patch tokens ({self.prefix + self.suffix} others left "
                f"out) to form a grid over inputs of size {tuple(size)}, of about {self.stride} "
                "pixels each, but none fits; name layers that give one token for each patch, with "
                "layers=[...]."
            )
        return min(fitting, key=lambda grid: _skew(grid, wanted))


def first_tensor(output: Any) -> Any:
    """Return a layer's output tensor, or the first of several."""
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return output


def layout_of(
    output: Tensor,
    size: Sequence[int],
    *,
    module: nn.Module | None = None,
    grids: Sequence[Sequence[int]] = (),
    narrower: Sequence[int] | None = None,
) -> Layout | None:
    """Find the layout of a layer's output from its shape; None if it is not a map of the inputs.

    Spatial axes divide the inputs by one stride. If both orders do, the axis that changed for
    ``narrower`` inputs is spatial; without such a pass, convolutions mean channels first and linear
    layers channels last.
    """
    if not size:
        return Vectors() if output.dim() == 2 else None
    if output.dim() != len(size) + 2:
        return tokens_of(output.shape[1], size, grids) if output.dim() == 3 else None
    layout = _order(output.shape, size, _kind_of_weights(module), narrower)
    if len(size) == 1 and isinstance(layout, ChannelsLast):  # a sequence may have a class token
        return tokens_of(output.shape[1], size, grids) or layout
    return layout


def _order(
    shape: Sequence[int], size: Sequence[int], kind: Layout | None, narrower: Sequence[int] | None
) -> Layout | None:
    """Return whether channels come first or last; None if this is not a map."""
    first, last = _fits(shape[2:], size), _fits(shape[1:-1], size)
    if first and last and narrower is not None and len(narrower) == len(shape):
        first, last = shape[-1] != narrower[-1], shape[-2] != narrower[-2]
    if first and last:
        return kind or ChannelsFirst()
    if first or last:
        return ChannelsFirst() if first else ChannelsLast()
    return kind if isinstance(kind, ChannelsFirst) else None  # uneven strides, as for some audio


def undecided(output: Tensor, size: Sequence[int]) -> bool:
    """Whether the shape fits both channels first and channels last."""
    if output.dim() != len(size) + 2:
        return False
    return _fits(output.shape[2:], size) and _fits(output.shape[1:-1], size)


def _fits(grid: Sequence[int], size: Sequence[int]) -> bool:
    if any(cells > side for cells, side in zip(grid, size, strict=True)):
        return False
    strides = [side / cells for cells, side in zip(grid, size, strict=True)]
    return max(strides) / min(strides) <= 1 + 1.5 / min(grid)


def _kind_of_weights(module: nn.Module | None) -> Layout | None:
    """Return the channel axis of the last weights in a module."""
    for part in reversed([] if module is None else list(module.modules())):
        name = type(part).__name__
        if isinstance(part, (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)) or (
            name.endswith(("2d", "GroupNorm"))
        ):
            return ChannelsFirst()
        if isinstance(part, nn.Linear) or name.lower().endswith(("layernorm", "rmsnorm")):
            return ChannelsLast()
    return None


def tokens_of(count: int, size: Sequence[int], grids: Sequence[Sequence[int]]) -> Tokens | None:
    """Return how many of ``count`` tokens are not patches, from an earlier grid or the aspect."""
    for grid in reversed(grids):  # the nearest one before the tokens
        if 1 < math.prod(grid) <= count <= math.prod(grid) + _MOST_EXTRA_TOKENS:
            return Tokens(count - math.prod(grid), _strides(grid, size))
    for prefix in range(min(count - 1, _MOST_EXTRA_TOKENS + 1)):
        rows = [h for h in range(1, count) if (count - prefix) % h == 0]
        shapes = [(h, (count - prefix) // h) for h in rows] if len(size) == 2 else []
        alike = [grid for grid in shapes if _strides(grid, size)[0] == _strides(grid, size)[1]]
        if alike:
            return Tokens(prefix, _strides(alike[0], size))
    return None


def _strides(grid: Sequence[int], size: Sequence[int]) -> list[float]:
    return [side / cells for side, cells in zip(size, grid, strict=True)]


def _skew(grid: Sequence[int], wanted: Sequence[float]) -> float:
    """Return the difference of a grid's aspect from the wanted one; 0 is equal."""
    ratios = [math.log(cells / w) for cells, w in zip(grid, wanted, strict=True)]
    return max(ratios) - min(ratios)


@dataclass(frozen=True)
class OfInput:
    """The layout of a layer that reads one of several inputs.

    Args:
        index: Which input.
        layout: Layout of the layer's output for that input.
    """

    index: int
    layout: Layout

    def __call__(self, output: Tensor, size: Sequence[Any]) -> Tensor:
        """Apply the layout, given the sizes of all inputs."""
        return self.layout(output, size[self.index])
