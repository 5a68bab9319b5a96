"""Measure maps, one row per image, and make a table with the bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captum_masking import metrics
from captum_masking.benchmark.images import Batch, Pixels
from captum_masking.benchmark.methods import Method
from captum_masking.benchmark.result import Array, Column, Interval, Result, Row, Store
from captum_masking.metrics.boxes import exact_ious, masks_to_boxes
from captum_masking.metrics.localization import mask_iou_by_threshold
from captum_masking.metrics.thresholds import (
    at_levels,
    average_precision,
    best_ious,
    pixel_histograms,
    thresholds,
)
from captum_masking.parts.infill import Blur, Infill, Mean

# ---- The bootstrap: from one row per image to one number per draw of the images.

#: Maps rows ``(n, ...)`` and the counts of each image per draw ``(R, n)`` to ``(R,)`` numbers.
Statistic = Callable[[Array, Array], Array]


def draw(count: int, *, resamples: int, seed: int) -> Array:
    """Draw images with replacement, ``(1 + resamples, count)``; row 0 has each image once."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn])


def interval(numbers: Array) -> Interval:
    """Return the first number, and the 2.5th and 97.5th percentiles of the others."""
    low, high = np.nanpercentile(numbers[1:], [2.5, 97.5])
    return Interval(float(numbers[0]), float(low), float(high))


def mean(rows: Array, draws: Array) -> Array:
    """Return the mean of rows ``(n,)`` in each draw, without NaN."""
    known = np.isfinite(rows)
    weights = draws[:, known].astype(float)
    with np.errstate(invalid="ignore"):  # a draw without such an image gives NaN
        return (weights @ rows[known]) / weights.sum(1)


def spread(rows: Array, draws: Array) -> Array:
    """Return the standard deviation (over n, not n - 1) of rows ``(n,)`` in each draw."""
    return np.sqrt(np.maximum(mean(rows**2, draws) - mean(rows, draws) ** 2, 0))


def pooled_precision(rows: Array, draws: Array) -> Array:
    """Return the average precision of pixel histograms ``(n, 2, bins)`` pooled in each draw."""
    known = np.isfinite(rows).all((1, 2))
    pooled = draws[:, known].astype(float) @ rows[known].reshape(int(known.sum()), -1)
    histograms = torch.from_numpy(pooled).reshape(len(draws), *rows.shape[1:])
    return average_precision(histograms).double().numpy()


def at_best_threshold(rows: Array, parts: Array, read: Any = (0, 1)) -> tuple[Array, list[float]]:
    """Choose thresholds on one part ``(n,)`` of the images for the other, and vice versa."""
    levels = rows[:, None] if rows.ndim == 2 else rows  # (n, L, T), higher is better
    steps = thresholds(1 / levels.shape[2]).numpy()
    values, chosen = np.full(len(rows), np.nan), []
    known = np.isfinite(levels).all((1, 2))
    for part in read:
        choose_on, report_on = known & (parts != part), known & (parts == part)
        if not choose_on.any():
            continue
        best = levels[choose_on].mean(0).argmax(1)  # (L,), as Choe et al. 2020 ask
        chosen += [round(float(step), 4) for step in steps[best]]
        values[report_on] = levels[report_on][:, np.arange(len(best)), best].mean(1)
    return values, chosen


def halves(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).permutation(count) % 2


def best_variants(variants: Mapping[str, dict[str, Array]], parts: Array) -> list[str]:
    """For each part, return the variant that is best on the other part, else the first.

    Boxes decide, or pixel masks if there are no boxes.
    """

    def found(name: str, part: int) -> float:
        rows = variants[name].get("found", variants[name].get("mask_ious", parts[:, None]))
        return float(np.nansum(rows[parts != part], axis=0).max())

    return [max(variants, key=partial(found, part=part)) for part in (0, 1)]


# ---- Arrays ``(B, ...)`` by name, measured on a batch of maps. A row is all NaN if an image has
# no such ground truth.

Arrays = dict[str, Tensor]

_PIXEL_STEP = 0.01  # of average precision, as Phang et al. take it


#: The default measures, and those that take longer.
QUICK = ("le", "iou", "masked", "sm", "equal", "maps")
LONG = ("half", "curves", "infidelity", "sensitivity")


def asked(measures: str | Iterable[str]) -> tuple[str, ...]:
    """Return distinct names of measures; expand ``quick`` and ``all``."""
    several = {"quick": QUICK, "all": QUICK + LONG}
    words = measures.split(",") if isinstance(measures, str) else measures
    names = [word.strip().lower() for word in words]
    unknown = [name for name in names if name not in (*several, *QUICK, *LONG)]
    if unknown or not names:
        raise ValueError(
            f"measures must be among {', '.join([*several, *QUICK, *LONG])}, but got "
            f"{', '.join(unknown) or 'none'}."
        )
    found = {each for name in names for each in several.get(name, (name,))}
    return tuple(name for name in QUICK + LONG if name in found)


@dataclass
class Scores:
    judge: nn.Module
    measures: Sequence[str] = QUICK
    curve_steps: int = 10
    curve_images: int | None = None
    infill: Infill = Mean()

    def __call__(
        self, method: Method, maps: Tensor, batch: Batch, areas: Tensor | None = None
    ) -> Arrays:
        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            return method.maps(inputs.detach(), target)

        judged = (self.judge, batch.inputs, maps, batch.target)
        robust = (self.judge, batch.inputs, explain, batch.target)
        whole: dict[str, Any] = {"whole": batch.logits, "infill": self.infill}
        measured: dict[str, Callable[[], Arrays]] = {
            "le": lambda: by_boxes(maps, batch.boxes, batch.correct),
            "iou": lambda: by_pixels(maps, batch.pixels),
            "masked": lambda: metrics.masked_scores(*judged, **whole),
            "sm": lambda: {"saliency_metric": metrics.saliency_metric(*judged)},
            "equal": lambda: self._at_area(areas, "own", *judged, **whole),
            "half": lambda: self._at_area(0.5, "half", *judged, **whole),
            "curves": lambda: self._curves(batch.first, *judged, **whole),
            "infidelity": lambda: {"infidelity": metrics.infidelity(*robust)},
            "sensitivity": lambda: {"max_sensitivity": metrics.max_sensitivity(*robust)},
            "maps": lambda: of_maps(maps),
        }
        arrays = {
            "correct": batch.correct.float(),
            "degenerate": (~maps.isfinite()).flatten(1).any(1).float(),
            "area": metrics.mask_area(maps),
        }
        for name in self.measures:
            arrays |= measured[name]()
        return arrays

    def _at_area(
        self, area: float | Tensor | None, name: str, *judged: Any, **whole: Any
    ) -> Arrays:
        judge, inputs, maps, target = judged
        if area is None:
            return {}
        given: tuple[Any, ...] = (judge, inputs, metrics.most_salient(maps, area), target)
        return {
            f"masked_in_{name}": metrics.masked_in_accuracy(*given, **whole),
            f"masked_out_{name}": metrics.masked_out_accuracy(*given, **whole),
        }

    def _curves(self, first: int, *judged: Any, **whole: Any) -> Arrays:
        if self.curve_images is not None and first >= self.curve_images:
            return {}
        height, width = judged[1].shape[2:]
        whole["step_px"] = max(height * width // self.curve_steps, 1)
        complete, sound = metrics.completeness_and_soundness(*judged, **whole)
        return {
            "insertion": metrics.insertion(*judged, **whole | {"infill": Blur(sigma_px=5.0)}),
            "deletion": metrics.deletion(*judged, **whole),
            "completeness": complete,
            "soundness": sound,
        }


def of_maps(maps: Tensor) -> Arrays:
    return {
        "binarized_area": metrics.binarized_area(maps),
        "entropy": metrics.mask_entropy(maps),
        "total_variation": metrics.mask_total_variation(maps),
        "sparseness": metrics.mask_sparseness(maps),
    }


def by_boxes(maps: Tensor, boxes: Sequence[Tensor] | None, correct: Tensor) -> Arrays:
    boxed = torch.tensor([len(found) > 0 for found in boxes or ()])
    if boxes is None or not boxed.any():
        return {}
    some, known = maps[boxed], [found for found in boxes if len(found)]
    ious = exact_ious(masks_to_boxes(some), known)
    error = (ious <= 0.5).float()
    largest, any_part = best_ious(some, known).unbind(1)
    arrays = {
        "error": error,
        "box_iou": ious,
        "om": torch.maximum(error, (~correct[boxed.to(correct.device)]).to(error)),
        "f1": metrics.f1(some, known),
        "f1_mean": metrics.f1_mean(some, known),
        "pointing": metrics.pointing_game(some, known),
        "energy": metrics.energy_pointing(some, known),
        "found": largest >= 0.5,
        "found_v2": at_levels(any_part),
        "pixels": pixel_histograms(some, known, step=_PIXEL_STEP),
    }
    return {name: _spread_out(values.to(maps.device), boxed) for name, values in arrays.items()}


def by_pixels(maps: Tensor, pixels: Pixels | None) -> Arrays:
    if pixels is None or not pixels.object.any():
        return {}
    there = pixels.object.flatten(1).any(1)
    ignore = pixels.ignore[there][:, None]
    # An ignored pixel with the smallest value is neither found nor missed.
    some, known = maps[there].where(~ignore, 0), pixels.object[there][:, None]
    arrays = {
        "mask_iou": metrics.mask_iou(some, known),
        "mask_ious": mask_iou_by_threshold(some, known),
        "mask_pointing": metrics.pointing_game(some, known),
        "mask_energy": metrics.energy_pointing(some, known),
        "mask_pixels": pixel_histograms(some, known, step=_PIXEL_STEP, ignore=ignore),
    }
    return {name: _spread_out(values, there) for name, values in arrays.items()}


def _spread_out(values: Tensor, rows: Tensor) -> Tensor:
    """Put values ``(n, ...)`` into the rows chosen by booleans ``(B,)``, NaN into the others."""
    found = values.new_full((len(rows), *values.shape[1:]), float("nan"), dtype=torch.float32)
    found[rows] = values.float()
    return found


# ---- The columns, and the array of each.


class Measure(NamedTuple):
    column: Column
    array: str  # its name in `Scores`
    statistic: Statistic = mean  # of the rows after the choice of thresholds
    tuned: bool = False  # choose thresholds on one part of the images, report on the other
    turned: bool = False  # use one minus the rows, as for an error

    def rows(self, arrays: Sequence[Array], parts: Array) -> tuple[Array, list[float]]:
        """Return the rows, each part from its own array, and the chosen thresholds."""
        read = [
            at_best_threshold(array, parts, [part]) if self.tuned else (array, [])
            for part, array in enumerate(arrays)
        ]
        rows = np.stack([rows for rows, _ in read])[parts, np.arange(len(parts))].astype(float)
        return (1 - rows if self.turned else rows), read[0][1] + read[1][1]


def _plain(
    group: str,
    key: str,
    title: str,
    better: bool | None,
    array: str = "",
    *,
    printed: tuple[float, int] = (1.0, 3),
    headline: bool = False,
    **how: Any,
) -> Measure:
    column = Column(key, title, group, better, *printed, _LEGENDS[key], headline)
    return Measure(column, array or key, **how)


def _percent(group: str, key: str, title: str, *given: Any, **how: Any) -> Measure:
    return _plain(group, key, f"{title}, %", *given, printed=(100.0, 1), **how)


_LEGENDS = {
    "error_at_mean": "Localization error: the map is cut at its mean; the box around its largest "
    "part has an IoU above 0.5 with no true box.",
    "error_at_best": "The same, with the map cut at each method's best share of its maximum, "
    "chosen on one half of the images and reported on the other (1 - MaxBoxAcc).",
    "max_box_acc_v2": "Share of objects that the box of any part of the map finds; mean over IoUs "
    "of 0.3, 0.5 and 0.7, each at the best cut, chosen as above.",
    "box_iou": "IoU of the map's box, cut at its mean, with the best true box.",
    "om": "As LE; a misclassified image counts as an error.",
    "f1": "F1 of the map's weight and its best box.",
    "f1_mean": "The same, mean over the image's boxes.",
    "pxap_boxes": "Average precision of pixels, pooled over images, with boxes as objects.",
    "pointing": "The map's maximum lies in a box.",
    "energy": "Share of the map's weight inside boxes.",
    "mask_iou_at_best": "IoU with the pixel mask at each method's best threshold, chosen on one "
    "half of the images and reported on the other.",
    "mask_iou": "The same, each map cut at its mean.",
    "pxap_masks": "Average precision of pixels, pooled over images, without border pixels.",
    "mask_pointing": "The map's maximum lies on the object.",
    "mask_energy": "Share of the map's weight on the object.",
    "saliency_metric": "Saliency Metric: log area of the box around the map, cut at its mean, "
    "minus log confidence on that crop.",
    "masked_in_accuracy": "Accuracy on masked-in images; a larger area makes it easier.",
    "masked_out_accuracy": "Accuracy on masked-out images.",
    "masked_in_own": "Accuracy when only the most salient pixels are shown; every method shows as "
    "many pixels per image as the mask of the reference row.",
    "masked_out_own": "Accuracy when these pixels are removed.",
    "masked_in_half": "The class is still seen when only the most salient half of the pixels is "
    "shown.",
    "masked_out_half": "Accuracy when this half is removed.",
    "masked_out_entropy": "Entropy of the prediction on masked-out images, in nats.",
    "average_drop": "Share of its confidence that the classifier loses when only the evidence is "
    "shown.",
    "average_gain": "Share of the confidence that was missing and is won by showing only the "
    "evidence.",
    "average_increase": "Share of images whose confidence is higher masked in than clean.",
    "insertion": "Area under the curve of confidence as pixels are added to a blurred image, most "
    "salient first.",
    "deletion": "Area under the curve of confidence as pixels are removed, most salient first.",
    "completeness": "How much confidence the pixels give the class when added to an empty image.",
    "soundness": "How little confidence they give any other class.",
    "infidelity": "Error of the map's prediction of how removing squares changes the logit.",
    "max_sensitivity": "Largest change of the map under small changes of the image.",
    "area": "Mean of the map.",
    "area_spread": "Standard deviation of the area over images.",
    "binarized_area": "Share of pixels above the map's mean.",
    "entropy": "Mean binary entropy of the pixels, in bits.",
    "total_variation": "Mean squared difference of neighboring pixels.",
    "sparseness": "Gini index.",
}

_BOXES, _PIXELS = "Where it is, by boxes", "Where it is, by pixel masks"
_MASKED, _CURVES, _SHAPE = "What the classifier says", "In the order of the map", "The maps"
_boxes, _pixels = partial(_percent, _BOXES), partial(_percent, _PIXELS)
_masked, _shape = partial(_percent, _MASKED), partial(_percent, _SHAPE)

#: All columns, in the order of the tables.
MEASURES: tuple[Measure, ...] = (
    _boxes("error_at_mean", "LE", False, "error", headline=True),
    _boxes("error_at_best", "LE, best cut", False, "found", headline=True, tuned=True, turned=True),
    _boxes("max_box_acc_v2", "MaxBoxAccV2", True, "found_v2", tuned=True),
    _boxes("box_iou", "box IoU", True),
    _boxes("om", "OM", False),
    _boxes("f1", "F1", True),
    _boxes("f1_mean", "F1a", True),
    _boxes("pxap_boxes", "PxAP", True, "pixels", headline=True, statistic=pooled_precision),
    _boxes("pointing", "pointing", True),
    _boxes("energy", "energy", True),
    _pixels("mask_iou_at_best", "IoU, best cut", True, "mask_ious", headline=True, tuned=True),
    _pixels("mask_iou", "IoU at mean", True),
    _pixels("pxap_masks", "PxAP", True, "mask_pixels", headline=True, statistic=pooled_precision),
    _pixels("mask_pointing", "pointing", True),
    _pixels("mask_energy", "energy", True),
    _plain(_MASKED, "saliency_metric", "SM", False, headline=True),
    _masked("masked_in_accuracy", "masked-in", True, headline=True),
    _masked("masked_out_accuracy", "masked-out", False),
    _masked("masked_in_own", "in, equal area", True),
    _masked("masked_out_own", "out, equal area", False),
    _masked("masked_in_half", "in, half", True),
    _masked("masked_out_half", "out, half", False),
    _plain(_MASKED, "masked_out_entropy", "entropy out", True),
    _masked("average_drop", "avg drop", False, headline=True),
    _masked("average_gain", "avg gain", True),
    _masked("average_increase", "increase", True),
    _plain(_CURVES, "insertion", "insertion", True, headline=True),
    _plain(_CURVES, "deletion", "deletion", False, headline=True),
    _plain(_CURVES, "completeness", "completeness", True),
    _plain(_CURVES, "soundness", "soundness", True),
    _plain(_CURVES, "infidelity", "infidelity", False),
    _plain(_CURVES, "max_sensitivity", "max-sensitivity", False),
    _shape("area", "area", None, headline=True),
    _shape("area_spread", "spread of area", None, "area", statistic=spread),
    _shape("binarized_area", "area above mean", None),
    _plain(_SHAPE, "entropy", "entropy", None),
    _plain(_SHAPE, "total_variation", "TV", None),
    _plain(_SHAPE, "sparseness", "sparseness", None),
)


# ---- From stored scores to a table with intervals.

_RESAMPLES = 2000


class _Drawn(NamedTuple):
    """A column of a row: its number on all images, then in every resample."""

    numbers: Array
    chosen: list[float]


#: By row, the variant (or the row itself) that stands for each half of the images.
Chosen = dict[str, list[tuple[str, dict[str, Array]]]]


def choose(
    store: Store, names: Mapping[str, list[str]], firsts: Sequence[int], seed: int
) -> Chosen:
    chosen = {}
    for row, tried in names.items():
        arrays = {name: store.read(name, firsts) for name in tried}
        best = best_variants(arrays, halves(len(arrays[tried[0]]["area"]), seed))
        chosen[row] = [(name, arrays[name]) for name in best]
    return chosen


def summarize(
    store: Store,
    methods: Mapping[str, Method],
    chosen: Chosen,
    *,
    failures: Mapping[str, str],
    reference: str,
    seed: int,
    setting: dict[str, Any],
    notes: Sequence[str],
) -> Result:
    """Make the table; all rows use the same resamples, so differences are paired."""
    arrays = {name: [found for _, found in best] for name, best in chosen.items()}
    correct = next((found["correct"] for found, _ in arrays.values()), np.zeros(0))
    count = len(correct)
    parts, draws = halves(count, seed), draw(max(count, 1), resamples=_RESAMPLES, seed=seed)
    drawn = {name: _drawn(found, parts, draws) for name, found in arrays.items()}
    rows = [
        Row(
            name,
            method.family,
            _settings(method.runs(name), [run for run, _ in chosen.get(name, ())], failures),
            {key: interval(found.numbers) for key, found in drawn.get(name, {}).items()},
            store.cost(chosen[name][0][0] if name in chosen else name),
            sum(int(a["degenerate"][parts == i].sum()) for i, a in enumerate(arrays.get(name, ()))),
            "" if name in chosen else failures[name],
        )
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
        thresholds={
            name: {key: one.chosen for key, one in found.items() if one.chosen}
            for name, found in drawn.items()
        },
    )


def _settings(runs: Mapping[str, Method], best: Sequence[str], failures: Mapping[str, str]) -> str:
    words = ("not chosen", "chosen for one half of the images", "chosen")
    said = {name: failures.get(name, words[best.count(name)]) for name in runs if len(runs) > 1}
    return " or ".join(r.settings + (f" ({said[n]})" if said else "") for n, r in runs.items())


def _drawn(arrays: Sequence[dict[str, Array]], parts: Array, draws: Array) -> dict[str, _Drawn]:
    found = {}
    for measure in MEASURES:
        if all(measure.array in half for half in arrays):
            rows, chosen = measure.rows([half[measure.array] for half in arrays], parts)
            found[measure.column.key] = _Drawn(measure.statistic(rows, draws), chosen)
    return {key: one for key, one in found.items() if np.isfinite(one.numbers[0])}


def _differences(
    drawn: dict[str, dict[str, _Drawn]], reference: str
) -> dict[str, dict[str, Interval]]:
    base = drawn.get(reference, {})
    differences: dict[str, dict[str, Interval]] = {}
    for name, found in drawn.items():
        for key, one in found.items():
            if name != reference and key in base:
                gap = interval(one.numbers - base[key].numbers)
                differences.setdefault(key, {})[name] = gap
    return differences
