"""What a mask should look like whatever it hides: ``regularizer(mask, judgement) -> scalar``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_masking.objective import Judgement
from captum_masking.regularizer.area import Area, PowerArea, UngatedArea
from captum_masking.regularizer.asked import AskedArea, asked
from captum_masking.regularizer.combined import Sum, over_inputs, published, smooth
from captum_masking.regularizer.size import SizeAsked, SizeRange, SizeTarget
from captum_masking.regularizer.variation import TotalVariation

__all__ = [
    "Area",
    "AskedArea",
    "PowerArea",
    "Regularizer",
    "SizeAsked",
    "SizeRange",
    "SizeTarget",
    "Sum",
    "TotalVariation",
    "UngatedArea",
    "asked",
    "over_inputs",
    "published",
    "smooth",
]

#: Called as ``regularizer(mask, judgement)`` with a mask ``(B, 1, *spatial)`` in ``[0, 1]``;
#: returns a scalar, lower is better.
Regularizer = Callable[[Tensor, Judgement], Tensor]
