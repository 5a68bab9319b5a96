"""The figures that are watched in training and validation: of a batch, of many, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_masking.checks import check_labels
from captum_masking.infill import Infill
from captum_masking.inputs import Inputs, as_tuple, size_of
from captum_masking.masking import masked_halves
from captum_masking.model import MaskingModel
from captum_masking.objective import Judgement, entropy
from captum_masking.processes import gathered, summed, world

#: Figures of a step or an epoch, by name.
Record = dict[str, float]


#: Further figures of a batch, called as ``figure(model, inputs, target, mask)``: means, by name.
Figures = Callable[[MaskingModel, Inputs, Tensor, Any], dict[str, Tensor]]


@torch.no_grad()
def measure(
    judgement: Judgement, mask: Inputs, losses: Mapping[str, Tensor], *, alone: bool = False
) -> Record:
    """Reduce one batch to the figures that are watched.

    Args:
        judgement: Of the batch.
        mask: ``(B, 1, *spatial)``, or one for each of several inputs.
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
        >>> measure(judgement, torch.ones(1, 1, 2, 2), {})["area"]
        1.0
    """
    figures = {
        **losses,
        "clean": judgement.correct.float().mean(),
        "masked_in": judgement.correct_in.float().mean(),
        "masked_out": judgement.correct_out.float().mean(),
        "entropy_out": entropy(judgement.logits_out).mean(),
        "area": _mean([m.mean() for m in as_tuple(mask)]),
        "area_in_image_std": _mean(
            [m.flatten(1).std(1, correction=0).mean() for m in as_tuple(mask)]
        ),
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
    inputs: Inputs,
    target: Tensor,
    infill: Infill,
    infill_out: Infill | None = None,
) -> tuple[Judgement, Any]:
    """Run a model on one batch and let its own classifier judge its masks.

    Args:
        model: In the mode in which it is to be measured.
        inputs: ``(B, C, *spatial)``, or several.
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
    check_labels(target, as_tuple(inputs)[0], classes=logits.shape[1])
    asked = model.ask(logits, target=target)
    mask = model.decode(features, size_of(inputs), **asked)
    logits_in, logits_out = model(*masked_halves(inputs, mask, infill, infill_out)).chunk(2)
    return Judgement(logits, logits_in, logits_out, target, asked.get("area")), mask


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
