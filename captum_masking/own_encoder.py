"""A masker that needs no taps: it reads the inputs, through an encoder of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from captum_masking.element_masker import ElementMasker
from captum_masking.layers import BATCH_NORMS, CONVOLUTIONS
from captum_masking.masker import Masker
from captum_masking.modes import module_of


class OwnEncoder(nn.Module):
    """Inputs through a small network of its own, then the usual masker on its two last stages.

    For callables whose layers cannot be read: functions, remote services, compiled, traced,
    scripted and exported modules. It sees what the classifier sees and not how the classifier sees
    it, so it has more to learn.

    Args:
        channels: Of the inputs: ``[C]``, or ``[F]`` for vectors.
        dims: Spatial dimensions: 1 for signals, 2 for images, 3 for volumes, 0 for vectors.
        width: Channels of the first stage; each of the others has twice as many.
        stages: Convolutions, each halving the resolution; for vectors, linear layers.
        classes: As for :class:`~captum_masking.masker.Masker`; not for vectors.
        sized: Likewise.

    Attributes:
        stride: Input pixels per cell of the mask's grid, unless the model is given another.

    Source:
        Own, after Dabkowski & Gal 2017, whose masker is a network of its own.

    Example:
        >>> import torch
        >>> OwnEncoder([3])([torch.rand(2, 3, 32, 48)], grid=(4, 6)).shape
        torch.Size([2, 1, 4, 6])
    """

    reads_inputs = True

    def __init__(
        self,
        channels: Sequence[int],
        *,
        dims: int = 2,
        width: int = 32,
        stages: int = 4,
        classes: int = 0,
        sized: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels),
            "dims": dims,
            "width": width,
            "stages": stages,
            "classes": classes,
            "sized": sized,
        }
        widths = [sum(channels), *(width * 2**stage for stage in range(stages))]
        self.stages = nn.ModuleList(
            _stage(before, after, dims) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.stride = 2 ** max(0, stages - 1)
        self.masker: nn.Module
        if dims:
            self.masker = Masker(widths[1:][-2:], dims=dims, classes=classes, sized=sized)
        else:
            self.masker = ElementMasker(widths[1:][-2:], elements=sum(channels))
        self.asks = getattr(self.masker, "asks", ())

    def forward(self, features: Sequence[Tensor], grid: Sequence[int], **asked: Tensor) -> Tensor:
        """Map the inputs, the only feature, to mask logits; as the masker it ends in."""
        (maps,) = features
        stages = []
        for stage in self.stages:
            maps = stage(maps)
            stages.append(maps)
        return self.masker(stages[-2:], grid, **asked)


class Untapped(nn.Module):
    """Any callable as a module, so that a model can hold it; its layers are not looked at.

    Args:
        function: Called as the classifier. Parameters and modes of the module behind it, if there
            is one, are this module's.

    Source:
        Own.

    Example:
        >>> import torch
        >>> Untapped(lambda inputs: inputs.flatten(1))(torch.zeros(2, 1, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module_of(function)
        self.function: Callable[..., Any]
        self.__dict__["function"] = function  # a module is listed once, as .module

    def forward(self, *inputs: Any) -> Any:
        """Call the function."""
        return self.function(*inputs)

    def train(self, mode: bool = True) -> Untapped:
        """Set every mode, one by one: exported modules refuse ``train()`` and ``eval()``."""
        for part in self.modules():
            part.training = mode
        return self

    def extra_repr(self) -> str:
        """Say what is called."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)


def encoder(channels: int, dims: int, width: int, stages: int = 3) -> nn.Module:
    """Make a small network that reads one input.

    Args:
        channels: Of the input.
        dims: Its spatial dimensions.
        width: Channels of every stage.
        stages: Each halves the resolution.

    Source:
        Own.

    Example:
        >>> import torch
        >>> encoder(3, dims=2, width=8)(torch.zeros(2, 3, 32, 48)).shape
        torch.Size([2, 8, 4, 6])
    """
    widths = [channels, *[width] * stages]
    return nn.Sequential(*(_stage(a, b, dims) for a, b in zip(widths, widths[1:], strict=False)))


def _stage(before: int, after: int, dims: int) -> nn.Module:
    if dims == 0:
        return nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU())
    convolution = CONVOLUTIONS[dims](before, after, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](after), nn.ReLU())
