"""The processes of a command: where they compute, how precisely, and how they end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import Accelerator


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers of clusters send: like Ctrl-C, but the exit status is 143."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, so that a command can say what it leaves behind.

    Source:
        Own.

    Example:
        >>> try:
        ...     with terminable():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Terminated:
        ...     print("saved")
        saved
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows it there only
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a loader's process, which has nothing to say
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def launched(
    *, device: str | None = None, precision: str | None = None, accumulate: int | None = None
) -> Iterator[Accelerator]:
    """Join the other processes of ``accelerate launch`` or ``torchrun``, if there are any.

    Args:
        device: ``cpu`` or ``cuda``; None is accelerate's choice, the fastest there is.
        precision: ``no``, ``bf16`` or ``fp16``; None is what accelerate was launched with.
        accumulate: Batches an update is taken from; None likewise.

    Raises:
        ValueError: If a GPU is asked for and there is none.

    Source:
        Own.

    Example:
        >>> with launched(device="cpu") as accelerator:
        ...     accelerator.num_processes, accelerator.is_main_process
        (1, True)
    """
    import torch  # here, so that --help does not wait for it

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "--device cuda needs a GPU that torch can use, but finds none; leave --device out, or "
            "install a torch that is built for the GPU's driver."
        )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import GradientAccumulationPlugin

    alone = not AcceleratorState._shared_state  # somebody's who calls commands from Python
    plugin = None if accumulate is None else GradientAccumulationPlugin(num_steps=accumulate)
    try:
        accelerator = Accelerator(
            cpu=device == "cpu" or not _is_accelerated(),  # or it counts one process where none is
            mixed_precision=precision,
            gradient_accumulation_plugin=plugin,
        )
        yield accelerator
        accelerator.wait_for_everyone()
        if alone:
            accelerator.end_training()
    finally:
        if alone:  # a command that follows in this process may ask for something else
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def _is_accelerated() -> bool:
    import torch

    others = getattr(torch, "accelerator", None)  # since torch 2.6
    return torch.cuda.is_available() or (others is not None and others.is_available())
