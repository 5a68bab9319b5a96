"""Callbacks of ``fit``, which watch a training and may steer it."""

from __future__ import annotations

import csv
import inspect
import math
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from captum_masking._base.borrow import eval_mode
from captum_masking._base.checks import check_count, needed
from captum_masking._base.files import replacing
from captum_masking.metrics.saliency_metric import saliency_metric
from captum_masking.training.records import Metric, Record, metric_of
from captum_masking.viz import Panel, in_unit, montage, overlay

if TYPE_CHECKING:
    from captum_masking.model.model import MaskingModel
    from captum_masking.training.trainer import MaskingTrainer

__all__ = [
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
    """Base class of callbacks; override the methods that you need.

    With several processes, every process calls its callbacks with the same records; write only if
    ``trainer.is_main``. Set ``trainer.stopping = "why"`` to end the training after the current
    step.

    Attributes:
        in_checkpoint: Whether checkpoints hold its state; a resumed training then needs it too.

    Example:
        >>> class Count(Callback):
        ...     steps = 0
        ...     def on_step(self, trainer, record):
        ...         self.steps += 1
    """

    in_checkpoint = True

    def around(self, trainer: MaskingTrainer) -> AbstractContextManager[Any]:
        """Return a context for the whole training; it also exits after an error."""
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
        """Run once at the end of the training, not after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to continue from: numbers, strings, tensors, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a result of :meth:`state_dict`."""

    def setting(self) -> str:
        """Name what a resumed training must have again."""
        return type(self).__name__


def as_made(self: Callback) -> str:
    """Print a callback as the call that makes it."""
    own = {n: v for n, v in vars(self).items() if n in inspect.signature(type(self)).parameters}
    return f"{type(self).__name__}({', '.join(f'{n}={_shown(v)}' for n, v in own.items())})"


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"<{tuple(value.shape)}>"
    return repr(str(value)) if isinstance(value, Path) else getattr(value, "__name__", repr(value))


# ---- The state of a training to keep, chosen by labels only.

#: By how much a safe state may fall below the accuracy of the start, and below the best one since:
#: more, as that one is a lucky draw.
_TOLERANCE, _TOLERANCE_OF_BEST = 0.01, 0.05


class KeepLatest(Callback):
    """Keep the latest state of a model whose classifier has not lost accuracy: ``fit``'s default.

    A state is safe while its validation accuracy on clean images is at most a point below that of
    the classifier before training, and at most five below the best one seen; a larger fall
    triggers a warning. If no state is safe, the most accurate one is kept. Without validation the
    last state stays.

    Example:
        >>> KeepLatest()
        KeepLatest()
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.has_started = False
        self.before = self.highest = self.kept = 0.0
        self.state: dict[str, Tensor] = {}  # on CPU memory; empty until one is kept

    def on_start(self, trainer: MaskingTrainer) -> None:
        """Measure the classifier before training, but not again after a resume."""
        if not self.has_started and (record := trainer.validate()):
            self.has_started = True
            self.before = self.highest = record["clean"]

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        """Keep the model's current state, or warn; records without validation are ignored."""
        if "val_clean" not in record:
            return
        accuracy = record["val_clean"]
        floor = max(self.before - _TOLERANCE, self.highest - _TOLERANCE_OF_BEST)
        if accuracy < floor:
            _warn_of_fall(record, max(self.before, self.highest))
        if self.is_better(record, safe=accuracy >= floor):
            state = trainer.model.state_dict()
            self.state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        self.highest = max(self.highest, accuracy)

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        if self.state:
            trainer.model.load_state_dict(self.state)
        self._reset()

    def is_better(self, record: Record, *, safe: bool) -> bool:
        """Whether to keep a state rather than the one kept before; notes it if so."""
        accuracy = record["val_clean"]
        better = safe or not self.state or accuracy > self.kept
        self.kept = accuracy if better else self.kept
        return better

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    __repr__ = setting = as_made


class KeepBest(KeepLatest):
    """Keep the state with the best metric of those whose classifier has not lost accuracy.

    With a frozen classifier the judge never changes and ``val_loss`` can be compared between
    epochs; in joint training it cannot.

    Args:
        metric: A name in the records of :meth:`~captum_masking.MaskingTrainer.fit`.
        higher_is_better: Whether higher values are better.

    Example:
        >>> KeepBest("val_masked_in", higher_is_better=True)
        KeepBest(metric='val_masked_in', higher_is_better=True)
    """

    def __init__(self, metric: str = "val_loss", *, higher_is_better: bool = False) -> None:
        self.metric, self.higher_is_better = metric, higher_is_better
        super().__init__()

    def _reset(self) -> None:
        super()._reset()
        self.best, self.is_safe = -math.inf, False

    def is_better(self, record: Record, *, safe: bool) -> bool:
        value = metric_of(self.metric, record) * (1 if self.higher_is_better else -1)
        better = not self.state or (safe, value) > (self.is_safe, self.best)
        if better:
            self.best, self.is_safe = -math.inf if math.isnan(value) else value, safe
        return better


def _warn_of_fall(record: Record, before: float) -> None:
    warnings.warn(
        f"the classifier has lost accuracy: {record['val_clean']:.1%} on clean validation images "
        f"after epoch {record['epoch']:.0f}, {before:.1%} before. This state is not kept if a "
        "better one is found. If it does not recover: FineTune(lr=...) lower, FineTune(stay=...) "
        "higher.",
        stacklevel=2,
    )


class Measure(Callback):
    """Measure more on the validation images: ``fit(..., callbacks=[Measure(my_metric)])``.

    Args:
        *metrics: Called as ``metric(model, inputs, target, mask)`` on each batch; each returns
            means by name, which are ``val_name`` in the records.

    Example:
        >>> Measure(measure_saliency_metric)
        Measure(measure_saliency_metric)
    """

    def __init__(self, *metrics: Metric) -> None:
        self.metrics = metrics

    def measure(
        self, model: MaskingModel, inputs: Any, target: Tensor, mask: Any
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for metric in self.metrics:
            found |= metric(model, inputs, target, mask)
        return found

    def __repr__(self) -> str:
        return f"Measure({', '.join(getattr(m, '__name__', repr(m)) for m in self.metrics)})"


class CSVLog(Callback):
    """Write the records to a CSV file, one row per epoch; warn if it cannot be written.

    The file is replaced atomically after each epoch.
    """

    in_checkpoint = False

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        if not trainer.is_main:
            return
        try:
            _write_csv(trainer.records, self.file)
        except OSError as error:  # must not end the training
            warnings.warn(
                f"could not write the log {self.file}: {error.strerror}. The training goes on; the "
                "next epoch writes the whole log, if there is space and it may be written by then.",
                stacklevel=3,
            )

    __repr__ = as_made


def _write_csv(records: list[Record], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside, beside.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(stream, list(names), restval="nan")
        writer.writeheader()
        writer.writerows(records)


class EarlyStopping(Callback):
    """End the training once a metric has not improved for some epochs (Prechelt 1998).

    Epochs without the metric, in which only the classifier trains, do not count.

    Args:
        metric: A name in the records, such as ``val_loss``, ``val_masked_in`` or ``loss``.
        patience: Epochs without a better value after which the training ends, >= 1.
        least: Smallest improvement that counts, >= 0.
        higher_is_better: Whether the metric should grow, as accuracies do.

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
        check_count("patience", patience)
        if not 0 <= least < math.inf:
            raise ValueError(
                f"least must be a finite number >= 0, but got {least}; 0 takes any improvement, "
                "higher_is_better says which way is better."
            )
        self.metric, self.patience, self.least = metric, patience, least
        self.higher_is_better = higher_is_better
        self.best, self.waited = math.nan, 0

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        is_missing = self.metric not in record and not self.metric.startswith("val_")
        if is_missing and "area" not in record:
            return  # the classifier trained alone
        if self._is_better(metric_of(self.metric, record)):
            self.best, self.waited = record[self.metric], 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            epochs = f"{self.waited} epoch{'s' * (self.waited > 1)}"
            trainer.stopping = f"{self.metric} has not got better than {self.best:.4g} for {epochs}"

    def state_dict(self) -> dict[str, Any]:
        best = {} if math.isnan(self.best) else {"best": self.best}
        return {"waited": self.waited, **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited = float(state.get("best", math.nan)), int(state["waited"])

    __repr__ = as_made

    def _is_better(self, value: float) -> bool:
        """Whether the value is better than the best one; NaN never is."""
        if math.isnan(value) or math.isnan(self.best):
            return not math.isnan(value)
        gain = value - self.best if self.higher_is_better else self.best - value
        return gain > self.least


def measure_saliency_metric(
    model: Callable[[Tensor], Tensor], inputs: Tensor, target: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Measure the Saliency Metric in validation: ``Measure(measure_saliency_metric)``.

    The records then have ``val_saliency_metric``, lower is better (Dabkowski & Gal 2017), of images
    ``(B, C, H, W)`` that are normalized so that zero is the mean color; see
    :func:`~captum_masking.metrics.saliency_metric`. It costs one more pass of the classifier.

    Example:
        >>> inputs = torch.tensor([[[[2.0, 2.0], [0.0, 0.0]]]])
        >>> mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])  # half; the crop is 2 everywhere
        >>> measure_saliency_metric(torch.nn.Flatten(), inputs, torch.tensor([0]), mask)
        {'saliency_metric': tensor(0.6931)}
    """
    return {"saliency_metric": saliency_metric(model, inputs, mask, target).mean()}


def stretch(images: Tensor) -> Tensor:
    """Scale each image to ``[0, 1]`` by its own least and greatest value; a constant one is 0."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=torch.finfo(images.dtype).tiny)


class Pictures(Callback):
    """Write ``folder/epoch-0001.png`` and so on: images, and their masks as overlays.

    Args:
        images: ``(B, C, H, W)``, normalized as the classifier expects; about eight fit.
        every: Epochs from one picture to the next, >= 1.
        show: Turns inputs ``(B, C, H, W)`` into pictures ``(B, 1 or 3, H, W)`` in ``[0, 1]``, as
            ``lambda inputs: inputs * std + mean`` does. Other numbers of channels are averaged.
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
        check_count("every", every)
        self.images, self.folder, self.every, self.show = images, Path(folder), every, show

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        epoch = int(record["epoch"])
        if not trainer.is_main or epoch % self.every:
            return
        masks = _masks(trainer.model, self.images)
        pixels = [_pixels(picture) for picture in self.show(self.images.detach().cpu().float())]
        maps = [
            Panel(overlay(picture, mask), f"area {mask.mean():.2f}")
            for picture, mask in zip(pixels, masks, strict=True)
        ]
        montage(
            [[Panel(picture) for picture in pixels], maps], self.folder / f"epoch-{epoch:04d}.png"
        )

    __repr__ = as_made


@torch.no_grad()
def _masks(model: MaskingModel, images: Tensor) -> Tensor:
    """Return masks ``(B, 1, H, W)``; mode and random numbers stay as they are."""
    device = next(model.masker.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), eval_mode(model):
        return model.mask(images.to(device)).float().cpu()


def _pixels(picture: Tensor) -> np.ndarray:
    colors = picture if len(picture) in (1, 3) else picture.mean(0, keepdim=True)
    return in_unit(colors.permute(1, 2, 0).numpy())


class TensorBoard(Callback):
    """Write the figures of steps under ``step/`` and those of epochs under ``epoch/``.

    After a resume, values beyond the checkpoint are hidden.

    Args:
        folder: Created if needed. View it with ``tensorboard --logdir folder``.
        every: Steps from one value to the next, >= 1; values of epochs are always written.
    """

    def __init__(self, folder: str | Path, *, every: int = 1) -> None:
        check_count("every", every)
        _writer_class()  # before the training rather than in it
        self.folder, self.every = Path(folder), every
        self._close: weakref.finalize | None = None

    def on_start(self, trainer: MaskingTrainer) -> None:
        self._end()
        if not trainer.is_main:
            return
        done = trainer.steps_done
        writer = _writer_class()(str(self.folder), purge_step=done + 1 if done else None)
        self._writer = writer
        # After an error, of which a callback is not told, with this object or the program.
        self._close = weakref.finalize(self, writer.close)

    def on_step(self, trainer: MaskingTrainer, record: Record) -> None:
        if trainer.steps_done % self.every == 0:
            self._write("step", record, trainer.steps_done)

    def on_epoch(self, trainer: MaskingTrainer, record: Record) -> None:
        self._write("epoch", record, trainer.steps_done)
        if self._close is not None:
            self._writer.flush()

    def on_end(self, trainer: MaskingTrainer, records: list[Record]) -> None:
        self._end()

    __repr__ = as_made

    def _write(self, kind: str, record: Record, step: int) -> None:
        if self._close is not None:
            for name, value in record.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def _end(self) -> None:
        if self._close is not None:
            self._close()
            self._close = None


def _writer_class() -> Any:
    library, run = "torch.utils.tensorboard", "tensorboard, or write a CSV with CSVLog(file)"
    return needed(library, by="figures for TensorBoard", run=run).SummaryWriter
