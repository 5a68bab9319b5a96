"""What a mask is worth: pure functions with one value per image, and accumulators around them."""

from captum_masking.metrics.localization import (
    LocalizationError,
    box_iou,
    boxes_to_pixels,
    centered_square,
    localization_error,
    localization_error_of_boxes,
    masks_to_boxes,
    whole_frame,
)

__all__ = [
    "LocalizationError",
    "box_iou",
    "boxes_to_pixels",
    "centered_square",
    "localization_error",
    "localization_error_of_boxes",
    "masks_to_boxes",
    "whole_frame",
]
