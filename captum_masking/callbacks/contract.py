"""What watches a training and may steer it: called by ``fit`` at four moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_masking.monitor import Record
    from captum_masking.trainer import MaskingTrainer


class Callback:
    """Does nothing; override the moments that matter.

    In a training over several processes every process calls its callbacks, with figures that are
    the same for all; ``trainer.is_main`` says who should write. A callback ends the training after
    the running step by setting ``trainer.stopping = "why"``.

    Source:
        Own.

    Example:
        >>> class Count(Callback):
        ...     steps = 0
        ...     def on_step(self, trainer, record):
        ...         self.steps += 1
    """

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Called before the first step, and before the first after a resume."""

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        """Called after each step with its figures; ``trainer.steps_done`` counts from 1."""

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Called after each epoch with its means and, under ``val_``, those of validation."""

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        """Called once when the training has ended by itself, not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a fresh one needs to go on: numbers, strings, tensors, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
