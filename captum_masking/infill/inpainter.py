"""A learned infill: any network that completes images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_masking.checks import check_finite
from captum_masking.modes import eval_mode, module_of


class Inpainter:
    """What a network paints: any module or function ``(image, hole) -> image``.

    The network is told the true hole of its side: the background for the masked-in image, the
    evidence for the masked-out one. It runs in eval mode and without gradient, so that the mask
    learns from what is shown and what is replaced, not from steering the network. It gets copies,
    in its own precision, and its modes are given back.

    Args:
        network: Called as ``network(image, hole)`` with images ``(B, C, *spatial)``, whole and
            normalised, and ``hole`` ``(B, 1, *spatial)`` in ``[0, 1]``, 1 for missing; returns
            images of the same shape. It must hide the hole from itself.

    Raises:
        TypeError: If the network is not callable; when called, if it returns no tensor.
        ValueError: When called, if it returns another shape or values that are not finite, or if
            it is on another device than the inputs.

    Source:
        Phang et al. 2020, learned infills. Differs: the published code tells its inpainters the
        masked-out hole on both sides.

    Example:
        >>> left_neighbour = lambda image, hole: image.roll(1, -1)
        >>> Inpainter(left_neighbour)(torch.tensor([[[1.0, 2.0]]]), hole=torch.ones(1, 1, 2))
        tensor([[[2., 1.]]])
    """

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor]) -> None:
        if not callable(network):
            raise TypeError(
                f"network must be callable as network(image, hole), but got {network!r}; give a "
                "module or a function, or let inpainting.train_inpainter(loader) make one."
            )
        self.network = network

    @torch.no_grad()
    def __call__(self, inputs: Tensor, hole: Tensor) -> Tensor:
        """Return what the network paints, shaped like ``inputs``."""
        dtype = self._dtype(inputs)
        with eval_mode(self.network):
            pixels = self.network(inputs.to(dtype, copy=True), hole.to(dtype, copy=True))
        _check_pixels(pixels, inputs)
        return pixels.to(inputs.dtype)

    def _dtype(self, inputs: Tensor) -> torch.dtype:
        """Look up the network's precision, and refuse inputs that it cannot reach."""
        module = module_of(self.network)
        weights = [p for p in module.parameters() if p.is_floating_point()] if module else []
        if weights and weights[0].device != inputs.device:
            raise ValueError(
                f"the inpainting network must be on the device of the inputs, {inputs.device}, but "
                f"is on {weights[0].device}; move it with "
                f"inpainter.network.to({str(inputs.device)!r})."
            )
        return weights[0].dtype if weights else inputs.dtype

    def __repr__(self) -> str:
        return f"Inpainter(network={getattr(self.network, '__qualname__', self.network)!s})"


def _check_pixels(pixels: Any, inputs: Tensor) -> None:
    if not isinstance(pixels, Tensor):
        raise TypeError(
            f"the inpainting network must return a tensor shaped like its inputs, but returned "
            f"{type(pixels).__name__}; wrap it in a function that returns the image alone."
        )
    if pixels.shape != inputs.shape:
        raise ValueError(
            f"the inpainting network must return images of shape {tuple(inputs.shape)}, but "
            f"returned {tuple(pixels.shape)}; wrap it in a function that resamples its inputs to "
            "a size that it can read, and its answer back."
        )
    check_finite(
        pixels,
        "what the inpainting network returns",
        "look at its weights, and whether it divides by the size of a hole that can be empty.",
    )
