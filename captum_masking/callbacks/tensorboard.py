"""The figures of a training as curves in TensorBoard."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_masking.callbacks.contract import Callback

if TYPE_CHECKING:
    from captum_masking.figures import Record
    from captum_masking.trainer import MaskingTrainer


class TensorBoard(Callback):
    """Writes the figures of steps under ``step/`` and those of epochs under ``epoch/``.

    Both are drawn over the number of steps. A training that is resumed goes on in the same folder;
    what an interrupted one had written beyond the checkpoint is hidden. Only the main process
    writes.

    Args:
        folder: Made if need be. Look at it with ``tensorboard --logdir folder``.
        every: Figures of every so many steps are written, >= 1; those of epochs always.

    Raises:
        ImportError: If TensorBoard is not installed.
        ValueError: If ``every`` is less than 1.

    Source:
        Own.

    Example:
        ``trainer.fit(loader, callbacks=[TensorBoard("runs/first")])``
    """

    def __init__(self, folder: str | Path, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 step, but got {every}; 10 writes fewer.")
        _writer_class()  # before the training rather than in it
        self.folder, self.every = Path(folder), every
        self._close: weakref.finalize | None = None

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Open the folder, on the main process."""
        self._end()
        if not trainer.is_main:
            return
        done = trainer.steps_done
        writer = _writer_class()(str(self.folder), purge_step=done + 1 if done else None)
        self._writer = writer
        # After an error, of which a callback is not told, with this object or the program.
        self._close = weakref.finalize(self, writer.close)

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        """Write the figures of a step."""
        if trainer.steps_done % self.every == 0:
            self._write("step", record, trainer.steps_done)

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Write the figures of an epoch, and all that was held back, to the disk."""
        self._write("epoch", record, trainer.steps_done)
        if self._close is not None:
            self._writer.flush()

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        """Close the files."""
        self._end()

    def __repr__(self) -> str:
        return f"TensorBoard(folder={str(self.folder)!r}, every={self.every})"

    def _write(self, kind: str, record: Record, step: int) -> None:
        if self._close is not None:
            for name, value in record.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def _end(self) -> None:
        if self._close is not None:
            self._close()
            self._close = None


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"the callback TensorBoard writes with the package tensorboard ({error}); install it "
            "with pip install tensorboard, or write the CSV of fit(..., log=file) alone."
        ) from error
    return SummaryWriter
