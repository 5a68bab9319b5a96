"""Does the mask find the object? Masks against true boxes and pixel masks.

Boxes are ``(x0, y0, x1, y1)`` in pixels of the mask's grid, half-open: the one around pixel
(row 2, column 5) alone is ``(5, 2, 6, 3)``. Data sets give fractions; see `boxes_to_pixels`.

Where the code behind a publication does something else than its definition, ``published=True``
follows the code; each docstring names the difference.
"""

from captum_masking.metrics.localization.best_threshold import MaxBoxAcc, MaxBoxAccV2
from captum_masking.metrics.localization.box_accuracy import (
    max_box_acc,
    max_box_acc_v2,
    thresholds,
)
from captum_masking.metrics.localization.boxes import (
    box_iou,
    boxes_to_pixels,
    centered_square,
    clip_boxes,
    masks_to_boxes,
    whole_frame,
)
from captum_masking.metrics.localization.error import (
    OM,
    LocalizationError,
    localization_error,
    localization_error_of_boxes,
    om,
)
from captum_masking.metrics.localization.f_score import F1, F1Mean, f1, f1_mean
from captum_masking.metrics.localization.grid import GridPointing, grid_pointing, mosaics
from captum_masking.metrics.localization.overlap import (
    BoxIoU,
    best_box_iou,
    best_box_iou_of_boxes,
)
from captum_masking.metrics.localization.pixel_iou import (
    MaskIoU,
    MaxMaskIoU,
    mask_iou,
    mask_iou_by_threshold,
)
from captum_masking.metrics.localization.pixel_precision import (
    PxAP,
    average_precision,
    pixel_histograms,
    pxap,
)
from captum_masking.metrics.localization.planes import min_max
from captum_masking.metrics.localization.pointing import (
    EnergyPointing,
    PointingGame,
    energy_pointing,
    pointing_game,
)
from captum_masking.metrics.localization.regions import boxes_to_masks

__all__ = [
    "F1",
    "OM",
    "BoxIoU",
    "EnergyPointing",
    "F1Mean",
    "GridPointing",
    "LocalizationError",
    "MaskIoU",
    "MaxBoxAcc",
    "MaxBoxAccV2",
    "MaxMaskIoU",
    "PointingGame",
    "PxAP",
    "average_precision",
    "best_box_iou",
    "best_box_iou_of_boxes",
    "box_iou",
    "boxes_to_masks",
    "boxes_to_pixels",
    "centered_square",
    "clip_boxes",
    "energy_pointing",
    "f1",
    "f1_mean",
    "grid_pointing",
    "localization_error",
    "localization_error_of_boxes",
    "mask_iou",
    "mask_iou_by_threshold",
    "masks_to_boxes",
    "max_box_acc",
    "max_box_acc_v2",
    "min_max",
    "mosaics",
    "om",
    "pixel_histograms",
    "pointing_game",
    "pxap",
    "thresholds",
    "whole_frame",
]
