"""What several of these scripts need."""

import ctypes
import sys
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows in columns; the first is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    form = "  ".join(f"{{:{'>' if index else '<'}{width}}}" for index, width in enumerate(widths))
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(form.format(*line).rstrip() for line in lines)


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks, which saves a page fault per 4 kB of each activation.

    Training an EfficientNet-Lite0 masker on two CPU cores takes a fifth less CPU time with it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
