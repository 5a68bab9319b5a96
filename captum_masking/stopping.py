"""What stops a training: Ctrl-C and SIGTERM wait for the step to end, errors say the way out."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
        self.process = os.getpid()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Note signals instead of acting on them; Python allows that in the main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.process = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            # None is not Python's to put back; ignored ones, as under nohup, stay ignored.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                self.before[number] = signal.signal(number, self._note)
        try:
            yield
        except RuntimeError as error:
            if worker_died(error):  # of the same signal, as Ctrl-C reaches every process
                self.act()
            raise
        finally:
            self._restore()

    def act(self) -> None:
        """Let the signal that came do what it does without us; once, as it may do nothing."""
        if self.caught is not None:
            number, self.caught = self.caught, None
            self._restore()
            signal.raise_signal(number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.caught = signal.Signals(number)
        self._restore()
        # A process that was copied from this one, such as a loader's worker, has this handler too:
        # it lives on after Ctrl-C, for the step that waits for it, but can be terminated.
        if os.getpid() != self.process and number == signal.SIGTERM:
            self.act()

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
    except (RuntimeError, MemoryError, ValueError) as error:
        note = _way_out(error)
        if note is not None:
            error.add_note(note)
        raise


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before a training rather than at its first save.

    Args:
        folder: Made if need be.

    Raises:
        OSError: If it cannot be written to.

    Source:
        Own.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            error.errno,
            f"checkpoints cannot be written to {folder}: {error.strerror}; give a folder that can "
            "be written to",
        ) from error


@contextmanager
def lost_workers_in_words() -> Iterator[None]:
    """Tell a loader's process that died from a connection that broke, which it looks like at first.

    Source:
        Own. torch says so itself, but when the system's signal comes, a moment later.

    Example:
        >>> with lost_workers_in_words():
        ...     raise ConnectionResetError("by peer")
        Traceback (most recent call last):
        RuntimeError: DataLoader worker exited unexpectedly
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:
        time.sleep(0.5)  # torch's own error comes in here
        raise RuntimeError("DataLoader worker exited unexpectedly") from error


def worker_died(error: BaseException) -> bool:
    """Tell the death of a loader's process from an error in it.

    Source:
        Own.

    Example:
        >>> worker_died(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
        True
    """
    words = str(error)
    died = "exited unexpectedly" in words or "killed by signal" in words
    return isinstance(error, RuntimeError) and "DataLoader worker" in words and died


def _way_out(error: BaseException) -> str | None:
    words = str(error)
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "allocate memory" in words:
        return (
            "The step did not fit into memory. Lower the batch size of the loader first; to keep "
            "the size of an update, accelerate's gradient_accumulation_steps. Then: smaller "
            "images, mixed_precision='bf16', or train_classifier=False."
        )
    if worker_died(error):
        return (
            "A loader process died, often for want of memory (also /dev/shm). Use fewer "
            "num_workers; with num_workers=0 the error of the data set itself is shown."
        )
    if "more than 1 value per channel" in words:
        return (
            "Batch norm cannot learn from one value: this batch has one example, of one cell at "
            "the deepest layer. DataLoader(..., drop_last=True) leaves such a last batch out."
        )
    return None
