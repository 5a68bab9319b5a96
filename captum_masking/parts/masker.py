"""Maskers: networks from feature maps and a question to mask logits.

A masker is any module called as ``masker(features, grid, question)`` with the feature maps
``(B, channels, *cells)`` of the layers that are read, the spatial size of the logits and a
:class:`Question`, from which it takes what it needs. It returns logits ``(B, 1, *grid)``.
What it needs, it states in the attributes of :class:`MaskerBase`. The maskers here take the
``channels`` of each map, finest first, and ``dims``: 1 for signals, 2 for images, 3 for volumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.modules.batchnorm import _BatchNorm

from captum_masking._base.processes import summed, world

__all__ = [
    "ClassSelector",
    "MaskPerClass",
    "Masker",
    "MaskerBase",
    "Question",
    "UNetMasker",
    "linear",
    "nearest",
]

#: Maps of evidence for a class, as :func:`~captum_masking.parts.evidence.evidence` makes them:
#: for it, for it against all others, and how sure the classifier is.
EVIDENCE = 3


@dataclass(frozen=True)
class Question:
    """The question of a batch for a masker; the last three are set only in training.

    Attributes:
        target: Class of each example, ``(B,)``.
        area: Fraction of each input that the mask should cover, ``(B,)``, in (0, 1).
        evidence: The classifier's evidence for the target, ``(B, 3, *cells)``.
        present: Whether the target is in the input, ``(B,)`` bool; None if always.
        alone: Whether an input shows only one class, ``(B,)`` bool; None if always.
        elsewhere: Pixels of inputs without the target, ``(B, 1, *spatial)`` bool.
    """

    target: Tensor | None = None
    area: Tensor | None = None
    evidence: Tensor | None = None
    present: Tensor | None = None
    alone: Tensor | None = None
    elsewhere: Tensor | None = None

    @property
    def known(self) -> tuple[Any, ...]:
        """What a :class:`~captum_masking.parts.objective.Judgement` holds after the logits."""
        return self.target, self.area, self.present, self.alone, self.elsewhere


class MaskerBase(nn.Module):
    """The properties of a masker; your own module can omit those with the defaults.

    Attributes:
        target_aware: Whether the mask depends on ``question.target``.
        sized: Whether it depends on ``question.area``.
        reads_evidence: Whether it needs ``question.evidence``, which may take a backward pass.
        reads_inputs: Whether its features are the inputs.
        inputs_taken: Number of inputs; for several, ``grid`` is a tuple of grids and the logits are
            a tuple.
        settings: Its constructor arguments, for printing and saving.
    """

    target_aware = False
    sized = False
    reads_evidence = False
    reads_inputs = False
    inputs_taken = 1
    settings: dict[str, Any]


class _OverProcesses(_BatchNorm):
    """Batch norm over all processes, as ``nn.SyncBatchNorm``, which runs on accelerators only."""

    def forward(self, maps: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(maps)
        self._check_input_dim(maps)
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))  # sums need the digits
        axes, shape = [0, *range(2, maps.dim())], [1, -1, *[1] * (maps.dim() - 2)]
        count = wide.new_tensor([maps.numel() // maps.shape[1]])
        total = summed(torch.cat([wide.sum(axes), count]))
        mean, cells = total[:-1] / total[-1], total[-1].detach()
        centered = wide - mean.reshape(shape)
        variance = summed(centered.square().sum(axes)) / cells
        self._remember(mean.detach(), variance.detach() * cells / (cells - 1).clamp(min=1))
        normed = centered * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            normed = normed * self.weight.reshape(shape) + self.bias.reshape(shape)
        return normed.to(maps.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)


class BatchNorm1d(_OverProcesses, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` over all processes."""


class BatchNorm2d(_OverProcesses, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` over all processes."""


class BatchNorm3d(_OverProcesses, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` over all processes."""


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, type[nn.Module]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def linear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps ``(B, channels, *spatial)`` linearly to ``(B, channels, *size)``.

    Example:
        >>> linear(torch.tensor([[[0.0, 1.0]]]), [4])
        tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return interpolate(maps, tuple(size), mode=_LINEAR[maps.dim() - 2], align_corners=False)


def nearest(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps by repeating their nearest value.

    Source:
        Phang et al. 2020, final upsampling of the published mask.

    Example:
        >>> nearest(torch.tensor([[[0.0, 1.0]]]), [4])
        tensor([[[0., 0., 1., 1.]]])
    """
    return interpolate(maps, tuple(size), mode="nearest")


class Masker(MaskerBase):
    """Reduce each feature map to ``width`` channels on one grid, then convolve to logits.

    Args:
        width: Channels after each 1x1 convolution.
        raw: Indices of feature maps that go into the last convolution unreduced.
        classes: If not 0, the masker reads ``question.target`` through an embedding of ``width``
            numbers, appended to every feature map.
        sized: Whether it reads ``question.area``, appended likewise.
        evidence: Whether it reads ``question.evidence``, appended likewise, and to the last
            convolution as well. It needs no table, so there may be any number of classes, and
            classes that never came up in training.
        target_aware: Whether to read the evidence for the target; False reads that for the
            predicted class.
        outputs: Number of masks.

    Source:
        Phang et al. 2020, final masker (198,017 parameters on the two deepest stages of
        ResNet-50) and its options. The last convolution starts small, so that masks start near
        0.5; the published initialization starts saturated.

    Example:
        >>> masker = Masker([1024, 2048])
        >>> sum(parameter.numel() for parameter in masker.parameters())
        198017
        >>> masker([torch.rand(1, 1024, 14, 14), torch.rand(1, 2048, 7, 7)], grid=(14, 14)).shape
        torch.Size([1, 1, 14, 14])
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 64,
        dims: int = 2,
        raw: Sequence[int] = (),
        classes: int = 0,
        sized: bool = False,
        evidence: bool = False,
        target_aware: bool = True,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        _check_channels(channels, raw)
        self.settings = {
            "channels": list(channels),
            "width": width,
            "dims": dims,
            "raw": list(raw),
            "classes": classes,
            "sized": sized,
            "evidence": evidence,
            "target_aware": target_aware,
            "outputs": outputs,
        }
        self.target_aware = classes > 0 or (evidence and target_aware)
        self.sized, self.reads_evidence = sized, evidence
        # The last of them, the classifier's confidence, shows whether the class is present.
        told = (EVIDENCE if target_aware else EVIDENCE - 1) * evidence
        appended = width * (classes > 0) + sized + told  # channels
        self.embedding = nn.Embedding(classes, width) if classes else None
        self.scale = BATCH_NORMS[dims](told) if evidence else None  # logits have any scale
        self.reduce = nn.ModuleList(
            nn.Identity() if index in raw else _block(n + appended, width, dims, kernel=1)
            for index, n in enumerate(channels)
        )
        widths = [n + appended if index in raw else width for index, n in enumerate(channels)]
        self.final = _final_convolution(sum(widths) + told, dims, outputs)
        if evidence:
            _start_with(self.final, told)

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question = Question()
    ) -> Tensor:
        appended, direct = [], []
        if self.embedding is not None:
            appended.append(self.embedding(question.target))  # (B, width)
        if self.sized:
            appended.append(question.area.to(features[0])[:, None])  # type: ignore[union-attr]
        if self.scale is not None:
            told = question.evidence[:, : self.scale.num_features]  # type: ignore[index]
            direct.append(self.scale(told.to(features[0])))
        reduced = [
            reduce(_append(maps, [*appended, *direct]))
            for reduce, maps in zip(self.reduce, features, strict=True)
        ]
        return self.final(torch.cat([linear(maps, grid) for maps in [*reduced, *direct]], dim=1))


class UNetMasker(MaskerBase):
    """A deeper decoder: from the coarsest map to the finest, joining the next one at each level.

    At each level the map so far is resampled to the size of the next finer feature map, joined
    with that map's reduction, and sent through two 3x3 convolutions.

    The feature maps are given finest first.

    Source:
        After U-Net (Ronneberger et al. 2015), to compare the published masker with a deeper
        one; Dabkowski & Gal 2017 use a decoder of this kind.

    Example:
        >>> masker = UNetMasker([1024, 2048])
        >>> masker([torch.rand(1, 1024, 14, 14), torch.rand(1, 2048, 7, 7)], grid=(28, 28)).shape
        torch.Size([1, 1, 28, 28])
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64, dims: int = 2) -> None:
        super().__init__()
        _check_channels(channels, ())
        self.settings = {"channels": list(channels), "width": width, "dims": dims}
        self.reduce = nn.ModuleList(_block(n, width, dims, kernel=1) for n in channels)
        self.join = nn.ModuleList(
            nn.Sequential(_block(2 * width, width, dims), _block(width, width, dims))
            for _ in channels[1:]
        )
        self.final = _final_convolution(width, dims)

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question = Question()
    ) -> Tensor:
        *finer, maps = (reduce(m) for reduce, m in zip(self.reduce, features, strict=True))
        for join, skip in zip(self.join, reversed(finer), strict=True):
            maps = join(torch.cat([linear(maps, skip.shape[2:]), skip], dim=1))
        return self.final(linear(maps, grid))


class _OfClasses(MaskerBase):
    """What maskers with a table of classes share."""

    target_aware = True

    def __init__(self, channels: Sequence[int], *, classes: int, width: int, dims: int) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(
                "classes must be the number of the classifier's logits, at least 1, but got "
                f"{classes}."
            )
        self.settings = {
            "channels": list(channels),
            "classes": classes,
            "width": width,
            "dims": dims,
        }


class ClassSelector(_OfClasses):
    """A masker that sees only the cells of the deepest features that are similar to the class.

    Each class has an embedding as long as the deepest features; the sigmoid of its product with
    the features of a cell gates that cell, before the decoder sees it.

    Source:
        Dabkowski & Gal 2017, their feature filter and decoder. Differs: the product is divided by
        the square root of the channels, so that gates start near one half for any network.

    Example:
        >>> masker = ClassSelector([5, 3], classes=10, width=4)
        >>> features = [torch.rand(2, 5, 4, 4), torch.rand(2, 3, 2, 2)]
        >>> masker(features, (4, 4), Question(target=torch.tensor([7, 0]))).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = 64, dims: int = 2
    ) -> None:
        super().__init__(channels, classes=classes, width=width, dims=dims)
        self.decoder = UNetMasker(channels, width=width, dims=dims)
        self.embedding = nn.Embedding(classes, channels[-1])

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question
    ) -> Tensor:
        *finer, deepest = features
        likeness = torch.einsum("bc...,bc->b...", deepest, self.embedding(question.target))
        gate = (likeness / math.sqrt(deepest.shape[1])).sigmoid()[:, None]  # (B, 1, *cells)
        return self.decoder([*finer, deepest * gate], grid)


class MaskPerClass(_OfClasses):
    """A masker that predicts the masks of all classes, and returns that of the target.

    Memory grows with the number of classes: use it for at most a few hundred.

    Source:
        Stalder et al. 2022 (NN-Explainer), their one mask for each class; the decoder is
        :class:`Masker`'s.

    Example:
        >>> masker = MaskPerClass([5], classes=10, width=4)
        >>> masker([torch.rand(2, 5, 4, 4)], (4, 4), Question(target=torch.tensor([7, 0]))).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self, channels: Sequence[int], *, classes: int, width: int = 64, dims: int = 2
    ) -> None:
        super().__init__(channels, classes=classes, width=width, dims=dims)
        self.decoder = Masker(channels, width=width, dims=dims, outputs=classes)

    def forward(
        self, features: Sequence[Tensor], grid: Sequence[int], question: Question
    ) -> Tensor:
        masks = self.decoder(features, grid)  # (B, classes, *grid)
        return masks[torch.arange(len(masks), device=masks.device), question.target][:, None]


def _final_convolution(channels: int, dims: int, outputs: int = 1) -> nn.Module:
    """Make the 3x3 convolution to mask logits; these start within about +-0.3."""
    final = CONVOLUTIONS[dims](channels, outputs, 3, padding=1)
    weight, bias = final.parameters()
    nn.init.normal_(weight, std=0.01)
    nn.init.zeros_(bias)
    return final


def _block(channels: int, width: int, dims: int, kernel: int = 3) -> nn.Module:
    convolution = CONVOLUTIONS[dims](channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](width), nn.ReLU())


def _start_with(final: nn.Module, told: int) -> None:
    """Initialize a mask that follows the evidence; otherwise it shrinks for all classes."""
    weight = final.get_parameter("weight").detach().flatten(2)  # (outputs, channels, 3 ** dims)
    first = weight.shape[1] - told
    weight[:, first : first + 2, weight.shape[2] // 2] = 0.5


def _append(maps: Tensor, more: Sequence[Tensor]) -> Tensor:
    """Append channels to a map: ``(B, n)`` to every cell, ``(B, n, *grid)`` resampled to its."""
    cells = maps.shape[2:]
    return torch.cat([maps, *(_over(each, cells) for each in more)], dim=1) if more else maps


def _over(more: Tensor, cells: Sequence[int]) -> Tensor:
    if more.dim() > 2:
        return linear(more, cells)
    return more.reshape(*more.shape, *[1] * len(cells)).expand(*more.shape, *cells)


def _check_channels(channels: Sequence[int], raw: Sequence[int]) -> None:
    if not channels:
        raise ValueError(
            "a masker must read at least one feature map, but got channels=[]; name the modules "
            "to read with MaskingModel(classifier, layers=[...])."
        )
    if not set(raw) <= set(range(len(channels))):
        raise ValueError(
            f"raw must list indices of the {len(channels)} feature maps, but got {list(raw)}; "
            "count from 0."
        )
