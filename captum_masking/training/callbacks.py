"""What watches a training and may steer it: called by ``fit`` at a few moments."""

from __future__ import annotations

import csv
import math
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking._base.borrow import eval_mode
from captum_masking._base.files import replacing
from captum_masking.parts.objective import Judgement
from captum_masking.parts.regularizer import Area, PowerArea, Regularizer, Sum, UngatedArea
from captum_masking.training.records import Metric, Record, metric_of
from captum_masking.viz import Panel, montage, overlay

if TYPE_CHECKING:
    from captum_masking.model.model import MaskingModel
    from captum_masking.training.trainer import MaskingTrainer

__all__ = [
    "AdaptiveArea",
    "CSVLog",
    "Callback",
    "EarlyStopping",
    "KeepBest",
    "KeepLatest",
    "Measure",
    "Pictures",
    "TensorBoard",
    "measure_saliency_metric",
]


class Callback:
    """Does nothing; override the moments that matter.

    In a training over several processes every process calls its callbacks, with records that are
    the same for all; ``trainer.is_main`` says who should write. A callback ends the training after
    the running step by setting ``trainer.stopping = "why"``.

    Attributes:
        in_checkpoint: Whether a checkpoint holds its state; a resumed training then needs it, too.

    Example:
        >>> class Count(Callback):
        ...     steps = 0
        ...     def on_step(self, trainer, record):
        ...         self.steps += 1
    """

    in_checkpoint = True

    def around(self, trainer: MaskingTrainer) -> AbstractContextManager[Any]:
        """Return a context that is held during the whole training, also to its error."""
        return nullcontext()

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Run before the first step, and before the first after a resume."""

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        """Run after each step with its record; ``trainer.steps_done`` counts from 1."""

    def measure(
        self, model: MaskingModel, inputs: Any, target: Tensor, mask: Any
    ) -> dict[str, Tensor]:
        """Measure a batch of validation images: means by name, ``val_name`` in the records."""
        return {}

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Run after each epoch with its means and, under ``val_``, those of validation."""

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        """Run once when the training has ended by itself, not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a fresh one needs to go on: numbers, strings, tensors, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""

    def setting(self) -> str:
        """Name what a resumed training must have again."""
        return type(self).__name__


# ---- Which state of a training is kept, chosen on labels alone.

#: A fall of accuracy by more than this below the start is warned of, and such a state not kept.
TOLERANCE = 0.01
#: The same, below the best accuracy since the start: wider, as that one is a lucky draw.
TOLERANCE_OF_BEST = 0.05


class KeepLatest(Callback):
    """Keep the latest state of a model whose classifier has not lost accuracy: ``fit``'s default.

    A state is safe while its validation accuracy on clean images is at most a point below that of
    the classifier before training, and at most five below the best one seen; a larger fall
    triggers a warning. If no state is safe, the most accurate one is kept. Without validation the
    last state stays.

    The latest, since both learning rates fall to zero and the loss of the masker cannot be
    compared between epochs while its judge changes.

    Example:
        >>> keep, model = KeepLatest(), nn.Linear(1, 1)
        >>> keep.start({"clean": 0.8})
        >>> keep.offer({"epoch": 1, "val_clean": 0.8}, model)
        >>> kept = model.weight.item()
        >>> _ = nn.init.zeros_(model.weight)  # and now a state that lost two points
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     keep.offer({"epoch": 2, "val_clean": 0.78}, model)
        >>> keep.restore(model)
        >>> model.weight.item() == kept
        True
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.has_started = False
        self.before = self.highest = self.kept = 0.0
        self.state: dict[str, Tensor] = {}  # on CPU memory; empty until one is kept

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Measure the classifier before training, but not again after a resume."""
        if not self.has_started:
            record = trainer.validate()
            self.start(record) if record else None

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Keep the state of now, or warn."""
        self.offer(record, trainer.model)

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        """Load the kept state."""
        self.restore(trainer.model)
        self._reset()

    def start(self, record: Record) -> None:
        """Note the accuracy before training."""
        self.has_started = True
        self.before = self.highest = record["clean"]

    def offer(self, record: Record, model: nn.Module) -> None:
        """Keep the model's state of now, or warn; records without validation are passed over."""
        if "val_clean" not in record:
            return
        accuracy = record["val_clean"]
        floor = max(self.before - TOLERANCE, self.highest - TOLERANCE_OF_BEST)
        if accuracy < floor:
            _warn_of_fall(record, max(self.before, self.highest))
        if self.is_better(record, safe=accuracy >= floor):
            self.state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        self.highest = max(self.highest, accuracy)

    def is_better(self, record: Record, *, safe: bool) -> bool:
        """Whether to keep a state rather than the one kept before; notes it if so."""
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

    def setting(self) -> str:
        """Name the rule by which it keeps."""
        return repr(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class KeepBest(KeepLatest):
    """Keep the state with the best metric of those whose classifier has not lost accuracy.

    Safe states are those of :class:`KeepLatest`; if none is safe, the best of the others is kept.
    With a frozen classifier the judge never changes and ``val_loss`` can be compared between
    epochs; in joint training it cannot.

    Args:
        metric: A name in the records of :meth:`~captum_masking.MaskingTrainer.fit`.
        higher_is_better: Which way it gets better.

    Raises:
        KeyError: At the first epoch, if there is no such metric.

    Example:
        >>> keep, model = KeepBest("val_masked_in", higher_is_better=True), nn.Linear(1, 1)
        >>> keep.start({"clean": 0.8})
        >>> for value in (0.5, 0.7, 0.6):
        ...     _ = nn.init.constant_(model.weight, value)
        ...     keep.offer({"val_clean": 0.8, "val_masked_in": value}, model)
        >>> keep.restore(model)
        >>> round(model.weight.item(), 4)
        0.7
    """

    def __init__(self, metric: str = "val_loss", *, higher_is_better: bool = False) -> None:
        self.metric, self.higher_is_better = metric, higher_is_better
        super().__init__()

    def _reset(self) -> None:
        super()._reset()
        self.best, self.is_safe = -math.inf, False

    def is_better(self, record: Record, *, safe: bool) -> bool:
        """As for :class:`KeepLatest`; NaN is never better."""
        value = metric_of(self.metric, record) * (1 if self.higher_is_better else -1)
        better = not self.state or (safe, value) > (self.is_safe, self.best)
        if better:
            self.best, self.is_safe = -math.inf if math.isnan(value) else value, safe
        return better

    def __repr__(self) -> str:
        return f"KeepBest(metric={self.metric!r}, higher_is_better={self.higher_is_better})"


def _warn_of_fall(record: Record, before: float) -> None:
    warnings.warn(
        f"the classifier has lost accuracy: {record['val_clean']:.1%} on clean validation images "
        f"after epoch {record['epoch']:.0f}, {before:.1%} before. This state is not kept if a "
        "better one is found. If it does not recover: FineTune(lr=...) lower, FineTune(stay=...) "
        "higher.",
        stacklevel=2,
    )


# ---- What is measured besides, and where it is written.


class Measure(Callback):
    """Measure more on the validation images: ``fit(..., callbacks=[Measure(my_metric)])``.

    Args:
        *metrics: Called as ``metric(model, inputs, target, mask)`` on each batch; each returns
            means by name, which are ``val_name`` in the records.

    Example:
        >>> Measure(lambda model, inputs, target, mask: {"top": mask.max()}).measure(
        ...     None, None, None, torch.ones(1, 1, 2, 2)
        ... )
        {'top': tensor(1.)}
    """

    def __init__(self, *metrics: Metric) -> None:
        self.metrics = metrics

    def measure(
        self, model: MaskingModel, inputs: Any, target: Tensor, mask: Any
    ) -> dict[str, Tensor]:
        """Return what all of them return."""
        found: dict[str, Tensor] = {}
        for metric in self.metrics:
            found |= metric(model, inputs, target, mask)
        return found

    def __repr__(self) -> str:
        return f"Measure({', '.join(getattr(m, '__name__', repr(m)) for m in self.metrics)})"


class CSVLog(Callback):
    """Write the records to a CSV file, a row an epoch; a log that cannot be written is warned of.

    Args:
        file: Replaced as a whole after each epoch, so that a reader never sees half of it.

    Example:
        ``trainer.fit(loader, callbacks=[CSVLog("run/log.csv")])``
    """

    in_checkpoint = False

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Write all records so far, on the main process."""
        if not trainer.is_main:
            return
        try:
            _write_csv(trainer.records, self.file)
        except OSError as error:  # no reason to lose a training
            warnings.warn(
                f"could not write the log {self.file}: {error.strerror}. The training goes on; the "
                "next epoch writes the whole log, if there is space and it may be written by then.",
                stacklevel=3,
            )

    def __repr__(self) -> str:
        return f"CSVLog({str(self.file)!r})"


def _write_csv(records: list[Record], file: Path) -> None:
    """Write one row a record, with nan for what a record does not have."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(stream, list(names), restval="nan")
        writer.writeheader()
        writer.writerows(records)


# ---- A training that ends when it no longer gets better.


class EarlyStopping(Callback):
    """Ends the training once a metric has not improved for some epochs.

    Epochs in which the classifier trains alone, and that lack a metric of the masker for this
    reason, do not count. Learning rates are scheduled for the whole training, so that one that
    falls along a cosine has not reached its end.

    Args:
        metric: A name in the records, such as ``val_loss``, ``val_masked_in`` or ``loss``.
        patience: Epochs without a better value after which the training ends, >= 1.
        least: A value is better only if it is so by more than this, >= 0.
        higher_is_better: Whether the metric should grow, as accuracies do.

    Attributes:
        best: The best value so far; NaN before there is one.
        waited: Epochs since then.

    Raises:
        ValueError: If a number lies outside its range.
        KeyError: In use, if the records have no such metric.

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
        metric: str = "val_loss",
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
        self.metric, self.patience, self.least = metric, patience, least
        self.higher_is_better = higher_is_better
        self.best, self.waited = math.nan, 0

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Compare the metric with the best so far; end the training if it is time to."""
        if "area" not in record and self.metric not in record and not self._of_validation:
            return  # the classifier trained alone
        if self._is_better(metric_of(self.metric, record)):
            self.best, self.waited = record[self.metric], 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            epochs = f"{self.waited} epoch{'s' * (self.waited > 1)}"
            trainer.stopping = f"{self.metric} has not got better than {self.best:.4g} for {epochs}"

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
            f"EarlyStopping(metric={self.metric!r}, {numbers}, "
            f"higher_is_better={self.higher_is_better})"
        )

    @property
    def _of_validation(self) -> bool:
        return self.metric.startswith("val_")

    def _is_better(self, value: float) -> bool:
        """Whether the value beats the best; NaN never does, and any other value beats none."""
        if math.isnan(value) or math.isnan(self.best):
            return not math.isnan(value)
        gain = value - self.best if self.higher_is_better else self.best - value
        return gain > self.least


# ---- A masker whose masks are all zeros or all ones, started anew where it stands.


@torch.no_grad()
def zero_last_layer(masker: nn.Module) -> None:
    """Set the last layer's parameters to zero: all mask logits are 0 then, and masks one half.

    No random number is drawn, so that every process of a training ends with the same weights. One
    step later the layer differs from place to place again, since what it reads does; a layer that
    starts at zero is that of Zhang et al. 2019 (Fixup).
    """
    for head in getattr(masker, "heads", [masker]):
        last: list[nn.Parameter] = []
        for module in head.modules():
            last = list(module.parameters(recurse=False)) or last
        for parameter in last:
            parameter.zero_()


@torch.no_grad()
def forget(optimizers: Iterable[torch.optim.Optimizer], parameters: Iterable[nn.Parameter]) -> None:
    """Make optimizers forget the gradients of some parameters, as if no step had been taken.

    Their tensors of state become zero and keep their places, as a checkpoint expects them.
    """
    concerned = list(parameters)
    for optimizer in optimizers:
        for parameter in concerned:
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor):
                    value.zero_()


# ---- Area weights that follow the masks: a masker that collapsed is recovered, not only reported.

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


# ---- The Saliency Metric of validation images: a figure of the masks that needs no boxes.


def measure_saliency_metric(
    model: Callable[[Tensor], Tensor], inputs: Tensor, target: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Measure the Saliency Metric in validation: ``Measure(measure_saliency_metric)``.

    The records then have ``val_saliency_metric``, lower is better, by which
    :class:`~captum_masking.training.callbacks.EarlyStopping` can end a training. It costs one more
    pass of
    the classifier over the validation images.

    Args:
        model: Judges the crops.
        inputs: Images ``(B, C, H, W)``, normalised so that zero is the mean color.
        target: The class of each, ``(B,)``.
        mask: ``(B, 1, H, W)``.

    Returns:
        ``saliency_metric``, the mean over the batch.

    Raises:
        ValueError: If the inputs are not images.

    Source:
        Dabkowski & Gal 2017; see :func:`~captum_masking.metrics.saliency_metric`.

    Example:
        >>> import torch
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])  # half; the crop is 2 everywhere
        >>> measure_saliency_metric(torch.nn.Flatten(), inputs, torch.tensor([0]), mask)
        {'saliency_metric': tensor(0.6931)}
    """
    from captum_masking.metrics.saliency_metric import (
        saliency_metric,  # with torchmetrics: slow to import
    )

    return {"saliency_metric": saliency_metric(model, inputs, mask, target).mean()}


# ---- The maps of the same few images after every epoch, as pictures.


def stretch(images: Tensor) -> Tensor:
    """Scale each image to ``[0, 1]`` by its own least and greatest value; a constant one is 0.

    Args:
        images: ``(B, C, H, W)``, on any scale.

    Returns:
        Shaped like ``images``.

    Example:
        >>> stretch(torch.tensor([[[[-1.0, 0.0, 3.0]]]]))
        tensor([[[[0.0000, 0.2500, 1.0000]]]])
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


class Pictures(Callback):
    """Writes ``folder/epoch-0001.png`` and so on: a row of images, and their masks laid over them.

    The model is looked at in eval mode; it and the random numbers are afterwards as before. Only
    the main process draws.

    Args:
        images: ``(B, C, H, W)``, normalised as the classifier expects; about eight fit.
        folder: Made if need be.
        every: Every so many epochs, >= 1.
        show: Turns inputs ``(B, C, H, W)`` into pictures ``(B, 1 or 3, H, W)`` in ``[0, 1]``, as
            ``lambda inputs: inputs * std + mean`` does. Other numbers of channels are averaged.

    Raises:
        ValueError: If ``images`` are no images, or ``every`` is less than 1.

    Example:
        ``trainer.fit(loader, callbacks=[Pictures(next(iter(loader))[0][:8], "pictures")])``
    """

    def __init__(
        self,
        images: Tensor,
        folder: str | Path,
        *,
        every: int = 1,
        show: Callable[[Tensor], Tensor] = stretch,
    ) -> None:
        if not isinstance(images, Tensor) or images.dim() != 4 or not len(images):
            got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"images must be a batch (B, C, H, W) of at least one image, but got {got}; take "
                "some of a loader with next(iter(loader))[0][:8]."
            )
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, but got {every}.")
        self.images, self.folder, self.every, self.show = images, Path(folder), every, show

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Draw the masks of now."""
        epoch = int(record["epoch"])
        if not trainer.is_main or epoch % self.every:
            return
        masks = _masks(trainer.model, self.images)
        pixels = [_pixels(picture) for picture in self.show(self.images.detach().cpu().float())]
        maps = [
            Panel(overlay(picture, mask), f"area {mask.mean():.2f}")
            for picture, mask in zip(pixels, masks, strict=True)
        ]
        montage([[Panel(picture) for picture in pixels], maps], self.folder / _name(epoch))

    def __repr__(self) -> str:
        images = f"images=<{tuple(self.images.shape)}>"
        show = getattr(self.show, "__name__", repr(self.show))
        return f"Pictures({images}, folder={str(self.folder)!r}, every={self.every}, show={show})"


def _name(epoch: int) -> str:
    return f"epoch-{epoch:04d}.png"


@torch.no_grad()
def _masks(model: MaskingModel, images: Tensor) -> Tensor:
    """Ask for masks ``(B, 1, H, W)`` and leave no trace, also where a classifier draws numbers."""
    device = next(model.masker.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), eval_mode(model):
        return model.mask(images.to(device)).float().cpu()


def _pixels(picture: Tensor) -> np.ndarray:
    """Turn ``(C, H, W)`` into ``(H, W, 1 or 3)``."""
    colors = picture if len(picture) in (1, 3) else picture.mean(0, keepdim=True)
    return colors.clamp(0, 1).permute(1, 2, 0).numpy()


# ---- The figures of a training as curves in TensorBoard.


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
            "with pip install tensorboard, or write a CSV with CSVLog(file)."
        ) from error
    return SummaryWriter
