"""Which layers to read, found by a dry run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.dry_run import Found, feature_maps, feature_maps_of_each, hooked
from captum_masking.joint import OfInput
from captum_masking.modes import eval_mode
from captum_masking.outputs import logits_of
from captum_masking.tokens import Tokens, first_tensor


class NoMapsError(ValueError):
    """A classifier without a layer to read.

    Source:
        Own.
    """


def find_layers(
    classifier: nn.Module, example: Any, *, count: int = 2, extra: tuple[Any, ...] = ()
) -> list[str]:
    """Find the map with which the classifier leaves each of its deepest spatial resolutions.

    Of the modules that give a map of one resolution, the outermost are whole stages; the last of
    these is read. Where the network names its stages, as timm's does in ``feature_info``, only
    those are considered. A stack of like blocks of tokens, as in a vision transformer, has one
    resolution: its last block is read and, where there is nothing coarser or finer, those a third
    of the depth before it. Blocks whose patch tokens no longer reach the logits (the last one, if
    only its class token is used) are passed over.

    Args:
        classifier: Run on ``example`` in eval mode, without gradient: once, and once or twice more
            where its layers give tokens.
        example: Inputs of shape ``(B, C, *spatial)`` that the classifier accepts; for vectors
            ``(B, F)`` the last hidden ones are found.
        count: How many maps, from the deepest on.
        extra: Further arguments of the classifier.

    Returns:
        Up to ``count`` module names, finer or earlier maps first.

    Raises:
        NoMapsError: If no module gives a feature map.

    Source:
        Phang et al. 2020 read the two deepest stages of ResNet-50; finding them is our own.

    Example:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten()
        ... )
        >>> find_layers(network, torch.zeros(1, 1, 16, 16))
        ['1', '3']
    """
    found = _offered(classifier, feature_maps(classifier, example, *extra))
    if not found:
        raise NoMapsError(
            f"expected the classifier to make feature maps (B, channels, *spatial) for inputs of "
            f"shape {tuple(example.shape)}, but no module did; name them with layers=[...], and "
            "pass the plain eager module: traced and exported ones lose their hooks."
        )
    return [each.name for each in _choose(classifier, (example, *extra), found, count)]


def find_joint_layers(
    classifier: nn.Module,
    inputs: Sequence[Tensor],
    *,
    count: int = 2,
    extra: tuple[Any, ...] = (),
) -> dict[str, OfInput]:
    """Find for each of several inputs the layers to read, as :func:`find_layers` does for one.

    Args:
        classifier: Run once on the inputs, and once with each of them spoiled.
        inputs: All that it takes: vectors, signals, images, volumes.
        count: How many layers for each input, from the deepest on.
        extra: Further arguments of the classifier.

    Returns:
        Names of layers, each with its layout; a layer that depends on several inputs is read as a
        map of the first.

    Raises:
        NoMapsError: If no module gives a feature map of any input.

    Source:
        Own.

    Example:
        See :class:`~captum_masking.model.MaskingModel`.
    """
    layers: dict[str, OfInput] = {}
    for index, found in enumerate(feature_maps_of_each(classifier, inputs, *extra)):
        for each in _choose(classifier, (*inputs, *extra), found, count) if found else []:
            layers.setdefault(each.name, OfInput(index, each.layout))
    if not layers:
        raise NoMapsError(
            f"expected the classifier to make feature maps of inputs of shapes "
            f"{[tuple(x.shape) for x in inputs]}, but no module did; pass "
            "masker=JointMasker(..., own=True), which has encoders of its own."
        )
    return layers


def _offered(classifier: nn.Module, found: list[Found]) -> list[Found]:
    """Keep to the stages that a network names itself, as timm's do."""
    stages = getattr(classifier, "feature_info", None) or ()
    stages = [stage.get("module") for stage in stages if isinstance(stage, dict)]
    return [map for map in found if map.name in stages] or found


def _choose(
    classifier: nn.Module, arguments: Sequence[Any], found: list[Found], count: int
) -> list[Found]:
    """Choose the maps to read, finer or earlier ones first."""
    sizes: dict[tuple[int, ...], list[Found]] = {}  # by resolution, in the order they ran
    for each in found:
        sizes.setdefault(each.grid, []).append(each)
    if () in sizes:  # vectors
        return sizes[()][-count:]
    deepest, chosen = sorted(sizes, key=math.prod)[:count], []
    for size in deepest:
        stack = _stack(classifier, sizes[size])
        ends = _useful(classifier, arguments, stack or _ends(sizes[size]))
        chosen += ends[:: _third(ends)][:count] if stack and len(sizes) == 1 else ends[:1]
    return chosen[::-1]


def _third(blocks: list[Found]) -> int:
    return max(1, round(len(blocks) / 3))


def _stack(classifier: nn.Module, found: list[Found]) -> list[Found]:
    """Find the outermost list of like blocks of tokens, last block first; empty if none."""
    stacks: dict[tuple[str, type], list[Found]] = {}
    for map in found:
        parent = map.name.rpartition(".")[0]
        listed = isinstance(classifier.get_submodule(parent), (nn.Sequential, nn.ModuleList))
        if listed and isinstance(map.layout, Tokens) and any(map.module.children()):
            stacks.setdefault((parent, type(map.module)), []).append(map)
    blocks = [stack for stack in stacks.values() if len(stack) > 1]
    return min(blocks, key=lambda stack: stack[0].name.count("."), default=[])[::-1]


def _ends(found: list[Found]) -> list[Found]:
    """List the outermost modules of one resolution, the last one first."""
    depth = min(map.name.count(".") for map in found)
    return [map for map in reversed(found) if map.name.count(".") == depth]


def _useful(
    classifier: nn.Module, arguments: Sequence[Any], candidates: list[Found]
) -> list[Found]:
    """Drop the first candidates as long as their patch tokens do not reach the logits."""
    for index, map in enumerate(candidates):
        if getattr(map.layout, "prefix", 0) == 0 or _reaches_logits(classifier, arguments, map):
            return candidates[index:]
    return candidates


def _reaches_logits(classifier: nn.Module, arguments: Sequence[Any], map: Found) -> bool:
    """Spoil the patch tokens of one layer and look if the logits are spoiled.

    NaN passes through any arithmetic, also times the zeros of a head that is not trained yet.
    """

    def spoil(name: str, output: Any) -> Any:
        spoiled = first_tensor(output).clone()
        spoiled[:, map.layout.prefix :] = math.nan  # type: ignore[attr-defined]
        return spoiled if isinstance(output, Tensor) else (spoiled, *output[1:])

    with eval_mode(classifier), torch.no_grad(), hooked([map.module], [map.name], spoil):
        return not bool(logits_of(classifier(*arguments)).isfinite().all())
