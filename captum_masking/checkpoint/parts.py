"""The package's own maskers, samplers and layouts, by name and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from captum_masking.checkpoint.errors import CheckpointError
from captum_masking.class_maskers import ClassSelector, MaskPerClass
from captum_masking.element_masker import ElementMasker
from captum_masking.gated_masker import GatedMasker
from captum_masking.joint import JointMasker, OfInput
from captum_masking.masker import Masker, UNetMasker, linear, nearest
from captum_masking.own_encoder import OwnEncoder
from captum_masking.sampler import GumbelSigmoid, Sigmoid
from captum_masking.tokens import ChannelsFirst, ChannelsLast, Tokens, Vectors

#: What brings a mask to the size of the inputs, by name.
UPSAMPLERS = {function.__name__: function for function in (linear, nearest)}

_MASKERS: tuple[Any, ...] = (
    Masker,
    UNetMasker,
    ElementMasker,
    OwnEncoder,
    JointMasker,
    ClassSelector,
    MaskPerClass,
    GatedMasker,
)
_LAYOUTS: tuple[Any, ...] = (ChannelsFirst, ChannelsLast, Tokens, Vectors)
_PARTS = {kind.__name__: kind for kind in (*_MASKERS, *_LAYOUTS, Sigmoid, GumbelSigmoid)}


def describe(part: Any) -> dict[str, Any]:
    """Name a part and, where it is the package's own, what it is built from.

    Args:
        part: A masker, a sampler or a layout.

    Returns:
        JSON-like ``class`` and ``settings``; the latter None for parts of other people.

    Source:
        Own.

    Example:
        >>> describe(OfInput(1, ChannelsLast()))["settings"]
        {'index': 1, 'layout': {'class': 'ChannelsLast', 'settings': {}}}
    """
    if type(part) is OfInput:
        settings = {"index": part.index, "layout": describe(part.layout)}
        return {"class": "OfInput", "settings": settings}
    own = type(part) in _PARTS.values()
    return {"class": type(part).__name__, "settings": part.settings if own else None}


def rebuild(name: str, entry: dict[str, Any], folder: str | Path) -> Any:
    """Make a part again from its description.

    Args:
        name: What it is, for the error: ``"masker"``.
        entry: Of :func:`describe`.
        folder: Where it was read, for the error.

    Raises:
        CheckpointError: If the part is not the package's own.

    Source:
        Own.

    Example:
        >>> rebuild("layout", describe(OfInput(1, ChannelsLast())), "my-model")
        OfInput(index=1, layout=ChannelsLast())
    """
    kind, settings = entry["class"], entry["settings"]
    if kind == "OfInput":
        return OfInput(settings["index"], rebuild(name, settings["layout"], folder))
    if kind not in _PARTS or settings is None:
        raise CheckpointError(folder, f"its {name} is a {kind}; pass it as {name}=...")
    return _PARTS[kind](**settings)
