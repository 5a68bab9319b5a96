"""From a batch to questions: composed images, and classes that are not there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_masking.inputs import Inputs
from captum_masking.objective.weights import check_weights
from captum_masking.processes import any_of, from_main, world
from captum_masking.questions.absent import absent_classes, classes_in
from captum_masking.questions.compositions import Composition, Halves, Pasted, Quarters


class Posed(NamedTuple):
    """A batch of questions before the classifier has seen their images.

    Attributes:
        inputs: Images, as many as there were, some of them composed.
        labels: Of the images they were made of: ``(B,)``, or ``(B, classes)`` of 0 and 1.
        parts: Which of those images each shows, ``(B, parts)``; its own comes first.
        source: Which of them each pixel shows, ``(B, 1, *spatial)``; None for several inputs.
        absent: Which rows are to ask for a class that is not there, ``(B,)`` bool.
        alone: Which rows show one image of one class, ``(B,)`` bool.

    Source:
        Own.
    """

    inputs: Inputs
    labels: Tensor
    parts: Tensor
    source: Tensor | None
    absent: Tensor
    alone: Tensor

    def elsewhere(self, target: Tensor) -> Tensor | None:
        """Say where images without the class are, ``(B, 1, *spatial)`` bool; all of it if absent.

        Args:
            target: Classes ``(B,)``.
        """
        if self.source is None:
            return None
        has = (self.labels[:, None] == target) if self.labels.dim() == 1 else None
        has = self.labels[:, target].bool() if has is None else has  # (images, B)
        rows = torch.arange(len(target), device=target.device)
        return ~has[self.source, rows.reshape(-1, *[1] * (self.source.dim() - 1))]

    def ask_all(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Ask as :meth:`ask`; return ``[(target, shut)]``, the latter where the class is not."""
        target, answer = self.ask(logits)
        shut, present = answer["elsewhere"], answer["present"]
        if shut is None:
            dims = self.inputs.dim() - 2 if isinstance(self.inputs, Tensor) else 0
            shut = ~present.reshape(-1, *[1] * (dims + 1))  # type: ignore[union-attr]
        return [(target, shut)]

    def ask(self, logits: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Choose the class that each row asks for, given what the classifier says of it.

        Args:
            logits: Of ``inputs``, ``(B, classes)``.

        Returns:
            ``(target, answer)``: classes ``(B,)``, and what is known of the right answer, as
            :class:`~captum_masking.objective.Judgement` takes it: ``present``, ``alone`` and
            ``elsewhere``. A row that is to ask for an absent class but finds none asks for a
            present one.
        """
        there = classes_in(self.labels, self.parts, logits.shape[1])
        target, possible = absent_classes(logits, there)
        own, has_own = _one_of(self.labels)
        absent = possible & (self.absent | ~has_own)
        target = torch.where(absent, target, own)
        known = {"present": ~absent & has_own, "alone": self.alone}
        return target, {**known, "elsewhere": self.elsewhere(target)}


class Questions:
    """Turns labelled images into questions, so that the masker learns that the class matters.

    Most rows stay as they are and ask for their label. Some become images of several classes and
    ask for one of them; some ask for an absent class, of an image of either kind.

    Args:
        composed: Share of the rows that become images of several classes, in [0, 1]. Inputs that
            no composition takes stay as they are.
        absent: Share of the rows that ask for an absent class, in [0, 1].
        tiled: Share of the batches, in [0, 1], from which a gate learns in mosaics of whole images,
            :class:`~captum_masking.questions.Tiled`, and not as above. None where the
            classifier refuses images of twice the size.
        compositions: Ways of composing, each as likely as its place is frequent here.

    Raises:
        ValueError: If a share lies outside [0, 1].

    Source:
        Own.

    Example:
        >>> inputs, labels = torch.rand(8, 3, 6, 6), torch.arange(8)
        >>> posed = Questions(composed=0.5, absent=0.25)(inputs, labels)
        >>> posed.alone.sum(), posed.absent.sum()
        (tensor(4), tensor(2))
        >>> target, answer = posed.ask(torch.zeros(8, 10))
        >>> present = answer["present"]
        >>> torch.equal(target[present], labels[present]), present.sum()
        (True, tensor(6))
    """

    def __init__(
        self,
        *,
        composed: float = 0.2,
        absent: float = 0.25,
        tiled: float = 0.5,
        compositions: Sequence[Composition] = (Quarters(), Quarters(), Halves(), Pasted()),
    ) -> None:
        check_weights(composed=composed, absent=absent, tiled=tiled, way_out="0 leaves it out.")
        if max(composed, absent, tiled) > 1:
            raise ValueError(
                f"composed, absent and tiled must be shares in [0, 1], but got {composed}, "
                f"{absent} and {tiled}; 0.2 and 0.25 leave most rows as they are."
            )
        self.composed = composed
        self.absent = absent
        self.tiled = tiled
        self.one_size = False  # found out when tiles are first refused
        self.compositions = tuple(compositions)

    def __call__(self, inputs: Inputs, labels: Tensor) -> Posed:
        """Pose a question for each row of a batch; random, from torch's own generator.

        Args:
            inputs: ``(B, C, *spatial)``, or several, which are never composed.
            labels: The class of each, ``(B,)``; or ``(B, classes)`` of 0 and 1, multi-label.
        """
        count, device = len(labels), labels.device
        parts, source = torch.arange(count)[:, None], None
        composed = torch.zeros(count, dtype=torch.bool)
        ways = [way for way in self.compositions if _takes(way, inputs)]
        if ways and isinstance(inputs, Tensor):
            composed = _drawn(self.composed, count)
            inputs, parts, source = _compose(inputs, composed, ways)
        absent = _drawn(self.absent, count)
        alone = ~composed if labels.dim() == 1 else torch.zeros_like(composed)
        rest = (parts.to(device), source, absent.to(device), alone.to(device))
        return Posed(inputs, labels, *rest)

    def plain(self, inputs: Inputs, labels: Tensor) -> Posed:
        """Ask of each image as it is for its label, or one of its labels."""
        return Questions(composed=0.0, absent=0.0)(inputs, labels)

    def tiles(self, inputs: Inputs, labels: Tensor) -> bool:
        """Draw whether this batch is to be tiled; only images in fours can be.

        All processes that train together do the same, as they ask each other in between.
        """
        images = isinstance(inputs, Tensor) and inputs.dim() == 4 and len(labels) >= 4
        drawn, possible = bool(torch.rand(()) < self.tiled), images and not self.one_size
        if world() == 1:
            return drawn and possible
        return from_main(drawn) and not any_of(not possible, labels.device)

    def __repr__(self) -> str:
        return (
            f"Questions(composed={self.composed}, absent={self.absent}, tiled={self.tiled}, "
            f"compositions={self.compositions})"
        )


def _takes(way: Any, inputs: Inputs) -> bool:
    """Whether a composition can be made of a batch."""
    return isinstance(inputs, Tensor) and inputs.dim() - 2 in way.dims and len(inputs) >= way.parts


def _drawn(share: float, count: int) -> Tensor:
    """Draw that share of the rows, ``(count,)`` bool; what is less than a row, by chance."""
    number = int(share * count + float(torch.rand(())))
    return torch.randperm(count) < number


def _compose(inputs: Tensor, composed: Tensor, ways: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Compose the rows that were drawn, each its own way; return images, parts and sources."""
    count = len(inputs)
    number = torch.arange(count, device=inputs.device).reshape(-1, *[1] * (inputs.dim() - 1))
    number = number.to(inputs).expand(count, 1, *inputs.shape[2:])
    marked = torch.cat([inputs, number], dim=1)  # composed along, the number says whose pixel it is
    images, source = inputs.clone(), number.long()
    parts = torch.arange(count)[:, None].repeat(1, max(way.parts for way in ways))
    chosen = torch.randint(len(ways), (count,))
    for index, way in enumerate(ways):
        rows = (composed & (chosen == index)).nonzero()[:, 0]
        if not len(rows):
            continue
        together = torch.stack([_partners(row, way.parts, count) for row in rows.tolist()])
        shuffled = torch.stack([own[torch.randperm(way.parts)] for own in together])
        made, rows_there = way(marked, shuffled.to(inputs.device)), rows.to(inputs.device)
        images[rows_there], source[rows_there] = made[:, :-1], made[:, -1:].round().long()
        parts[rows, : way.parts] = together
    return images, parts, source


def _partners(row: int, number: int, count: int) -> Tensor:
    """Draw other rows to go with one; the one comes first."""
    others = torch.randperm(count - 1)[: number - 1]
    return torch.cat([torch.tensor([row]), others + (others >= row)])


def _one_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return one class of each row, and whether it has any."""
    if labels.dim() == 1:
        return labels, torch.ones_like(labels, dtype=torch.bool)
    draw = torch.rand(labels.shape).to(labels.device) * labels
    return draw.argmax(1), labels.bool().any(1)
