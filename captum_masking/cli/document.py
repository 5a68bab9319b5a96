"""One JSON document on standard output, which any program can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(document: Any) -> str:
    """Write JSON as the standard has it: what is not a number is null.

    Args:
        document: Of mappings, lists, tuples, strings, numbers and paths.

    Source:
        RFC 8259, which knows neither NaN nor infinity.

    Example:
        >>> dumps({"loss": float("nan"), "epochs": (1, 2)})
        '{"loss": null, "epochs": [1, 2]}'
    """
    return json.dumps(_plain(document), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int | str) else str(value)
