"""The leakage audit: how much masks alone give away about the class."""

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
    """How often the class can be read from masks, and from their boxes; prints as a table.

    ``chance`` is the share of the most frequent class, ``accuracy`` that of a reader on masks it
    has not seen, ``box_accuracy`` the same for the masks' boxes (size and position only), and
    ``shape_adds`` their difference, each with its standard error.

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
        """Return whether accuracy exceeds chance by more than two standard errors."""
        return self.accuracy - self.chance > 2 * self.standard_error

    def shape_gives_away(self) -> bool:
        """Return whether masks also beat their boxes by more than two standard errors."""
        return self.gives_away() and self.shape_adds > 2 * self.shape_standard_error

    def sentence(self) -> str:
        """Return a sentence on how much the masks give away."""
        share = f"{100 * self.accuracy:.1f} %"
        read = f"classified {share} of {self.masks} masks correctly ({self.classes} classes)"
        above = f"{100 * (self.accuracy - self.chance):.1f} points"
        if not self.gives_away():
            return f"No sign that masks give the class away: {read}, {above} from chance."
        adds = f"{100 * self.shape_adds:.1f} +- {100 * self.shape_standard_error:.1f} points"
        shape = (
            f"Their shape adds {adds} to size and position."
            if self.shape_gives_away()
            else f"Their size and position do; their shape adds nothing significant ({adds})."
        )
        return f"Masks give the class away: {read}, {above} above chance. {shape}"

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
    """Classify masks by the ridge classifier with the smallest leave-one-out error."""
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
    # The spectrum is symmetric, so half of its columns is enough.
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
    """Classify masks alone, without the images.

    The accuracy is cross-validated with stratified folds, and also computed for each mask's box,
    drawn as a rectangle. It is a lower bound: a better reader might read more.

    An honest mask shows its object's outline, and so part of its class: compare with true pixel
    masks of the same images, or with another method's maps.

    Args:
        masks: In [0, 1]; only one per image, since copies would fall into several folds.
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
            "labels must have at least two classes, but have one; add masks of other classes."
        )
    if not 2 <= folds <= len(masks):
        raise ValueError(
            f"folds must be 2 or more and at most the number of masks, {len(masks)}, but got "
            f"{folds}."
        )


def _deal(classes: Tensor, folds: int, seed: int) -> Tensor:
    """Return the stratified fold ``(B,)`` of each mask."""
    # scikit-learn's StratifiedKFold refuses folds without a mask of some class.
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(classes), generator=generator)
    order = shuffled[classes[shuffled].argsort(stable=True)]
    fold = torch.empty_like(classes)
    fold[order] = torch.arange(len(classes)) % folds
    return fold


def _read_all(masks: Tensor, classes: Tensor, fold: Tensor, reader: Reader) -> Tensor:
    """Return 1 for each mask that is classified correctly when held out, else 0, ``(B,)``."""
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
