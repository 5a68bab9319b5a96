"""Callbacks that steer the area of masks while a masker learns."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_masking._base.checks import check_area
from captum_masking.parts.objective import Judgement
from captum_masking.parts.regularizer import (
    Area,
    AskedArea,
    PowerArea,
    Regularizer,
    Sum,
    UngatedArea,
)
from captum_masking.training.callbacks import Callback, as_made
from captum_masking.training.records import Record

if TYPE_CHECKING:
    from captum_masking.training.trainer import MaskingTrainer

__all__ = ["AdaptiveArea"]


@torch.no_grad()
def zero_last_layer(masker: nn.Module) -> None:
    """Set the last layer's parameters to zero (Fixup): masks are one half, in every process."""
    for head in getattr(masker, "heads", [masker]):
        last: list[nn.Parameter] = []
        for module in head.modules():
            last = list(module.parameters(recurse=False)) or last
        for parameter in last:
            parameter.zero_()


@torch.no_grad()
def forget(optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Set optimizer states of parameters to zero, as if no step had been taken; none is removed."""
    concerned = list(parameters)
    for optimizer in optimizers:
        for parameter in concerned:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    value.zero_()


#: The regularizers that are steered.
AREAS = (Area, AskedArea, UngatedArea, PowerArea)

_MARGIN = 0.1  # of the range from low to high; closer to its ends, weights do not return
_RETURN = 0.1  # power of the factor: ten windows to undo what one did


class AdaptiveArea(Callback):
    """Reduce the area weights while masks are too small, raise them while they are too large.

    After every window of steps, area weights are divided by ``factor`` where the mean area is below
    ``low`` and multiplied by it above ``high``. Well inside, they return to what they were, ten
    times as slowly. Where the mean area is more than halfway from the range to 0 or 1, the masker
    is also restarted, since the sampler passes next to no gradient there.

    The trainer's regularizer gets its weights back at the end. Losses contain the current weights,
    so choose a state, or stop early, by another metric, such as ``val_masked_in``.

    Args:
        low: Least mean area that is left alone, a fraction of the image; ``high`` is the greatest.
        every: Steps in a window, >= 1.
        factor: > 1.
        most: Weights are at most multiplied or divided by this, >= 1.
        restart: Called with the masker to reset it, equally in every process; None never resets.

    Attributes:
        scale: Current factor of the area weights.
        restarts: Number of restarts.

    Example:
        >>> adaptive = AdaptiveArea(every=1, factor=1.25)
        >>> adaptive.on_step(None, {"area": 0.03})
        >>> adaptive.scale
        0.8
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
        if not 0 < low < high < 1:
            raise ValueError(
                f"low and high must be fractions of the image with 0 < low < high < 1, but got "
                f"{low} and {high}; 0.05 and 0.9 suit most."
            )
        if every < 1 or not factor > 1 or not most >= 1:
            raise ValueError(
                f"expected every >= 1, factor > 1 and most >= 1, but got every={every}, "
                f"factor={factor} and most={most}; a factor below 1 would move weights the wrong "
                "way."
            )
        self.low, self.high, self.every = low, high, every
        self.factor, self.most, self.restart = factor, most, restart
        self.scale, self.restarts = 1.0, 0
        self.areas: list[float] = []  # of the running window

    def on_start(self, trainer: MaskingTrainer) -> None:
        trainer.regularizer = _Adapted(_original(trainer.regularizer), self)

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        if "area" not in record:  # the classifier trains alone
            return
        self.areas.append(record["area"])
        if len(self.areas) < self.every:
            return
        area, self.areas = sum(self.areas) / len(self.areas), []
        self.scale = self._moved(area)
        is_gone = area < self.low / 2 or area > (1 + self.high) / 2  # NaN is neither
        if is_gone and self.restart is not None:
            self.restart(trainer.model.masker)
            self._note_restart(trainer, area)

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        trainer.regularizer = _original(trainer.regularizer)

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "restarts": self.restarts, "areas": list(self.areas)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state, areas=list(state["areas"]))

    __repr__ = as_made

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

    def _note_restart(self, trainer: MaskingTrainer, area: float) -> None:
        forget(trainer.optimizers, trainer.model.masker.parameters())
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


#: What the weight of a `SteadyArea` gains for each log-odds that the area is off: while it is, and
#: at each step for good.
_NOW, _KEPT = 10.0, 0.2


class SteadyArea(Callback):
    """Hold the mean area of the masks shown: ``MaskingTrainer(area=...)``.

    It is a regularizer, too: the mean of the mask, with a weight of its own that may be below 0.
    Images put together and absent classes are left alone.
    """

    def __init__(self, area: float) -> None:
        check_area(area)
        self.area, self.weight, self.kept = area, 0.0, 0.0

    def __call__(self, mask: Tensor, judgement: Judgement) -> Tensor:
        return self.weight * (mask.flatten(1).mean(1) * judgement.as_labeled).mean()

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        area = record.get("area_shown", record.get("area", math.nan))
        if math.isfinite(area):  # it is not while the classifier trains alone
            off = min(max(_log_odds(area) - _log_odds(self.area), -1.0), 1.0)
            self.kept += _KEPT * off
            self.weight = self.kept + _NOW * off

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    __repr__ = as_made


def _log_odds(fraction: float) -> float:
    return math.log(max(fraction, 1e-4) / max(1 - fraction, 1e-4))


class _Adapted:
    """A regularizer whose area terms are multiplied by the current scale."""

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
    """Undo the changes of an earlier training that ended by an error."""
    return regularizer.regularizer if isinstance(regularizer, _Adapted) else regularizer


def _terms(regularizer: Regularizer) -> list[Regularizer]:
    if isinstance(regularizer, Sum):
        return [inner for term in regularizer.terms for inner in _terms(term)]
    return [regularizer]
