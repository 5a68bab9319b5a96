"""Choose images and targets for the training of a masker.

``questions.ask(inputs, labels)`` returns an object with the ``inputs`` for the classifier. Its
``given(logits)`` chooses the targets and returns a :class:`~captum_masking.parts.masker.Question`.
The paper's masker is asked for the label of each image (:class:`AsLabeled`), or for the predicted
class (:class:`AsPredicted`). A target-aware masker also learns from images of several classes, and
from absent classes (:class:`Questions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_masking._base.checks import check_weights
from captum_masking.parts.masker import Question, linear
from captum_masking.parts.objective import Judgement

__all__ = ["AsLabeled", "AsPredicted", "Halves", "Pasted", "Quarters", "Questions", "mosaics"]


@dataclass(frozen=True)
class AsLabeled:
    """Ask for the label of each input, as in the paper.

    Args:
        sized: Whether to draw an area for each input, for maskers that read one.

    Example:
        >>> posed = AsLabeled().ask((torch.rand(2, 3, 6, 6),), torch.tensor([4, 0]))
        >>> posed.given(logits=torch.zeros(2, 10)).target
        tensor([4, 0])
    """

    sized: bool = False
    multi_label = False

    def ask(self, inputs: tuple[Tensor, ...], labels: Tensor) -> _Plain:
        return _Plain(inputs, labels, self.sized)

    def extra_loss(self, model: Any, inputs: tuple[Tensor, ...], labels: Tensor) -> float:
        return 0.0


class _Plain(NamedTuple):
    inputs: tuple[Tensor, ...]
    labels: Tensor
    sized: bool

    def given(self, logits: Tensor) -> Question:
        return Question(self.labels, area=_drawn_area(self.labels) if self.sized else None)


@dataclass(frozen=True)
class AsPredicted(AsLabeled):
    """Ask for the predicted class of each input, right or wrong.

    The masker then also explains mistakes. Labels are not used in training, so records have a
    ``clean`` accuracy of 1; validation still uses the labels.

    Source:
        Paissan et al. 2024 (L-MAC).

    Example:
        >>> posed = AsPredicted().ask((torch.rand(2, 3, 6, 6),), torch.tensor([4, 0]))
        >>> posed.given(logits=torch.tensor([[0.0, 1.0], [0.0, 2.0]])).target
        tensor([1, 1])
    """

    def ask(self, inputs: tuple[Tensor, ...], labels: Tensor) -> _Predicted:
        return _Predicted(inputs, labels, self.sized)


class _Predicted(_Plain):
    def given(self, logits: Tensor) -> Question:
        predicted = logits.detach().argmax(1)
        return Question(predicted, area=_drawn_area(predicted) if self.sized else None)


def _drawn_area(labels: Tensor) -> Tensor:
    return 0.25 + 0.5 * torch.rand(len(labels))  # as published


def mosaics(inputs: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Tile each ``rows x columns`` images into one mosaic, in reading order.

    ``(B * rows * columns, C, h, w)`` become ``(B, C, rows * h, columns * w)``. Explain each mosaic
    for the class of each of its images, and pass the maps to ``metrics.grid_pointing`` with the
    number of the image's cell.

    Source:
        Boehle et al. 2021 (CoDA-Nets), the grid pointing game.

    Example:
        >>> mosaics(torch.arange(4.0).reshape(4, 1, 1, 1))
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    cells = rows * columns
    if inputs.dim() != 4 or not len(inputs) or len(inputs) % cells:
        raise ValueError(
            f"inputs must have shape (B * {cells}, C, h, w) for mosaics of {rows} x {columns}, but "
            f"got {tuple(inputs.shape)}; leave out the last {len(inputs) % cells} images."
        )
    channels, height, width = inputs.shape[1:]
    grid = inputs.reshape(-1, rows, columns, channels, height, width)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * height, columns * width)


@dataclass(frozen=True)
class Quarters:
    """Four images in a 2 x 2 mosaic, each at half its size.

    Source:
        The mosaics of the grid pointing game (Boehle et al. 2021), here for training.

    Example:
        >>> inputs = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 4, 4)
        >>> Quarters()(inputs, torch.tensor([[3, 1, 0, 2]]))[0, 0, ::2, ::2]
        tensor([[3., 1.],
                [0., 2.]])
    """

    parts, dims = 4, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        height, width = inputs.shape[2:]
        cells = _shrunk(inputs[rows.flatten()], (-(-height // 2), -(-width // 2)))
        return mosaics(cells)[..., :height, :width]


@dataclass(frozen=True)
class Halves:
    """Half of one image beside half of another, along any axis, both at full size.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1).expand(2, 1, 4)
        >>> Halves()(inputs, torch.tensor([[1, 0]]))
        tensor([[[1., 1., 0., 0.]]])
    """

    parts, dims = 2, (1, 2, 3)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        axis = int(torch.randint(2, inputs.dim(), ()))
        side = inputs.shape[axis]
        first, second = side // 2, side - side // 2
        start = [int(torch.randint(side - length + 1, ())) for length in (first, second)]
        left = inputs[rows[:, 0]].narrow(axis, start[0], first)
        return torch.cat([left, inputs[rows[:, 1]].narrow(axis, start[1], second)], dim=axis)


@dataclass(frozen=True)
class Pasted:
    """One image at half its size, pasted into another at a random place.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> Pasted()(inputs, torch.tensor([[0, 1]])).sum()
        tensor(4.)
    """

    parts, dims = 2, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        sides = [max(1, side // 2) for side in inputs.shape[2:]]
        images, small = inputs[rows[:, 0]].clone(), _shrunk(inputs[rows[:, 1]], sides)
        for image, piece in zip(images, small, strict=True):
            place = image
            for axis, side in enumerate(sides, start=1):
                start = int(torch.randint(image.shape[axis] - side + 1, ()))
                place = place.narrow(axis, start, side)
            place.copy_(piece)
        return images


def _shrunk(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resample images to a smaller size, without aliasing."""
    if images.dim() != 4:
        return linear(images, size)
    precise = torch.promote_types(images.dtype, torch.float32)  # half has no antialiasing
    small = interpolate(images.to(precise), tuple(size), mode="bilinear", antialias=True)
    return small.to(images.dtype)


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Turn labeled images into questions about several and absent classes.

    Most rows do not change and ask for their label. Some become images of several classes and ask
    for one of them; some ask for an absent class.

    Args:
        composed: Share of the rows that become images of several classes, in [0, 1]. Inputs that
            no composition accepts do not change.
        absent: Share of the rows that ask for an absent class, in [0, 1].
        tiled: Share of the batches from which a gate learns in mosaics of whole images instead,
            in [0, 1]. Without effect if the classifier rejects images of twice the size.
        compositions: Ways to compose images, drawn at random. Each is called as
            ``composition(inputs, rows)`` with images ``(B, C, *spatial)`` and the indices
            ``(n, parts)`` of those to combine, and returns ``(n, C, *spatial)``. Its ``parts`` is
            the number of images it combines, its ``dims`` the spatial dimensions it accepts.
        sized: Whether to draw an area for each input; the trainer sets it.

    Example:
        >>> inputs, labels = torch.rand(8, 3, 6, 6), torch.arange(8)
        >>> posed = Questions(composed=0.5, absent=0.25).ask((inputs,), labels)
        >>> posed.alone.sum(), posed.absent.sum()
        (tensor(4), tensor(2))
    """

    composed: float = 0.2
    absent: float = 0.25
    tiled: float = 0.5
    compositions: Sequence[Callable[[Tensor, Tensor], Tensor]] = (
        Quarters(),
        Quarters(),
        Halves(),
        Pasted(),
    )
    sized: bool = False
    multi_label = True

    def __post_init__(self) -> None:
        shares = self.composed, self.absent, self.tiled
        check_weights(
            composed=self.composed, absent=self.absent, tiled=self.tiled, way_out="0 disables it."
        )
        if max(shares) > 1:
            raise ValueError(
                f"composed, absent and tiled must be shares in [0, 1], but got {shares[0]}, "
                f"{shares[1]} and {shares[2]}; 0.2 and 0.25 leave most rows unchanged."
            )

    def ask(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Posed:
        """Ask about each row of inputs with labels ``(B,)``, or ``(B, classes)`` of 0 and 1."""
        count, device = len(labels), labels.device
        parts, source = torch.arange(count)[:, None], None
        composed = torch.zeros(count, dtype=torch.bool)
        ways = [way for way in self.compositions if _takes(way, inputs)]
        if ways:
            composed = _drawn(self.composed, count)
            images, parts, source = _compose(inputs[0], composed, ways)
            inputs = (images,)
        absent = _drawn(self.absent, count)
        alone = ~composed if labels.dim() == 1 else torch.zeros_like(composed)
        return Posed(
            inputs,
            labels,
            parts.to(device),
            source,
            absent.to(device),
            alone.to(device),
            self.sized,
        )

    def extra_loss(self, model: Any, inputs: tuple[Tensor, ...], labels: Tensor) -> float:
        return 0.0


class Posed(NamedTuple):
    """A batch of questions before their targets are chosen.

    ``parts``, ``(B, parts)``, are the images in each row, ``source``, ``(B, 1, *spatial)``, is the
    image of each pixel. ``absent`` rows ask for an absent class, ``alone`` rows show one image of
    one class.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    parts: Tensor
    source: Tensor | None
    absent: Tensor
    alone: Tensor
    sized: bool = False

    def given(self, logits: Tensor) -> Question:
        """Choose the class of each row; if no class is absent, choose a present one."""
        there = classes_in(self.labels, self.parts, logits.shape[1])
        target, possible = absent_classes(logits, there)
        own, has_own = _one_of(self.labels)
        absent = possible & (self.absent | ~has_own)
        target = torch.where(absent, target, own)
        return Question(
            target,
            area=_drawn_area(target) if self.sized else None,
            present=~absent & has_own,
            alone=self.alone,
            elsewhere=self._elsewhere(target),
        )

    def ask_gate(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return ``[(target, shut)]``; a gate must be shut where the class is absent."""
        question = self.given(logits)
        shut = question.elsewhere
        if shut is None:
            ones = [1] * (self.inputs[0].dim() - 1)
            shut = ~question.present.reshape(-1, *ones)  # type: ignore[union-attr]
        return [(question.target, shut)]  # type: ignore[list-item]

    def _elsewhere(self, target: Tensor) -> Tensor | None:
        if self.source is None:
            return None
        has = (self.labels[:, None] == target) if self.labels.dim() == 1 else None
        has = self.labels[:, target].bool() if has is None else has  # (images, B)
        rows = torch.arange(len(target), device=target.device)
        return ~has[self.source, rows.reshape(-1, *[1] * (self.source.dim() - 1))]


def one_label(labels: Tensor) -> Tensor:
    """Return one class per image: its label, or the first of ``(B, classes)`` of 0 and 1."""
    if labels.dim() < 2:
        return labels
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be 0 or 1, with one column per class, but "
            f"range from {labels.min()} to {labels.max()}; give class indices as (B,)."
        )
    return labels.long().argmax(1)


def as_labeled(
    judgement: Judgement, masks: tuple[Tensor, ...] = ()
) -> tuple[Judgement, tuple[Tensor, ...]]:
    """Keep the rows that ask for the label of an unchanged image; keep all if there are none."""
    rows = judgement.as_labeled
    if judgement.present is None or not rows.any():
        return judgement, masks
    return judgement.only(rows), tuple(mask[rows] for mask in masks)


def classes_in(labels: Tensor, parts: Tensor, classes: int) -> Tensor:
    """List the classes that composed images show, ``(B, classes)`` bool."""
    if labels.dim() == 2:
        return labels[parts].bool().any(1)
    there = torch.zeros(len(parts), classes, dtype=torch.bool, device=labels.device)
    return there.scatter(1, labels[parts], True)


def absent_classes(logits: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Draw an absent class for each image, the likeliest one a quarter of the time.

    A larger share would count labels that the classifier mistakes as absent. The predicted class
    is never drawn, since there is evidence for it. Returns ``(target, possible)``, ``(B,)``.
    """
    logits = logits.detach()
    away = (~there).scatter(1, logits.argmax(1, keepdim=True), False)
    runner_up = logits.float().masked_fill(~away, -math.inf).argmax(1)
    anyone = torch.rand(away.shape).to(logits.device).masked_fill(~away, -1).argmax(1)
    likely = (torch.rand(len(away)) < 0.25).to(logits.device)
    return torch.where(likely, runner_up, anyone), away.any(1)


def _takes(way: Any, inputs: tuple[Tensor, ...]) -> bool:
    first, several = inputs[0], len(inputs) > 1
    return not several and first.dim() - 2 in way.dims and len(first) >= way.parts


def _drawn(share: float, count: int) -> Tensor:
    """Draw a share of the rows, ``(count,)`` bool; round their number at random."""
    number = int(share * count + float(torch.rand(())))
    return torch.randperm(count) < number


def _compose(inputs: Tensor, composed: Tensor, ways: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Compose each drawn row in a random way; return images, parts and sources."""
    count = len(inputs)
    number = torch.arange(count, device=inputs.device).reshape(-1, *[1] * (inputs.dim() - 1))
    number = number.to(inputs).expand(count, 1, *inputs.shape[2:])
    marked = torch.cat([inputs, number], dim=1)  # the number tells which image a pixel is from
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
    """Draw rows to combine with one, which comes first."""
    others = torch.randperm(count - 1)[: number - 1]
    return torch.cat([torch.tensor([row]), others + (others >= row)])


def _one_of(labels: Tensor) -> tuple[Tensor, Tensor]:
    if labels.dim() == 1:
        return labels, torch.ones_like(labels, dtype=torch.bool)
    draw = torch.rand(labels.shape).to(labels.device) * labels
    return draw.argmax(1), labels.bool().any(1)


_ROWS = _COLUMNS = 2


class Tiled(NamedTuple):
    """Mosaics ``(B // 4, C, 2 * H, 2 * W)`` of 2 x 2 whole images: ``parts`` are their rows."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    parts: Tensor

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor) -> Tiled:
        """Tile the images of a batch in random order; leave out up to three."""
        cells = _ROWS * _COLUMNS
        order = torch.randperm(len(inputs))[: len(inputs) // cells * cells].to(inputs.device)
        made = mosaics(inputs[order], _ROWS, _COLUMNS)
        return cls((made,), labels, order.reshape(-1, cells))

    def ask_gate(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Ask for a class of each image, and for an absent one: pairs ``(target, shut)``."""
        there = classes_in(self.labels, self.parts, logits.shape[1])
        single = self.labels if self.labels.dim() == 1 else self.labels.argmax(1)
        targets = [*single[self.parts].unbind(1), absent_classes(logits, there)[0]]
        return [(target, self._elsewhere(target)) for target in targets]

    def _elsewhere(self, target: Tensor) -> Tensor:
        labels = self.labels[self.parts]  # (mosaics, 4), or (mosaics, 4, classes)
        if labels.dim() == 2:
            has = labels == target[:, None]
        else:
            index = target[:, None, None].expand(-1, labels.shape[1], 1)
            has = labels.gather(2, index)[..., 0].bool()
        height, width = (side // 2 for side in self.inputs[0].shape[2:])
        cells = ~has.reshape(-1, 1, _ROWS, _COLUMNS)
        return cells.repeat_interleave(height, 2).repeat_interleave(width, 3)
