"""Sanity checks: randomize the network or its labels, and compare the maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from captum_masking._base.borrow import borrowed, seeded
from captum_masking._base.checks import needed
from captum_masking.data.subsets import labels_of
from captum_masking.metrics.maps import is_finite, min_max, or_nan, planes_of

#: ``(maps, others) -> (B,)``
Similarity = Callable[[Tensor, Tensor], Tensor]


def spearman(maps: Tensor, others: Tensor) -> Tensor:
    """Return the rank correlation of the pixels of two maps, in [-1, 1].

    Equal pixels share the mean of their ranks. 0 where one map is constant, 1 where both are.

    Example:
        >>> spearman(torch.tensor([[[0.1, 0.2, 0.9]]]), torch.tensor([[[1.0, 5.0, 6.0]]]))
        tensor([1.])
    """
    planes, other_planes, finite = _pair(maps, others)
    return or_nan(_pearson(_ranks(planes), _ranks(other_planes)), finite)


def absolute_spearman(maps: Tensor, others: Tensor, *, center: float = 0.0) -> Tensor:
    """Return the rank correlation of the pixels' distances from a center.

    It ignores a flip of all signs. For maps >= 0 and center 0 it is `spearman`.

    Args:
        center: The neutral value: 0 for attributions, 0.5 for masks, as in Phang et al. 2020.

    Example:
        >>> maps = torch.tensor([[[-3.0, 1.0, 2.0]]])
        >>> absolute_spearman(maps, -maps), spearman(maps, -maps)
        (tensor([1.]), tensor([-1.]))
    """
    return spearman((planes_of(maps) - center).abs(), (planes_of(others) - center).abs())


def ssim(
    maps: Tensor, others: Tensor, *, window_px: int = 5, value_range: float | None = None
) -> Tensor:
    """Return the structural similarity of two maps, the mean over all windows, in [-1, 1].

    Args:
        window_px: Side of the square windows, >= 1; at most the map's smaller side.
        value_range: Difference of the largest and the smallest possible value, for maps on a common
            scale (1 for masks). None scales each map by `min_max` first, as attributions have no
            unit.

    Source:
        Wang et al. 2004, with a uniform window, sample covariances, K1 = 0.01 and K2 = 0.03, as
        in scikit-image; a window of 5 as in Phang et al. 2020.

    Example:
        >>> maps = torch.eye(8)[None]
        >>> ssim(maps, 3 * maps), ssim(maps, 1 - maps) < 0
        (tensor([1.]), tensor([True]))
    """
    if window_px < 1:
        raise ValueError(f"window_px must be at least 1, but got {window_px}.")
    if value_range is not None and not value_range > 0:
        raise ValueError(
            f"value_range must be positive, but got {value_range}; use 1 for masks in [0, 1], or "
            "None to scale each map to [0, 1]."
        )
    planes, other_planes, finite = _pair(maps, others)
    if value_range is None:
        planes, other_planes, value_range = min_max(planes), min_max(other_planes), 1.0
    window = min(window_px, *planes.shape[-2:])
    return or_nan(_structure(planes, other_planes, window, value_range), finite)


def _structure(planes: Tensor, others: Tensor, window: int, value_range: float) -> Tensor:
    # torchmetrics' SSIM has population covariances, odd windows, and maps larger than its padding.
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


def hog_similarity(maps: Tensor, others: Tensor) -> Tensor:
    """Return the correlation of two maps' histograms of oriented gradients, in [-1, 1].

    Each map is scaled by `min_max` first. Cells have 16 x 16 pixels, in maps below 48 pixels a
    third of the smaller side. 0 where one map has no gradient anywhere, 1 where neither has one.
    Needs scikit-image.

    Example:
        >>> maps = torch.eye(48)[None]
        >>> hog_similarity(maps, 2 * maps + 1), hog_similarity(maps, maps.flip(-1)) < 0.1
        (tensor([1.]), tensor([True]))
    """
    planes, other_planes, finite = _pair(maps, others)
    features, other_features = (hog_features(min_max(p)) for p in (planes, other_planes))
    return or_nan(_pearson(features, other_features), finite)


def hog_features(maps: Tensor, *, cell_px: int | None = None, block_cells: int = 3) -> Tensor:
    """Return histograms of oriented gradients ``(B, N)``; None is the cell of `hog_similarity`."""
    by, run = "histograms of gradients", "'captum-masking[metrics]'"
    hog = needed("skimage.feature", by=by, run=run).hog
    planes = planes_of(maps)
    side = min(planes.shape[-2:])
    cell = max(1, min(16, side // 3)) if cell_px is None else cell_px
    if not 1 <= cell <= side:
        raise ValueError(
            f"cell_px must be 1 or more pixels and fit into maps of {tuple(planes.shape[-2:])}, "
            f"but got {cell_px}; None chooses a size that does."
        )
    block = min(block_cells, side // cell)
    options: dict[str, Any] = {"pixels_per_cell": (cell, cell), "cells_per_block": (block, block)}
    rows = np.stack([hog(plane, **options) for plane in planes.cpu().double().numpy()])
    return torch.from_numpy(rows).to(planes)


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
    """Return similarities ``(maps, others) -> (B,)`` of maps of the same images, by name.

    Example:
        >>> maps = torch.rand(2, 1, 32, 32)
        >>> compare_maps(maps, maps)["ssim"]
        tensor([1., 1.])
    """
    return {name: similarity(maps, others) for name, similarity in similarities.items()}


def _pair(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both as planes ``(B, H, W)``, zeros if not finite, and which pairs are finite."""
    planes, other_planes = planes_of(maps), planes_of(others)
    if planes.shape != other_planes.shape:
        raise ValueError(
            f"maps to compare must have the same shape, but got {tuple(maps.shape)} "
            f"and {tuple(others.shape)}; resize one of them first."
        )
    finite = is_finite(planes) & is_finite(other_planes)
    keep = finite[:, None, None]
    return planes.where(keep, 0), other_planes.where(keep, 0), finite


def _pearson(rows: Tensor, others: Tensor) -> Tensor:
    """Return the correlation ``(B,)`` of rows ``(B, N)``; 0 for one constant row, 1 for two."""
    # torchmetrics' correlations have no value for constants, and ranks in single precision.
    flat, other_flat = (r.amin(1) == r.amax(1) for r in (rows, others))
    units = [torch.nn.functional.normalize(r - r.mean(1, True), eps=0) for r in (rows, others)]
    values = (units[0] * units[1]).sum(1).clamp(-1, 1)
    return values.where(~(flat | other_flat), (flat & other_flat).to(values))


def _ranks(planes: Tensor) -> Tensor:
    """Return ``(B, H * W)``: twice the mean rank of each pixel, less one; it correlates alike."""
    flat = planes.flatten(1).contiguous()
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat)
    return (below + torch.searchsorted(ordered, flat, right=True)).to(flat)


#: Randomizes the parameters that a module owns directly, with torch's random state.
Rule = Callable[[nn.Module], None]

#: Layers by name, from input to output: a module with its submodules, or several modules, each
#: without its submodules.
Layers = Mapping[str, nn.Module | Sequence[nn.Module]]


def reset(module: nn.Module) -> None:
    """Initialize a module's own parameters again."""
    own = getattr(module, "reset_parameters", None)
    if callable(own):
        own()
        return
    for parameter in module.parameters(recurse=False):
        if parameter.dim() >= 2:
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
        else:
            bound = max(1, parameter.numel()) ** -0.5
            nn.init.uniform_(parameter, -bound, bound)


def randomize(module: nn.Module, *, seed: int = 0, rule: Rule = reset) -> None:
    """Randomize all parameters of a module in place.

    ``rule`` is called with each module that owns parameters; the default is its
    ``reset_parameters``, or else the rule of ``nn.Linear``.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> randomize(layer, rule=lambda part: nn.init.ones_(part.weight))
        >>> layer.weight.detach().sum()
        tensor(6.)
    """
    _randomize(module, _parts(module), seed, rule)


def layers_of(
    module: nn.Module, *, depth: int | None = None, prefix: str = ""
) -> dict[str, tuple[nn.Module, ...]]:
    """Return the modules that own parameters by name, in the order of registration.

    Args:
        module: From its input to its output, if it was built in that order.
        depth: Group modules that share the first ``depth`` parts of their name: 1 gives the stages
            of a ResNet. None does not group.
        prefix: Added before each name, with a dot.

    Example:
        >>> network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), nn.ReLU())
        >>> list(layers_of(network)), list(layers_of(network, depth=1))
        (['0.0', '0.1'], ['0'])
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be at least 1 or None, but got {depth}.")
    layers: dict[str, tuple[nn.Module, ...]] = {}
    for name, part in module.named_modules(prefix=prefix):
        if next(part.parameters(recurse=False), None) is not None:
            kept = prefix.count(".") + bool(prefix)
            name = name if depth is None else ".".join(name.split(".")[: kept + depth])
            layers[name] = (*layers.get(name, ()), part)
    if not layers:
        raise ValueError(
            f"expected a module with parameters to randomize, but {type(module).__name__} has "
            "none; name the layers of the network that the map depends on."
        )
    return layers


def cascading(
    model: nn.Module,
    maps_of: Callable[[], Tensor],
    *,
    layers: Layers | None = None,
    seed: int = 0,
    rule: Rule = reset,
    similarities: Mapping[str, Similarity] = SIMILARITIES,
) -> dict[str, dict[str, Tensor]]:
    """Randomize one layer after the other, from the last to the first, and compare the maps.

    The model and torch's random state are restored exactly, also after an exception.

    Args:
        model: Everything that ``maps_of`` may change.
        maps_of: Returns maps of the same images by the current model, with the same random numbers
            each time.
        layers: Layers to randomize, from input to output; None takes ``layers_of(model)``.
        rule: Called with each module of a layer.
        similarities: As in `compare_maps`.

    Returns:
        By layer, last first, similarities ``(B,)`` by name of the trained model's maps and those
        with this layer and all later ones randomized.

    Example:
        >>> network, images = nn.Sequential(nn.Conv2d(1, 4, 3)), torch.rand(2, 1, 16, 16)
        >>> found = cascading(network, lambda: network(images).mean(1))
        >>> list(found), list(found["0"])
        (['0'], ['spearman', 'absolute_spearman', 'ssim', 'hog'])
    """
    parts = _layers_in(model, layers)
    values: dict[str, dict[str, Tensor]] = {}
    with borrowed(model):
        before = _maps(model, maps_of, seed)
        for name, drawn in reversed(_seeds(parts, seed).items()):
            _randomize(model, parts[name], drawn, rule)
            after = _maps(model, maps_of, seed)
            values[name] = compare_maps(before, after, similarities=similarities)
    return values


def independent(
    model: nn.Module,
    maps_of: Callable[[], Tensor],
    *,
    layers: Layers | None = None,
    seed: int = 0,
    rule: Rule = reset,
    similarities: Mapping[str, Similarity] = SIMILARITIES,
) -> dict[str, dict[str, Tensor]]:
    """Randomize one layer at a time, and compare the maps.

    Arguments and result are those of `cascading`.

    Example:
        >>> network, images = nn.Sequential(nn.Conv2d(1, 4, 3)), torch.rand(2, 1, 16, 16)
        >>> list(independent(network, lambda: network(images).mean(1)))
        ['0']
    """
    parts = _layers_in(model, layers)
    values: dict[str, dict[str, Tensor]] = {}
    with borrowed(model):
        before = _maps(model, maps_of, seed)
    for name, drawn in reversed(_seeds(parts, seed).items()):
        with borrowed(model):
            _randomize(model, parts[name], drawn, rule)
            after = _maps(model, maps_of, seed)
        values[name] = compare_maps(before, after, similarities=similarities)
    return values


def _maps(model: nn.Module, maps_of: Callable[[], Tensor], seed: int) -> Tensor:
    with seeded(model, seed):
        return maps_of().detach().clone()


def _seeds(layers: Mapping[str, Sequence[nn.Module]], seed: int) -> dict[str, int]:
    # Seeded by position, so that both ways of randomizing draw the same weights for a layer.
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(2**62, (len(layers),), generator=generator).tolist()
    return dict(zip(layers, drawn, strict=True))


def _randomize(model: nn.Module, parts: Sequence[nn.Module], seed: int, rule: Rule) -> None:
    with seeded(model, seed):
        for part in parts:
            rule(part)


def _layers_in(model: nn.Module, layers: Layers | None) -> dict[str, Sequence[nn.Module]]:
    named = layers_of(model) if layers is None else layers
    listed = {name: _parts(layer) for name, layer in named.items()}
    inside = set(model.modules())
    outside = [name for name, parts in listed.items() if not inside.issuperset(parts)]
    if outside or not listed:
        raise ValueError(
            f"layers must be modules of the model, but got "
            f"{outside or 'none'}; layers_of(model), layers_of(model.classifier, "
            'prefix="classifier") and the like list them.'
        )
    return listed


def _parts(layer: nn.Module | Sequence[nn.Module]) -> Sequence[nn.Module]:
    if not isinstance(layer, nn.Module):
        return layer
    return [part for parts in layers_of(layer).values() for part in parts]


class Relabeled(Dataset[Any]):
    """A data set of ``(image, label, ...)`` with replaced labels."""

    def __init__(self, dataset: Dataset[Any], labels: Sequence[int]) -> None:
        if len(labels) != len(dataset):  # type: ignore[arg-type]  # those with labels have one
            raise ValueError(
                f"labels must be one per image, but got {len(labels)} for {len(dataset)} images."  # type: ignore[arg-type]
            )
        self.dataset = dataset
        self.labels = list(labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, _, *rest = self.dataset[index]
        return (image, self.labels[index], *rest)

    def __len__(self) -> int:
        return len(self.labels)


def shuffled_labels(dataset: Dataset[Any], *, seed: int = 0, published: bool = False) -> Relabeled:
    """Return the images of a data set with random labels.

    Train one model on the data set and one on this, with the same settings, and compare their maps
    of the same images with `compare_maps`: what they share does not depend on the classes. Some
    images keep their label by chance.

    Args:
        dataset: Read by :func:`~captum_masking.data.labels_of`.
        published: Draw each label uniformly from the classes, as Phang et al. 2020 do, which
            changes the classes' shares. Otherwise permute the labels.

    Example:
        >>> images = torch.utils.data.TensorDataset(torch.zeros(6, 1), torch.arange(6))
        >>> sorted(shuffled_labels(images).labels)
        [0, 1, 2, 3, 4, 5]
    """
    labels = labels_of(dataset)
    generator = torch.Generator().manual_seed(seed)
    if published:
        classes = sorted(set(labels))
        drawn = torch.randint(len(classes), (len(labels),), generator=generator)
        return Relabeled(dataset, [classes[c] for c in drawn.tolist()])
    order = torch.randperm(len(labels), generator=generator)
    return Relabeled(dataset, [labels[i] for i in order.tolist()])
