"""Ctrl-C and SIGTERM wait until a step has ended; other errors are told what was saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch


class Signals:
    """Which signal has come, if any: Ctrl-C, or SIGTERM as schedulers of clusters send.

    Within :meth:`postponed` the first one is only noted, so that a step ends and can be saved; a
    second one acts at once.

    Source:
        Own.

    Example:
        >>> signals = Signals()
        >>> with signals.postponed():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     signals.caught, signals.caught.name
        (<Signals.SIGTERM: 15>, 'SIGTERM')
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self.before: dict[signal.Signals, object] = {}

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Note signals instead of acting on them; Python allows that in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            self._restore()

    def act(self) -> None:
        """Let the signal that came do what it does without us."""
        if self.caught is not None:
            self._restore()
            signal.raise_signal(self.caught)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.before = {}


@contextmanager
def causes_in_words() -> Iterator[None]:
    """Add the way out to errors that torch raises during a training.

    Source:
        Own.

    Example:
        >>> try:
        ...     with causes_in_words():
        ...         raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
        ... except RuntimeError as error:
        ...     print(error.__notes__[0][:27])
        A loader process died, ofte
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        note = _way_out(error)
        if note is not None:
            error.add_note(note)
        raise


def _way_out(error: BaseException) -> str | None:
    words = str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in words:
        return (
            "The step did not fit into memory. Lower the batch size of the loader first; to keep "
            "the size of an update, accelerate's gradient_accumulation_steps. Then: smaller "
            "images, mixed_precision='bf16', or train_classifier=False."
        )
    if "DataLoader worker" in words and "exited unexpectedly" in words or "killed by" in words:
        return (
            "A loader process died, often for want of memory (also /dev/shm). Use fewer "
            "num_workers; with num_workers=0 the error of the data set itself is shown."
        )
    return None
