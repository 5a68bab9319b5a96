"""The classifier's evidence for a class per cell: features times gradient at the deepest map."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.checkpoint import CheckpointError

from captum_masking._base.borrow import plain_tensors
from captum_masking._base.captum import as_class_logits, two_classes

__all__ = ["Features", "Trace", "evidence", "is_product"]


@dataclass(frozen=True)
class Trace:
    """How the deepest map leads to the logits: ``layout(source)`` is ``(B, channels, *cells)``.

    ``head`` is a linear layer that may, or may not, make the logits out of the mean of the map.
    """

    logits: Tensor
    source: Tensor
    layout: Callable[[Tensor], Tensor]
    head: nn.Linear | None = None


@dataclass(frozen=True)
class Features:
    """What a masker reads from one pass: features, input sizes, and a trace for evidence."""

    maps: tuple[Tensor, ...]
    sizes: tuple[torch.Size, ...]
    trace: Trace | None = None


def evidence(features: Features, target: Tensor | None = None) -> Tensor:
    r"""Compute each cell's evidence for a class, and against the others.

    With the features ``A`` of the deepest layer that the masker reads, its number of cells ``n``,
    the logit ``z`` of the class and its log odds ``o = z - logsumexp(all other logits)``:

    - ``n * sum_channels(A * dz / dA)``,
    - ``n * sum_channels(A * do / dA)``,
    - ``o`` itself, the same in each cell.

    If the classifier averages linear features, the mean of the first map is the logit without its
    bias: each cell holds the logit that it would have alone, the product of features and class
    weights. Other classifiers take a backward pass from the logits to the deepest map; no parameter
    gets a gradient. Without a target, it is the evidence for the predicted class.

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
            "this masker reads the classifier's evidence for the class, but these features have no "
            "trace to the logits; pass the features that model.read(inputs) returned."
        )
    trace: Trace = features.trace  # type: ignore[assignment]
    with plain_tensors(trace), torch.enable_grad():
        logits = as_class_logits(trace.logits)
        target = logits.argmax(1) if target is None else target
        return _evidence(trace, logits, target).detach()


def is_product(trace: Trace) -> bool:
    """Whether the logits are linear in the mean of the map, so that evidence is a product.

    Example:
        >>> maps = torch.rand(1, 2, 3, 3)
        >>> pooled = maps.mean((2, 3)), maps.amax((2, 3))
        >>> [is_product(Trace(logits, maps, layout=lambda maps: maps)) for logits in pooled]
        [True, False]
    """
    logits = trace.logits.detach().float()
    return _product(trace, logits, torch.zeros_like(logits)[:, None]) is not None


def head_of(classifier: nn.Module, maps: Tensor) -> nn.Linear | None:
    """Return the last linear layer on the channels of a map, if its weights are plain numbers."""
    linear = [part for part in classifier.modules() if type(part) is nn.Linear]
    plain = [part for part in linear if type(part.weight) in (Tensor, nn.Parameter)]
    fits = [
        p for p in plain if (p.weight.shape[1:], p.weight.device) == (maps.shape[1:2], maps.device)
    ]
    return fits[-1] if fits else None


def _evidence(trace: Trace, logits: Tensor, target: Tensor) -> Tensor:
    of_target = one_hot(target, logits.shape[1]).float()  # (B, classes)
    others = logits.detach().float().masked_fill(of_target.bool(), -math.inf)
    odds = (logits.detach().float() * of_target).sum(1) - others.logsumexp(1)  # (B,)
    weights = torch.stack([of_target, of_target - others.softmax(1)], dim=1)
    maps = _product(trace, logits.detach().float(), weights)
    if maps is None:
        slopes = [_share_of_cells(trace, logits, each.to(logits)) for each in weights.unbind(1)]
        maps = torch.stack(slopes, dim=1)
    constant = odds.reshape(-1, *[1] * (maps.dim() - 1)).expand_as(maps[:, :1])
    return torch.cat([maps, constant], dim=1)


@torch.no_grad()
def _product(trace: Trace, logits: Tensor, weights: Tensor) -> Tensor | None:
    """Compute the share of each cell in sums ``(B, sums, classes)`` of linear logits.

    None if the logits are not what the head, or nothing, makes of the mean of the map.
    """
    kind = logits.device.type
    off = torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    with off:
        maps = trace.layout(trace.source.detach()).float()
        cells = maps.reshape(*maps.shape[:2], -1)
        found, bias = cells.mean(2), logits.new_zeros(1)
        if trace.head is not None:
            table = two_classes(trace.head.weight.float().T)  # (channels, classes)
            found = found @ table
            bias = bias if trace.head.bias is None else two_classes(trace.head.bias.float()[None])
        # Rounding is relative to the features' part, which a large bias would hide.
        steps = max(torch.finfo(each.dtype).eps for each in (trace.source, trace.logits))
        slack = (1e-5 + 4 * steps) * found.abs().amax(1, keepdim=True)
        if not torch.compiler.is_exporting():  # checked before an export
            same = found.shape == logits.shape and ((found + bias - logits).abs() <= slack).all()
            if not same:
                return None
        weights = weights if trace.head is None else weights @ table.T
        return (weights @ cells).unflatten(2, maps.shape[2:])


def _share_of_cells(trace: Trace, logits: Tensor, weights: Tensor) -> Tensor:
    """Compute how much of a weighted sum of logits each cell holds, ``(B, *cells)``."""
    if not logits.requires_grad:
        raise _no_way_back()
    # Scaled before the backward pass: in half precision a cell's share could vanish.
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
