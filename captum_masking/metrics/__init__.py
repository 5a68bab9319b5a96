"""Metrics of masks: functions with one value per image, and `MeanOf` for their mean.

Every function returns float32 ``(B,)`` on the device of its masks or inputs, unless it says
otherwise. Arguments that many of them share:

- ``masks``: ``(B, 1, H, W)`` or ``(B, H, W)``, larger means more evidence, any dtype and device.
  Where a function needs [0, 1], `min_max` scales attributions. A mask with NaN or infinity counts
  as no evidence.
- ``boxes``: a list with one tensor ``(n, 4)`` per image, n >= 1: x0, y0, x1, y1 in pixels of the
  mask's grid, half-open. `boxes_to_pixels` converts fractions. A box that reaches beyond the frame
  counts with its whole area.
- ``predicted``: boxes in place of masks, ``(B, 4)``, or ``(4,)`` for all images.
- ``truth``: boxes, or pixel masks of 0 and 1 shaped as ``masks``.
- ``threshold``: masks are cut strictly above it; None is each mask's own mean.
- ``published``: follow the published code where it differs from the definition.
- ``classifier``: called as ``classifier(inputs)``; returns logits ``(B, classes)``. A module runs
  in eval mode and gets its modes back; a module inside a lambda must be in eval mode already.
- ``inputs``: images ``(B, C, H, W)``, floating point, normalized so that zero is the mean color.
- ``target``: any form Captum takes; None is the class predicted for the whole image.
- ``infill``: what fills the holes, see :mod:`captum_masking.parts.infill`.
- ``batch_size``: images per call of the classifier.
- ``seed``: seed of random numbers; torch's random state does not change.

Wrong shapes, values out of range and inputs that are not finite raise a ``ValueError``, arguments
of the wrong type a ``TypeError``, and a target that is not one class per image a ``TargetError``.

Source:
    Phang et al. 2020: LE and box IoU, OM, F1 and F1a, the accuracies and the entropy of masked
    images, mask statistics. Choe et al. 2020: `MaxBoxAcc`, `MaxBoxAccV2`, `PxAP`, of maps scaled
    by `min_max`. Dabkowski & Gal 2017: `saliency_metric`, `centered_square`. Zhang et al. 2018
    (excitation backprop): the pointing game. Wang et al. 2020 (Score-CAM): energy pointing. Boehle
    et al. 2021 (CoDA-Nets): grid pointing. Zhang et al. 2024 (Opti-CAM): AD, AG and AI, there in
    percent. Paissan et al. 2024 (L-MAC): FF and Fid-In. Petsiuk et al. 2018 (RISE): deletion and
    insertion. Gupta et al. 2022: completeness and soundness. Yeh et al. 2019: infidelity and
    max-sensitivity. Adebayo et al. 2018: randomized weights and labels, and similarities of maps.
    Hurley & Rickard 2009: the Gini index, of attributions Chalasani et al. 2020.
    Juneja et al. 2023: linear connectivity.
"""

from typing import TYPE_CHECKING

from captum_masking._base import lazily
from captum_masking.metrics.boxes import (
    best_box_iou,
    boxes_to_masks,
    boxes_to_pixels,
    centered_square,
    masks_to_boxes,
    whole_frame,
)
from captum_masking.metrics.classifier import calibration_error, occluded_accuracy
from captum_masking.metrics.connectivity import Connectivity, barrier, connectivity, convexity_gap
from captum_masking.metrics.curves import (
    RISE_DELETION,
    RISE_INSERTION,
    Curve,
    RiseBlur,
    deletion,
    deletion_curve,
    insertion,
    insertion_curve,
)
from captum_masking.metrics.faithfulness import (
    average_drop,
    average_gain,
    average_increase,
    completeness,
    completeness_and_soundness,
    faithfulness_drop,
    fid_in,
    masked_in_accuracy,
    masked_out_accuracy,
    masked_out_entropy,
    masked_scores,
    soundness,
)
from captum_masking.metrics.leakage import Leakage, leakage
from captum_masking.metrics.localization import (
    energy_pointing,
    f1,
    f1_mean,
    grid_pointing,
    localization_error,
    localization_error_of_boxes,
    mask_iou,
    om,
    pointing_game,
)
from captum_masking.metrics.maps import min_max, most_salient
from captum_masking.metrics.robustness import (
    NormalNoise,
    SquareRemoval,
    UniformNoise,
    infidelity,
    max_sensitivity,
)
from captum_masking.metrics.saliency_metric import saliency_metric
from captum_masking.metrics.sanity import (
    SIMILARITIES,
    absolute_spearman,
    cascading,
    compare_maps,
    hog_similarity,
    independent,
    layers_of,
    randomize,
    shuffled_labels,
    spearman,
    ssim,
)
from captum_masking.metrics.statistics import (
    binarized_area,
    mask_area,
    mask_entropy,
    mask_sparseness,
    mask_total_variation,
)
from captum_masking.metrics.thresholds import max_box_acc, max_box_acc_v2, pxap

if TYPE_CHECKING:
    from captum_masking.metrics.datasets import (
        MapSimilarity,
        MaskedScores,
        MaskStatistics,
        MaxBoxAcc,
        MaxBoxAccV2,
        MaxMaskIoU,
        MeanOf,
        PxAP,
    )

__all__ = [
    "Connectivity",
    "Curve",
    "Leakage",
    "MapSimilarity",
    "MaskStatistics",
    "MaskedScores",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "MaxMaskIoU",
    "MeanOf",
    "NormalNoise",
    "PxAP",
    "RISE_DELETION",
    "RISE_INSERTION",
    "RiseBlur",
    "SIMILARITIES",
    "SquareRemoval",
    "UniformNoise",
    "absolute_spearman",
    "average_drop",
    "average_gain",
    "average_increase",
    "barrier",
    "best_box_iou",
    "binarized_area",
    "boxes_to_masks",
    "boxes_to_pixels",
    "calibration_error",
    "cascading",
    "centered_square",
    "compare_maps",
    "completeness",
    "completeness_and_soundness",
    "connectivity",
    "convexity_gap",
    "deletion",
    "deletion_curve",
    "energy_pointing",
    "f1",
    "f1_mean",
    "faithfulness_drop",
    "fid_in",
    "grid_pointing",
    "hog_similarity",
    "independent",
    "infidelity",
    "insertion",
    "insertion_curve",
    "layers_of",
    "leakage",
    "localization_error",
    "localization_error_of_boxes",
    "mask_area",
    "mask_entropy",
    "mask_iou",
    "mask_sparseness",
    "mask_total_variation",
    "masked_in_accuracy",
    "masked_out_accuracy",
    "masked_out_entropy",
    "masked_scores",
    "masks_to_boxes",
    "max_box_acc",
    "max_box_acc_v2",
    "max_sensitivity",
    "min_max",
    "most_salient",
    "occluded_accuracy",
    "om",
    "pointing_game",
    "pxap",
    "randomize",
    "saliency_metric",
    "shuffled_labels",
    "soundness",
    "spearman",
    "ssim",
    "whole_frame",
]

# Those of `datasets` subclass ``torchmetrics.Metric``, whose import takes seconds.
_SUMS = ("MapSimilarity", "MaskStatistics", "MaskedScores", "MaxBoxAcc", "MaxBoxAccV2")
_HOMES = dict.fromkeys((*_SUMS, "MaxMaskIoU", "MeanOf", "PxAP"), "datasets")

__getattr__, __dir__ = lazily(__name__, _HOMES)
