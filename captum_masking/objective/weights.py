"""The wording of errors about the weights of losses."""

from __future__ import annotations

import math
from numbers import Real


def check_weights(*, way_out: str = "0 switches the term off.", **weights: float) -> None:
    """Refuse weights that are no finite numbers >= 0.

    Args:
        way_out: What to do instead, for the message.
        **weights: By the name of the argument.

    Raises:
        TypeError: If one is not a number.
        ValueError: If one is negative, infinite or NaN.

    Source:
        Own.

    Example:
        >>> check_weights(weight=1.0, border=0.3)
    """
    for name, weight in weights.items():
        if not isinstance(weight, Real):
            raise TypeError(f"{name} must be a number, but got {type(weight).__name__}; {way_out}")
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be a finite number >= 0, but got {weight}; {way_out}")
