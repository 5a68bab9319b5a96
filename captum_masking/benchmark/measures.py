"""Every column of the benchmark: which array it is made of, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from captum_masking.benchmark.result import Column
from captum_masking.benchmark.statistic import (
    Array,
    Statistic,
    at_best_threshold,
    mean,
    pooled_precision,
    spread,
)


class Measure(NamedTuple):
    """A column and how it is made.

    Attributes:
        column: What stands above it.
        array: The name in :class:`~captum_masking.benchmark.scores.Scores`.
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
