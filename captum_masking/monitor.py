"""What training says of itself: live figures, records, a CSV log, warnings, the best state."""

from __future__ import annotations

import csv
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_masking.checks import check_labels
from captum_masking.infill import Infill
from captum_masking.masking import mask_images
from captum_masking.model import MaskingModel
from captum_masking.objective import Judgement, entropy

#: Figures of a step or an epoch, by name.
Record = dict[str, float]

#: A fall of accuracy by more than this below the start is said aloud, and such a state not kept.
TOLERANCE = 0.01
#: The same, below the best accuracy since the start: wider, as that one is a lucky draw.
TOLERANCE_OF_BEST = 0.05


@torch.no_grad()
def measure(judgement: Judgement, mask: Tensor, losses: dict[str, Tensor]) -> Record:
    """Reduce one batch to the figures that are watched.

    Args:
        judgement: Of the batch.
        mask: ``(B, 1, *spatial)``.
        losses: Scalars, by name.

    Returns:
        The losses; ``clean``, ``masked_in`` and ``masked_out`` accuracy as fractions;
        ``entropy_out`` in nats; ``area``, the mean of the masks, and ``area_in_image_std``, how
        much a mask varies within its image.

    Source:
        Own.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> judgement = Judgement(logits, logits, logits, torch.tensor([0]))
        >>> measure(judgement, torch.ones(1, 1, 2, 2), {})["area"]
        1.0
    """
    figures = {
        **losses,
        "clean": judgement.correct.float().mean(),
        "masked_in": judgement.correct_in.float().mean(),
        "masked_out": judgement.correct_out.float().mean(),
        "entropy_out": entropy(judgement.logits_out).mean(),
        "area": mask.mean(),
        "area_in_image_std": mask.flatten(1).std(1, correction=0).mean(),
    }
    return {name: value.item() for name, value in figures.items()}


@torch.no_grad()
def judge_itself(
    model: MaskingModel,
    inputs: Tensor,
    target: Tensor,
    infill: Infill,
    infill_out: Infill | None = None,
) -> tuple[Judgement, Tensor]:
    """Run a model on one batch and let its own classifier judge its masks.

    Args:
        model: In the mode in which it is to be measured.
        inputs: ``(B, C, *spatial)``.
        target: The class of each, ``(B,)``.
        infill: What fills the holes.
        infill_out: Another one for masked-out images; None is the same.

    Returns:
        ``(judgement, mask)``.

    Raises:
        ValueError: If a label lies outside the classifier's range.

    Source:
        Own.
    """
    logits, features = model.read(inputs)
    check_labels(target, inputs, classes=logits.shape[1])
    asked = model.ask(logits, target=target)
    mask = model.decode(features, inputs.shape[2:], **asked)
    halves = torch.cat(mask_images(inputs, mask, infill, infill_out))
    logits_in, logits_out = model(halves).chunk(2)
    return Judgement(logits, logits_in, logits_out, target, asked.get("area")), mask


class Means:
    """Running means of records, weighted by batch size.

    Source:
        Own.

    Example:
        >>> means = Means()
        >>> means.add({"area": 0.0}, 3)
        >>> means.add({"area": 1.0}, 1)
        >>> means.record()
        {'area': 0.25}
    """

    def __init__(self) -> None:
        self.sums: Record = {}
        self.counts: dict[str, int] = {}

    def add(self, record: Record, count: int) -> None:
        """Add the means of ``count`` images; a name may be missing from some records."""
        for name, value in record.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count
            self.counts[name] = self.counts.get(name, 0) + count

    def record(self) -> Record:
        """Return the means so far."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}


class Monitor:
    """Shows a bar per epoch, keeps a record per epoch, and says when something is wrong.

    Args:
        epochs: How many there will be.
        log: A CSV file, rewritten after each epoch, or None.
        show_progress: Whether to show the bars.

    Source:
        Own.

    Example:
        >>> monitor = Monitor(epochs=1, show_progress=False)
        >>> for batch in monitor.epoch([1, 2]):
        ...     monitor.add({"area": 0.5, "area_in_image_std": 0.1}, 1)
        >>> monitor.close({})["area"]
        0.5
    """

    def __init__(
        self, epochs: int, *, log: str | Path | None = None, show_progress: bool = True
    ) -> None:
        self.epochs = epochs
        self.log = None if log is None else Path(log)
        self.show_progress = show_progress
        self.records: list[Record] = []

    def epoch(self, loader: Iterable) -> Iterator[Any]:
        """Give the batches of one epoch under a bar."""
        self.means, self.started = Means(), time.perf_counter()
        name = f"epoch {len(self.records) + 1}/{self.epochs}"
        with tqdm(loader, name, leave=True, disable=not self.show_progress) as self.bar:
            yield from self.bar

    def add(self, record: Record, count: int) -> None:
        """Take in one step's figures, and show the means so far."""
        self.means.add(record, count)
        if self.show_progress:
            self.bar.set_postfix_str(summary(self.means.record()), refresh=False)

    def close(self, validation: Record) -> Record:
        """End an epoch: warn, log, and return its record."""
        record = {"epoch": len(self.records) + 1.0, **self.means.record()}
        record |= {f"val_{name}": value for name, value in validation.items()}
        record["seconds"] = time.perf_counter() - self.started
        self.records.append(record)
        if "area" in record:  # not while the classifier trains alone
            warn_if_collapsed(record)
        if self.show_progress and validation:
            tqdm.write(f"    validation: {summary(validation)}")
        if self.log is not None:
            write_csv(self.records, self.log)
        return record


class BestState:
    """Keeps the newest state of a model whose classifier has not lost accuracy.

    A state is safe while its validation accuracy on clean images is at most a point
    (:data:`TOLERANCE`) below that of the classifier before training, and at most five
    (:data:`TOLERANCE_OF_BEST`) below the best one seen; a larger fall is warned of. If no state is
    safe, the most accurate one is kept.

    Args:
        model: Copied to CPU memory when a state is kept.

    Source:
        Own. Newest, since both learning rates fall to zero and the loss of the masker cannot be
        compared between epochs while its judge changes.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> best = BestState(model)
        >>> best.start({"clean": 0.8})
        >>> best.offer({"epoch": 1, "val_clean": 0.8})
        >>> kept = model.weight.item()
        >>> _ = nn.init.zeros_(model.weight)  # and now a state that lost two points
        >>> with warnings.catch_warnings(action="ignore"):
        ...     best.offer({"epoch": 2, "val_clean": 0.78})
        >>> best.restore()
        >>> model.weight.item() == kept
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self.highest = self.kept = 0.0
        self.state: dict[str, Tensor] | None = None

    def start(self, record: Record) -> None:
        """Note the accuracy before training."""
        self.before = self.highest = record["clean"]

    def offer(self, record: Record) -> None:
        """Keep the model's state of now, or warn; records without validation are passed over."""
        if "val_clean" not in record:
            return
        accuracy = record["val_clean"]
        floor = max(self.before - TOLERANCE, self.highest - TOLERANCE_OF_BEST)
        if accuracy < floor:
            warn_of_fall(record, max(self.before, self.highest))
        if accuracy >= floor or self.state is None or accuracy > self.kept:
            self.kept = accuracy
            self.state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        self.highest = max(self.highest, accuracy)

    def restore(self) -> None:
        """Load the kept state, if there is one."""
        if self.state is not None:
            self.model.load_state_dict(self.state)


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


def summary(record: Record) -> str:
    """Say a record in one line.

    Source:
        Own.

    Example:
        >>> summary({"clean": 0.81, "masked_in": 0.75, "masked_out": 0.2, "entropy_out": 4.0,
        ...          "area": 0.41})
        'clean 81%, masked-in 75%, masked-out 20%, entropy out 4.00, area 0.41'
    """
    forms = {
        "clean": "clean {:.0%}",
        "masked_in": "masked-in {:.0%}",
        "masked_out": "masked-out {:.0%}",
        "entropy_out": "entropy out {:.2f}",
        "area": "area {:.2f}",
    }
    return ", ".join(form.format(record[name]) for name, form in forms.items() if name in record)


def warn_if_collapsed(record: Record) -> None:
    """Warn if masks are all ones, all zeros or constant.

    Args:
        record: Needs ``area`` and ``area_in_image_std``.

    Source:
        Own; the figures to look at are those that users of learned masks ask for.

    Example:
        >>> warn_if_collapsed({"area": 0.4, "area_in_image_std": 0.3})
    """
    area, spread = record["area"], record["area_in_image_std"]
    kind = (
        "all ones; raise the area weights"
        if area > 0.97
        else "all zeros; lower the area weights"
        if area < 0.03
        else "constant over each image; train longer, raise lr, or tap other layers"
        if spread < 0.02
        else None
    )
    if kind is not None:
        warnings.warn(
            f"the masker has collapsed: its masks are {kind}. Mean area {area:.3f}, spread within "
            f"an image {spread:.3f}; {summary(record)}.",
            stacklevel=2,
        )


def write_csv(records: list[Record], file: Path) -> None:
    """Write records to a CSV file, one row each, with nan for what a record does not have.

    Source:
        Own.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(stream, list(names), restval="nan")
        writer.writeheader()
        writer.writerows(records)
