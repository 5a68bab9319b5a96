"""Measure batches and epochs, and show progress during training."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from captum_masking._base.checks import check_labels
from captum_masking._base.processes import gathered, summed, world
from captum_masking.model.model import MaskingModel
from captum_masking.parts.infill import Infill
from captum_masking.parts.masking import masked_halves
from captum_masking.parts.objective import Judgement, entropy
from captum_masking.parts.sampler import Sigmoid

__all__ = ["Metric", "Record"]

#: Measured values of a step or an epoch, by name.
Record = dict[str, float]

#: Measures a batch: called as ``metric(model, inputs, target, mask)``, returns means by name.
Metric = Callable[[MaskingModel, Any, Tensor, Any], dict[str, Tensor]]


@torch.no_grad()
def measure(
    judgement: Judgement,
    masks: tuple[Tensor, ...],
    losses: Mapping[str, Tensor],
    sampler: nn.Module | None = None,
    *,
    alone: bool = False,
) -> Record:
    """Reduce one batch to a record; in training, also with the area of displayed masks."""
    spread = [mask.flatten(1).std(1, correction=0).mean() for mask in masks]
    means = {
        **losses,
        "clean": judgement.correct.float().mean(),
        "masked_in": judgement.correct_in.float().mean(),
        "masked_out": judgement.correct_out.float().mean(),
        "entropy_out": entropy(judgement.logits_out).mean(),
        "area": torch.stack([mask.mean() for mask in masks]).mean(),
        "area_in_image_std": torch.stack(spread).mean(),
    }
    if isinstance(sampler, Sigmoid):
        shown = [sampler.shown(mask.logit()).mean() for mask in masks]
        means["area_shown"] = torch.stack(shown).mean()
    return as_record(means, len(judgement.target), alone=alone)


def as_record(means: Mapping[str, Tensor], examples: int, *, alone: bool = False) -> Record:
    """Turn means over this process's examples into means over those of all processes."""
    values = torch.stack([value.detach().double() for value in means.values()])
    if world() > 1 and not alone:
        sums = summed(torch.cat([values * examples, values.new_tensor([examples])]))
        values = sums[:-1] / sums[-1]
    return dict(zip(means, values.tolist(), strict=True))


@torch.no_grad()
def judge_itself(
    model: MaskingModel,
    inputs: tuple[Tensor, ...],
    target: Tensor,
    infill: Infill,
    infill_out: Infill | None = None,
    context: tuple[Tensor, ...] = (),
) -> tuple[Judgement, tuple[Tensor, ...]]:
    logits, features = model.read(inputs, *context)
    check_labels(target, inputs[0], classes=logits.shape[1])
    question = model.question(logits, target=target)
    masks = model.decode(features, question)
    answer = model(*masked_halves(inputs, masks, infill, infill_out, context))
    logits_in, logits_out = model.logits_of(answer).chunk(2)
    judgement = Judgement(logits, logits_in, logits_out, *question.known)
    return judgement._replace(inputs=only_one(inputs)), masks


def only_one(inputs: tuple[Tensor, ...]) -> Tensor | None:
    return inputs[0] if len(inputs) == 1 else None


def metric_of(name: str, record: Record) -> float:
    if name in record:
        return record[name]
    hint = ", or pass fit(..., validation=loader)" if name.startswith("val_") else ""
    raise KeyError(
        f"expected the records to have the metric {name!r}, but they have only "
        f"{', '.join(record)}; name one of these{hint}."
    )


_SHARES = ("clean", "masked_in", "masked_out", "area")  # of 1, in the curves


class Means:
    """Running means of records, weighted by the number of images."""

    def __init__(self) -> None:
        self.sums: Record = {}
        self.counts: dict[str, int] = {}

    def add(self, record: Record, count: int) -> None:
        for name, value in record.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * count
            self.counts[name] = self.counts.get(name, 0) + count

    def over_processes(self) -> Means:
        total = Means()
        for means in gathered(self):
            for name, value in means.sums.items():
                total.sums[name] = total.sums.get(name, 0.0) + value
                total.counts[name] = total.counts.get(name, 0) + means.counts[name]
        return total

    def record(self) -> Record:
        return {name: value / self.counts[name] for name, value in self.sums.items()}


class EpochRecords(list[Record]):
    """A record for each epoch, which notebooks show as a table with curves."""

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for record in self for name in record))
        rows = [[f"{record[n]:.4g}" if n in record else "" for n in names] for record in self]
        cells = (("th", names), *(("td", row) for row in rows))
        lines = ("".join(f"<{tag}>{escape(c)}</{tag}>" for c in line) for tag, line in cells)
        return f"{self._curves()}<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def _curves(self) -> str:
        """Draw accuracies, area and loss; dashed lines are the training set."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 2.6), layout="constrained")
        for axis, names in zip(figure.subplots(1, 2), (_SHARES, ("loss",)), strict=True):
            for color, name in enumerate(names):
                for key, style in ((name, "--"), (f"val_{name}", "-")):
                    points = [(r["epoch"], r[key]) for r in self if key in r and "epoch" in r]
                    axis.plot(
                        *zip(*points, strict=True) if points else ([], []),
                        f"C{color}{style}",
                        marker=".",
                        label=key.replace("_", " ") if points else None,
                    )
            axis.set_xlabel("epoch")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)
        held = StringIO()
        figure.savefig(held, format="svg")
        return held.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]  # as a part of a page


def summary(record: Record) -> str:
    forms = {
        "clean": "clean {:.0%}",
        "masked_in": "masked-in {:.0%}",
        "masked_out": "masked-out {:.0%}",
        "entropy_out": "entropy out {:.2f}",
        "area": "area {:.2f}",
    }
    return ", ".join(form.format(record[name]) for name, form in forms.items() if name in record)


class Records:
    """Keep a record per epoch, show a progress bar, and warn if masks collapse."""

    def __init__(self, epochs: int, *, show_progress: bool = True) -> None:
        self.epochs = epochs
        self.show_progress = show_progress
        self.closed: list[Record] = []  # one an epoch
        self.means = Means()
        self.skipped = 0  # steps of the running epoch

    def epoch(
        self, batches: Iterable, *, start: int = 0, total: int | None = None
    ) -> Iterator[Any]:
        """Yield the batches of one epoch under a progress bar that begins at ``start``."""
        self.started = time.perf_counter()
        name = f"epoch {len(self.closed) + 1}/{self.epochs}"
        with tqdm(
            batches, name, total=total, initial=start, disable=not self.show_progress
        ) as self.bar:
            yield from self.bar

    def add(self, record: Record, count: int) -> None:
        """Add one step's record; of a skipped step, add only finite values."""
        if record.get("skipped"):
            self.skipped += 1
            finite = {name: value for name, value in record.items() if math.isfinite(value)}
            record = {name: value for name, value in finite.items() if name != "skipped"}
        self.means.add(record, count)
        if self.show_progress:
            self.bar.set_postfix_str(summary(self.means.record()), refresh=False)

    def close(self, validation: Record) -> Record:
        record = {"epoch": len(self.closed) + 1.0, **self.means.record()}
        record |= {"skipped": float(self.skipped)} if self.skipped else {}
        record |= {f"val_{name}": value for name, value in validation.items()}
        record["seconds"] = time.perf_counter() - self.started
        self.closed.append(record)
        self.means, self.skipped = Means(), 0
        if "area" in record:  # not while the classifier trains alone
            warn_if_collapsed(record)
        if self.show_progress and validation:
            tqdm.write(f"    validation: {summary(validation)}")
        return record

    def state_dict(self) -> dict[str, Any]:
        means = {"sums": dict(self.means.sums), "counts": dict(self.means.counts)}
        return {"records": self.closed, "means": means, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.closed, self.skipped = list(state["records"]), state["skipped"]
        self.means.sums = dict(state["means"]["sums"])
        self.means.counts = dict(state["means"]["counts"])


def warn_if_collapsed(record: Record) -> None:
    area, spread = record["area"], record["area_in_image_std"]
    # Small objects have small masks, which keep more of the evidence than they leave.
    keeps_less = record.get("masked_in", 1) < record.get("masked_out", 0)
    kind = (
        "all ones; raise the area weights"
        if area > 0.97
        else "all zeros; lower the area weights"
        if area < 0.03 and (spread < 0.02 or keeps_less)
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
