"""A training that ends when it no longer gets better."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from captum_masking.callbacks.contract import Callback
from captum_masking.figures import figure_of

if TYPE_CHECKING:
    from captum_masking.figures import Record
    from captum_masking.trainer import MaskingTrainer


class EarlyStopping(Callback):
    """Ends the training once a figure has not got better for some epochs.

    Epochs in which the classifier trains alone, and that lack a figure of the masker for this
    reason, do not count. Learning rates are scheduled for the whole training, so that one that
    falls along a cosine has not reached its end.

    Args:
        figure: A name in the records, such as ``val_loss``, ``val_masked_in`` or ``loss``.
        patience: Epochs without a better value after which the training ends, >= 1.
        least: A value is better only if it is so by more than this, >= 0.
        higher_is_better: Whether the figure is to grow, as accuracies are.

    Attributes:
        best: The best value so far; NaN before there is one.
        waited: Epochs since then.

    Raises:
        ValueError: If a number lies outside its range.
        KeyError: In use, if the records have no such figure.

    Source:
        Prechelt 1998.

    Example:
        >>> class Trainer:
        ...     stopping = None
        >>> stopper, trainer = EarlyStopping(patience=2), Trainer()
        >>> for loss in (3.0, 1.0, 2.0, 1.5):
        ...     stopper.on_epoch(trainer, {"area": 0.3, "val_loss": loss})
        >>> trainer.stopping
        'val_loss has not got better than 1 for 2 epochs'
    """

    def __init__(
        self,
        figure: str = "val_loss",
        *,
        patience: int = 3,
        least: float = 0.0,
        higher_is_better: bool = False,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, but got {patience}; 3 is usual.")
        if not 0 <= least < math.inf:
            raise ValueError(
                f"least must be a finite number >= 0, but got {least}; 0 takes any improvement, "
                "higher_is_better says which way is better."
            )
        self.figure, self.patience, self.least = figure, patience, least
        self.higher_is_better = higher_is_better
        self.best, self.waited = math.nan, 0

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Compare the figure with the best so far; say so if it is time to end."""
        if "area" not in record and self.figure not in record and not self._of_validation:
            return  # the classifier trained alone
        if self._is_better(figure_of(self.figure, record)):
            self.best, self.waited = record[self.figure], 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            epochs = f"{self.waited} epoch{'s' * (self.waited > 1)}"
            trainer.stopping = f"{self.figure} has not got better than {self.best:.4g} for {epochs}"

    def state_dict(self) -> dict[str, Any]:
        """Return the epochs waited and, where there is one, the best value."""
        best = {} if math.isnan(self.best) else {"best": self.best}
        return {"waited": self.waited, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.best, self.waited = float(state.get("best", math.nan)), int(state["waited"])

    def __repr__(self) -> str:
        numbers = f"patience={self.patience}, least={self.least}"
        return (
            f"EarlyStopping(figure={self.figure!r}, {numbers}, "
            f"higher_is_better={self.higher_is_better})"
        )

    @property
    def _of_validation(self) -> bool:
        return self.figure.startswith("val_")

    def _is_better(self, value: float) -> bool:
        """Whether the value beats the best; NaN never does, and any other value beats none."""
        if math.isnan(value) or math.isnan(self.best):
            return not math.isnan(value)
        gain = value - self.best if self.higher_is_better else self.best - value
        return gain > self.least
