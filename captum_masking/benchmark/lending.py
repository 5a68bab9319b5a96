"""What a method gets to touch, on loan: a copy of the classifier, and silence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking.encoder import Taps


def borrowed(classifier: nn.Module) -> nn.Module:
    """Copy a classifier for methods that hook it, replace its parts or leave gradients behind.

    Args:
        classifier: An eager module; it is not changed.

    Returns:
        A copy in eval mode, with nothing in place. Its parameters share memory with the
        classifier's, so that it costs none, but ask for no gradient.

    Source:
        Own.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> twin = borrowed(layer)
        >>> twin.weight.requires_grad, twin.weight.data_ptr() == layer.weight.data_ptr()
        (False, True)
    """
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in classifier.parameters()
    }
    network = copy.deepcopy(classifier, shared).eval()
    for part in network.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    return network


class Lender:
    """Lends the same copy again and again; one in whose hands a call failed is thrown away.

    A method that raises may leave hooks, stored activations or a replaced part behind.

    Args:
        classifier: Copied by :func:`borrowed`, which keeps its hooks.

    Source:
        Own.

    Example:
        >>> lender = Lender(nn.Linear(1, 1))
        >>> with lender.lent() as one:
        ...     pass
        >>> with lender.lent() as other:
        ...     one is other
        True
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.classifier = classifier
        self._network: nn.Module | None = None

    @contextmanager
    def lent(self) -> Iterator[nn.Module]:
        """Hold a copy; it is kept for the next time only if nothing is raised."""
        network, self._network = self._network or borrowed(self.classifier), None
        yield network
        self._network = network

    def __repr__(self) -> str:
        return f"Lender(classifier={self.classifier!r})"


def why_no_map(classifier: nn.Module, layer: str, example: Tensor) -> str:
    """Say why a layer cannot be weighted as class activation maps are, or nothing.

    Args:
        classifier: An eager module; it is not changed.
        layer: A name as in ``classifier.named_modules()``.
        example: Inputs ``(B, C, H, W)``.

    Returns:
        One line; empty if the layer gives maps ``(B, channels, h, w)``.

    Raises:
        ValueError: If there is no such layer, with the nearest names.

    Source:
        Own.

    Example:
        >>> why_no_map(nn.Sequential(nn.Flatten()), "0", torch.zeros(1, 3, 2, 2))
        "layer '0' gives (1, 12), but maps (B, channels, H, W) are needed"
    """
    with torch.no_grad():
        _, (maps,) = Taps(borrowed(classifier), [layer])(example[:1])
    if isinstance(maps, Tensor) and maps.dim() == 4:
        return ""
    given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    return f"layer {layer!r} gives {given}, but maps (B, channels, H, W) are needed"


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings: Captum says at every call that it sets hooks.

    Source:
        Own.

    Example:
        >>> with quiet():
        ...     warnings.warn("I set hooks", stacklevel=1)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
