"""Tables and JSON for people and programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# ---- A plain table for the shell.


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the first is left-aligned, the others right-aligned.

    Args:
        header: One title a column.
        rows: Cells as text.

    Returns:
        Lines joined by newlines.

    Source:
        Own.

    Example:
        >>> print(table(["method", "LE"], [["centre", "41.3"], ["ours", "9.0"]]))
        method    LE
        ------  ----
        centre  41.3
        ours     9.0
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


# ---- One JSON document on standard output, which any program can read.


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


def write_json(content: Any, file: Path) -> None:
    """Write a JSON file at one go, so that an interrupted run leaves none behind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.write_text(json.dumps(content), encoding="utf-8")
    os.replace(staged, file)


def describe(figures: dict[str, float]) -> str:
    """Lay out figures as a table.

    Source:
        Own.

    Example:
        >>> print(describe({"images": 2, "clean": 0.5}))
        figure            value
        ---------------  ------
        images                2
        accuracy, clean  50.0 %
    """
    rows = [
        [title, form.format(100 * figures[key] if "%" in form else figures[key])]
        for key, (title, form) in _TITLES.items()
        if key in figures
    ]
    return table(["figure", "value"], rows)


_TITLES = {
    "images": ("images", "{:.0f}"),
    "clean": ("accuracy, clean", "{:.1f} %"),
    "masked_in": ("accuracy, masked-in", "{:.1f} %"),
    "masked_out": ("accuracy, masked-out", "{:.1f} %"),
    "entropy_out": ("entropy, masked-out", "{:.2f} nats"),
    "area": ("mask area", "{:.1f} %"),
    "boxed_images": ("images with boxes", "{:.0f}"),
    "localization_error": ("LE, this model", "{:.1f} %"),
    "localization_error_centered_square": ("LE, centred square", "{:.1f} %"),
    "localization_error_whole_frame": ("LE, whole frame", "{:.1f} %"),
}
