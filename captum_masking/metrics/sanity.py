"""Whether maps depend on what the network learned: randomize it, and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.data import Dataset

from captum_masking._base.borrow import borrowed, seeded
from captum_masking.data.subsets import labels_of
from captum_masking.metrics.maps import is_finite, min_max, planes_of
from captum_masking.metrics.mean import ImageMetric

# ---- Histograms of oriented gradients: which edges a map has, and roughly where.

# Dalal & Triggs 2005; scikit-image's defaults.
ORIENTATIONS = 9  # of 20 degrees each, an edge and its opposite being the same
BLOCK_CELLS = 3
CLIP = 0.2  # "L2-Hys"
EPSILON = 1e-5


def hog_features(
    maps: Tensor, *, cell_px: int | None = None, block_cells: int = BLOCK_CELLS
) -> Tensor:
    """Describe each map by how much edge of each direction there is in each of its cells.

    Gradients are central differences, 0 along the border. Each cell adds up its gradients'
    lengths in nine classes of direction; overlapping blocks of cells are then scaled to unit
    length, clipped at 0.2 and scaled again.

    Args:
        maps: ``(B, 1, H, W)`` or ``(B, H, W)``, any dtype and device.
        cell_px: Side of a cell; what is left over at the right and lower border is not looked at.
            None is 16, or a third of the smaller side for maps below 48 pixels, so that there is
            at least one block.
        block_cells: Side of a block; all cells there are, if that is less.

    Returns:
        Float64 ``(B, N)``; zeros for a constant map, and for one without an inner pixel.

    Raises:
        ValueError: If the maps do not have one of these shapes, or a cell does not fit.

    Source:
        Dalal & Triggs 2005; agrees with ``skimage.feature.hog``, whose defaults these are. That
        small maps have smaller cells is our own.

    Example:
        >>> hog_features(torch.eye(224)[None]).shape  # 14 x 14 cells, 12 x 12 blocks of 9
        torch.Size([1, 11664])
    """
    planes = planes_of(maps)
    cell = _cell(planes, cell_px)
    histograms = _histograms(planes, cell)  # (B, O, rows, columns)
    block = min(block_cells, *histograms.shape[-2:])
    blocks = histograms.unfold(2, block, 1).unfold(3, block, 1)
    return _scaled(blocks.permute(0, 2, 3, 4, 5, 1).flatten(3)).flatten(1)


def _cell(planes: Tensor, cell_px: int | None) -> int:
    side = min(planes.shape[-2:])
    cell = max(1, min(16, side // BLOCK_CELLS)) if cell_px is None else cell_px
    if not 1 <= cell <= side:
        raise ValueError(
            f"cell_px must be 1 or more pixels and fit into maps of {tuple(planes.shape[-2:])}, "
            f"but got {cell_px}; None chooses a size that does."
        )
    return cell


def _histograms(planes: Tensor, cell: int) -> Tensor:
    down, across = torch.zeros_like(planes), torch.zeros_like(planes)
    down[:, 1:-1] = planes[:, 2:] - planes[:, :-2]
    across[:, :, 1:-1] = planes[:, :, 2:] - planes[:, :, :-2]
    degrees = torch.rad2deg(torch.atan2(down, across)).remainder(180)
    # Rounding can make a direction just below 0 one of 180 degrees, which is 0 again.
    classes = (degrees / (180 / ORIENTATIONS)).floor().long() % ORIENTATIONS
    lengths = torch.hypot(down, across)
    votes = [lengths.where(classes == o, 0) for o in range(ORIENTATIONS)]
    return avg_pool2d(torch.stack(votes, dim=1), cell)


def _scaled(blocks: Tensor) -> Tensor:
    clipped = _to_unit_length(blocks).clamp(max=CLIP)
    return _to_unit_length(clipped)


def _to_unit_length(blocks: Tensor) -> Tensor:
    return blocks / ((blocks**2).sum(-1, keepdim=True) + EPSILON**2).sqrt()


# ---- How alike are two maps? One value per image, from 1 for the same map down.

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


# ---- Similarities of maps, counted over batches.


class MapSimilarity(ImageMetric):
    """Mean over images of the similarities of two maps, by name; see `compare_maps`.

    Pairs in which either map is not finite are left out; ``not_finite`` is their share.

    Args:
        similarities: As in `compare_maps`.
        **kwargs: Passed on to ``torchmetrics.Metric``.

    Source:
        Adebayo et al. 2018.

    Example:
        >>> metric = MapSimilarity()
        >>> metric.update(torch.eye(32)[None], torch.eye(32)[None])
        >>> metric.compute()["hog"]
        tensor(1.)
    """

    higher_is_better = None  # a method should change with the weights, and be stable otherwise
    plot_lower_bound = -1.0
    totals: Tensor
    seen: Tensor
    not_finite: Tensor

    def __init__(
        self, *, similarities: Mapping[str, Similarity] = SIMILARITIES, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.similarities = dict(similarities)  # a proxy cannot be pickled
        totals = torch.zeros(len(similarities), dtype=torch.float64)
        self.add_state("totals", totals, dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("not_finite", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: Tensor, others: Tensor) -> None:
        """Add a batch of pairs of maps; the arguments are those of `compare_maps`."""
        values = compare_maps(maps, others, similarities=self.similarities)
        rows = torch.stack(list(values.values())).to(self.totals)  # (S, B)
        rows = rows[:, rows.isfinite().all(0)]
        self.totals += rows.sum(1)
        self.seen += rows.shape[1]
        self.not_finite += len(maps) - rows.shape[1]

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name.

        Raises:
            RuntimeError: If no finite pair was seen.
        """
        if self.seen == 0:
            raise RuntimeError(
                "no pair of finite maps was seen: call update(maps, others) before compute()."
            )
        means = dict(zip(self.similarities, self.totals / self.seen, strict=True))
        means["not_finite"] = self.not_finite / (self.seen + self.not_finite)
        return {name: value.float() for name, value in means.items()}

    def __repr__(self) -> str:
        named = (f"{name!r}: {_spoken(function)}" for name, function in self.similarities.items())
        return f"MapSimilarity(similarities={{{', '.join(named)}}})"


def _spoken(function: Any) -> str:
    if isinstance(function, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"partial({_spoken(function.func)}, {options})"
    return str(getattr(function, "__name__", function))


# ---- Random weights in place of trained ones.

#: Draws the parameters that a module owns directly anew, from torch's random state.
Rule = Callable[[nn.Module], None]


def reset(module: nn.Module) -> None:
    """Start a module afresh, as when it was built.

    Calls its ``reset_parameters`` where it has one: batch norm then also forgets its statistics.
    Otherwise, parameters with two or more axes are drawn as in ``nn.Linear`` (uniformly within
    +- 1 / sqrt(fan in)), the others uniformly within +- 1 / sqrt(n) for n numbers.

    Args:
        module: Only what it owns directly is drawn.

    Source:
        Own; random weights are to be like those before training.

    Example:
        >>> layer = nn.BatchNorm2d(2)
        >>> _ = nn.init.constant_(layer.weight, 7.0)
        >>> reset(layer)
        >>> layer.weight.tolist()
        [1.0, 1.0]
    """
    own = getattr(module, "reset_parameters", None)
    if callable(own):
        own()
        return
    for parameter in module.parameters(recurse=False):
        _draw(parameter)


def published_reset(module: nn.Module) -> None:
    """Draw a module's parameters by the number of their axes alone, as the published code does.

    With four axes from a normal distribution of standard deviation sqrt(2 / n) for n numbers; with
    two Kaiming-uniformly; with one uniformly within +- 1 / sqrt(n), the factors and offsets of
    batch norm too. Its statistics stay. With other numbers of axes as `reset` does.

    Args:
        module: Only what it owns directly is drawn.

    Source:
        Phang et al. 2020, cascading and independent randomization.

    Example:
        >>> layer = nn.BatchNorm2d(4)
        >>> published_reset(layer)
        >>> bool((layer.weight.abs() <= 0.5).all())
        True
    """
    for parameter in module.parameters(recurse=False):
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=(2 / parameter.numel()) ** 0.5)
        elif parameter.dim() == 2:
            nn.init.kaiming_uniform_(parameter)
        else:
            _draw(parameter)


def _draw(parameter: Tensor) -> None:
    if parameter.dim() >= 2:
        nn.init.kaiming_uniform_(parameter, a=5**0.5)
    else:
        bound = max(1, parameter.numel()) ** -0.5
        nn.init.uniform_(parameter, -bound, bound)


def randomize(module: nn.Module, *, seed: int = 0, rule: Rule = reset) -> None:
    """Draw all parameters of a module and of the modules in it anew, for good.

    Args:
        module: Changed in place; its modes, flags and hooks are left alone.
        seed: The same seed draws the same weights. Torch's random state is left alone.
        rule: Called with each module that owns parameters.

    Raises:
        ValueError: If there is no parameter.

    Source:
        Adebayo et al. 2018, model parameter randomization.

    Example:
        >>> import torch
        >>> one, other = nn.Linear(3, 2), nn.Linear(3, 2)
        >>> randomize(one, seed=7), randomize(other, seed=7)
        (None, None)
        >>> torch.equal(one.weight, other.weight)
        True
    """
    parts = [part for layer in layers_of(module).values() for part in layer]
    with seeded(module, seed):
        for part in parts:
            rule(part)


# ---- What to randomize: the layers of a network, of a classifier alone, of a masker alone.

#: By the name of each layer, from the input to the output: a module, with all that is in it, or
#: several modules, each with what it owns directly.
Layers = Mapping[str, nn.Module | Sequence[nn.Module]]


def layers_of(
    module: nn.Module, *, depth: int | None = None, prefix: str = ""
) -> dict[str, tuple[nn.Module, ...]]:
    """List the layers of a module: the modules that own parameters, as they were registered.

    Args:
        module: From its input to its output, if it was built in that order.
        depth: Take all modules that share the first ``depth`` parts of their name as one layer: 1
            gives the stages of a ResNet. None leaves each on its own.
        prefix: Put before each name, with a dot.

    Returns:
        Modules by name, as ``module.named_modules()`` has it.

    Raises:
        ValueError: If no module owns a parameter, or ``depth`` is below 1.

    Source:
        Adebayo et al. 2018 randomize blocks; Phang et al. 2020 modules at a depth of at most 2.

    Example:
        >>> network = nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), nn.ReLU())
        >>> list(layers_of(network)), list(layers_of(network, depth=1))
        (['0.0', '0.1'], ['0'])
    """
    if depth is not None and depth < 1:
        raise ValueError(f"depth must be 1 or more parts of a name, or None, but got {depth}.")
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


# ---- Does a map change when the weights are random? If not, it does not explain the model.


def cascading(
    model: nn.Module,
    maps_of: Callable[[], Tensor],
    *,
    layers: Layers | None = None,
    seed: int = 0,
    rule: Rule = reset,
    similarities: Mapping[str, Similarity] = SIMILARITIES,
) -> dict[str, dict[str, Tensor]]:
    """Randomize one layer after the other, from the last to the first, and watch the map.

    The model is given back as it was, bit by bit, also after an exception: weights, buffers,
    gradients, modes, flags and hooks. So is torch's random state; ``maps_of`` draws the same
    random numbers each time, so that only the weights make a difference.

    Args:
        model: All that ``maps_of`` may change, layers that are not randomized included.
        maps_of: Returns maps ``(B, 1, H, W)`` or ``(B, H, W)`` of the same images each time, by
            the model as it then is.
        layers: What to randomize, from the input to the output; None is ``layers_of(model)``.
        seed: The same seed draws the same weights, for a layer also in `independent`.
        rule: Called with each module of a layer; `published_reset` is the other one.
        similarities: As in `compare_maps`.

    Returns:
        For each layer, last first, the similarities ``(B,)`` by name of the maps of the trained
        model and of one with this layer and all later ones random.

    Raises:
        ValueError: If there is nothing to randomize, a layer is not part of the model, or maps
            have another shape or change it.

    Source:
        Adebayo et al. 2018, cascading randomization.

    Example:
        >>> from captum.attr import Saliency
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)
        ... )
        >>> images = torch.rand(4, 1, 8, 8, requires_grad=True)
        >>> saliency = Saliency(network)
        >>> found = cascading(network, lambda: saliency.attribute(images, target=0).sum(1))
        >>> list(found), found["3"]["spearman"].shape
        (['3', '0'], torch.Size([4]))
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
    """Randomize one layer at a time, all others being as trained, and watch the map.

    Args:
        model: As in `cascading`, and given back likewise.
        maps_of: As in `cascading`.
        layers: As in `cascading`.
        seed: As in `cascading`.
        rule: As in `cascading`.
        similarities: As in `cascading`.

    Returns:
        For each layer, last first, the similarities ``(B,)`` by name of the maps of the trained
        model and of one with this layer alone random.

    Raises:
        ValueError: As `cascading` does.

    Source:
        Adebayo et al. 2018, independent randomization.

    Example:
        >>> from captum_masking.model.model import MaskingModel

        >>> model = MaskingModel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
        >>> images = torch.rand(2, 1, 16, 16)
        >>> found = independent(model, lambda: model.mask(images), layers=layers_of(model.masker,
        prefix="masker"))
        >>> list(found)[0], list(found["masker.final"])
        ('masker.final', ['spearman', 'absolute_spearman', 'ssim', 'hog'])
    """
    parts = _layers_in(model, layers)
    values: dict[str, dict[str, Tensor]] = {}
    before = _borrowed_maps(model, maps_of, seed)
    for name, drawn in reversed(_seeds(parts, seed).items()):
        with borrowed(model):
            _randomize(model, parts[name], drawn, rule)
            after = _maps(model, maps_of, seed)
        values[name] = compare_maps(before, after, similarities=similarities)
    return values


def _borrowed_maps(model: nn.Module, maps_of: Callable[[], Tensor], seed: int) -> Tensor:
    with borrowed(model):
        return _maps(model, maps_of, seed)


def _maps(model: nn.Module, maps_of: Callable[[], Tensor], seed: int) -> Tensor:
    with seeded(model, seed):
        return maps_of().detach().clone()


def _seeds(layers: Mapping[str, Sequence[nn.Module]], seed: int) -> dict[str, int]:
    # By the place of a layer, so that both ways of randomizing draw the same weights for it.
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
            f"layers must be modules of the model, which is given back afterwards, but got "
            f"{outside or 'none'}; layers_of(model), layers_of(model.classifier, "
            'prefix="classifier") and the like list them.'
        )
    return listed


def _parts(layer: nn.Module | Sequence[nn.Module]) -> Sequence[nn.Module]:
    if not isinstance(layer, nn.Module):
        return layer
    return [part for parts in layers_of(layer).values() for part in parts]


# ---- Does a map change when the model was trained on random labels? Labels to train it on.


class Relabeled(Dataset[Any]):
    """A data set with other labels.

    Args:
        dataset: Gives ``(image, label, ...)``.
        labels: One label an image, in its place.

    Attributes:
        labels: One int an image.

    Raises:
        ValueError: If there is not one label an image.

    Source:
        Own.

    Example:
        >>> images = torch.utils.data.TensorDataset(torch.zeros(2, 1), torch.tensor([5, 6]))
        >>> Relabeled(images, [7, 8])[1]
        (tensor([0.]), 8)
    """

    def __init__(self, dataset: Dataset[Any], labels: Sequence[int]) -> None:
        if len(labels) != len(dataset):  # type: ignore[arg-type]  # those with labels have one
            raise ValueError(
                f"labels must be one an image, but got {len(labels)} for {len(dataset)} images."  # type: ignore[arg-type]
            )
        self.dataset = dataset
        self.labels = list(labels)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, _, *rest = self.dataset[index]
        return (image, self.labels[index], *rest)

    def __len__(self) -> int:
        return len(self.labels)


def shuffled_labels(dataset: Dataset[Any], *, seed: int = 0, published: bool = False) -> Relabeled:
    """Give each image a label that has nothing to do with it.

    Train one model on the data set and one on this, as alike as can be, and compare their maps of
    the same images with `compare_maps`: what both have in common is not owed to the classes.

    Args:
        dataset: Read by :func:`~captum_masking.data.labels_of`.
        seed: The same seed draws the same labels. Torch's random state is left alone.
        published: Draw each image's label uniformly from those that occur, as the published code
            does: the classes' shares then change too. Otherwise the labels are permuted.

    Returns:
        The same images, with a list ``labels``. Some keep their label by chance.

    Raises:
        ValueError: If the data set gives no labels.

    Source:
        Adebayo et al. 2018, data randomization, permute; Phang et al. 2020 draw uniformly.

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
