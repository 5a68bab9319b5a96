"""Scores of whole data sets: sums over images, batches and processes, as ``torchmetrics.Metric``.

Importing torchmetrics takes seconds, so other files of this folder do not import this one.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from captum_masking._base.captum import TargetType
from captum_masking.metrics.boxes import Region
from captum_masking.metrics.classifier import Classifier
from captum_masking.metrics.faithfulness import SCORES, masked_scores
from captum_masking.metrics.localization import mask_iou_by_threshold
from captum_masking.metrics.sanity import SIMILARITIES, Similarity, compare_maps
from captum_masking.metrics.statistics import (
    binarized_area,
    mask_area,
    mask_entropy,
    mask_sparseness,
    mask_total_variation,
)
from captum_masking.metrics.thresholds import (
    LEVELS,
    average_precision,
    check_levels,
    max_box_acc,
    max_box_acc_v2,
    pixel_histograms,
    thresholds,
)
from captum_masking.parts.infill import Infill, Mean


class Means(Metric):
    """Means of rows from sums in double precision, independent of batches."""

    is_differentiable = False
    full_state_update = False
    plot_lower_bound: float | None = 0.0
    plot_upper_bound: float | None = 1.0
    seen: Tensor

    def __init__(self, recipe: str, shape: tuple[int, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._recipe = recipe
        # A MetricCollection updates only one of two metrics whose states have the same names and,
        # after the first batch, the same values; two accuracies of 1 must not become one metric.
        self._sum = f"sum_{zlib.crc32(recipe.encode()):08x}"
        self.add_state(self._sum, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def total(self) -> Tensor:
        total: Tensor = getattr(self, self._sum)
        return total

    def add(self, rows: Tensor) -> None:
        """Add one row per image, ``(B, *shape)``."""
        setattr(self, self._sum, self.total + rows.to(self.total).sum(0))
        self.seen += len(rows)

    def means(self) -> Tensor:
        """Return the means over all images so far, in double precision."""
        if self.seen == 0:
            raise RuntimeError("no image was scored: call update(...) before compute().")
        return self.total / self.seen

    def compute(self) -> Any:
        """Return the mean over all images so far, float32."""
        return self.means().float()

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot results of ``compute`` or ``forward``; return figure and axes."""
        return self._plot(val, ax)

    def __repr__(self) -> str:
        return self._recipe


class FiniteMeans(Means):
    """Means by name over images with finite values, and the share of the others."""

    not_finite: Tensor

    def __init__(self, recipe: str, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(recipe, (len(names),), **kwargs)
        self.names = tuple(names)
        self.add_state("not_finite", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, rows: Tensor) -> None:
        """Add one row per image, ``(B, names)``; leave out and count those with NaN or infinity."""
        finite = rows[rows.isfinite().all(1)]
        super().add(finite)
        self.not_finite += len(rows) - len(finite)

    def means_by_name(self) -> dict[str, Tensor]:
        """Return the means, in double precision, and the share ``not_finite``."""
        if self.seen == 0 and self.not_finite:
            raise RuntimeError(
                f"all {int(self.not_finite)} images had NaN or infinity: call update(...) with "
                "finite maps before compute()."
            )
        means = dict(zip(self.names, self.means(), strict=True))
        return means | {"not_finite": self.not_finite / (self.seen + self.not_finite)}

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars by name."""
        return {name: value.float() for name, value in self.means_by_name().items()}


class MeanOf(Means):
    """The mean over images of a function with one value per image, as a ``torchmetrics.Metric``.

    ``update`` takes the arguments of the function, except the options given here. A value of NaN
    makes the mean NaN.

    Args:
        function: Any metric function of this package, or one of your own that returns ``(B,)``.
        **options: Keyword arguments of the function; others go to ``torchmetrics.Metric``.

    Example:
        >>> from captum_masking.metrics import energy_pointing
        >>> metric = MeanOf(energy_pointing)
        >>> metric.update(torch.tensor([[[3.0, 1.0]]]), [torch.tensor([[0, 0, 1, 1]])])
        >>> metric.compute(), metric
        (tensor(0.7500), MeanOf(energy_pointing))
    """

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        own = {name: value for name, value in options.items() if _takes(function, name)}
        name = getattr(function, "__name__", repr(function))
        settings = [name, *(f"{option}={value!r}" for option, value in own.items())]
        rest = {option: value for option, value in options.items() if option not in own}
        super().__init__(f"MeanOf({', '.join(settings)})", **rest)
        self.function, self.options = function, own

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Whether a higher value is better; None if the function does not say."""
        return getattr(self.function, "higher_is_better", None)

    @property
    def plot_lower_bound(self) -> float | None:  # type: ignore[override]
        """The lowest possible value, or None."""
        return getattr(self.function, "plot_lower_bound", None)

    @property
    def plot_upper_bound(self) -> float | None:  # type: ignore[override]
        """The greatest possible value, or None."""
        return getattr(self.function, "plot_upper_bound", None)

    def update(self, *arguments: Any, **named: Any) -> None:
        """Score a batch; the arguments are those of the function."""
        values = self.function(*arguments, **named, **self.options)
        if values.dim() != 1:
            raise ValueError(
                f"the function must return one value per image, (B,), but returned "
                f"{tuple(values.shape)}; average over the other axes inside of it."
            )
        self.add(values)


def _takes(function: Callable[..., Any], option: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin
        return True
    return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class BestThreshold(Means):
    """Means over images by threshold; the score is the mean at the data set's best threshold."""

    higher_is_better = True

    def __init__(self, recipe: str, step: float, levels: int | None = None, **kwargs: Any) -> None:
        shape = (len(thresholds(step)),) if levels is None else (levels, len(thresholds(step)))
        super().__init__(recipe, shape, **kwargs)
        self.step = step

    def compute(self) -> Tensor:
        """Return the largest mean, a scalar in [0, 1]; with several levels, their mean."""
        return self.means().amax(-1).mean().float()

    def best_threshold(self) -> Tensor:
        """Return the smallest threshold with the largest mean, a scalar, or one per level."""
        return thresholds(self.step)[self.means().argmax(-1).cpu()]


class MaxBoxAcc(BestThreshold):
    """The best share over thresholds of objects that `max_box_acc` finds.

    Example:
        >>> metric = MaxBoxAcc()
        >>> mask = torch.tensor([[[0.1, 0.1, 0.1], [0.1, 1.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[1, 1, 3, 2]])])
        >>> metric.compute(), metric.best_threshold()
        (tensor(1.), tensor(0.1000, dtype=torch.float64))
    """

    def __init__(self, *, step: float = 0.01, published: bool = False, **kwargs: Any) -> None:
        super().__init__(f"MaxBoxAcc(step={step}, published={published})", step, **kwargs)
        self.published = published

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc`."""
        self.add(max_box_acc(masks, boxes, step=self.step, published=self.published))


class MaxBoxAccV2(BestThreshold):
    """The mean over IoU levels of the best share over thresholds of what `max_box_acc_v2` finds.

    Example:
        >>> metric = MaxBoxAccV2()
        >>> mask = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> metric.update(mask, [torch.tensor([[2, 0, 3, 2]])])  # IoU 1 / 2: two of three levels
        >>> metric.compute()
        tensor(0.6667)
    """

    def __init__(
        self,
        *,
        step: float = 0.01,
        levels: Sequence[float] = LEVELS,
        published: bool = False,
        **kwargs: Any,
    ) -> None:
        check_levels(levels)
        options = f"step={step}, levels={levels}, published={published}"
        super().__init__(f"MaxBoxAccV2({options})", step, len(levels), **kwargs)
        self.levels, self.published = levels, published

    def update(self, masks: Tensor, boxes: Sequence[Tensor]) -> None:
        """Score a batch; the arguments are those of `max_box_acc_v2`."""
        options: dict[str, Any] = {"levels": self.levels, "published": self.published}
        self.add(max_box_acc_v2(masks, boxes, step=self.step, **options))


class MaxMaskIoU(BestThreshold):
    """The mean of `mask_iou` over images, masks in [0, 1], at the data set's best threshold.

    Example:
        >>> metric = MaxMaskIoU()
        >>> metric.update(torch.tensor([[[0.9, 0.5, 0.1, 0.0]]]), torch.tensor([[[1, 0, 0, 0]]]))
        >>> metric.compute(), metric.best_threshold()
        (tensor(1.), tensor(0.5000, dtype=torch.float64))
    """

    def __init__(self, *, step: float = 0.01, **kwargs: Any) -> None:
        super().__init__(f"MaxMaskIoU(step={step})", step, **kwargs)

    def update(self, masks: Tensor, truth: Region) -> None:
        """Score a batch; the arguments are those of `mask_iou`."""
        self.add(mask_iou_by_threshold(masks, truth, step=self.step))


class PxAP(Means):
    """Average precision over the pooled pixels of a data set, a fraction.

    Example:
        >>> metric = PxAP()
        >>> metric.update(torch.tensor([[[0.0, 0.6, 1.0]]]), torch.tensor([[[0, 1, 0]]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, *, step: float = 0.001, **kwargs: Any) -> None:
        super().__init__(f"PxAP(step={step})", (2, len(thresholds(step)) + 1), **kwargs)
        self.step = step

    def update(self, masks: Tensor, truth: Region, ignore: Tensor | None = None) -> None:
        """Count a batch; the arguments are those of `pxap`."""
        self.add(pixel_histograms(masks, truth, step=self.step, ignore=ignore))

    def compute(self) -> Tensor:
        """Return the pooled average precision, a scalar in [0, 1]."""
        if not self.total[1].sum():
            raise RuntimeError("no object was scored: call update(masks, truth) before compute().")
        return average_precision(self.total)


class MaskedScores(Means):
    """The means over images of all `masked_scores`, by name.

    Example:
        >>> metric = MaskedScores()
        >>> inputs, masks = torch.tensor([[[[2.0, 1.0]]]]), torch.tensor([[[1.0, 0.0]]])
        >>> metric.update(torch.nn.Flatten(), inputs, masks, target=0)
        >>> metric.compute()["masked_in_accuracy"]
        tensor(1.)
    """

    plot_lower_bound = -1.0
    plot_upper_bound = None  # the entropy reaches log(classes)

    def __init__(self, *, infill: Infill = Mean(), batch_size: int = 32, **kwargs: Any) -> None:
        recipe = f"MaskedScores(infill={infill!r}, batch_size={batch_size})"
        super().__init__(recipe, (len(SCORES),), **kwargs)
        self.options: dict[str, Any] = {"infill": infill, "batch_size": batch_size}

    def update(
        self, classifier: Classifier, inputs: Tensor, masks: Tensor, target: TargetType = None
    ) -> None:
        """Score a batch; the arguments are those of `masked_scores`."""
        scores = masked_scores(classifier, inputs, masks, target, **self.options)
        self.add(torch.stack(list(scores.values()), 1))

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name, float32 scalars."""
        return dict(zip(SCORES, self.means().float(), strict=True))


class MapSimilarity(FiniteMeans):
    """The means over images of the similarities of two maps, by name; see `compare_maps`.

    Pairs with a map that is not finite are omitted; ``not_finite`` is their share.

    Example:
        >>> metric = MapSimilarity()
        >>> metric.update(torch.eye(32)[None], torch.eye(32)[None])
        >>> metric.compute()["hog"]
        tensor(1.)
    """

    plot_lower_bound = -1.0

    def __init__(
        self, *, similarities: Mapping[str, Similarity] = SIMILARITIES, **kwargs: Any
    ) -> None:
        named = (f"{name!r}: {_name(function)}" for name, function in similarities.items())
        recipe = f"MapSimilarity(similarities={{{', '.join(named)}}})"
        super().__init__(recipe, tuple(similarities), **kwargs)
        self.similarities = dict(similarities)  # a proxy cannot be pickled

    def update(self, maps: Tensor, others: Tensor) -> None:
        """Add a batch of pairs of maps."""
        values = compare_maps(maps, others, similarities=self.similarities)
        self.add(torch.stack(list(values.values()), 1))


def _name(function: Any) -> str:
    if isinstance(function, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"partial({_name(function.func)}, {options})"
    return str(getattr(function, "__name__", function))


_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "area": mask_area,
    "binarized_area": binarized_area,
    "entropy": mask_entropy,
    "published_entropy": partial(mask_entropy, published=True),
    "total_variation": mask_total_variation,
    "sparseness": mask_sparseness,
    "squared_area": lambda masks: mask_area(masks).double() ** 2,
}


class MaskStatistics(FiniteMeans):
    """Statistics of all masks of a data set, by name.

    ``area``, ``binarized_area``, ``entropy``, ``published_entropy``, ``total_variation`` and
    ``sparseness`` are means over the finite masks, ``area_spread`` is the standard deviation of
    their areas (over the data set, not batches), and ``not_finite`` the share of the other masks.

    Example:
        >>> metric = MaskStatistics()
        >>> metric.update(torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]))
        >>> metric.compute()["area"], metric.compute()["area_spread"]
        (tensor(0.5000), tensor(0.5000))
    """

    plot_upper_bound = None  # total variation reaches 2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("MaskStatistics()", tuple(_STATISTICS), **kwargs)

    def update(self, masks: Tensor) -> None:
        """Add a batch of masks in [0, 1]."""
        columns = [statistic(masks).to(self.total) for statistic in _STATISTICS.values()]
        self.add(torch.stack(columns, 1))

    def means_by_name(self) -> dict[str, Tensor]:
        """Return the means, in double precision, ``area_spread``, and the share ``not_finite``."""
        means = super().means_by_name()
        variance = means.pop("squared_area") - means["area"] ** 2
        return means | {"area_spread": variance.clamp(min=0).sqrt()}
