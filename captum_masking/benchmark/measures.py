"""From one row an image to one number for all, as often as the bootstrap draws the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking.benchmark.images import Batch, Pixels
from captum_masking.benchmark.methods import Method
from captum_masking.benchmark.result import Column, Interval, Result, Row, Store
from captum_masking.metrics.boxes import best_box_iou
from captum_masking.metrics.curves import deletion, insertion
from captum_masking.metrics.faithfulness import completeness_and_soundness, masked_scores
from captum_masking.metrics.localization import (
    energy_pointing,
    f1,
    f1_mean,
    localization_error,
    mask_iou,
    mask_iou_by_threshold,
    om,
    pointing_game,
)
from captum_masking.metrics.robustness import infidelity, max_sensitivity
from captum_masking.metrics.saliency_metric import saliency_metric
from captum_masking.metrics.statistics import (
    binarized_area,
    mask_area,
    mask_entropy,
    mask_sparseness,
    mask_total_variation,
)
from captum_masking.metrics.thresholds import (
    average_precision,
    max_box_acc,
    max_box_acc_v2,
    pixel_histograms,
    thresholds,
)
from captum_masking.parts.infill import Blur, Infill, Mean

Array = np.ndarray[Any, np.dtype[Any]]

#: Maps rows ``(n, ...)`` and how often each image is drawn ``(R, n)`` to ``(R,)`` numbers.
Statistic = Callable[[Array, Array], Array]


def mean(rows: Array, draws: Array) -> Array:
    """Return the mean of rows ``(n,)`` in each draw; rows of NaN do not count.

    Source:
        Own.

    Example:
        >>> mean(np.array([1.0, 0.0, np.nan]), np.array([[1, 1, 1], [2, 0, 1]]))
        array([0.5, 1. ])
    """
    known = np.isfinite(rows)
    weights = draws[:, known].astype(float)
    with np.errstate(invalid="ignore"):  # a draw without any such image gives NaN
        return (weights @ rows[known]) / weights.sum(1)


def spread(rows: Array, draws: Array) -> Array:
    """Return the standard deviation (over n, not n - 1) of rows ``(n,)`` in each draw.

    Source:
        Own.

    Example:
        >>> spread(np.array([1.0, 3.0, np.nan]), np.array([[1, 1, 1], [2, 0, 0]]))
        array([1., 0.])
    """
    return np.sqrt(np.maximum(mean(rows**2, draws) - mean(rows, draws) ** 2, 0))


def pooled_precision(rows: Array, draws: Array) -> Array:
    """Return the average precision of pixel histograms ``(n, 2, bins)`` pooled in each draw.

    Source:
        Choe et al. 2020, PxAP.

    Example:
        >>> pooled_precision(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[1]]))
        array([1.])
    """
    known = np.isfinite(rows).all((1, 2))
    pooled = draws[:, known].astype(float) @ rows[known].reshape(int(known.sum()), -1)
    histograms = torch.from_numpy(pooled).reshape(len(draws), *rows.shape[1:])
    return average_precision(histograms).double().numpy()


def at_best_threshold(rows: Array, parts: Array) -> tuple[Array, list[float]]:
    """Choose thresholds on one part of the images and read the other part's values there.

    Both parts take their turn, so that every image is scored by what others chose.

    Args:
        rows: ``(n, T)``, higher is better, by threshold; or ``(n, L, T)``, for each of L levels,
            over which the mean is taken at the end.
        parts: ``(n,)``, 0 or 1: the part of each image.

    Returns:
        ``(values, chosen)``: one value an image ``(n,)``, and the thresholds chosen: on part 1
        for part 0, then the other way about, each by level. With all images in one part, NaN.

    Source:
        Choe et al. 2020 choose the threshold on images that they do not report on; two folds
        are our own.

    Example:
        >>> rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> values, chosen = at_best_threshold(rows, np.array([0, 0, 1, 1]))
        >>> values, chosen  # part 1 is undecided and takes the lower threshold
        (array([1., 1., 0., 1.]), [0.0, 0.0])
    """
    levels = rows[:, None] if rows.ndim == 2 else rows
    steps = thresholds(1 / levels.shape[2]).numpy()
    values, chosen = np.full(len(rows), np.nan), []
    known = np.isfinite(levels).all((1, 2))
    for part in (0, 1):
        choose_on, report_on = known & (parts != part), known & (parts == part)
        if not choose_on.any():
            continue
        best = levels[choose_on].mean(0).argmax(1)  # (L,)
        chosen += [round(float(step), 4) for step in steps[best]]
        values[report_on] = levels[report_on][:, np.arange(len(best)), best].mean(1)
    return values, chosen


def halves(count: int, seed: int) -> Array:
    """Split images into two parts of equal size by lot, ``(n,)`` of 0 and 1."""
    return np.random.default_rng(seed).permutation(count) % 2


def draw(count: int, *, resamples: int, seed: int) -> Array:
    """Draw images with replacement: how often each is drawn ``(1 + resamples, count)``.

    The first row is each image once, which gives the estimate itself.

    Source:
        Efron & Tibshirani 1993.

    Example:
        >>> draw(3, resamples=2, seed=0).sum(1)
        array([3, 3, 3])
    """
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])


def interval(numbers: Array) -> Interval:
    """Return the first number with the 2.5th and 97.5th percentile of the others.

    Source:
        Efron & Tibshirani 1993, percentile interval.

    Example:
        >>> interval(np.array([0.5, 0.0, 1.0]))
        Interval(mean=0.5, low=0.025, high=0.975)
    """
    low, high = np.nanpercentile(numbers[1:], [2.5, 97.5])
    return Interval(float(numbers[0]), float(low), float(high))


# ---- What is measured of a batch of maps: arrays with one row an image, from which tables are
# made.
#
# A row is NaN all over where an image has no such ground truth.

Arrays = dict[str, Tensor]

_PIXEL_STEP = 0.01  # of average precision, as Phang et al. take it


class Scores:
    """All that is measured of a method's maps.

    Args:
        judge: The classifier whose answers count, in eval mode.
        curve_steps: Points of the insertion and deletion curves; RISE takes 28.
        curve_images: So many images, from the first on, have these curves; None is all.
        robustness: Also measure infidelity and max-sensitivity, which ask the method itself
            eleven times over.
        infill: What fills the holes.

    Source:
        Own; the scores are those of ``captum_masking.metrics``.
    """

    def __init__(
        self,
        judge: nn.Module,
        *,
        curve_steps: int = 10,
        curve_images: int | None = None,
        robustness: bool = False,
        infill: Infill = Mean(),
    ) -> None:
        self.judge = judge
        self.curve_steps, self.curve_images = curve_steps, curve_images
        self.robustness, self.infill = robustness, infill

    def __call__(self, method: Method, maps: Tensor, batch: Batch) -> Arrays:
        """Measure maps ``(B, 1, H, W)`` in [0, 1]; return arrays ``(B, ...)`` by name."""
        arrays = {
            "correct": batch.correct.float(),
            "degenerate": (~maps.isfinite()).flatten(1).any(1).float(),
            **statistics(maps),
        }
        if batch.boxes is not None:
            arrays |= by_boxes(maps, batch.boxes, batch.correct)
        if batch.pixels is not None:
            arrays |= by_pixels(maps, batch.pixels)
        judged = (self.judge, batch.inputs, maps, batch.target)
        arrays |= masked_scores(*judged, infill=self.infill)
        arrays["saliency_metric"] = saliency_metric(*judged)
        if self.curve_images is None or batch.first < self.curve_images:
            arrays |= self._curves(*judged)
        if self.robustness:
            arrays |= self._robust(method, batch)
        return arrays

    def _curves(self, *judged: Any) -> Arrays:
        height, width = judged[1].shape[2:]
        curve: dict[str, Any] = {"step_px": max(height * width // self.curve_steps, 1)}
        complete, sound = completeness_and_soundness(*judged, infill=self.infill, **curve)
        return {
            "insertion": insertion(*judged, infill=Blur(sigma_px=5.0), **curve),
            "deletion": deletion(*judged, infill=self.infill, **curve),
            "completeness": complete,
            "soundness": sound,
        }

    def _robust(self, method: Method, batch: Batch) -> Arrays:
        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            return method.maps(inputs.detach(), target)

        asked: tuple[Any, ...] = (self.judge, batch.inputs, explain, batch.target)
        return {"infidelity": infidelity(*asked), "max_sensitivity": max_sensitivity(*asked)}


def by_boxes(maps: Tensor, boxes: Sequence[Tensor], correct: Tensor) -> Arrays:
    """Compare maps ``(B, 1, H, W)`` with boxes; images without a box get NaN.

    Args:
        maps: In [0, 1], or NaN.
        boxes: One tensor ``(n, 4)`` an image in pixels, n >= 0.
        correct: ``(B,)``, whether the classifier sees the class explained.

    Returns:
        Arrays ``(B, ...)``: ``error``, ``box_iou``, ``om``, ``f1``, ``f1_mean``, ``pointing``,
        ``energy``, ``found`` by threshold, ``found_v2`` by level and threshold, ``pixels``.

    Source:
        As the metrics.

    Example:
        >>> maps = torch.zeros(2, 1, 4, 4)
        >>> maps[:, :, :2, :2] = 1
        >>> boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(0, 4)]
        >>> by_boxes(maps, boxes, torch.tensor([True, True]))["error"]
        tensor([0., nan])
    """
    boxed = torch.tensor([len(found) > 0 for found in boxes])
    if not boxed.any():
        return {}
    some, known = maps[boxed], [found for found in boxes if len(found)]
    arrays = {
        "error": localization_error(some, known),
        "box_iou": best_box_iou(some, known),
        "om": om(some, known, correct[boxed]),
        "f1": f1(some, known),
        "f1_mean": f1_mean(some, known),
        "pointing": pointing_game(some, known),
        "energy": energy_pointing(some, known),
        "found": max_box_acc(some, known),
        "found_v2": max_box_acc_v2(some, known),
        "pixels": pixel_histograms(some, known, step=_PIXEL_STEP),
    }
    return {name: _spread(values, boxed) for name, values in arrays.items()}


def by_pixels(maps: Tensor, pixels: Pixels) -> Arrays:
    """Compare maps ``(B, 1, H, W)`` with pixel masks; images without any object get NaN.

    Args:
        maps: In [0, 1], or NaN.
        pixels: The object, and what is not to be judged.

    Returns:
        Arrays ``(B, ...)``: ``mask_iou``, ``mask_ious`` by threshold, ``mask_pointing``,
        ``mask_energy``, ``mask_pixels``.

    Source:
        As the metrics.

    Example:
        >>> maps = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
        >>> known = torch.tensor([[[True, False, False, False]]])
        >>> round(float(by_pixels(maps, Pixels(known, ~known & False))["mask_iou"]), 2)
        0.5
        >>> ignore = torch.tensor([[[False, True, False, False]]])
        >>> float(by_pixels(maps, Pixels(known, ignore))["mask_iou"])
        1.0
    """
    there = pixels.object.flatten(1).any(1)
    if not there.any():
        return {}
    # A pixel that is not judged, given the least value, is neither found nor missed.
    some = maps[there].where(~pixels.ignore[there][:, None], 0)
    known = pixels.object[there][:, None]
    arrays = {
        "mask_iou": mask_iou(some, known),
        "mask_ious": mask_iou_by_threshold(some, known),
        "mask_pointing": pointing_game(some, known),
        "mask_energy": energy_pointing(some, known),
        "mask_pixels": pixel_histograms(
            some, known, step=_PIXEL_STEP, ignore=pixels.ignore[there][:, None]
        ),
    }
    return {name: _spread(values, there) for name, values in arrays.items()}


def statistics(maps: Tensor) -> Arrays:
    """Describe maps ``(B, 1, H, W)`` without any ground truth; NaN for one that has NaN."""
    return {
        "area": mask_area(maps),
        "binarized_area": binarized_area(maps),
        "entropy": mask_entropy(maps),
        "total_variation": mask_total_variation(maps),
        "sparseness": mask_sparseness(maps),
    }


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """Put values ``(n, ...)`` into the n rows named by booleans ``(B,)``, NaN into the others."""
    spread = values.new_full((len(rows), *values.shape[1:]), float("nan"), dtype=torch.float32)
    spread[rows] = values.float()
    return spread


# ---- Every column of the benchmark: which array it is made of, and how.


class Measure(NamedTuple):
    """A column and how it is made.

    Attributes:
        column: What stands above it.
        array: The name in :class:`~captum_masking.benchmark.measures.Scores`.
        statistic: Of the rows that are left after the choice of thresholds.
        tuned: Whether thresholds are chosen on one part of the images and reported on the other.
        turn: Applied to the rows at last, such as ``1 - found`` for an error.

    Source:
        Own.
    """

    column: Column
    array: str
    statistic: Statistic = mean
    tuned: bool = False
    turn: Callable[[Array], Array] = lambda rows: rows

    def rows(self, array: Array, parts: Array) -> tuple[Array, list[float]]:
        """Return one row an image, and the thresholds chosen, if any."""
        rows, chosen = at_best_threshold(array, parts) if self.tuned else (array, [])
        return self.turn(np.asarray(rows, dtype=float)), chosen


def _percent(
    key: str, title: str, group: str, better: bool | None, legend: str, headline: bool = False
) -> Column:
    return Column(key, f"{title}, %", group, better, 100.0, 1, legend, headline)


def _plain(
    key: str, title: str, group: str, better: bool | None, legend: str, headline: bool = False
) -> Column:
    return Column(key, title, group, better, 1.0, 3, legend, headline)


_BOXES, _PIXELS = "Where it is, by boxes", "Where it is, by pixel masks"
_MASKED, _CURVES, _SHAPE = "What the classifier says", "In the order of the map", "The maps"

#: All columns, in the order of the tables.
MEASURES: tuple[Measure, ...] = (
    Measure(
        _percent(
            "error_at_mean",
            "LE",
            _BOXES,
            False,
            "Localization error: the box around the largest part of the map, cut at its own mean, "
            "overlaps no true box by an IoU above 0.5.",
            True,
        ),
        "error",
    ),
    Measure(
        _percent(
            "error_at_best",
            "LE, best cut",
            _BOXES,
            False,
            "The same at the share of its maximum that suits each method best, chosen on one half "
            "of the images and reported on the other (1 - MaxBoxAcc).",
            True,
        ),
        "found",
        tuned=True,
        turn=lambda rows: 1 - rows,
    ),
    Measure(
        _percent(
            "max_box_acc_v2",
            "MaxBoxAccV2",
            _BOXES,
            True,
            "Share of objects that the box of any part finds, mean over IoUs of 0.3, 0.5 and 0.7, "
            "each at the best cut, chosen as above.",
        ),
        "found_v2",
        tuned=True,
    ),
    Measure(
        _percent(
            "box_iou",
            "box IoU",
            _BOXES,
            True,
            "IoU of the map's box, cut at its mean, with the best true box.",
        ),
        "box_iou",
    ),
    Measure(
        _percent(
            "om",
            "OM",
            _BOXES,
            False,
            "As LE; an image whose class the classifier does not see counts as an error.",
        ),
        "om",
    ),
    Measure(_percent("f1", "F1", _BOXES, True, "F1 of the map's weight with its best box."), "f1"),
    Measure(
        _percent("f1_mean", "F1a", _BOXES, True, "The same, mean over the image's boxes."),
        "f1_mean",
    ),
    Measure(
        _percent(
            "pxap_boxes",
            "PxAP",
            _BOXES,
            True,
            "Average precision of pixels, all images pooled, the boxes being the object.",
            True,
        ),
        "pixels",
        pooled_precision,
    ),
    Measure(
        _percent("pointing", "pointing", _BOXES, True, "The map's greatest value lies in a box."),
        "pointing",
    ),
    Measure(
        _percent("energy", "energy", _BOXES, True, "Share of the map's weight inside boxes."),
        "energy",
    ),
    Measure(
        _percent(
            "mask_iou_at_best",
            "IoU, best cut",
            _PIXELS,
            True,
            "IoU with the pixel mask at each method's best threshold, chosen on one half of the "
            "images and reported on the other.",
            True,
        ),
        "mask_ious",
        tuned=True,
    ),
    Measure(
        _percent("mask_iou", "IoU at mean", _PIXELS, True, "The same, each map cut at its mean."),
        "mask_iou",
    ),
    Measure(
        _percent(
            "pxap_masks",
            "PxAP",
            _PIXELS,
            True,
            "Average precision of pixels, all images pooled; border pixels are not judged.",
            True,
        ),
        "mask_pixels",
        pooled_precision,
    ),
    Measure(
        _percent(
            "mask_pointing", "pointing", _PIXELS, True, "The greatest value lies on the object."
        ),
        "mask_pointing",
    ),
    Measure(
        _percent("mask_energy", "energy", _PIXELS, True, "Share of the map's weight on it."),
        "mask_energy",
    ),
    Measure(
        _plain(
            "saliency_metric",
            "SM",
            _MASKED,
            False,
            "Saliency Metric: log area of the box around all that is salient, cut at the mean, "
            "minus log confidence on that crop.",
            True,
        ),
        "saliency_metric",
    ),
    Measure(
        _percent(
            "masked_in_accuracy",
            "masked-in",
            _MASKED,
            True,
            "The class is still seen when only the map's evidence is shown; more area is easier.",
            True,
        ),
        "masked_in_accuracy",
    ),
    Measure(
        _percent(
            "masked_out_accuracy",
            "masked-out",
            _MASKED,
            False,
            "The class is still seen when the evidence is taken away.",
        ),
        "masked_out_accuracy",
    ),
    Measure(
        _plain(
            "masked_out_entropy",
            "entropy out",
            _MASKED,
            True,
            "Entropy of the prediction without the evidence, in nats.",
        ),
        "masked_out_entropy",
    ),
    Measure(
        _percent(
            "average_drop",
            "avg drop",
            _MASKED,
            False,
            "Share of its confidence that the classifier loses when only the evidence is shown.",
            True,
        ),
        "average_drop",
    ),
    Measure(
        _percent(
            "average_gain",
            "avg gain",
            _MASKED,
            True,
            "Share of the confidence that was missing and is won by showing only the evidence.",
        ),
        "average_gain",
    ),
    Measure(
        _percent(
            "average_increase",
            "increase",
            _MASKED,
            True,
            "Share of images whose confidence rises when only the evidence is shown.",
        ),
        "average_increase",
    ),
    Measure(
        _plain(
            "insertion",
            "insertion",
            _CURVES,
            True,
            "Area under the confidence as pixels come back into a blurred image, most salient "
            "first; every map shows equal areas.",
            True,
        ),
        "insertion",
    ),
    Measure(
        _plain(
            "deletion",
            "deletion",
            _CURVES,
            False,
            "Area under the confidence as pixels go, most salient first.",
            True,
        ),
        "deletion",
    ),
    Measure(
        _plain(
            "completeness",
            "completeness",
            _CURVES,
            True,
            "How far the pixels, put back into an empty image, convince of the class.",
        ),
        "completeness",
    ),
    Measure(
        _plain(
            "soundness",
            "soundness",
            _CURVES,
            True,
            "How little they convince of any other class than the classifier believed.",
        ),
        "soundness",
    ),
    Measure(
        _plain(
            "infidelity",
            "infidelity",
            _CURVES,
            False,
            "How badly the map foretells what removing squares does to the logit.",
        ),
        "infidelity",
    ),
    Measure(
        _plain(
            "max_sensitivity",
            "max-sensitivity",
            _CURVES,
            False,
            "How much the map changes when the image hardly does.",
        ),
        "max_sensitivity",
    ),
    Measure(_percent("area", "area", _SHAPE, None, "Mean of the map.", True), "area"),
    Measure(
        _percent("area_spread", "spread of area", _SHAPE, None, "Its standard deviation."),
        "area",
        spread,
    ),
    Measure(
        _percent("binarized_area", "area above mean", _SHAPE, None, "Share of pixels above it."),
        "binarized_area",
    ),
    Measure(
        _plain("entropy", "entropy", _SHAPE, None, "Mean binary entropy of the pixels, in bits."),
        "entropy",
    ),
    Measure(
        _plain("total_variation", "TV", _SHAPE, None, "Mean squared change to the next pixel."),
        "total_variation",
    ),
    Measure(_plain("sparseness", "sparseness", _SHAPE, None, "Gini index."), "sparseness"),
)


# ---- From stored scores to the table: every column of every row with its interval.

_RESAMPLES = 2000


class _Drawn(NamedTuple):
    """A column of a row: its number on all images, then in every resample."""

    numbers: Array
    chosen: list[float]


def summarize(
    store: Store,
    methods: Mapping[str, Method],
    firsts: Sequence[int],
    *,
    failures: Mapping[str, str],
    reference: str,
    seed: int,
    setting: dict[str, Any],
    notes: Sequence[str],
) -> Result:
    """Make the table of a benchmark from what is stored.

    Args:
        store: Holds the arrays of all batches of every method that did not fail.
        methods: The rows, in order.
        firsts: First image of each batch.
        failures: By name, why a method has no scores.
        reference: The row that the others are compared with; left out if it failed.
        seed: Of the split into halves and of the bootstrap.
        setting: Told in the report.
        notes: Likewise.

    Returns:
        Rows, intervals and differences. All rows are resampled alike, so that differences are
        paired; thresholds stay as chosen.

    Source:
        Own.
    """
    arrays = {name: store.read(name, firsts) for name in methods if name not in failures}
    correct = next((found["correct"] for found in arrays.values()), np.zeros(0))
    count = len(correct)
    parts, draws = halves(count, seed), draw(max(count, 1), resamples=_RESAMPLES, seed=seed)
    drawn = {name: _drawn(found, parts, draws) for name, found in arrays.items()}
    rows = [
        _row(name, method, store, arrays.get(name), drawn.get(name, {}), failures.get(name, ""))
        for name, method in methods.items()
    ]
    present = {key for found in drawn.values() for key in found}
    return Result(
        columns=[measure.column for measure in MEASURES if measure.column.key in present],
        rows=rows,
        images=count,
        setting={**setting, "accuracy": round(float(correct.mean()), 4) if count else None},
        notes=notes,
        differences=_differences(drawn, reference),
        reference=reference if reference in drawn else "",
        thresholds={name: _thresholds(found) for name, found in drawn.items()},
    )


def _drawn(arrays: dict[str, Array], parts: Array, draws: Array) -> dict[str, _Drawn]:
    measured = [measure for measure in MEASURES if measure.array in arrays]
    found = {m.column.key: _of(m, arrays[m.array], parts, draws) for m in measured}
    return {key: one for key, one in found.items() if np.isfinite(one.numbers[0])}


def _of(measure: Measure, array: Array, parts: Array, draws: Array) -> _Drawn:
    rows, chosen = measure.rows(array, parts)
    return _Drawn(measure.statistic(rows, draws), chosen)


def _row(
    name: str,
    method: Method,
    store: Store,
    arrays: dict[str, Array] | None,
    drawn: dict[str, _Drawn],
    failure: str,
) -> Row:
    return Row(
        name,
        method.family,
        method.settings,
        {key: interval(found.numbers) for key, found in drawn.items()},
        store.cost(name),
        0 if arrays is None else int(arrays["degenerate"].sum()),
        failure,
    )


def _differences(
    drawn: dict[str, dict[str, _Drawn]], reference: str
) -> dict[str, dict[str, Interval]]:
    """Return, by column, what each row has more than the reference."""
    differences: dict[str, dict[str, Interval]] = {}
    for name, found in drawn.items():
        for key, (numbers, _) in found.items():
            if name != reference and key in drawn.get(reference, {}):
                less = drawn[reference][key].numbers
                differences.setdefault(key, {})[name] = interval(numbers - less)
    return differences


def _thresholds(found: dict[str, _Drawn]) -> dict[str, list[float]]:
    return {key: one.chosen for key, one in found.items() if one.chosen}
