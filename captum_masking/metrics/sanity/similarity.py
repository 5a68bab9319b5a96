"""How alike are two maps? One value per image, from 1 for the same map down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from captum_masking.metrics.localization.planes import is_finite, min_max, planes_of
from captum_masking.metrics.sanity.hog import hog_features

#: ``(maps, others) -> (B,)``: 1 for the same map, NaN where either map is not finite.
Similarity = Callable[[Tensor, Tensor], Tensor]


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Return the rank correlation of the pixels of two maps.

    Args:
        maps: ``(B, 1, H, W)`` or ``(B, H, W)`` on any scale, any dtype and device.
        others: As many maps of the same size.

    Returns:
        Float32 ``(B,)`` in [-1, 1] on the maps' device. Equal pixels share the mean of their
        ranks. 0 where one map is constant, 1 where both are: neither singles anything out. NaN
        where either has NaN or infinity.

    Raises:
        ValueError: If the maps do not have one of these shapes, or not the same.

    Source:
        Adebayo et al. 2018, rank correlation without absolute values. Constant maps are our own.

    Example:
        >>> spearman(torch.tensor([[[0.1, 0.2, 0.9]]]), torch.tensor([[[1.0, 5.0, 6.0]]]))
        tensor([1.])
    """
    planes, other_planes, finite = _pair(maps, others)
    return _or_nan(pearson(_ranks(planes), _ranks(other_planes)), finite)


def absolute_spearman(maps: Tensor, others: Tensor, *, center: float = 0.0) -> Tensor:
    """Return the rank correlation of the pixels' distances from a center.

    A sign that flips everywhere does not show in it. For maps >= 0 and center 0 it is `spearman`.

    Args:
        maps: As in `spearman`.
        others: As in `spearman`.
        center: The value that says nothing either way: 0 for attributions, 0.5 for masks.

    Returns:
        Float32 ``(B,)``, as `spearman` does.

    Raises:
        ValueError: As `spearman` does.

    Source:
        Adebayo et al. 2018, rank correlation with absolute values; Phang et al. 2020 take 0.5 as
        the center.

    Example:
        >>> maps = torch.tensor([[[-3.0, 1.0, 2.0]]])
        >>> absolute_spearman(maps, -maps), spearman(maps, -maps)
        (tensor([1.]), tensor([-1.]))
    """
    return spearman((planes_of(maps) - center).abs(), (planes_of(others) - center).abs())


def ssim(
    maps: Tensor, others: Tensor, *, window_px: int = 5, value_range: float | None = None
) -> Tensor:
    """Return the structural similarity of two maps, the mean over all whole windows.

    Args:
        maps: As in `spearman`.
        others: As in `spearman`.
        window_px: Side of the square windows, >= 1; the map's smaller side if that is less.
        value_range: Greatest minus least possible value, for maps that share a scale (1 for
            masks), which are then compared as they are. None scales each map to [0, 1] first, see
            `min_max`: attributions have no unit.

    Returns:
        Float32 ``(B,)`` in [-1, 1] on the maps' device; a constant map is scaled to zeros, so two
        of them have 1. NaN where either map has NaN or infinity.

    Raises:
        ValueError: As `spearman` does, or if ``window_px`` or ``value_range`` is not positive.

    Source:
        Wang et al. 2004, with a uniform window, sample covariances, K1 = 0.01 and K2 = 0.03, as
        in scikit-image; a window of 5 as in Phang et al. 2020.

    Example:
        >>> maps = torch.eye(8)[None]
        >>> ssim(maps, 3 * maps), ssim(maps, 1 - maps) < 0
        (tensor([1.]), tensor([True]))
    """
    _check_window(window_px, value_range)
    planes, other_planes, finite = _pair(maps, others)
    if value_range is None:
        planes, other_planes, value_range = min_max(planes), min_max(other_planes), 1.0
    window = min(window_px, *planes.shape[-2:])
    return _or_nan(_structure(planes, other_planes, window, value_range), finite)


def hog_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Return the correlation of two maps' histograms of oriented gradients.

    Each map is scaled to [0, 1] first; `hog_features` says how small maps are treated.

    Args:
        maps: As in `spearman`.
        others: As in `spearman`.

    Returns:
        Float32 ``(B,)`` in [-1, 1] on the maps' device. 0 where one map has no gradient anywhere
        (it is constant, or one or two pixels wide and high), 1 where neither has one. NaN where
        either has NaN or infinity.

    Raises:
        ValueError: As `spearman` does.

    Source:
        Adebayo et al. 2018, Pearson correlation of HOG features with cells of 16 x 16 pixels.

    Example:
        >>> maps = torch.eye(48)[None]
        >>> hog_similarity(maps, 2 * maps + 1), hog_similarity(maps, maps.flip(-1)) < 0.1
        (tensor([1.]), tensor([True]))
    """
    planes, other_planes, finite = _pair(maps, others)
    features, other_features = (hog_features(min_max(p)) for p in (planes, other_planes))
    return _or_nan(pearson(features, other_features), finite)


#: The four similarities of Adebayo et al. 2018, by name.
SIMILARITIES: Mapping[str, Similarity] = MappingProxyType(
    {
        "spearman": spearman,
        "absolute_spearman": absolute_spearman,
        "ssim": ssim,
        "hog": hog_similarity,
    }
)


def compare_maps(
    maps: Tensor, others: Tensor, *, similarities: Mapping[str, Similarity] = SIMILARITIES
) -> dict[str, Tensor]:
    """Return several similarities of two maps, by name.

    It compares any two explanations of the same images: before and after a change of weights, of
    a model trained on true labels and of one trained on `shuffled_labels`, of two methods.

    Args:
        maps: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.
        others: As many maps of the same size.
        similarities: Functions ``(maps, others) -> (B,)`` by name.

    Returns:
        Float32 ``(B,)`` for each name.

    Raises:
        ValueError: If the maps do not have one of these shapes, or not the same.

    Source:
        Adebayo et al. 2018.

    Example:
        >>> maps = torch.rand(2, 1, 32, 32)
        >>> compare_maps(maps, maps)["ssim"]
        tensor([1., 1.])
    """
    return {name: similarity(maps, others) for name, similarity in similarities.items()}


def pearson(rows: Tensor, others: Tensor) -> Tensor:
    """Return the correlation ``(B,)`` of rows ``(B, N)``; 0 for one constant row, 1 for two."""
    flat, other_flat = (r.amin(1) == r.amax(1) for r in (rows, others))
    units = [torch.nn.functional.normalize(r - r.mean(1, True), eps=0) for r in (rows, others)]
    values = (units[0] * units[1]).sum(1).clamp(-1, 1)
    return values.where(~(flat | other_flat), (flat & other_flat).to(values))


def _pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both as planes ``(B, H, W)``, not finite ones as zeros, and which pairs are finite."""
    planes, other_planes = planes_of(maps), planes_of(others)
    if planes.shape != other_planes.shape:
        raise ValueError(
            f"maps must be compared with as many of the same size, but got {tuple(maps.shape)} "
            f"and {tuple(others.shape)}; resize one of them first."
        )
    finite = is_finite(planes) & is_finite(other_planes)
    keep = finite[:, None, None]
    return planes.where(keep, 0), other_planes.where(keep, 0), finite


def _or_nan(values: Tensor, finite: Tensor) -> Tensor:
    return values.where(finite, float("nan")).float()


def _ranks(planes: Tensor) -> Tensor:
    """Return ``(B, H * W)``: twice the mean rank of each pixel, less one; it correlates alike."""
    flat = planes.flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat)
    return (below + torch.searchsorted(ordered, flat, right=True)).to(flat)


def _structure(planes: Tensor, others: Tensor, window: int, value_range: float) -> Tensor:
    def mean(values: Tensor) -> Tensor:
        return avg_pool2d(values[:, None], window, stride=1)[:, 0]

    # Of the windows' n pixels; a window of one pixel has no variance.
    unbiased = window**2 / max(1, window**2 - 1)
    mu, other_mu = mean(planes), mean(others)
    variances = unbiased * (mean(planes**2) - mu**2 + mean(others**2) - other_mu**2)
    covariance = unbiased * (mean(planes * others) - mu * other_mu)
    c1, c2 = (0.01 * value_range) ** 2, (0.03 * value_range) ** 2
    luminance = (2 * mu * other_mu + c1) / (mu**2 + other_mu**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2))


def _check_window(window_px: int, value_range: float | None) -> None:
    if window_px < 1:
        raise ValueError(f"window_px must be 1 or more pixels, but got {window_px}.")
    if value_range is not None and not value_range > 0:
        raise ValueError(
            f"value_range must be positive, but got {value_range}; give 1 for masks in [0, 1], or "
            "None to scale each map to [0, 1]."
        )
