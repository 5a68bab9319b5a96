"""Maskers for vectors, for several inputs, and for classifiers whose layers cannot be read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_masking.parts.masker import BATCH_NORMS, CONVOLUTIONS, Masker, MaskerBase, Question

__all__ = ["MultiInputMasker", "StandaloneMasker", "VectorMasker"]


class VectorMasker(MaskerBase):
    """A masker for vectors: reduce hidden vectors to ``width`` numbers, then a linear layer.

    Args:
        channels: Length of each hidden vector.
        elements: Length of the inputs, one logit for each.
        width: Length of each hidden vector after its own linear layer.

    Example:
        >>> VectorMasker([64, 32], elements=10)([torch.rand(2, 64), torch.rand(2, 32)]).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: Sequence[int], *, elements: int, width: int = 64) -> None:
        super().__init__()
        if not channels:
            raise ValueError(
                "a masker must read at least one hidden vector, but got channels=[]; name the "
                "modules to read with MaskingModel(classifier, layers=[...])."
            )
        self.settings = {"channels": list(channels), "elements": elements, "width": width}
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.LayerNorm(width), nn.ReLU()) for n in channels
        )
        self.final = nn.Linear(width * len(channels), elements)
        nn.init.normal_(self.final.weight, std=0.01)  # masks start near one half
        nn.init.zeros_(self.final.bias)

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int] = (), question: Question = Question()
    ) -> Tensor:
        reduced = [reduce(v) for reduce, v in zip(self.reduce, features, strict=True)]
        return self.final(torch.cat(reduced, dim=1))


class StandaloneMasker(MaskerBase):
    """A masker with its own encoder: a small network, then the usual masker on its last stages.

    For callables whose layers cannot be read: functions, remote services, compiled, traced,
    scripted and exported modules. It does not see the classifier's features, so it has more to
    learn.

    Args:
        channels: Of the inputs: ``[C]``, or ``[F]`` for vectors.
        dims: Spatial dimensions: 1 for signals, 2 for images, 3 for volumes, 0 for vectors.
        width: Channels of the first stage; each of the others has twice as many.
        stages: Convolutions, each halving the resolution; for vectors, linear layers.
        classes, sized: As for :class:`~captum_masking.parts.masker.Masker`; not for vectors.

    Source:
        After Dabkowski & Gal 2017, whose masker is a network of its own.

    Example:
        >>> StandaloneMasker([3])([torch.rand(2, 3, 32, 48)], grid=(4, 6)).shape
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
        self.masker: MaskerBase
        if dims:
            self.masker = Masker(widths[1:][-2:], dims=dims, classes=classes, sized=sized)
        else:
            self.masker = VectorMasker(widths[1:][-2:], elements=sum(channels))
        self.target_aware, self.sized = self.masker.target_aware, self.masker.sized

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question = Question()
    ) -> Tensor:
        (maps,) = features
        stages = []
        for stage in self.stages:
            maps = stage(maps)
            stages.append(maps)
        return self.masker(stages[-2:], grid, question)


class MultiInputMasker(MaskerBase):
    """A masker for each of several inputs; each of them reads the feature maps of all.

    A map with as many spatial dimensions as an input is read as it is; any other is averaged, and
    its mean is the same everywhere.

    Args:
        inputs: Of each input ``(spatial dimensions, channels)``; vectors have none.
        own: Whether the feature maps are the inputs, which then go through encoders of the
            masker's own.

    Example:
        >>> masker = MultiInputMasker([8, 16], inputs=[(2, 3), (0, 10)])
        >>> features = [torch.rand(2, 8, 4, 4), torch.rand(2, 16)]
        >>> [tuple(mask_logits.shape) for mask_logits in masker(features, [(4, 4), ()])]
        [(2, 1, 4, 4), (2, 10)]
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        inputs: Sequence[Sequence[int]],
        width: int = 64,
        own: bool = False,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": list(channels),
            "inputs": [list(pair) for pair in inputs],
            "width": width,
            "own": own,
        }
        self.reads_inputs, self.inputs_taken = own, len(inputs)
        self.encoders = nn.ModuleList(
            _encoder(n, dims, width) for dims, n in (inputs if own else ())
        )
        self.heads = nn.ModuleList(
            Masker([width] * len(channels) if own else channels, dims=dims, width=width)
            if dims
            else VectorMasker([width] * len(channels) if own else channels, elements=n)
            for dims, n in inputs
        )

    def forward(
        self,
        features: Sequence[Tensor],
        grid: Sequence[Sequence[int]],
        question: Question = Question(),
    ) -> tuple[Tensor, ...]:
        if len(self.encoders):
            features = [read(maps) for read, maps in zip(self.encoders, features, strict=True)]
        pairs = zip(self.heads, grid, strict=True)
        return tuple(head([_fit(m, cells) for m in features], cells) for head, cells in pairs)


def _fit(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a feature to the form of an input: as it is, or its mean at every cell."""
    if maps.dim() - 2 == len(grid):
        return maps
    mean = maps.flatten(2).mean(2) if maps.dim() > 2 else maps
    return mean.reshape(*mean.shape, *[1] * len(grid)).expand(*mean.shape, *grid)


def _encoder(channels: int, dims: int, width: int, stages: int = 3) -> nn.Module:
    widths = [channels, *[width] * stages]
    return nn.Sequential(*(_stage(a, b, dims) for a, b in zip(widths, widths[1:], strict=False)))


def _stage(before: int, after: int, dims: int) -> nn.Module:
    """Make one stage, which halves the resolution."""
    if dims == 0:
        return nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU())
    convolution = CONVOLUTIONS[dims](before, after, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](after), nn.ReLU())
