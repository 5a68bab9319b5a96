"""Labels of one class or of several, and the rows of a batch of questions that are as labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from captum_masking._base.checks import check_weights
from captum_masking._base.processes import any_of, from_main, world
from captum_masking._base.tuples import Inputs
from captum_masking.parts.masker import linear
from captum_masking.parts.objective import Judgement

__all__ = [
    "Composition",
    "Halves",
    "Pasted",
    "Posed",
    "Quarters",
    "Questions",
    "Tiled",
    "absent_classes",
    "as_labeled",
    "mosaics",
    "one_label",
]


def one_label(labels: Tensor) -> Tensor:
    """Return one class of each image: its label, or the first of several.

    Args:
        labels: ``(B,)``, or ``(B, classes)`` of 0 and 1.

    Returns:
        ``(B,)`` integers.

    Raises:
        ValueError: If labels of several classes hold anything but 0 and 1.

    Source:
        Own.

    Example:
        >>> import torch
        >>> one_label(torch.tensor([[0, 1, 1], [0, 0, 1]]))
        tensor([1, 2])
    """
    if labels.dim() < 2:
        return labels
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} must be 0 and 1, one column a class, but "
            f"hold values from {labels.min()} to {labels.max()}; give class indices as (B,)."
        )
    return labels.long().argmax(1)


def as_labeled(judgement: Judgement, mask: Any = None) -> tuple[Judgement, Any]:
    """Keep the rows that ask for the label of an image as it is; all of them where there are none.

    Args:
        judgement: Of a batch of questions.
        mask: Of it, ``(B, 1, *spatial)``, or a tuple for several inputs.

    Source:
        Own. Accuracies of composed images and absent classes would mean something else.

    Example:
        >>> import torch
        >>> logits = torch.zeros(2, 3)
        >>> there = torch.tensor([True, False])
        >>> said = Judgement(logits, logits, logits, torch.tensor([0, 1]), None, there, there)
        >>> as_labeled(said)[0].target
        tensor([0])
    """
    rows = judgement.as_labeled
    if judgement.present is None or not rows.any():
        return judgement, mask
    masks = tuple(m[rows] for m in mask) if isinstance(mask, tuple) else mask
    masks = masks[rows] if isinstance(mask, Tensor) else masks
    return judgement.only(rows), masks


# ---- Classes that are not in an image, and how much mask they get.


def classes_in(labels: Tensor, parts: Tensor, classes: int) -> Tensor:
    """Say which classes composed images show.

    Args:
        labels: Of the images they were made of, ``(B,)``, or ``(B, classes)`` of 0 and 1.
        parts: Which images each shows, ``(B, parts)``.
        classes: How many there are.

    Returns:
        ``(B, classes)`` bool.

    Source:
        Own.

    Example:
        >>> classes_in(torch.tensor([2, 0]), torch.tensor([[0, 1], [1, 1]]), classes=3)
        tensor([[ True, False,  True],
                [ True, False, False]])
    """
    if labels.dim() == 2:
        return labels[parts].bool().any(1)
    there = torch.zeros(len(parts), classes, dtype=torch.bool, device=labels.device)
    return there.scatter(1, labels[parts], True)


def absent_classes(logits: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a class for each image that is not in it: a quarter of the time the likeliest of these.

    More often, and the label of an image that the classifier mistakes, which is likely too, would
    count as absent. The class with the highest logit is never drawn: of an image that the
    classifier mistakes there is evidence for that one.

    Args:
        logits: ``(B, classes)``.
        there: The classes of each image, ``(B, classes)`` bool.

    Returns:
        ``(target, possible)``, both ``(B,)``; where all classes are there, none is possible.

    Source:
        Own.

    Example:
        >>> logits = torch.tensor([[5.0, 3.0, 1.0]])
        >>> absent_classes(logits, torch.tensor([[False, True, False]]))
        (tensor([2]), tensor([True]))
    """
    logits = logits.detach()
    away = (~there).scatter(1, logits.argmax(1, keepdim=True), False)
    runner_up = logits.float().masked_fill(~away, -math.inf).argmax(1)
    anyone = torch.rand(away.shape).to(logits.device).masked_fill(~away, -1).argmax(1)
    likely = (torch.rand(len(away)) < 0.25).to(logits.device)
    return torch.where(likely, runner_up, anyone), away.any(1)


def mosaics(inputs: Tensor, rows: int = 2, columns: int = 2) -> Tensor:
    """Lay images side by side, each ``rows x columns`` of them into one mosaic.

    Explain each mosaic once for the class of each of its images, and hand the maps to
    `grid_pointing` with the number of the image's cell. The images of a mosaic should be of
    different classes, and such that the classifier is sure of them.

    Args:
        inputs: ``(B * rows * columns, C, h, w)``: the cells of the first mosaic in reading order,
            then those of the second.
        rows: Images on top of each other.
        columns: Images side by side.

    Returns:
        ``(B, C, rows * h, columns * w)``.

    Raises:
        ValueError: If the images do not fill whole mosaics.

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


# ---- Whole images side by side at full size, and a question about each of them.

_ROWS = _COLUMNS = 2


class Tiled(NamedTuple):
    """Mosaics of 2 x 2 whole images: twice as high and wide as these, and a quarter as many.

    Attributes:
        inputs: Mosaics, ``(B // 4, C, 2 * H, 2 * W)``.
        labels: Of the images, ``(B,)``, or ``(B, classes)`` of 0 and 1.
        parts: Which images each mosaic shows, in reading order, ``(B // 4, 4)``.

    Source:
        Own; the mosaics are those of the grid pointing game (Boehle et al. 2021).

    Example:
        >>> tiled = Tiled.of(torch.rand(9, 3, 6, 6), torch.arange(9))
        >>> tiled.inputs.shape
        torch.Size([2, 3, 12, 12])
        >>> len(tiled.ask_all(torch.zeros(2, 10)))  # one for each image, and an absent class
        5
    """

    inputs: Tensor
    labels: Tensor
    parts: Tensor

    @classmethod
    def of(cls, inputs: Tensor, labels: Tensor) -> Tiled:
        """Lay the images of a batch side by side, in random order; up to three are left out."""
        cells = _ROWS * _COLUMNS
        order = torch.randperm(len(inputs))[: len(inputs) // cells * cells].to(inputs.device)

        return cls(mosaics(inputs[order], _ROWS, _COLUMNS), labels, order.reshape(-1, cells))

    def ask_all(self, logits: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Ask for a class of each image, and for an absent one.

        Args:
            logits: Of the mosaics, ``(B // 4, classes)``.

        Returns:
            Pairs ``(target, shut)``: classes ``(B // 4,)``, and where they are not,
            ``(B // 4, 1, 2 * H, 2 * W)`` bool.
        """
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
        height, width = (side // 2 for side in self.inputs.shape[2:])
        cells = ~has.reshape(-1, 1, _ROWS, _COLUMNS)
        return cells.repeat_interleave(height, 2).repeat_interleave(width, 3)


# ---- Images of several classes out of images of one: ``composition(inputs, rows) -> images``.

#: Called as ``composition(inputs, rows)`` with images ``(B, C, *spatial)`` and indices
#: ``(n, parts)`` of those that go together; returns ``(n, C, *spatial)`` in which a share of each
#: can be seen. Its attribute ``parts`` says how many it takes, ``dims`` of how many spatial
#: dimensions they may be.
Composition = Callable[[Tensor, Tensor], Tensor]


class Quarters:
    """Four images in a 2 x 2 mosaic, each at half its size.

    Source:
        The mosaics of the grid pointing game (Boehle et al. 2021), here to learn from.

    Example:
        >>> inputs = torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 4, 4)
        >>> Quarters()(inputs, torch.tensor([[3, 1, 0, 2]]))[0, 0, ::2, ::2]
        tensor([[3., 1.],
                [0., 2.]])
    """

    parts, dims = 4, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Make one mosaic of each row of indices, in reading order."""
        height, width = inputs.shape[2:]
        cells = _shrunk(inputs[rows.flatten()], (-(-height // 2), -(-width // 2)))

        return mosaics(cells)[..., :height, :width]

    def __repr__(self) -> str:
        return "Quarters()"


class Halves:
    """Half of one image beside half of another, along any axis, both at full size.

    Source:
        Own.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1).expand(2, 1, 4)
        >>> Halves()(inputs, torch.tensor([[1, 0]]))
        tensor([[[1., 1., 0., 0.]]])
    """

    parts, dims = 2, (1, 2, 3)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Cut both images of each pair at random, and lay them side by side along one axis."""
        axis = int(torch.randint(2, inputs.dim(), ()))
        side = inputs.shape[axis]
        first, second = side // 2, side - side // 2
        start = [int(torch.randint(side - length + 1, ())) for length in (first, second)]
        left = inputs[rows[:, 0]].narrow(axis, start[0], first)
        return torch.cat([left, inputs[rows[:, 1]].narrow(axis, start[1], second)], dim=axis)

    def __repr__(self) -> str:
        return "Halves()"


class Pasted:
    """One image at half its size, pasted somewhere into another.

    Source:
        Own.

    Example:
        >>> inputs = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
        >>> Pasted()(inputs, torch.tensor([[0, 1]])).sum()
        tensor(4.)
    """

    parts, dims = 2, (2,)

    def __call__(self, inputs: Tensor, rows: Tensor) -> Tensor:
        """Paste the second image of each pair into the first."""
        sides = [max(1, side // 2) for side in inputs.shape[2:]]
        images, small = inputs[rows[:, 0]].clone(), _shrunk(inputs[rows[:, 1]], sides)
        for image, piece in zip(images, small, strict=True):
            place = image
            for axis, side in enumerate(sides, start=1):
                start = int(torch.randint(image.shape[axis] - side + 1, ()))
                place = place.narrow(axis, start, side)
            place.copy_(piece)
        return images

    def __repr__(self) -> str:
        return "Pasted()"


def _shrunk(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resample images to a smaller size, without aliasing."""
    if images.dim() != 4:
        return linear(images, size)
    return interpolate(images, tuple(size), mode="bilinear", antialias=True)


# ---- From a batch to questions: composed images, and classes that are not there.


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
            :class:`~captum_masking.parts.objective.Judgement` takes it: ``present``, ``alone`` and
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
            :class:`~captum_masking.parts.questions.Tiled`, and not as above. None where the
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
