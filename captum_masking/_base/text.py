"""Plain tables for the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_TITLES = {
    "images": ("images", "{:.0f}"),
    "clean": ("accuracy, clean", "{:.1f} %"),
    "masked_in": ("accuracy, masked-in", "{:.1f} %"),
    "masked_out": ("accuracy, masked-out", "{:.1f} %"),
    "entropy_out": ("entropy, masked-out", "{:.2f} nats"),
    "area": ("mask area", "{:.1f} %"),
    "boxed_images": ("images with boxes", "{:.0f}"),
    "localization_error": ("LE, this model", "{:.1f} %"),
    "localization_error_centered_square": ("LE, centered square", "{:.1f} %"),
    "localization_error_whole_frame": ("LE, whole frame", "{:.1f} %"),
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the first is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def describe(figures: Mapping[str, float]) -> str:
    """Lay out what an evaluation measured as a table."""
    rows = [
        [title, form.format(100 * figures[key] if "%" in form else figures[key])]
        for key, (title, form) in _TITLES.items()
        if key in figures
    ]
    return table(["figure", "value"], rows)
