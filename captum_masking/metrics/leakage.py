"""How much of the class the masks alone give away, in numbers and in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from captum_masking._base.checks import check_labels, needed
from captum_masking.metrics.boxes import masks_to_boxes
from captum_masking.metrics.localization import coverage
from captum_masking.metrics.maps import check_masks, check_unit_range, finite_planes
from captum_masking.metrics.sanity import hog_features

#: ``(masks, labels, unread) -> labels``: learns from some masks ``(n, 1, 32, 32)`` in [0, 1] with
#: labels ``(n,)`` in 0..K-1, and returns those of the unread ones. On the CPU, in double precision.
Reader = Callable[[Tensor, Tensor, Tensor], Tensor]

_SIDE_PX = 32  # of the masks as they are read: shapes still differ, and noise is gone
_CHUNK = 256  # masks in double precision at a time
_PENALTIES = np.logspace(-4, 2, 13)  # of features with total variance 3


@dataclass(frozen=True)
class Leakage:
    """How often the class was read off masks, and off their boxes; prints a table and a sentence.

    ``chance`` is the share of the most frequent class, ``accuracy`` that of masks whose class was
    read by a reader that had not seen them, ``box_accuracy`` the same with the mask's box in its
    place, its size and position alone, and ``shape_adds`` the difference, each with its standard
    error as a mean over masks.

    Example:
        >>> Leakage(400, 10, 0.1, 0.45, 0.025, 0.2, 0.02, 0.25, 0.03).shape_gives_away()
        True
    """

    masks: int
    classes: int
    chance: float
    accuracy: float
    standard_error: float
    box_accuracy: float
    box_standard_error: float
    shape_adds: float
    shape_standard_error: float

    def gives_away(self) -> bool:
        """Return whether masks are read above chance by more than two standard errors."""
        return self.accuracy - self.chance > 2 * self.standard_error

    def shape_gives_away(self) -> bool:
        """Return whether masks are also read better than their boxes by more than two."""
        return self.gives_away() and self.shape_adds > 2 * self.shape_standard_error

    def sentence(self) -> str:
        """Return a sentence on how much the masks give away."""
        share = f"{100 * self.accuracy:.1f} %"
        read = f"read right for {share} of {self.masks} masks ({self.classes} classes)"
        above = f"{100 * (self.accuracy - self.chance):.1f} points"
        if not self.gives_away():
            return f"No sign that the masks give the class away: {read}, {above} from chance."
        adds = f"{100 * self.shape_adds:.1f} +- {100 * self.shape_standard_error:.1f} points"
        shape = (
            f"Their shape adds {adds} to what size and position say."
            if self.shape_gives_away()
            else f"It is their size and position that do; their shape adds nothing sure ({adds})."
        )
        return f"The masks give the class away: {read}, {above} above chance. {shape}"

    def __str__(self) -> str:
        rows = [
            ("nothing", self.chance, None),
            ("boxes", self.box_accuracy, self.box_standard_error),
            ("masks", self.accuracy, self.standard_error),
        ]
        lines = [
            f"{name:<15} {100 * value:>6.1f} %"
            + ("" if error is None else f" +- {100 * error:.1f}")
            for name, value, error in rows
        ]
        return "\n".join(["read from       accuracy", *lines, self.sentence()])


def read_by_ridge(masks: Tensor, labels: Tensor, unread: Tensor) -> Tensor:
    """Read masks by the ridge classifier with the least leave-one-out error, a `Reader`."""
    linear = needed("sklearn.linear_model", by="readers of masks", run="'captum-masking[metrics]'")
    features, others = _features(masks, unread)
    reader = linear.RidgeClassifierCV(_PENALTIES * len(features)).fit(
        features.numpy(), labels.numpy()
    )
    return torch.from_numpy(reader.predict(others.numpy()))


def _features(masks: Tensor, unread: Tensor) -> tuple[Tensor, Tensor]:
    blocks, others = [], []
    for view in (_pixels, _edges, _spectrum):
        seen, new = view(masks), view(unread)
        scale = seen.var(0, correction=0).sum().sqrt().clamp(min=1e-12)
        blocks.append(seen / scale)
        others.append(new / scale)
    return torch.cat(blocks, 1), torch.cat(others, 1)


def _pixels(masks: Tensor) -> Tensor:
    return adaptive_avg_pool2d(masks, _SIDE_PX // 2).flatten(1)


def _edges(masks: Tensor) -> Tensor:
    return hog_features(masks, cell_px=_SIDE_PX // 4, block_cells=2)


def _spectrum(masks: Tensor) -> Tensor:
    # Of each pair of frequencies with the same size one is enough: columns from 0 on.
    sizes = torch.fft.rfft2(masks[:, 0]).abs()
    rows = torch.arange(-7, 8) % _SIDE_PX
    return sizes[:, rows, :8].flatten(1)


def leakage(
    masks: Tensor,
    labels: Tensor,
    *,
    boxes: Tensor | None = None,
    folds: int = 5,
    seed: int = 0,
    reader: Reader = read_by_ridge,
) -> Leakage:
    """Try to read the class off masks alone, without the images.

    The masks are dealt into folds, each class evenly; a reader learns from all folds but one and
    reads that one, in turn. The same is done with each mask's box, drawn as a rectangle. What is
    read is a lower bound: a better reader might read more.

    An honest mask gives its object's outline away, and so part of its class: compare with true
    pixel masks of the same images, or with another method's maps.

    Args:
        masks: In [0, 1]; one per image, or copies of an image fall into several folds.
        labels: Class indices ``(B,)``, of at least two classes.
        boxes: ``(B, 4)``, ``(0, 0, 0, 0)`` for none; None takes `masks_to_boxes` of the masks.
        reader: Called as ``reader(masks, labels, unread)`` with float64 masks ``(n, 1, 32, 32)`` to
            learn from, their classes ``(n,)``, and masks to return the classes of. The default is
            ridge regression on pixels, edges and spectra; it needs scikit-learn and scikit-image.

    Example:
        >>> labels, masks = torch.arange(40) % 2, torch.zeros(40, 1, 16, 16)
        >>> masks[labels == 0, :, :8], masks[labels == 1, :, 8:] = 1, 1  # upper or lower half
        >>> leakage(masks, labels).accuracy
        1.0
    """
    _check(masks, labels, boxes, folds)
    boxes = masks_to_boxes(masks) if boxes is None else boxes
    _, classes, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    fold = _deal(classes, folds, seed)
    right = _read_all(_small(masks), classes, fold, reader)
    box_right = _read_all(_drawn(boxes, *masks.shape[-2:]), classes, fold, reader)
    means = [_mean(values) for values in (right, box_right, right - box_right)]
    numbers = [number for mean in means for number in mean]
    return Leakage(len(masks), len(counts), float(counts.max() / len(masks)), *numbers)


def _check(masks: Tensor, labels: Tensor, boxes: Tensor | None, folds: int) -> None:
    check_masks(masks)
    check_unit_range(masks)
    check_labels(labels, masks)
    if boxes is not None and boxes.shape != (len(masks), 4):
        raise ValueError(
            f"boxes must have shape {(len(masks), 4)}, one for each mask, but got "
            f"{tuple(boxes.shape)}; None takes the boxes of the masks."
        )
    if len(labels.unique()) < 2:
        raise ValueError(
            "labels must be of at least two classes, but all are of one; add masks of others."
        )
    if not 2 <= folds <= len(masks):
        raise ValueError(
            f"folds must be 2 or more and at most the number of masks, {len(masks)}, but got "
            f"{folds}."
        )


def _deal(classes: Tensor, folds: int, seed: int) -> Tensor:
    """Return the fold ``(B,)`` of each mask, dealt like cards, one class after the other."""
    # scikit-learn's StratifiedKFold refuses folds without a mask of some class.
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(classes)
    fold[order] = torch.arange(len(classes)) % folds
    return fold


def _read_all(masks: Tensor, classes: Tensor, fold: Tensor, reader: Reader) -> Tensor:
    """Return as 0 or 1, ``(B,)``, which masks were read right by one who had not seen them."""
    right = torch.zeros(len(masks), dtype=torch.float64)
    for index in range(int(fold.max()) + 1):
        unread = fold == index
        read = reader(masks[~unread], classes[~unread], masks[unread])
        right[unread] = (read.cpu() == classes[unread]).double()
    return right


def _mean(values: Tensor) -> tuple[float, float]:
    """Return the mean of values and its standard error."""
    return float(values.mean()), float(values.std(correction=0) / len(values) ** 0.5)


def _small(masks: Tensor) -> Tensor:
    parts = [
        adaptive_avg_pool2d(finite_planes(part)[:, None], _SIDE_PX).cpu().double()
        for part in masks.detach().split(_CHUNK)
    ]
    return torch.cat(parts)


def _drawn(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return each box as a mask ``(B, 1, 32, 32)``, partly covered cells as their shares."""
    scale = _SIDE_PX / torch.tensor([width, height, width, height], dtype=torch.float64)
    x0, y0, x1, y1 = (boxes.detach().cpu() * scale).unbind(1)
    down, across = coverage(y0, y1, _SIDE_PX), coverage(x0, x1, _SIDE_PX)
    return (down[:, :, None] * across[:, None, :])[:, None]
