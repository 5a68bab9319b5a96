"""The classifier's own evidence for a class, cell by cell: features times gradient, deepest map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.checkpoint import CheckpointError

from captum_masking._base.borrow import plain_tensors
from captum_masking._base.captum import as_class_logits

__all__ = ["Features", "Trace", "evidence"]


@dataclass(frozen=True)
class Trace:
    """How the deepest map leads to the logits: ``layout(source)`` is ``(B, channels, *cells)``."""

    logits: Tensor
    source: Tensor
    layout: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Features:
    """What a masker reads of one pass: maps (or inputs), input sizes, and a trace for evidence."""

    maps: tuple[Tensor, ...]
    sizes: tuple[torch.Size, ...]
    trace: Trace | None = None


def evidence(features: Features, target: Tensor) -> Tensor:
    r"""Compute which cells of the deepest map speak for a class, and against the others.

    With the features ``A`` of the deepest layer that the masker reads, its number of cells ``n``,
    the logit ``z`` of the class and its log odds ``o = z - logsumexp(all other logits)``:

    - ``n * sum_channels(A * dz / dA)``,
    - ``n * sum_channels(A * do / dA)``,
    - ``o`` itself, the same in each cell.

    Where the classifier averages linear features, the mean of the first map is the logit without
    its bias: each cell holds the logit that it would have alone. Only the layers after the deepest
    map are run back, and no parameter gets a gradient; there is no table of classes.

    Returns:
        ``(B, 3, *cells)``, at least float32, without graph.

    Source:
        The first map is Grad-CAM's (Selvaraju et al. 2017) with the gradient at each cell
        rather than its mean, as HiResCAM (Draelos & Carin 2020) has it, without their rectifier.

    Example:
        >>> maps = torch.tensor([[[[1.0, 3.0]]]], requires_grad=True)  # one channel, two cells
        >>> logits = maps.mean((2, 3)) @ torch.tensor([[2.0, 0.0]])  # z = 4 and 0
        >>> trace = Trace(logits, maps, layout=lambda maps: maps)
        >>> features = Features((maps,), sizes=(torch.Size([4, 8]),), trace=trace)
        >>> evidence(features, torch.tensor([0]))[0, :, 0]  # the other logit does not move
        tensor([[2., 6.],
                [2., 6.],
                [4., 4.]])
    """
    if getattr(features, "trace", None) is None:
        raise TypeError(
            "this masker reads the classifier's evidence for the class, so it needs the features "
            "that model.read(inputs) returned, but these do not hold how they lead to the logits."
        )
    trace: Trace = features.trace  # type: ignore[assignment]
    with plain_tensors(trace), torch.enable_grad():
        return _evidence(trace, as_class_logits(trace.logits), target).detach()


def _evidence(trace: Trace, logits: Tensor, target: Tensor) -> Tensor:
    of_target = one_hot(target, logits.shape[1]).to(logits)  # (B, classes)
    others = logits.detach().float().masked_fill(of_target.bool(), -math.inf)
    odds = (logits.detach().float() * of_target).sum(1) - others.logsumexp(1)  # (B,)
    maps = [
        _share_of_cells(trace, logits, weights)
        for weights in (of_target, of_target - others.softmax(1).to(of_target))
    ]
    constant = odds[:, None].expand(len(odds), maps[0][0].numel()).reshape(maps[0].shape)
    return torch.stack([*maps, constant.to(maps[0])], dim=1)


def _share_of_cells(trace: Trace, logits: Tensor, weights: Tensor) -> Tensor:
    """Compute how much of a weighted sum of logits each cell holds, ``(B, *cells)``."""
    if not logits.requires_grad:
        raise _no_way_back()
    # Times the cells before the way back: in half precision a cell's share alone could vanish.
    cells = trace.layout(trace.source.detach())[0, 0].numel()
    try:
        (slope,) = torch.autograd.grad(
            logits, trace.source, weights * cells, retain_graph=True, allow_unused=True
        )
    except CheckpointError as error:
        raise _no_way_back() from error
    if slope is None:
        raise _no_way_back()
    return trace.layout(trace.source.detach().float() * slope.float()).sum(1)


def _no_way_back() -> RuntimeError:
    return RuntimeError(
        "expected logits that can be differentiated by the deepest layer that the masker reads, "
        "but there is no gradient from one to the other: the classifier runs its last layers "
        "without gradients, again (a checkpoint), or past that layer. Name a layer that leads to "
        "the logits with layers=[...], or give the masker a table of classes: "
        "masker=partial(Masker, classes=...)."
    )
