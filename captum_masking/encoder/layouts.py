"""How the outputs of tapped layers become maps, where that was not said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_masking.dry_run import feature_maps, feature_maps_of_each
from captum_masking.encoder.taps import Taps
from captum_masking.joint import OfInput
from captum_masking.tokens import ChannelsFirst, Layout, first_tensor, layout_of, undecided


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
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> taps, inputs = Taps(network, ["0"]), torch.zeros(1, 1, 8, 8)
        >>> layouts_of(taps, taps(inputs)[1], inputs)
        (ChannelsFirst(),)
    """
    if isinstance(inputs, tuple):
        return _joint_layouts_of(taps, inputs, *extra)
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
