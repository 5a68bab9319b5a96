"""Does a map change when the weights are random? If not, it does not explain the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from captum_masking.metrics.sanity.borrowed import borrowed, seeded
from captum_masking.metrics.sanity.layers import Layers, layers_of
from captum_masking.metrics.sanity.reset import Rule, reset
from captum_masking.metrics.sanity.similarity import SIMILARITIES, Similarity, compare_maps


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
        >>> from captum_masking import MaskingModel
        >>> from captum_masking.metrics.sanity import masker_layers
        >>> model = MaskingModel(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
        >>> images = torch.rand(2, 1, 16, 16)
        >>> found = independent(model, lambda: model.mask(images), layers=masker_layers(model))
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
            f"{outside or 'none'}; layers_of(model), classifier_layers(model) and "
            "masker_layers(model) list them."
        )
    return listed


def _parts(layer: nn.Module | Sequence[nn.Module]) -> Sequence[nn.Module]:
    if not isinstance(layer, nn.Module):
        return layer
    return [part for parts in layers_of(layer).values() for part in parts]
