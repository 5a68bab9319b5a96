"""The classifier's own evidence for a class, cell by cell: features times gradient, deepest map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from captum_masking._base.borrow import plain_tensors
from captum_masking._base.target import as_class_logits

__all__ = [
    "EVIDENCE",
    "Traced",
    "evidence",
]


#: Maps that :func:`evidence` gives for a class: for it, for it against all others, and how sure.
EVIDENCE = 3


class Traced(list[Tensor]):
    """Feature maps that can still be asked which of their cells speak for a class.

    Args:
        maps: As the masker reads them, ``(B, channels, *grid)`` each.
        logits: ``(B, classes)``, with the graph that leads back to ``source``.
        source: The deepest layer's output, in the layer's own layout.
        layout: Called on a tensor shaped like ``source``; returns a map.

    Source:
        Own.

    Example:
        See :func:`evidence`.
    """

    def __init__(
        self,
        maps: Iterable[Tensor],
        *,
        logits: Tensor,
        source: Tensor,
        layout: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(maps)
        self.logits, self.source, self.layout = logits, source, layout


def evidence(features: Traced, target: Tensor) -> Tensor:
    r"""Ask the classifier which cells of its deepest map speak for a class, and against others.

    With the features ``A`` of the deepest layer that the masker reads, its number of cells ``n``,
    the logit ``z`` of the class and its log odds ``o = z - logsumexp(all other logits)``:

    - ``n * sum_channels(A * dz / dA)``,
    - ``n * sum_channels(A * do / dA)``,
    - ``o`` itself, the same in each cell.

    Where the classifier averages linear features, the mean of the first map is the logit without
    its bias: each cell holds the logit that it would have alone. Only the layers after the deepest
    map are run back, and no parameter gets a gradient; there is no table of classes.

    Args:
        features: Of :meth:`~captum_masking.MaskingModel.read` of a model whose masker asks
            for evidence.
        target: Classes ``(B,)``.

    Returns:
        ``(B, 3, *grid)``, at least float32, without graph.

    Raises:
        TypeError: If the features do not remember how they lead to the logits.
        RuntimeError: If the logits cannot be differentiated by them.

    Source:
        Own; the first map is Grad-CAM's (Selvaraju et al. 2017) with the gradient at each cell
        rather than its mean, as HiResCAM (Draelos & Carin 2020) has it, without their rectifier.

    Example:
        >>> maps = torch.tensor([[[[1.0, 3.0]]]], requires_grad=True)  # one channel, two cells
        >>> logits = maps.mean((2, 3)) @ torch.tensor([[2.0, 0.0]])  # z = 4 and 0
        >>> features = Traced([maps], logits=logits, source=maps, layout=lambda maps: maps)
        >>> evidence(features, torch.tensor([0]))[0, :, 0]  # the other logit does not move
        tensor([[2., 6.],
                [2., 6.],
                [4., 4.]])
    """
    if not isinstance(features, Traced):
        raise TypeError(
            "this masker is told the classifier's evidence for the class, so it must be given the "
            f"features that model.read(inputs) returned, but got a {type(features).__name__}."
        )
    with plain_tensors(features), torch.enable_grad():
        return _evidence(features, as_class_logits(features.logits), target).detach()


def _evidence(features: Traced, logits: Tensor, target: Tensor) -> Tensor:
    asked = one_hot(target, logits.shape[1]).to(logits)  # (B, classes)
    others = logits.detach().float().masked_fill(asked.bool(), -math.inf)
    odds = (logits.detach().float() * asked).sum(1) - others.logsumexp(1)  # (B,)
    maps = [
        _share_of_cells(features, logits, weights)
        for weights in (asked, asked - others.softmax(1).to(asked))
    ]
    constant = odds[:, None].expand(len(odds), maps[0][0].numel()).reshape(maps[0].shape)
    return torch.stack([*maps, constant.to(maps[0])], dim=1)


def _share_of_cells(features: Traced, logits: Tensor, weights: Tensor) -> Tensor:
    """Say how much of a weighted sum of logits each cell holds, ``(B, *grid)``."""
    source = features.source
    cells = features[-1][0, 0].numel()
    if not logits.requires_grad:
        raise _no_way_back()
    # Times the cells before the way back: in half precision a cell's share alone could vanish.
    (slope,) = torch.autograd.grad(
        logits, source, weights * cells, retain_graph=True, allow_unused=True
    )
    if slope is None:
        raise _no_way_back()
    product = source.detach().float() * slope.float()
    return features.layout(product).sum(1)


def _no_way_back() -> RuntimeError:
    return RuntimeError(
        "expected logits that can be differentiated by the deepest layer that the masker reads, "
        "but there is no gradient from one to the other: the classifier runs its last layers "
        "without gradients, or past that layer. Name a layer that leads to the logits with "
        "layers=[...], or tell the masker the class by a table: "
        "masker=partial(Masker, classes=...)."
    )
