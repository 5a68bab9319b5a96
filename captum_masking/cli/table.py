"""A plain table for the shell."""

from __future__ import annotations

from collections.abc import Sequence


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
