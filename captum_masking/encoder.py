"""Which classifier feature maps the masker reads: taps on named modules, checked every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.dry_run import Found, feature_maps, feature_maps_of_each, hooked
from captum_masking.joint import OfInput
from captum_masking.modes import eval_mode
from captum_masking.outputs import logits_of
from captum_masking.tokens import (
    ChannelsFirst,
    Layout,
    Tokens,
    first_tensor,
    layout_of,
    undecided,
)


class NoMapsError(ValueError):
    """A classifier without a layer to read.

    Source:
        Own.
    """


class Taps:
    """Reads the outputs of named modules out of one forward pass of a classifier.

    Hooks live only during the call. A tap that does not fire (compiled, traced and exported
    modules lose hooks silently) is an error, never an old feature map.

    Args:
        classifier: The module to read from.
        layers: Names as in ``classifier.named_modules()``. A module called more than once in a
            pass gives its last output.

    Raises:
        ValueError: If a name does not exist, with the nearest ones that do.
        TypeError: If the classifier is a scripted module, which takes no hooks.

    Source:
        Phang et al. 2020: the encoder is the classifier itself.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> logits, (features,) = Taps(network, ["0"])(torch.zeros(1, 1, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([1, 2]), torch.Size([1, 4, 6, 6]))
    """

    def __init__(self, classifier: nn.Module, layers: Sequence[str]) -> None:
        self.classifier = classifier
        self.layers = tuple(layers)
        self.modules = [_find(classifier, name) for name in self.layers]

    def __call__(self, *inputs: Any) -> tuple[Any, list[Tensor]]:
        """Run the classifier once; return its answer and the tapped outputs, in order."""
        outputs: dict[str, Any] = {}
        with hooked(self.modules, self.layers, outputs.__setitem__):
            logits = self.classifier(*inputs)
        missing = [name for name in self.layers if name not in outputs]
        if missing:
            raise RuntimeError(
                f"expected every tapped layer to run in the classifier's forward pass, but "
                f"{missing} did not fire; name layers that do run, and pass the plain module: "
                "compiled, traced and exported ones lose their hooks."
            )
        return logits, [outputs[name] for name in self.layers]

    def __repr__(self) -> str:
        return f"Taps({', '.join(self.layers)})"


def find_layers(classifier: nn.Module, example: Any, *, count: int = 2) -> list[str]:
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
    found = _offered(classifier, feature_maps(classifier, example))
    if not found:
        raise NoMapsError(
            f"expected the classifier to make feature maps (B, channels, *spatial) for inputs of "
            f"shape {tuple(example.shape)}, but no module did; name them with layers=[...], and "
            "pass the plain eager module: traced and exported ones lose their hooks."
        )
    return [each.name for each in _choose(classifier, (example,), found, count)]


def find_joint_layers(
    classifier: nn.Module, inputs: Sequence[Tensor], *, count: int = 2
) -> dict[str, OfInput]:
    """Find for each of several inputs the layers to read, as :func:`find_layers` does for one.

    Args:
        classifier: Run once on the inputs, and once with each of them spoiled.
        inputs: All that it takes: vectors, signals, images, volumes.
        count: How many layers for each input, from the deepest on.

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
    for index, found in enumerate(feature_maps_of_each(classifier, inputs)):
        for each in _choose(classifier, inputs, found, count) if found else []:
            layers.setdefault(each.name, OfInput(index, each.layout))
    if not layers:
        raise NoMapsError(
            f"expected the classifier to make feature maps of inputs of shapes "
            f"{[tuple(x.shape) for x in inputs]}, but no module did; pass "
            "masker=JointMasker(..., own=True), which has encoders of its own."
        )
    return layers


def layouts_of(
    taps: Taps, outputs: Sequence[Any], inputs: Tensor | tuple[Tensor, ...], *extra: Any
) -> tuple[Layout, ...]:
    """Tell how the outputs of tapped layers become maps.

    Args:
        taps: The layers.
        outputs: What they gave for ``inputs``, in order.
        inputs: ``(B, C, *spatial)``, or several.
        *extra: Further arguments of the classifier, for a dry run where layers give tokens.

    Returns:
        One layout for each layer.

    Raises:
        ValueError: If a layer gives no map of the inputs.

    Source:
        Own.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> taps, inputs = Taps(network, ["0"]), torch.zeros(1, 1, 8, 8)
        >>> layouts_of(taps, taps(inputs)[1], inputs)
        (ChannelsFirst(),)
    """
    if isinstance(inputs, tuple):
        return _joint_layouts_of(taps, inputs)
    size, tensors = inputs.shape[2:], [first_tensor(output) for output in outputs]
    known: dict[str, Layout] = {}
    if not all(isinstance(t, Tensor) and _plainly_a_map(t, inputs) for t in tensors):
        maps = feature_maps(taps.classifier, inputs, *extra)
        known = {found.name: found.layout for found in maps}
    layouts = []
    for name, module, output in zip(taps.layers, taps.modules, tensors, strict=True):
        layout = known.get(name)
        if layout is None and isinstance(output, Tensor) and output.dim() >= min(3, inputs.dim()):
            layout = layout_of(output, size, module=module)
            if layout is None and output.dim() == inputs.dim():
                layout = ChannelsFirst()  # strided unevenly, and named by someone who knows
        if layout is None:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a tapped layer must give a map of shape (B, channels, *spatial) with "
                f"{len(size)} spatial dimensions, or one token (B, tokens, channels) for each "
                f"patch, but {name!r} gave {got}; tap another layer."
            )
        layouts.append(layout)
    return tuple(layouts)


def check_tappable(classifier: object) -> None:
    """Refuse what has no hooks to offer, or loses them silently.

    Raises:
        TypeError: If the classifier is no module, or a compiled, scripted, traced or exported one.

    Source:
        Own; the silent loss of hooks is measured in PyTorch 2.13 and 2.15.

    Example:
        >>> check_tappable(nn.Linear(1, 1))
    """
    if not isinstance(classifier, nn.Module):
        raise TypeError(
            f"classifier must be a torch.nn.Module to be tapped, but got "
            f"{type(classifier).__name__}; MaskingSaliency(callable) needs no taps, and with "
            "example_inputs=... or masker=OwnEncoder([channels]) the masker has its own encoder."
        )
    if not tappable(classifier):
        raise TypeError(
            f"classifier must be a plain eager module, but got {type(classifier).__name__}: "
            "compiled, scripted, traced and exported modules lose the hooks that read features; "
            "pass the eager one; or example_inputs=... or masker=OwnEncoder([channels]), for a "
            "masker with an encoder of its own; or use MaskingSaliency(classifier) without taps."
        )


def tappable(classifier: object) -> bool:
    """Whether the layers of a classifier can be read.

    Args:
        classifier: Anything.

    Source:
        Own.

    Example:
        >>> tappable(nn.Linear(1, 1)), tappable(lambda inputs: inputs)
        (True, False)
    """
    lost = isinstance(classifier, (torch.jit.ScriptModule, torch.fx.GraphModule))
    return isinstance(classifier, nn.Module) and not lost and not hasattr(classifier, "_orig_mod")


def _joint_layouts_of(taps: Taps, inputs: Sequence[Tensor]) -> tuple[Layout, ...]:
    layouts: dict[str, OfInput] = {}
    for index, found in enumerate(feature_maps_of_each(taps.classifier, inputs)):
        for each in found:
            layouts.setdefault(each.name, OfInput(index, each.layout))
    missing = [name for name in taps.layers if name not in layouts]
    if missing:
        raise ValueError(
            f"a tapped layer must give a map, or a vector, of one of the {len(inputs)} inputs, but "
            f"{missing} did not; tap other layers, or leave the choice to layers=None."
        )
    return tuple(layouts[name] for name in taps.layers)


def _plainly_a_map(output: Tensor, inputs: Tensor) -> bool:
    size = inputs.shape[2:]
    return output.dim() == inputs.dim() and not (size and undecided(output, size))


def _offered(classifier: nn.Module, found: list[Found]) -> list[Found]:
    """Keep to the stages that a network names itself, as timm's do."""
    stages = getattr(classifier, "feature_info", None) or ()
    stages = [stage.get("module") for stage in stages if isinstance(stage, dict)]
    return [map for map in found if map.name in stages] or found


def _choose(
    classifier: nn.Module, inputs: Sequence[Tensor], found: list[Found], count: int
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
        ends = _useful(classifier, inputs, stack or _ends(sizes[size]))
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
    classifier: nn.Module, inputs: Sequence[Tensor], candidates: list[Found]
) -> list[Found]:
    """Drop the first candidates as long as their patch tokens do not reach the logits."""
    for index, map in enumerate(candidates):
        if getattr(map.layout, "prefix", 0) == 0 or _reaches_logits(classifier, inputs, map):
            return candidates[index:]
    return candidates


def _reaches_logits(classifier: nn.Module, inputs: Sequence[Tensor], map: Found) -> bool:
    """Spoil the patch tokens of one layer and look if the logits are spoiled.

    NaN passes through any arithmetic, also times the zeros of a head that is not trained yet.
    """

    def spoil(name: str, output: Any) -> Any:
        spoiled = first_tensor(output).clone()
        spoiled[:, map.layout.prefix :] = math.nan  # type: ignore[attr-defined]
        return spoiled if isinstance(output, Tensor) else (spoiled, *output[1:])

    with eval_mode(classifier), torch.no_grad(), hooked([map.module], [map.name], spoil):
        return not bool(logits_of(classifier(*inputs)).isfinite().all())


def _find(classifier: nn.Module, name: str) -> nn.Module:
    """Return a submodule by name, or say which names there are."""
    if name:
        with suppress(AttributeError, RuntimeError):  # scripted modules list theirs only
            return classifier.get_submodule(name)
    import difflib

    modules = dict(classifier.named_modules())
    if name in modules and name:
        return modules[name]
    near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3) if name else []
    near = near or list(modules)[1:5]
    raise ValueError(
        f"layers must name modules of the classifier, but it has none called {name!r}; "
        f"nearest: {', '.join(near)} (all: dict(classifier.named_modules()))."
    )
