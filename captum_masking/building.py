"""What a model is built of where the user left it open: layers to read, and a masker for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from captum_masking.element_masker import ElementMasker
from captum_masking.encoder import NoMapsError, find_joint_layers, find_layers
from captum_masking.gated_masker import GatedMasker
from captum_masking.inputs import Inputs
from captum_masking.joint import JointMasker
from captum_masking.masker import Masker
from captum_masking.own_encoder import OwnEncoder


def layers_for(
    classifier: nn.Module, example: Inputs, extra: tuple[Any, ...], *, guessed: bool
) -> tuple[str, ...]:
    """Find layers to read; without any, an example that the user gave is read itself.

    Args:
        classifier: Run in eval mode, without gradient.
        example: One input, or several.
        extra: Further arguments of the classifier.
        guessed: Whether the example is our own: then there must be a layer.

    Raises:
        NoMapsError: If there is none, for a guessed example.

    Source:
        Own.

    Example:
        >>> import torch
        >>> layers_for(nn.Sequential(nn.Conv2d(1, 4, 3)), torch.zeros(1, 1, 8, 8), (), guessed=True)
        ('0',)
    """
    find: Callable[..., Any] = find_joint_layers if isinstance(example, tuple) else find_layers
    try:
        return tuple(find(classifier, example, extra=extra))
    except NoMapsError:
        if guessed:
            raise
        return ()


def make_masker(
    make: Callable[..., nn.Module], features: list[Tensor], example: Inputs, *, taps: bool
) -> nn.Module:
    """Build a masker for the features of a dry run; by default, one of their kind.

    Args:
        make: Called as ``make(channels, dims=dims)``. ``Masker``, the default, becomes what fits.
        features: Maps, vectors, or the inputs themselves.
        example: What they were made of.
        taps: Whether layers of the classifier are read.

    Source:
        Own.

    Example:
        >>> import torch
        >>> features, example = [torch.zeros(1, 4)], torch.zeros(1, 9)
        >>> type(make_masker(Masker, features, example, taps=True)).__name__
        'ElementMasker'
    """
    channels, default = [maps.shape[1] for maps in features], make is Masker
    if isinstance(example, tuple):
        inputs = [(tensor.dim() - 2, tensor.shape[1]) for tensor in example]
        masker = (JointMasker if default else make)(channels, inputs=inputs, own=not taps)
    elif default and not taps:
        masker = OwnEncoder(channels, dims=example.dim() - 2)
    elif default and example.dim() == 2:
        masker = ElementMasker(channels, elements=example.shape[1])
    else:
        masker = make(channels, dims=example.dim() - 2)
    return masker.to(features[0])


def told_the_class(masker: nn.Module | Callable[..., nn.Module]) -> Any:
    """Return the masker of a target-aware model: the default, told the evidence; or the user's own.

    Raises:
        ValueError: If a module is given that does not ask for the class.

    Source:
        Own; which default, and why, is in ``docs/targets.rst``.

    Example:
        >>> told_the_class(Masker)([3], dims=2).asks
        ('target', 'evidence')
    """
    if isinstance(masker, nn.Module) and "target" not in getattr(masker, "asks", ()):
        raise ValueError(
            f"target_aware=True needs a masker that asks for the class, but {name_of(masker)} does "
            "not; leave masker=... out, or give Masker(..., evidence=True)."
        )
    return GatedMasker if masker is Masker else masker


def check_target_aware(features: list[Tensor], example: Inputs, *, taps: bool) -> None:
    """Refuse classifiers whose evidence has no place: without maps, or of several inputs.

    Raises:
        ValueError: Saying what there is instead.

    Source:
        Own.

    Example:
        >>> import torch
        >>> maps = [torch.zeros(1, 4, 2, 2)]
        >>> check_target_aware(maps, torch.zeros(1, 3, 8, 8), taps=True)
    """
    if isinstance(example, tuple) or not taps or example.dim() == 2:
        what = "several inputs" if isinstance(example, tuple) else "no feature maps to read"
        raise ValueError(
            f"target_aware=True needs one input and a layer that gives feature maps of it, but "
            f"this classifier has {what}; MaskingSaliency(classifier), which optimises a mask for "
            "each input, follows the target there too."
        )


def reads_inputs(masker: object) -> bool:
    """Whether a masker, or what makes one, has an encoder of its own.

    Source:
        Own.

    Example:
        >>> reads_inputs(OwnEncoder), reads_inputs(Masker)
        (True, False)
    """
    return bool(getattr(getattr(masker, "func", masker), "reads_inputs", False))


def takes_vectors(masker: object) -> bool:
    """Whether a masker is made for inputs without space.

    Source:
        Own.

    Example:
        >>> takes_vectors(ElementMasker([3], elements=4)), takes_vectors(Masker([3]))
        (True, False)
    """
    return isinstance(masker, ElementMasker) or getattr(masker, "settings", {}).get("dims") == 0


def name_of(part: object) -> str:
    """Name a part of a model with the settings it was built from.

    Source:
        Own.

    Example:
        >>> from captum_masking.masker import linear
        >>> name_of(linear), name_of(Masker([3], width=4))[:31]
        ('linear', 'Masker(channels=[3], width=4, d')
    """
    settings = getattr(part, "settings", None)
    name = getattr(part, "__name__", type(part).__name__)
    if settings is None:
        return name
    return f"{name}({', '.join(f'{key}={value}' for key, value in settings.items())})"
