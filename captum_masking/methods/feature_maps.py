"""Shared parts of methods that weigh feature maps: a layer's maps, and images masked by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_masking._base.borrow import seeded
from captum_masking._base.captum import unpacked
from captum_masking.methods.base import Asked, Relative, filled, layer_name, network_of, stretched
from captum_masking.model.layers import find_layers, layouts_of, pooled_map
from captum_masking.model.layouts import first_tensor
from captum_masking.model.taps import Taps
from captum_masking.parts.infill import Infill
from captum_masking.parts.masker import linear


class OfLayer(Relative):
    """An attribution that reads the feature maps of one layer."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: str | nn.Module | None, infill: Infill
    ) -> None:
        super().__init__(forward_func)
        self.layer = None if layer is None else layer_name(forward_func, layer)
        self.infill = infill

    @torch.no_grad()
    def _maps(self, asked: Asked) -> Tensor:
        """Return the maps ``(B, N, *cells)`` of the layer, float32 at least."""
        network = network_of(asked.function)
        arguments: tuple[Any, ...] = (*asked.inputs, *asked.extra)
        first, *others = arguments
        with seeded(first, 0):
            name = self.layer or pooled_map(network, first, *others)
            name = name or find_layers(network, first, extra=tuple(others))[-1]
            taps = Taps(network, [name])
            _, tapped = taps(first, *others)
            (layout,) = layouts_of(taps, tapped, asked.inputs, *asked.extra)
        maps = layout(first_tensor(tapped[0]), unpacked(tuple(x.shape[2:] for x in asked.inputs)))
        if any(x.dim() != maps.dim() or x.dim() == 2 for x in asked.inputs):
            got = ", ".join(str(tuple(x.shape)) for x in asked.inputs)
            raise ValueError(
                f"inputs must have as many spatial sides as the maps of {name!r}, "
                f"{tuple(maps.shape)}, but got {got}; name another layer, or pass inputs without "
                "any as additional_forward_args."
            )
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

    def _masked(self, asked: Asked, maps: Tensor) -> list[Tensor]:
        """Mask k copies of the examples by maps ``(k * B, 1, *cells)``."""
        copies = len(maps) // len(asked.inputs[0])
        return [
            filled(
                torch.cat([x] * copies),
                1 - normalized(maps, x.shape[2:]).to(x.dtype),
                self.infill,
            )
            for x in asked.inputs
        ]


def normalized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge maps linearly to ``size``, then scale each to [0, 1]; a constant one becomes zeros.

    Example:
        >>> normalized(torch.tensor([[[-1.0, 0.0, 3.0]]]), [3])
        tensor([[[0.0000, 0.2500, 1.0000]]])
    """
    return stretched(linear(maps, size))


def weighted(maps: Tensor, weights: Tensor) -> Tensor:
    """Sum maps ``(B, N, *cells)`` with weights ``(B, N)`` to ``(B, 1, *cells)``."""
    return torch.einsum("bn,bn...->b...", weights, maps)[:, None]
