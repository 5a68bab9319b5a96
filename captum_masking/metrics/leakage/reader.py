"""Who tries to read the class: linear on features of size, position and shape, and repeatable."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from captum_masking.metrics.sanity.hog import hog_features

SIDE_PX = 32  # of the masks as they are read: shapes are still told apart, and noise is not

#: ``(masks, labels, unread) -> labels``: learns from some masks ``(n, 1, 32, 32)`` in [0, 1] with
#: labels ``(n,)`` in 0..K-1, and says those of the unread ones. On the CPU, in double precision.
Reader = Callable[[Tensor, Tensor, Tensor], Tensor]

PENALTIES = torch.logspace(-4, 2, 13, dtype=torch.float64)  # of features with total variance 3


def read_by_ridge(masks: Tensor, labels: Tensor, unread: Tensor) -> Tensor:
    """Read masks by a linear least-squares classifier.

    It looks at the pixels on a grid of 16 x 16 (size and position), the histograms of oriented
    gradients (edges, and roughly where) and the low frequencies of the spectrum (shape, wherever
    it is). Each of the three has the same total variance. The ridge penalty is the one that best
    predicts each mask of the training folds from all others of them.

    Args:
        masks: ``(n, 1, 32, 32)``, float64, to learn from.
        labels: Their classes, ``(n,)``.
        unread: ``(m, 1, 32, 32)``.

    Returns:
        The classes ``(m,)`` of the unread ones.

    Source:
        Own; ridge regression on one column a class, with the exact leave-one-out error (Golub et
        al. 1979 for its formula).

    Example:
        >>> masks = torch.zeros(4, 1, 32, 32, dtype=torch.float64)
        >>> masks[2:, :, :16] = 1
        >>> read_by_ridge(masks, torch.tensor([0, 0, 1, 1]), masks[[3, 0]])
        tensor([1, 0])
    """
    features, others = _features(masks, unread)
    truth = torch.nn.functional.one_hot(labels).to(features)
    center, offset = features.mean(0), truth.mean(0)
    weights = ridge(features - center, truth - offset, PENALTIES * len(features))
    return ((others - center) @ weights + offset).argmax(1)


def ridge(features: Tensor, truth: Tensor, penalties: Tensor) -> Tensor:
    """Return the weights ``(d, K)`` of the penalty with the least leave-one-out error.

    Args:
        features: ``(n, d)``, each column with mean 0.
        truth: ``(n, K)``, likewise.
        penalties: Of the squared weights, each > 0.
    """
    u, s, vh = torch.linalg.svd(features, full_matrices=False)
    projected = u.T @ truth
    errors = []
    for penalty in penalties:
        shrink = s**2 / (s**2 + penalty)
        # The means are estimated too, hence 1 / n.
        leverage = (u**2 * shrink).sum(1, keepdim=True) + 1 / len(truth)
        errors.append((((truth - (u * shrink) @ projected) / (1 - leverage)) ** 2).mean())
    best = penalties[torch.stack(errors).argmin()]
    return vh.T @ ((s / (s**2 + best))[:, None] * projected)


def _features(masks: Tensor, unread: Tensor) -> tuple[Tensor, Tensor]:
    blocks, others = [], []
    for view in (_pixels, _edges, _spectrum):
        seen, new = view(masks), view(unread)
        scale = seen.var(0, correction=0).sum().sqrt().clamp(min=1e-12)
        blocks.append(seen / scale)
        others.append(new / scale)
    return torch.cat(blocks, 1), torch.cat(others, 1)


def _pixels(masks: Tensor) -> Tensor:
    return adaptive_avg_pool2d(masks, SIDE_PX // 2).flatten(1)


def _edges(masks: Tensor) -> Tensor:
    return hog_features(masks, cell_px=SIDE_PX // 4, block_cells=2)


def _spectrum(masks: Tensor) -> Tensor:
    # Of each pair of frequencies with the same size one is enough: columns from 0 on.
    sizes = torch.fft.rfft2(masks[:, 0]).abs()
    rows = torch.arange(-7, 8) % SIDE_PX
    return sizes[:, rows, :8].flatten(1)
