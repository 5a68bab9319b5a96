"""Area weights that follow the masks: a masker that collapsed is recovered, not only reported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from captum_masking.callbacks.contract import Callback
from captum_masking.callbacks.restart import forget, zero_last_layer
from captum_masking.objective import Judgement
from captum_masking.regularizer import Area, PowerArea, Regularizer, Sum, UngatedArea

if TYPE_CHECKING:
    from captum_masking.figures import Record
    from captum_masking.trainer import MaskingTrainer

#: The regularizers that are steered.
AREAS = (Area, UngatedArea, PowerArea)

_MARGIN = 0.1  # of the range from low to high: nearer to its ends nothing returns
_RETURN = 0.1  # power of the factor: ten windows to undo what one did


class AdaptiveArea(Callback):
    """Multiplies the area weights down while masks are too small, up while they are too large.

    After every window of steps the mean area of its masks is looked at. Below ``low`` the area
    weights are divided by ``factor``, above ``high`` multiplied by it. Well inside, they return to
    what they were, ten times as slowly; near the end of the range that they return towards they
    stay as they are, so that weights which empty all masks do not do so again and again.

    Weights alone do not bring back a mask that is all zeros or all ones: there the sampler passes
    next to no gradient, and by the time one arrives the weights are far off. Where the mean area
    is more than halfway from the range to 0 or 1, the masker is therefore also restarted.

    The trainer's regularizer keeps its name and gets its weights back at the end. Published recipes
    do not use this. Losses contain the weights of the moment: choose a state, or end a training, by
    ``val_masked_in`` or the Saliency Metric instead.

    Args:
        low: Least mean area that is left alone, a fraction of the image; take less where the
            objects are smaller.
        high: Greatest mean area that is left alone.
        every: Steps in a window, >= 1.
        factor: > 1.
        most: Weights are at most multiplied or divided by this, >= 1.
        restart: Called with the masker, to start it anew, and the same in every process; None
            never does.

    Attributes:
        scale: What the area weights are multiplied by now.
        restarts: How often the masker was restarted.

    Raises:
        ValueError: If a number lies outside its range; in use, if the trainer's regularizer has no
            area term.

    Source:
        Own, after the tuned multipliers of constrained training, such as GECO (Rezende & Viola
        2018).

    Example:
        >>> import torch
        >>> adaptive = AdaptiveArea(every=2, factor=1.5)
        >>> class Trainer:
        ...     regularizer = UngatedArea(weight=3.0)
        >>> trainer, mask = Trainer(), torch.ones(1, 1, 2, 2)
        >>> adaptive.on_start(trainer)
        >>> for area in (0.02, 0.04):  # 0.03 on average
        ...     adaptive.on_step(trainer, {"area": area})
        >>> trainer.regularizer(mask, None)  # 3 / 1.5
        tensor(2.)
    """

    def __init__(
        self,
        *,
        low: float = 0.05,
        high: float = 0.9,
        every: int = 20,
        factor: float = 2.0,
        most: float = 1000.0,
        restart: Callable[[nn.Module], None] | None = zero_last_layer,
    ) -> None:
        _check(low, high, every, factor, most)
        self.low, self.high, self.every = low, high, every
        self.factor, self.most, self.restart = factor, most, restart
        self.scale, self.restarts = 1.0, 0
        self.areas: list[float] = []  # of the running window

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Put the area terms of the trainer's regularizer under control."""
        trainer.regularizer = _Adapted(_original(trainer.regularizer), self)

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        """Note the area; at the end of a window move the weights, and restart if need be."""
        if "area" not in record:  # the classifier trains alone
            return
        self.areas.append(record["area"])
        if len(self.areas) < self.every:
            return
        area, self.areas = sum(self.areas) / len(self.areas), []
        self.scale = self._moved(area)
        is_gone = area < self.low / 2 or area > (1 + self.high) / 2  # NaN is neither
        if self.restart is not None and is_gone:
            self._restart(trainer, self.restart, area)

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        """Give the regularizer back."""
        trainer.regularizer = _original(trainer.regularizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the number of restarts, and the areas of the running window."""
        return {"scale": self.scale, "restarts": self.restarts, "areas": list(self.areas)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, before or after :meth:`on_start`."""
        self.scale, self.restarts = float(state["scale"]), int(state["restarts"])
        self.areas = [float(area) for area in state["areas"]]

    def __repr__(self) -> str:
        window = f"low={self.low}, high={self.high}, every={self.every}, factor={self.factor}"
        restart = getattr(self.restart, "__name__", repr(self.restart))
        return f"AdaptiveArea({window}, most={self.most}, restart={restart})"

    def _moved(self, area: float) -> float:
        margin = _MARGIN * (self.high - self.low)
        if area < self.low:
            return max(self.scale / self.factor, 1 / self.most)
        if area > self.high:
            return min(self.scale * self.factor, self.most)
        if self.scale < 1 and area > self.low + margin:
            return min(self.scale * self.factor**_RETURN, 1.0)
        if self.scale > 1 and area < self.high - margin:
            return max(self.scale / self.factor**_RETURN, 1.0)
        return self.scale

    def _restart(
        self, trainer: MaskingTrainer, restart: Callable[[nn.Module], None], area: float
    ) -> None:
        masker = trainer.model.masker
        restart(masker)
        forget(trainer.optimizers, masker.parameters())
        self.restarts += 1
        if trainer.is_main:
            ends = "ones" if area > self.high else "zeros"
            warnings.warn(
                f"masks have been nearly all {ends} for {self.every} steps (mean area {area:.3f}): "
                f"the masker was restarted, with area weights {self.scale:.3g} times those given. "
                "If this is said again and again, give such weights from the start, and a lower "
                "learning rate.",
                stacklevel=2,
            )


class _Adapted:
    """A regularizer whose area terms are multiplied by the scale of now; it prints as it was."""

    def __init__(self, regularizer: Regularizer, adaptive: AdaptiveArea) -> None:
        self.regularizer, self.adaptive = regularizer, adaptive
        self.terms = _terms(regularizer)
        if not any(isinstance(term, AREAS) for term in self.terms):
            raise ValueError(
                f"AdaptiveArea steers the terms {', '.join(kind.__name__ for kind in AREAS)}, but "
                f"the trainer's regularizer has none of them: {regularizer!r}; add one, as in "
                "smooth(UngatedArea()), or leave AdaptiveArea out."
            )

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        losses = [
            term(mask, judgement) * (self.adaptive.scale if isinstance(term, AREAS) else 1.0)
            for term in self.terms
        ]
        return sum(losses[1:], start=losses[0])

    # A checkpoint compares what it was made with by name: the weights that move are no part of it.
    def __repr__(self) -> str:
        return repr(self.regularizer)


def _original(regularizer: Regularizer) -> Regularizer:
    """Undo what an earlier training left behind when it ended by an error."""
    return regularizer.regularizer if isinstance(regularizer, _Adapted) else regularizer


def _terms(regularizer: Regularizer) -> list[Regularizer]:
    if isinstance(regularizer, Sum):
        return [inner for term in regularizer.terms for inner in _terms(term)]
    return [regularizer]


def _check(low: float, high: float, every: int, factor: float, most: float) -> None:
    if not 0 < low < high < 1:
        raise ValueError(
            f"low and high must be fractions of the image with 0 < low < high < 1, but got {low} "
            f"and {high}; 0.05 and 0.9 suit most."
        )
    if every < 1 or not factor > 1 or not most >= 1:
        raise ValueError(
            f"expected every >= 1, factor > 1 and most >= 1, but got every={every}, "
            f"factor={factor} and most={most}; a factor below 1 would move weights the wrong way."
        )
