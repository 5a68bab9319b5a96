"""Which layers a masker reads, found by one dry run."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import evaluated
from captum_masking._base.checks import arguments_in_words, check_has_weights
from captum_masking.model.layouts import (
    ChannelsFirst,
    Layout,
    OfInput,
    Tokens,
    Vectors,
    first_tensor,
    layout_of,
    undecided,
)
from captum_masking.model.taps import ONCE, Taps, hooked, logits_of, record, watch

__all__ = ["NoMapsError", "find_layers", "pooled_map"]


# Sizes at which a dry run is tried: ImageNet's, Inception's, then those of small data sets.
_DRY_RUN_SIZES = (224, 299, 64, 32, 28)

# Their outputs repeat or blur another module's map; that module is tapped instead.
COPIES = ("Pool", "Drop", "Stochastic", "Identity", "Flatten", "Upsample", "Pad", "Softmax", "Merg")


def _repeats(module: nn.Module) -> bool:
    return any(word in type(module).__name__ for word in COPIES)


class Found(NamedTuple):
    """A feature map found in a dry run."""

    name: str
    module: nn.Module
    layout: Layout
    grid: tuple[int, ...]


def dry_run_inputs(classifier: nn.Module, *extra: Any) -> Tensor:
    """Make zeros that the classifier accepts, shaped for its first convolution."""
    check_has_weights(classifier.named_parameters())
    convolutions = (m for m in classifier.modules() if isinstance(m, nn.modules.conv._ConvNd))
    first = next(convolutions, None)
    if first is None:
        raise ValueError(
            "expected a classifier with a convolution to guess its input shape from, but found "
            "none; pass example_inputs=..., one batch as the classifier takes it."
        )
    dims = len(first.kernel_size)
    usual = [(side,) * dims for side in (_DRY_RUN_SIZES if dims < 3 else (32, 16))]
    rows = max([1, *(len(other) for other in extra if isinstance(other, Tensor) and other.dim())])
    for size in [*stated_sizes(classifier, dims), *usual]:
        example = torch.zeros(rows, first.in_channels, *size).to(first.weight)
        try:
            with evaluated(classifier) as network, torch.no_grad(), arguments_in_words():
                network(example, *extra)
            return example
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = error
    raise ValueError(
        f"expected the classifier to accept zeros of shape (1, {first.in_channels}, side, ...) "
        f"for a side in {_DRY_RUN_SIZES}, but it raised {failure!r}; pass example_inputs=..., "
        "one batch as the classifier takes it."
    ) from failure


def varied(example: Tensor) -> Tensor:
    """Return generic inputs of a shape; zeros could hide dependencies."""
    return torch.linspace(-1, 1, example.numel()).reshape(example.shape).to(example)


def stated_sizes(classifier: nn.Module, dims: int) -> list[tuple[int, ...]]:
    """Return the input size that a network states, as transformers do."""
    stated = []
    for part in [getattr(classifier, "config", None), *classifier.modules()]:
        for name in ("img_size", "image_size"):
            size = getattr(part, name, None)
            size = (size,) * dims if isinstance(size, int) else size
            if isinstance(size, (tuple, list)) and len(size) == dims:
                stated.append(tuple(size))
    return stated[:1]


def feature_maps(
    classifier: nn.Module, example: Tensor, *extra: Any
) -> tuple[list[Found], list[str]]:
    """List the maps of one dry run in order; for vectors ``(B, F)``, the hidden vectors.

    Also return the names of deeper ones whose modules run repeatedly.
    """
    size = example.shape[2:]
    calls, answer, repeated = record(classifier, example, *extra)
    if not size:
        found = _hidden_vectors(classifier, calls, answer, len(example))
        return found, [] if found else _deeper(classifier, repeated, found, example)
    narrower: dict[str, Tensor] = {}
    if any(undecided(output, size) for output in calls.values()):
        with suppress(Exception):  # a network of a fixed size raises
            narrow = example[..., : max(1, size[-1] * 3 // 4)]
            narrower = record(classifier, narrow, *extra).once
    found = _maps(classifier, calls, narrower, example)
    if not found:
        repeated |= {name: out for name, out in calls.items() if len(out) > len(example)}
    return found, _deeper(classifier, repeated, found, example)


def _deeper(
    classifier: nn.Module, outputs: dict[str, Tensor], found: list[Found], example: Tensor
) -> list[str]:
    deepest = min((math.prod(each.grid) for each in found), default=math.inf)
    modules = dict(classifier.named_modules())
    maps = [
        (name, out)
        for name, out in outputs.items()
        if out.dim() == example.dim() and not _repeats(modules[name])
    ]
    return [name for name, out in maps if not found or 1 < out.shape[2:].numel() < deepest]


def feature_maps_of_each(
    classifier: nn.Module, inputs: Sequence[Tensor], *extra: Any
) -> list[list[Found]]:
    """List for each input the maps that depend on it, found by making it NaN."""
    calls, answer, _ = record(classifier, *inputs, *extra)
    listed = []
    for index, tensor in enumerate(inputs):
        reached = record(classifier, *spoiled(inputs, index), *extra).once
        spoilt = {name: out for name, out in calls.items() if not reached[name].isfinite().all()}
        if tensor.dim() == 2:
            listed.append(_hidden_vectors(classifier, spoilt, answer, len(tensor)))
        else:
            listed.append(_maps(classifier, spoilt, {}, tensor))
    return listed


def spoiled(inputs: Sequence[Tensor], index: int) -> list[Tensor]:
    """Copy inputs with one of them made NaN."""
    return [torch.full_like(x, torch.nan) if i == index else x for i, x in enumerate(inputs)]


def _maps(
    classifier: nn.Module, calls: dict[str, Tensor], narrower: dict[str, Tensor], example: Tensor
) -> list[Found]:
    modules, size = dict(classifier.named_modules()), example.shape[2:]
    grids: list[tuple[int, ...]] = []
    found = []
    for name, output in calls.items():
        if len(output) != len(example) or output.dim() < 3:
            continue
        shape = narrower[name].shape if name in narrower else None
        layout = layout_of(output, size, module=modules[name], grids=grids, narrower=shape)
        if layout is None:
            continue
        grid = tuple(layout(output, size).shape[2:])
        if isinstance(modules[name], nn.modules.conv._ConvNd):
            grids.append(grid)
        if max(grid) > 1 and not _repeats(modules[name]):
            found.append(Found(name, modules[name], layout, grid))
    return found


def _hidden_vectors(
    classifier: nn.Module, calls: dict[str, Tensor], answer: Any, batch: int
) -> list[Found]:
    """List the hidden vectors of a dry run, each after its activation, without the logits."""
    modules, logits = dict(classifier.named_modules()), logits_of(answer)
    last = next((name for name, out in reversed(calls.items()) if out.shape == logits.shape), None)
    found: list[Found] = []
    for name, output in calls.items():
        is_vector = output.dim() == 2 and len(output) == batch
        if not is_vector or output.shape[1] < 2 or _repeats(modules[name]):
            continue
        if name == last or output.data_ptr() == logits.data_ptr():
            continue  # the logits, or scaled logits
        before = calls[found[-1].name] if found else None
        activation = not any(True for _ in modules[name].parameters())
        if before is not None and (
            before.data_ptr() == output.data_ptr() or (activation and before.shape == output.shape)
        ):
            found.pop()  # the same vector, inside or before its activation
        found.append(Found(name, modules[name], Vectors(), ()))
    return found


class NoMapsError(ValueError):
    """A classifier without a layer to read, or whose layers run more than once per pass."""

    def __init__(self, inputs: Sequence[Tensor], repeated: Sequence[str]) -> None:
        self.repeated = repeated
        got = "no module did; name them with layers=[...], and pass the plain eager module: traced "
        got += "and exported ones lose their hooks."
        if len(inputs) > 1:
            got = "no module did; pass masker=MultiInputMasker(..., own=True), which has encoders."
        if repeated:
            names = ", ".join(repeated[:4])
            got = f"what makes them runs more than once or on several views ({names}): {ONCE}"
        shapes = " and ".join(str(tuple(tensor.shape)) for tensor in inputs)
        super().__init__(f"expected feature maps (B, channels, ...) of inputs {shapes}, but {got}")


def find_layers(
    classifier: nn.Module, example: Any, *, count: int = 2, extra: tuple[Any, ...] = ()
) -> list[str]:
    """Find the last map of each of the classifier's deepest spatial resolutions.

    Of the modules with maps of one resolution, the outermost are stages; the last one is read. If
    the network names its stages, as timm does in ``feature_info``, only those count. A stack of
    equal blocks of tokens, as in a vision transformer, has one resolution: its last block is read,
    and without other resolutions also those a third of the depth before it. Blocks whose patch
    tokens do not reach the logits are skipped (the last one, if only its class token is used).
    Modules that run more than once per pass are skipped too, with a warning if they are deeper than
    the chosen ones.

    Args:
        classifier: Run in eval mode, without gradient.
        example: Inputs of shape ``(B, C, *spatial)`` that the classifier accepts; for vectors
            ``(B, F)`` the last hidden ones are found.
        count: Maximal number of maps, counted from the deepest; finer or earlier ones come first.
        extra: Further arguments of the classifier.

    Source:
        Phang et al. 2020 read the two deepest stages of ResNet-50.

    Example:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten()
        ... )
        >>> find_layers(network, torch.zeros(1, 1, 16, 16))
        ['1', '3']
    """
    maps, deeper = feature_maps(classifier, example, *extra)
    found = _offered(classifier, maps)
    if not found:
        raise NoMapsError([example], deeper)
    chosen = [each.name for each in _choose(classifier, (example, *extra), found, count)]
    if deeper:
        warnings.warn(
            f"the masker reads {chosen}, since deeper layers run more than once per pass: "
            f"{', '.join(deeper[:4])}; {ONCE}",
            stacklevel=2,
        )
    return chosen


def pooled_map(classifier: nn.Module, example: Tensor, *extra: Any) -> str | None:
    """Return the name of the last map, which a classifier pools to a vector, as a layer to read.

    The name is that of the module that makes it or, if that runs more than once, the input of the
    pooling, ``"<pool>.input"``. None if no module, or more than one, pools the last map.

    Source:
        Zhou et al. 2016 (CAM), who weigh the channels of this map by the weights of a class.

    Example:
        >>> relu = nn.ReLU()
        >>> network = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3), relu, nn.Conv2d(4, 8, 3), relu, nn.AdaptiveAvgPool2d(1),
        ... )
        >>> pooled_map(network, torch.zeros(1, 1, 16, 16))
        '4.input'
    """
    found = pooling(classifier, example, *extra)
    return None if found is None else found[0]


def pooling(classifier: nn.Module, example: Tensor, *extra: Any) -> tuple[str, str] | None:
    """Return the names of the pooled map, as :func:`pooled_map`, and of the pooling module.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        >>> pooling(network, torch.zeros(1, 1, 16, 16))
        ('1', '2')
    """
    calls: list[tuple[str, Tensor, int]] = []  # with how often it was written to so far

    def keep(name: str, passed: Any) -> None:
        if isinstance(tensor := first_tensor(passed), Tensor):
            calls.append((name, tensor, tensor._version))

    with torch.inference_mode(False):  # tensors of inference mode have no versions
        watch(classifier, (example, *extra), keep, taking="Pool")
    return _pooled(dict(classifier.named_modules()), calls, example)


def _pooled(
    modules: dict[str, nn.Module], calls: list[tuple[str, Tensor, int]], example: Tensor
) -> tuple[str, str] | None:
    maps = [call for call in calls if call[1].dim() == example.dim() > 2 and _cells(call[1]) > 1]
    if not maps or maps[-1][0] in modules:
        return None  # something makes maps after the last pooling
    pooled = maps[-1][1]
    of_pooled = [(name, version) for name, tensor, version in calls if tensor is pooled]
    takes = {name: version for name, version in of_pooled if name not in modules}
    pool = next(iter(takes))  # those inside come after it
    owner = pool.removesuffix(".input")
    vector = next((out for name, out, _ in reversed(calls) if name == owner), pooled)
    layout = layout_of(pooled, example.shape[2:], module=modules[owner])
    if _cells(vector) > 1 or len(pooled) != len(example) or layout is None:
        return None
    ran = Counter(name for name, _, _ in calls)
    makers = itertools.takewhile(lambda call: call[0] in modules, of_pooled)
    for name, version in [call for call in makers if not _repeats(modules[call[0]])][-1:]:
        if ran[name] == 1 and version == takes[pool]:
            return name, owner
    inside = all(name.startswith(f"{owner}.") for name in takes)
    return (pool, owner) if inside and ran[pool] == 1 else None


def _cells(output: Tensor) -> int:
    """Count the cells of a map, whichever axis its channels are on."""
    return output[0].numel() // max(output.shape[1:], default=1) if output.dim() else 0


def find_joint_layers(
    classifier: nn.Module, inputs: Sequence[Tensor], *, count: int = 2, extra: tuple[Any, ...] = ()
) -> dict[str, OfInput]:
    """Find the layers to read for each of several inputs; a shared layer goes to the first."""
    layers: dict[str, OfInput] = {}
    for index, found in enumerate(feature_maps_of_each(classifier, inputs, *extra)):
        for each in _choose(classifier, (*inputs, *extra), found, count) if found else []:
            layers.setdefault(each.name, OfInput(index, each.layout))
    if not layers:
        repeated = record(classifier, *inputs, *extra).repeated
        raise NoMapsError(inputs, _deeper(classifier, repeated, [], inputs[0]))
    return layers


def _offered(classifier: nn.Module, found: list[Found]) -> list[Found]:
    """Keep only the stages that a network names, as timm does."""
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
    """Drop leading candidates whose patch tokens do not reach the logits."""
    for index, map in enumerate(candidates):
        if getattr(map.layout, "prefix", 0) == 0 or _reaches_logits(classifier, arguments, map):
            return candidates[index:]
    return candidates


def _reaches_logits(classifier: nn.Module, arguments: Sequence[Any], map: Found) -> bool:
    """Check if NaN in the patch tokens reaches the logits, as it does through zero weights."""

    def spoil(name: str, output: Any) -> Any:
        spoiled = first_tensor(output).clone()
        spoiled[:, map.layout.prefix :] = math.nan  # type: ignore[attr-defined]
        return spoiled if isinstance(output, Tensor) else (spoiled, *output[1:])

    with evaluated(classifier) as network, torch.no_grad():
        tapped = [network.get_submodule(map.name)]
        with hooked(tapped, [map.name], spoil):
            return not bool(logits_of(network(*arguments)).isfinite().all())


def layouts_of(
    taps: Taps, outputs: Sequence[Any], inputs: tuple[Tensor, ...], *extra: Any
) -> tuple[Layout, ...]:
    """Find a layout for each tapped layer, where it is tokens by a dry run."""
    if len(inputs) > 1:
        return _joint_layouts_of(taps, inputs, *extra)
    (only,) = inputs
    size, tensors = only.shape[2:], [first_tensor(output) for output in outputs]
    known: dict[str, Layout] = {}
    if not all(isinstance(t, Tensor) and _plainly_a_map(t, only) for t in tensors):
        maps, _ = feature_maps(taps.classifier, only, *extra)
        known = {found.name: found.layout for found in maps}
    layouts = []
    for name, module, output in zip(taps.layers, taps.modules, tensors, strict=True):
        layout = known.get(name)
        if layout is None and isinstance(output, Tensor) and output.dim() >= min(3, only.dim()):
            layout = layout_of(output, size, module=module)
            if layout is None and output.dim() == only.dim():
                layout = ChannelsFirst()  # uneven strides, chosen by the user
        if layout is None:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a tapped layer must give a map of shape (B, channels, *spatial) with "
                f"{len(size)} spatial dimensions, or one token (B, tokens, channels) for each "
                f"patch, but {name!r} gave {got}; tap another layer."
            )
        layouts.append(layout)
    return tuple(layouts)


def _joint_layouts_of(taps: Taps, inputs: Sequence[Tensor], *extra: Any) -> tuple[Layout, ...]:
    layouts: dict[str, OfInput] = {}
    for index, found in enumerate(feature_maps_of_each(taps.classifier, inputs, *extra)):
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
