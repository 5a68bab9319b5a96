"""Two processes that meet, for the tests that need them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PATIENCE_S = 600  # a machine may be busy with anything; a deadlock is one also after ten minutes


def in_two_processes(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Call ``work(rank, folder, *arguments)`` in two processes of one group.

    Copies of this process start at once, where fresh ones would import torch and all else anew;
    but what has started a GPU, or threads of the system's own, cannot be copied.
    """
    copied = sys.platform == "linux" and not torch.cuda.is_available()
    context = mp.start_processes(
        _meet,
        (work, str(folder), *arguments),
        nprocs=2,
        join=False,
        start_method="fork" if copied else "spawn",
    )
    end = time.monotonic() + PATIENCE_S
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, "two processes wait for each other"
    finally:
        for process in context.processes:
            process.kill()


def _meet(rank: int, work: Callable[..., None], folder: str, *arguments: Any) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"  # a port could be taken
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    work(rank, Path(folder), *arguments)
