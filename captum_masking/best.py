"""Which state of a training is kept, chosen on labels alone."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor, nn

from captum_masking.figures import Record, figure_of

#: A fall of accuracy by more than this below the start is said aloud, and such a state not kept.
TOLERANCE = 0.01
#: The same, below the best accuracy since the start: wider, as that one is a lucky draw.
TOLERANCE_OF_BEST = 0.05


class Newest:
    """Keeps the newest state of a model whose classifier has not lost accuracy.

    A state is safe while its validation accuracy on clean images is at most a point
    (:data:`TOLERANCE`) below that of the classifier before training, and at most five
    (:data:`TOLERANCE_OF_BEST`) below the best one seen; a larger fall is warned of. If no state is
    safe, the most accurate one is kept.

    Source:
        Own. Newest, since both learning rates fall to zero and the loss of the masker cannot be
        compared between epochs while its judge changes.

    Example:
        >>> best, model = Newest(), nn.Linear(1, 1)
        >>> best.start({"clean": 0.8})
        >>> best.offer({"epoch": 1, "val_clean": 0.8}, model)
        >>> kept = model.weight.item()
        >>> _ = nn.init.zeros_(model.weight)  # and now a state that lost two points
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     best.offer({"epoch": 2, "val_clean": 0.78}, model)
        >>> best.restore(model)
        >>> model.weight.item() == kept
        True
    """

    def __init__(self) -> None:
        self.before = self.highest = self.kept = 0.0
        self.state: dict[str, Tensor] = {}  # on CPU memory; empty until one is kept

    def start(self, record: Record) -> None:
        """Note the accuracy before training."""
        self.before = self.highest = record["clean"]

    def offer(self, record: Record, model: nn.Module) -> None:
        """Keep the model's state of now, or warn; records without validation are passed over."""
        if "val_clean" not in record:
            return
        accuracy = record["val_clean"]
        floor = max(self.before - TOLERANCE, self.highest - TOLERANCE_OF_BEST)
        if accuracy < floor:
            warn_of_fall(record, max(self.before, self.highest))
        if self.is_better(record, safe=accuracy >= floor):
            self.state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        self.highest = max(self.highest, accuracy)

    def is_better(self, record: Record, *, safe: bool) -> bool:
        """Whether a state is to be kept rather than the one kept before; notes that it is."""
        accuracy = record["val_clean"]
        better = safe or not self.state or accuracy > self.kept
        self.kept = accuracy if better else self.kept
        return better

    def restore(self, model: nn.Module) -> None:
        """Load the kept state, if there is one."""
        if self.state:
            model.load_state_dict(self.state)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a fresh one needs to go on as this."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Best(Newest):
    """Keeps the state with the best figure of those whose classifier has not lost accuracy.

    Safe states are those of :class:`Newest`; if none is safe, the best of the others is kept.

    Args:
        figure: A name in the records of :meth:`~captum_masking.trainer.MaskingTrainer.fit`.
        higher_is_better: Which way it gets better.

    Raises:
        KeyError: At the first epoch, if there is no such figure.

    Source:
        Own. With a frozen classifier the judge never changes and ``val_loss`` compares; in joint
        training it does not.

    Example:
        >>> best, model = Best("val_masked_in", higher_is_better=True), nn.Linear(1, 1)
        >>> best.start({"clean": 0.8})
        >>> for figure in (0.5, 0.7, 0.6):
        ...     _ = nn.init.constant_(model.weight, figure)
        ...     best.offer({"val_clean": 0.8, "val_masked_in": figure}, model)
        >>> best.restore(model)
        >>> round(model.weight.item(), 4)
        0.7
    """

    def __init__(self, figure: str = "val_loss", *, higher_is_better: bool = False) -> None:
        super().__init__()
        self.figure, self.higher_is_better = figure, higher_is_better
        self.best, self.is_safe = -math.inf, False

    def is_better(self, record: Record, *, safe: bool) -> bool:
        """As for :class:`Newest`; NaN is never better."""
        value = figure_of(self.figure, record) * (1 if self.higher_is_better else -1)
        better = not self.state or (safe, value) > (self.is_safe, self.best)
        if better:
            self.best, self.is_safe = -math.inf if math.isnan(value) else value, safe
        return better

    def __repr__(self) -> str:
        return f"Best(figure={self.figure!r}, higher_is_better={self.higher_is_better})"


def warn_of_fall(record: Record, before: float) -> None:
    """Say aloud that the classifier lost accuracy on clean validation images.

    Args:
        record: Of an epoch, with ``val_clean``.
        before: The accuracy it is measured against, as a fraction.

    Source:
        Own.
    """
    warnings.warn(
        f"the classifier has lost accuracy: {record['val_clean']:.1%} on clean validation images "
        f"after epoch {record['epoch']:.0f}, {before:.1%} before. This state is not kept if a "
        "better one is found. If it does not recover: FineTune(lr=...) lower, FineTune(stay=...) "
        "higher.",
        stacklevel=2,
    )
