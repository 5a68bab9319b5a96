"""Keeps the C library from handing memory back to the system after each layer."""

from __future__ import annotations

import ctypes
import sys


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks, which saves a page fault per 4 kB of each activation.

    Training an EfficientNet-Lite0 masker on two CPU cores takes less than half as long with it.
    Only the commands call it: a library must not change its host's allocator. Does nothing where
    the C library is not glibc.

    Source:
        Own; ``mallopt(3)``.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
