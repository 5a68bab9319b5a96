"""What is measured in training and validation, and said of it."""

from __future__ import annotations

import csv
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_masking._base.checks import check_labels
from captum_masking._base.files import replacing
from captum_masking._base.processes import gathered, summed, world
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Infill
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.objective import Judgement, entropy

__all__ = [
    "Figures",
    "Means",
    "Monitor",
    "Record",
    "as_record",
    "figure_of",
    "judge_itself",
    "measure",
    "summary",
    "warn_if_collapsed",
    "write_csv",
]


# ---- The figures that are watched in training and validation: of a batch, of many, in words.

#: Figures of a step or an epoch, by name.
Record = dict[str, float]


#: Further figures of a batch, called as ``figure(model, inputs, target, mask)``: means, by name.
Figures = Callable[[MaskingModel, Any, Tensor, Any], dict[str, Tensor]]


@torch.no_grad()
def measure(
    judgement: Judgement,
    masks: tuple[Tensor, ...],
    losses: Mapping[str, Tensor],
    *,
    alone: bool = False,
) -> Record:
    """Reduce one batch to the figures that are watched.

    Args:
        judgement: Of the batch.
        masks: ``(B, 1, *spatial)`` for each input.
        losses: Scalars, by name.
        alone: Whether to measure this process's batch only, rather than that of all.

    Returns:
        The losses; ``clean``, ``masked_in`` and ``masked_out`` accuracy as fractions;
        ``entropy_out`` in nats; ``area``, the mean of the masks, and ``area_in_image_std``, how
        much a mask varies within its image.

    Source:
        Own.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> judgement = Judgement(logits, logits, logits, torch.tensor([0]))
        >>> measure(judgement, (torch.ones(1, 1, 2, 2),), {})["area"]
        1.0
    """
    figures = {
        **losses,
        "clean": judgement.correct.float().mean(),
        "masked_in": judgement.correct_in.float().mean(),
        "masked_out": judgement.correct_out.float().mean(),
        "entropy_out": entropy(judgement.logits_out).mean(),
        "area": _mean([m.mean() for m in masks]),
        "area_in_image_std": _mean([m.flatten(1).std(1, correction=0).mean() for m in masks]),
    }
    return as_record(figures, len(judgement.target), alone=alone)


def as_record(figures: Mapping[str, Tensor], examples: int, *, alone: bool = False) -> Record:
    """Turn means over this process's examples into means over those of all processes.

    Args:
        figures: Scalars, by the same names in every process.
        examples: In this process.
        alone: Whether to leave the others out.

    Source:
        Own. One message and one wait for the device, however many figures.

    Example:
        >>> as_record({"area": torch.tensor(0.5)}, examples=4)
        {'area': 0.5}
    """
    values = torch.stack([value.detach().double() for value in figures.values()])
    if world() > 1 and not alone:
        sums = summed(torch.cat([values * examples, values.new_tensor([examples])]))
        values = sums[:-1] / sums[-1]
    return dict(zip(figures, values.tolist(), strict=True))


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


@torch.no_grad()
def judge_itself(
    model: MaskingModel,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    infill: Infill,
    infill_out: Infill | None = None,
) -> tuple[Judgement, tuple[Tensor, ...]]:
    """Let a model's own classifier judge its masks of one batch: ``(judgement, masks)``.

    Raises:
        ValueError: If a label lies outside the classifier's range.
    """
    logits, features = model.read(inputs)
    check_labels(target, inputs[0], classes=logits.shape[1])
    question = model.question(logits, target=target)
    masks = model.decode(features, question)
    logits_in, logits_out = model(*masked_halves(inputs, masks, infill, infill_out)).chunk(2)
    return Judgement(logits, logits_in, logits_out, *question.known), masks


def figure_of(name: str, record: Record) -> float:
    """Look a figure up.

    Raises:
        KeyError: If the record has no such figure, listing those it has.

    Source:
        Own.

    Example:
        >>> figure_of("area", {"area": 0.5})
        0.5
    """
    if name in record:
        return record[name]
    hint = "; give fit(..., validation=loader)" if name.startswith("val_") else ""
    raise KeyError(
        f"expected the records to have the figure {name!r}, but they have only "
        f"{', '.join(record)}; name one of these{hint}."
    )


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

    def over_processes(self) -> Means:
        """Return the means over what all processes have added."""
        total = Means()
        for means in gathered(self):
            total._merge(means)
        return total

    def _merge(self, other: Means) -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + other.counts[name]

    def state_dict(self) -> dict[str, Any]:
        """Return sums and counts."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])

    def record(self) -> Record:
        """Return the means so far."""
        return {name: value / self.counts[name] for name, value in self.sums.items()}


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


# ---- What training says of itself: live figures, records, a CSV log, warnings.


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
        self.means = Means()
        self.skipped = 0  # steps of the running epoch

    def epoch(
        self, batches: Iterable, *, start: int = 0, total: int | None = None
    ) -> Iterator[Any]:
        """Give the batches of one epoch under a bar, of which ``start`` are done already."""
        self.started = time.perf_counter()
        name = f"epoch {len(self.records) + 1}/{self.epochs}"
        with tqdm(
            batches, name, total=total, initial=start, disable=not self.show_progress
        ) as self.bar:
            yield from self.bar

    def add(self, record: Record, count: int) -> None:
        """Take in one step's figures, and show the means so far.

        Of a step that was left out, for want of a finite loss or gradient, those that are finite.
        """
        if record.get("skipped"):
            self.skipped += 1
            finite = {name: value for name, value in record.items() if math.isfinite(value)}
            record = {name: value for name, value in finite.items() if name != "skipped"}
        self.means.add(record, count)
        if self.show_progress:
            self.bar.set_postfix_str(summary(self.means.record()), refresh=False)

    def close(self, validation: Record) -> Record:
        """End an epoch: warn, log, and return its record."""
        record = {"epoch": len(self.records) + 1.0, **self.means.record()}
        record |= {"skipped": float(self.skipped)} if self.skipped else {}
        record |= {f"val_{name}": value for name, value in validation.items()}
        record["seconds"] = time.perf_counter() - self.started
        self.records.append(record)
        self.means, self.skipped = Means(), 0
        if "area" in record:  # not while the classifier trains alone
            warn_if_collapsed(record)
        if self.show_progress and validation:
            tqdm.write(f"    validation: {summary(validation)}")
        if self.log is not None:
            self._write_log(self.log)
        return record

    def state_dict(self) -> dict[str, Any]:
        """Return the records, and the running means of an epoch that has not ended."""
        means = self.means.state_dict()
        return {"records": self.records, "means": means, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.records = list(state["records"])
        self.means.load_state_dict(state["means"])
        self.skipped = state["skipped"]

    def _write_log(self, log: Path) -> None:
        try:
            write_csv(self.records, log)
        except OSError as error:  # no reason to lose a training
            warnings.warn(
                f"could not write the log {log}: {error.strerror}. The training goes on; the next "
                "epoch writes the whole log, if there is space and it may be written by then.",
                stacklevel=3,
            )


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
    # A log that is being read is never half a one.
    with replacing(file) as staged, staged.open("w", newline="", encoding="utf-8") as stream:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(stream, list(names), restval="nan")
        writer.writeheader()
        writer.writerows(records)
