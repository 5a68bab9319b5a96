"""What is painted where the mask leaves a hole: ``infill(inputs, hole) -> pixels``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_masking.infill.blur import Blur, gaussian_blur
from captum_masking.infill.color import Black, Color, Mean, UniformColor
from captum_masking.infill.dabkowski_gal import DabkowskiGal
from captum_masking.infill.inpainter import Inpainter
from captum_masking.infill.noise import Noise
from captum_masking.infill.random_image import RandomImage

__all__ = [
    "VARIANTS",
    "Black",
    "Blur",
    "Color",
    "DabkowskiGal",
    "Infill",
    "Inpainter",
    "Mean",
    "Noise",
    "RandomImage",
    "UniformColor",
    "gaussian_blur",
]

#: Called as ``infill(inputs, hole)``: images ``(B, C, *spatial)`` and what is missing of them,
#: ``(B, 1, *spatial)`` in ``[0, 1]`` with 1 for missing; returns pixels shaped like ``inputs``.
Infill = Callable[[Tensor, Tensor], Tensor]

#: Every infill that needs neither data nor arguments, by name. The contract tests run on each of
#: them, and the comparison has a row ``infill-NAME`` for each: a new infill adds one entry here.
VARIANTS: dict[str, Infill] = {
    "mean": Mean(),
    "blur": Blur(),
    "uniform-color": UniformColor(),
    "noise": Noise(),
    "random-image": RandomImage(),
    "dabkowski-gal": DabkowskiGal(),
}
